//! The injector's binary.

use std::process::ExitCode;

use chassis::{
    healthcheck::{self, Page},
    settings, startup,
};
use injector_service::{
    Listeners,
    config::{Cli, Command, ENVIRONMENT, Settings},
    run,
};
use mimalloc::MiMalloc;
use zeroizing_alloc::ZeroAlloc;

/// Every buffer is wiped when it is freed, also those of libraries that a value passes through.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    match startup::command_line(ENVIRONMENT) {
        Ok(Cli {
            command:
                Some(Command::Healthcheck {
                    metrics_listen,
                    startup,
                }),
            ..
        }) => {
            let page = if startup { Page::Startup } else { Page::Readiness };
            healthcheck::run(&metrics_listen, page)
        }
        Ok(Cli {
            command: None,
            settings,
        }) => serve(settings),
        Err(code) => code,
    }
}

fn serve(settings: Settings) -> ExitCode {
    let checked = settings.clone();
    startup::serve(
        settings.process.logging(),
        settings.process.memory(),
        || {
            settings::warn_of_unknown::<Cli>(ENVIRONMENT);
            checked.check()
        },
        async |config, asked| {
            let listeners = Listeners::bind(&config).await?;
            Ok(run(config, listeners, asked).await?)
        },
    )
}
