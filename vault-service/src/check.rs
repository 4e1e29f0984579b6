//! What is done with a store that no vault has open: `verify` and `repair`.

use std::{
    env, fmt, fs,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use proto::serve::{
    process::{Memory, fail},
    telemetry::chain,
};
use tokio::runtime::Runtime;
use vault_service::{
    config::Source,
    store::Store,
    vault::{Audit, Damage, Report},
};

/// What the store may cache meanwhile.
const CACHE: u64 = 64 * 1024 * 1024;

type Failed = Box<dyn std::error::Error>;

pub(crate) fn verify(source: Source) -> ExitCode {
    ended(runtime().and_then(|runtime| open(source, &runtime)).map(|audit| {
        let report = audit.verify(|damage| say(format_args!("damaged: {damage}")));
        (report, "sound")
    }))
}

pub(crate) fn repair(source: Source, to: &Path) -> ExitCode {
    ended(salvage(source, to).map(|report| (report, "salvaged")))
}

fn salvage(source: Source, to: &Path) -> Result<Report, Failed> {
    if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!(
            "{} is not empty: a store is salvaged into a new directory",
            to.display()
        )
        .into());
    }
    let runtime = runtime()?;
    let audit = open(source, &runtime)?;
    let store = Store::open(to, CACHE)?;
    let lost = |damage: &Damage| say(format_args!("lost: {damage}"));
    Ok(audit.repair(store, &runtime, lost)?)
}

fn open(source: Source, runtime: &Runtime) -> Result<Audit, Failed> {
    let Source {
        store,
        scratch,
        audit: _,
    } = source;
    Memory::Private.protect()?;
    let root = store.providers().map_err(|problems| problems.to_string())?;
    let scratch = scratch.unwrap_or_else(env::temp_dir);
    Ok(Audit::open(&store.data_dir, &scratch, CACHE, &root, runtime)?)
}

/// A KMS is asked through a socket, and given a time.
fn runtime() -> Result<Runtime, Failed> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn ended(done: Result<(Report, &str), Failed>) -> ExitCode {
    let (report, kept) = match done {
        Ok(done) => done,
        Err(error) => return fail(1, chain(&*error)),
    };
    let Report {
        workspaces,
        secrets,
        older,
        damaged,
        gaps,
        refusal,
    } = &report;
    if let Some(refusal) = refusal {
        say(format_args!("the vault would not start: {refusal}"));
    }
    say(format_args!(
        "{workspaces} workspaces, {secrets} secrets and {older} older versions {kept}; {damaged} damaged; {gaps} parts of the \
         store unreadable"
    ));
    if report.is_sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn say(line: impl fmt::Display) {
    // Fails only when nobody reads it.
    drop(writeln!(io::stdout(), "{line}"));
}
