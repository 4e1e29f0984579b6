use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use proto::Principal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::{Instant, sleep, timeout},
};
use tonic::{body::Body, service::Routes};
use tower::Layer as _;

use super::{
    admission::{Admission, WITH_ROLE, WITHOUT_ROLE, WITHOUT_ROLE_YET},
    connection::{AGED_GRACE, ConnectionLimits, PREFACE_TIMEOUT, RETIRED_GRACE, WRITE_TIMEOUT},
    connection_slot::ConnectionSlot,
    *,
};
use crate::{
    authz::{Access, Binding, Policy, Role, Scope},
    connection_slots::{Eviction, Holder, Slots},
    tls::PeerTrust,
};

/// First bytes of a client: the connection preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5).
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// HEADERS of a call of `Health/Check` on stream 1, whose message is still to come.
const CHECK: &[u8] = b"\0\0\x35\x01\x04\0\0\0\x01\x83\x87\x04\x1c/grpc.health.v1.Health/Check\x01\x01h\
    \x5f\x10application/grpc";
/// HEADERS of a call of `PutSecret` on stream 1, which ends without a message.
const PUT: &[u8] = b"\0\0\x3a\x01\x05\0\0\0\x01\x83\x87\x04\x21/vault.v1.SecretService/PutSecret\x01\x01h\
    \x5f\x10application/grpc";

const PING: Ping = Ping {
    interval: Duration::from_secs(300),
    timeout: Duration::from_secs(120),
};

/// Serves a connection within `limits`. Returns its slots and the client's end. `buffer` is the number of bytes that the
/// server can write while the client does not read.
fn served(limits: &'static ConnectionLimits, buffer: usize) -> (Slots, DuplexStream) {
    let (_, health) = tonic_health::server::health_reporter();
    let mut routes = Routes::builder();
    routes.add_service(health);
    let table = &[("/grpc.health.v1.Health/Check", Access::Anyone)];
    let service = AuthzLayer::new(table, Arc::new(Policy::default())).layer(routes.routes().prepare());
    served_by(service, limits, buffer)
}

/// Serves a connection as [`served`] does, by `service`.
fn served_by(
    service: impl GrpcService,
    limits: &'static ConnectionLimits,
    buffer: usize,
) -> (Slots, DuplexStream) {
    let (slots, _, client) = served_with_slot(service, limits, buffer);
    (slots, client)
}

/// Serves a connection as [`served_by`] does, and returns its slot as well.
fn served_with_slot(
    service: impl GrpcService,
    limits: &'static ConnectionLimits,
    buffer: usize,
) -> (Slots, ConnectionSlot, DuplexStream) {
    let slots = Slots::new("test", 1, Eviction::OldestIdle);
    let slot = slots
        .try_take(&Holder::network(([192, 0, 2, 1], 1).into()))
        .unwrap();
    slot.started();
    let slot = ConnectionSlot::new(slot, limits.age.is_none());
    let served_slot = slot.clone();
    let (client, server) = duplex(buffer);
    let caller = Caller {
        peer: Arc::new(Peer::Anonymous),
        address: SocketAddr::from(([127, 0, 0, 1], 1)),
    };
    tokio::spawn(async move {
        let shutdown = CancellationToken::new();
        let trust = PeerTrust::without_authorities();
        serve_connection(
            server,
            trust,
            caller,
            served_slot,
            (limits, PING),
            service,
            &shutdown,
        )
        .await;
    });
    (slots, slot, client)
}

/// Returns the time until the server closes the connection; `None` when it is open after `limit`.
async fn time_to_close(client: &mut DuplexStream, limit: Duration) -> Option<Duration> {
    let began = Instant::now();
    let closed = timeout(limit, client.read_to_end(&mut Vec::new())).await;
    closed.ok().map(|_| began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_whole_preface_is_closed_in_time() {
    for sent in [&b""[..], b"P", &BEGINNING[..23]] {
        let (_slots, mut client) = served(&WITH_ROLE, 64 * 1024);
        client.write_all(sent).await.unwrap();
        let closed = time_to_close(&mut client, 2 * PREFACE_TIMEOUT).await;
        assert!(closed.is_some_and(|after| after >= PREFACE_TIMEOUT), "{closed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_preface_that_arrives_byte_by_byte_has_no_more_time() {
    let (_slots, mut client) = served(&WITH_ROLE, 64 * 1024);
    for byte in &BEGINNING[..2] {
        client.write_all(&[*byte]).await.unwrap();
        sleep(PREFACE_TIMEOUT / 3).await;
    }
    let closed = time_to_close(&mut client, 2 * PREFACE_TIMEOUT).await.unwrap();
    assert!(
        closed <= PREFACE_TIMEOUT / 3 + Duration::from_millis(1),
        "{closed:?}"
    );
}

/// The client of a retired connection reads, but does not answer the PING that follows GOAWAY.
#[tokio::test(start_paused = true)]
async fn a_retired_connection_is_closed_without_the_acknowledgement_of_its_client() {
    let (_slots, mut client) = served(&WITH_ROLE, 64 * 1024);
    client.write_all(&[BEGINNING, PUT].concat()).await.unwrap();
    let closed = time_to_close(&mut client, 2 * RETIRED_GRACE).await;
    assert!(closed.is_some_and(|after| after >= RETIRED_GRACE), "{closed:?}");
}

/// The client also does not answer the PING that follows GOAWAY, so the grace shows as well.
#[tokio::test(start_paused = true)]
async fn a_client_of_a_retired_connection_that_reads_slowly_gets_the_whole_answer() {
    /// Fits into the initial flow-control window, so that the call ends long before its answer is written.
    const ANSWER: usize = 60_000;
    const BYTE: u8 = 0xEE;
    let service = tower::service_fn(async |_: http::Request<_>| {
        let body = Full::new(Bytes::from_owner([BYTE; ANSWER]));
        Ok(http::Response::new(Body::new(body)))
    });
    let (_slots, mut client) = served_by(service, &WITH_ROLE, 1600);
    client.write_all(&[BEGINNING, PUT].concat()).await.unwrap();
    let (began, mut last, mut received) = (Instant::now(), Instant::now(), 0);
    // 38 seconds for the answer: longer than the grace, and shorter than the watchdog lets a piece of an answer wait.
    let mut part = [0; 1600];
    while let Ok(length @ 1..) = client.read(&mut part).await {
        received += part[..length].iter().filter(|&&byte| byte == BYTE).count();
        last = Instant::now();
        sleep(Duration::from_secs(1)).await;
    }
    assert!(received >= ANSWER, "{received} bytes after {:?}", began.elapsed());
    assert!(began.elapsed() > 2 * RETIRED_GRACE, "{:?}", began.elapsed());
    // The last bytes were written up to a second before they were read.
    let grace = last.elapsed() + Duration::from_secs(1);
    assert!(grace >= RETIRED_GRACE && grace < 2 * RETIRED_GRACE, "{grace:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_role_ends_at_its_age_also_while_a_call_runs() {
    let age = WITHOUT_ROLE.age.unwrap();
    for begun in [BEGINNING.to_vec(), [BEGINNING, CHECK].concat()] {
        let (_slots, mut client) = served(&WITHOUT_ROLE, 64 * 1024);
        let began = Instant::now();
        client.write_all(&begun).await.unwrap();
        let mut read = Vec::new();
        let ended = timeout(2 * age, client.read_to_end(&mut read)).await;
        assert!(ended.is_ok(), "it was never closed");
        assert!(began.elapsed() >= age && began.elapsed() < age + 2 * AGED_GRACE);
        // GOAWAY with the last stream id that there is, so that the client sends its next call elsewhere.
        let go_away = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff";
        assert!(
            read.windows(go_away.len()).any(|frame| frame == go_away),
            "{read:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_a_role_has_no_age() {
    let (_slots, mut client) = served(&WITH_ROLE, 64 * 1024);
    client.write_all(BEGINNING).await.unwrap();
    let age = WITHOUT_ROLE.age.unwrap() + 2 * AGED_GRACE;
    let closed = time_to_close(&mut client, age).await;
    assert!(closed.is_none(), "it was closed");
}

#[tokio::test(start_paused = true)]
async fn an_evicted_connection_ends_at_once_also_when_its_client_reads_nothing() {
    for buffer in [8, 64 * 1024] {
        let (slots, mut client) = served(&WITHOUT_ROLE, buffer);
        let pings = b"\0\0\x08\x06\0\0\0\0\0pingping".repeat(32);
        let sending = async {
            client.write_all(BEGINNING).await?;
            client.write_all(&pings).await
        };
        // With a small buffer the server stops reading once it cannot write.
        let _ = timeout(Duration::from_secs(1), sending).await;
        let _newcomer = slots.try_take(&Holder::network(([192, 0, 2, 2], 1).into()));
        let closed = time_to_close(&mut client, Duration::from_secs(60)).await;
        assert!(
            closed.is_some_and(|after| after < Duration::from_secs(1)),
            "{closed:?}"
        );
    }
}

/// A client that reads all that comes, and opens no window for the bytes of its answer.
#[tokio::test(start_paused = true)]
async fn a_connection_whose_client_does_not_take_an_answer_ends() {
    // A whole call, about the service "".
    let call = b"\0\0\x35\x01\x04\0\0\0\x01\x83\x87\x04\x1c/grpc.health.v1.Health/Check\x01\x01h\
        \x5f\x10application/grpc\
        \0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0";
    let no_window = [&BEGINNING[..24], b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0"].concat();
    for (beginning, is_taken) in [(no_window.as_slice(), false), (BEGINNING, true)] {
        let (_slots, mut client) = served(&WITH_ROLE, 64 * 1024);
        let began = Instant::now();
        client.write_all(&[beginning, call].concat()).await.unwrap();
        // Shorter than the server waits for the answer to a PING.
        let most = WRITE_TIMEOUT * 3 / 2 + Duration::from_secs(1);
        let mut read = Vec::new();
        let ended = timeout(most, client.read_to_end(&mut read)).await;
        assert_eq!(ended.is_err(), is_taken);
        assert!(began.elapsed() >= WRITE_TIMEOUT);
        // The head of the answer came, and the message where there was room for it.
        let data = b"\0\0\x07\0\0\0\0\0\x01\0\0\0\0\x02\x08\x01";
        assert_eq!(
            read.windows(data.len()).any(|frame| frame == data),
            is_taken,
            "{read:?}"
        );
    }
}

/// Returns the decisions of a server on which `dns:known` has a role.
fn admission() -> Admission {
    let binding = Binding {
        principal: Principal::parse("dns:known").unwrap(),
        role: Role::Admin,
        scope: Scope::All,
    };
    let policy = Arc::new(Policy::new([binding]).unwrap());
    Admission::new(AuthzLayer::new(&[], policy), Issuers::default())
}

fn peer(name: &str) -> Peer {
    Peer::Known {
        principal: Principal::parse(name).unwrap(),
        not_after: SystemTime::now() + Duration::from_secs(600),
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_a_token_gives_a_role_has_no_age_and_leaves_the_slots_of_strangers() {
    let nothing = tower::service_fn(async |_: http::Request<_>| Ok(http::Response::new(Body::empty())));
    let admission = admission();
    for (name, has_role) in [("dns:known", true), ("dns:unknown", false)] {
        let (strangers, slot, mut client) = served_with_slot(nothing, &WITHOUT_ROLE_YET, 64 * 1024);
        client.write_all(BEGINNING).await.unwrap();
        assert!(admission.identify(&slot, &peer(name)));
        assert_eq!(slot.has_role(), has_role, "{name}");
        // Strangers share one slot, which a newcomer takes from the connection that has the slot.
        let newcomer = strangers.try_take(&Holder::network(([192, 0, 2, 2], 1).into()));
        assert!(newcomer.is_some());
        let age = WITHOUT_ROLE_YET.age.unwrap() + 2 * AGED_GRACE;
        let closed = time_to_close(&mut client, age).await;
        assert_eq!(closed.is_none(), has_role, "{name}: {closed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_eviction_of_a_slot_that_a_token_brought_closes_the_connection() {
    let nothing = tower::service_fn(async |_: http::Request<_>| Ok(http::Response::new(Body::empty())));
    let (_strangers, slot, mut client) = served_with_slot(nothing, &WITHOUT_ROLE_YET, 64 * 1024);
    client.write_all(BEGINNING).await.unwrap();
    assert!(admission().identify(&slot, &peer("dns:known")));
    slot.evictor().cancel();
    let closed = time_to_close(&mut client, Duration::from_secs(60)).await;
    assert!(
        closed.is_some_and(|after| after < Duration::from_secs(1)),
        "{closed:?}"
    );
}
