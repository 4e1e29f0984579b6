//! Injections that name their own entries of gRPC messages.

use proto::injector::v1::{Injection, ProtobufPlacement, injection::Placement};

use super::{
    super::{Untouched, dev, explain},
    kinds::Talk,
    peer::{Caller, Probe},
    *,
};

fn entry(field: u32, key: &str, value: &str) -> Injection {
    let (key, value) = (key.to_owned(), value.to_owned());
    Injection {
        required: false,
        placement: Some(Placement::Protobuf(ProtobufPlacement { field, key, value })),
    }
}

fn required(injection: Injection) -> Injection {
    Injection {
        required: true,
        ..injection
    }
}

/// Returns the server `dev/skill`, whose messages get these entries.
fn described(url: &str, messages: ProtobufMessages, injections: Vec<Injection>) -> Server {
    Server {
        protobuf_messages: messages.into(),
        grpc_methods: vec!["e2e.Probe/*".into()],
        injections,
        ..server("dev", "skill", url, &[])
    }
}

/// Starts a pair with `TOKEN`, whose value is `v-1`, and a tonic service whose messages get these entries.
async fn probed(messages: ProtobufMessages, injections: Vec<Injection>) -> (Pair, Caller) {
    let pair = dev(&[("TOKEN", "v-1"), ("ID", "id-1")]).await;
    pair.injector
        .add(described(&peer::start().await, messages, injections))
        .await;
    let caller = Caller::new(pair.injector.data_plane).await;
    (pair, caller)
}

/// Returns a message with entries of the program in both fields.
fn forged(text: impl ToString) -> Probe {
    let probe = Probe::forged(text);
    Probe {
        labels: probe.secrets.clone(),
        ..probe
    }
}

#[tokio::test]
async fn every_kind_of_call_gets_its_entries_in_the_first_message() {
    let injections = vec![
        entry(7, "authorization", "Bearer ${TOKEN}"),
        entry(7, "", "${id}"),
        entry(8, "both", "$$${TOKEN}/${ID}"),
    ];
    let (pair, caller) = probed(ProtobufMessages::First, injections).await;
    let in_first = [("ID", "id-1"), ("authorization", "Bearer v-1")];
    let in_second = [("both", "$v-1/id-1")];

    let asked = caller.unary(forged("one")).await.unwrap().asked.remove(0);
    assert_eq!(asked.text, "one");
    assert_eq!(
        (asked.secrets(), asked.labels()),
        (in_first.to_vec(), in_second.to_vec())
    );

    let mut answers = caller.server_stream(forged(3)).await.unwrap();
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.asked[0].secrets(), in_first);
    }

    let messages = stream::iter((0..100).map(forged));
    let asked = caller.client_stream(messages).await.unwrap().asked;
    assert_eq!(asked.len(), 100);
    assert_eq!(
        (asked[0].secrets(), asked[0].labels()),
        (in_first.to_vec(), in_second.to_vec())
    );
    for (number, asked) in asked.iter().enumerate().skip(1) {
        assert_eq!(asked.text, number.to_string());
        assert!(asked.secrets.is_empty() && asked.labels.is_empty(), "{asked:?}");
    }

    let mut talk = Talk::begin(&caller, forged("a")).await;
    assert_eq!(talk.answer().await.unwrap().labels(), in_second);
    let next = talk.ask(forged("b")).await.unwrap();
    assert!(next.secrets.is_empty() && next.labels.is_empty(), "{next:?}");
    pair.stop().await;
}

#[tokio::test]
async fn every_message_of_a_stream_may_get_the_entries_as_they_are_then() {
    let injections = vec![entry(7, "auth", "Bearer ${TOKEN}"), entry(8, "", "${ID}")];
    let (pair, caller) = probed(ProtobufMessages::All, injections).await;
    let mut talk = Talk::begin(&caller, forged("a")).await;
    let asked = talk.answer().await.unwrap();
    assert_eq!(
        (asked.secrets(), asked.labels()),
        (vec![("auth", "Bearer v-1")], vec![("ID", "id-1")])
    );
    pair.vault.put("dev", "TOKEN", "v-2").await;
    pair.vault.delete("dev", "ID").await;
    let asked = talk.ask(forged("b")).await.unwrap();
    assert_eq!(
        (asked.secrets(), asked.labels()),
        (vec![("auth", "Bearer v-2")], vec![])
    );
    pair.stop().await;
}

#[tokio::test]
async fn only_the_secrets_of_complete_entries_count_as_injected() {
    let injections = vec![entry(7, "both", "${TOKEN}-${ABSENT}"), entry(7, "", "${ID}")];
    let (pair, caller) = probed(ProtobufMessages::All, injections).await;
    let messages = stream::iter((0..5).map(forged));
    let asked = caller.client_stream(messages).await.unwrap().asked;
    assert!(asked.iter().all(|asked| asked.secrets() == [("ID", "id-1")]));
    let metrics = e2e::pair::get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    for outcome in ["injected", "missed"] {
        let metric = format!("aerostack_injector_{outcome}_secrets_total");
        let line = format!("{metric}{{workspace=\"dev\",server=\"skill\"}} 5\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_entry_with_a_missing_secret_is_left_out_or_refuses_the_call() {
    let optional = entry(7, "both", "${TOKEN}-${ABSENT}");
    let (pair, caller) = probed(ProtobufMessages::First, vec![optional, entry(7, "", "${TOKEN}")]).await;
    let asked = caller.unary(forged("x")).await.unwrap().asked.remove(0);
    assert_eq!(asked.secrets(), [("TOKEN", "v-1")]);
    pair.stop().await;

    let (pair, caller) = probed(ProtobufMessages::First, vec![entry(7, "", "${ABSENT}")]).await;
    let asked = caller.unary(forged("x")).await.unwrap().asked.remove(0);
    assert!(asked.secrets.is_empty(), "{asked:?}");
    assert_eq!(asked.labels().len(), 2, "field 8 belongs to the program");
    pair.stop().await;
}

#[tokio::test]
async fn nothing_is_sent_when_an_entry_is_required_and_missing_or_no_text() {
    let first = ProtobufMessages::First;
    for (injection, body, code, reason) in [
        (
            required(entry(7, "k", "${TOKEN}${ABSENT}")),
            framed(0, ""),
            Code::FailedPrecondition,
            "SECRET_REQUIRED_MISSING",
        ),
        (
            entry(7, "k", "text ${BINARY}"),
            framed(0, ""),
            Code::FailedPrecondition,
            "SECRET_VALUE_NOT_PLACEABLE",
        ),
        (
            required(entry(7, "k", "${TOKEN}")),
            Vec::new(),
            Code::InvalidArgument,
            "BODY_MISSING",
        ),
        (
            entry(7, "k", "${TOKEN}"),
            framed(0, b"\x3a\x02a"),
            Code::InvalidArgument,
            "BODY_INVALID",
        ),
    ] {
        let (untouched, url) = Untouched::bind();
        let pair = dev(&[("TOKEN", "v-1")]).await;
        pair.vault.put("dev", "BINARY", b"v-1\xff").await;
        pair.injector.add(described(&url, first, vec![injection])).await;
        let (status, _) = call(&pair, &[GRPC], whole(body)).await;
        assert_eq!(refused(&status), (code, reason.to_owned()));
        untouched.check();
        pair.stop().await;
    }
}

#[tokio::test]
async fn calls_of_other_methods_get_no_entries_and_are_not_changed() {
    let pair = dev(&[("TOKEN", "v-1")]).await;
    let upstream = recording().await;
    let injections = vec![required(entry(7, "", "${TOKEN}"))];
    pair.injector
        .add(described(&upstream.url(), ProtobufMessages::All, injections))
        .await;
    let theirs = framed(0, b"\x0a\x01a\x3a\x00");
    for method in [
        "e2e.Other/Any",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "grpc.health.v1.Health/Check",
    ] {
        let request =
            Request::post(format!("/dev/skill/{method}")).header("content-type", "application/grpc");
        let answer = pair.injector.send(request, theirs.clone()).await;
        assert_eq!(answer.status(), 200, "{method}");
        assert_eq!(upstream.last().body, theirs, "{method}");
    }
    // A server without places in HTTP bodies gets them as they are.
    let request = Request::post("/dev/skill/run").header("content-type", "application/json");
    assert_eq!(pair.injector.send(request, "{}").await.status(), 200);
    assert_eq!(upstream.last().body, "{}");
    let request = Request::post("/dev/skill/e2e.Probe/Any").header("content-type", "application/grpc");
    pair.injector.send(request, theirs).await;
    assert_eq!(upstream.last().body, framed(0, [b"\x0a\x01a", TOKEN].concat()));
    pair.stop().await;
}

fn member(pointer: &str) -> Injection {
    let (pointer, value) = (pointer.to_owned(), "${TOKEN}".to_owned());
    Injection {
        required: true,
        placement: Some(Placement::Json(proto::injector::v1::JsonPlacement {
            pointer,
            value,
        })),
    }
}

/// A server that ignores the `Content-Type` would read the program's own member in a body without the required secret.
#[tokio::test]
async fn a_call_that_claims_to_be_grpc_does_not_avoid_the_places_in_http_bodies() {
    let pair = dev(&[("TOKEN", "v-1")]).await;
    let upstream = recording().await;
    for (name, paths) in [
        ("all", &[][..]),
        ("run", &["/run", "/tools/*"]),
        ("method", &["/e2e.Other/Any", "/e2e.Probe/Any"]),
    ] {
        let injections = vec![required(entry(7, "", "${TOKEN}")), member("/token")];
        pair.injector
            .add(Server {
                name: name.into(),
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
                ..described(&upstream.url(), ProtobufMessages::First, injections)
            })
            .await;
    }
    let mine = r#"{"token":"mine"}"#;
    for (path, is_refused) in [
        ("all/run", true),
        ("all", true),
        ("all/", true),
        ("all/v1/tools/run", true),
        ("all/v1/charges", true),
        ("all/e2e.Other/Any?q", true),
        ("all/e2e.Other/Any/", true),
        ("all/e2e.Oth%65r/Any", true),
        ("all/e2e.Other/Any", false),
        ("all/grpc.health.v1.Health/Check", false),
        ("run/run", true),
        ("run/run?q", true),
        ("run/tools/run", true),
        ("run/e2e.Other/Any", false),
        ("run/other", false),
        ("method/e2e.Other/Any", true),
        ("method/e2e.Other/All", false),
    ] {
        let request = Request::post(format!("/dev/{path}")).header("content-type", "application/grpc");
        let calls = upstream.seen().len();
        let answer = pair.injector.send(request, mine).await;
        let reason = answer.headers().get("x-aerostack-reason");
        let expected = is_refused.then_some("BODY_TYPE_UNSUPPORTED");
        assert_eq!(reason.map(|reason| reason.to_str().unwrap()), expected, "{path}");
        assert_eq!(upstream.seen().len(), calls + usize::from(!is_refused), "{path}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_call_with_two_content_types_is_refused_where_a_body_has_places() {
    let pair = dev(&[("TOKEN", "v-1")]).await;
    let upstream = recording().await;
    let (grpc, json) = ("application/grpc", "application/json");
    let header = proto::injector::v1::HeaderPlacement {
        name: "x-key".into(),
        value: "${TOKEN}".into(),
    };
    let in_head = Injection {
        required: true,
        placement: Some(Placement::Header(header)),
    };
    for (name, injection, is_refused) in [
        ("messages", entry(7, "", "${TOKEN}"), true),
        ("json", member("/token"), true),
        ("head", in_head, false),
    ] {
        let mut server = described(&upstream.url(), ProtobufMessages::First, vec![injection]);
        server.name = name.into();
        match name {
            "messages" => {}
            "json" => {
                server.grpc_methods.clear();
                server.paths.push("/run".into());
            }
            _ => server.grpc_methods.clear(),
        }
        pair.injector.add(server).await;
        for (first, second) in [(grpc, json), (json, grpc), (json, json)] {
            for path in ["e2e.Other/Any", "run", "other"] {
                let request = Request::post(format!("/dev/{name}/{path}"))
                    .header("content-type", first)
                    .header("content-type", second);
                let answer = pair.injector.send(request, "{}").await;
                let reason = answer.headers().get("x-aerostack-reason");
                let expected = is_refused.then_some("BODY_TYPE_UNSUPPORTED");
                let reason = reason.map(|reason| reason.to_str().unwrap());
                assert_eq!(reason, expected, "{name}/{path} {first} {second}");
            }
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn entries_stand_beside_places_in_the_head_and_in_http_bodies() {
    let pair = dev(&[("TOKEN", "v-1")]).await;
    let upstream = recording().await;
    let value = || "${TOKEN}".to_owned();
    let (name, pointer) = ("x-key".to_owned(), "/token".to_owned());
    let others = [
        Placement::Header(proto::injector::v1::HeaderPlacement { name, value: value() }),
        Placement::Json(proto::injector::v1::JsonPlacement {
            pointer,
            value: value(),
        }),
    ];
    let others = others.map(|placement| Injection {
        required: true,
        placement: Some(placement),
    });
    let injections = [entry(7, "", "${TOKEN}")].into_iter().chain(others).collect();
    pair.injector
        .add(described(&upstream.url(), ProtobufMessages::First, injections))
        .await;
    for (path, content_type, body, expected) in [
        (
            "e2e.Probe/Any",
            "application/grpc",
            framed(0, ""),
            framed(0, TOKEN),
        ),
        ("e2e.Other/Any", "application/grpc", framed(0, ""), framed(0, "")),
        (
            "run",
            "application/json",
            b"{}".to_vec(),
            br#"{"token":"v-1"}"#.to_vec(),
        ),
    ] {
        let request = Request::post(format!("/dev/skill/{path}")).header("content-type", content_type);
        assert_eq!(pair.injector.send(request, body).await.status(), 200, "{path}");
        let seen = upstream.last();
        assert_eq!(seen.header("x-key"), Some("v-1"), "{path}");
        assert_eq!(seen.body, expected, "{path}");
    }
    let places = explain(&pair, "skill").await.secrets;
    let places: Vec<_> = places.iter().map(|secret| secret.placement.as_str()).collect();
    assert_eq!(
        places,
        [
            "gRPC message field 7 entry TOKEN, of e2e.Probe/*",
            "header x-key: ${TOKEN}",
            "JSON body at /token"
        ]
    );
    pair.stop().await;
}

/// gRPC-Web and Connect use the methods and the messages of gRPC.
#[tokio::test]
async fn a_body_that_is_not_grpc_brings_no_entries_to_a_method_that_gets_them() {
    let (pair, _) = probed(ProtobufMessages::First, vec![entry(7, "", "${TOKEN}")]).await;
    for content_type in [
        "application/grpc-web+proto",
        "application/proto",
        "application/json",
    ] {
        let request = format!(
            "POST /dev/skill/e2e.Probe/Unary HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: {content_type}\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let answer = e2e::raw::exchange(pair.injector.data_plane, request).await;
        assert_eq!(e2e::raw::status(&answer), 415, "{content_type}: {answer}");
    }
    pair.stop().await;
}
