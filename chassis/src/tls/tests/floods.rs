//! Floods of clients without an identity.

use tokio::net::{TcpListener, TcpStream};

use super::{handshakes::connect, *};
use crate::{connection_slots::Holder, listen, test_log::TestLog};

/// More connections than the log has lines for in the time of a test.
const FLOOD: usize = 400;
/// The lines of a burst, and of the seconds that a test may take.
const MOST_LINES: usize = 200;

#[tokio::test]
async fn a_flood_of_failed_handshakes_fills_no_disk() {
    let (log, _captured) = TestLog::capture();
    let ca = TestCa::new();
    let server = Files::of(&ca).server();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let slots = listen::handshake_slots();
    for _ in 0..FLOOD {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let slot = slots.take(Holder::network(peer)).await;
        assert!(listen::handshake(&server, stream, peer, &slot).await.is_none());
    }
    let lines = log.count("tls handshake refused");
    assert!((1..=MOST_LINES).contains(&lines), "{lines}");
}

#[tokio::test]
async fn a_flood_of_refused_certificates_fills_no_disk() {
    let (log, _captured) = TestLog::capture();
    let (ca, other) = (TestCa::new(), TestCa::new());
    let server = Files::of(&ca).server();
    let identity = Reloading::fixed(other.issue(CLIENT, Days::Valid).identity());
    let vault = Principal::parse(SERVER).unwrap();
    let client = ClientTls::grpc(Some(identity), Reloading::fixed(ca.authorities()), vault);
    for _ in 0..FLOOD {
        assert!(connect(&server, &client).await.is_err());
    }
    let lines = log.count("client certificate refused");
    assert!((1..=MOST_LINES).contains(&lines), "{lines}");
}
