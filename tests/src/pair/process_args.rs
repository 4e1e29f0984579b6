use chassis::{args::ProcessArgs, telemetry::LogFormat};

pub(super) fn process_args() -> ProcessArgs {
    ProcessArgs {
        allow_debugging: false,
        shutdown_grace: "2s".to_owned(),
        log: "info".to_owned(),
        log_filter_file: None,
        log_format: LogFormat::Text,
    }
}
