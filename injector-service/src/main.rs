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
    webhook::{self, WebhookListeners, WebhookSettings},
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
                    live,
                }),
            ..
        }) => {
            let page = match (startup, live) {
                (true, _) => Page::Startup,
                (false, true) => Page::Liveness,
                (false, false) => Page::Readiness,
            };
            healthcheck::run(&metrics_listen, page)
        }
        Ok(Cli {
            command: Some(Command::Webhook(settings)),
            ..
        }) => serve_webhook(*settings),
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

fn serve_webhook(settings: WebhookSettings) -> ExitCode {
    let checked = settings.clone();
    startup::serve(
        settings.process.logging(),
        settings.process.memory(),
        || {
            settings::warn_of_unknown::<webhook::WebhookCli>(webhook::ENVIRONMENT);
            checked.check()
        },
        async |config, signals| {
            let listeners = WebhookListeners::bind(&config).await?;
            webhook::run(config, listeners, signals).await;
            Ok(())
        },
    )
}
