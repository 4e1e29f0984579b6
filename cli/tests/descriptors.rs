//! Test of `aerostack dev` without free file descriptors: it refuses calls, and recovers when descriptors are free again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod support;

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use proto::vault::v1::{
    CreateWorkspaceRequest, ListWorkspacesRequest, PutSecretRequest, Workspace, put_secret_request::Value,
    secret_service_client::SecretServiceClient, workspace_service_client::WorkspaceServiceClient,
};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use support::dev::{Dev, PATIENCE};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tonic::transport::Channel;

const VALUE: &str = "canary-d35c";
/// Limit of file descriptors of the process, set after the start.
const MAX_DESCRIPTORS: u64 = 64;
/// Number of connections, each of which needs a descriptor.
const CONNECTIONS: usize = 100;

/// Starts an upstream that answers every request except `/hold`, and records the heads. Each request has its own
/// connection.
async fn upstream() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let kept = heads.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let kept = kept.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let is_held = head.starts_with("GET /hold ");
                kept.lock().unwrap().push(head);
                if is_held {
                    let _ = stream.read_u8().await;
                    return;
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                drop(stream.write_all(answer).await);
            });
        }
    });
    (address, heads)
}

/// Limits the descriptors of the running process to [`MAX_DESCRIPTORS`].
fn limit(dev: &Dev) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: Some(MAX_DESCRIPTORS),
        maximum,
    };
    prlimit(Some(dev.id()), Resource::Nofile, limit).unwrap();
}

/// Returns the CPU time that the process has used, in seconds.
fn cpu(dev: &Dev) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", dev.child.id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: f64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum();
    ticks / 100.0
}

/// Sends one request over an open connection, and returns the status of the answer.
async fn call(connection: &mut TcpStream) -> u16 {
    let request = b"GET /w/s/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    connection.write_all(request).await.unwrap();
    let answering = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        connection.read_exact(&mut vec![0; length]).await.unwrap();
        head.split(' ').nth(1).unwrap().parse().unwrap()
    };
    timeout(PATIENCE, answering).await.expect("no answer came")
}

async fn put(channel: &Channel) -> Result<(), tonic::Status> {
    let request = PutSecretRequest {
        workspace: "w".to_owned(),
        name: "TOKEN".to_owned(),
        value: Some(Value::Text(VALUE.to_owned())),
        ..Default::default()
    };
    let put = SecretServiceClient::new(channel.clone())
        .put_secret(request)
        .await;
    put.map(drop)
}

/// Returns a channel that is connected. The vault does not keep a connection over which a value came, so each phase of
/// the test needs a new channel.
async fn connected(dev: &Dev) -> Channel {
    let channel = dev.admin();
    let mut workspaces = WorkspaceServiceClient::new(channel.clone());
    workspaces
        .list_workspaces(ListWorkspacesRequest::default())
        .await
        .unwrap();
    channel
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !check().await {
        assert!(started.elapsed() < PATIENCE, "never happened: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_calls_are_refused_and_later_calls_succeed() {
    let (upstream, heads) = upstream().await;
    let dir = TempDir::new().unwrap();
    let dir = dir.path().join("dev");
    let servers = dir.join("injector/servers.yaml");
    let mut dev = Dev::start(&dir).await;
    let admin = connected(&dev).await;
    let workspace = CreateWorkspaceRequest {
        workspace: Some(Workspace {
            name: "w".to_owned(),
            ..Default::default()
        }),
    };
    let mut workspaces = WorkspaceServiceClient::new(admin.clone());
    workspaces.create_workspace(workspace).await.unwrap();
    put(&admin).await.unwrap();
    let file = format!(
        "version: 1\nservers:\n- workspace: w\n  name: s\n  url: http://{upstream}\n  injections:\n  - {{secret: TOKEN, required: true}}\n"
    );
    fs::write(&servers, &file).unwrap();
    let mut kept = TcpStream::connect(dev.ports["data_plane"]).await.unwrap();
    eventually("the server is known", async || call(&mut kept).await == 200).await;

    limit(&dev);
    assert_eq!(
        call(&mut kept).await,
        200,
        "it has enough as long as nobody takes them"
    );
    for listener in ["data_plane", "vault", "vault_metrics"] {
        let admin = connected(&dev).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(dev.ports[listener]).await.unwrap());
        }
        // Idle connections are closed to free descriptors.
        eventually("calls go on beside them", async || call(&mut kept).await == 200).await;
        let (started, used) = (Instant::now(), cpu(&dev));
        put(&admin).await.unwrap();
        // The changed file cannot be opened now, and its last contents must stay in use.
        fs::write(&servers, format!("{file}# {listener}\n")).unwrap();
        sleep(Duration::from_millis(1_200)).await;
        assert!(dev.child.try_wait().unwrap().is_none(), "it stopped");
        let share = (cpu(&dev) - used) / started.elapsed().as_secs_f64();
        assert!(
            share < 0.5,
            "{listener}: it is busy {share} of the time with nothing"
        );
        assert_eq!(call(&mut kept).await, 200, "{listener}");
        drop(idle);
        put(&admin).await.unwrap();
    }

    let admin = connected(&dev).await;
    let mut busy = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = TcpStream::connect(dev.ports["data_plane"]).await.unwrap();
        let request = b"GET /w/s/hold HTTP/1.1\r\nHost: localhost\r\n\r\n";
        connection.write_all(request).await.unwrap();
        busy.push(connection);
    }
    // The injector cannot connect to the upstream, and answers 503.
    eventually("all descriptors are taken", async || call(&mut kept).await == 503).await;
    let calls = heads.lock().unwrap().len();
    for _ in 0..10 {
        assert_eq!(call(&mut kept).await, 503);
    }
    assert_eq!(heads.lock().unwrap().len(), calls);
    // A put over an open connection needs no new descriptor.
    put(&admin).await.unwrap();
    drop(busy);
    eventually("it calls again", async || call(&mut kept).await == 200).await;
    let mut new = TcpStream::connect(dev.ports["data_plane"]).await.unwrap();
    assert_eq!(call(&mut new).await, 200);
    let secret = format!("x-mcp-secret-token: {VALUE}\r\n");
    for head in heads.lock().unwrap().iter() {
        assert!(head.to_lowercase().contains(&secret), "{head}");
    }
}
