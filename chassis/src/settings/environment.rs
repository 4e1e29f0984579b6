//! The environment variables of a service's settings.

use std::env;

use clap::{ArgAction, Command, CommandFactory, builder::BoolishValueParser, builder::Resettable};

/// Gives each setting an environment variable: `prefix` and the flag in upper case, `--data-dir` as
/// `AEROSTACK_VAULT_DATA_DIR`. A flag without a value reads `true`, `yes`, `on`, `1` and their opposites from its
/// variable. A flag of a subcommand has a variable only when the service has a setting of that name. A flag that has a variable
/// already keeps it.
pub fn with_variables(command: Command, prefix: &str) -> Command {
    let settings: Vec<_> = command.get_arguments().map(|arg| arg.get_id().clone()).collect();
    command
        .mut_args(|arg| with_variable(arg, prefix))
        .mut_subcommands(|subcommand| {
            subcommand.mut_args(|arg| match settings.contains(arg.get_id()) {
                true => with_variable(arg, prefix),
                false => arg,
            })
        })
}

/// Gives one setting its environment variable. A subcommand with settings of its own calls this function for each of them.
pub fn with_variable(arg: clap::Arg, prefix: &str) -> clap::Arg {
    let Some(flag) = arg.get_long().filter(|_| arg.get_env().is_none()) else {
        return arg;
    };
    let variable = format!("{prefix}{}", flag.to_uppercase().replace('-', "_"));
    let arg = arg.env(variable);
    match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
        _ => arg,
    }
}

/// Ignores variables that are empty, as most programs do: a template that leaves a variable empty means the default.
pub(crate) fn without_empty(command: Command) -> Command {
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

/// Logs a warning for every variable that begins with `prefix` and belongs to no setting of `C`: the name is probably
/// misspelt.
pub fn warn_of_unknown<C: CommandFactory>(prefix: &str) {
    let command = with_variables(C::command(), prefix);
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for variable in names.filter(|name| is_unknown(&command, prefix, name)) {
        tracing::warn!(
            variable,
            "an environment variable is ignored: it has the prefix of this service's settings, and there is no such setting"
        );
    }
}

/// A variable of the command line that begins like those of the injector.
const INJECTOR_TOKEN_FILE: &str = "AEROSTACK_INJECTOR_TOKEN_FILE";

fn is_unknown(command: &Command, prefix: &str, variable: &str) -> bool {
    let Some(rest) = variable.strip_prefix(prefix) else {
        return false;
    };
    let mut variables = command.get_arguments().filter_map(clap::Arg::get_env);
    variables.all(|known| known != variable) && !is_set_by_others(rest) && variable != INJECTOR_TOKEN_FILE
}

/// Returns true for variables that do not come from the operator of this service: Kubernetes makes them for a Service
/// whose name begins like the prefix (`…_SERVICE_HOST`, `…_SERVICE_PORT_GRPC`, `…_PORT`, `…_PORT_7150_TCP_ADDR`), and
/// the command line has `…_ID` and `…_METRICS`.
pub fn is_set_by_others(rest: &str) -> bool {
    let is_port = |(_, number): (&str, &str)| number.starts_with(|first: char| first.is_ascii_digit());
    matches!(rest, "ID" | "METRICS")
        || rest.ends_with("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || rest.ends_with("PORT")
        || rest.split_once("PORT_").is_some_and(is_port)
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn command() -> Command {
        let dir = || Arg::new("dir").long("dir");
        let command = Command::new("x")
            .arg(Arg::new("tls_cert").long("tls-cert"))
            .arg(dir());
        let subcommand = Command::new("sub")
            .arg(dir())
            .arg(Arg::new("output").long("output"));
        with_variables(command.subcommand(subcommand), "AEROSTACK_X_")
    }

    #[test]
    fn settings_have_variables_and_other_flags_of_subcommands_have_none() {
        let command = command();
        let variable = |command: &Command, id| {
            let mut args = command.get_arguments();
            let arg = args.find(|arg| arg.get_id() == id).unwrap();
            arg.get_env().map(|name| name.to_str().unwrap().to_owned())
        };
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(variable(&command, "tls_cert"), named("AEROSTACK_X_TLS_CERT"));
        let subcommand = command.find_subcommand("sub").unwrap();
        assert_eq!(variable(subcommand, "dir"), named("AEROSTACK_X_DIR"));
        assert_eq!(variable(subcommand, "output"), None);
    }

    #[test]
    fn a_subcommand_with_settings_of_its_own_keeps_their_variables() {
        let own = |arg| with_variable(arg, "AEROSTACK_Y_");
        let serving = Command::new("serving")
            .arg(Arg::new("dir").long("dir"))
            .mut_args(own);
        let command = with_variables(command().subcommand(serving), "AEROSTACK_X_");
        let serving = command.find_subcommand("serving").unwrap();
        let dir = serving.get_arguments().find(|arg| arg.get_id() == "dir");
        assert_eq!(dir.and_then(Arg::get_env).unwrap(), "AEROSTACK_Y_DIR");
    }

    #[test]
    fn a_misspelt_variable_is_told_from_settings_and_from_what_others_set() {
        for (variable, unknown) in [
            ("AEROSTACK_X_TLSCERT", true),
            ("AEROSTACK_X_", true),
            ("AEROSTACK_X_TLS_CERT", false),
            ("AEROSTACK_X_DIR", false),
            ("AEROSTACK_Y_TLSCERT", false),
            ("PATH", false),
            ("AEROSTACK_X_ID", false),
            ("AEROSTACK_X_METRICS", false),
            ("AEROSTACK_X_TOKEN_FILE", true),
            ("AEROSTACK_X_PORT", false),
            ("AEROSTACK_X_SERVICE_HOST", false),
            ("AEROSTACK_X_SERVICE_PORT_GRPC", false),
            ("AEROSTACK_X_PORT_7150_TCP_ADDR", false),
            ("AEROSTACK_X_METRICS_PORT_9051_TCP", false),
        ] {
            assert_eq!(
                is_unknown(&command(), "AEROSTACK_X_", variable),
                unknown,
                "{variable}"
            );
        }
        let of_the_command_line = is_unknown(&command(), "AEROSTACK_INJECTOR_", INJECTOR_TOKEN_FILE);
        assert!(!of_the_command_line);
    }
}
