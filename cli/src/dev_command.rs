//! `aerostack dev` in the terminal: starts the services and the console, runs the demo, and prints the next steps for the
//! developer.

mod console;

use std::{
    env,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use chassis::{
    settings::Problems,
    signal::ServiceSignals,
    startup::{self, Logging, MemoryAccess},
    telemetry::chain,
};

use self::console::DevConsole;
use crate::{
    connect::{DEFAULT_DIR, has_present_context},
    console::refuse_reachable,
    demo::{self, DemoError, DemoResult},
    dev::{DevArgs, DevError, DevServices},
    failure::FailureKind,
    set_up::with_exit_code,
};

/// Reason why `aerostack dev` ended.
#[derive(Debug, thiserror::Error)]
enum DevCommandError {
    #[error(transparent)]
    Dev(#[from] DevError),
    #[error(transparent)]
    Demo(#[from] DemoError),
}

impl DevCommandError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Dev(error) => error.kind(),
            Self::Demo(error) => error.kind(),
        }
    }
}

pub fn run(args: DevArgs) -> ExitCode {
    with_exit_code(|failed| {
        startup::serve(
            Logging::of_command(&args.log),
            MemoryAccess::Debuggable,
            || check(&args),
            async |args, asked| {
                let ended = dev(args, asked).await;
                ended.map_err(failed.of(DevCommandError::kind))
            },
        )
    })
}

fn check(args: &DevArgs) -> Result<DevArgs, Problems> {
    let mut problems = Problems::default();
    let remedy = "forward its port with `ssh -L`";
    refuse_reachable(&mut problems, "--console-addr", args.console_addr, remedy);
    problems.finish(Some(args.clone()))
}

async fn dev(args: DevArgs, asked: ServiceSignals) -> Result<(), DevCommandError> {
    let stop = asked.shutdown;
    let services = DevServices::start(&args).await?;
    let mut text = String::new();
    let mut demo_upstream = None;
    if args.demo {
        match demo::run(&services, &args.dir).await {
            Ok(result) => {
                text.push_str(&demo_report(&result));
                demo_upstream = Some(result.upstream);
            }
            Err(error) if args.once => {
                drop(services.stop().await);
                return Err(error.into());
            }
            Err(error) => text.push_str(&format!("The demo failed: {}\n\n", chain(&error))),
        }
    }
    if args.once {
        print(&format!("{text}{}", next_steps(&args, &services)));
        return Ok(services.stop().await?);
    }
    let console = match args.no_console {
        true => None,
        false => Some(DevConsole::start(
            args.console_addr,
            &services,
            demo_upstream,
            stop.clone(),
        )),
    };
    // The link stands last, where the log does not scroll it away at once.
    let invitation = console.as_ref().map_or("", |console| console.invitation.as_str());
    print(&format!("{text}{}{invitation}", next_steps(&args, &services)));
    let ended = services.run(stop).await;
    if let Some(console) = console {
        console.end().await;
    }
    Ok(ended?)
}

/// Prints to standard output. A closed standard output is ignored.
fn print(text: &str) {
    drop(io::stdout().write_all(text.as_bytes()));
}

fn demo_report(result: &DemoResult) -> String {
    let DemoResult {
        put,
        received,
        upstream,
    } = result;
    let headers: String = received
        .iter()
        .map(|(name, value)| format!("    {name}: {value}\n"))
        .collect();
    format!(
        "A secret went into the vault, and cannot be read back, not even by the administrator who wrote it:\n\
         \x20   DEMO_TOKEN in workspace demo, {put}\n\
         A program without any credential called the server demo/echo through the injector, and even sent a forged\n\
         X-Mcp-Secret-DEMO-TOKEN. This is what the upstream on {upstream} received:\n{headers}\n"
    )
}

fn next_steps(args: &DevArgs, services: &DevServices) -> String {
    let addresses = &services.addresses;
    let demo = if args.demo {
        format!(
            "Call the demo upstream:\n    curl http://{}/demo/echo/hello\n",
            addresses.data_plane
        )
    } else {
        String::new()
    };
    let pki = args.dir.join("pki");
    format!(
        "Listening:\n\
         \x20   vault       {vault} (gRPC)   http://{vault_metrics}/metrics\n\
         \x20   injector    {injector} (gRPC)   http://{injector_metrics}/metrics\n\
         \x20   data plane  http://{data_plane}\n\
         Every user and every program of this machine can call every server at the data plane.\n\
         {demo}\
         Make a workspace, a secret (its value is asked for) and a server:\n\
         \x20   {aerostack} workspace create my-workspace\n\
         \x20   {aerostack} workspace secret set my-workspace GITHUB_TOKEN --only-to https://api.github.com\n\
         \x20   {aerostack} workspace server add my-workspace @github/api --secrets GITHUB_TOKEN\n\
         Call it, without a credential:\n\
         \x20   curl http://{data_plane}/my-workspace/github/user\n\
         Or administer it with grpcurl:\n\
         \x20   grpcurl -cacert {pki}/ca.pem -cert {pki}/admin.pem -key {pki}/admin-key.pem {vault} list\n",
        vault = addresses.vault,
        vault_metrics = addresses.vault_metrics,
        injector = addresses.injector,
        injector_metrics = addresses.injector_metrics,
        data_plane = addresses.data_plane,
        aerostack = this_command(args),
        pki = pki.display(),
    )
}

/// Returns the command with which the developer reaches these services, from the present working directory.
fn this_command(args: &DevArgs) -> String {
    let program = env::args().next().unwrap_or_else(|| "aerostack".to_owned());
    if args.dir == Path::new(DEFAULT_DIR) && !has_present_context(|name| env::var_os(name)) {
        program
    } else {
        format!("{program} --dir {}", args.dir.display())
    }
}
