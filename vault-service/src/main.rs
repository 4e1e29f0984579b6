//! The binary `vault-service`: serves, or runs one command.

mod check;

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use chassis::{
    healthcheck::{self, Page},
    settings::{self, EXIT_USAGE},
    startup,
    telemetry::{self, LogFormat, chain},
};
use mimalloc::MiMalloc;
use vault_service::{
    Listeners,
    config::{AuditArgs, Cli, Command, ENVIRONMENT, Settings},
    crypto::root_key_file,
    offline, run,
};
use zeroizing_alloc::ZeroAlloc;

/// Allocator that wipes every buffer when it is freed, also the buffers of libraries that a value passes through.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    let Cli { command, settings } = match startup::command_line(ENVIRONMENT) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match command {
        None => serve(settings),
        Some(Command::Keygen { path }) => keygen(&path),
        Some(Command::Healthcheck { metrics_listen, live }) => {
            let page = if live { Page::Liveness } else { Page::Readiness };
            healthcheck::run(&metrics_listen, page)
        }
        Some(Command::Backup { store, output, audit }) => audited(&audit, &store.data_dir, "backup", || {
            run_command(|| offline::back_up(&store, &output))
        }),
        Some(Command::Restore { store, input, audit }) => audited(&audit, &store.data_dir, "restore", || {
            run_command(|| offline::restore(&store, &input))
        }),
        Some(Command::Compact { data_dir, audit }) => audited(&audit, &data_dir, "compact", || {
            run_command(|| offline::compact(&data_dir))
        }),
        Some(Command::Verify {
            store,
            scratch,
            audit,
        }) => audited(&audit, &store.data_dir, "verify", || {
            check::verify(&store, scratch)
        }),
        Some(Command::Repair {
            store,
            to,
            include_deleted,
            audit,
        }) => audited(&audit, &store.data_dir, "repair", || {
            check::repair(&store, &to, include_deleted)
        }),
    }
}

fn keygen(path: &Path) -> ExitCode {
    match root_key_file::write_new(path) {
        Ok(key) => {
            drop(writeln!(
                io::stdout(),
                "wrote a new root key to {}; its id, which is no secret, is {}\n\
                 keep a copy of the file apart from the backups: without it nobody can read what the vault stores",
                path.display(),
                key.id()
            ));
            ExitCode::SUCCESS
        }
        Err(error) => startup::fail(1, chain(&error)),
    }
}

/// Runs `work`, and writes the command's line to the audit log. Refuses to run when a configured log cannot be opened.
fn audited(audit: &AuditArgs, data_dir: &Path, command: &str, work: impl FnOnce() -> ExitCode) -> ExitCode {
    let log = match audit.open_for_command(data_dir) {
        Ok(log) => log,
        Err(problems) => return startup::fail(EXIT_USAGE, problems),
    };
    let code = work();
    match log.map(|log| log.write_command(command, code == ExitCode::SUCCESS)) {
        Some(Err(error)) => startup::fail(
            1,
            format_args!("{command} ended, but its line could not be written to the audit log: {error}"),
        ),
        Some(Ok(())) | None => code,
    }
}

/// Runs a command. Its report and warnings go to standard error, because standard output may be a backup.
fn run_command(command: impl FnOnce() -> Result<String, offline::CommandError>) -> ExitCode {
    if let Ok(filter) = telemetry::parse_filter("warn") {
        telemetry::init(LogFormat::Text, filter);
    }
    let result = command();
    telemetry::flush();
    match result {
        Ok(report) => {
            drop(write!(io::stderr(), "{report}"));
            ExitCode::SUCCESS
        }
        Err(error) => startup::fail(1, chain(&error)),
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
            if config.audit_log.is_none() {
                tracing::warn!("there is no audit log; --audit-log FILE makes one");
            }
            let listeners = Listeners::bind(&config).await?;
            Ok(run(config, listeners, asked).await?)
        },
    )
}
