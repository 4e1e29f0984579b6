//! Compares both services with their alternatives, in one run on one machine: the injector with Envoy's
//! `credential_injector`, a bare forwarder and no proxy, and the vault with OpenBao.
//!
//! Every contender runs as its own processes on loopback. The contenders get the same load in turn, and each round
//! begins with another contender (A B C, B C A, …), so that a disturbance of the machine affects all of them. The load
//! generator measures requests per second and latencies. CPU per call is the CPU time of all processes of the
//! contender, without the load generator and the upstream. `tests/compare/install` installs Envoy, OpenBao and h2load.
//! `compare store` measures the cost and the growth of the vault's store. `compare noisy` measures how much one
//! principal's load slows the calls of another principal. `compare scrub` measures the cost of the search for echoed values.

mod aims;
mod chart;
mod contenders;
mod decrypts;
mod endpoints;
mod envoy;
mod h2load;
mod measure;
mod memory;
mod noisy;
mod openbao;
mod paced;
mod process;
mod report;
mod run;
mod scrub_cost;
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

/// The subcommands, of which the hidden ones start child processes of the benchmark.
#[derive(Debug, Subcommand)]
enum Role {
    /// Compares the vault's store with OpenBao: durable puts, growth, opening, backups and rotations
    Store(Common),
    /// Measures the calls of one principal while another principal sends the vault as much load as it can
    Noisy(Common),
    /// Measures the CPU time that the search of answers for values takes
    Scrub(Common),
    /// Runs the upstream that all contenders call
    #[command(hide = true)]
    Upstream { listen: SocketAddr },
    /// Runs the bare forwarder
    #[command(hide = true)]
    Forwarder {
        listen: SocketAddr,
        to: SocketAddr,
        #[arg(long)]
        http2: bool,
    },
    /// Runs another program, which the kernel kills when the benchmark ends
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
    /// Run only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PARTS")]
    only: Vec<Part>,
    /// Number of idle connections for the measurement of memory
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    connections: u32,
}

/// The options that all benchmarks have.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// Number of rounds, of which the page shows the medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load for each contender in each round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Run one round of one second, to check that the benchmark works; the figures mean nothing
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Numbers of secrets in the vault when it is measured alone
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "100,100000",
        value_name = "NUMBERS"
    )]
    secrets: Vec<u32>,
    /// Directory with vault-service and injector-service (default: both are built in the profile `dist`)
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Directory in which `tests/compare/install` installed Envoy and OpenBao
    #[arg(long, default_value = "target/compare/bin", value_name = "DIR")]
    peers: PathBuf,
    /// Directory for the page (default: docs/benchmarks after a whole run, else target/compare)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A part of the benchmark that `--only` selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// 200-byte bodies, with all four pairs of HTTP/1.1 and HTTP/2
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
    fn rounds_and_seconds(&self) -> (u32, u32) {
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

    /// Returns the numbers of secrets in ascending order.
    fn counts(&self) -> Vec<u32> {
        let mut counts = self.secrets.clone();
        counts.sort_unstable();
        counts.dedup();
        counts
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.role {
        Some(Role::Child { command }) => Err(process::become_program(&command)),
        Some(Role::Upstream { listen }) => in_runtime(endpoints::upstream(listen)),
        Some(Role::Forwarder { listen, to, http2 }) => in_runtime(endpoints::forwarder(listen, to, http2)),
        Some(Role::Store(common)) => in_runtime(until_signalled(store::all(&common))),
        Some(Role::Noisy(common)) => in_runtime(until_signalled(noisy::all(&common))),
        Some(Role::Scrub(common)) => in_runtime(until_signalled(scrub_cost::all(&common))),
        None => in_runtime(until_signalled(run::all(&cli.options))),
    };
    match result {
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

/// Runs a benchmark until it finishes or a signal arrives. A signal drops `run`, which kills the child processes.
async fn until_signalled(run: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let signals = SignalListener::listen()?.forward(Hangup::Ends, ServiceSignals::default(), || ());
    tokio::select! {
        finished = run => finished,
        () = signals => Err("stopped".into()),
    }
}
