//! The binary `aerostack`.

use std::{
    env,
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use aerostack::{
    Cli, Command,
    connect::DEFAULT_DIR,
    demo::{self, Shown},
    dev::{DevArgs, Pair},
};
use chassis::{
    process::{self, Logging, Memory, Stopped},
    signal::Asked,
    telemetry::chain,
};
use mimalloc::MiMalloc;
use zeroizing_alloc::ZeroAlloc;

/// Every buffer is wiped when it is freed, also those of libraries that a value passes through.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    match Cli::read(std::env::args_os().collect()) {
        Ok(Cli {
            command: Command::Dev(args),
            connect: _,
        }) => process::serve(
            Logging::of_command(&args.log),
            Memory::Debuggable,
            || Ok(args.clone()),
            dev,
        ),
        Ok(Cli {
            command: Command::SetUp(command),
            connect,
        }) => command.run(&connect),
        Ok(Cli {
            command: Command::Admin(command),
            connect,
        }) => command.run(&connect),
        Err(code) => code,
    }
}

async fn dev(args: DevArgs, asked: Asked) -> Result<(), Stopped> {
    let stop = asked.shutdown;
    let pair = Pair::start(&args).await?;
    let mut said = String::new();
    if args.demo {
        match demo::run(&pair).await {
            Ok(shown) => said.push_str(&story(&shown)),
            Err(error) if args.once => {
                drop(pair.stop().await);
                return Err(error.into());
            }
            Err(error) => write!(said, "The demo failed: {}\n\n", chain(&error))?,
        }
    }
    said.push_str(&next_steps(&args, &pair));
    // Nobody has to read it.
    drop(io::stdout().write_all(said.as_bytes()));
    if args.once {
        pair.stop().await?
    } else {
        pair.run(stop).await?
    }
    Ok(())
}

fn story(
    Shown {
        put,
        received,
        upstream,
    }: &Shown,
) -> String {
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

fn next_steps(args: &DevArgs, pair: &Pair) -> String {
    let addresses = &pair.addresses;
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
         {demo}\
         Make a workspace, a secret (its value is asked for) and a server:\n\
         \x20   {aerostack} workspace create my-workspace\n\
         \x20   {aerostack} workspace secret set my-workspace GITHUB_TOKEN --only-to https://api.github.com\n\
         \x20   {aerostack} workspace server add my-workspace @github/api --secrets GITHUB_TOKEN\n\
         Call it, without a credential:\n\
         \x20   curl http://{data_plane}/my-workspace/api/user\n\
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

/// How this very program is called for this directory, from where it was called.
fn this_command(args: &DevArgs) -> String {
    let me = env::args().next().unwrap_or_else(|| "aerostack".to_owned());
    if args.dir == Path::new(DEFAULT_DIR) {
        me
    } else {
        format!("{me} --dir {}", args.dir.display())
    }
}
