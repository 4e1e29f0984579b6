//! The injector's binary.

use std::process::ExitCode;

use injector_service::{Listeners, config::Settings, run};
use proto::serve::process;

fn main() -> ExitCode {
    let settings: Settings = match process::command_line() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let (log, format) = (settings.log.clone(), settings.log_format);
    process::serve(
        &log,
        format,
        || settings.check(),
        async |config, shutdown| {
            let listeners = Listeners::bind(&config).await?;
            Ok(run(config, listeners, shutdown).await?)
        },
    )
}
