//! The identity that an https upstream has to prove, and the certificate that the injector presents to it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use aerostack::pki::{Leaf, Usage};
use chassis::worker_threads::ThreadCount;
use e2e::{PATIENCE, Pair, Pki, Upstream, pair::server, pki::Files};
use futures_util::future::join_all;
use http::Version;
use proto::injector::v1::{
    ExplainInjectionRequest, Protocol, Server, UpdateServerRequest, UpstreamTls, explained_secret::State,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tonic_types::StatusExt as _;

use super::{SECRET, assert_arrived, call, dev, refusal};

fn https(url: &str, ca_pem: &str) -> Server {
    let tls = UpstreamTls {
        ca_pem: ca_pem.to_owned(),
        ..Default::default()
    };
    Server {
        tls: Some(tls),
        ..server("dev", "api", url, &["TOKEN"])
    }
}

/// Returns the parameters of a certificate for loopback addresses and localhost.
fn leaf() -> Leaf {
    Leaf {
        dns: vec!["localhost".to_owned()],
        ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        usages: vec![Usage::Server],
        ..Pki::blank()
    }
}

/// Makes a certificate for the same names that no CA has signed.
fn self_signed(pki: &Pki) -> Files {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let params = rcgen::CertificateParams::new(names).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let file = |name| pki.ca_file().with_file_name(name);
    let files = Files {
        cert: file("self-signed.pem"),
        key: file("self-signed-key.pem"),
    };
    fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

/// Returns the TLS settings of an upstream that offers these protocols by ALPN.
fn tls(files: &Files, alpn: &[&str]) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let mut config = ServerConfig::builder_with_provider(chassis::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

#[tokio::test]
async fn over_tls_alpn_decides_the_http_version() {
    let pair = dev().await;
    let pki = Pki::new();
    let files = pki.leaf(&leaf());
    for (number, (alpn, protocol, sent)) in [
        (&["h2", "http/1.1"][..], Protocol::Auto, Version::HTTP_2),
        (&["http/1.1"], Protocol::Auto, Version::HTTP_11),
        (&[], Protocol::Auto, Version::HTTP_11),
        (&["h2", "http/1.1"], Protocol::Http1, Version::HTTP_11),
        (&["h2", "http/1.1"], Protocol::Http2, Version::HTTP_2),
    ]
    .into_iter()
    .enumerate()
    {
        let upstream = Upstream::tls(tls(&files, alpn)).await;
        let api = Server {
            protocol: protocol.into(),
            ..https(&upstream.url(), &pki.ca_pem())
        };
        pair.injector.add(api).await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let response = call(&pair, version).await;
            assert_eq!(
                (response.status().as_u16(), response.version()),
                (200, version),
                "case {number}"
            );
            assert_arrived(&upstream, sent);
        }
        pair.injector.remove("dev", "api").await;
    }
    pair.stop().await;
}

/// Starts a relay to `address`. Returns the relay's address and the number of connections that were made to it.
async fn counting_relay(address: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut downstream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let mut upstream = TcpStream::connect(address).await.unwrap();
                let _ = copy_bidirectional(&mut downstream, &mut upstream).await;
            });
        }
    });
    (relay, connections)
}

#[tokio::test]
async fn simultaneous_first_calls_find_out_once_that_an_upstream_speaks_http1() {
    const CALLS: usize = 20;
    let pair = dev().await;
    let pki = Pki::new();
    let upstream = Upstream::tls(tls(&pki.leaf(&leaf()), &["http/1.1"])).await;
    let (relay, connections) = counting_relay(upstream.address).await;
    pair.injector
        .add(https(&format!("https://{relay}"), &pki.ca_pem()))
        .await;
    let calls = (0..CALLS).map(|_| call(&pair, Version::HTTP_11));
    for response in join_all(calls).await {
        assert_eq!(response.status(), 200);
    }
    // Worker threads share no pool, so every thread may make one connection more.
    let most = CALLS + ThreadCount::PerProcessor.count();
    assert!(connections.load(Relaxed) <= most, "{connections:?} connections");
    pair.stop().await;
}

#[tokio::test]
async fn an_upstream_without_http2_is_refused_where_http2_is_required() {
    let pair = dev().await;
    let pki = Pki::new();
    let upstream = Upstream::tls(tls(&pki.leaf(&leaf()), &["http/1.1"])).await;
    let api = Server {
        protocol: Protocol::Http2.into(),
        ..https(&upstream.url(), &pki.ca_pem())
    };
    pair.injector.add(api).await;
    let response = call(&pair, Version::HTTP_11).await;
    assert_eq!(response.status(), 502);
    assert_eq!(upstream.seen().len(), 0);
    pair.stop().await;
}

#[tokio::test]
async fn a_certificate_may_have_the_configured_server_name() {
    let pair = dev().await;
    let pki = Pki::new();
    let files = pki.leaf(&Leaf {
        dns: vec!["api.test".into()],
        ips: vec![],
        ..leaf()
    });
    let upstream = Upstream::tls(tls(&files, &["h2"])).await;
    let tls = UpstreamTls {
        ca_pem: pki.ca_pem(),
        server_name: "api.test".into(),
        ..Default::default()
    };
    let api = Server {
        tls: Some(tls),
        ..https(&upstream.url(), "")
    };
    pair.injector.add(api).await;
    assert_eq!(call(&pair, Version::HTTP_11).await.status(), 200);
    assert_arrived(&upstream, Version::HTTP_2);
    pair.stop().await;
}

#[tokio::test]
async fn an_upstream_with_an_invalid_certificate_gets_no_secret() {
    let pair = dev().await;
    let (pki, other) = (Pki::new(), Pki::new());
    let day = Duration::from_secs(24 * 3600);
    let now = SystemTime::now();
    for (what, reason, kind, files) in [
        (
            "another name",
            "UPSTREAM_CERTIFICATE_NAME_MISMATCH",
            "other names",
            pki.leaf(&Leaf {
                dns: vec!["api.test".into()],
                ips: vec![],
                ..leaf()
            }),
        ),
        (
            "another address",
            "UPSTREAM_CERTIFICATE_NAME_MISMATCH",
            "other names",
            pki.leaf(&Leaf {
                dns: vec![],
                ips: vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))],
                ..leaf()
            }),
        ),
        (
            "a name for an address",
            "UPSTREAM_CERTIFICATE_NAME_MISMATCH",
            "other names",
            pki.leaf(&Leaf {
                dns: vec!["127.0.0.1".into()],
                ips: vec![],
                ..leaf()
            }),
        ),
        (
            "expired",
            "UPSTREAM_TLS_FAILED",
            "has expired",
            pki.leaf(&Leaf {
                not_before: now - 2 * day,
                not_after: now - day,
                ..leaf()
            }),
        ),
        (
            "not yet valid",
            "UPSTREAM_TLS_FAILED",
            "not valid yet",
            pki.leaf(&Leaf {
                not_before: now + day,
                not_after: now + 2 * day,
                ..leaf()
            }),
        ),
        (
            "a client's",
            "UPSTREAM_TLS_FAILED",
            "not one for servers",
            pki.leaf(&Leaf {
                usages: vec![Usage::Client],
                ..leaf()
            }),
        ),
        (
            "signed by itself",
            "UPSTREAM_CERTIFICATE_UNTRUSTED",
            "no CA that is trusted",
            self_signed(&pki),
        ),
        (
            "of another CA",
            "UPSTREAM_CERTIFICATE_UNTRUSTED",
            "no CA that is trusted",
            other.leaf(&leaf()),
        ),
    ] {
        let upstream = Upstream::tls(tls(&files, &["h2", "http/1.1"])).await;
        pair.injector.add(https(&upstream.url(), &pki.ca_pem())).await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let response = call(&pair, version).await;
            assert_eq!(refusal(&response), (502, reason), "{what}");
            let problem = String::from_utf8_lossy(response.body());
            assert!(problem.contains(kind), "{what}: {problem}");
        }
        assert_eq!(upstream.seen().len(), 0, "{what}");
        pair.injector.remove("dev", "api").await;
    }
    // A server without a CA of its own is verified by the system's CAs, which do not include the tests' CA.
    let upstream = Upstream::tls(tls(&pki.leaf(&leaf()), &["h2"])).await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    assert_eq!(
        refusal(&call(&pair, Version::HTTP_11).await),
        (502, "UPSTREAM_CERTIFICATE_UNTRUSTED")
    );
    assert_eq!(upstream.seen().len(), 0);
    pair.stop().await;
}

/// Makes a certificate like `openssl req -x509`: a self-signed CA certificate. `change` edits it before it is signed.
fn like_openssl(pki: &Pki, name: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Files {
    let mut params =
        rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    change(&mut params);
    let key = rcgen::KeyPair::generate().unwrap();
    let file = |kind| pki.ca_file().with_file_name(format!("{name}-{kind}.pem"));
    let files = Files {
        cert: file("cert"),
        key: file("key"),
    };
    fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

#[tokio::test]
async fn a_pinned_certificate_is_accepted_while_it_is_valid() {
    let pair = dev().await;
    let (pki, other) = (Pki::new(), Pki::new());
    let long_ago = rcgen::date_time_ymd(2001, 1, 1);
    for (what, files, expected) in [
        ("made by openssl", like_openssl(&pki, "ordinary", |_| {}), 200),
        // Browsers require alternative names; curl and `openssl s_client` do not.
        (
            "with a common name alone",
            like_openssl(&pki, "nameless", |params| params.subject_alt_names.clear()),
            200,
        ),
        ("of a CA that is not there", other.leaf(&leaf()), 200),
        (
            "expired",
            like_openssl(&pki, "expired", |params| params.not_after = long_ago),
            502,
        ),
    ] {
        let upstream = Upstream::tls(tls(&files, &["h2", "http/1.1"])).await;
        let pinned = fs::read_to_string(&files.cert).unwrap();
        pair.injector.add(https(&upstream.url(), &pinned)).await;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let request = UpdateServerRequest {
                server: Some(Server {
                    protocol: protocol.into(),
                    ..server("dev", "api", "", &[])
                }),
                update_mask: Some(prost_types::FieldMask {
                    paths: vec!["protocol".into()],
                }),
            };
            pair.injector.servers().update_server(request).await.unwrap();
            let response = call(&pair, Version::HTTP_11).await;
            assert_eq!(response.status(), expected, "{what}: {:?}", response.body());
        }
        pair.injector.remove("dev", "api").await;

        // Another certificate is not accepted in its place.
        let impostor = Upstream::tls(tls(
            &like_openssl(&other, "impostor", |_| {}),
            &["h2", "http/1.1"],
        ))
        .await;
        pair.injector.add(https(&impostor.url(), &pinned)).await;
        assert_eq!(
            refusal(&call(&pair, Version::HTTP_11).await),
            (502, "UPSTREAM_CERTIFICATE_UNTRUSTED"),
            "{what}"
        );
        assert_eq!(impostor.seen().len(), 0);
        pair.injector.remove("dev", "api").await;
    }
    pair.stop().await;
}

/// Returns the TLS settings of an upstream that requires a client certificate of `pki`.
fn mutual_tls(
    pki: &Pki,
    alpn: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = chassis::tls::provider();
    let clients =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build();
    let files = pki.leaf(&leaf());
    let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(clients.unwrap())
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

#[tokio::test]
async fn a_missing_client_certificate_is_reported_in_the_refusal() {
    let pair = dev().await;
    let pki = Pki::new();
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        for alpn in ["h2", "http/1.1"] {
            let upstream = Upstream::tls(mutual_tls(&pki, &[alpn], versions)).await;
            pair.injector.add(https(&upstream.url(), &pki.ca_pem())).await;
            let response = call(&pair, Version::HTTP_11).await;
            assert_eq!(
                refusal(&response),
                (502, "UPSTREAM_CLIENT_CERTIFICATE_REFUSED"),
                "{alpn} {versions:?}"
            );
            assert_eq!(upstream.seen().len(), 0);
            pair.injector.remove("dev", "api").await;
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_client_certificate_comes_from_the_vault_for_each_handshake() {
    let pair = dev().await;
    let (pki, stranger) = (Pki::new(), Pki::new());
    let client = |pki: &Pki| {
        let files = pki.leaf(&Leaf {
            usages: vec![Usage::Client],
            ..leaf()
        });
        [files.cert, files.key]
            .map(|file| fs::read_to_string(file).unwrap())
            .concat()
    };
    let refused = (502, "UPSTREAM_CLIENT_CERTIFICATE_REFUSED");
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        for alpn in ["h2", "http/1.1"] {
            let upstream = Upstream::tls(mutual_tls(&pki, &[alpn], versions)).await;
            let api = https(&upstream.url(), &pki.ca_pem());
            let tls = api.tls.clone().map(|tls| UpstreamTls {
                client_cert_secret: "client-cert".to_owned(),
                ..tls
            });
            let described = pair.injector.add(Server { tls, ..api }).await;
            assert_eq!(described.tls.unwrap().client_cert_secret, "CLIENT_CERT");

            let missing = call(&pair, Version::HTTP_11).await;
            assert_eq!(refusal(&missing), (502, "SECRET_REQUIRED_MISSING"));
            pair.vault.put("dev", "CLIENT_CERT", "not PEM").await;
            assert_eq!(refusal(&call(&pair, Version::HTTP_11).await), refused);
            pair.vault.put("dev", "CLIENT_CERT", &client(&stranger)).await;
            let other = call(&pair, Version::HTTP_11).await;
            assert_eq!(refusal(&other), refused, "{alpn} {versions:?}");
            assert_eq!(upstream.seen().len(), 0);
            pair.vault.put("dev", "CLIENT_CERT", &client(&pki)).await;
            let response = call(&pair, Version::HTTP_11).await;
            assert_eq!(response.status(), 200, "{alpn} {:?}", response.body());

            pair.vault.delete("dev", "CLIENT_CERT").await;
            pair.injector.remove("dev", "api").await;
        }
    }
    pair.stop().await;
}

/// Binds the secret `TOKEN` to the upstream's origin.
async fn bind(pair: &Pair, upstream: &Upstream) {
    pair.vault
        .put_for("dev", "TOKEN", SECRET, &[&upstream.url()])
        .await;
}

/// Sets the TLS of the server `api` as the administrator.
async fn set_tls(pair: &Pair, tls: UpstreamTls) -> Result<(), tonic::Status> {
    let request = UpdateServerRequest {
        server: Some(Server {
            tls: Some(tls),
            ..server("dev", "api", "", &[])
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["tls".into()],
        }),
    };
    pair.injector.servers().update_server(request).await.map(drop)
}

async fn state(pair: &Pair) -> (State, bool) {
    let request = ExplainInjectionRequest {
        workspace: "dev".into(),
        name: "api".into(),
    };
    let answer = pair.injector.servers().explain_injection(request).await;
    let explained = answer.unwrap().into_inner();
    (explained.secrets[0].state(), explained.would_forward)
}

#[tokio::test]
async fn a_bound_value_is_not_sent_to_a_host_that_only_the_servers_own_ca_verifies() {
    let pair = dev().await;
    let pki = Pki::new();
    let upstream = Upstream::tls(tls(&pki.leaf(&leaf()), &["h2", "http/1.1"])).await;
    let api = https(&upstream.url(), &pki.ca_pem());
    pair.injector.add(api.clone()).await;
    assert_eq!(call(&pair, Version::HTTP_11).await.status(), 200);
    assert_eq!(state(&pair).await, (State::Injected, true));

    bind(&pair, &upstream).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let response = call(&pair, version).await;
        assert_eq!(refusal(&response), (502, "UPSTREAM_NOT_VERIFIED"));
    }
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(state(&pair).await, (State::UpstreamNotVerified, false));

    let own = api.tls.clone().unwrap();
    let refused = set_tls(&pair, own.clone()).await.unwrap_err();
    assert_eq!(
        refused.get_details_error_info().unwrap().reason,
        "UPSTREAM_NOT_VERIFIED"
    );
    pair.injector.remove("dev", "api").await;
    assert_eq!(
        pair.injector.try_add(api.clone()).await.unwrap_err().code(),
        refused.code()
    );

    let allowed = UpstreamTls {
        allow_bound_secrets: true,
        ..own
    };
    let tls = Some(allowed);
    pair.injector.add(Server { tls, ..api }).await;
    assert_eq!(call(&pair, Version::HTTP_11).await.status(), 200);
    assert_eq!(state(&pair).await, (State::Injected, true));
    pair.stop().await;
}

#[tokio::test]
async fn a_bound_value_is_sent_to_a_host_that_the_injectors_cas_verify() {
    let (first, pki) = (Pki::new(), Pki::new());
    let files = vec![first.ca_file(), pki.ca_file()];
    let pair = Pair::start_with(|_| {}, |settings| settings.upstream_ca = files).await;
    pair.vault.workspace("dev").await;
    let upstream = Upstream::tls(tls(&pki.leaf(&leaf()), &["h2"])).await;
    bind(&pair, &upstream).await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    assert_eq!(call(&pair, Version::HTTP_11).await.status(), 200);
    assert_arrived(&upstream, Version::HTTP_2);

    // The injector's CAs verify the upstream, but for another name than the URL's.
    let renamed = UpstreamTls {
        server_name: "localhost".into(),
        ..Default::default()
    };
    assert!(set_tls(&pair, renamed.clone()).await.is_err());
    pair.vault.put("dev", "TOKEN", SECRET).await;
    set_tls(&pair, renamed).await.unwrap();
    bind(&pair, &upstream).await;
    assert_eq!(
        refusal(&call(&pair, Version::HTTP_11).await),
        (502, "UPSTREAM_NOT_VERIFIED")
    );
    assert_eq!(upstream.seen().len(), 1);
    pair.stop().await;
}

/// Starts an upstream that responds to any bytes with cleartext HTTP. The channel returns all bytes of each connection.
async fn cleartext() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 64 * 1024];
            let count = stream.read(&mut bytes).await.unwrap_or(0);
            bytes.truncate(count);
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            let _ = stream.read_to_end(&mut bytes).await;
            let _ = sender.send(bytes);
        }
    });
    (address, received)
}

#[tokio::test]
async fn an_upstream_that_speaks_cleartext_behind_https_gets_no_secret() {
    let pair = dev().await;
    let (address, mut received) = cleartext().await;
    pair.injector
        .add(https(&format!("https://{address}"), &Pki::new().ca_pem()))
        .await;
    assert_eq!(
        refusal(&call(&pair, Version::HTTP_11).await),
        (502, "UPSTREAM_NOT_TLS")
    );
    let bytes = timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
    assert_eq!(bytes[0], 22, "a TLS handshake record comes first");
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains(SECRET) && !text.contains("x-mcp-secret") && !text.contains("POST"));
    pair.stop().await;
}
