//! The environment variables of a service's settings.

use std::env;

use clap::{Command, builder::Resettable};

/// Makes a variable that is empty the same as one that is not set, as it is for most programs: a template that leaves a
/// variable empty means the default.
pub(super) fn without_empty(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let value = arg.get_env().and_then(env::var_os);
            match value.is_some_and(|value| value.is_empty()) {
                true => arg.env(Resettable::Reset),
                false => arg,
            }
        })
        .mut_subcommands(without_empty)
}

/// Warns of every variable that begins with `prefix` and is no setting of `command`: its name is probably misspelt.
pub fn warn_of_unknown(command: &Command, prefix: &str) {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for variable in names.filter(|name| is_unknown(command, prefix, name)) {
        tracing::warn!(
            variable,
            "an environment variable is ignored: it has the prefix of this service's settings, and there is no such setting"
        );
    }
}

fn is_unknown(command: &Command, prefix: &str, variable: &str) -> bool {
    variable
        .strip_prefix(prefix)
        .is_some_and(|rest| !is_known(command, variable) && !is_of_others(rest))
}

fn is_known(command: &Command, variable: &str) -> bool {
    let is_it = |arg: &clap::Arg| arg.get_env().is_some_and(|name| name == variable);
    command.get_arguments().any(is_it) || command.get_subcommands().any(|sub| is_known(sub, variable))
}

/// Returns true for variables that others set: Kubernetes for a Service whose name begins like ours (`…_SERVICE_HOST`,
/// `…_SERVICE_PORT_GRPC`, `…_PORT`, `…_PORT_7150_TCP_ADDR`), and people for the command line (`…_ID`).
fn is_of_others(rest: &str) -> bool {
    let is_port = |(_, number): (&str, &str)| number.starts_with(|first: char| first.is_ascii_digit());
    rest == "ID"
        || rest.ends_with("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || rest.ends_with("PORT")
        || rest.split_once("PORT_").is_some_and(is_port)
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn a_misspelt_variable_is_told_from_settings_and_from_what_others_set() {
        let command = Command::new("x")
            .arg(Arg::new("tls-cert").env("AEROSTACK_X_TLS_CERT"))
            .subcommand(Command::new("sub").arg(Arg::new("dir").env("AEROSTACK_X_DIR")));
        for (variable, unknown) in [
            ("AEROSTACK_X_TLSCERT", true),
            ("AEROSTACK_X_", true),
            ("AEROSTACK_X_TLS_CERT", false),
            ("AEROSTACK_X_DIR", false),
            ("AEROSTACK_Y_TLSCERT", false),
            ("PATH", false),
            ("AEROSTACK_X_ID", false),
            ("AEROSTACK_X_PORT", false),
            ("AEROSTACK_X_SERVICE_HOST", false),
            ("AEROSTACK_X_SERVICE_PORT_GRPC", false),
            ("AEROSTACK_X_PORT_7150_TCP_ADDR", false),
            ("AEROSTACK_X_METRICS_PORT_9051_TCP", false),
        ] {
            assert_eq!(
                is_unknown(&command, "AEROSTACK_X_", variable),
                unknown,
                "{variable}"
            );
        }
    }
}
