//! The vault's binary.

mod check;

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use mimalloc::MiMalloc;
use proto::serve::{
    healthcheck, process,
    telemetry::{self, LogFormat, chain},
};
use vault_service::{
    Listeners,
    config::{Cli, Command, Settings},
    crypto::root_file,
    offline, run,
};
use zeroizing_alloc::ZeroAlloc;

/// Every buffer is wiped when it is freed, also those of libraries that a value passes through.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    match process::command_line() {
        Ok(Cli {
            command: Some(Command::Keygen { path }),
            ..
        }) => keygen(&path),
        Ok(Cli {
            command: Some(Command::Healthcheck { metrics_listen }),
            ..
        }) => healthcheck::run(&metrics_listen),
        Ok(Cli {
            command: Some(Command::Backup { store, output }),
            ..
        }) => tell(|| offline::back_up(&store, &output)),
        Ok(Cli {
            command: Some(Command::Restore { store, input }),
            ..
        }) => tell(|| offline::restore(&store, &input)),
        Ok(Cli {
            command: Some(Command::Verify { source }),
            ..
        }) => check::verify(source),
        Ok(Cli {
            command: Some(Command::Repair { source, to }),
            ..
        }) => check::repair(source, &to),
        Ok(Cli {
            command: None,
            settings,
        }) => serve(settings),
        Err(code) => code,
    }
}

fn keygen(path: &Path) -> ExitCode {
    match root_file::write_new(path) {
        Ok(key) => {
            drop(writeln!(
                io::stdout(),
                "{}: root key {}",
                path.display(),
                key.id()
            ));
            ExitCode::SUCCESS
        }
        Err(error) => process::fail(1, chain(&error)),
    }
}

/// Has a command do its work. What it did, and warnings, go to standard error: standard output may be a backup.
fn tell(work: impl FnOnce() -> Result<String, offline::Failed>) -> ExitCode {
    if let Ok(filter) = telemetry::parse_filter("warn") {
        telemetry::init(LogFormat::Text, filter);
    }
    let done = work();
    telemetry::flush();
    match done {
        Ok(report) => {
            drop(write!(io::stderr(), "{report}"));
            ExitCode::SUCCESS
        }
        Err(error) => process::fail(1, chain(&error)),
    }
}

fn serve(settings: Settings) -> ExitCode {
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
