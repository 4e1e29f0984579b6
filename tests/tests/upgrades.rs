//! Upgraded connections: the handshake is a call like any other, and then bytes pass both ways.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    slice::from_ref,
    sync::Arc,
    time::Duration,
};

use aerostack::pki::{Leaf, Usage};
use e2e::{
    PATIENCE, Pair, Pki, Upstream,
    pair::{get, server},
    raw::status,
};
use futures_util::{SinkExt as _, StreamExt as _};
use proto::injector::v1::{
    AuthType, CookiePlacement, FormPlacement, HeaderPlacement, Injection, JsonPlacement, Protocol, Server,
    UpstreamTls, injection::Placement,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy, split},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    accept_async, client_async,
    tungstenite::{Message, protocol::CloseFrame, protocol::frame::coding::CloseCode},
};

const SECRET: &str = "canary-7c1e-of-a-handshake";
/// Fields of a WebSocket handshake from the client.
const WEBSOCKET: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// The response of a WebSocket server.
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Reads an HTTP/1.1 head, and no bytes after it.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, stream.read_u8()).await.expect("no head came");
        let Ok(byte) = byte else { break };
        head.push(byte);
        assert!(head.len() < 64 * 1024, "a head without an end");
    }
    String::from_utf8(head).unwrap()
}

/// Returns the values of a header.
fn values<'h>(head: &'h str, name: &str) -> Vec<&'h str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

/// An upstream whose responses the test writes.
struct ManualUpstream(TcpListener);

impl ManualUpstream {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// Accepts the next connection, and reads the head of its first request.
    async fn accept(&self) -> (TcpStream, String) {
        let (mut stream, _) = timeout(PATIENCE, self.0.accept())
            .await
            .expect("nobody connected")
            .unwrap();
        let head = head(&mut stream).await;
        (stream, head)
    }

    /// Reads the head of the next request, on the kept connection or on a new one.
    async fn next(&self, mut kept: TcpStream) -> (TcpStream, String) {
        tokio::select! {
            _ = kept.readable() => {
                let head = head(&mut kept).await;
                (kept, head)
            }
            accepted = self.accept() => accepted,
        }
    }
}

/// Starts a pair whose workspace `dev` has the secret `TOKEN`.
async fn dev_with(edit: impl FnOnce(&mut injector_service::config::Settings)) -> Pair {
    let pair = Pair::start_with(|_| {}, edit).await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", SECRET).await;
    pair
}

/// Starts a pair whose workspace `dev` has the secret `TOKEN` and the server `api`.
async fn dev(url: &str) -> Pair {
    let pair = dev_with(|_| {}).await;
    pair.injector.add(server("dev", "api", url, &["TOKEN"])).await;
    pair
}

/// Sends a handshake on a new connection to the data plane.
async fn ask(pair: &Pair, headers: &str) -> TcpStream {
    ask_at(pair.injector.data_plane, headers).await
}

async fn ask_at(address: SocketAddr, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, headers).await;
    stream
}

async fn send(stream: &mut TcpStream, headers: &str) {
    let request = format!("GET /dev/api/chat?room=1 HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// Returns both ends of an upgraded connection.
async fn upgraded(pair: &Pair, upstream: &ManualUpstream) -> (TcpStream, TcpStream) {
    let mut downstream = ask(pair, WEBSOCKET).await;
    let (mut its, _) = upstream.accept().await;
    its.write_all(SWITCH.as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut downstream).await), 101);
    (downstream, its)
}

/// Asserts that bytes written at one end arrive at the other.
async fn assert_relays(
    from: &mut (impl AsyncWrite + Unpin),
    to: &mut (impl AsyncRead + Unpin),
    bytes: impl AsRef<[u8]>,
) {
    let bytes = bytes.as_ref();
    from.write_all(bytes).await.unwrap();
    from.flush().await.unwrap();
    let mut came = vec![0; bytes.len()];
    timeout(PATIENCE, to.read_exact(&mut came))
        .await
        .expect("not everything came")
        .unwrap();
    assert_eq!(came, bytes);
}

/// Reads until the end or a reset.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("it was never closed");
    rest
}

/// Reads a refusal with its body. Returns the status and the reason.
async fn refusal(stream: &mut TcpStream) -> (u16, String) {
    let (head, _) = answer(stream).await;
    let reason = values(&head, "x-aerostack-reason").concat();
    (status(&head), reason)
}

/// Reads a response with a `Content-Length`.
async fn answer(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let head = head(stream).await;
    let length = values(&head, "content-length").concat().parse().unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (head, body)
}

// ---- the handshake ----

#[tokio::test]
async fn a_handshake_has_the_secret_and_no_other_fields_about_the_connection() {
    let upstream = ManualUpstream::start().await;
    let pair = dev_with(|_| {}).await;
    for (auth_type, name, value) in [
        (AuthType::SecretHeaders, "x-mcp-secret-token", SECRET.to_owned()),
        (AuthType::Bearer, "authorization", format!("Bearer {SECRET}")),
    ] {
        let api = Server {
            auth_type: auth_type.into(),
            ..server("dev", "api", &upstream.url(), &["TOKEN"])
        };
        pair.injector.add(api).await;
        let mut downstream = ask(
            &pair,
            "Connection: upgrade, X-Mcp-Secret-Token, Authorization\r\nConnection: host, x-mine\r\nX-Mine: 1\r\n\
             Upgrade: h2c, WebSocket\r\nUpgrade: tcp/2\r\nHTTP2-Settings: x\r\nKeep-Alive: 5\r\nTE: gzip\r\n\
             Proxy-Authorization: Basic x\r\nX-Mcp-Secret-Token: theirs\r\nX_Mcp_Secret_Token: theirs\r\n\
             Authorization: Basic theirs\r\nX-Kept: 1\r\nSec-WebSocket-Key: a-key\r\n",
        )
        .await;
        let (mut its, asked) = upstream.accept().await;
        assert!(asked.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{asked}");
        for (name, expected) in [
            (name, &[value.as_str()][..]),
            ("connection", &["upgrade"]),
            ("upgrade", &["WebSocket, tcp/2"]),
            ("host", &[&upstream.url()["http://".len()..]]),
            ("x-kept", &["1"]),
            ("sec-websocket-key", &["a-key"]),
            ("x-mine", &[]),
            ("http2-settings", &[]),
            ("keep-alive", &[]),
            ("te", &[]),
            ("proxy-authorization", &[]),
        ] {
            assert_eq!(values(&asked, name), expected, "{name}");
        }
        assert!(!asked.contains("theirs"), "{asked}");

        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade, X-Its\r\nX-Its: 1\r\nUpgrade: websocket\r\n\
                      Keep-Alive: 5\r\nContent-Length: 3\r\nX-Aerostack-Reason: x\r\nAccess-Control-Allow-Origin: *\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        its.write_all(switch.as_bytes()).await.unwrap();
        let told = head(&mut downstream).await;
        assert!(told.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{told}");
        for (name, expected) in [
            ("connection", &["upgrade"][..]),
            ("upgrade", &["websocket"]),
            ("sec-websocket-accept", &["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]),
            ("x-its", &[]),
            ("keep-alive", &[]),
            ("content-length", &[]),
            ("transfer-encoding", &[]),
            ("x-aerostack-reason", &[]),
            ("access-control-allow-origin", &[]),
        ] {
            assert_eq!(values(&told, name), expected, "{name}");
        }
        assert!(!told.contains(SECRET));
        assert_relays(&mut downstream, &mut its, "up").await;
        assert_relays(&mut its, &mut downstream, "down").await;
        drop(its);
        assert_eq!(rest(&mut downstream).await, b"");
        pair.injector.remove("dev", "api").await;
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_handshake_has_the_headers_and_cookies_of_the_server() {
    let upstream = ManualUpstream::start().await;
    let pair = dev_with(|_| {}).await;
    let header = HeaderPlacement {
        name: "authorization".into(),
        value: "Token token=${TOKEN}".into(),
    };
    let cookie = CookiePlacement {
        name: "session".into(),
        value: "${TOKEN}".into(),
    };
    let injections = [Placement::Header(header), Placement::Cookie(cookie)].map(|placement| Injection {
        required: true,
        placement: Some(placement),
    });
    let api = Server {
        injections: injections.to_vec(),
        ..server("dev", "api", &upstream.url(), &[])
    };
    pair.injector.add(api).await;
    let theirs = "Authorization: theirs\r\nCookie: session=theirs; a=1\r\n";
    let mut downstream = ask(&pair, &format!("{WEBSOCKET}{theirs}")).await;
    let (mut its, asked) = upstream.accept().await;
    assert_eq!(values(&asked, "authorization"), [format!("Token token={SECRET}")]);
    assert_eq!(values(&asked, "cookie"), [format!("session={SECRET}; a=1")]);
    its.write_all(SWITCH.as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut downstream).await), 101);
    assert_relays(&mut downstream, &mut its, "up").await;
    pair.stop().await;
}

/// A handshake has no body, so it is treated like any call without a body.
#[tokio::test]
async fn a_handshake_lacks_the_secrets_in_bodies_and_is_refused_when_one_is_required() {
    let upstream = ManualUpstream::start().await;
    let pair = dev_with(|_| {}).await;
    let url = upstream.url();
    let value = || "${TOKEN}".to_owned();
    let json = Placement::Json(JsonPlacement {
        pointer: "/token".into(),
        value: value(),
    });
    let form = Placement::Form(FormPlacement {
        field: "token".into(),
        value: value(),
    });
    let header = Placement::Header(HeaderPlacement {
        name: "x-key".into(),
        value: value(),
    });
    let custom = |placements: &[Placement], required| Server {
        injections: placements
            .iter()
            .map(|placement| Injection {
                required: required && !matches!(placement, Placement::Header(_)),
                placement: Some(placement.clone()),
            })
            .collect(),
        ..server("dev", "api", &url, &[])
    };
    let skill = |required: &[&str]| Server {
        auth_type: AuthType::Skill.into(),
        required_secrets: required.iter().map(ToString::to_string).collect(),
        ..server("dev", "api", &url, &["TOKEN"])
    };
    for (optional, required, key) in [
        (
            custom(from_ref(&json), false),
            custom(from_ref(&json), true),
            &[][..],
        ),
        (custom(from_ref(&form), false), custom(&[form], true), &[]),
        (
            custom(&[json.clone(), header.clone()], false),
            custom(&[json, header], true),
            &[SECRET],
        ),
        (skill(&[]), skill(&["TOKEN"]), &[]),
    ] {
        let listed = Server {
            paths: vec!["/other".into()],
            ..required.clone()
        };
        pair.injector.add(required).await;
        let mut downstream = ask(&pair, WEBSOCKET).await;
        assert_eq!(refusal(&mut downstream).await, (400, "BODY_MISSING".to_owned()));
        pair.injector.remove("dev", "api").await;
        // The refused handshake did not reach the upstream, because the next one there is that of an optional secret, or of
        // a server whose `paths` leave the handshake out.
        for server in [optional, listed] {
            // A secret that the handshake carries in another place is not missing, and one of another path neither.
            let misses = u64::from(key.is_empty() && server.paths.is_empty());
            pair.injector.add(server).await;
            let before = missed(&pair).await;
            let mut downstream = ask(&pair, WEBSOCKET).await;
            let (mut its, asked) = upstream.accept().await;
            assert_eq!(values(&asked, "upgrade"), ["websocket"]);
            assert_eq!(values(&asked, "x-key"), key);
            assert_eq!(asked.matches(SECRET).count(), key.len(), "{asked}");
            its.write_all(SWITCH.as_bytes()).await.unwrap();
            assert_eq!(status(&head(&mut downstream).await), 101);
            assert_relays(&mut downstream, &mut its, "up").await;
            assert_eq!(missed(&pair).await, before + misses);
            pair.injector.remove("dev", "api").await;
        }
    }
    pair.stop().await;
}

/// Returns how many secrets calls to the server `dev/api` lacked.
async fn missed(pair: &Pair) -> u64 {
    let page = get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let page = String::from_utf8(page.body().to_vec()).unwrap();
    let metric = "aerostack_injector_missed_secrets_total{workspace=\"dev\",server=\"api\"} ";
    let count = page.lines().find_map(|line| line.strip_prefix(metric));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_body_of_a_handshake_gets_its_secrets() {
    let upstream = ManualUpstream::start().await;
    let pair = dev_with(|_| {}).await;
    let skill = Server {
        auth_type: AuthType::Skill.into(),
        ..server("dev", "api", &upstream.url(), &["TOKEN"])
    };
    pair.injector.add(skill).await;
    let mut downstream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let request = "POST /dev/api/start HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\
                   Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    downstream.write_all(request.as_bytes()).await.unwrap();
    let (mut its, _) = upstream.accept().await;
    let expected = format!("{{\"secrets\":{{\"TOKEN\":\"{SECRET}\"}}}}");
    let mut body = vec![0; expected.len()];
    timeout(PATIENCE, its.read_exact(&mut body))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(String::from_utf8(body).unwrap(), expected);
    its.write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status(&head(&mut downstream).await), 101);
    assert_relays(&mut its, &mut downstream, "out").await;
    pair.stop().await;
}

#[tokio::test]
async fn a_handshake_may_have_a_body() {
    let upstream = ManualUpstream::start().await;
    let pair = dev(&upstream.url()).await;
    let mut downstream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let request = "POST /dev/api/start HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\
                   Content-Length: 14\r\n\r\n{\"tty\": false}early";
    downstream.write_all(request.as_bytes()).await.unwrap();
    let (mut its, asked) = upstream.accept().await;
    assert_eq!(values(&asked, "upgrade"), ["tcp"]);
    let mut body = [0; 14];
    its.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"{\"tty\": false}");
    its.write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status(&head(&mut downstream).await), 101);
    let mut early = [0; 5];
    timeout(PATIENCE, its.read_exact(&mut early))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&early, b"early");
    assert_relays(&mut its, &mut downstream, "out").await;
    pair.stop().await;
}

#[tokio::test]
async fn a_forbidden_handshake_is_refused() {
    let upstream = ManualUpstream::start().await;
    let pair = dev(&upstream.url()).await;
    let url = upstream.url();
    let required = Server {
        required_secrets: vec!["GONE".into()],
        ..server("dev", "required", &url, &["GONE"])
    };
    let skill = Server {
        auth_type: AuthType::Skill.into(),
        required_secrets: vec!["TOKEN".into()],
        ..server("dev", "skill", &url, &["TOKEN"])
    };
    let http2 = Server {
        protocol: Protocol::Http2.into(),
        ..server("dev", "http2", &url, &["TOKEN"])
    };
    let page = Server {
        allowed_origins: vec!["https://app.example".into()],
        ..server("dev", "page", &url, &["TOKEN"])
    };
    for server in [required, skill, http2, page] {
        pair.injector.add(server).await;
    }
    for (name, host, more, refused) in [
        (
            "api",
            "localhost",
            "Origin: https://evil.example\r\n",
            (403, "BROWSER_REFUSED"),
        ),
        (
            "page",
            "localhost",
            "Origin: https://evil.example\r\n",
            (403, "BROWSER_REFUSED"),
        ),
        (
            "api",
            "localhost",
            "Sec-Fetch-Site: cross-site\r\n",
            (403, "BROWSER_REFUSED"),
        ),
        ("api", "evil.example", "", (421, "HOST_NOT_SERVED")),
        ("none", "localhost", "", (404, "SERVER_NOT_FOUND")),
        ("required", "localhost", "", (502, "SECRET_REQUIRED_MISSING")),
        ("skill", "localhost", "", (400, "BODY_MISSING")),
        ("http2", "localhost", "", (502, "UPSTREAM_PROTOCOL")),
    ] {
        let mut downstream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        let request = format!("GET /dev/{name}/refused HTTP/1.1\r\nHost: {host}\r\n{WEBSOCKET}{more}\r\n");
        downstream.write_all(request.as_bytes()).await.unwrap();
        let (code, reason) = refusal(&mut downstream).await;
        assert_eq!((code, reason.as_str()), refused, "{name} {host} {more}");
    }
    // The first handshake that arrives is the allowed one.
    let mut downstream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let request = format!(
        "GET /dev/page/allowed HTTP/1.1\r\nHost: localhost\r\n{WEBSOCKET}Origin: https://app.example\r\n\r\n"
    );
    downstream.write_all(request.as_bytes()).await.unwrap();
    let (mut its, asked) = upstream.accept().await;
    assert!(asked.starts_with("GET /allowed "), "{asked}");
    its.write_all(SWITCH.as_bytes()).await.unwrap();
    let told = head(&mut downstream).await;
    assert_eq!(status(&told), 101);
    assert_eq!(
        values(&told, "access-control-allow-origin"),
        ["https://app.example"]
    );
    pair.stop().await;
}

#[tokio::test]
async fn a_request_without_a_valid_upgrade_is_an_ordinary_request() {
    let upstream = Upstream::start().await;
    let pair = dev(&upstream.url()).await;
    for (version, headers) in [
        (
            "1.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n",
        ),
        ("1.1", "Connection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n"),
        ("1.1", "Connection: Upgrade\r\n"),
        ("1.1", "Connection: Upgrade\r\nUpgrade: \r\n"),
        ("1.1", "Connection: keep-alive\r\nUpgrade: websocket\r\n"),
        ("1.1", "Upgrade: websocket\r\n"),
        ("1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        (
            "1.1",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Type: application/grpc\r\n",
        ),
    ] {
        let before = upstream.seen().len();
        let mut downstream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        let request = format!("GET /dev/api/ HTTP/{version}\r\nHost: localhost\r\n{headers}\r\n");
        downstream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(status(&head(&mut downstream).await), 200, "{headers}");
        assert_eq!(upstream.seen().len(), before + 1);
        let seen = upstream.last();
        assert_eq!(seen.header("x-mcp-secret-token"), Some(SECRET), "{headers}");
        for name in ["connection", "upgrade", "http2-settings"] {
            assert_eq!(seen.header(name), None, "{headers}");
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_upstream_may_decline_an_upgrade() {
    let upstream = ManualUpstream::start().await;
    let pair = dev(&upstream.url()).await;
    let mut downstream = ask(&pair, WEBSOCKET).await;
    let (mut its, _) = upstream.accept().await;
    its.write_all(b"HTTP/1.1 403 Forbidden\r\nUpgrade: websocket\r\nX-Its: 1\r\nContent-Length: 2\r\n\r\nno")
        .await
        .unwrap();
    let (told, body) = answer(&mut downstream).await;
    assert_eq!((status(&told), &body[..]), (403, &b"no"[..]));
    assert_eq!(values(&told, "x-its"), ["1"]);
    assert!(
        values(&told, "upgrade").is_empty() && values(&told, "connection").is_empty(),
        "{told}"
    );

    // Both connections stay open, for an ordinary call and for a successful handshake.
    send(&mut downstream, "X-Ordinary: 1\r\n").await;
    let (mut its, asked) = upstream.next(its).await;
    assert_eq!(values(&asked, "x-ordinary"), ["1"]);
    assert!(
        values(&asked, "upgrade").is_empty() && values(&asked, "connection").is_empty(),
        "{asked}"
    );
    its.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    assert_eq!(answer(&mut downstream).await.1, b"ok");

    send(&mut downstream, WEBSOCKET).await;
    let (mut its, asked) = upstream.next(its).await;
    assert_eq!(values(&asked, "upgrade"), ["websocket"]);
    its.write_all(SWITCH.as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut downstream).await), 101);
    assert_relays(&mut downstream, &mut its, "up").await;
    assert_relays(&mut its, &mut downstream, "down").await;
    pair.stop().await;
}

#[tokio::test]
async fn an_unrequested_upgrade_is_refused() {
    let upstream = ManualUpstream::start().await;
    let pair = dev(&upstream.url()).await;
    let mut downstream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    for (asked, upgrade) in [
        ("", "Upgrade: websocket\r\n"),
        ("", ""),
        ("Upgrade: websocket\r\n", "Upgrade: websocket\r\n"),
        ("Connection: upgrade\r\nUpgrade: h2c\r\n", "Upgrade: h2c\r\n"),
        (
            "Connection: upgrade\r\nUpgrade: h2c, websocket\r\n",
            "Upgrade: h2c\r\n",
        ),
        (WEBSOCKET, ""),
        (WEBSOCKET, "Upgrade: other\r\n"),
        (WEBSOCKET, "Upgrade: websocket/2\r\n"),
        (WEBSOCKET, "Upgrade: websocket, other\r\n"),
        (WEBSOCKET, "Upgrade: websocket\r\nUpgrade: other\r\n"),
    ] {
        send(&mut downstream, asked).await;
        // Each handshake uses a new connection, because the injector closes these connections.
        let (mut its, _) = upstream.accept().await;
        let switch =
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{upgrade}\r\nsmuggled");
        its.write_all(switch.as_bytes()).await.unwrap();
        let (code, reason) = refusal(&mut downstream).await;
        assert_eq!(
            (code, reason.as_str()),
            (502, "UPSTREAM_PROTOCOL"),
            "{asked} {upgrade}"
        );
        assert_eq!(rest(&mut its).await, b"", "{asked} {upgrade}");
    }
    // The client's connection stays open.
    send(&mut downstream, "").await;
    let (mut its, _) = upstream.accept().await;
    its.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    assert_eq!(answer(&mut downstream).await.1, b"ok");
    pair.stop().await;
}

// ---- tunnelled bytes ----

#[tokio::test]
async fn bytes_that_arrive_with_a_head_are_relayed() {
    let upstream = ManualUpstream::start().await;
    let pair = dev(&upstream.url()).await;
    // The early bytes look like a head with the field of a secret, and end within a line.
    let mut early: Vec<u8> = (0..=255).collect();
    early.extend_from_slice(
        b"\r\nGET / HTTP/1.1\r\nx-mcp-secret-token: sto0eca1stostostostostos\r\n\r\nGET /",
    );
    let mut request = format!("GET /dev/api/ HTTP/1.1\r\nHost: localhost\r\n{WEBSOCKET}\r\n").into_bytes();
    request.extend_from_slice(&early);
    let mut downstream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    downstream.write_all(&request).await.unwrap();
    let (mut its, _) = upstream.accept().await;
    its.write_all(&[SWITCH.as_bytes(), &early].concat())
        .await
        .unwrap();
    assert_eq!(status(&head(&mut downstream).await), 101);
    for stream in [&mut downstream, &mut its] {
        let mut came = vec![0; early.len()];
        timeout(PATIENCE, stream.read_exact(&mut came))
            .await
            .expect("not everything came")
            .unwrap();
        assert_eq!(came, early);
    }
    assert_relays(&mut downstream, &mut its, &early).await;
    assert_relays(&mut its, &mut downstream, &early).await;
    pair.stop().await;
}

#[tokio::test]
async fn each_side_may_end_before_the_other() {
    let upstream = ManualUpstream::start().await;
    let pair = dev(&upstream.url()).await;
    for downstream_first in [true, false] {
        let (downstream, its) = upgraded(&pair, &upstream).await;
        let (mut first, mut second) = if downstream_first {
            (downstream, its)
        } else {
            (its, downstream)
        };
        first.write_all(b"last words").await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(rest(&mut second).await, b"last words");
        // Bytes in the other direction still arrive.
        assert_relays(&mut second, &mut first, "but").await;
        assert_relays(&mut second, &mut first, "still").await;
        second.shutdown().await.unwrap();
        assert_eq!(rest(&mut first).await, b"");
    }
    pair.stop().await;
}

#[tokio::test]
async fn both_ends_close_when_one_fails() {
    let upstream = ManualUpstream::start().await;
    let pair = dev(&upstream.url()).await;
    for downstream_first in [true, false] {
        let (downstream, its) = upgraded(&pair, &upstream).await;
        let (first, mut second) = if downstream_first {
            (downstream, its)
        } else {
            (its, downstream)
        };
        // A connection that is closed with unread bytes is reset.
        second.write_all(b"unread").await.unwrap();
        first.peek(&mut [0]).await.unwrap();
        drop(first);
        assert_eq!(rest(&mut second).await, b"");
    }
    pair.stop().await;
}

#[tokio::test]
async fn large_amounts_are_relayed_both_ways_at_once() {
    const MUCH: usize = 16 << 20;
    let upstream = ManualUpstream::start().await;
    let pair = dev(&upstream.url()).await;
    let (downstream, its) = upgraded(&pair, &upstream).await;
    let bytes = |seed: usize| -> Arc<Vec<u8>> {
        Arc::new(
            (0..MUCH)
                .map(|at| u8::try_from((at * 31 + (at >> 8) * seed) % 251).unwrap())
                .collect(),
        )
    };
    let (up, down) = (bytes(7), bytes(11));
    let mut ends = Vec::new();
    for (stream, send, expected) in [(downstream, up.clone(), down.clone()), (its, down, up)] {
        let (mut reader, mut writer) = stream.into_split();
        ends.push(tokio::spawn(async move {
            writer.write_all(&send).await.unwrap();
            writer.shutdown().await.unwrap();
        }));
        ends.push(tokio::spawn(async move {
            let came = rest(&mut reader).await;
            assert!(
                came == *expected,
                "{} bytes came, and not those that were sent",
                came.len()
            );
        }));
    }
    for end in ends {
        timeout(PATIENCE, end).await.expect("it stands still").unwrap();
    }
    pair.stop().await;
}

// ---- TLS ----

/// Starts a TLS upstream that prefers HTTP/2, where it never answers, and that upgrades and echoes over HTTP/1.1.
async fn tls_echo(pki: &Pki) -> SocketAddr {
    let files = pki.leaf(&Leaf {
        ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        usages: vec![Usage::Server],
        ..Pki::blank()
    });
    let chain = CertificateDer::pem_file_iter(&files.cert).unwrap();
    let mut config = ServerConfig::builder_with_provider(chassis::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            chain.map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                if stream.get_ref().1.alpn_protocol() != Some(b"http/1.1") {
                    return;
                }
                let asked = head(&mut stream).await;
                assert_eq!(values(&asked, "x-mcp-secret-token"), [SECRET]);
                let (mut reader, mut writer) = split(stream);
                writer.write_all(SWITCH.as_bytes()).await.unwrap();
                copy(&mut reader, &mut writer).await.unwrap();
                writer.write_all(b"that was all").await.unwrap();
                writer.shutdown().await.unwrap();
            });
        }
    });
    address
}

#[tokio::test]
async fn a_handshake_over_tls_uses_http1() {
    let pki = Pki::new();
    let address = tls_echo(&pki).await;
    let pair = dev_with(|_| {}).await;
    let tls = UpstreamTls {
        ca_pem: pki.ca_pem(),
        ..Default::default()
    };
    let api = Server {
        tls: Some(tls),
        ..server("dev", "api", &format!("https://{address}"), &["TOKEN"])
    };
    pair.injector.add(api).await;
    // Other calls use HTTP/2, where this upstream closes the connection.
    let mut downstream = ask(&pair, "").await;
    assert_eq!(
        refusal(&mut downstream).await,
        (502, "UPSTREAM_UNREACHABLE".to_owned())
    );
    let mut downstream = ask(&pair, WEBSOCKET).await;
    assert_eq!(status(&head(&mut downstream).await), 101);
    let (mut reader, mut writer) = downstream.split();
    assert_relays(&mut writer, &mut reader, "there and back").await;
    assert_relays(&mut writer, &mut reader, vec![7; 200_000]).await;
    writer.shutdown().await.unwrap();
    assert_eq!(rest(&mut reader).await, b"that was all");
    pair.stop().await;
}

// ---- lifetime ----

#[tokio::test]
async fn an_open_tunnel_is_closed_after_the_grace_period() {
    let upstream = ManualUpstream::start().await;
    let pair = dev_with(|settings| settings.process.shutdown_grace = "1s".to_owned()).await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    let (mut downstream, mut its) = upgraded(&pair, &upstream).await;
    let Pair { vault, injector } = pair;
    let (data_plane, started) = (injector.data_plane, Instant::now());
    let stopping = tokio::spawn(injector.stop());
    e2e::eventually("the listener is closed", async || {
        TcpStream::connect(data_plane).await.is_err()
    })
    .await;
    assert_relays(&mut downstream, &mut its, "still").await;
    assert_relays(&mut its, &mut downstream, "here").await;
    assert_eq!(rest(&mut downstream).await, b"");
    assert_eq!(rest(&mut its).await, b"");
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
    assert!((1..20).contains(&started.elapsed().as_secs()));
    vault.stop().await;
}

#[tokio::test]
async fn a_tunnel_that_ends_does_not_delay_the_shutdown() {
    let upstream = ManualUpstream::start().await;
    let pair = dev_with(|settings| settings.process.shutdown_grace = "5m".to_owned()).await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    let (downstream, mut its) = upgraded(&pair, &upstream).await;
    let Pair { vault, injector } = pair;
    let stopping = tokio::spawn(injector.stop());
    drop(downstream);
    assert_eq!(rest(&mut its).await, b"");
    drop(its);
    timeout(PATIENCE, stopping).await.expect("it waits").unwrap();
    vault.stop().await;
}

#[tokio::test]
async fn a_tunnel_counts_as_a_connection() {
    let upstream = ManualUpstream::start().await;
    let pair = dev_with(|settings| settings.limits.max_connections = "1".to_owned()).await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    for _ in 0..2 {
        let (mut downstream, mut its) = upgraded(&pair, &upstream).await;
        let mut second = ask(&pair, "Origin: https://refused.example\r\n").await;
        let waiting = timeout(Duration::from_millis(300), second.peek(&mut [0])).await;
        assert!(
            waiting.is_err(),
            "a second connection was served beside the tunnel"
        );
        assert_relays(&mut downstream, &mut its, "up").await;
        its.shutdown().await.unwrap();
        assert_eq!(rest(&mut downstream).await, b"");
        drop(downstream);
        assert_eq!(refusal(&mut second).await.0, 403);
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_tunnel_outlives_the_limits_of_http() {
    let upstream = ManualUpstream::start().await;
    let pair = dev_with(|settings| {
        settings.limits.idle_timeout = "1s".to_owned();
        settings.limits.head_timeout = "1s".to_owned();
        settings.limits.write_timeout = "1s".to_owned();
        settings.limits.max_call_duration = "1s".to_owned();
    })
    .await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    let (mut downstream, mut its) = upgraded(&pair, &upstream).await;
    assert_relays(&mut downstream, &mut its, "up").await;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert_relays(&mut downstream, &mut its, "up").await;
    assert_relays(&mut its, &mut downstream, "down").await;
    pair.stop().await;
}

#[tokio::test]
async fn an_idle_tunnel_is_closed() {
    let upstream = ManualUpstream::start().await;
    let pair = dev_with(|settings| settings.limits.upgraded_idle_timeout = "700ms".to_owned()).await;
    pair.injector
        .add(server("dev", "api", &upstream.url(), &["TOKEN"]))
        .await;
    let (mut downstream, mut its) = upgraded(&pair, &upstream).await;
    let started = Instant::now();
    assert_relays(&mut downstream, &mut its, "up").await;
    assert_eq!(rest(&mut downstream).await, b"");
    assert_eq!(rest(&mut its).await, b"");
    assert!(started.elapsed() >= Duration::from_millis(600));
    pair.stop().await;
}

#[tokio::test]
async fn a_tunnel_outlives_the_removal_of_its_server() {
    let upstream = ManualUpstream::start().await;
    let pair = dev(&upstream.url()).await;
    let (mut downstream, mut its) = upgraded(&pair, &upstream).await;
    pair.injector.remove("dev", "api").await;
    let mut another = ask(&pair, WEBSOCKET).await;
    assert_eq!(refusal(&mut another).await, (404, "SERVER_NOT_FOUND".to_owned()));
    assert_relays(&mut downstream, &mut its, "up").await;
    assert_relays(&mut its, &mut downstream, "down").await;
    pair.stop().await;
}

// ---- WebSocket ----

#[tokio::test]
async fn a_websocket_works_as_without_the_injector() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let direct = listener.local_addr().unwrap();
    // The server echoes messages, and closes the WebSocket when it is asked to.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    let sent = match message {
                        Message::Text(text) if text.as_str() == "leave" => {
                            let code = CloseCode::Away;
                            let reason = "as you wish".into();
                            socket.close(Some(CloseFrame { code, reason })).await
                        }
                        Message::Text(_) | Message::Binary(_) => socket.send(message).await,
                        _ => Ok(()),
                    };
                    sent.unwrap();
                }
            });
        }
    });
    let pair = dev(&format!("http://{direct}")).await;
    let mut heard = Vec::new();
    for url in [
        format!("ws://{direct}/chat"),
        format!("ws://{}/dev/api/chat", pair.injector.data_plane),
    ] {
        heard.push(conversations(&url).await);
    }
    assert_eq!(heard[0].len(), 10);
    assert_eq!(heard[0], heard[1]);
    pair.stop().await;
}

/// Returns everything that a client receives on a WebSocket that it closes, and on one that the server closes.
async fn conversations(url: &str) -> Vec<String> {
    let address = url["ws://".len()..].split('/').next().unwrap();
    let mut heard = Vec::new();
    for last in [
        Message::Close(Some(CloseFrame {
            code: CloseCode::Normal,
            reason: "done".into(),
        })),
        Message::text("leave"),
    ] {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut socket, _) = client_async(url, stream).await.unwrap();
        for message in [
            Message::text("grüße"),
            Message::binary(vec![0, 255, 10, 13]),
            Message::Ping("ping".into()),
            Message::binary(vec![42; 1 << 20]),
            last,
        ] {
            socket.send(message).await.unwrap();
            let answer = timeout(PATIENCE, socket.next()).await.expect("no answer");
            heard.push(format!("{answer:?}"));
        }
        assert!(timeout(PATIENCE, socket.next()).await.expect("no end").is_none());
    }
    heard
}
