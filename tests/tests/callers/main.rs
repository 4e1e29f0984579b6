//! The callers of the data plane: who may call which server, by token, certificate or uid, and how a sidecar runs without
//! administration. The test has its own binary, because it installs the log subscriber of the process.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod admin;
mod certificates;
mod log;
mod servers_file;
mod service_accounts;
mod settings;
mod startup;
mod tokens;
mod unix;

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use e2e::{
    Pair, Upstream,
    pair::{send, server},
};
use http::{HeaderMap, Request, Response, request::Builder};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use injector_service::config::Settings;
use proto::injector::v1::Server;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};

/// The token of `token:ci`.
const CI: &str = "cAnArY-of-ci-0123456789abcdef0123456789";
/// The token of `token:web`.
const WEB: &str = "cAnArY-of-web-0123456789abcdef012345678";

/// Files with tokens.
struct Tokens(TempDir);

impl Tokens {
    fn new() -> Self {
        let tokens = Self(TempDir::new().unwrap());
        tokens.replace("ci", CI);
        tokens.replace("web", WEB);
        tokens
    }

    fn path(&self, id: &str) -> PathBuf {
        self.0.path().join(id)
    }

    /// Writes the token of a caller, as a kubelet does: the whole file appears at once.
    fn replace(&self, id: &str, token: &str) {
        let new = self.0.path().join(format!("{id}.new"));
        fs::write(&new, token).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        fs::rename(&new, self.path(id)).unwrap();
    }

    /// Gives the injector the files, and the servers that each caller may call.
    fn configure(&self, settings: &mut Settings) {
        let file = |id: &str| format!("{id}={}", self.path(id).display());
        settings.callers.caller_token_file = vec![file("ci"), file("web")];
        settings.callers.caller = vec!["token:ci=dev/api".into(), "token:web=web/*".into()];
    }
}

/// Starts a pair with the servers `dev/api` and `dev/other` at `upstream`, which get the secret `TOKEN`.
async fn pair(upstream: &Upstream, edit: impl FnOnce(&mut Settings)) -> Pair {
    let pair = Pair::start_with(|_| {}, edit).await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", "tok-1").await;
    for name in ["api", "other"] {
        let added = Server {
            allowed_origins: vec!["https://app.example".into()],
            ..server("dev", name, &upstream.url(), &["TOKEN"])
        };
        pair.injector.add(added).await;
    }
    pair
}

/// Writes a servers file with one server that gets the secret `TOKEN`.
fn yaml(name: &str, url: &str) -> String {
    format!(
        "version: 1\nservers:\n- workspace: dev\n  name: {name}\n  url: {url}\n  injections:\n  - secret: token\n    required: true\n"
    )
}

fn with_token(path: &str, token: Option<&str>) -> Builder {
    let request = Request::get(path);
    match token {
        Some(token) => request.header("x-aerostack-token", token),
        None => request,
    }
}

/// Returns the status of an answer, and the reason of the refusal, which is empty without one.
fn outcome<B>(answer: &Response<B>) -> (u16, &str) {
    let reason = answer.headers().get("x-aerostack-reason");
    (
        answer.status().as_u16(),
        reason.map_or("", |reason| reason.to_str().unwrap()),
    )
}

/// Returns the head and the body of an answer without the parts that differ between any two answers.
fn comparable(answer: &Response<Bytes>) -> (HeaderMap, serde_json::Value) {
    let mut headers = answer.headers().clone();
    headers.remove("x-aerostack-call-id");
    headers.remove("date");
    let mut problem: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    problem.as_object_mut().unwrap().remove("call_id").unwrap();
    (headers, problem)
}

async fn get_with(address: SocketAddr, path: &str, token: Option<&str>) -> Response<Bytes> {
    send(address, with_token(path, token), "").await
}

/// Sends one request for `localhost` over HTTP/1.1 on `stream`.
async fn over_http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Builder,
) -> Response<Bytes> {
    over_http1_to(stream, request.header("host", "localhost")).await
}

/// Sends one request with its own `Host` over HTTP/1.1 on `stream`.
async fn over_http1_to(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Builder,
) -> Response<Bytes> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    whole(
        sender
            .send_request(request.body(Full::<Bytes>::default()).unwrap())
            .await,
    )
    .await
}

/// Sends one request over HTTP/2 on `stream`.
async fn over_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Builder,
) -> Response<Bytes> {
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    whole(
        sender
            .send_request(request.body(Full::<Bytes>::default()).unwrap())
            .await,
    )
    .await
}

async fn whole(answer: hyper::Result<Response<hyper::body::Incoming>>) -> Response<Bytes> {
    let (parts, body) = answer.unwrap().into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}
