//! The certificate authority of a test.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aerostack::pki::{Ca, CaSpec, Leaf, Usage, issue};
use chassis::channel::channel;
use chassis::tls::{self, Authorities, Identity};
use proto::Principal;
use rustls::ClientConfig;
use tempfile::TempDir;
use tonic::transport::Channel;

pub const VAULT: &str = "spiffe://test/vault";
pub const INJECTOR: &str = "spiffe://test/injector";
/// Another injector, which asks the vault for more than it needs.
pub const NOISY: &str = "spiffe://test/noisy";
/// The administrator of both services.
pub const ADMIN: &str = "spiffe://test/admin";

/// A CA, and the directory of the certificates that it issued.
pub struct Pki {
    dir: TempDir,
    ca: Ca,
}

/// PEM files of a certificate chain and its private key.
#[derive(Debug, Clone)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pki {
    /// Generates a CA.
    pub fn new() -> Arc<Self> {
        let now = SystemTime::now();
        let spec = CaSpec {
            organization: "test".to_owned(),
            common_name: "test CA".to_owned(),
            permitted_names: None,
            ..CaSpec::development(now)
        };
        let pki = Self {
            dir: TempDir::new().unwrap(),
            ca: Ca::generate(&spec).unwrap(),
        };
        fs::write(pki.ca_file(), pki.ca.cert_pem()).unwrap();
        Arc::new(pki)
    }

    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub fn ca_pem(&self) -> String {
        self.ca.cert_pem()
    }

    /// Issues a certificate for a SPIFFE ID that servers and clients may use on `127.0.0.1` and `localhost`.
    pub fn principal(&self, id: &str) -> Files {
        self.leaf(&Leaf {
            name: id.replace([':', '/'], "_"),
            uris: vec![id.to_owned()],
            dns: vec!["localhost".to_owned()],
            ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            usages: vec![Usage::Server, Usage::Client],
            ..Self::blank()
        })
    }

    /// Returns a client certificate without names, valid for a day. A test sets the fields that it is about.
    pub fn blank() -> Leaf {
        let now = SystemTime::now();
        Leaf {
            name: "leaf".to_owned(),
            uris: Vec::new(),
            dns: Vec::new(),
            ips: Vec::new(),
            usages: vec![Usage::Client],
            not_before: now - Duration::from_secs(3600),
            not_after: now + Duration::from_secs(24 * 3600),
            is_ca: false,
        }
    }

    pub fn leaf(&self, leaf: &Leaf) -> Files {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let issued = issue(&self.ca, leaf).unwrap();
        let file = |what: &str| self.dir.path().join(format!("{}-{number}-{what}.pem", leaf.name));
        let files = Files {
            cert: file("cert"),
            key: file("key"),
        };
        fs::write(&files.cert, &issued.cert_pem).unwrap();
        fs::write(&files.key, issued.key_pem.as_bytes()).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    /// Returns a gRPC channel to the principal `to` at `address` that presents the certificate `files`.
    pub fn channel(&self, files: &Files, address: std::net::SocketAddr, to: &str) -> Channel {
        channel(&address.to_string().parse().unwrap(), self.tls(files, to)).unwrap()
    }

    /// Returns the TLS settings of a client that presents `files` and accepts only the principal `to`.
    pub fn tls(&self, files: &Files, to: &str) -> Arc<ClientConfig> {
        let identity = Identity::load(&files.cert, &files.key).unwrap();
        let authorities = Authorities::load(&self.ca_file()).unwrap();
        tls::grpc_client(Some(identity), &authorities, Principal::parse(to).unwrap()).unwrap()
    }
}

/// Returns the file of a vault's root key, and writes it when it does not exist.
pub fn root_key(dir: &Path) -> PathBuf {
    let path = dir.join("root.key");
    if !path.exists() {
        vault_service::crypto::root_key_file::write_new(&path).unwrap();
    }
    path
}
