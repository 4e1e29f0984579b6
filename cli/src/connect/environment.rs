//! Warnings about environment variables that are probably misspelt.

use std::{
    env,
    io::{self, Write as _},
};

use chassis::settings::is_set_by_others;

use super::settings::VARIABLES;

/// Prints a warning for every variable that begins with `AEROSTACK_` and that no program of the product reads.
pub fn warn_of_unknown_variables() {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| is_unknown(name)) {
        let warning = format!("warning: {name} is ignored: `aerostack` reads no such environment variable");
        // A closed standard error is ignored.
        drop(writeln!(io::stderr(), "{warning}"));
    }
}

/// Settings of the services are not unknown, because the services may run in the same environment.
fn is_unknown(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("AEROSTACK_") else {
        return false;
    };
    let is_of_service = rest.starts_with("VAULT_") || rest.starts_with("INJECTOR_");
    !(VARIABLES.contains(&name) || is_of_service || is_set_by_others(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_told_from_settings_and_from_those_of_others() {
        for (name, unknown) in [
            ("AEROSTACK_VALUT", true),
            ("AEROSTACK_CERTIFICATE", true),
            ("AEROSTACK_VAULT", false),
            ("AEROSTACK_VAULT_ID", false),
            ("AEROSTACK_DIR", false),
            ("AEROSTACK_VAULT_LISTEN", false),
            ("AEROSTACK_INJECTOR_LISTEN", false),
            ("AEROSTACK_CONSOLE_SERVICE_HOST", false),
            ("AEROSTACK_CONSOLE_PORT_7180_TCP", false),
            ("PATH", false),
        ] {
            assert_eq!(is_unknown(name), unknown, "{name}");
        }
    }
}
