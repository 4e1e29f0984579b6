//! Tests of the real injector with a vault that is missing, dies, is slow, or answers wrongly.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod fake;
mod sealing;
mod slow;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use e2e::{Injector, PATIENCE, Pki, Seen, Upstream, eventually, pair::get, pki};
use fake::{Act, Fake, error, honest, ok, status, value_of, with};
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use injector_service::limits::LimitSettings;
use proto::{
    Reason, Uid,
    vault::v1::{DecryptAnswer, DecryptRequest, DecryptStatus, DecryptedSecret, decrypt_answer::Outcome},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{RwLock, RwLockReadGuard, mpsc, watch},
    time::timeout,
};
use tonic::Status;

/// Uid of the workspace `dev` in the servers file.
const DEV: &str = "0b2f9c1e-7d5e-4c1a-9a53-0d6f7d1c2b3a";

/// Treatment of connections to the vault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Connections lead to the vault.
    Through,
    /// New connections are closed at once, and existing ones are cut.
    Cut,
    /// Connections are accepted, and nothing is ever read from them.
    Silent,
}

/// A proxy at the address that the injector has for its vault.
struct Wire {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
}

impl Wire {
    async fn to(vault: SocketAddr, mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(mode);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(carry(stream, vault, modes.clone()));
            }
        });
        Self { address, mode }
    }

    /// Cuts the existing connections, and lets new ones through.
    fn cut_once(&self) {
        self.mode.send_replace(Mode::Cut);
        self.mode.send_replace(Mode::Through);
    }
}

async fn carry(mut stream: TcpStream, vault: SocketAddr, mut modes: watch::Receiver<Mode>) {
    let mode = *modes.borrow_and_update();
    // A change of the mode cuts the existing connections.
    let changed = async { modes.changed().await.is_ok() };
    match mode {
        Mode::Cut => {}
        Mode::Silent => drop(changed.await),
        Mode::Through => {
            let mut onward = TcpStream::connect(vault).await.unwrap();
            onward.set_nodelay(true).unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::select! {
                _ = copy_bidirectional(&mut stream, &mut onward) => {}
                _ = changed => {}
            }
        }
    }
}

struct Scene {
    injector: Injector,
    upstream: Upstream,
    /// `None` in the test that measures memory.
    _shared: Option<RwLockReadGuard<'static, ()>>,
}

/// Write-locked by the test that measures the memory of this process, so that it runs alone.
static MEMORY: RwLock<()> = RwLock::const_new(());

/// Starts an injector with these servers: names, and the secrets of each; `!` marks a required secret.
async fn scene(pki: &Arc<Pki>, vault: SocketAddr, servers: &[(&str, &[&str])]) -> Scene {
    let shared = MEMORY.read().await;
    scene_within(pki, vault, servers, patient("1s"), Some(shared)).await
}

/// Sets the time limit of each decrypt.
fn patient(budget: &'static str) -> impl FnOnce(&mut LimitSettings) {
    move |limits| limits.vault_timeout = budget.to_owned()
}

/// Starts an injector as [`scene`] does, with other limits.
async fn scene_within(
    pki: &Arc<Pki>,
    vault: SocketAddr,
    servers: &[(&str, &[&str])],
    limits: impl FnOnce(&mut LimitSettings),
    shared: Option<RwLockReadGuard<'static, ()>>,
) -> Scene {
    let upstream = Upstream::start().await;
    let file = listing(&upstream, servers);
    scene_of(pki, vault, upstream, file, limits, shared).await
}

/// Returns the servers file for these servers.
fn listing(upstream: &Upstream, servers: &[(&str, &[&str])]) -> String {
    let mut file = "version: 1\nservers:\n".to_owned();
    for (name, secrets) in servers {
        file += &format!(
            "- workspace: dev\n  name: {name}\n  url: {}\n  workspace_uid: {DEV}\n",
            upstream.url()
        );
        let injections = secrets.iter().map(|secret| {
            let required = secret.ends_with('!');
            format!(
                "{{secret: {}, required: {required}}}",
                secret.trim_end_matches('!')
            )
        });
        file += &format!("  injections: [{}]\n", injections.collect::<Vec<_>>().join(", "));
    }
    file
}

async fn scene_of(
    pki: &Arc<Pki>,
    vault: SocketAddr,
    upstream: Upstream,
    file: String,
    limits: impl FnOnce(&mut LimitSettings),
    shared: Option<RwLockReadGuard<'static, ()>>,
) -> Scene {
    let injector = Injector::start_with(pki.clone(), vault, |settings| {
        std::fs::write(settings.servers.as_ref().unwrap(), file).unwrap();
        limits(&mut settings.limits);
    })
    .await;
    Scene {
        injector,
        upstream,
        _shared: shared,
    }
}

impl Scene {
    async fn call(&self, server: &str) -> Response<Bytes> {
        timeout(PATIENCE, self.injector.get(&format!("/dev/{server}/")))
            .await
            .expect("the call never ended")
    }

    /// Asserts that a call is refused with `reason`, without details of the vault and without a request to the upstream.
    async fn refuses(&self, server: &str, expected: (u16, &str), what: &str) {
        let before = self.upstream.seen().len();
        let response = self.call(server).await;
        let reason = response
            .headers()
            .get("x-aerostack-reason")
            .map(|reason| reason.to_str().unwrap());
        assert_eq!(
            (response.status().as_u16(), reason),
            (expected.0, Some(expected.1)),
            "{what}"
        );
        assert!(
            !format!("{response:?}").contains("canary"),
            "{what}: {response:?}"
        );
        assert_eq!(self.upstream.seen().len(), before, "{what}: it went upstream");
    }

    async fn is_ready(&self) -> bool {
        get(&format!("http://{}/readyz", self.injector.metrics))
            .await
            .status()
            .is_success()
    }
}

fn value(seen: &Seen, name: &str) -> Option<Vec<u8>> {
    seen.headers
        .get(format!("x-mcp-secret-{}", name.to_lowercase().replace('_', "-")))
        .map(|value| value.as_bytes().to_vec())
}

/// The answers of the fake vault to a call.
type Answered = fn() -> Vec<DecryptedSecret>;

#[tokio::test]
async fn an_answer_that_does_not_match_its_request_is_never_used() {
    let pki = Pki::new();
    let served = Fake::new(|call| Act::Answer(vec![honest(&call)]))
        .serve(&pki)
        .await;
    let scene = scene(&pki, served.address, &[("s", &["A", "B"])]).await;
    scene.injector.ready().await;
    assert_eq!(scene.call("s").await.status(), StatusCode::OK);
    let seen = scene.upstream.last();
    assert_eq!(
        (value(&seen, "A"), value(&seen, "B")),
        (Some(value_of("A")), Some(value_of("B")))
    );

    let secrets: Vec<(&str, Answered)> = vec![
        ("another name", || vec![ok("A"), ok("C")]),
        ("a name twice", || vec![ok("A"), ok("A")]),
        ("one too few", || vec![ok("A")]),
        ("none", Vec::new),
        ("one too many", || vec![ok("A"), ok("B"), ok("C")]),
        ("one of them twice", || vec![ok("A"), ok("B"), ok("B")]),
        ("another order", || vec![ok("B"), ok("A")]),
        ("another spelling", || vec![ok("a"), ok("B")]),
        ("a value that was cut to nothing", || {
            vec![
                ok("A"),
                DecryptedSecret {
                    value: Vec::new(),
                    ..ok("B")
                },
            ]
        }),
        ("a value that is too large", || {
            vec![
                ok("A"),
                DecryptedSecret {
                    value: vec![b'x'; 64 * 1024 + 1],
                    ..ok("B")
                },
            ]
        }),
        ("no status", || {
            vec![ok("A"), DecryptedSecret { status: 0, ..ok("B") }]
        }),
        ("an unknown status", || {
            vec![
                ok("A"),
                DecryptedSecret {
                    status: 99,
                    ..ok("B")
                },
            ]
        }),
        ("a miss with a value", || {
            vec![
                ok("A"),
                DecryptedSecret {
                    value: value_of("B"),
                    ..status("B", DecryptStatus::NotFound)
                },
            ]
        }),
        ("an invalid origin", || {
            vec![
                ok("A"),
                DecryptedSecret {
                    upstream_origins: vec!["canary".into()],
                    ..ok("B")
                },
            ]
        }),
    ];
    for (what, secrets) in secrets {
        served
            .fake
            .set(move |call| Act::Answer(vec![with(&call, secrets())]));
        scene.refuses("s", (502, "VAULT_ANSWER_INVALID"), what).await;
    }
    for (what, uid) in [
        ("another workspace", Uid::generate().to_string()),
        ("none", String::new()),
        ("no uid", "x".into()),
    ] {
        served.fake.set(move |call| {
            let mut answer = honest(&call);
            if let Some(Outcome::Response(response)) = &mut answer.outcome {
                response.workspace_uid.clone_from(&uid);
            }
            Act::Answer(vec![answer])
        });
        scene.refuses("s", (502, "VAULT_ANSWER_INVALID"), what).await;
    }
    served.fake.set(|call| {
        Act::Answer(vec![DecryptAnswer {
            id: call.id,
            outcome: None,
        }])
    });
    scene
        .refuses("s", (502, "VAULT_ANSWER_INVALID"), "an answer without an outcome")
        .await;
    let elsewhere = || vec!["https://elsewhere.example".to_owned()];
    served.fake.set(move |call| {
        Act::Answer(vec![with(
            &call,
            vec![
                ok("A"),
                DecryptedSecret {
                    upstream_origins: elsewhere(),
                    ..ok("B")
                },
            ],
        )])
    });
    scene
        .refuses(
            "s",
            (502, "SECRET_NOT_FOR_THIS_UPSTREAM"),
            "a value for another origin",
        )
        .await;
    // The next honest answer is used.
    served.fake.set(|call| Act::Answer(vec![honest(&call)]));
    assert_eq!(scene.call("s").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn only_a_missing_or_expired_secret_counts_as_a_miss() {
    let pki = Pki::new();
    let served = Fake::new(|call| Act::Answer(vec![honest(&call)]))
        .serve(&pki)
        .await;
    let scene = scene(
        &pki,
        served.address,
        &[("optional", &["A", "B"]), ("required", &["A", "B!"])],
    )
    .await;
    scene.injector.ready().await;
    for (state, reason) in [
        (DecryptStatus::DataLoss, "RECORD_CORRUPT"),
        (DecryptStatus::KeyNotLoaded, "KEY_NOT_LOADED"),
    ] {
        served
            .fake
            .set(move |call| Act::Answer(vec![with(&call, vec![ok("A"), status("B", state)])]));
        scene
            .refuses("optional", (502, reason), "of an optional one")
            .await;
        scene
            .refuses("required", (502, reason), "of a required one")
            .await;
    }
    for (reason, expected) in [
        (Reason::PermissionDenied, (502, "VAULT_REFUSED")),
        (Reason::Unauthenticated, (502, "VAULT_REFUSED")),
        (Reason::WorkspaceReplaced, (502, "WORKSPACE_REPLACED")),
        (Reason::WorkspaceNotFound, (404, "WORKSPACE_NOT_FOUND")),
        (Reason::RecordCorrupt, (502, "RECORD_CORRUPT")),
        (Reason::Sealed, (502, "SEALED")),
        (Reason::StorageUnavailable, (503, "STORAGE_UNAVAILABLE")),
        (Reason::Overloaded, (503, "OVERLOADED")),
        (Reason::LimitExceeded, (429, "LIMIT_EXCEEDED")),
        (Reason::QuotaExceeded, (429, "QUOTA_EXCEEDED")),
        // A working vault never answers a decrypt with this reason.
        (Reason::SecretNotFound, (502, "VAULT_ANSWER_INVALID")),
        (Reason::RequestMalformed, (502, "VAULT_ANSWER_INVALID")),
        (Reason::Internal, (502, "VAULT_ANSWER_INVALID")),
        (Reason::Unspecified, (502, "VAULT_ANSWER_INVALID")),
    ] {
        served
            .fake
            .set(move |call| Act::Answer(vec![error(&call, reason)]));
        scene.refuses("optional", expected, reason.name()).await;
    }
    served.fake.set(|call| {
        Act::Answer(vec![with(
            &call,
            vec![ok("A"), status("B", DecryptStatus::NotFound)],
        )])
    });
    scene
        .refuses("required", (502, "SECRET_REQUIRED_MISSING"), "a required one")
        .await;
    assert_eq!(scene.call("optional").await.status(), StatusCode::OK);
    let seen = scene.upstream.last();
    assert_eq!(
        (value(&seen, "A"), value(&seen, "B")),
        (Some(value_of("A")), None)
    );
}

#[tokio::test]
async fn an_answer_with_an_unknown_id_is_ignored() {
    let pki = Pki::new();
    let served = Fake::new(|call| {
        // Calls of the check behind `/startupz` would get the ids of the calls after them.
        if call.request.as_ref().is_some_and(|request| request.check_only) {
            return Act::Answer(vec![honest(&call)]);
        }
        let others = [call.id + 1, call.id + 1000, u64::MAX, call.id.wrapping_sub(1)];
        Act::Answer(
            others
                .into_iter()
                .map(|id| DecryptAnswer { id, ..honest(&call) })
                .collect(),
        )
    })
    .serve(&pki)
    .await;
    let scene = scene(&pki, served.address, &[("s", &["A"])]).await;
    scene.injector.ready().await;
    scene.refuses("s", (504, "DEADLINE_EXCEEDED"), "another id").await;
    // A second answer to a call, and an answer to an earlier call, are ignored as well.
    served.fake.set(|call| {
        let mut wrong = honest(&call);
        if let Some(Outcome::Response(response)) = &mut wrong.outcome {
            response.secrets = vec![DecryptedSecret {
                value: b"canary-wrong".to_vec(),
                ..ok("A")
            }];
        }
        let earlier = DecryptAnswer {
            id: call.id.wrapping_sub(1),
            ..wrong.clone()
        };
        Act::Answer(vec![earlier, honest(&call), wrong])
    });
    for _ in 0..20 {
        assert_eq!(scene.call("s").await.status(), StatusCode::OK);
    }
    let seen = scene.upstream.seen();
    assert!(seen.len() == 20 && seen.iter().all(|seen| value(seen, "A") == Some(value_of("A"))));
}

#[tokio::test]
async fn answers_in_any_order_reach_their_calls() {
    const CALLS: usize = 40;
    let pki = Pki::new();
    let waiting: Mutex<Vec<DecryptAnswer>> = Mutex::default();
    // The vault holds all calls until the last one came, and then answers them from the last to the first.
    let served = Fake::new(move |call| {
        let mut waiting = waiting.lock().unwrap();
        waiting.push(honest(&call));
        if waiting.len() < CALLS {
            Act::Nothing
        } else {
            Act::Answer(waiting.drain(..).rev().collect())
        }
    })
    .serve(&pki)
    .await;
    let names: Vec<_> = (0..CALLS)
        .map(|number| (format!("s{number}"), format!("NAME_{number}")))
        .collect();
    let secrets: Vec<_> = names.iter().map(|(_, secret)| [secret.as_str()]).collect();
    let servers: Vec<_> = names
        .iter()
        .zip(&secrets)
        .map(|((name, _), secrets)| (name.as_str(), &secrets[..]))
        .collect();
    let scene = scene(&pki, served.address, &servers).await;
    scene.injector.ready().await;
    let scene = &scene;
    // All calls come over one connection, so one thread of the injector with its one stream serves them.
    let client = &Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Empty<Bytes>>();
    let calls = names.iter().map(|(server, secret)| async move {
        let url = format!("http://{}/dev/{server}/{secret}", scene.injector.data_plane);
        let response = timeout(PATIENCE, client.get(url.parse().unwrap())).await;
        response.unwrap().unwrap().status()
    });
    assert!(
        join_all(calls)
            .await
            .into_iter()
            .all(|status| status == StatusCode::OK)
    );
    let seen = scene.upstream.seen();
    assert_eq!(seen.len(), CALLS);
    for seen in seen {
        let name = seen.target.trim_start_matches('/').to_owned();
        assert_eq!(value(&seen, &name), Some(value_of(&name)));
        assert_eq!(seen.secret_headers().len(), 1);
    }
}

#[tokio::test]
async fn calls_are_refused_in_time_without_a_vault_and_succeed_once_it_is_back() {
    let pki = Pki::new();
    let served = Fake::new(|call| Act::Answer(vec![honest(&call)]))
        .serve(&pki)
        .await;
    let wire = Wire::to(served.address, Mode::Cut).await;
    let scene = scene(&pki, wire.address, &[("s", &["A"]), ("none", &[])]).await;
    for mode in [Mode::Cut, Mode::Silent] {
        wire.mode.send_replace(mode);
        assert!(!scene.is_ready().await);
        let started = Instant::now();
        scene.refuses("s", (503, "VAULT_UNAVAILABLE"), "no vault").await;
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{:?}",
            started.elapsed()
        );
        let response = scene.call("s").await;
        assert_eq!(response.headers()["retry-after"], "1");
    }
    // A server without secrets needs no vault.
    assert_eq!(scene.call("none").await.status(), StatusCode::OK);
    wire.mode.send_replace(Mode::Through);
    scene.injector.ready().await;
    assert_eq!(scene.call("s").await.status(), StatusCode::OK);
    assert_eq!(value(&scene.upstream.last(), "A"), Some(value_of("A")));
    // Without the vault the injector is not ready, and uses none of the earlier answers.
    wire.mode.send_replace(Mode::Cut);
    eventually("the injector is not ready", async || !scene.is_ready().await).await;
    scene
        .refuses("s", (503, "VAULT_UNAVAILABLE"), "the vault went")
        .await;
}

#[tokio::test]
async fn a_decrypt_that_was_interrupted_by_a_vault_crash_is_retried_within_the_call() {
    let pki = Pki::new();
    let (reached, mut reaches) = mpsc::unbounded_channel();
    let served = Fake::new(move |_| {
        reached.send(()).unwrap();
        Act::Nothing
    })
    .serve(&pki)
    .await;
    let wire = Wire::to(served.address, Mode::Through).await;
    let scene = Arc::new(scene(&pki, wire.address, &[("s", &["A"])]).await);
    scene.injector.ready().await;
    let calling = scene.clone();
    let call = tokio::spawn(async move { calling.call("s").await.status() });
    timeout(PATIENCE, reaches.recv()).await.unwrap().unwrap();
    served.fake.set(|call| Act::Answer(vec![honest(&call)]));
    wire.cut_once();
    assert_eq!(timeout(PATIENCE, call).await.unwrap().unwrap(), StatusCode::OK);
    let asked = served.fake.asked();
    assert!(asked.len() == 2 && asked[0] == asked[1], "{asked:?}");
    assert_eq!(scene.upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_call_waits_for_a_slow_vault_but_not_for_one_that_never_answers() {
    let pki = Pki::new();
    let served = Fake::new(|call| Act::After(Duration::from_millis(10), honest(&call)))
        .serve(&pki)
        .await;
    let scene = scene(&pki, served.address, &[("s", &["A"])]).await;
    scene.injector.ready().await;
    let statuses = join_all((0..50).map(|_| async { scene.call("s").await.status() })).await;
    assert!(statuses.into_iter().all(|status| status == StatusCode::OK));
    served.fake.set(|_| Act::Nothing);
    let started = Instant::now();
    let answers = join_all((0..50).map(|_| scene.call("s"))).await;
    for answer in answers {
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["x-aerostack-reason"]),
            (504, &"DEADLINE_EXCEEDED".parse().unwrap())
        );
    }
    // The time limit is one second, and no call waited for another one.
    assert!(started.elapsed() > Duration::from_millis(900) && started.elapsed() < Duration::from_secs(5));
    assert_eq!(scene.upstream.seen().len(), 50);
    // Once the vault answers again, calls succeed.
    served.fake.set(|call| Act::Answer(vec![honest(&call)]));
    assert_eq!(scene.call("s").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stream_that_breaks_repeatedly_never_mixes_up_values() {
    const SERVERS: usize = 10;
    const ROUNDS: usize = 30;
    let pki = Pki::new();
    let count = AtomicUsize::new(0);
    let served = Fake::new(move |call| match count.fetch_add(1, Ordering::Relaxed) % 9 {
        4 => Act::Break(Status::unavailable("for now")),
        6 => Act::After(Duration::from_millis(5), honest(&call)),
        7 => Act::Nothing,
        8 => Act::Break(Status::internal("oops")),
        _ => Act::Answer(vec![honest(&call)]),
    })
    .serve(&pki)
    .await;
    let wire = Wire::to(served.address, Mode::Through).await;
    let names: Vec<_> = (0..SERVERS)
        .map(|number| (format!("s{number}"), format!("NAME_{number}")))
        .collect();
    let secrets: Vec<_> = names.iter().map(|(_, secret)| [secret.as_str()]).collect();
    let servers: Vec<_> = names
        .iter()
        .zip(&secrets)
        .map(|((name, _), secrets)| (name.as_str(), &secrets[..]))
        .collect();
    let scene = scene(&pki, wire.address, &servers).await;
    scene.injector.ready().await;
    let done = AtomicUsize::new(0);
    let (scene, wire, done) = (&scene, &wire, &done);
    let calls = names.iter().map(|(server, secret)| async move {
        let mut statuses = HashMap::<u16, usize>::new();
        for _ in 0..ROUNDS {
            let request = Request::get(format!("/dev/{server}/{secret}"));
            let response = timeout(PATIENCE, scene.injector.send(request, ""))
                .await
                .expect("a call never ended");
            *statuses.entry(response.status().as_u16()).or_default() += 1;
            if done.fetch_add(1, Ordering::Relaxed) % 50 == 49 {
                wire.cut_once();
            }
        }
        statuses
    });
    let mut statuses = HashMap::<u16, usize>::new();
    for (status, count) in join_all(calls).await.into_iter().flatten() {
        *statuses.entry(status).or_default() += count;
    }
    assert!(
        statuses.keys().all(|status| [200, 503, 504].contains(status)),
        "{statuses:?}"
    );
    let seen = scene.upstream.seen();
    assert_eq!(Some(&seen.len()), statuses.get(&200));
    assert!(seen.len() > SERVERS * ROUNDS / 2, "{statuses:?}");
    for seen in seen {
        let name = seen.target.trim_start_matches('/').to_owned();
        assert_eq!(
            (value(&seen, &name), seen.secret_headers().len()),
            (Some(value_of(&name)), 1)
        );
    }
}

#[tokio::test]
async fn a_vault_with_another_identity_or_ca_gets_no_request() {
    let pki = Pki::new();
    let others = Pki::new();
    for (issuer, id) in [
        (&pki, "spiffe://test/vault2"),
        (&pki, pki::INJECTOR),
        (&others, pki::VAULT),
    ] {
        let served = Fake::new(|call| Act::Answer(vec![honest(&call)]))
            .serve_as(&pki, issuer, id)
            .await;
        let scene = scene(&pki, served.address, &[("s", &["A"])]).await;
        scene.refuses("s", (503, "VAULT_UNAVAILABLE"), id).await;
        assert!(!scene.is_ready().await && served.fake.asked().is_empty());
    }
}

#[tokio::test]
async fn a_vault_that_refuses_the_injector_is_reported_as_such() {
    let pki = Pki::new();
    let served = Fake::new(|call| Act::Answer(vec![honest(&call)]))
        .serve(&pki)
        .await;
    let upstream = Upstream::start().await;
    let stranger = pki.principal("spiffe://test/stranger");
    let injector = Injector::start_with(pki.clone(), served.address, |settings| {
        let server = format!(
            "version: 1\nservers:\n- workspace: dev\n  name: s\n  url: {}\n  injections:\n  - secret: A\n",
            upstream.url()
        );
        std::fs::write(settings.servers.as_ref().unwrap(), server).unwrap();
        (settings.vault_cert, settings.vault_key) = (Some(stranger.cert), Some(stranger.key));
    })
    .await;
    let scene = Scene {
        injector,
        upstream,
        _shared: None,
    };
    scene.refuses("s", (502, "VAULT_REFUSED"), "a stranger").await;
    assert!(served.fake.asked().is_empty());
}

#[tokio::test]
async fn every_call_makes_its_own_decrypt() {
    let pki = Pki::new();
    let version = AtomicUsize::new(0);
    let served = Fake::new(move |call| {
        let value = format!("canary-{}", version.fetch_add(1, Ordering::SeqCst)).into_bytes();
        Act::Answer(vec![with(&call, vec![DecryptedSecret { value, ..ok("A") }])])
    })
    .serve(&pki)
    .await;
    let scene = scene(&pki, served.address, &[("s", &["A"])]).await;
    scene.injector.ready().await;
    for number in 0..20 {
        assert_eq!(scene.call("s").await.status(), StatusCode::OK);
        assert_eq!(
            value(&scene.upstream.last(), "A").unwrap(),
            format!("canary-{number}").into_bytes()
        );
    }
    // Concurrent calls also make one decrypt each, and no value is used twice.
    join_all((0..80).map(|_| scene.call("s"))).await;
    let mut values: Vec<_> = scene
        .upstream
        .seen()
        .iter()
        .map(|seen| value(seen, "A").unwrap())
        .collect();
    values.sort();
    values.dedup();
    assert_eq!((values.len(), served.fake.asked().len()), (100, 100));
    // The vault and the upstream get the same id for the same call.
    let mut call_ids: Vec<_> = served
        .fake
        .asked()
        .into_iter()
        .map(|asked| asked.call_id)
        .collect();
    let seen = scene.upstream.seen();
    let mut request_ids: Vec<_> = seen
        .iter()
        .map(|seen| seen.header("x-request-id").unwrap_or_default())
        .collect();
    call_ids.sort();
    request_ids.sort_unstable();
    assert_eq!(call_ids, request_ids);
    call_ids.dedup();
    assert_eq!(call_ids.len(), 100);
    for request in served.fake.asked() {
        let DecryptRequest {
            workspace,
            workspace_uid,
            server,
            names,
            check_only,
            recipient_key: _,
            call_id: _,
        } = request;
        let asked = (
            workspace.as_str(),
            workspace_uid.as_str(),
            server.as_str(),
            names,
            check_only,
        );
        assert_eq!(asked, ("dev", DEV, "s", vec!["A".to_owned()], false));
    }
}
