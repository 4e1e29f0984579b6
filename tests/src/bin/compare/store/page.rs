//! Writes the page of the store, `store.md`.

use std::{fmt::Write as _, fs, path::Path};

use super::{
    Footprint, ManyWorkspaces, PAGE, SizeResults, StoreResults,
    background::{BackgroundWork, RATE, Throughput},
    puts::{NAMES, WRITERS},
};
use crate::{
    Failure,
    aims::Aim,
    decrypts::DecryptMode,
    measure::{self, grouped},
    report::{RunConditions, name, page_header, table, title},
    run::{Contest, Participant},
    services::StopMethod,
    vaults::STREAMED,
};

/// The number of secrets that the aims for a large store name.
const LARGE: u32 = 1_000_000;
const OURS: Participant = Participant::Puts { writers: WRITERS };
const OPENBAO: Participant = Participant::OpenBaoPuts { writers: WRITERS };

/// Writes the page to a file. Returns the text of the page.
pub(super) fn write(
    out: &Path,
    conditions: &RunConditions,
    results: &StoreResults,
) -> Result<String, Failure> {
    fs::create_dir_all(out)?;
    let mut page = page_header("The store, measured", conditions);
    let (rounds, seconds) = conditions.rounds_and_seconds;
    writeln!(
        page,
        "
Everything runs on that one machine, on loopback, load generators too. Contenders take turns, {seconds} s each, another
one first in each round; rounds: {rounds}. Numbers are medians of the rounds, in brackets the lowest and the highest;
ratios are taken round by round. CPU is that of the contender's process. The vault is called over mutual TLS and checks
every caller; OpenBao, with raft storage, is called without TLS by h2load. Secrets are of 38 bytes."
    )?;
    write!(
        page,
        "\n## {}\n\n{}",
        title(results.puts.kind),
        table(&results.puts)?
    )?;
    writeln!(
        page,
        "
Every writer has a connection of its own, and puts again as soon as it was answered: a new version of one of {} secrets
in turn. An answer comes after the disk's sync, which answers all that wait for it. × OpenBao: with {WRITERS} writers.",
        grouped(&NAMES.to_string())
    )?;
    for size in &results.sizes {
        let decrypts = &size.decrypts;
        write!(page, "\n## {}\n\n{}", title(decrypts.kind), table(decrypts)?)?;
    }
    let decrypts = &results.many_workspaces.size.decrypts;
    write!(page, "\n## {}\n\n{}", title(decrypts.kind), table(decrypts)?)?;
    page.push_str(&sizes(results)?);
    page.push_str(&backups(results)?);
    page.push_str("\n## Aims\n\n| | aim | measured | |\n|---|---|---|---|\n");
    for aim in aims(results) {
        let met = if aim.met { "met" } else { "missed" };
        writeln!(page, "| {} | {} | {} | {met} |", aim.what, aim.aim, aim.measured)?;
    }
    let path = out.join("store.md");
    fs::write(&path, &page)?;
    Ok(format!("\n{page}\nwritten to {}\n", path.display()))
}

fn sizes(results: &StoreResults) -> Result<String, Failure> {
    let ManyWorkspaces {
        workspaces,
        size,
        listing_seconds,
    } = &results.many_workspaces;
    let mut page = "
## Memory, disk and opening

| secrets | | resident, MiB | disk, MB | bytes a secret | ready after a close, s | after a kill, s | resident then, at most, MiB |
|---|---|---|---|---|---|---|---|
"
    .to_owned();
    let in_many = format!(" in {} workspaces", grouped(&workspaces.to_string()));
    let sizes = results.sizes.iter().map(|size| (size, ""));
    for (size, where_) in sizes.chain([(size, in_many.as_str())]) {
        let secrets = grouped(&size.secrets.to_string()) + where_;
        let opens = [StopMethod::Closed, StopMethod::Killed].map(|stop| spread(size.seconds(stop), 2));
        let peak = spread(size.opens.iter().map(|&(_, _, mib)| mib), 0);
        let [closed, killed] = opens;
        let of = |footprint: &Footprint| footprint.cells(size.secrets);
        writeln!(
            page,
            "| {secrets} | vault | {} | {closed} | {killed} | {peak} |",
            of(&size.vault)
        )?;
        if let Some(openbao) = &size.openbao {
            writeln!(page, "| {secrets} | OpenBao | {} | – | – | – |", of(openbao))?;
        }
    }
    writeln!(
        page,
        "
Resident: after the decrypts above. The vault was killed when it had just been written to; what was written is in the
system's cache, as it is after a process was killed, and not after the machine was. All {} workspaces were listed in
{listing_seconds:.1} s, in pages of {}.",
        grouped(&workspaces.to_string()),
        grouped(&PAGE.to_string())
    )?;
    Ok(page)
}

impl Footprint {
    #[expect(clippy::cast_precision_loss, reason = "bytes on a disk")]
    fn cells(&self, secrets: u32) -> String {
        let bytes = self.disk_bytes as f64;
        format!(
            "{:.0} | {} | {}",
            self.resident_mib,
            grouped(&format!("{:.1}", bytes / 1e6)),
            grouped(&format!("{:.0}", bytes / f64::from(secrets)))
        )
    }
}

impl SizeResults {
    fn seconds(&self, of: StopMethod) -> impl Iterator<Item = f64> {
        let opens = self.opens.iter().filter(move |(stop, ..)| *stop == of);
        opens.map(|&(_, seconds, _)| seconds)
    }
}

fn backups(results: &StoreResults) -> Result<String, Failure> {
    let (secrets, rows) = &results.background;
    let secrets = grouped(&secrets.to_string());
    let mut page = format!(
        "
## Backup, restore and rotation, {secrets} secrets

| | secrets/s | MB/s |
|---|---|---|
"
    );
    let backups = &results.backups;
    for (what, done) in [
        ("backup, with nothing beside", &backups.exports),
        (
            "restore, into an empty vault, until it is durable",
            &backups.restores,
        ),
    ] {
        writeln!(
            page,
            "| {what} | {} | {} |",
            spread(done.iter().map(|done| done.items_per_second()), 0),
            spread(done.iter().map(|done| done.mb_per_second()), 1)
        )?;
    }
    write!(
        page,
        "
What a vault does meanwhile, again and again, and what its callers notice of it:

| calls | meanwhile | calls/s | p50, ms | p99, ms | the work |
|---|---|---|---|---|---|
"
    )?;
    for row in rows {
        let of = |of: fn(&measure::Window) -> f64, digits| spread(row.windows.iter().map(of), digits);
        let done =
            |of: fn(Throughput) -> f64, digits| spread(row.throughputs.iter().copied().map(of), digits);
        let (meanwhile, work) = match row.work {
            BackgroundWork::None => ("nothing", "–".to_owned()),
            BackgroundWork::Puts => ("64 writers put", "–".to_owned()),
            BackgroundWork::Rotation => (
                "the workspace's key rotates",
                format!("{} records/s", done(Throughput::items_per_second, 0)),
            ),
            BackgroundWork::Backup => ("backups", format!("{} MB/s", done(Throughput::mb_per_second, 1))),
        };
        writeln!(
            page,
            "| {} | {meanwhile} | {} | {} | {} | {work} |",
            name(row.calls.participant()),
            of(|window| window.per_second, 0),
            of(|window| window.p50_ms, 2),
            of(|window| window.p99_ms, 2)
        )?;
    }
    writeln!(
        page,
        "
{} decrypts a second are evenly spread, so that what they notice is not a queue of their own.",
        grouped(&RATE.to_string())
    )?;
    Ok(page)
}

fn spread(values: impl IntoIterator<Item = f64>, digits: usize) -> String {
    measure::Spread::of(values).map_or("–".to_owned(), |spread| format!("{spread:.digits$}"))
}

fn aims(results: &StoreResults) -> Vec<Aim> {
    let puts = &results.puts;
    let mut aims = Vec::new();
    let median = |contest: &Contest, participant, of: fn(&measure::Window) -> Option<f64>| {
        Some(contest.row(participant)?.spread(of)?.median)
    };
    // Returns OpenBao's CPU time per call as a multiple of the vault's.
    let ahead = |contest: &Contest, ours, theirs| {
        let ratio = contest.row(theirs)?.cpu_ratio(contest.row(ours)?)?;
        Some(ratio.median)
    };
    let per_second = |participant| median(puts, participant, |window| Some(window.per_second));
    if let (Some(ours), Some(sync)) = (
        per_second(OURS),
        median(puts, Participant::Disk, |window| Some(window.p50_ms)),
    ) {
        let what = format!("puts/s, {WRITERS} writers, where one sync takes {sync:.2} ms");
        aims.push(Aim::at_least(what, "", 10_000.0, ours));
    }
    aims.extend(ahead(puts, OURS, OPENBAO).map(|times| {
        Aim::at_least(
            format!("puts per CPU second to OpenBao's, {WRITERS} writers"),
            " ×",
            10.0,
            times,
        )
    }));
    for size in &results.sizes {
        let (secrets, decrypts) = (size.secrets, &size.decrypts);
        for mode in [STREAMED, DecryptMode::Unary { sealed: false }] {
            let what = format!(
                "{} per CPU second to OpenBao's reads, {secrets} secrets",
                name(Participant::Vault(mode))
            );
            let times = ahead(decrypts, Participant::Vault(mode), Participant::OpenBaoRead);
            aims.extend(times.map(|times| Aim::at_least(what, " ×", 10.0, times)));
        }
        if secrets != LARGE {
            continue;
        }
        for (stop, what) in [(StopMethod::Closed, "a close"), (StopMethod::Killed, "a kill")] {
            let seconds = measure::Spread::of(size.seconds(stop)).map(|spread| spread.median);
            let what = format!("{secrets} secrets: ready after {what}");
            aims.extend(seconds.map(|seconds| Aim::at_most(what, " s", 10.0, seconds)));
        }
        let peak = size.opens.iter().map(|&(_, _, mib)| mib);
        let most = peak.fold(size.vault.resident_mib, f64::max);
        aims.push(Aim::at_most(
            format!("{secrets} secrets: resident"),
            " MiB",
            1024.0,
            most,
        ));
    }
    let streamed = |size: &SizeResults| {
        median(&size.decrypts, Participant::Vault(STREAMED), |window| {
            window.cpu_us
        })
    };
    if let [few, .., many] = results.sizes.as_slice()
        && let (Some(least), Some(most)) = (streamed(few), streamed(many))
    {
        let what = format!(
            "streamed Decrypt, of {} secrets to of {}, CPU",
            many.secrets, few.secrets
        );
        aims.push(Aim::at_most(what, " ×", 1.25, most / least));
    }
    aims
}
