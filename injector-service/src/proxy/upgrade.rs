//! HTTP/1.1 upgrades, WebSocket among them (RFC 9110, section 7.8).
//!
//! The handshake is a call like any other, with the same checks and the same secrets. Once the upstream has switched to a
//! protocol that it was asked for, bytes pass both ways, unread and unchanged.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use chassis::telemetry::field;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header, request::Parts};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use proto::{CallId, Reason, Refusal};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    time::{Instant, sleep_until},
};

use super::watchdog::{ActiveCall, Watchdog};
use crate::{
    dialect::Dialect,
    placement::AuthType,
    registry::server::{Protocol, Spec},
    upstream::{self, Body},
};

/// The most bytes under way in each direction.
const BUFFER: usize = 16 * 1024;
/// Protocols that are HTTP again: requests within them would reach the upstream without any of our checks.
const HTTP_AGAIN: [&str; 5] = ["h2c", "h2", "h3", "http", "tls"];

/// A request to go on in another protocol.
pub(super) struct UpgradeRequest {
    protocols: Vec<String>,
    downstream: OnUpgrade,
}

/// An upstream's answer that it goes on in another protocol.
pub(super) struct UpgradeResponse {
    protocols: HeaderValue,
    tunnel: Tunnel,
}

/// Two connections, once they are upgraded.
#[derive(Clone)]
struct Tunnel {
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    call_id: CallId,
}

/// What a connection becomes after its last HTTP message, if anything.
#[derive(Clone)]
pub(super) struct ConnectionUpgrade(Arc<Upgrade>);

struct Upgrade {
    watchdog: Arc<Watchdog>,
    /// The tunnel, and a call under way that keeps the connection from being idle.
    tunnel: OnceLock<(Tunnel, ActiveCall)>,
}

impl UpgradeRequest {
    /// What a request asks for. None when it is to be an ordinary request: a server is free to ignore an upgrade, and we
    /// ignore those that are malformed, gRPC's, or would lead to HTTP again.
    pub(super) fn find(parts: &mut Parts, dialect: Dialect, spec: &Spec) -> Result<Option<Self>, Refusal> {
        let Some(downstream) = parts.extensions.remove::<OnUpgrade>() else {
            return Ok(None);
        };
        let ordinary = parts.version != Version::HTTP_11 || dialect == Dialect::Grpc;
        let protocols = protocols(&parts.headers);
        if ordinary || !is_named_by_connection(&parts.headers) || protocols.is_empty() {
            return Ok(None);
        }
        match (spec.auth_type, spec.protocol) {
            (AuthType::Skill(_), _) => Err(Refusal::new(
                Reason::BodyTypeUnsupported,
                "this server gets its secrets in a JSON body, which an upgraded connection does not have; to be upgraded \
                 it needs another auth_type",
            )),
            (AuthType::SecretHeaders | AuthType::Bearer, Protocol::Http2) => Err(Refusal::new(
                Reason::UpstreamProtocol,
                "this server is called over HTTP/2, where connections are not upgraded; its protocol would have to be \
                 HTTP1 or AUTO",
            )),
            (AuthType::SecretHeaders | AuthType::Bearer, Protocol::Auto | Protocol::Http1) => {
                Ok(Some(Self {
                    protocols,
                    downstream,
                }))
            }
        }
    }

    /// Asks the upstream, in headers from which all others about the connection were removed.
    pub(super) fn put(&self, headers: &mut HeaderMap) -> Result<(), Refusal> {
        put(headers, &list(&self.protocols)?);
        Ok(())
    }

    fn agreed(self, response: &mut Response<Incoming>, call_id: &CallId) -> Option<UpgradeResponse> {
        let protocols = chosen(response.headers(), &self.protocols)?;
        Some(UpgradeResponse {
            protocols: list(&protocols).ok()?,
            tunnel: Tunnel {
                downstream: self.downstream,
                upstream: hyper::upgrade::on(response),
                call_id: call_id.clone(),
            },
        })
    }
}

impl UpgradeResponse {
    /// What an upstream's answer switches to; none when it is an ordinary answer.
    pub(super) fn find(
        asked: Option<UpgradeRequest>,
        response: &mut Response<Incoming>,
        call_id: &CallId,
    ) -> Result<Option<Self>, Refusal> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(None);
        }
        match asked.and_then(|asked| asked.agreed(response, call_id)) {
            Some(switched) => Ok(Some(switched)),
            // Dropped with the answer, the connection is closed.
            None => Err(Refusal::new(
                Reason::UpstreamProtocol,
                "the upstream switched to a protocol that it was not asked for",
            )),
        }
    }

    /// Tells the downstream, and leaves the rest to [`AfterHttp`].
    pub(super) fn put(self, response: &mut Response<Body>) {
        put(response.headers_mut(), &self.protocols);
        response.extensions_mut().insert(self.tunnel);
    }
}

impl ConnectionUpgrade {
    pub(super) fn new(watchdog: Arc<Watchdog>) -> Self {
        Self(Arc::new(Upgrade {
            watchdog,
            tunnel: OnceLock::new(),
        }))
    }

    /// Remembers the tunnel that `response` asks for. The tunnel counts as a call from here on, so that the connection
    /// is not closed as idle.
    pub(super) fn of<B>(&self, mut response: Response<B>) -> Response<B> {
        if let Some(tunnel) = response.extensions_mut().remove::<Tunnel>() {
            self.0.watchdog.upgrade();
            let call = self.0.watchdog.begin_call();
            // There is one at most: nothing is HTTP after it.
            let _ = self.0.tunnel.set((tunnel, call));
        }
        response
    }

    /// Does it, when the connection's HTTP has ended, and been dropped; until nothing was carried for as long as `idle`.
    pub(super) async fn run(&self, idle: Duration) {
        if let Some((tunnel, _call)) = self.0.tunnel.get() {
            tunnel.clone().run(idle).await;
        }
    }
}

impl Tunnel {
    async fn run(self, idle: Duration) {
        let Self {
            downstream,
            upstream,
            call_id,
        } = self;
        let traffic = Traffic::new();
        let carried = async {
            let (downstream, upstream) = tokio::try_join!(downstream, upstream).map_err(io::Error::other)?;
            carry(TokioIo::new(downstream), upstream::bare(upstream)?, &traffic).await
        };
        let ended = until_ended(carried, &traffic, idle).await;
        let Counts { sent, received, .. } = *traffic.lock();
        tracing::debug!(
            { field::CALL_ID } = call_id.as_str(),
            sent,
            received,
            ended,
            "upgraded connection ended"
        );
    }
}

/// Carries until that ends, or nothing was carried for too long. Why it ended.
async fn until_ended(
    carried: impl Future<Output = io::Result<()>>,
    traffic: &Traffic,
    idle: Duration,
) -> &'static str {
    tokio::select! {
        carried = carried => match carried {
            Ok(()) => "both sides were done",
            Err(_) => "one side broke off",
        },
        () = traffic.idle(idle) => "nothing was carried for too long",
    }
}

/// Bytes that were carried so far.
struct Traffic(Mutex<Counts>);

struct Counts {
    sent: u64,
    received: u64,
    last: Instant,
}

impl Traffic {
    fn new() -> Self {
        Self(Mutex::new(Counts {
            sent: 0,
            received: 0,
            last: Instant::now(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, add: impl FnOnce(&mut Counts)) {
        let mut counts = self.lock();
        add(&mut counts);
        counts.last = Instant::now();
    }

    /// Waits until nothing was carried for `idle`.
    async fn idle(&self, idle: Duration) {
        loop {
            let end = self.lock().last + idle;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// Carries bytes both ways until both sides have ended, or one broke off.
async fn carry(
    downstream: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    traffic: &Traffic,
) -> io::Result<()> {
    let (from_downstream, to_downstream) = split(downstream);
    let (from_upstream, to_upstream) = split(upstream);
    let sent = |bytes| traffic.count(|counts| counts.sent += bytes);
    let received = |bytes| traffic.count(|counts| counts.received += bytes);
    tokio::try_join!(
        pump(from_downstream, to_upstream, sent),
        pump(from_upstream, to_downstream, received)
    )?;
    Ok(())
}

/// Carries bytes one way, and then the end.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: impl Fn(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(bytes).await?;
        to.flush().await?;
        count(u64::try_from(read).unwrap_or(u64::MAX));
    }
}

fn put(headers: &mut HeaderMap, protocols: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocols.clone());
}

fn list(protocols: &[String]) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(&protocols.join(", "))
        .map_err(|_| Refusal::new(Reason::Internal, "names of protocols do not make a header"))
}

/// Whether `Connection` says that `Upgrade` is meant for us.
fn is_named_by_connection(headers: &HeaderMap) -> bool {
    elements(headers, header::CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// The protocols that a request may go on in.
fn protocols(headers: &HeaderMap) -> Vec<String> {
    elements(headers, header::UPGRADE)
        .filter(|protocol| is_protocol(protocol) && !is_http_again(protocol))
        .map(str::to_owned)
        .collect()
}

/// What an upstream goes on in; none unless all of it was `asked` for.
fn chosen(headers: &HeaderMap, asked: &[String]) -> Option<Vec<String>> {
    let protocols: Vec<String> = elements(headers, header::UPGRADE).map(str::to_owned).collect();
    let is_asked = |protocol: &String| asked.iter().any(|asked| asked.eq_ignore_ascii_case(protocol));
    (!protocols.is_empty() && protocols.iter().all(is_asked)).then_some(protocols)
}

/// The elements of a list (RFC 9110, section 5.6.1). A value that is not text counts as one that nobody knows.
fn elements(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

/// A name, or a name and a version.
fn is_protocol(protocol: &str) -> bool {
    let (name, version) = protocol.split_once('/').unwrap_or((protocol, "-"));
    is_token(name) && is_token(version)
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token)
}

fn is_http_again(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default();
    HTTP_AGAIN.iter().any(|again| again.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{BufStream, DuplexStream, duplex},
        task::JoinHandle,
        time::timeout,
    };

    use super::*;

    const IDLE: Duration = Duration::from_secs(60 * 60);

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn an_upgrade_is_named_by_connection() {
        for (connection, named) in [
            (&["upgrade"][..], true),
            (&["Upgrade"], true),
            (&["keep-alive, UPGRADE"], true),
            (&["keep-alive", "x,upgrade ,"], true),
            (&[], false),
            (&[""], false),
            (&["close"], false),
            (&["upgrades"], false),
            (&["x-upgrade"], false),
            (&["up grade"], false),
        ] {
            let pairs: Vec<_> = connection.iter().map(|value| ("connection", *value)).collect();
            assert_eq!(is_named_by_connection(&headers(&pairs)), named, "{connection:?}");
        }
    }

    #[test]
    fn http_within_an_upgrade_is_not_asked_for() {
        for (upgrade, asked) in [
            (&["websocket"][..], &["websocket"][..]),
            (&["WebSocket", "tcp"], &["WebSocket", "tcp"]),
            (&["h2c, websocket"], &["websocket"]),
            (&["SPDY/3.1,x"], &["SPDY/3.1", "x"]),
            (&["h2c"], &[]),
            (&["H2C, h2", "h3"], &[]),
            (&["HTTP/2.0, http, TLS/1.0"], &[]),
            (&["h2c/1"], &[]),
            (&["", ",, ,"], &[]),
            (
                &["web socket", "a/b/c", "/", "a/", "/b", "x;y", "\"websocket\""],
                &[],
            ),
        ] {
            let pairs: Vec<_> = upgrade.iter().map(|value| ("upgrade", *value)).collect();
            assert_eq!(protocols(&headers(&pairs)), asked, "{upgrade:?}");
        }
    }

    #[test]
    fn an_upstream_goes_on_only_in_what_it_was_asked_for() {
        let asked = ["websocket".to_owned(), "foo/2".to_owned()];
        for (upgrade, agreed) in [
            (&["websocket"][..], true),
            (&["WebSocket"], true),
            (&["foo/2, websocket"], true),
            (&["foo"], false),
            (&["foo/1"], false),
            (&["h2c"], false),
            (&["websocket, h2c"], false),
            (&["websocket", "bar"], false),
            (&["websocket\u{e9}"], false),
            (&[""], false),
            (&[], false),
        ] {
            let mut answer = HeaderMap::new();
            for value in upgrade {
                answer.append("upgrade", HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            assert_eq!(chosen(&answer, &asked).is_some(), agreed, "{upgrade:?}");
        }
    }

    /// Both ends of a tunnel, and why it ended with what had passed.
    fn tunnel() -> (DuplexStream, DuplexStream, JoinHandle<(&'static str, Counts)>) {
        let (downstream, theirs) = duplex(64);
        let (upstream, its) = duplex(64);
        let task = tokio::spawn(async move {
            let traffic = Traffic::new();
            let ended = until_ended(carry(theirs, its, &traffic), &traffic, IDLE).await;
            (ended, traffic.0.into_inner().unwrap())
        });
        (downstream, upstream, task)
    }

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let (mut downstream, mut upstream, task) = tunnel();
        downstream.write_all(b"question").await.unwrap();
        downstream.shutdown().await.unwrap();
        let mut heard = Vec::new();
        upstream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"question");
        upstream.write_all(b"answer").await.unwrap();
        drop(upstream);
        heard.clear();
        downstream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"answer");
        let (ended, counts) = task.await.unwrap();
        assert_eq!(ended, "both sides were done");
        assert_eq!((counts.sent, counts.received), (8, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_back() {
        let (mut downstream, theirs) = duplex(64);
        let (mut upstream, its) = duplex(64);
        tokio::spawn(async move {
            // As TLS is: what is written may lie in a buffer until it is flushed.
            carry(BufStream::new(theirs), BufStream::new(its), &Traffic::new()).await
        });
        let mut came = [0; 2];
        downstream.write_all(b"up").await.unwrap();
        timeout(IDLE, upstream.read_exact(&mut came))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&came, b"up");
        upstream.write_all(b"dn").await.unwrap();
        timeout(IDLE, downstream.read_exact(&mut came))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&came, b"dn");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_that_carries_nothing_ends() {
        let (mut downstream, mut upstream, task) = tunnel();
        let (started, mut byte) = (Instant::now(), [0]);
        let almost = IDLE - Duration::from_secs(1);
        // Either direction counts.
        tokio::time::sleep(almost).await;
        downstream.write_all(b"x").await.unwrap();
        upstream.read_exact(&mut byte).await.unwrap();
        tokio::time::sleep(almost).await;
        upstream.write_all(b"x").await.unwrap();
        downstream.read_exact(&mut byte).await.unwrap();
        assert_eq!(task.await.unwrap().0, "nothing was carried for too long");
        assert_eq!(started.elapsed(), 2 * almost + IDLE);
        assert_eq!(downstream.read(&mut byte).await.unwrap(), 0);
        assert_eq!(upstream.read(&mut byte).await.unwrap(), 0);
    }
}
