//! The commands `verify` and `repair`, on a store that no vault serves.

use std::{
    env, fmt,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use chassis::{
    startup::{MemoryAccess, fail},
    telemetry::chain,
};
use tokio::runtime::Runtime;
use vault_service::{
    config::StoreArgs,
    store::LogDamage,
    vault::{Damage, DoubtfulSecrets, IntegrityCheck, IntegrityReport},
};

/// Cache size of a store during a check or a repair, in bytes.
const CACHE: u64 = 64 * 1024 * 1024;
/// Exit code of a command that completed and found damage or loss.
const DAMAGED: u8 = 2;

type BoxError = Box<dyn std::error::Error>;

pub(crate) fn verify(store: &StoreArgs, scratch: Option<PathBuf>) -> ExitCode {
    let scratch = scratch.unwrap_or_else(env::temp_dir);
    let verified = open(store).and_then(|(mut check, _runtime)| {
        let named = |damage: &Damage| print(format_args!("damaged: {damage}"));
        Ok(check.verify(&store.data_dir, &scratch, CACHE, named)?)
    });
    match verified {
        Ok(report) => print_report(&report, "sound", report.is_sound()),
        Err(error) => fail(1, chain(&*error)),
    }
}

pub(crate) fn repair(store: &StoreArgs, to: &Path, include_deleted: bool) -> ExitCode {
    let doubtful = match include_deleted {
        true => DoubtfulSecrets::Keep,
        false => DoubtfulSecrets::LeaveOut,
    };
    let repaired = open(store).and_then(|(check, runtime)| {
        let named = |damage: &Damage| print(format_args!("{}: {damage}", damage.kind.outcome()));
        Ok(check.repair(to, CACHE, doubtful, &runtime, named)?)
    });
    match repaired {
        Ok(report) => print_report(&report, "salvaged", report.is_complete()),
        Err(error) => fail(1, chain(&*error)),
    }
}

fn open(store: &StoreArgs) -> Result<(IntegrityCheck, Runtime), BoxError> {
    MemoryAccess::Private.protect()?;
    let root = store.providers().map_err(|problems| problems.to_string())?;
    // A request to a KMS needs the runtime's I/O driver and, for its timeout, the timer.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let check = IntegrityCheck::open(&store.data_dir, &root, &runtime)?;
    Ok((check, runtime))
}

fn print_report(report: &IntegrityReport, kept: &str, is_well: bool) -> ExitCode {
    let IntegrityReport {
        workspaces,
        secrets,
        older,
        damage_by_outcome: [_, behind, lost, doubtful],
        log_damage,
        refusal,
    } = report;
    if let Some(refusal) = refusal {
        print(format_args!("the vault would not start: {refusal}"));
    }
    print_log_damage(log_damage);
    if *doubtful > 0 {
        print("secrets in doubt are left out by `repair`, unless `--include-deleted` is given");
    }
    print(format_args!(
        "{workspaces} workspaces, {secrets} secrets and {older} older versions {kept}; {} damaged: {lost} lost, {behind} \
         older than acknowledged, {doubtful} in doubt; {} parts of the store unreadable",
        report.damaged(),
        log_damage.gaps
    ));
    match is_well {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DAMAGED),
    }
}

fn print_log_damage(log_damage: &LogDamage) {
    let LogDamage {
        gaps,
        gap_bytes,
        unnamed_changes,
        corrected_messages,
        torn_bytes,
        has_unlocated_loss,
        missing_groups,
    } = log_damage;
    if *corrected_messages > 0 {
        print(format_args!(
            "{corrected_messages} records of the log have one flipped bit; their checksums tell which, and they were read without it"
        ));
    }
    if *torn_bytes > 0 {
        print(format_args!(
            "the last write is not whole: {torn_bytes} bytes; unless the disk lost them, it was never acknowledged"
        ));
    }
    if *gaps + *unnamed_changes > 0 {
        print(format_args!(
            "{gap_bytes} bytes of the log in {gaps} parts, and the names in {unnamed_changes} records, cannot be read: names that are \
             only there are not known"
        ));
    }
    if *has_unlocated_loss {
        print(format_args!(
            "changes are missing that the store says it has ({missing_groups} groups at its end): names that are only in them \
             are not known"
        ));
    }
}

fn print(line: impl fmt::Display) {
    // A write fails only when nobody reads the output.
    drop(writeln!(io::stdout(), "{line}"));
}
