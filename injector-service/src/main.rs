//! The injector's binary.

use std::{error::Error, io::Write as _, process::ExitCode};

use clap::Parser as _;
use injector_service::{Listeners, config::Settings, run};
use proto::serve::{
    settings::EXIT_USAGE,
    signal,
    telemetry::{self, chain},
};

fn main() -> ExitCode {
    match Settings::try_parse() {
        Ok(settings) => serve(settings),
        Err(asked) => {
            let wrong = asked.use_stderr();
            // Printing help fails only when nobody reads it.
            drop(asked.print());
            if wrong {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            }
        }
    }
}

fn serve(settings: Settings) -> ExitCode {
    let filter = match telemetry::parse_filter(&settings.log) {
        Ok(filter) => filter,
        Err(error) => return say(ExitCode::from(EXIT_USAGE), format!("--log: {error}\n")),
    };
    telemetry::init(settings.log_format, filter);
    let config = match settings.check() {
        Ok(config) => config,
        Err(problems) => return say(ExitCode::from(EXIT_USAGE), problems.to_string()),
    };
    let served = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Box::<dyn Error>::from)
        .and_then(|runtime| {
            runtime.block_on(async {
                let shutdown = signal::shutdown_on_signals()?;
                let listeners = Listeners::bind(&config).await?;
                Ok(run(config, listeners, shutdown).await?)
            })
        });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => say(ExitCode::FAILURE, format!("{}\n", chain(&*error))),
    }
}

fn say(code: ExitCode, text: String) -> ExitCode {
    drop(std::io::stderr().write_all(text.as_bytes()));
    code
}
