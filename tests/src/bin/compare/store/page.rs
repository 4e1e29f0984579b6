//! Writes the page of the store, `store.md`.

use std::{fmt::Write as _, fs, path::Path};

use super::{
    Held, Measured, PAGE, Size, Spread,
    beside::{Done, RATE, Work},
    puts::{NAMES, WRITERS},
};
use crate::{
    Failure,
    aims::Aim,
    decrypts::How,
    measure::{self, grouped},
    report::{About, made_by, name, table, title},
    run::{Contest, Who},
    services::Ending,
    vaults::STREAMED,
};

/// The number of secrets that the aims for a large store name.
const LARGE: u32 = 1_000_000;
const OURS: Who = Who::Puts { writers: WRITERS };
const OPENBAO: Who = Who::OpenBaoPuts { writers: WRITERS };

/// Writes the page to a file. Returns the text of the page.
pub(super) fn write(out: &Path, about: &About, measured: &Measured) -> Result<String, Failure> {
    fs::create_dir_all(out)?;
    let mut page = made_by("The store, measured", about);
    let (rounds, seconds) = about.windows;
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
        title(measured.puts.kind),
        table(&measured.puts)?
    )?;
    writeln!(
        page,
        "
Every writer has a connection of its own, and puts again as soon as it was answered: a new version of one of {} secrets
in turn. An answer comes after the disk's sync, which answers all that wait for it. × OpenBao: with {WRITERS} writers.",
        grouped(&NAMES.to_string())
    )?;
    for size in &measured.sizes {
        let decrypts = &size.decrypts;
        write!(page, "\n## {}\n\n{}", title(decrypts.kind), table(decrypts)?)?;
    }
    let spread = &measured.spread.size.decrypts;
    write!(page, "\n## {}\n\n{}", title(spread.kind), table(spread)?)?;
    page.push_str(&sizes(measured)?);
    page.push_str(&backups(measured)?);
    page.push_str("\n## Aims\n\n| | aim | measured | |\n|---|---|---|---|\n");
    for aim in aims(measured) {
        let met = if aim.met { "met" } else { "missed" };
        writeln!(page, "| {} | {} | {} | {met} |", aim.what, aim.aim, aim.measured)?;
    }
    let path = out.join("store.md");
    fs::write(&path, &page)?;
    Ok(format!("\n{page}\nwritten to {}\n", path.display()))
}

fn sizes(measured: &Measured) -> Result<String, Failure> {
    let Spread {
        workspaces,
        size,
        listed,
    } = &measured.spread;
    let mut page = "
## Memory, disk and opening

| secrets | | resident, MiB | disk, MB | bytes a secret | ready after a close, s | after a kill, s | resident then, at most, MiB |
|---|---|---|---|---|---|---|---|
"
    .to_owned();
    let in_many = format!(" in {} workspaces", grouped(&workspaces.to_string()));
    let sizes = measured.sizes.iter().map(|size| (size, ""));
    for (size, where_) in sizes.chain([(size, in_many.as_str())]) {
        let secrets = grouped(&size.secrets.to_string()) + where_;
        let opens = [Ending::Closed, Ending::Killed].map(|ending| spread(size.seconds(ending), 2));
        let peak = spread(size.opens.iter().map(|&(_, _, mib)| mib), 0);
        let [closed, killed] = opens;
        let of = |held: &Held| held.cells(size.secrets);
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
{listed:.1} s, in pages of {}.",
        grouped(&workspaces.to_string()),
        grouped(&PAGE.to_string())
    )?;
    Ok(page)
}

impl Held {
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

impl Size {
    fn seconds(&self, of: Ending) -> impl Iterator<Item = f64> {
        let opens = self.opens.iter().filter(move |(ending, ..)| *ending == of);
        opens.map(|&(_, seconds, _)| seconds)
    }
}

fn backups(measured: &Measured) -> Result<String, Failure> {
    let (secrets, rows) = &measured.beside;
    let secrets = grouped(&secrets.to_string());
    let mut page = format!(
        "
## Backup, restore and rotation, {secrets} secrets

| | secrets/s | MB/s |
|---|---|---|
"
    );
    let backups = &measured.backups;
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
        let done = |of: fn(Done) -> f64, digits| spread(row.done.iter().copied().map(of), digits);
        let (meanwhile, work) = match row.work {
            Work::None => ("nothing", "–".to_owned()),
            Work::Puts => ("64 writers put", "–".to_owned()),
            Work::Rotation => (
                "the workspace's key rotates",
                format!("{} records/s", done(Done::items_per_second, 0)),
            ),
            Work::Backup => ("backups", format!("{} MB/s", done(Done::mb_per_second, 1))),
        };
        writeln!(
            page,
            "| {} | {meanwhile} | {} | {} | {} | {work} |",
            name(row.calls.who()),
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

fn aims(measured: &Measured) -> Vec<Aim> {
    let puts = &measured.puts;
    let mut aims = Vec::new();
    let median = |contest: &Contest, who, of: fn(&measure::Window) -> Option<f64>| {
        Some(contest.row(who)?.spread(of)?.median)
    };
    // Returns OpenBao's CPU time per call as a multiple of the vault's.
    let ahead = |contest: &Contest, ours, theirs| {
        let ratio = contest.row(theirs)?.cpu_ratio(contest.row(ours)?)?;
        Some(ratio.median)
    };
    let per_second = |who| median(puts, who, |window| Some(window.per_second));
    if let (Some(ours), Some(sync)) = (
        per_second(OURS),
        median(puts, Who::Disk, |window| Some(window.p50_ms)),
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
    for size in &measured.sizes {
        let (secrets, decrypts) = (size.secrets, &size.decrypts);
        for how in [STREAMED, How::Unary { sealed: false }] {
            let what = format!(
                "{} per CPU second to OpenBao's reads, {secrets} secrets",
                name(Who::Vault(how))
            );
            let times = ahead(decrypts, Who::Vault(how), Who::OpenBaoRead);
            aims.extend(times.map(|times| Aim::at_least(what, " ×", 10.0, times)));
        }
        if secrets != LARGE {
            continue;
        }
        for (ending, what) in [(Ending::Closed, "a close"), (Ending::Killed, "a kill")] {
            let seconds = measure::Spread::of(size.seconds(ending)).map(|spread| spread.median);
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
    let streamed = |size: &Size| median(&size.decrypts, Who::Vault(STREAMED), |window| window.cpu_us);
    if let [few, .., many] = measured.sizes.as_slice()
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
