//! Calls that share an HTTP/2 connection with many cancelled or unread calls, which must not disturb them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{
    collections::HashMap,
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
    PATIENCE, Pair, eventually,
    frames::{
        self, CANCEL, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE,
        frame, reset,
    },
    pair::server,
    process,
};
use futures_util::{future::join_all, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use proto::injector::v1::{Protocol, Server};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::{Mutex, MutexGuard},
    time::{sleep, timeout},
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Longest time that a call may take while other calls on the connection misbehave.
const PROMPT: Duration = Duration::from_secs(2);

/// Tests measure the memory of the process, so only one test runs at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A pair whose workspace `dev` has the servers `h2` and `other`, both over HTTP/2 to one [`Upstream`].
struct Scene {
    pair: Pair,
    upstream: Upstream,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    async fn start() -> Self {
        let alone = ALONE.lock().await;
        let (pair, upstream) = (Pair::start().await, Upstream::start().await);
        pair.vault.workspace("dev").await;
        pair.vault.put("dev", "TOKEN", "canary-51c0").await;
        let url = format!("http://{}", upstream.address);
        for name in ["h2", "other"] {
            let described = Server {
                protocol: Protocol::Http2.into(),
                ..server("dev", name, &url, &["TOKEN"])
            };
            pair.injector.add(described).await;
        }
        Self {
            pair,
            upstream,
            _alone: alone,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(self.pair.injector.data_plane, 65_535).await
    }

    /// Calls the server `h2` on new connections, often enough to reach every thread of the data plane.
    async fn others_are_served(&self) {
        for _ in 0..10 {
            let started = Instant::now();
            let answer = timeout(PATIENCE, self.pair.injector.get("/dev/h2/")).await;
            assert_eq!(answer.expect("nobody is served").status(), StatusCode::OK);
            assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
        }
    }
}

/// An HTTP/2 server. `/ticks` answers with 100 bytes every 10 ms, and `/flood/N` with pieces of N bytes as fast as the
/// client reads. `/silent` neither reads nor answers. All other requests are read completely and answered.
struct Upstream {
    address: SocketAddr,
    /// Number of calls to `/silent`.
    silent: Arc<AtomicUsize>,
    /// Number of bytes that `/flood` has written.
    given: Arc<AtomicUsize>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silent, given) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (silent.clone(), given.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (silent, given) = counts.clone();
                let calls = service_fn(move |request| answer(request, silent.clone(), given.clone()));
                let mut http = auto::Builder::new(TokioExecutor::new());
                http.http2()
                    .max_concurrent_streams(4_000)
                    .max_pending_accept_reset_streams(100_000)
                    .max_local_error_reset_streams(None)
                    .initial_stream_window_size(64 << 10)
                    .initial_connection_window_size(1 << 30);
                tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), calls).await.is_ok() });
            }
        });
        Self {
            address,
            silent,
            given,
        }
    }

    /// Waits until `/flood` writes nothing more, because all windows are full.
    async fn wait_until_blocked(&self) {
        let mut last = 0;
        eventually("nothing moves any more", async || {
            sleep(Duration::from_millis(500)).await;
            let given = self.given.load(Ordering::SeqCst);
            std::mem::replace(&mut last, given) == given
        })
        .await;
    }
}

async fn answer(
    request: Request<Incoming>,
    silent: Arc<AtomicUsize>,
    given: Arc<AtomicUsize>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = match path.split('/').collect::<Vec<_>>()[..] {
        ["", "ticks"] => endless(100, Duration::from_millis(10), Arc::default()),
        ["", "flood", size] => endless(size.parse().unwrap(), Duration::ZERO, given),
        ["", "silent"] => {
            silent.fetch_add(1, Ordering::SeqCst);
            let _unread = request;
            pending().await
        }
        _ => {
            let _ = request.into_body().collect().await;
            Full::from("ok").boxed_unsync()
        }
    };
    Ok(Response::new(body))
}

/// Returns an endless body in pieces of `size` bytes. `given` counts the bytes.
fn endless(size: usize, every: Duration, given: Arc<AtomicUsize>) -> Body {
    let piece = Bytes::from(vec![b'x'; size]);
    let pieces = stream::unfold((piece, given), move |(piece, given)| async move {
        if !every.is_zero() {
            sleep(every).await;
        }
        given.fetch_add(size, Ordering::SeqCst);
        Some((Ok(Frame::data(piece.clone())), (piece, given)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// The frames that a client has received.
#[derive(Debug, Default)]
struct ReceivedFrames {
    /// Number of bytes in DATA frames by stream.
    data: HashMap<u32, usize>,
    /// Streams whose head was received.
    heads: usize,
    /// Streams that were reset, with their error codes.
    reset: HashMap<u32, u32>,
    /// The code and the text of a GOAWAY.
    told: Option<(u32, String)>,
}

/// An HTTP/2 client that writes the frames of the test, and reads all frames.
struct Client {
    writing: OwnedWriteHalf,
    came: Arc<std::sync::Mutex<ReceivedFrames>>,
    next: u32,
}

impl Client {
    /// Connects. Each stream has a window of `window` bytes, and the window of the connection never fills.
    async fn connect(address: SocketAddr, window: u32) -> Self {
        let (mut reading, mut writing) = frames::connect(address).await.into_split();
        let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
        let room = frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
        let begin = [frame(SETTINGS, 0, 0, &setting), room].concat();
        writing.write_all(&begin).await.unwrap();
        let came = Arc::<std::sync::Mutex<ReceivedFrames>>::default();
        let noting = came.clone();
        tokio::spawn(async move {
            while let Ok(frame) = frames::read(&mut reading).await {
                let mut came = noting.lock().unwrap();
                match frame.kind {
                    DATA => *came.data.entry(frame.stream).or_default() += frame.payload.len(),
                    HEADERS => came.heads += 1,
                    RST_STREAM => drop(came.reset.insert(frame.stream, frame.code())),
                    GOAWAY => {
                        let text = String::from_utf8_lossy(&frame.payload[8..]).into_owned();
                        came.told = Some((frame.code(), text));
                    }
                    _ => {}
                }
            }
        });
        Self {
            writing,
            came,
            next: 1,
        }
    }

    /// Returns a new stream and the frames of a request on it.
    fn request(&mut self, method: &str, path: &str) -> (u32, Vec<u8>) {
        let stream = self.next;
        self.next += 2;
        let end = if method == "GET" { END_STREAM } else { 0 };
        let head = frames::request(method, path);
        (stream, frame(HEADERS, END_HEADERS | end, stream, &head))
    }

    /// Sends `count` requests at once. Returns their streams.
    async fn open(&mut self, count: usize, method: &str, path: &str) -> Vec<u32> {
        let (streams, requests): (Vec<_>, Vec<_>) = (0..count).map(|_| self.request(method, path)).unzip();
        self.write(requests.concat()).await;
        streams
    }

    async fn write(&mut self, bytes: Vec<u8>) {
        let written = self.writing.write_all(&bytes).await;
        assert!(
            written.is_ok(),
            "{written:?}, {:?}",
            self.came.lock().unwrap().told
        );
    }

    /// Enlarges the windows of these streams, like a client that reads.
    async fn allow(&mut self, streams: &[u32]) {
        let room = |&stream: &u32| frame(WINDOW_UPDATE, 0, stream, &(1_u32 << 20).to_be_bytes());
        self.write(streams.iter().flat_map(room).collect()).await;
    }

    fn received(&self, streams: &[u32]) -> Vec<usize> {
        let came = self.came.lock().unwrap();
        let received = streams.iter().map(|stream| came.data.get(stream).copied());
        received.map(Option::unwrap_or_default).collect()
    }

    /// Asserts that each of these streams makes progress.
    async fn assert_progress(&self, streams: &[u32]) {
        let before = self.received(streams);
        let go_on = async || {
            let after = self.received(streams);
            self.assert_not_reset(streams);
            before.iter().zip(&after).all(|(before, after)| before < after)
        };
        eventually("all streams go on", go_on).await;
    }

    fn assert_not_reset(&self, streams: &[u32]) {
        let came = self.came.lock().unwrap();
        assert_eq!(came.told, None, "the connection was ended");
        let reset = streams.iter().filter(|stream| came.reset.contains_key(stream));
        assert_eq!(reset.count(), 0, "{:?}", came.reset);
    }
}

// ---- calls that are cancelled ----

/// gRPC clients cancel many calls at once when these calls share a deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancelled_calls_per_second_disturb_no_other_call() {
    const BYSTANDERS: usize = 60;
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    let bystanders = client.open(BYSTANDERS, "GET", "/dev/h2/ticks").await;
    client.assert_progress(&bystanders).await;
    // The client cancels calls at once, so that most are cancelled before the injector accepts them, and then evenly.
    for together in [1_000_u64, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 1_000] {
        let started = Instant::now();
        let calls: Vec<_> = (0..together)
            .flat_map(|_| {
                let (stream, request) = client.request("GET", "/dev/h2/silent");
                [request, reset(stream, CANCEL)].concat()
            })
            .collect();
        client.write(calls).await;
        sleep(Duration::from_millis(together).saturating_sub(started.elapsed())).await;
        client.assert_not_reset(&bystanders);
    }
    client.assert_progress(&bystanders).await;
    scene.others_are_served().await;
}

/// Frames of a response are still on their way when its call is cancelled, on the shared connection to the upstream.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled_calls_with_responses_on_their_way_disturb_no_other_call() {
    const BYSTANDERS: usize = 20;
    const CALLS: usize = 500;
    let scene = Scene::start().await;
    let mut client = Client::connect(scene.pair.injector.data_plane, 1 << 20).await;
    let bystanders = client.open(BYSTANDERS, "GET", "/dev/h2/ticks").await;
    client.assert_progress(&bystanders).await;
    for _ in 0..8 {
        let calls = client.open(CALLS, "GET", "/dev/h2/flood/1000").await;
        eventually("all are answered", async || {
            client.assert_not_reset(&bystanders);
            client.received(&calls).iter().all(|&bytes| bytes > 0)
        })
        .await;
        client
            .write(calls.iter().flat_map(|&stream| reset(stream, CANCEL)).collect())
            .await;
        client.assert_progress(&bystanders).await;
    }
    scene.others_are_served().await;
}

/// A client sends the body until it learns that the request was refused.
#[tokio::test(flavor = "multi_thread")]
async fn refused_uploads_with_bodies_on_their_way_disturb_no_other_call() {
    const BYSTANDERS: usize = 20;
    const UPLOADS: usize = 400;
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    let bystanders = client.open(BYSTANDERS, "GET", "/dev/h2/ticks").await;
    client.assert_progress(&bystanders).await;
    let uploads = client.open(UPLOADS, "POST", "/dev/unknown/").await;
    eventually("all are refused", async || {
        client.came.lock().unwrap().heads == BYSTANDERS + UPLOADS
    })
    .await;
    for _ in 0..10 {
        let pieces = uploads
            .iter()
            .flat_map(|&stream| frame(DATA, 0, stream, &[b'x'; 1_000]));
        client.write(pieces.collect()).await;
    }
    client.assert_progress(&bystanders).await;
    scene.others_are_served().await;
}

// ---- unread calls ----

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_unread_responses_delay_no_other_call() {
    const READERS: usize = 1_000;
    let scene = Scene::start().await;
    for size in [16 * 1024, 100] {
        let before = process::resident();
        let mut client = Client::connect(scene.pair.injector.data_plane, 0).await;
        let started = client.came.clone();
        let unread = client
            .open(READERS, "GET", &format!("/dev/h2/flood/{size}"))
            .await;
        eventually("all have a head", async || {
            started.lock().unwrap().heads == READERS
        })
        .await;
        scene.upstream.wait_until_blocked().await;
        let grown = process::resident().saturating_sub(before);
        println!(
            "{READERS} unread answers in pieces of {size} bytes take {} MiB",
            grown >> 20
        );
        scene.others_are_served().await;
        let read = client.open(10, "GET", "/dev/h2/").await;
        client.allow(&read).await;
        eventually("they are answered", async || {
            client.received(&read).iter().all(|&bytes| bytes > 0)
        })
        .await;
        client.assert_not_reset(&unread);
        client.allow(&unread).await;
        client.assert_progress(&unread).await;
        client
            .write(unread.iter().flat_map(|&stream| reset(stream, CANCEL)).collect())
            .await;
    }
}

async fn connect(address: SocketAddr) -> SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (send, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_max_send_streams(2_000)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_unread_uploads_delay_no_other_call() {
    const UPLOADS: usize = 1_000;
    for size in [16 * 1024, 100] {
        let scene = Scene::start().await;
        let before = process::resident();
        let client = connect(scene.pair.injector.data_plane).await;
        let post = |path: &str, body: Body| {
            let mut client = client.clone();
            let uri = format!("http://localhost{path}");
            async move { client.send_request(Request::post(uri).body(body).unwrap()).await }
        };
        let given = Arc::new(AtomicUsize::new(0));
        let uploads =
            (0..UPLOADS).map(|_| post("/dev/h2/silent", endless(size, Duration::ZERO, given.clone())));
        let uploads = tokio::spawn(join_all(uploads));
        eventually("all are under way", async || {
            scene.upstream.silent.load(Ordering::SeqCst) == UPLOADS
        })
        .await;
        // A busy machine takes seconds to send what the windows of all uploads allow.
        let mut before_pause = 0;
        while before_pause != given.load(Ordering::SeqCst) {
            before_pause = given.load(Ordering::SeqCst);
            sleep(Duration::from_secs(1)).await;
        }
        let grown = process::resident().saturating_sub(before);
        println!(
            "{UPLOADS} unread uploads in pieces of {size} bytes take {} MiB",
            grown >> 20
        );
        for _ in 0..10 {
            let started = Instant::now();
            let body = Full::from(vec![b'x'; 100_000]).boxed_unsync();
            let answer = timeout(PROMPT, post("/dev/other/", body)).await;
            let answer = answer
                .expect("the upload stands still")
                .expect("the connection was ended");
            assert_eq!(answer.status(), StatusCode::OK, "{:?}", started.elapsed());
        }
        scene.others_are_served().await;
        uploads.abort();
    }
}
