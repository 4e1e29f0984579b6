//! `aerostack dev` as a process.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use aerostack::pki::{DevPki, VAULT_ID};
use chassis::channel::channel;
use chassis::tls::{self, Authorities, Identity};
use proto::Principal;
use rustix::process::Pid;
use tonic::transport::Channel;

/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `aerostack dev`, killed when dropped.
pub(crate) struct Dev {
    pub(crate) child: Child,
    pub(crate) ports: BTreeMap<String, SocketAddr>,
    pub(crate) dir: PathBuf,
    pub(crate) started_in: Duration,
}

/// Returns the command `aerostack dev` on free ports, without the web console.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aerostack"));
    command.args(["dev", "--dir"]).arg(dir);
    for listener in ["--vault-addr", "--injector-addr", "--data-plane-addr"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    command.arg("--no-console").stdin(Stdio::null());
    command
}

impl Dev {
    /// Starts `aerostack dev`, and waits until `ports.json` names the addresses.
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[]).await
    }

    /// Starts `aerostack dev` with additional arguments.
    pub(crate) async fn start_with(dir: &Path, args: &[&str]) -> Self {
        let (ports_file, log_file) = (dir.join("ports.json"), dir.with_extension("log"));
        let _ = fs::remove_file(&ports_file);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&log_file)
            .unwrap();
        let started = Instant::now();
        let mut child = command(dir)
            .args(["--log", "warn"])
            .args(args)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let ports = loop {
            // The file is never read in part, because it appears by a rename.
            if let Ok(text) = fs::read(&ports_file) {
                break serde_json::from_slice(&text).unwrap();
            }
            let log = || fs::read_to_string(&log_file).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "it stopped: {}", log());
            assert!(started.elapsed() < PATIENCE, "it is not ready: {}", log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        Self {
            child,
            ports,
            dir: dir.to_owned(),
            started_in: started.elapsed(),
        }
    }

    pub(crate) fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) async fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it does not stop");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn channel(&self, who: fn(&DevPki) -> &aerostack::pki::LeafFiles) -> Channel {
        let pki = DevPki::ensure(&self.dir).unwrap();
        let identity = Identity::load(&who(&pki).cert, &who(&pki).key).unwrap();
        let authorities = Authorities::load(&pki.ca).unwrap();
        let tls =
            tls::grpc_client(Some(identity), &authorities, Principal::parse(VAULT_ID).unwrap()).unwrap();
        channel(&self.ports["vault"].to_string().parse().unwrap(), tls).unwrap()
    }

    pub(crate) fn admin(&self) -> Channel {
        self.channel(|pki| &pki.admin)
    }

    pub(crate) fn injector(&self) -> Channel {
        self.channel(|pki| &pki.injector)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
