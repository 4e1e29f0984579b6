//! TLS handshakes of rustls in memory: which certificates are accepted, and which names the constraints refuse.

use std::{sync::Arc, time::SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig, ServerConnection,
};

use crate::pki::*;

fn development() -> Ca {
    Ca::generate(&CaSpec::development(SystemTime::now())).unwrap()
}

fn server(names: Leaf) -> Leaf {
    Leaf {
        usages: vec![Usage::Server, Usage::Client],
        ..names
    }
}

fn vault() -> Leaf {
    Leaf::vault(SystemTime::now())
}

fn admin() -> Leaf {
    Leaf::admin(SystemTime::now())
}

fn dns(name: &str) -> Leaf {
    Leaf {
        dns: vec![name.to_owned()],
        ..server(vault())
    }
}

fn ip(ip: &str) -> Leaf {
    Leaf {
        ips: vec![ip.parse().unwrap()],
        ..server(vault())
    }
}

fn identity(issued: &Issued) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    (chain.map(Result::unwrap).collect(), key)
}

fn roots(ca_pem: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap())
        .unwrap();
    Arc::new(roots)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client(name: &str, ca_pem: &str, leaf: &Issued) -> ClientConnection {
    let (chain, key) = identity(leaf);
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots(ca_pem))
        .with_client_auth_cert(chain, key)
        .unwrap();
    ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap()
}

fn service(ca_pem: &str, leaf: &Issued) -> ServerConnection {
    let (chain, key) = identity(leaf);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca_pem), provider())
        .build()
        .unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

/// Runs the handshake to its end, and returns the first error.
fn handshake(mut client: ClientConnection, mut server: ServerConnection) -> Result<(), Error> {
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

/// Connects with the administrator's certificate to a server that has `leaf`. `ca` issues both certificates.
fn call(ca: &Ca, name: &str, leaf: &Leaf) -> Result<(), Error> {
    let (leaf, admin) = (issue(ca, leaf).unwrap(), issue(ca, &admin()).unwrap());
    handshake(
        client(name, &ca.cert_pem(), &admin),
        service(&ca.cert_pem(), &leaf),
    )
}

fn is_constrained(result: Result<(), Error>) -> bool {
    // rustls reports webpki's `NameConstraintViolation` as `CertificateError::Other`.
    let Err(Error::InvalidCertificate(CertificateError::Other(other))) = result else {
        return false;
    };
    other.to_string().contains("NameConstraintViolation")
}

#[test]
fn stored_certificates_complete_a_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let DevPki {
        ca,
        vault,
        injector,
        admin,
    } = DevPki::ensure(dir.path()).unwrap();
    let ca = std::fs::read_to_string(ca).unwrap();
    let load = |files: &LeafFiles| Issued {
        cert_pem: std::fs::read_to_string(&files.cert).unwrap(),
        key_pem: std::fs::read_to_string(&files.key).unwrap().into(),
    };
    for (caller, callee) in [(&admin, &vault), (&injector, &vault), (&admin, &injector)] {
        for name in ["localhost", "127.0.0.1", "::1"] {
            let (caller, callee) = (load(caller), load(callee));
            handshake(client(name, &ca, &caller), service(&ca, &callee)).unwrap();
        }
    }
}

#[test]
fn names_beneath_localhost_are_permitted() {
    call(&development(), "api.localhost", &dns("api.localhost")).unwrap();
    call(&development(), "127.9.9.9", &ip("127.9.9.9")).unwrap();
}

#[test]
fn other_names_are_refused_by_the_constraints() {
    let ca = development();
    for name in ["example.com", "notlocalhost", "localhost.example.com"] {
        assert!(is_constrained(call(&ca, name, &dns(name))), "{name}");
    }
}

#[test]
fn only_an_authority_of_an_earlier_release_constrains_addresses() {
    let spec = CaSpec {
        only_loopback_addresses: true,
        ..CaSpec::development(SystemTime::now())
    };
    let earlier = Ca::generate(&spec).unwrap();
    for addr in ["128.0.0.1", "10.0.0.1", "::2", "::ffff:127.0.0.1"] {
        assert!(is_constrained(call(&earlier, addr, &ip(addr))), "{addr}");
        call(&development(), addr, &ip(addr)).unwrap();
    }
    call(&earlier, "127.9.9.9", &ip("127.9.9.9")).unwrap();
}

#[test]
fn a_certificate_with_one_wrong_name_is_refused_under_its_right_name_too() {
    let both = Leaf {
        dns: vec!["localhost".to_owned(), "example.com".to_owned()],
        ..vault()
    };
    assert!(is_constrained(call(&development(), "localhost", &both)));
}

#[test]
fn an_authority_without_constraints_may_issue_any_name() {
    let now = SystemTime::now();
    let spec = CaSpec {
        organization: "Example".to_owned(),
        permitted_names: None,
        ..CaSpec::development(now)
    };
    call(&Ca::generate(&spec).unwrap(), "example.com", &dns("example.com")).unwrap();
}

#[test]
fn an_authority_for_names_issues_only_for_them_and_localhost() {
    let ca = Ca::generate(&CaSpec::for_names(vec!["vault".to_owned()], SystemTime::now())).unwrap();
    for name in ["vault", "localhost"] {
        call(&ca, name, &dns(name)).unwrap();
    }
    for name in ["injector", "vault.example.com", "example.com"] {
        assert!(is_constrained(call(&ca, name, &dns(name))), "{name}");
    }
}

#[test]
fn another_authority_with_the_same_name_is_not_trusted() {
    let (ca, other) = (development(), development());
    let (leaf, admin) = (issue(&ca, &vault()).unwrap(), issue(&other, &admin()).unwrap());
    let refused = handshake(
        client("localhost", &ca.cert_pem(), &admin),
        service(&ca.cert_pem(), &leaf),
    );
    assert!(
        matches!(
            refused,
            Err(Error::InvalidCertificate(CertificateError::BadSignature))
        ),
        "{refused:?}"
    );
}

#[test]
fn a_server_certificate_is_no_client_certificate_and_vice_versa() {
    let ca = development();
    let client_only = Leaf {
        usages: vec![Usage::Client],
        ..vault()
    };
    assert!(call(&ca, "localhost", &client_only).is_err());
    let (leaf, caller) = (issue(&ca, &vault()).unwrap(), issue(&ca, &vault()).unwrap());
    let pem = ca.cert_pem();
    assert!(handshake(client("localhost", &pem, &caller), service(&pem, &leaf)).is_err());
}

#[test]
fn a_leaf_that_is_a_ca_or_has_expired_is_refused() {
    let ca = development();
    let expired = Leaf {
        not_after: SystemTime::now() - std::time::Duration::from_secs(60),
        ..vault()
    };
    assert!(call(&ca, "localhost", &expired).is_err());
    assert!(
        call(
            &ca,
            "localhost",
            &Leaf {
                is_ca: true,
                ..vault()
            }
        )
        .is_err()
    );
}

/// Verifies a certificate for `name` that was issued by an intermediate authority beneath ours.
fn verify_beneath_intermediate(name: &str) -> Result<(), Error> {
    let ca = development();
    let intermediate = issue(
        &ca,
        &Leaf {
            is_ca: true,
            dns: Vec::new(),
            ..vault()
        },
    )
    .unwrap();
    let intermediate_key = rcgen::KeyPair::from_pem(&intermediate.key_pem).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "aerostack vault");
    let issuer = rcgen::Issuer::new(params, intermediate_key);
    let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    let leaf = params
        .signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer)
        .unwrap();
    let name = name.try_into().unwrap();
    WebPkiServerVerifier::builder_with_provider(roots(&ca.cert_pem()), provider())
        .build()
        .unwrap()
        .verify_server_cert(
            leaf.der(),
            &identity(&intermediate).0,
            &name,
            &[],
            UnixTime::now(),
        )
        .map(drop)
}

/// webpki ignores the path length of a trust anchor (OpenSSL and Go check it), so it accepts an intermediate authority
/// beneath ours. This program issues none, and the name constraints would limit one.
#[test]
fn the_constraints_limit_an_intermediate_authority() {
    verify_beneath_intermediate("localhost").unwrap();
    assert!(is_constrained(verify_beneath_intermediate("example.com")));
}
