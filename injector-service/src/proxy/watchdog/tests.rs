use chassis::{
    connection_slots::{Eviction, Holder, Slots},
    settings::Problems,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    time::advance,
};

use super::*;
use crate::limits::LimitSettings;

const SECOND: Duration = Duration::from_secs(1);

fn limits() -> Limits {
    let settings = LimitSettings {
        head_timeout: "3s".to_owned(),
        idle_timeout: "10s".to_owned(),
        write_timeout: "5s".to_owned(),
        ..Default::default()
    };
    settings.check(&mut Problems::default()).unwrap()
}

fn slots() -> Slots {
    Slots::new("test", 1, Eviction::OldestIdle)
}

fn take(slots: &Slots) -> Option<Slot> {
    slots.try_take(&Holder::network(([192, 0, 2, 1], 1).into()))
}

fn watchdog() -> Arc<Watchdog> {
    Watchdog::new(take(&slots()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_slot_is_idle_once_its_calls_have_ended() {
    let (slots, limits) = (slots(), limits());
    let watchdog = Watchdog::new(take(&slots).unwrap());
    let call = watchdog.begin_call();
    assert!(take(&slots).is_none(), "a busy connection keeps its slot");
    drop(call);
    let _newcomer = take(&slots).unwrap();
    assert_eq!(watchdog.check(&limits), Err(CloseReason::Idle));
    let _late = watchdog.begin_call();
    assert!(watchdog.check(&limits).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_only_between_calls() {
    let (watchdog, limits) = (watchdog(), limits());
    assert_eq!(watchdog.check(&limits), Ok(3 * SECOND));
    advance(8 * SECOND).await;
    let (one, other) = (watchdog.begin_call(), watchdog.begin_call());
    advance(20 * SECOND).await;
    assert_eq!(watchdog.check(&limits), Ok(3 * SECOND));
    drop(one);
    advance(20 * SECOND).await;
    assert_eq!(watchdog.check(&limits), Ok(3 * SECOND));
    drop(other);
    advance(9 * SECOND).await;
    assert_eq!(watchdog.check(&limits), Ok(SECOND));
    advance(SECOND).await;
    assert_eq!(watchdog.check(&limits), Err(CloseReason::Idle));
}

#[tokio::test(start_paused = true)]
async fn the_time_for_a_head_begins_with_its_first_byte_and_http2_has_no_such_limit() {
    let limits = limits();
    for (first, expected) in [("G", Err(CloseReason::SlowHead)), ("PRI * HTTP/2.0", Ok(SECOND))] {
        let watchdog = watchdog();
        let (near, mut far) = duplex(64);
        let mut watched = WatchedStream::new(near, watchdog.clone());
        advance(6 * SECOND).await;
        far.write_all(first.as_bytes()).await.unwrap();
        assert!(watched.read(&mut [0; 64]).await.unwrap() > 0);
        advance(2 * SECOND).await;
        assert!(watchdog.check(&limits).is_ok(), "{first}");
        far.write_all(b"E").await.unwrap();
        watched.read_u8().await.unwrap();
        advance(SECOND).await;
        assert_eq!(watchdog.check(&limits), expected, "{first}");
        // The head is complete in time.
        let call = watchdog.begin_call();
        assert!(watchdog.check(&limits).is_ok(), "{first}");
        drop(call);
    }
}

#[tokio::test(start_paused = true)]
async fn http2_is_recognized_when_its_first_bytes_arrive_one_by_one() {
    let limits = limits();
    for (pieces, expected) in [
        (&["P", "R", "I", " * HTTP/2.0"][..], Ok(SECOND)),
        (&["PR", "I * HTTP"], Ok(SECOND)),
        (&["P", "R"], Err(CloseReason::SlowHead)),
        (&["P", "OST / HTTP/1.1"], Err(CloseReason::SlowHead)),
        (&["PRI", "NT / HTTP/1.1"], Err(CloseReason::SlowHead)),
    ] {
        let watchdog = watchdog();
        advance(6 * SECOND).await;
        for piece in pieces {
            watchdog.record_read(piece.as_bytes());
        }
        advance(3 * SECOND).await;
        assert_eq!(watchdog.check(&limits), expected, "{pieces:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_makes_progress_is_not_blocked() {
    let (watchdog, limits) = (watchdog(), limits());
    let _call = watchdog.begin_call();
    let (near, mut far) = duplex(64);
    let mut watched = WatchedStream::new(near, watchdog.clone());
    let writing = tokio::spawn(async move { watched.write_all(&[0; 200]).await });
    for _ in 0..2 {
        tokio::task::yield_now().await;
        advance(4 * SECOND).await;
        assert!(watchdog.check(&limits).is_ok());
        far.read_exact(&mut [0; 64]).await.unwrap();
    }
    tokio::task::yield_now().await;
    advance(6 * SECOND).await;
    assert_eq!(watchdog.check(&limits), Err(CloseReason::Blocked));
    writing.abort();
}
