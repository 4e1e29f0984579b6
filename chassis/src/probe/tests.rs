use std::net::SocketAddr;

use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::{Instant, sleep, timeout},
};

use super::*;
use crate::keepalive::TcpTimeout;

/// Number of hostile clients.
const MANY: usize = 1000;
/// Time that a kubelet waits for an answer when the probe sets no timeout.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Size of the metrics page in bytes, more than the kernel buffers for a client that does not read.
const PAGE: usize = 3_000_000;

/// Serves probes with a large metrics page, and returns the address of the listener.
async fn served() -> SocketAddr {
    let mut metrics = Registry::default();
    metrics.register("counter", "x".repeat(PAGE), Counter::<u64>::default());
    serve_at("127.0.0.1:0", metrics, Arc::new(|| Ok(())))
}

fn serve_at(address: &str, metrics: Registry, ready: Readiness) -> SocketAddr {
    let probes = Probes {
        metrics: Arc::new(metrics),
        ready,
        started: None,
    };
    let listener = listen::bind(address.parse().unwrap(), TcpTimeout::default()).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, probes, CancellationToken::new()));
    address
}

async fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Returns the answer that `stream` carries until it is closed.
async fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    let read = timeout(PROBE_TIMEOUT, stream.read_to_string(&mut answer)).await;
    read.expect("the probe was not answered, or its connection not closed")
        .unwrap();
    answer
}

async fn is_alive(address: SocketAddr) {
    let answer = answer(ask(address, "/livez").await).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_probe_is_answered_beside_a_thousand_silent_connections() {
    let address = served().await;
    let mut silent = Vec::new();
    for _ in 0..MANY {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    is_alive(address).await;
}

#[tokio::test]
async fn a_probe_is_answered_beside_a_thousand_connections_that_send_a_byte_now_and_then() {
    let address = served().await;
    let mut slow = Vec::new();
    for _ in 0..MANY {
        slow.push(TcpStream::connect(address).await.unwrap());
    }
    for byte in b"GET /liv" {
        for client in &mut slow {
            // The write fails for evicted connections.
            let _ = client.write_all(&[*byte]).await;
        }
        is_alive(address).await;
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_probe_is_answered_beside_many_scrapers_that_do_not_read() {
    let address = served().await;
    let mut scrapers = Vec::new();
    for number in 0..MAX_CONNECTIONS + 50 {
        scrapers.push(ask(address, "/metrics").await);
        if number % 50 == 0 {
            is_alive(address).await;
        }
    }
    is_alive(address).await;
}

/// Returns the address of this machine on a network other than loopback, if it has one.
fn network_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // A UDP socket sends nothing when it is connected. RFC 5737 reserves this address for documentation.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip())
}

#[tokio::test]
async fn the_detail_of_a_problem_is_for_loopback_clients_alone() {
    let ready: Readiness = Arc::new(|| {
        Err(ReadinessProblem {
            cause: "the vault does not answer",
            detail: Some("the vault at vault.internal:7150 does not answer".to_owned()),
        })
    });
    let port = serve_at("0.0.0.0:0", Registry::default(), ready).port();
    let local = answer(ask(SocketAddr::new([127, 0, 0, 1].into(), port), "/readyz").await).await;
    assert!(
        local.ends_with("not ready: the vault at vault.internal:7150 does not answer\n"),
        "{local}"
    );
    let Some(network) = network_address() else {
        return;
    };
    let near = answer(ask(SocketAddr::new(network, port), "/readyz").await).await;
    assert!(
        near.ends_with("not ready: the vault does not answer; the log says more\n"),
        "{near}"
    );
    // The proxy of a mesh connects from a loopback address to the address of the network.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.6:0".parse().unwrap()).unwrap();
    if let Ok(mut proxied) = socket.connect(SocketAddr::new(network, port)).await {
        let request = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        proxied.write_all(request.as_bytes()).await.unwrap();
        let far = answer(proxied).await;
        assert!(!far.contains("vault.internal"), "{far}");
    }
}

#[tokio::test]
async fn a_connection_is_closed_after_its_answer() {
    let address = served().await;
    for path in ["/livez", "/readyz", "/none"] {
        let answer = answer(ask(address, path).await).await;
        assert!(answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_scraper_that_does_not_read_is_cut_off() {
    let address = served().await;
    let scraper = ask(address, "/metrics").await;
    scraper.readable().await.unwrap();
    let began = Instant::now();
    // The server closes the connection after `MAX_DURATION`, so that the rest of the page never arrives.
    sleep(MAX_DURATION + Duration::from_secs(1)).await;
    // The paused clock would jump over the timeout below while the kernel delivers the page.
    time::resume();
    let page = async {
        let (mut scraper, mut page) = (scraper, Vec::new());
        let _ = scraper.read_to_end(&mut page).await;
        page.len()
    };
    let read = timeout(Duration::from_secs(60), page)
        .await
        .expect("never closed");
    assert!(read < PAGE, "the whole page came: {read}");
    assert!(began.elapsed() < 2 * MAX_DURATION);
}
