//! Clients that flood the injector with legal or almost legal frames. The memory that they can use is bounded, other
//! clients are served meanwhile, and cancelled calls are cancelled upstream, too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use e2e::{
    PATIENCE, Pair, Upstream, eventually,
    frames::{
        self, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS,
        NEWEST_INDEXED_FIELD, NO_ERROR, PING, SETTINGS, field, frame, indexed_field, reset,
    },
    pair::server,
    process, raw,
};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use proto::injector::v1::{Protocol, Server};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{Mutex, MutexGuard, oneshot},
    time::{sleep, timeout},
};

/// Most memory that a flood may use. Without a bound, a flood would use several times as much.
const BOUND: usize = 24 << 20;

/// Tests measure the memory and tasks of the process, so only one test runs at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A pair whose workspace `dev` has the servers `ok` and `ok2`, which answer, and `http1` and `http2`, which never
/// answer.
struct Scene {
    pair: Pair,
    ok: Upstream,
    silent: Silent,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    async fn start() -> Self {
        let alone = ALONE.lock().await;
        let (pair, ok, silent) = (
            Pair::start().await,
            Upstream::start().await,
            Silent::start().await,
        );
        pair.vault.workspace("dev").await;
        pair.vault.put("dev", "TOKEN", "canary-77aa").await;
        let url = format!("http://{}", silent.address);
        for (name, url, protocol) in [
            ("ok", &ok.url(), Protocol::Auto),
            ("ok2", &ok.url(), Protocol::Http2),
            ("http1", &url, Protocol::Http1),
            ("http2", &url, Protocol::Http2),
        ] {
            let described = Server {
                protocol: protocol.into(),
                ..server("dev", name, url, &["TOKEN"])
            };
            pair.injector.add(described).await;
        }
        assert_eq!(pair.injector.get("/dev/ok/").await.status(), StatusCode::OK);
        Self {
            pair,
            ok,
            silent,
            _alone: alone,
        }
    }

    fn data_plane(&self) -> SocketAddr {
        self.pair.injector.data_plane
    }

    /// Sends `pieces` on one connection until the injector closes the connection, while other clients call. The client
    /// reads responses only if `reads` is true.
    async fn flood(&self, reads: bool, pieces: impl Iterator<Item = Vec<u8>>) -> FloodResult {
        let before = process::reset_peak();
        let flooding = flood(self.data_plane(), reads, pieces);
        let calls = async {
            let mut calls = 0;
            loop {
                let started = Instant::now();
                let answer = timeout(PATIENCE, self.pair.injector.get("/dev/ok/")).await;
                assert_eq!(answer.expect("nobody is served").status(), StatusCode::OK);
                assert!(
                    started.elapsed() < Duration::from_secs(5),
                    "{:?}",
                    started.elapsed()
                );
                calls += 1;
                if calls % 8 == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        };
        let flooded = tokio::select! {
            flooded = flooding => flooded,
            () = calls => unreachable!(),
        };
        assert_eq!(self.pair.injector.get("/dev/ok/").await.status(), StatusCode::OK);
        let grown = process::peak().saturating_sub(before);
        assert!(grown < BOUND, "memory grew by {grown}: {flooded:?}");
        flooded
    }
}

/// The result of a flood.
#[derive(Debug, Default, Clone)]
struct FloodResult {
    /// Number of pieces that the injector accepted.
    sent: usize,
    /// The code of the GOAWAY that was received, if any.
    told: Option<u32>,
    /// True when the injector closed the connection.
    closed: bool,
    /// Number of received frames by type.
    frames: [usize; 10],
}

async fn flood(address: SocketAddr, reads: bool, pieces: impl Iterator<Item = Vec<u8>>) -> FloodResult {
    let (mut reading, mut writing) = frames::connect(address).await.into_split();
    let came = Arc::<std::sync::Mutex<FloodResult>>::default();
    let (told, (begin, begun)) = (came.clone(), oneshot::channel());
    let answers = tokio::spawn(async move {
        if !reads {
            drop(begun.await);
        }
        while let Ok(frame) = frames::read(&mut reading).await {
            let mut told = told.lock().unwrap();
            if let Some(count) = told.frames.get_mut(usize::from(frame.kind)) {
                *count += 1;
            }
            if frame.kind == GOAWAY {
                told.told = Some(frame.code());
            }
        }
        told.lock().unwrap().closed = true;
    });
    let mut sent = 0;
    for piece in pieces {
        // A server may stop reading until its responses are read.
        match timeout(Duration::from_secs(1), writing.write_all(&piece)).await {
            Ok(Ok(())) => sent += 1,
            Ok(Err(_)) | Err(_) => break,
        }
    }
    if reads {
        // The last frames may still be on their way.
        let mut before = [usize::MAX; 10];
        while !answers.is_finished() && before != came.lock().unwrap().frames {
            before = came.lock().unwrap().frames;
            sleep(Duration::from_millis(60)).await;
        }
        answers.abort();
    } else {
        drop((begin.send(()), writing));
        let ended = timeout(PATIENCE, answers).await;
        ended.expect("the connection was never closed").unwrap();
    }
    let came = came.lock().unwrap().clone();
    FloodResult { sent, ..came }
}

/// An upstream that accepts requests, reads no bodies and never answers.
struct Silent {
    address: SocketAddr,
    live: Arc<AtomicUsize>,
    ever: Arc<AtomicUsize>,
}

/// Counts itself until it is dropped.
struct Live(Arc<AtomicUsize>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Silent {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (live, ever) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (live.clone(), ever.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (live, ever) = counts.clone();
                let calls = service_fn(move |request: Request<Incoming>| {
                    live.fetch_add(1, Ordering::SeqCst);
                    ever.fetch_add(1, Ordering::SeqCst);
                    let counted = Live(live.clone());
                    async move {
                        let _kept = (request, counted);
                        pending::<Result<Response<Full<Bytes>>, Infallible>>().await
                    }
                });
                let mut http = auto::Builder::new(TokioExecutor::new());
                http.http2().max_concurrent_streams(1000);
                tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), calls).await.is_ok() });
            }
        });
        Self { address, live, ever }
    }

    fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

/// Returns the frames of a request without a body.
fn get(stream: u32, path: &str) -> Vec<u8> {
    let head = frames::request("GET", path);
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head)
}

fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

// ---- cancelled calls ----

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_end_the_connection() {
    const PAIRS: usize = 5_000;
    let scene = Scene::start().await;
    for server in ["http1", "http2"] {
        let pairs = streams().take(PAIRS).map(|stream| {
            let opened = get(stream, &format!("/dev/{server}/"));
            [opened, reset(stream, CANCEL)].concat()
        });
        let flooded = scene.flood(true, pairs).await;
        assert_eq!(
            (flooded.told, flooded.closed),
            (Some(ENHANCE_YOUR_CALM), true),
            "{flooded:?}"
        );
        eventually("the upstream is asked for nothing any more", async || {
            scene.silent.live() == 0
        })
        .await;
    }
    assert!(scene.silent.ever.load(Ordering::SeqCst) < PAIRS);
}

/// No counter of streams recognizes this flood, because only one stream is open at a time.
#[tokio::test]
async fn streams_that_are_reset_one_after_the_other_leave_no_calls_behind() {
    const STREAMS: usize = 100;
    let scene = Scene::start().await;
    let mut connection = frames::connect(scene.data_plane()).await;
    let mut tasks = 0;
    for (number, stream) in streams().take(STREAMS).enumerate() {
        let server = ["http1", "http2"][number % 2];
        let ever = scene.silent.ever.load(Ordering::SeqCst);
        connection
            .write_all(&get(stream, &format!("/dev/{server}/")))
            .await
            .unwrap();
        eventually("the upstream is asked", async || {
            scene.silent.ever.load(Ordering::SeqCst) > ever
        })
        .await;
        connection.write_all(&reset(stream, CANCEL)).await.unwrap();
        eventually("the upstream is asked no more", async || scene.silent.live() == 0).await;
        if number == 20 {
            tasks = process::tasks();
        }
    }
    eventually("the tasks are gone", async || process::tasks() <= tasks + 4).await;
}

#[tokio::test]
async fn cancelled_calls_are_cancelled_upstream() {
    const CALLS: usize = 100;
    let scene = Scene::start().await;
    for server in ["http1", "http2"] {
        let path = format!("/dev/{server}/");
        for resets in [true, false] {
            let mut connection = frames::connect(scene.data_plane()).await;
            let calls: Vec<_> = streams().take(CALLS).map(|stream| get(stream, &path)).collect();
            connection.write_all(&calls.concat()).await.unwrap();
            eventually("all are under way", async || scene.silent.live() == CALLS).await;
            if resets {
                let resets: Vec<_> = streams()
                    .take(CALLS)
                    .map(|stream| reset(stream, CANCEL))
                    .collect();
                connection.write_all(&resets.concat()).await.unwrap();
            } else {
                drop(connection);
            }
            eventually("none is under way", async || scene.silent.live() == 0).await;
        }
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut connections = Vec::new();
        for _ in 0..CALLS {
            let mut connection = TcpStream::connect(scene.data_plane()).await.unwrap();
            connection.write_all(request.as_bytes()).await.unwrap();
            connections.push(connection);
        }
        eventually("all are under way", async || scene.silent.live() == CALLS).await;
        drop(connections);
        eventually("none is under way", async || scene.silent.live() == 0).await;
    }
    assert_eq!(scene.pair.injector.get("/dev/ok/").await.status(), StatusCode::OK);
}

// ---- too many frames and fields ----

#[tokio::test]
async fn an_endless_head_ends_the_connection() {
    const PIECES: usize = 20_000;
    let scene = Scene::start().await;
    let start = frames::request("GET", "/dev/ok/");
    // The head announces a value of 256 MiB (RFC 7541, section 5.1) and has only its first bytes.
    let endless = [&start[..], &[0, 1, b'x', 0x7f, 0x81, 0xff, 0xff, 0x7f]].concat();
    for (what, head, piece) in [
        ("of nothing", start.clone(), Vec::new()),
        ("of headers", start.clone(), field("x-more", &"x".repeat(100))),
        ("of one header", endless, vec![b'x'; 1024]),
    ] {
        let begin = frame(HEADERS, END_STREAM, 1, &head);
        let piece = frame(CONTINUATION, 0, 1, &piece);
        let pieces = std::iter::once(begin).chain(std::iter::repeat_n(piece, PIECES));
        let flooded = scene.flood(true, pieces).await;
        assert!(flooded.closed && flooded.sent < PIECES, "{what}: {flooded:?}");
        assert!(
            flooded.told.is_some_and(|code| code != NO_ERROR),
            "{what}: {flooded:?}"
        );
    }
}

/// The number of unanswered frames is bounded even when the client does not read the responses.
#[tokio::test]
async fn frames_that_require_an_answer_use_no_memory() {
    const FRAMES: usize = 40_000;
    /// Number of frames in one write.
    const TOGETHER: usize = 100;
    let scene = Scene::start().await;
    let open = frame(HEADERS, END_HEADERS, 1, &frames::request("POST", "/dev/http1/"));
    for (what, piece) in [
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        // SETTINGS frames with `SETTINGS_INITIAL_WINDOW_SIZE`.
        ("windows", frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("window updates", frame(8, 0, 1, &1_u32.to_be_bytes())),
        ("priorities", frame(2, 0, 1, &[0, 0, 0, 3, 1])),
        ("frames of no known type", frame(0xbe, 0, 0, &[0; 8])),
    ] {
        for reads in [true, false] {
            let pieces = std::iter::repeat_n(piece.repeat(TOGETHER), FRAMES / TOGETHER);
            let pieces = std::iter::once(open.clone()).chain(pieces);
            let flooded = scene.flood(reads, pieces).await;
            assert!(flooded.sent > 0, "{what}");
        }
    }
}

#[tokio::test]
async fn an_unread_body_of_tiny_frames_is_bounded() {
    const FRAMES: usize = 60_000;
    /// Number of frames in one write. The injector has to receive many at once: those that it receives one by one, it can
    /// pass on, so that none is waiting.
    const TOGETHER: usize = 5_000;
    let scene = Scene::start().await;
    for server in ["http1", "http2"] {
        for (what, data) in [("empty", &b""[..]), ("of one byte", b"x")] {
            let open = frames::request("POST", &format!("/dev/{server}/"));
            let open = frame(HEADERS, END_HEADERS, 1, &open);
            let piece = frame(DATA, 0, 1, data).repeat(TOGETHER);
            let pieces = std::iter::once(open).chain(std::iter::repeat_n(piece, FRAMES / TOGETHER));
            let live = scene.silent.live();
            let flooded = scene.flood(true, pieces).await;
            // The injector accepts frames of one byte until the upstream accepts no more of the body.
            let ended = (flooded.told, flooded.closed) == (Some(ENHANCE_YOUR_CALM), true);
            assert!(ended || !data.is_empty(), "{what} {server}: {flooded:?}");
            if data.is_empty() || server == "http2" {
                eventually("it is given up", async || scene.silent.live() <= live).await;
            }
            // Otherwise the injector stops reading, and so does not notice that the client has disconnected.
        }
    }
}

/// A few encoded bytes can decode to megabytes (RFC 7541, section 7.3).
#[tokio::test]
async fn a_head_that_decodes_to_megabytes_is_refused() {
    const STREAMS: usize = 300;
    let scene = Scene::start().await;
    let before = scene.ok.seen().len();
    let remember = [
        frames::request("GET", "/dev/ok/"),
        indexed_field("x-bomb", &"x".repeat(4_000)),
    ];
    let remember = frame(HEADERS, END_HEADERS | END_STREAM, 1, &remember.concat());
    for references in [20, 1_000, 16_000] {
        let bomb = [
            frames::request("GET", "/dev/ok/bomb"),
            vec![NEWEST_INDEXED_FIELD; references],
        ];
        let bombs = streams()
            .skip(1)
            .take(STREAMS)
            .map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb.concat()));
        let flooded = scene
            .flood(true, std::iter::once(remember.clone()).chain(bombs))
            .await;
        let refused = flooded.frames[usize::from(HEADERS)];
        let ended = flooded.told.is_some_and(|code| code != NO_ERROR);
        assert!(ended || refused > STREAMS, "{references}: {flooded:?}");
    }
    let seen = scene.ok.seen();
    assert!(seen.len() > before && seen.iter().all(|seen| seen.target != "/bomb"));
}

#[tokio::test]
async fn a_head_has_at_most_a_hundred_headers_and_64_kib() {
    let scene = Scene::start().await;
    for (headers, expected) in [(100, 200), (101, 431), (1_000, 431)] {
        // `Host` counts as one of the headers.
        let lines: String = (1..headers - 1)
            .map(|number| format!("x-{number}: y\r\n"))
            .collect();
        let head = format!("GET /dev/ok2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n");
        let answer = raw::exchange(scene.data_plane(), head).await;
        assert_eq!(
            raw::status(&answer),
            expected,
            "{headers} over HTTP/1.1: {answer}"
        );
        let fields: Vec<_> = (0..headers)
            .map(|number| field(&format!("x-{number}"), "y"))
            .collect();
        assert_eq!(
            over_http2(&scene, &fields.concat()).await,
            Some(expected),
            "{headers} over HTTP/2"
        );
    }
    let most = scene.ok.last().headers.len();
    assert!((100..110).contains(&most), "{most}");
    let large = field("x-large", &"x".repeat(15_000)).repeat(5);
    assert_eq!(over_http2(&scene, &large).await, Some(431));
    let large = format!("x-large: {}\r\n", "x".repeat(15_000)).repeat(10);
    let head = format!("GET /dev/ok2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{large}\r\n");
    assert_eq!(raw::status(&raw::exchange(scene.data_plane(), head).await), 431);
}

/// Returns the status of a request with these fields, or `None` when the injector closed the connection.
async fn over_http2(scene: &Scene, fields: &[u8]) -> Option<u16> {
    let mut connection = frames::connect(scene.data_plane()).await;
    let head = [frames::request("GET", "/dev/ok2/"), fields.to_vec()].concat();
    let mut pieces = head.chunks(16 * 1024).peekable();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let flags = if kind == HEADERS { end | END_STREAM } else { end };
        connection.write_all(&frame(kind, flags, 1, piece)).await.unwrap();
        kind = CONTINUATION;
    }
    let answer = frames::next(&mut connection, HEADERS).await?;
    Some(status(&answer.payload))
}

/// Returns `:status`, the first field, which is an index into the static table (RFC 7541) or a literal.
fn status(block: &[u8]) -> u16 {
    match *block {
        [0x88, ..] => 200,
        [0x48, 0x83, 0x69, 0x90, 0xff, ..] => 431,
        _ => panic!("{block:x?}"),
    }
}
