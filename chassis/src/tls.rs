//! TLS configurations. Only TLS 1.3 (RFC 8446) is used, without session resumption: a resumed session would take over a
//! certificate chain that is not verified again.

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
    server::{
        ClientCertVerifierBuilder, NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::caller;
use proto::Principal;

/// Organization in the subject of every development CA. Services refuse such a CA on an address that other machines
/// reach.
pub const DEVELOPMENT_ORGANIZATION: &str = "Aerostack development, not for production";

/// The error of a TLS setup. Each variant names the file at fault.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file has no PEM section of the expected kind.
    #[error("{path}: no {what} in PEM form was found", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The expected kind.
        what: &'static str,
    },
    /// The private key can be read by others than its owner and group.
    #[error("{path}: others may read this private key; chmod it to 600 or 640", path = path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
    },
    /// The private key does not belong to the certificate, for example because only one of the files was renewed.
    #[error(
        "{certificate} and {key} do not belong together: the key is the one of another certificate",
        certificate = certificate.display(), key = key.display()
    )]
    KeyMismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// rustls refused the certificates or the key.
    #[error("{path}: {source}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The error of rustls.
        source: Error,
    },
}

/// Returns the crypto provider of all TLS configurations of this project.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A certificate chain and its private key.
pub struct Identity {
    path: PathBuf,
    key_path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads the chain and the key from PEM files. Refuses a key file that all users of the system may read.
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
            key_path: key.to_owned(),
            chain: certificates,
            key: private,
        })
    }

    /// Returns the principal that the certificate names.
    pub fn principal(&self) -> Option<Principal> {
        let (_, certificate) = X509Certificate::from_der(self.chain.first()?).ok()?;
        caller::principal_of(&certificate)
    }

    /// Returns the hosts that the certificate names: DNS names without a wildcard, and IP addresses. An IPv6 address is in brackets.
    pub fn hosts(&self) -> Vec<String> {
        let certificate = self
            .chain
            .first()
            .and_then(|leaf| X509Certificate::from_der(leaf).ok());
        certificate.map_or_else(Vec::new, |(_, certificate)| caller::hosts_of(&certificate))
    }

    /// Returns the time at which a certificate of the chain expires first.
    pub fn not_after(&self) -> SystemTime {
        let expiries = self.chain.iter().filter_map(|certificate| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            caller::not_after(&certificate)
        });
        // A chain without a readable certificate never gets this far: rustls refuses it.
        expiries.min().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Returns a function that makes an error of rustls about this identity.
    fn unusable(&self) -> impl FnOnce(Error) -> TlsError + use<> {
        let (path, key) = (self.path.clone(), self.key_path.clone());
        move |source| match source {
            Error::InconsistentKeys(_) => TlsError::KeyMismatch {
                certificate: path,
                key,
            },
            source => TlsError::Unusable { path, source },
        }
    }
}

/// The CAs in one file.
pub struct Authorities {
    path: PathBuf,
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// Reads a PEM file with at least one CA.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            path: path.to_owned(),
            certificates: certificates(path)?,
        })
    }

    /// Returns true when one of the CAs was made for development.
    pub fn has_development_ca(&self) -> bool {
        self.certificates.iter().any(|der| is_development(der))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.certificates {
            roots
                .add(certificate.clone())
                .map_err(|source| TlsError::Unusable {
                    path: self.path.clone(),
                    source,
                })?;
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

/// Returns the configuration of a gRPC listener. Clients may come without a certificate, because health checks accept
/// anyone, but a certificate that a client presents must verify. Without `clients`, no client is asked for a certificate.
pub fn grpc_server(identity: Identity, clients: Option<&Authorities>) -> Result<Arc<ServerConfig>, TlsError> {
    server_of_clients(identity, optional_certificates(clients)?, &[b"h2"])
}

/// Returns the configuration of a listener for browsers: HTTP/1.1, and every client must present a certificate that verifies.
pub fn browser_server(identity: Identity, clients: &Authorities) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = client_verifier(clients, |required| required)?;
    server_of_clients(identity, verifier, &[b"http/1.1"])
}

fn optional_certificates(clients: Option<&Authorities>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    match clients {
        Some(clients) => client_verifier(clients, ClientCertVerifierBuilder::allow_unauthenticated),
        None => Ok(WebPkiClientVerifier::no_client_auth()),
    }
}

fn client_verifier(
    clients: &Authorities,
    adjust: impl FnOnce(ClientCertVerifierBuilder) -> ClientCertVerifierBuilder,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(clients.roots()?, provider());
    adjust(builder).build().map_err(|error| TlsError::Unusable {
        path: clients.path.clone(),
        source: Error::General(error.to_string()),
    })
}

fn server_of_clients(
    identity: Identity,
    verifier: Arc<dyn ClientCertVerifier>,
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let unusable = identity.unusable();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|config| {
            config
                .with_client_cert_verifier(verifier)
                .with_single_cert(identity.chain, identity.key)
        })
        .map_err(unusable)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(without_resumption(config)))
}

/// Returns the configuration of the data plane: HTTP/2 and HTTP/1.1. With `clients`, a client may present a certificate, which
/// must then verify; clients without one may identify themselves in each request.
pub fn http_server(identity: Identity, clients: Option<&Authorities>) -> Result<Arc<ServerConfig>, TlsError> {
    server_of_clients(identity, optional_certificates(clients)?, &[b"h2", b"http/1.1"])
}

fn without_resumption(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// Returns the configuration of a client that presents `identity`, if it has one, and accepts only a server whose certificate
/// names `peer`.
pub fn grpc_client(
    identity: Option<Identity>,
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

/// Returns the configuration of a client that presents `identity`, if it has one, and accepts every server whose certificate
/// names the host that is dialled.
pub fn grpc_client_by_host(
    identity: Option<Identity>,
    servers: &Authorities,
) -> Result<Arc<ClientConfig>, TlsError> {
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

fn client(
    identity: Option<Identity>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has cipher suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => {
            let unusable = identity.unusable();
            config
                .with_client_auth_cert(identity.chain, identity.key)
                .map_err(unusable)?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Verifies the certificate chain of a server, and compares the certificate's principal with `peer`. The host that was
/// dialled is not compared, so that a vault can be identified by its SPIFFE ID.
#[derive(Debug)]
struct ExactPeer {
    roots: Arc<RootCertStore>,
    signatures: Arc<WebPkiServerVerifier>,
    peer: Principal,
}

/// The server's certificate is valid, but names another principal.
#[derive(thiserror::Error)]
#[error("the certificate names {}, and not {expected}", list(.names))]
pub struct WrongPeer {
    expected: Principal,
    names: Vec<String>,
}

/// rustls prints the error of a verifier with `Debug`.
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
