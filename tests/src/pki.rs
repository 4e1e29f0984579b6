//! A certificate authority of the test's own.

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

/// The principal of the vault under test.
pub const VAULT: &str = "spiffe://test/vault";
/// The principal of the injector under test.
pub const INJECTOR: &str = "spiffe://test/injector";
/// The principal of another injector, which asks for more than it needs.
pub const NOISY: &str = "spiffe://test/noisy";
/// Who administers both.
pub const ADMIN: &str = "spiffe://test/admin";

/// A CA and the files of what it issued.
pub struct Pki {
    dir: TempDir,
    ca: Ca,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

impl Pki {
    /// A new CA, unlike every other.
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

    /// The CA's certificate, PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The CA's certificate.
    pub fn ca_pem(&self) -> String {
        self.ca.cert_pem()
    }

    /// A certificate for a SPIFFE ID, for both sides of a connection on loopback addresses and localhost.
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

    /// A certificate with nothing in it, valid for a day; complete it with what the test is about.
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

    /// Issues a certificate.
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

    /// A gRPC channel to the service `to` at `address`, as who holds `files`.
    pub fn channel(&self, files: &Files, address: std::net::SocketAddr, to: &str) -> Channel {
        channel(&address.to_string().parse().unwrap(), self.tls(files, to)).unwrap()
    }

    /// TLS to the service that `to` names, with these files.
    pub fn tls(&self, files: &Files, to: &str) -> Arc<ClientConfig> {
        let identity = Identity::load(&files.cert, &files.key).unwrap();
        let authorities = Authorities::load(&self.ca_file()).unwrap();
        tls::grpc_client(identity, &authorities, Principal::parse(to).unwrap()).unwrap()
    }
}

/// Writes a root key for a vault.
pub fn root_key(dir: &Path) -> PathBuf {
    let path = dir.join("root.key");
    if !path.exists() {
        vault_service::crypto::root_key_file::write_new(&path).unwrap();
    }
    path
}
