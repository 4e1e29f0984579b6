use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prometheus_client::{encoding::text::encode, registry::Registry};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::settings::Problems;
use issued::{Days, TestCa};
use proto::Principal;

mod floods;
mod handshakes;
mod issued;
mod reloads;

const SERVER: &str = "spiffe://test/server";
const CLIENT: &str = "spiffe://test/client";

/// The files of a server's settings, and the values that are read from them.
struct Files {
    dir: tempfile::TempDir,
    reloader: Reloader,
    metrics: Registry,
    identity: Reloading<Identity>,
    clients: Reloading<Authorities>,
}

impl Files {
    /// Writes a certificate of `ca` and the CA itself, and reads them like the settings of a service.
    fn of(ca: &TestCa) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key, clients) = paths(dir.path());
        ca.issue(SERVER, Days::Valid).write(&cert, &key);
        fs::write(&clients, ca.pem()).unwrap();
        Self::read(dir)
    }

    fn read(dir: tempfile::TempDir) -> Self {
        let (cert, key, clients) = paths(dir.path());
        let mut problems = Problems::default();
        let identity = problems
            .principal_identity(("--tls-cert", Some(&cert)), ("--tls-key", Some(&key)))
            .unwrap();
        let clients = problems.authorities("--client-ca", Some(&clients), None).unwrap();
        let mut reloader = problems.take_reloader();
        let mut metrics = Registry::default();
        reloader.register(&mut metrics);
        // The first look reads everything, because the files may have changed since they were read.
        reloader.read_changed();
        Self {
            dir,
            reloader,
            metrics,
            identity,
            clients,
        }
    }

    fn paths(&self) -> (PathBuf, PathBuf, PathBuf) {
        paths(self.dir.path())
    }

    fn server(&self) -> ServerTls {
        ServerTls::grpc(self.identity.clone(), Some(self.clients.clone()))
    }

    /// Returns the number of changes that could not be used.
    fn failures(&self, label: &str) -> String {
        let mut page = String::new();
        encode(&mut page, &self.metrics).unwrap();
        let start = format!("aerostack_certificate_reload_failures_total{{certificate=\"{label}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {label} in {page}")).to_owned()
    }
}

fn paths(dir: &Path) -> (PathBuf, PathBuf, PathBuf) {
    (dir.join("tls.crt"), dir.join("tls.key"), dir.join("ca.crt"))
}
