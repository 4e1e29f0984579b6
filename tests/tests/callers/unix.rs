//! Calls through the Unix socket.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::Command,
};

use e2e::{Injector, PATIENCE, Pair, Upstream, eventually, pair::injector_settings};
use http::{Request, Response};
use http_body_util::Full;
use injector_service::config::Settings;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::mpsc,
    task::spawn_blocking,
    time::timeout,
};

use super::{CI, Tokens, WEB, outcome, over_http1, over_http1_to, over_http2, pair, with_token};

/// A uid that neither root nor this process has.
const STRANGER: u32 = 65_530;

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// A directory that every user may enter, with the path of a socket in it.
struct Socket(TempDir);

impl Socket {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("data-plane.sock")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }
}

fn listen_on(path: PathBuf) -> impl FnOnce(&mut Settings) {
    move |settings| settings.callers.listen_unix = Some(path)
}

#[tokio::test]
async fn calls_pass_through_the_socket_as_they_do_over_tcp() {
    let (upstream, socket) = (
        Upstream::answering(|seen| {
            let next = format!("http://{}/next", seen.host);
            let redirect = Response::builder().status(302).header("location", next);
            redirect.body(Full::from("moved")).unwrap()
        })
        .await,
        Socket::new(),
    );
    let pair = pair(&upstream, listen_on(socket.path())).await;
    let mode = fs::metadata(socket.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
    let by_path = Request::get("/dev/api/x?y=1");
    let by_headers = Request::get("/x?y=1")
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", "api");
    for (request, location) in [
        (by_path, "http://localhost/dev/api/next"),
        (by_headers, "http://localhost/next"),
    ] {
        let answer = over_http1(socket.connect().await, request).await;
        assert_eq!(outcome(&answer), (302, ""));
        assert_eq!(answer.headers()["location"], location);
        let seen = upstream.last();
        assert_eq!(
            (seen.target.as_str(), seen.header("x-mcp-secret-token")),
            ("/x?y=1", Some("tok-1"))
        );
    }
    let by_host = Request::get("/x").header("host", "api.dev.localhost");
    let answer = over_http1_to(socket.connect().await, by_host).await;
    assert_eq!(answer.headers()["location"], "http://api.dev.localhost/next");
    let http2 = over_http2(socket.connect().await, Request::get("http://localhost/dev/api/")).await;
    assert_eq!(outcome(&http2), (302, ""));
    let status = over_http1(socket.connect().await, Request::get("/-/status")).await;
    assert_eq!(status.status(), 200);
    pair.stop().await;
    assert!(!socket.path().exists(), "the socket is gone after the shutdown");
}

#[tokio::test]
async fn the_checks_of_host_and_of_web_pages_hold_on_the_socket() {
    let (upstream, socket) = (Upstream::start().await, Socket::new());
    let pair = pair(&upstream, listen_on(socket.path())).await;
    for (name, value, expected) in [
        ("host", "evil.example", (421, "HOST_NOT_SERVED")),
        ("origin", "https://evil.example", (403, "BROWSER_REFUSED")),
        ("sec-fetch-site", "same-origin", (403, "BROWSER_REFUSED")),
    ] {
        let mut request = Request::get("/dev/api/").header(name, value);
        if name != "host" {
            request = request.header("host", "localhost");
        }
        let answer = over_http1_to(socket.connect().await, request).await;
        assert_eq!(outcome(&answer), expected, "{name}");
    }
    assert!(upstream.seen().is_empty());
    pair.stop().await;
}

#[tokio::test]
async fn a_user_who_is_not_listed_may_not_call() {
    let (upstream, socket) = (Upstream::start().await, Socket::new());
    let pair = pair(&upstream, |settings| {
        listen_on(socket.path())(settings);
        settings.callers.allow_uid = vec![STRANGER.to_string()];
    })
    .await;
    for request in ["/dev/api/", "/dev/none/"] {
        let answer = over_http1(socket.connect().await, Request::get(request)).await;
        assert_eq!(outcome(&answer), (403, "PERMISSION_DENIED"), "{request}");
        let problem = String::from_utf8(answer.body().to_vec()).unwrap();
        assert!(
            problem.contains(&format!(
                "the user with uid {} may not call this injector",
                own_uid()
            )),
            "{problem}"
        );
    }
    if own_uid() == 0 {
        assert_eq!(status_as(STRANGER, socket.path()).await, 200);
        assert_eq!(status_as(STRANGER - 1, socket.path()).await, 403);
        assert_eq!(upstream.seen().len(), 1);
    }
    pair.stop().await;
}

/// Calls `/dev/api/` as another user, which only root can, and returns the status.
async fn status_as(uid: u32, socket: PathBuf) -> u16 {
    let client = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX)\n\
        s.connect(sys.argv[1])\n\
        s.sendall(b'GET /dev/api/ HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n')\n\
        print(s.recv(4096).split()[1].decode())\n";
    let calling = move || {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", client]).arg(socket).current_dir("/");
        python.uid(uid).gid(uid).output().unwrap()
    };
    let output = spawn_blocking(calling).await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let status = String::from_utf8_lossy(&output.stdout).trim().parse();
    status.unwrap_or_else(|_| panic!("{error}"))
}

#[tokio::test]
async fn a_listed_user_needs_no_token_and_a_token_narrows_its_calls() {
    let (upstream, tokens, socket) = (Upstream::start().await, Tokens::new(), Socket::new());
    let pair = pair(&upstream, |settings| {
        tokens.configure(settings);
        listen_on(socket.path())(settings);
    })
    .await;
    for (path, token, expected) in [
        ("/dev/other/", None, (200, "")),
        ("/dev/api/", Some(CI), (200, "")),
        ("/dev/other/", Some(CI), (403, "PERMISSION_DENIED")),
        ("/dev/other/", Some(WEB), (403, "PERMISSION_DENIED")),
        ("/dev/other/", Some("wrong"), (401, "UNAUTHENTICATED")),
    ] {
        let answer = over_http1(socket.connect().await, with_token(path, token)).await;
        assert_eq!(outcome(&answer), expected, "{path} {token:?}");
    }
    // Over TCP, the same program has to identify itself.
    assert_eq!(pair.injector.get("/dev/other/").await.status(), 401);
    pair.stop().await;
}

#[tokio::test]
async fn without_a_tcp_listener_only_the_socket_leads_to_servers() {
    let (upstream, socket) = (Upstream::start().await, Socket::new());
    let pair = pair(&upstream, |settings| {
        listen_on(socket.path())(settings);
        settings.data_plane_listen = "none".into();
    })
    .await;
    assert_eq!(pair.injector.data_plane.port(), 0);
    let answer = over_http1(socket.connect().await, Request::get("/dev/api/")).await;
    assert_eq!(answer.status(), 200);
    pair.stop().await;
}

#[tokio::test]
async fn a_second_injector_does_not_take_over_the_socket_and_a_successor_does() {
    let (upstream, socket) = (Upstream::start().await, Socket::new());
    // A process that was killed left its socket behind.
    drop(std::os::unix::net::UnixListener::bind(socket.path()).unwrap());
    let pair = pair(&upstream, listen_on(socket.path())).await;
    let dir = TempDir::new().unwrap();
    let mut settings = injector_settings(
        &pair.vault.pki,
        dir.path().join("servers.yaml"),
        pair.vault.address,
    );
    listen_on(socket.path())(&mut settings);
    let config = settings.check().unwrap();
    let refused = injector_service::Listeners::bind(&config).await.err().unwrap();
    assert!(
        refused.to_string().contains("another process listens there"),
        "{refused}"
    );
    let answer = over_http1(socket.connect().await, Request::get("/dev/api/")).await;
    assert_eq!(answer.status(), 200, "the first one serves on");
    let Pair { vault, injector } = pair;
    injector.stop().await;
    let successor = Injector::start_with(vault.pki.clone(), vault.address, listen_on(socket.path())).await;
    let answer = over_http1(socket.connect().await, Request::get("/-/status")).await;
    assert_eq!(answer.status(), 200);
    successor.stop().await;
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_way_on_the_socket_finishes_after_sigterm_and_no_other_begins() {
    let (began, mut begins) = mpsc::unbounded_channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let upstream = Upstream::answering(move |_| {
        began.send(()).unwrap();
        tokio::task::block_in_place(|| released.lock().unwrap().recv().unwrap());
        Response::new(Full::from("finished"))
    })
    .await;
    let socket = Socket::new();
    let pair = pair(&upstream, |settings| {
        listen_on(socket.path())(settings);
        settings.process.shutdown_grace = "30s".into();
    })
    .await;
    let idle = socket.connect().await;
    let stream = socket.connect().await;
    let call = tokio::spawn(over_http1(stream, Request::get("/dev/api/")));
    begins.recv().await.unwrap();
    let stopped = tokio::spawn(pair.stop());
    eventually("the socket is gone", async || !socket.path().exists()).await;
    assert_eq!(
        UnixStream::connect(socket.path()).await.unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    let mut idle = idle;
    assert_eq!(
        timeout(PATIENCE, idle.read(&mut [0])).await.unwrap().unwrap(),
        0,
        "an idle connection is closed"
    );
    assert!(!stopped.is_finished());
    release.send(()).unwrap();
    let answer = timeout(PATIENCE, call).await.unwrap().unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.body()[..]),
        (200, &b"finished"[..])
    );
    timeout(PATIENCE, stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_limit_of_connections_holds_on_the_socket() {
    let (upstream, socket) = (Upstream::start().await, Socket::new());
    let pair = pair(&upstream, |settings| {
        listen_on(socket.path())(settings);
        settings.limits.max_connections = "2".into();
    })
    .await;
    let mut first = socket.connect().await;
    let mut second = socket.connect().await;
    second
        .write_all(b"GET /-/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(second.read(&mut [0; 1024]).await.unwrap() > 0);
    let answer = over_http1(socket.connect().await, Request::get("/-/status")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        timeout(PATIENCE, first.read(&mut [0])).await.unwrap().unwrap(),
        0,
        "the oldest one made room"
    );
    pair.stop().await;
}
