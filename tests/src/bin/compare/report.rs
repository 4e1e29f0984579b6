//! Writes the page of the comparison, `compare.md`, and the parts that all pages have.

use std::{env, fmt::Write as _, fs, path::Path, process::Command, thread::available_parallelism};

use crate::{
    Common, Failure, aims, chart,
    contenders::{Contender, Payload},
    decrypts::{DecryptMode, UNARY},
    measure::{Spread, Window, grouped},
    memory::{ResidentMemory, what_is},
    run::{Contest, ContestKind, Participant, Row},
    services::Placement,
    store::puts,
};

/// The conditions of a run on which its figures depend.
pub(crate) struct RunConditions {
    date: String,
    machine: String,
    versions: String,
    command: String,
    pub(crate) rounds_and_seconds: (u32, u32),
    load: (String, String),
}

/// A program whose version the page states.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    Envoy,
    OpenBao,
    H2load,
}

impl RunConditions {
    pub(crate) fn new(common: &Common, peers: &[Peer]) -> Result<Self, Failure> {
        let arguments: Vec<String> = env::args().skip(1).collect();
        let separator = if arguments.is_empty() { "" } else { " -- " };
        let command = format!(
            "cargo run --profile dist -p e2e --bin compare{separator}{}",
            arguments.join(" ")
        );
        Ok(Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            machine: machine()?,
            versions: versions(&common.peers, peers)?,
            command,
            rounds_and_seconds: common.rounds_and_seconds(),
            load: (load_average()?, String::new()),
        })
    }

    pub(crate) fn record_load_after(&mut self) -> Result<(), Failure> {
        self.load.1 = load_average()?;
        Ok(())
    }
}

fn machine() -> Result<String, Failure> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown", |(_, model)| model);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel: String = release
        .trim()
        .chars()
        .take_while(|&c| c.is_ascii_digit() || c == '.')
        .collect();
    Ok(format!(
        "{model}, {} cores, Linux {kernel}",
        available_parallelism()?
    ))
}

fn load_average() -> Result<String, Failure> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

fn versions(dir: &Path, peers: &[Peer]) -> Result<String, Failure> {
    let mut versions = format!("this project {}", env!("CARGO_PKG_VERSION"));
    for peer in peers {
        let (name, program, argument) = match peer {
            Peer::Envoy => ("Envoy", dir.join("envoy"), "--version"),
            Peer::OpenBao => ("OpenBao", dir.join("bao"), "version"),
            Peer::H2load => ("h2load", "h2load".into(), "--version"),
        };
        let output = Command::new(&program).arg(argument).output().map_err(|error| {
            let program = program.display();
            format!("{program}: {error}; tests/compare/install installs what is needed")
        })?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        write!(versions, ", {name} {}", version(&stdout).unwrap_or("?"))?;
    }
    Ok(versions)
}

/// Finds the version in a program's output, such as `1.52.0` in `h2load nghttp2/1.52.0`.
fn version(output: &str) -> Option<&str> {
    output
        .split(['/', ' ', '\n'])
        .map(|part| part.trim_start_matches('v'))
        .find(|part| part.starts_with(|c: char| c.is_ascii_digit()) && part.contains('.'))
}

pub(crate) fn title(kind: ContestKind) -> String {
    match kind {
        ContestKind::Proxy {
            payload,
            downstream,
            upstream,
            rate,
        } => {
            let payload = match payload {
                Payload::Small => "200-byte POST",
                Payload::Large => "16 KiB POST",
                Payload::Grpc => "gRPC unary, 200-byte messages",
            };
            let rate = rate.map(|rate| format!(", {} calls/s", grouped(&rate.to_string())));
            let (down, up) = (downstream.name(), upstream.name());
            format!("{payload}, {down} → {up}{}", rate.unwrap_or_default())
        }
        ContestKind::Vault { secrets } => {
            format!("The vault alone, {} secrets", grouped(&secrets.to_string()))
        }
        ContestKind::Workspaces { workspaces, secrets } => format!(
            "The vault alone, {} secrets in {} workspaces",
            grouped(&secrets.to_string()),
            grouped(&workspaces.to_string())
        ),
        ContestKind::Puts => "Durable puts".to_owned(),
    }
}

pub(crate) fn name(participant: Participant) -> String {
    match participant {
        Participant::Proxy(contender) => contender.name().to_owned(),
        Participant::Vault(DecryptMode::Unary { sealed: false }) => {
            "`Decrypt`, in clear inside mutual TLS".to_owned()
        }
        Participant::Vault(DecryptMode::Unary { sealed: true }) => "`Decrypt`, sealed".to_owned(),
        Participant::Vault(DecryptMode::Stream { at_once }) => {
            format!("`DecryptStream`, sealed, {at_once} calls at once")
        }
        Participant::Audited(mode) => format!("{}, with an audit log", name(Participant::Vault(mode))),
        Participant::OpenBaoRead => "OpenBao KV v2 read, no TLS".to_owned(),
        Participant::Vault(DecryptMode::Paced { per_second }) => {
            format!("`Decrypt`, sealed, {} a second", grouped(&per_second.to_string()))
        }
        Participant::OpenBaoTransit => "OpenBao transit decrypt, no TLS".to_owned(),
        Participant::Disk => "the disk: 4 KiB written and synced (`fdatasync`)".to_owned(),
        Participant::Puts { writers } => format!("`PutSecret`, {}", counted(writers, "writer")),
        Participant::OpenBaoPuts { writers } => {
            format!("OpenBao KV v2 write, no TLS, {}", counted(writers, "writer"))
        }
    }
}

/// Formats a count with its noun, as in `64 writers`.
fn counted(count: u32, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// Returns the line that a run prints after each measurement.
pub(crate) fn progress(round: u32, participant: Participant, window: &Window) -> String {
    let cpu = window.cpu_us.map_or("–".to_owned(), |cpu| format!("{cpu:.1}"));
    format!(
        "  round {round}  {:50} {:>9}/s  p50 {:7.2} ms  p99 {:7.2} ms  CPU {cpu:>6} µs\n",
        name(participant),
        grouped(&format!("{:.0}", window.per_second)),
        window.p50_ms,
        window.p99_ms,
    )
}

/// Writes the page and its chart to files. Returns the text of the page.
pub(crate) fn write(
    out: &Path,
    conditions: &RunConditions,
    contests: &[Contest],
    memory: &[ResidentMemory],
) -> Result<String, Failure> {
    fs::create_dir_all(out)?;
    let chart = chart::draw(contests);
    let mut page = introduction(conditions)?;
    if let Some(chart) = &chart {
        fs::write(out.join("compare.svg"), chart)?;
        page.push_str("\n![CPU time per call and requests per second](compare.svg)\n");
    }
    for contest in contests {
        write!(page, "\n## {}\n\n{}", title(contest.kind), table(contest)?)?;
    }
    if !memory.is_empty() {
        page.push_str("\n## Resident memory, just started\n\n| | MiB |\n|---|---|\n");
        for resident in memory {
            writeln!(page, "| {} | {:.1} |", what_is(resident.what), resident.mib)?;
        }
    }
    page.push_str("\n## Aims\n\n| | aim | measured | |\n|---|---|---|---|\n");
    for aim in aims::all(contests, memory) {
        let met = if aim.met { "met" } else { "missed" };
        writeln!(page, "| {} | {} | {} | {met} |", aim.what, aim.aim, aim.measured)?;
    }
    fs::write(out.join("compare.md"), &page)?;
    Ok(format!(
        "\n{page}\nwritten to {}\n",
        out.join("compare.md").display()
    ))
}

/// Returns the beginning of a page: the title, and the conditions of the run.
pub(crate) fn page_header(title: &str, conditions: &RunConditions) -> String {
    let RunConditions {
        date,
        machine,
        versions,
        command,
        rounds_and_seconds: _,
        load: (before, after),
    } = conditions;
    format!(
        "# {title}

Made by

```sh
tests/compare/install
{command}
```

on {date}, on {machine}; load average {before} before and {after} after. Versions: {versions}.
"
    )
}

fn introduction(conditions: &RunConditions) -> Result<String, Failure> {
    let (rounds, seconds) = conditions.rounds_and_seconds;
    let mut page = page_header("Measured", conditions);
    write!(
        page,
        "
Everything runs on that one machine, on loopback, load generator and upstream too. HTTP/1.1 is 50 connections, HTTP/2 is
10 connections with 10 calls each at once; unless a rate is given, each asks again as soon as it was answered. Contenders
take turns, {seconds} s each, another one first in each round; rounds: {rounds}. Numbers are medians of the rounds, in
brackets the lowest and the highest; ratios are taken round by round. CPU is that of all processes of a contender (user
and system), for each call: of the injector and the vault together, without upstream and load generator. The injector has
every secret decrypted anew for every call, by a vault on the same machine over mutual TLS; Envoy keeps its one in memory.
Both write a log line for each call to a file.
"
    )?;
    Ok(page)
}

pub(crate) fn table(contest: &Contest) -> Result<String, Failure> {
    let (reference, reference_name) = match contest.kind {
        ContestKind::Proxy { .. } => (Participant::Proxy(Contender::Envoy), "Envoy"),
        ContestKind::Vault { .. } | ContestKind::Workspaces { .. } => (Participant::OpenBaoRead, "KV read"),
        ContestKind::Puts => (
            Participant::OpenBaoPuts {
                writers: puts::WRITERS,
            },
            "OpenBao",
        ),
    };
    let reference = contest.row(reference);
    let mut table = match reference {
        Some(_) => format!(
            "| | requests/s | × {reference_name} | CPU per call, µs | × {reference_name} | p50, ms | p99, ms |\n\
             |---|---|---|---|---|---|---|\n"
        ),
        None => "| | requests/s | CPU per call, µs | p50, ms | p99, ms |\n|---|---|---|---|---|\n".to_owned(),
    };
    for row in &contest.rows {
        let cell = |spread: Option<Spread>, digits: usize| {
            spread.map_or("–".to_owned(), |spread| format!("{spread:.digits$}"))
        };
        let mut cells = vec![bold(row), cell(row.spread(|window| Some(window.per_second)), 0)];
        if let Some(reference) = reference {
            cells.push(ratio(row.rate_ratio(reference)));
        }
        let vault = row.spread(|window| window.vault_us);
        let vault = vault.map(|vault| format!(", the vault {:.1}", vault.median));
        let cpu = cell(row.spread(|window| window.cpu_us), 1);
        cells.push(cpu + &vault.unwrap_or_default());
        if let Some(reference) = reference {
            cells.push(ratio(row.cpu_ratio(reference)));
        }
        cells.push(cell(row.spread(|window| Some(window.p50_ms)), 2));
        cells.push(cell(row.spread(|window| Some(window.p99_ms)), 2));
        writeln!(table, "| {} |", cells.join(" | "))?;
    }
    if matches!(
        contest.kind,
        ContestKind::Vault { .. } | ContestKind::Workspaces { .. }
    ) {
        writeln!(
            table,
            "\nSecrets of 38 bytes. Unary: {UNARY} connections with one call each. The streams are one connection."
        )?;
    }
    Ok(table)
}

fn ratio(spread: Option<Spread>) -> String {
    spread.map_or("–".to_owned(), |spread| format!("{:.2}", spread.median))
}

/// Returns the row's name, in bold for the main contender.
fn bold(row: &Row) -> String {
    let name = name(row.participant);
    if row.participant == Participant::Proxy(Contender::Ours(Placement::Bearer)) {
        format!("**{name}**")
    } else {
        name
    }
}
