//! Puts the pair beside what it would replace, in one run, on one machine: Envoy's `credential_injector`, a bare
//! forwarder and no proxy at all; and the vault beside OpenBao.
//!
//! Every contender is a process of its own on loopback and gets the same load in turn, round after round (A B C, B C A,
//! …), so that whatever else the machine does hits all of them. Requests per second and latencies are what the load
//! generator saw; CPU per call is what all processes of the contender used, without the load generator and the upstream.
//! `tests/compare/install` installs what it needs. `compare store` measures the cost and the growth of the vault's
//! store; `compare noisy` measures how much one principal's load slows the calls of another principal.

mod aims;
mod chart;
mod contenders;
mod decrypts;
mod envoy;
mod h2load;
mod measure;
mod memory;
mod noisy;
mod openbao;
mod paced;
mod plumbing;
mod process;
mod report;
mod run;
mod services;
mod store;
mod vaults;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, process::ExitCode};

use chassis::{
    signal::{Hangup, ServiceSignals, SignalListener},
    startup::fail,
    telemetry::chain,
};
use clap::{Parser, Subcommand, ValueEnum};

/// Why a run was not finished.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Compares the injector with Envoy, a bare forwarder and no proxy, and the vault with OpenBao
#[derive(Debug, Parser)]
#[command(name = "compare", long_about = None, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    options: Options,
}

/// What else this binary is.
#[derive(Debug, Subcommand)]
enum Role {
    /// Measures the vault's store instead: durable puts, growth, opening, backups and rotations, beside OpenBao
    Store(Common),
    /// Measures the calls of one principal while another one asks the vault for all it can
    Noisy(Common),
    /// The upstream that every contender forwards to
    #[command(hide = true)]
    Upstream { listen: SocketAddr },
    /// The bare forwarder
    #[command(hide = true)]
    Forwarder {
        listen: SocketAddr,
        to: SocketAddr,
        #[arg(long)]
        http2: bool,
    },
    /// Becomes another program, which ends when the benchmark does
    #[command(hide = true)]
    Child {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Clone, clap::Args)]
struct Options {
    #[command(flatten)]
    common: Common,
    /// Run just these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PARTS")]
    only: Vec<Part>,
    /// Idle connections to measure the memory of
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    connections: u32,
}

/// What all that is measured has.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// Rounds: medians are of this many
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds that each contender is loaded for in each round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// One round of a second: shows that it works, not how fast anything is
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// How many secrets the vault holds when it is measured alone
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "100,100000",
        value_name = "NUMBERS"
    )]
    secrets: Vec<u32>,
    /// Where vault-service and injector-service are; without it they are built, in the profile `dist`
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Where `tests/compare/install` put Envoy and OpenBao
    #[arg(long, default_value = "target/compare/bin", value_name = "DIR")]
    peers: PathBuf,
    /// Where the page goes: docs/benchmarks for a whole run, else target/compare
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What can be run by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// 200-byte bodies, all four pairs of HTTP/1.1 and HTTP/2
    Small,
    /// 16 KiB bodies
    Large,
    /// gRPC unary calls
    Grpc,
    /// 2,000 calls a second
    Rate,
    /// The vault alone
    Vault,
    /// Resident memory
    Memory,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn out(&self) -> PathBuf {
        self.common.out(self.only.is_empty())
    }
}

impl Common {
    /// Rounds and seconds.
    fn windows(&self) -> (u32, u32) {
        if self.quick {
            (1, 1)
        } else {
            (self.rounds, self.seconds)
        }
    }

    fn out(&self, whole: bool) -> PathBuf {
        let usual = if whole && !self.quick {
            "docs/benchmarks"
        } else {
            "target/compare"
        };
        self.out.clone().unwrap_or_else(|| usual.into())
    }

    /// Numbers of secrets, the smallest first.
    fn counts(&self) -> Vec<u32> {
        let mut counts = self.secrets.clone();
        counts.sort_unstable();
        counts.dedup();
        counts
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let played = match cli.role {
        Some(Role::Child { command }) => Err(process::become_program(&command)),
        Some(Role::Upstream { listen }) => in_runtime(plumbing::upstream(listen)),
        Some(Role::Forwarder { listen, to, http2 }) => in_runtime(plumbing::forwarder(listen, to, http2)),
        Some(Role::Store(common)) => in_runtime(until_stopped(store::all(&common))),
        Some(Role::Noisy(common)) => in_runtime(until_stopped(noisy::all(&common))),
        None => in_runtime(until_stopped(run::all(&cli.options))),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, chain(&*error)),
    }
}

fn in_runtime(role: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(role)
}

/// What was started is ended when this returns, however it returns.
async fn until_stopped(run: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let signals = SignalListener::listen()?.forward(Hangup::Ends, ServiceSignals::default(), || ());
    tokio::select! {
        finished = run => finished,
        () = signals => Err("stopped".into()),
    }
}
