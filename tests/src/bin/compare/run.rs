//! Runs the parts of the benchmark. In each round of a part, the contenders are measured in turn.

use std::{
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Common, Failure, Options, Part,
    contenders::{Contender, Payload, Testbed},
    decrypts::{DecryptMode, Decrypts},
    h2load::{Generator, Http, Load, Target},
    measure::{Spread, Window},
    memory::{self, ResidentMemory},
    paced,
    report::{self, Peer, RunConditions},
    services::Placement,
    store::puts::{self, Puts},
    vaults,
};

/// Calls per second in the comparison of latencies at equal load.
pub(crate) const RATE: u32 = 2_000;

/// One table of the report: participants with one kind of task.
pub(crate) struct Contest {
    pub(crate) kind: ContestKind,
    pub(crate) rows: Vec<Row>,
}

/// The task of a contest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContestKind {
    /// Send calls through a proxy.
    Proxy {
        payload: Payload,
        downstream: Http,
        upstream: Http,
        rate: Option<u32>,
    },
    /// Decrypt the values of one workspace.
    Vault { secrets: u32 },
    /// Decrypt values of many workspaces.
    Workspaces { workspaces: u32, secrets: u32 },
    /// Put values into a vault.
    Puts,
}

/// A participant of a contest, which has one row in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Participant {
    Proxy(Contender),
    Vault(DecryptMode),
    /// The vault with an audit log.
    Audited(DecryptMode),
    OpenBaoRead,
    OpenBaoTransit,
    /// The disk without a vault, as the limit for durable puts.
    Disk,
    Puts {
        writers: u32,
    },
    OpenBaoPuts {
        writers: u32,
    },
}

/// The measurements of one participant, with one [`Window`] per round.
pub(crate) struct Row {
    pub(crate) participant: Participant,
    pub(crate) windows: Vec<Window>,
}

impl Row {
    /// Returns the spread of one figure over the rounds.
    pub(crate) fn spread(&self, of: impl Fn(&Window) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.windows.iter().filter_map(of))
    }

    /// Returns the spread of a figure that is computed from two participants, round by round.
    pub(crate) fn with(&self, other: &Self, of: impl Fn(&Window, &Window) -> Option<f64>) -> Option<Spread> {
        let rounds = self.windows.iter().zip(&other.windows);
        Spread::of(rounds.filter_map(|(mine, theirs)| of(mine, theirs)))
    }

    /// Returns this row's CPU time as a multiple of the other's.
    pub(crate) fn cpu_ratio(&self, other: &Self) -> Option<Spread> {
        self.with(other, |mine, theirs| Some(mine.cpu_us? / theirs.cpu_us?))
    }

    /// Returns this row's calls per second as a multiple of the other's.
    pub(crate) fn rate_ratio(&self, other: &Self) -> Option<Spread> {
        self.with(other, |mine, theirs| Some(mine.per_second / theirs.per_second))
    }
}

impl Contest {
    pub(crate) fn row(&self, participant: Participant) -> Option<&Row> {
        self.rows.iter().find(|row| row.participant == participant)
    }
}

/// The load by which a participant is measured.
pub(crate) enum Workload {
    /// As many calls as the contender can answer.
    Calls(Load, Target),
    /// A fixed number of calls per second.
    Paced(Load, Target, u32),
    Decrypts(Decrypts),
    Puts(Puts),
    /// Writes to a file in a directory, each followed by `fdatasync`.
    Syncs(PathBuf),
}

/// Runs the selected parts and writes the report.
pub(crate) async fn all(options: &Options) -> Result<(), Failure> {
    let common = &options.common;
    let mut conditions = RunConditions::new(common, &[Peer::Envoy, Peer::OpenBao, Peer::H2load])?;
    let bin_dir = bin_dir(common)?;
    let scratch = tempfile::tempdir()?;
    let scratch = scratch.path();
    let mut contests = Vec::new();
    if [Part::Small, Part::Large, Part::Grpc, Part::Rate]
        .into_iter()
        .any(|part| options.wants(part))
    {
        let testbed = Testbed::start(&bin_dir, &common.peers, scratch).await?;
        for (kind, contenders) in proxies(options) {
            contests.push(proxy(common, scratch, &testbed, kind, &contenders).await?);
        }
    }
    if options.wants(Part::Vault) {
        vaults::measure(common, &bin_dir, scratch, &mut contests).await?;
    }
    let mut memory: Vec<ResidentMemory> = Vec::new();
    if options.wants(Part::Memory) {
        memory = memory::measure(options, &bin_dir, scratch).await?;
    }
    conditions.record_load_after()?;
    let written = report::write(&options.out(), &conditions, &contests, &memory)?;
    say(&written)
}

/// Returns the contests of proxies that the options select, each with its contenders.
fn proxies(options: &Options) -> Vec<(ContestKind, Vec<Contender>)> {
    let proxy = |payload, downstream, upstream, rate| ContestKind::Proxy {
        payload,
        downstream,
        upstream,
        rate,
    };
    let pairs = Http::BOTH
        .into_iter()
        .flat_map(|down| Http::BOTH.map(|up| (down, up)));
    let one = Contender::Ours(Placement::Bearer);
    let mut contests = Vec::new();
    if options.wants(Part::Small) {
        for (down, up) in pairs.clone() {
            let contenders = Contender::ALL.into_iter();
            // Calls without a proxy use only one protocol.
            let contenders = contenders.filter(|&contender| contender != Contender::Direct || down == up);
            contests.push((proxy(Payload::Small, down, up, None), contenders.collect()));
        }
    }
    if options.wants(Part::Rate) {
        for (down, up) in pairs {
            let contenders = vec![Contender::Forwarder, Contender::Envoy, one];
            contests.push((proxy(Payload::Small, down, up, Some(RATE)), contenders));
        }
    }
    if options.wants(Part::Large) {
        for http in Http::BOTH {
            let skill = Contender::Ours(Placement::Body);
            let contenders = vec![
                Contender::Direct,
                Contender::Forwarder,
                Contender::Envoy,
                one,
                skill,
            ];
            contests.push((proxy(Payload::Large, http, http, None), contenders));
        }
    }
    if options.wants(Part::Grpc) {
        let contenders = vec![Contender::Direct, Contender::Forwarder, Contender::Envoy, one];
        contests.push((proxy(Payload::Grpc, Http::Two, Http::Two, None), contenders));
    }
    contests
}

async fn proxy(
    common: &Common,
    scratch: &Path,
    testbed: &Testbed,
    kind: ContestKind,
    contenders: &[Contender],
) -> Result<Contest, Failure> {
    let ContestKind::Proxy {
        payload,
        downstream,
        upstream,
        rate,
    } = kind
    else {
        return Err("not a contest of proxies".into());
    };
    let load = Load {
        http: downstream,
        connections: downstream.connections(),
        body: Some(payload.file(scratch)?),
        headers: payload.headers(),
    };
    let entries = contenders.iter().map(|&contender| {
        let target = testbed.target(contender, upstream, payload);
        let load = load.clone();
        let workload = match rate {
            None => Workload::Calls(load, target),
            Some(rate) => Workload::Paced(load, target, rate),
        };
        (Participant::Proxy(contender), workload)
    });
    let contest = contest(common, scratch, kind, entries.collect()).await?;
    testbed.empty_logs()?;
    Ok(contest)
}

/// Measures the participants in turn. Each round begins with another participant.
pub(crate) async fn contest(
    common: &Common,
    scratch: &Path,
    kind: ContestKind,
    mut entries: Vec<(Participant, Workload)>,
) -> Result<Contest, Failure> {
    let (rounds, seconds) = common.rounds_and_seconds();
    let generator = Generator {
        scratch: scratch.to_owned(),
        seconds,
    };
    say(&format!("\n{}\n", report::title(kind)))?;
    let mut rows: Vec<Row> = entries
        .iter()
        .map(|&(participant, _)| Row {
            participant,
            windows: Vec::new(),
        })
        .collect();
    for round in 1..=rounds {
        for (participant, workload) in &entries {
            let window = match workload {
                Workload::Calls(load, target) => generator.measure(load, target).await?,
                Workload::Paced(load, target, rate) => paced::measure(load, target, *rate, seconds).await?,
                Workload::Decrypts(decrypts) => decrypts.measure(seconds).await?,
                Workload::Puts(puts) => puts.measure(seconds).await?,
                Workload::Syncs(dir) => puts::syncs(dir, seconds).await?,
            };
            say(&report::progress(round, *participant, &window))?;
            if let Some(row) = rows.iter_mut().find(|row| row.participant == *participant) {
                row.windows.push(window);
            }
        }
        entries.rotate_left(1);
    }
    Ok(Contest { kind, rows })
}

/// Returns the directory with the binaries of both services, which it builds unless the options name a directory.
pub(crate) fn bin_dir(common: &Common) -> Result<PathBuf, Failure> {
    if let Some(dir) = &common.bin_dir {
        return Ok(dir.clone());
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let packages =
        ["aerostack", "vault-service", "injector-service"].map(|package| format!("--package={package}"));
    let built = Command::new(cargo)
        .args(["build", "--profile=dist", "--locked"])
        .args(packages)
        .status()?;
    if !built.success() {
        return Err("the services could not be built".into());
    }
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    Ok(PathBuf::from(target).join("dist"))
}

/// Prints and flushes.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
