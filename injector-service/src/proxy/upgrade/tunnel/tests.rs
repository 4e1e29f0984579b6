use tokio::{
    io::{BufStream, DuplexStream, duplex},
    task::JoinHandle,
    time::timeout,
};

use super::*;

const IDLE: Duration = Duration::from_secs(60 * 60);

/// Returns both ends of a tunnel, and a task that returns the reason of its end and its counts.
fn tunnel() -> (DuplexStream, DuplexStream, JoinHandle<(&'static str, Counts)>) {
    let (downstream, theirs) = duplex(64);
    let (upstream, its) = duplex(64);
    let task = tokio::spawn(async move {
        let traffic = Traffic::new();
        let ended = until_ended(relay(theirs, its, None, &traffic), &traffic, IDLE, None).await;
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
async fn written_bytes_are_flushed() {
    let (mut downstream, theirs) = duplex(64);
    let (mut upstream, its) = duplex(64);
    tokio::spawn(async move {
        // TLS also keeps written bytes in a buffer until it is flushed.
        relay(BufStream::new(theirs), BufStream::new(its), None, &Traffic::new()).await
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
async fn an_idle_tunnel_ends() {
    let (mut downstream, mut upstream, task) = tunnel();
    let (started, mut byte) = (Instant::now(), [0]);
    let almost = IDLE - Duration::from_secs(1);
    // Bytes in either direction restart the timeout.
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
