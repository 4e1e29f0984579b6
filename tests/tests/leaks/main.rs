//! Values appear only in the requests to upstreams: in no log, metric, response or audit log. The test has its own
//! binary, because it installs the log subscriber of the process.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod places;
mod tokens;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
};

use bytes::Bytes;
use e2e::{
    PATIENCE, Pair, Upstream, eventually,
    pair::{get, server},
    pki,
    raw::RawUpstream,
};
use http::{Request, Response, request::Builder};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use places::Place;
use proto::{
    injector::v1::{
        AuthType, BasicPlacement, CookiePlacement, ExplainInjectionRequest, HeaderPlacement, Injection,
        ListServersRequest, Protocol, Server, UpdateServerRequest, UpstreamTls, injection::Placement,
        server_service_client::ServerServiceClient,
    },
    vault::v1::{
        DecryptRequest, GetSecretMetadataRequest, ListSecretsRequest, PutSecretRequest,
        decrypt_service_client::DecryptServiceClient, put_secret_request::Value,
        secret_service_client::SecretServiceClient,
    },
};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::timeout};
use tonic::{
    Status,
    metadata::{Binary, MetadataValue},
    transport::Channel,
};
use tracing_subscriber::{filter::LevelFilter, fmt::MakeWriter, prelude::*};

/// Part of every value of every secret. Letters and digits only, so that no escaping changes it.
const SECRET: &str = "cAnArYs3cr3t7Q";
/// Part of everything that clients send and that must not be passed on.
const SENT: &str = "cAnArYs3nt9Z";

// ---- the log ----

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// Captures everything that this process logs, of all crates and at all levels.
fn log() -> Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Log::default();
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(log.clone());
        tracing_subscriber::registry()
            .with(LevelFilter::TRACE)
            .with(lines)
            .init();
        log
    });
    log.clone()
}

// ---- the search for canaries ----

/// Returns every encoding in which a canary could have been printed.
fn spellings(canary: &str) -> Vec<String> {
    let mut spellings = vec![canary.to_lowercase()];
    for skipped in 0..3 {
        // In Base64, the bytes before the canary shift it by 0, 1 or 2 bytes, and the bytes after it change the last
        // character.
        let encoded = MetadataValue::<Binary>::from_bytes(&canary.as_bytes()[skipped..]);
        let encoded = String::from_utf8(encoded.as_encoded_bytes().to_vec()).unwrap();
        spellings.push(encoded[..encoded.len() - 2].to_lowercase());
    }
    let each = |form: fn(u8) -> String, between| canary.bytes().map(form).collect::<Vec<_>>().join(between);
    spellings.push(each(|byte| format!("{byte:02x}"), ""));
    spellings.push(each(|byte| format!("%{byte:02x}"), ""));
    spellings.push(each(|byte| format!("\\u{byte:04x}"), ""));
    spellings.push(each(|byte| format!("{byte}"), ", "));
    spellings.push(each(|byte| format!("{byte}"), ","));
    spellings
}

/// Returns the first ten lines with a canary.
fn leaks(text: &str) -> Vec<String> {
    let spellings = [spellings(SECRET), spellings(SENT)].concat();
    let leaking = text.lines().filter(|line| {
        let line = line.to_lowercase();
        spellings.iter().any(|spelling| line.contains(spelling.as_str()))
    });
    leaking
        .take(10)
        .map(|line| line.chars().take(600).collect())
        .collect()
}

#[test]
fn the_search_finds_every_encoding_of_a_canary() {
    let value = format!("x{SECRET}y");
    let encoded = |value: &str| {
        let encoded = MetadataValue::<Binary>::from_bytes(value.as_bytes());
        String::from_utf8(encoded.as_encoded_bytes().to_vec()).unwrap()
    };
    let hex: String = value.bytes().map(|byte| format!("{byte:02X}")).collect();
    for text in [
        value.clone(),
        encoded(&value),
        encoded(&format!("xx{value}")),
        encoded(&format!("xxx{value}y")),
        format!("{:?}", value.as_bytes()),
        format!("{:?}", Bytes::from(value.clone())),
        serde_json::to_string(value.as_bytes()).unwrap(),
        hex,
    ] {
        assert_eq!(leaks(&format!("fine\n{text}\nfine")).len(), 1, "{text}");
    }
    assert!(leaks("cAnArY").is_empty());
}

// ---- responses ----

/// Everything that clients received. Nothing of it may contain a canary.
#[derive(Default)]
struct Responses(Vec<String>);

impl Responses {
    fn answer(&mut self, response: &Response<Bytes>) -> u16 {
        self.0
            .push(format!("{:?} {:?}", response.status(), response.headers()));
        self.0.push(String::from_utf8_lossy(response.body()).into_owned());
        response.status().as_u16()
    }

    fn rpc<T: std::fmt::Debug>(&mut self, answer: Result<T, Status>) -> bool {
        if let Err(status) = &answer {
            self.0
                .push(String::from_utf8_lossy(status.details()).into_owned());
        }
        self.0.push(format!("{answer:?}"));
        answer.is_ok()
    }
}

struct Scene {
    pair: Pair,
    upstream: Upstream,
    heard: Responses,
    /// Directory of the vault's audit log.
    dir: TempDir,
}

fn audit_log(dir: &TempDir) -> PathBuf {
    dir.path().join("audit.log")
}

impl Scene {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let (pair, upstream) = (
            Pair::start_with(
                |vault| vault.audit.audit_log = Some(audit_log(&dir)),
                |it| it.limits.vault_timeout = "500ms".into(),
            )
            .await,
            Upstream::answering(places::answer).await,
        );
        pair.vault.workspace("dev").await;
        Self {
            pair,
            upstream,
            heard: Responses::default(),
            dir,
        }
    }

    /// Sends a request and records the response. Returns its status.
    async fn send(&mut self, request: Builder, body: impl Into<Bytes>) -> u16 {
        let response = timeout(PATIENCE, self.pair.injector.send(request, body))
            .await
            .unwrap();
        self.heard.answer(&response)
    }

    async fn json(&mut self, path: &str, body: impl Into<Bytes>) -> u16 {
        self.send(
            Request::post(path).header("content-type", "application/json"),
            body,
        )
        .await
    }

    /// Sends a request over HTTP/2, so that the log contains its frames and header compression.
    async fn http2(&mut self, request: Builder, body: impl Into<Bytes>) -> u16 {
        let mut request = request.body(Full::new(body.into())).unwrap();
        *request.uri_mut() = self.pair.injector.url(request.uri().path()).parse().unwrap();
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http::<Full<Bytes>>();
        let (parts, body) = timeout(PATIENCE, client.request(request))
            .await
            .unwrap()
            .unwrap()
            .into_parts();
        let body = body.collect().await.unwrap();
        self.heard.0.push(format!("{:?}", body.trailers()));
        self.heard.answer(&Response::from_parts(parts, body.to_bytes()))
    }

    async fn grpc(&mut self, server: &str) -> u16 {
        let request = Request::post("/x.Y/Z")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-aerostack-workspace", "dev")
            .header("x-aerostack-server", server);
        self.http2(request, &b"\0\0\0\0\0"[..]).await
    }

    async fn put(&mut self, workspace: &str, name: &str, value: impl AsRef<[u8]>, origins: &[&str]) -> bool {
        let client = self.pair.vault.secrets();
        self.put_as(client, workspace, name, value, origins).await
    }

    async fn put_as(
        &mut self,
        mut client: SecretServiceClient<Channel>,
        workspace: &str,
        name: &str,
        value: impl AsRef<[u8]>,
        origins: &[&str],
    ) -> bool {
        let value = value.as_ref();
        let value = match str::from_utf8(value) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Data(value.to_vec()),
        };
        let request = PutSecretRequest {
            workspace: workspace.into(),
            name: name.into(),
            value: Some(value),
            upstream_origins: origins.iter().map(|&origin| origin.to_owned()).collect(),
            ..Default::default()
        };
        self.heard.0.push(format!("{request:?}"));
        let answer = client.put_secret(request).await;
        self.heard.rpc(answer)
    }

    async fn add(&mut self, server: Server) {
        let answer = self.pair.injector.try_add(server).await;
        assert!(self.heard.rpc(answer));
    }
}

/// Puts values of every kind, and makes puts that are refused.
async fn puts(scene: &mut Scene) {
    let header = format!("{SECRET}-\"\\/%+=&?#");
    let text = format!("{SECRET}\"\\\u{e9}\u{1f511}\u{7}\r\nX-Injected: {SECRET}");
    let data = [SECRET.as_bytes(), b"\xff\0\xc0\x80", SECRET.as_bytes()].concat();
    for (name, value) in [
        ("HEADER", header.as_bytes()),
        ("COOKIE", format!("{SECRET}-/%+=&?#").as_bytes()),
        ("TEXT", text.as_bytes()),
        ("SHORT", SECRET.as_bytes()),
        ("DATA_BIN", &data),
    ] {
        assert!(scene.put("dev", name, value, &[]).await);
        assert!(scene.put("dev", name, value, &[]).await);
    }
    let longest = SECRET.repeat(9000 / SECRET.len() + 1);
    assert!(scene.put("dev", "LONG", &longest, &[]).await);
    assert!(
        scene
            .put("dev", "BOUND", &header, &["https://elsewhere.example"])
            .await
    );

    let too_large = SECRET.repeat(64 * 1024 / SECRET.len() + 1);
    for (workspace, name, value, origins) in [
        ("dev", "", header.as_str(), &[][..]),
        ("dev", "***", &header, &[]),
        ("absent", "HEADER", &header, &[]),
        ("NOT A NAME", "HEADER", &header, &[]),
        ("dev", "HEADER", &too_large, &[]),
        ("dev", "HEADER", &header, &["nowhere"]),
    ] {
        assert!(
            !scene.put(workspace, name, value, origins).await,
            "{workspace} {name}"
        );
    }
    for principal in [pki::INJECTOR, "spiffe://test/stranger"] {
        let client = SecretServiceClient::new(scene.pair.vault.channel(principal));
        assert!(!scene.put_as(client, "dev", "HEADER", &header, &[]).await);
    }
    // The value exceeds the size limit of a message.
    assert!(!scene.put("dev", "HEADER", SECRET.repeat(1 << 20), &[]).await);
}

fn injection(placement: Placement) -> Injection {
    Injection {
        required: false,
        placement: Some(placement),
    }
}

/// Returns injections into a header, into Basic credentials and into a cookie.
fn injections(secret: &str, of_cookie: &str) -> Vec<Injection> {
    let value = |secret: &str| format!("v-${{{secret}}}");
    let header = HeaderPlacement {
        name: "x-key".into(),
        value: value(secret),
    };
    let basic = BasicPlacement {
        username: value(secret),
        password: value(secret),
    };
    let cookie = CookiePlacement {
        name: "session".into(),
        value: value(of_cookie),
    };
    [
        Placement::Header(header),
        Placement::Basic(basic),
        Placement::Cookie(cookie),
    ]
    .map(injection)
    .to_vec()
}

/// Makes all reads of secrets, allowed and refused.
async fn reads(scene: &mut Scene) {
    let mut secrets = scene.pair.vault.secrets();
    let listed = secrets
        .list_secrets(ListSecretsRequest {
            workspace: "dev".into(),
            ..Default::default()
        })
        .await;
    assert!(scene.heard.rpc(listed));
    let one = GetSecretMetadataRequest {
        workspace: "dev".into(),
        name: "HEADER".into(),
    };
    let one = secrets.get_secret_metadata(one).await;
    assert!(scene.heard.rpc(one));
    let request = DecryptRequest {
        workspace: "dev".into(),
        names: ["HEADER", "TEXT", "DATA_BIN", "ABSENT"]
            .map(str::to_owned)
            .to_vec(),
        ..Default::default()
    };
    // `Debug` of a value is redacted, so the test may print even the response with the values.
    let answer = scene.pair.vault.decrypts().decrypt(request.clone()).await;
    assert!(
        answer.as_ref().unwrap().get_ref().secrets[0]
            .value
            .starts_with(SECRET.as_bytes())
    );
    assert!(scene.heard.rpc(answer));
    let mut denied = DecryptServiceClient::new(scene.pair.vault.channel(pki::ADMIN));
    let answer = denied.decrypt(request).await;
    assert!(!scene.heard.rpc(answer));
}

async fn servers(scene: &mut Scene) {
    let url = scene.upstream.url();
    let of = |name: &str, auth_type: AuthType, secrets: &[&str]| Server {
        auth_type: auth_type.into(),
        ..server("dev", name, &url, secrets)
    };
    let http2 = |server: Server| Server {
        protocol: Protocol::Http2.into(),
        ..server
    };
    let custom = |name: &str, injections: Vec<Injection>| Server {
        injections,
        ..server("dev", name, &url, &[])
    };
    use AuthType::{Bearer, SecretHeaders, Skill};
    for server in [
        of("headers", SecretHeaders, &["HEADER"]),
        http2(of("headers2", SecretHeaders, &["HEADER"])),
        of("bearer", Bearer, &["HEADER"]),
        http2(of("bearer2", Bearer, &["HEADER"])),
        custom("custom", injections("HEADER", "COOKIE")),
        http2(custom("custom2", injections("HEADER", "COOKIE"))),
        custom("illegal-basic", injections("DATA_BIN", "COOKIE").split_off(1)),
        custom("illegal-cookie", injections("HEADER", "HEADER")),
        of("skill", Skill, &["HEADER", "TEXT", "LONG"]),
        http2(of("skill2", Skill, &["HEADER", "TEXT", "LONG"])),
        of("grpc", SecretHeaders, &["HEADER", "DATA_BIN"]),
        of("illegal", SecretHeaders, &["HEADER", "TEXT"]),
        of("illegal-bearer", Bearer, &["DATA_BIN"]),
        of("illegal-skill", Skill, &["HEADER", "DATA_BIN"]),
        of("long", SecretHeaders, &["LONG"]),
        Server {
            required_secrets: vec!["ABSENT".into()],
            ..of("required", SecretHeaders, &["HEADER", "ABSENT"])
        },
    ]
    .into_iter()
    .chain(places::servers(&url))
    {
        scene.add(server).await;
    }
    // A secret that is bound to another origin: refused at registration, or at each call if it was bound later.
    let answer = scene
        .pair
        .injector
        .try_add(of("bound", SecretHeaders, &["BOUND"]))
        .await;
    assert!(!scene.heard.rpc(answer));
    scene
        .pair
        .vault
        .put("dev", "LATER", format!("{SECRET}-later"))
        .await;
    scene.add(of("later", SecretHeaders, &["LATER"])).await;
    assert!(
        scene
            .put(
                "dev",
                "LATER",
                format!("{SECRET}-later"),
                &["https://elsewhere.example"]
            )
            .await
    );
    // A value in a field that is not for values.
    for wrong in [
        server(
            "dev",
            "wrong",
            &format!("https://user:{SENT}@example.com"),
            &["HEADER"],
        ),
        server(
            "dev",
            "wrong",
            &format!("https://example.com/#token={SENT}"),
            &["HEADER"],
        ),
        server("dev", "wrong", SENT, &["HEADER"]),
        server(SENT, "wrong", &url, &["HEADER"]),
        server("dev", SENT, &url, &["HEADER"]),
        Server {
            tls: Some(UpstreamTls {
                ca_pem: SENT.into(),
                ..Default::default()
            }),
            ..server("dev", "wrong", "https://example.com", &["HEADER"])
        },
    ] {
        let answer = scene.pair.injector.try_add(wrong).await;
        assert!(!scene.heard.rpc(answer));
    }
}

/// Makes calls that reach the upstream with their secrets.
async fn successes(scene: &mut Scene) {
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(2 << 20));
    for _ in 0..3 {
        for server in ["headers", "headers2", "bearer", "bearer2", "custom", "custom2"] {
            let request = || {
                Request::post(format!("/dev/{server}/"))
                    .header("authorization", format!("Bearer {SENT}"))
                    .header("x-mcp-secret-header", SENT)
                    .header("x_mcp.secret-other", SENT)
                    .header("proxy-authorization", SENT)
                    .header("cookie", format!("session={SENT}"))
            };
            assert_eq!(
                scene.send(request(), format!("{{\"a\":\"{SENT}\"}}")).await,
                200,
                "{server}"
            );
            assert_eq!(scene.http2(request(), SENT).await, 200, "{server}");
        }
        for server in ["skill", "skill2"] {
            let path = format!("/dev/{server}/");
            assert_eq!(
                scene.json(&path, format!("{{\"secrets\":\"{SENT}\"}}")).await,
                200
            );
            assert!(String::from_utf8_lossy(&scene.upstream.last().body).contains(SECRET));
            assert_eq!(scene.json(&path, large.clone()).await, 200);
            let request = Request::post(&path).header("content-type", "application/json");
            assert_eq!(scene.http2(request, large.clone()).await, 200);
            assert!(scene.upstream.last().body.ends_with(b"}}"));
        }
        assert_eq!(scene.grpc("grpc").await, 200);
        assert!(
            scene
                .upstream
                .last()
                .header("x-mcp-secret-header")
                .unwrap()
                .starts_with(SECRET)
        );
    }
}

/// Makes calls that are refused, or that fail after the secrets were put in.
async fn failures(scene: &mut Scene) {
    for (server, status) in [
        ("illegal", 502),
        ("illegal-bearer", 502),
        ("illegal-skill", 502),
        ("illegal-basic", 502),
        ("illegal-cookie", 502),
        ("long", 502),
        ("required", 502),
        ("later", 502),
    ] {
        let path = format!("/dev/{server}/");
        assert_eq!(scene.json(&path, "{}").await, status, "{server}");
        let request = Request::post(&path).header("content-type", "application/json");
        assert_eq!(scene.http2(request, "{}").await, status, "{server}");
        assert_eq!(scene.grpc(server).await, 200, "{server}");
    }
    let large_and_wrong = format!("{{\"a\":\"{}{SENT}\"]", "x".repeat(2 << 20));
    for body in [
        format!("{{\"a\":{SENT}}}"),
        format!("[\"{SENT}\"]"),
        format!("{{}}{SENT}"),
        large_and_wrong,
    ] {
        assert_eq!(scene.json("/dev/skill/", body.clone()).await, 400);
        assert_eq!(scene.json("/dev/skill2/", body).await, 400);
    }
    assert_eq!(
        scene
            .send(Request::post("/dev/skill/").header("content-type", SENT), SENT)
            .await,
        415
    );
    for (path, status) in [
        (format!("/dev/{SENT}/"), 404),
        (format!("/{SENT}/{SENT}/"), 404),
        (format!("/dev/headers/../{SENT}"), 400),
        (format!("/dev/%41/{SENT}"), 400),
    ] {
        assert_eq!(scene.send(Request::get(path), "").await, status);
    }
    for (name, status) in [
        ("x-aerostack-server", 400),
        ("origin", 403),
        ("host", 421),
        ("expect", 417),
    ] {
        let value = if name == "host" {
            format!("{SENT}.example")
        } else {
            SENT.to_owned()
        };
        assert_eq!(
            scene
                .send(Request::get("/dev/headers/").header(name, value), "")
                .await,
            status,
            "{name}"
        );
    }
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let nonsense = RawUpstream::start(b"nonsense\r\n\r\n").await;
    let silent_end = closing().await;
    for (name, url) in [
        ("nobody", format!("http://{nobody}")),
        ("plain", format!("https://{}", scene.upstream.address)),
        ("nonsense", format!("http://{}", nonsense.address)),
        ("ends", format!("http://{silent_end}")),
    ] {
        let ca_pem = scene.pair.vault.pki.ca_pem();
        let tls = (name == "plain").then(|| UpstreamTls {
            ca_pem,
            ..Default::default()
        });
        failing_calls(scene, name, &url, tls).await;
    }
}

/// Makes calls to servers at `url`, where every call fails after the secrets were put in.
async fn failing_calls(scene: &mut Scene, name: &str, url: &str, tls: Option<UpstreamTls>) {
    let auth_types = [AuthType::SecretHeaders, AuthType::Bearer, AuthType::Skill];
    let short_forms = auth_types
        .into_iter()
        .zip(["h", "b", "s"])
        .map(|(auth_type, kind)| {
            let server = Server {
                auth_type: auth_type.into(),
                ..server("dev", &format!("{name}-{kind}"), url, &["HEADER"])
            };
            (server, Place::JsonPointer)
        });
    let places = Place::ALL.map(|place| (place.server(&place.server_name(name), url, "HEADER"), place));
    for (server, place) in short_forms.chain(places) {
        for (version, protocol) in [("1", Protocol::Http1), ("2", Protocol::Http2)] {
            let named = format!("{}{version}", server.name);
            scene
                .add(Server {
                    name: named.clone(),
                    protocol: protocol.into(),
                    tls: tls.clone(),
                    ..server.clone()
                })
                .await;
            let request = place.request(&format!("/dev/{named}/?q={SENT}"));
            assert_eq!(scene.send(request, place.body()).await, 502, "{named}");
            assert_eq!(scene.grpc(&named).await, 200, "{named}");
        }
    }
}

/// Starts an upstream that reads a part of a request and closes the connection.
async fn closing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.readable().await.unwrap();
            drop(stream.try_read(&mut [0; 64]));
        }
    });
    address
}

/// Makes all other calls with a response.
async fn other_calls(scene: &mut Scene) {
    for metrics in [scene.pair.vault.metrics, scene.pair.injector.metrics] {
        for path in ["metrics", "readyz", "livez", SENT] {
            let response = get(&format!("http://{metrics}/{path}")).await;
            scene.heard.answer(&response);
        }
    }
    let mut client = ServerServiceClient::new(scene.pair.injector.channel(pki::ADMIN));
    let listed = client
        .list_servers(ListServersRequest {
            page_size: 1000,
            ..Default::default()
        })
        .await;
    let all = listed.as_ref().unwrap().get_ref().servers.clone();
    assert!(scene.heard.rpc(listed));
    for server in all {
        let request = ExplainInjectionRequest {
            workspace: "dev".into(),
            name: server.name.clone(),
        };
        let explained = client.explain_injection(request).await;
        assert!(scene.heard.rpc(explained));
    }
    let update = UpdateServerRequest {
        server: Some(server("dev", "headers", SENT, &[])),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["url".into()],
        }),
    };
    let updated = client.update_server(update).await;
    assert!(!scene.heard.rpc(updated));
}

#[tokio::test]
async fn no_log_metric_or_response_contains_a_value() {
    let log = log();
    let mut scene = Scene::start().await;
    puts(&mut scene).await;
    reads(&mut scene).await;
    servers(&mut scene).await;
    successes(&mut scene).await;
    places::successes(&mut scene).await;
    places::redirects(&mut scene).await;
    places::refusals(&mut scene).await;
    failures(&mut scene).await;
    other_calls(&mut scene).await;

    // The file of servers contains a value, which is not allowed.
    let file = format!("version: 1\nservers:\n- workspace: dev\n  name: x\n  token: {SENT}\n  url: {SENT}\n");
    std::fs::write(scene.pair.injector.servers_file(), file).unwrap();
    eventually("the file is refused", async || {
        log.text().contains("servers file not used")
    })
    .await;

    // Calls while the vault is down.
    let Scene {
        pair,
        upstream,
        mut heard,
        dir,
    } = scene;
    let Pair { vault, injector } = pair;
    vault.stop().await;
    for path in ["/dev/headers/", "/dev/skill/"] {
        assert_eq!(heard.answer(&injector.get(path).await), 503, "{path}");
    }
    injector.stop().await;

    // The log has lines of all components, so the test has seen them.
    let text = log.text();
    for source in [
        "h2::",
        "hyper_util::",
        "rustls::",
        "injector_service",
        "vault_service",
        "TRACE",
        "call refused",
    ] {
        assert!(text.contains(source), "nothing of {source} was logged");
    }
    assert!(
        upstream
            .seen()
            .iter()
            .any(|seen| format!("{:?}", seen.headers).contains(SENT))
    );
    assert_eq!(leaks(&heard.0.join("\n")), Vec::<String>::new(), "in an answer");
    assert_eq!(leaks(&text), Vec::<String>::new(), "in a log");
    let audit = std::fs::read_to_string(audit_log(&dir)).unwrap();
    for said in [
        "SecretService/PutSecret",
        "\"refused\"",
        "\"event\":\"decrypt\"",
        "HEADER",
    ] {
        assert!(audit.contains(said), "{said}");
    }
    assert_eq!(leaks(&audit), Vec::<String>::new(), "in the audit log");
}
