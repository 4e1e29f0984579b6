//! TLS 1.3 (RFC 8446) and nothing older, with no session resumption: a resumed session would bring back a chain that
//! nobody verified again.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::caller::{self};
use proto::Principal;

/// The organization in the subject of every development CA. Services refuse such a CA on an address that other
/// machines reach.
pub const DEVELOPMENT_ORGANIZATION: &str = "Aerostack development, not for production";

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds no such thing.
    #[error("{path}: no {what} in PEM form was found", path = path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The private key can be read by others than its owner and group.
    #[error("{path}: others may read this private key; chmod it to 600 or 640", path = path.display())]
    KeyExposed {
        /// Which file.
        path: PathBuf,
    },
    /// The pieces do not fit together.
    #[error("{path}: {source}", path = path.display())]
    Unusable {
        /// The file in question.
        path: PathBuf,
        /// What rustls said.
        source: Error,
    },
}

/// The one crypto provider that everything here uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A certificate chain and its private key.
pub struct Identity {
    path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads PEM files.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let certificates = certificates(chain)?;
        let pem = zeroize::Zeroizing::new(read(key)?);
        refuse_exposed(key)?;
        let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::Missing {
            path: key.to_owned(),
            what: "private key",
        })?;
        Ok(Self {
            path: chain.to_owned(),
            chain: certificates,
            key: private,
        })
    }

    /// Whom it names.
    pub fn principal(&self) -> Option<Principal> {
        let (_, certificate) = X509Certificate::from_der(self.chain.first()?).ok()?;
        caller::principal_of(&certificate)
    }

    /// Time at which the first certificate of the chain expires.
    pub fn not_after(&self) -> SystemTime {
        let expiries = self.chain.iter().filter_map(|certificate| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            caller::not_after(&certificate)
        });
        // rustls refuses a chain whose certificate it cannot read.
        expiries.min().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn unusable(path: &Path) -> impl FnOnce(Error) -> TlsError {
        let path = path.to_owned();
        move |source| TlsError::Unusable { path, source }
    }
}

/// CAs from one file.
pub struct Authorities {
    path: PathBuf,
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// Reads a PEM file of one CA or more.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            path: path.to_owned(),
            certificates: certificates(path)?,
        })
    }

    /// Whether one of them was made for development.
    pub fn has_development_ca(&self) -> bool {
        self.certificates.iter().any(|der| is_development(der))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.certificates {
            roots
                .add(certificate.clone())
                .map_err(Identity::unusable(&self.path))?;
        }
        Ok(Arc::new(roots))
    }
}

fn is_development(der: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return false;
    };
    certificate.subject().iter_organization().any(|organization| {
        organization
            .as_str()
            .is_ok_and(|text| text == DEVELOPMENT_ORGANIZATION)
    })
}

/// A listener's TLS for gRPC: clients may come without a certificate (health answers anyone), but one that they
/// present must verify.
pub fn grpc_server(identity: Identity, clients: &Authorities) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(clients.roots()?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Unusable {
            path: clients.path.clone(),
            source: Error::General(error.to_string()),
        })?;
    let unusable = Identity::unusable(&identity.path);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|config| {
            config
                .with_client_cert_verifier(verifier)
                .with_single_cert(identity.chain, identity.key)
        })
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(without_resumption(config)))
}

/// A listener's TLS for the data plane: no client certificates, HTTP/2 and HTTP/1.1.
pub fn http_server(identity: Identity) -> Result<Arc<ServerConfig>, TlsError> {
    let unusable = Identity::unusable(&identity.path);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|config| {
            config
                .with_no_client_auth()
                .with_single_cert(identity.chain, identity.key)
        })
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(without_resumption(config)))
}

fn without_resumption(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// A client that presents `identity` and talks only to the server whose certificate names `peer`.
pub fn grpc_client(
    identity: Identity,
    servers: &Authorities,
    peer: Principal,
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = Arc::new(ExactPeer {
        roots: servers.roots()?,
        signatures: host_verifier(servers)?,
        peer,
    });
    client(identity, verifier)
}

/// A client that presents `identity` and talks to any server whose certificate names the host that is dialled.
pub fn grpc_client_by_host(identity: Identity, servers: &Authorities) -> Result<Arc<ClientConfig>, TlsError> {
    client(identity, host_verifier(servers)?)
}

fn host_verifier(servers: &Authorities) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    WebPkiServerVerifier::builder_with_provider(servers.roots()?, provider())
        .build()
        .map_err(|error| TlsError::Unusable {
            path: servers.path.clone(),
            source: Error::General(error.to_string()),
        })
}

fn client(identity: Identity, verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>, TlsError> {
    let unusable = Identity::unusable(&identity.path);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|config| {
            config
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_client_auth_cert(identity.chain, identity.key)
        })
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Verifies the chain as usual, but compares the principal that the certificate names instead of the address that was
/// dialled, so that a vault may be known by its SPIFFE ID.
#[derive(Debug)]
struct ExactPeer {
    roots: Arc<RootCertStore>,
    signatures: Arc<WebPkiServerVerifier>,
    peer: Principal,
}

/// The server's certificate verifies, and is another server's.
#[derive(thiserror::Error)]
#[error("the certificate names {}, and not {expected}", list(.names))]
pub struct WrongPeer {
    expected: Principal,
    names: Vec<String>,
}

/// rustls shows the error of a verifier by this.
impl fmt::Debug for WrongPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "nobody".to_owned(),
        names => names.join(", "),
    }
}

impl ServerCertVerifier for ExactPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)?;
        let certificate = X509Certificate::from_der(end_entity).ok();
        let (named, names) = certificate
            .map(|(_, certificate)| (caller::principal_of(&certificate), caller::names_of(&certificate)))
            .unwrap_or_default();
        if named.as_ref() == Some(&self.peer) {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = WrongPeer {
            expected: self.peer.clone(),
            names,
        };
        Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let missing = || TlsError::Missing {
        path: path.to_owned(),
        what: "certificate",
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| missing())?;
    if found.is_empty() {
        Err(missing())
    } else {
        Ok(found)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn refuse_exposed(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path)
        .map_err(|source| TlsError::Read {
            path: path.to_owned(),
            source,
        })?
        .permissions()
        .mode();
    if mode & 0o007 == 0 {
        Ok(())
    } else {
        Err(TlsError::KeyExposed {
            path: path.to_owned(),
        })
    }
}
