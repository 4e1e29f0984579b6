//! The injector's binary.

use std::{alloc::System, process::ExitCode};

use injector_service::{Listeners, config::Settings, run};
use proto::serve::process;
use zeroizing_alloc::ZeroAlloc;

/// Every buffer is wiped when it is freed, also those of libraries that a value passes through.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let settings: Settings = match process::command_line() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let (log, format, memory) = (settings.log.clone(), settings.log_format, settings.memory());
    process::serve(
        &log,
        format,
        memory,
        || settings.check(),
        async |config, shutdown| {
            let listeners = Listeners::bind(&config).await?;
            Ok(run(config, listeners, shutdown).await?)
        },
    )
}
