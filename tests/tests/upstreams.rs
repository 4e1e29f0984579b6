//! How upstreams are reached: over which protocol, at which addresses, and whom TLS has to show them to be.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up should say so at once"
)]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aerostack::pki::{Leaf, Usage};
use bytes::Bytes;
use e2e::{PATIENCE, Pair, Pki, Upstream, pair::server, pki::Files};
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::injector::v1::{GetServerRequest, Protocol, Server, UpdateServerRequest, UpstreamTls};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};
use tonic::Code;
use tonic_types::StatusExt as _;

const SECRET: &str = "tok-1-never-in-cleartext";

/// A workspace `dev` with a secret `TOKEN`.
async fn dev() -> Pair {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", SECRET).await;
    pair
}

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

/// A certificate for loopback addresses and localhost.
fn leaf() -> Leaf {
    Leaf {
        dns: vec!["localhost".to_owned()],
        ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        usages: vec![Usage::Server],
        ..Pki::blank()
    }
}

/// TLS of an upstream that offers these protocols.
fn tls(files: &Files, alpn: &[&str]) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let mut config = ServerConfig::builder_with_provider(proto::serve::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A call through the injector to the server `api`.
async fn call(pair: &Pair, version: Version) -> Response<Bytes> {
    let http2 = version == Version::HTTP_2;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http::<Full<Bytes>>();
    let request = Request::post(pair.injector.url("/dev/api/a?b=c")).version(version);
    let sent = client.request(request.body(Full::from("hello")).unwrap());
    let response = timeout(PATIENCE, sent)
        .await
        .expect("the call was never answered")
        .unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

fn refusal(response: &Response<Bytes>) -> (u16, &str) {
    let reason = response
        .headers()
        .get("x-aerostack-reason")
        .map_or("", |reason| reason.to_str().unwrap());
    assert!(!String::from_utf8_lossy(response.body()).contains(SECRET));
    (response.status().as_u16(), reason)
}

/// Checks that the last call arrived whole, with its secret, over `version`.
fn assert_arrived(upstream: &Upstream, version: Version) {
    let seen = upstream.last();
    assert_eq!(seen.version, version);
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/a?b=c"));
    assert_eq!(seen.host, upstream.address.to_string());
    assert_eq!(seen.header("x-mcp-secret-token"), Some(SECRET));
    assert_eq!((&seen.body[..], seen.complete), (&b"hello"[..], true));
}

/// A listener that nobody must connect to.
struct Untouched(std::net::TcpListener);

impl Untouched {
    fn bind() -> (Self, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (Self(listener), address)
    }

    /// The kernel accepts whether or not we do, so a connection that was ever made shows here.
    fn check(self) {
        assert_eq!(
            self.0.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "somebody connected"
        );
    }
}

#[tokio::test]
async fn every_pair_of_versions_works_in_cleartext() {
    let (upstream, pair) = (Upstream::start().await, dev().await);
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    for (protocol, sent) in [
        (Protocol::Http1, Version::HTTP_11),
        (Protocol::Http2, Version::HTTP_2),
        (Protocol::Auto, Version::HTTP_11),
    ] {
        let changed = Server {
            protocol: protocol.into(),
            ..server("dev", "api", "", &[])
        };
        let update_mask = Some(prost_types::FieldMask {
            paths: vec!["protocol".into()],
        });
        let request = UpdateServerRequest {
            server: Some(changed),
            update_mask,
        };
        pair.injector.servers().update_server(request).await.unwrap();
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let response = call(&pair, version).await;
            assert_eq!((response.status().as_u16(), response.version()), (200, version));
            assert_eq!(&response.body()[..], b"ok");
            assert_arrived(&upstream, sent);
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn over_tls_the_version_is_what_alpn_gives() {
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
        remove(&pair).await;
    }
    pair.stop().await;
}

async fn remove(pair: &Pair) {
    let request = proto::injector::v1::RemoveServerRequest {
        workspace: "dev".into(),
        name: "api".into(),
        ..Default::default()
    };
    pair.injector.servers().remove_server(request).await.unwrap();
}

#[tokio::test]
async fn an_upstream_without_http2_is_refused_where_only_http2_is_spoken() {
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
async fn a_server_may_be_named_otherwise_in_its_certificate() {
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
async fn an_upstream_whose_certificate_is_wrong_gets_no_secret() {
    let pair = dev().await;
    let (pki, other) = (Pki::new(), Pki::new());
    let day = Duration::from_secs(24 * 3600);
    let now = SystemTime::now();
    for (what, files) in [
        (
            "another name",
            pki.leaf(&Leaf {
                dns: vec!["api.test".into()],
                ips: vec![],
                ..leaf()
            }),
        ),
        (
            "another address",
            pki.leaf(&Leaf {
                dns: vec![],
                ips: vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))],
                ..leaf()
            }),
        ),
        (
            "a name for an address",
            pki.leaf(&Leaf {
                dns: vec!["127.0.0.1".into()],
                ips: vec![],
                ..leaf()
            }),
        ),
        (
            "expired",
            pki.leaf(&Leaf {
                not_before: now - 2 * day,
                not_after: now - day,
                ..leaf()
            }),
        ),
        (
            "not yet valid",
            pki.leaf(&Leaf {
                not_before: now + day,
                not_after: now + 2 * day,
                ..leaf()
            }),
        ),
        (
            "a client's",
            pki.leaf(&Leaf {
                usages: vec![Usage::Client],
                ..leaf()
            }),
        ),
        ("of another CA", other.leaf(&leaf())),
    ] {
        let upstream = Upstream::tls(tls(&files, &["h2", "http/1.1"])).await;
        pair.injector.add(https(&upstream.url(), &pki.ca_pem())).await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(
                refusal(&call(&pair, version).await),
                (502, "UPSTREAM_TLS_FAILED"),
                "{what}"
            );
        }
        assert_eq!(upstream.seen().len(), 0, "{what}");
        remove(&pair).await;
    }
    // Without a CA of its own the system's count, and ours is not among them.
    let upstream = Upstream::tls(tls(&pki.leaf(&leaf()), &["h2"])).await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    assert_eq!(
        refusal(&call(&pair, Version::HTTP_11).await),
        (502, "UPSTREAM_TLS_FAILED")
    );
    assert_eq!(upstream.seen().len(), 0);
    pair.stop().await;
}

/// Answers whatever it gets with a line of HTTP, and hands out all that came on each connection.
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
async fn an_upstream_that_speaks_http_behind_https_gets_no_secret() {
    let pair = dev().await;
    let (address, mut received) = cleartext().await;
    pair.injector
        .add(https(&format!("https://{address}"), &Pki::new().ca_pem()))
        .await;
    assert_eq!(
        refusal(&call(&pair, Version::HTTP_11).await),
        (502, "UPSTREAM_TLS_FAILED")
    );
    let bytes = timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
    assert_eq!(bytes[0], 22, "a TLS handshake record comes first");
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains(SECRET) && !text.contains("x-mcp-secret") && !text.contains("POST"));
    pair.stop().await;
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_502() {
    let pair = dev().await;
    let (closed, address) = Untouched::bind();
    drop(closed);
    pair.injector
        .add(server("dev", "api", &format!("http://{address}"), &["TOKEN"]))
        .await;
    assert_eq!(
        refusal(&call(&pair, Version::HTTP_11).await),
        (502, "UPSTREAM_UNREACHABLE")
    );
    pair.stop().await;
}

#[tokio::test]
async fn cleartext_over_a_network_has_to_be_asked_for() {
    let pair = dev().await;
    for url in [
        "http://10.0.0.1",
        "http://[fd00::1]:80/x",
        "http://api.example.com",
        "http://localhost.example.com",
    ] {
        let refused = pair
            .injector
            .try_add(server("dev", "api", url, &["TOKEN"]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{url}");
        assert!(
            refused.message().contains("allow_plaintext"),
            "{}",
            refused.message()
        );
        let allowed = Server {
            allow_plaintext: true,
            ..server("dev", "api", url, &["TOKEN"])
        };
        pair.injector.add(allowed).await;
        let request = |paths: &[&str]| UpdateServerRequest {
            server: Some(server("dev", "api", url, &[])),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|&path| path.to_owned()).collect(),
            }),
        };
        let refused = pair
            .injector
            .servers()
            .update_server(request(&["allow_plaintext"]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{url}");
        remove(&pair).await;
    }
    for url in [
        "https://10.0.0.1",
        "https://api.example.com",
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://localhost:1",
    ] {
        pair.injector.add(server("dev", "api", url, &["TOKEN"])).await;
        remove(&pair).await;
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_server_at_an_address_that_is_never_dialled_is_not_stored() {
    let dedicated = |settings: &mut injector_service::config::Settings| {
        settings.listen_server = vec!["127.0.0.1:0=dev/api".into()];
    };
    let pair = Pair::start_with(|_| {}, dedicated).await;
    pair.vault.workspace("dev").await;
    let mut urls: Vec<String> = [
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254",
        "http://169.254.0.1",
        "http://0xa9fea9fe",
        "http://2852039166/",
        "http://0251.0376.0251.0376",
        "http://[fe80::1]",
        "http://[::ffff:169.254.169.254]",
        "http://[fd00:ec2::254]",
        "http://100.100.100.200",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://0.0.0.0:80",
        "http://[::]:80",
        "http://0:80",
        "http://224.0.0.1",
        "http://255.255.255.255",
    ]
    .map(str::to_owned)
    .into();
    let injector = &pair.injector;
    for own in [
        injector.data_plane,
        injector.metrics,
        injector.address,
        injector.dedicated[0],
    ] {
        let port = own.port();
        for host in [
            "127.0.0.1",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1.",
            "0x7f000001",
            "[::ffff:127.0.0.1]",
        ] {
            urls.extend([
                format!("http://{host}:{port}"),
                format!("https://{host}:{port}/x"),
            ]);
        }
    }
    for url in &urls {
        let api = Server {
            allow_plaintext: true,
            ..server("dev", "api", url, &[])
        };
        let refused = pair.injector.try_add(api).await.unwrap_err();
        let reason = refused.get_details_error_info().unwrap().reason;
        assert_eq!(
            (refused.code(), reason.as_str()),
            (Code::FailedPrecondition, "UPSTREAM_ADDRESS_REFUSED"),
            "{url}"
        );
    }
    let request = GetServerRequest {
        workspace: "dev".into(),
        name: "api".into(),
    };
    assert_eq!(
        pair.injector
            .servers()
            .get_server(request)
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );

    // Nor can one that is there already be moved to such an address.
    pair.injector
        .add(server("dev", "api", "https://api.example.com", &[]))
        .await;
    for url in &urls {
        let moved = Server {
            allow_plaintext: true,
            ..server("dev", "api", url, &[])
        };
        let paths = vec!["url".into(), "allow_plaintext".into()];
        let request = UpdateServerRequest {
            server: Some(moved),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let refused = pair.injector.servers().update_server(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{url}");
    }
    pair.stop().await;
}

/// Names other than localhost that this machine resolves to a loopback address, as an attacker's name may.
fn names_of_loopback() -> Vec<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let loopback = lines.filter(|line| line.starts_with("127.0.0.1"));
    let names = loopback.flat_map(|line| {
        line.split_whitespace()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    names
        .filter(|name| !name.ends_with("localhost") && name.parse::<IpAddr>().is_err())
        .collect()
}

/// Where no such name exists, the unit tests beside the check have to do.
#[tokio::test]
async fn a_name_that_turns_out_to_be_this_machine_is_not_dialled() {
    let pair = dev().await;
    let (untouched, address) = Untouched::bind();
    for name in names_of_loopback() {
        for port in [
            address.port(),
            pair.injector.metrics.port(),
            pair.injector.data_plane.port(),
        ] {
            let url = format!("http://{name}:{port}");
            let api = Server {
                allow_plaintext: true,
                ..server("dev", "api", &url, &["TOKEN"])
            };
            pair.injector.add(api).await;
            let response = call(&pair, Version::HTTP_11).await;
            assert_eq!(refusal(&response), (502, "UPSTREAM_ADDRESS_REFUSED"), "{url}");
            remove(&pair).await;
        }
    }
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn a_redirect_is_passed_back_and_not_followed() {
    let (untouched, elsewhere) = Untouched::bind();
    let location = format!("http://{elsewhere}/steal");
    let moved = location.clone();
    let upstream = Upstream::answering(move |_| {
        Response::builder()
            .status(307)
            .header("location", moved.as_str())
            .body(Full::from("moved"))
            .unwrap()
    })
    .await;
    let pair = dev().await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let response = call(&pair, version).await;
        assert_eq!(
            (response.status().as_u16(), &response.body()[..]),
            (307, &b"moved"[..])
        );
        assert_eq!(response.headers()["location"], location);
    }
    assert_eq!(upstream.seen().len(), 2);
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn two_servers_at_one_address_are_two_servers() {
    let upstream = Upstream::start().await;
    let pair = dev().await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    pair.injector
        .add(server("dev", "plain", &upstream.url(), &[]))
        .await;
    for path in ["/dev/api/", "/dev/plain/", "/dev/api/"] {
        assert_eq!(pair.injector.get(path).await.status(), 200);
    }
    let secrets: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.header("x-mcp-secret-token").is_some())
        .collect();
    assert_eq!(secrets, [true, false, true]);
    pair.stop().await;
}
