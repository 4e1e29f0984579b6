//! The four kinds of gRPC calls, and the effect of a changed secret on a stream.

use e2e::raw;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    peer::{Caller, Probe},
    *,
};

async fn probed(messages: ProtobufMessages) -> (Pair, Caller) {
    let pair = super::super::dev(&[("TOKEN", "v-1")]).await;
    pair.injector.add(skill(&peer::start().await, messages)).await;
    let caller = Caller::new(pair.injector.data_plane).await;
    (pair, caller)
}

/// A bidirectional stream, in which each request gets one response.
pub(super) struct Talk {
    ask: mpsc::Sender<Probe>,
    answers: Streaming<Probe>,
}

impl Talk {
    pub(super) async fn begin(caller: &Caller, first: Probe) -> Self {
        let (ask, asked) = mpsc::channel(1);
        ask.send(first).await.unwrap();
        let answers = caller.bidi(ReceiverStream::new(asked)).await.unwrap();
        Self { ask, answers }
    }

    pub(super) async fn answer(&mut self) -> Result<Probe, Status> {
        let answer = timeout(PATIENCE, self.answers.message()).await.unwrap()?;
        let [asked] = answer.unwrap().asked.try_into().unwrap();
        Ok(asked)
    }

    pub(super) async fn ask(&mut self, probe: Probe) -> Result<Probe, Status> {
        self.ask.send(probe).await.unwrap();
        self.answer().await
    }
}

#[tokio::test]
async fn every_kind_of_call_gets_its_secrets_in_the_first_message() {
    let (pair, caller) = probed(ProtobufMessages::First).await;
    let ours = [("TOKEN", "v-1")];

    let answer = caller.unary(Probe::forged("one")).await.unwrap();
    assert_eq!(
        (answer.asked[0].text.as_str(), answer.asked[0].secrets()),
        ("one", ours.to_vec())
    );

    let mut answers = caller.server_stream(Probe::new(300)).await.unwrap();
    let mut count = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.asked[0].secrets(), ours);
        count += 1;
    }
    assert_eq!(count, 300);

    let answer = caller
        .client_stream(stream::iter((0..1000).map(Probe::forged)))
        .await
        .unwrap();
    for (number, asked) in answer.asked.iter().enumerate() {
        assert_eq!(asked.text, number.to_string());
        let expected = if number == 0 { ours.to_vec() } else { Vec::new() };
        assert_eq!(asked.secrets(), expected, "message {number}");
    }
    assert_eq!(answer.asked.len(), 1000);

    let mut talk = Talk::begin(&caller, Probe::forged(0)).await;
    assert_eq!(talk.answer().await.unwrap().secrets(), ours);
    for number in 1..20 {
        let asked = talk.ask(Probe::forged(number)).await.unwrap();
        assert_eq!((asked.text, asked.secrets.len()), (number.to_string(), 0));
    }
    let Talk { ask, mut answers } = talk;
    drop(ask);
    assert_eq!(answers.message().await.unwrap(), None);
    pair.stop().await;
}

#[tokio::test]
async fn every_message_gets_the_secrets_as_they_are_when_it_is_sent() {
    let (pair, caller) = probed(ProtobufMessages::All).await;
    let mut talk = Talk::begin(&caller, Probe::forged("a")).await;
    assert_eq!(talk.answer().await.unwrap().secrets(), [("TOKEN", "v-1")]);
    assert_eq!(
        talk.ask(Probe::new("b")).await.unwrap().secrets(),
        [("TOKEN", "v-1")]
    );
    for value in ["v-2", "v-3"] {
        pair.vault.put("dev", "TOKEN", value).await;
        let asked = talk.ask(Probe::forged(value)).await.unwrap();
        assert_eq!(
            (asked.text.as_str(), asked.secrets()),
            (value, vec![("TOKEN", value)])
        );
    }
    pair.vault.delete("dev", "TOKEN").await;
    assert!(talk.ask(Probe::forged("d")).await.unwrap().secrets().is_empty());
    pair.vault.put("dev", "TOKEN", "v-4").await;
    assert_eq!(
        talk.ask(Probe::forged("e")).await.unwrap().secrets(),
        [("TOKEN", "v-4")]
    );

    let answer = caller
        .client_stream(stream::iter((0..500).map(Probe::forged)))
        .await;
    let asked = answer.unwrap().asked;
    assert_eq!(asked.len(), 500);
    assert!(asked.iter().all(|asked| asked.secrets() == [("TOKEN", "v-4")]));

    // 506 values were injected, and one was missing.
    let metrics = String::from_utf8(
        e2e::pair::get(&format!("http://{}/metrics", pair.injector.metrics))
            .await
            .body()
            .to_vec(),
    );
    let metrics = metrics.unwrap();
    assert!(
        metrics
            .contains("aerostack_injector_injected_secrets_total{workspace=\"dev\",server=\"skill\"} 505\n"),
        "{metrics}"
    );
    let missed = "aerostack_injector_missed_secrets_total{workspace=\"dev\",server=\"skill\"} 1\n";
    assert!(metrics.contains(missed), "{metrics}");
    pair.stop().await;
}

#[tokio::test]
async fn a_stream_ends_when_a_secret_that_it_requires_is_gone() {
    let pair = super::super::dev(&[("TOKEN", "v-1")]).await;
    let required = Server {
        required_secrets: vec!["TOKEN".into()],
        ..skill(&peer::start().await, ProtobufMessages::All)
    };
    pair.injector.add(required).await;
    let caller = Caller::new(pair.injector.data_plane).await;
    let mut talk = Talk::begin(&caller, Probe::new("a")).await;
    assert_eq!(talk.answer().await.unwrap().secrets(), [("TOKEN", "v-1")]);
    pair.vault.delete("dev", "TOKEN").await;
    let status = talk.ask(Probe::new("b")).await.unwrap_err();
    let expected = (Code::FailedPrecondition, "SECRET_REQUIRED_MISSING".to_owned());
    assert_eq!(refused(&status), expected);
    pair.stop().await;
}

#[tokio::test]
async fn names_and_values_are_any_text() {
    let (pair, caller) = probed(ProtobufMessages::First).await;
    let long = "é🔑\"\\\r\n\0".repeat(5000);
    pair.vault.put("dev", "TOKEN", &long).await;
    let answer = caller.unary(Probe::new("")).await.unwrap();
    assert_eq!(answer.asked[0].secrets(), [("TOKEN", long.as_str())]);
    pair.stop().await;
}

#[tokio::test]
async fn the_same_server_gets_json_over_plain_http() {
    let (pair, upstream) = recorded(ProtobufMessages::All).await;
    let request = Request::post("/dev/skill/run").header("content-type", "application/json");
    let answer = pair.injector.send(request, r#"{"a":1}"#).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(upstream.last().body, r#"{"a":1,"secrets":{"TOKEN":"v-1"}}"#);
    // gRPC with JSON messages is neither plain JSON nor protobuf.
    let request = Request::post("/dev/skill/e2e.Probe/Any").header("content-type", "application/grpc+json");
    let answer = pair.injector.send(request, "\0\0\0\0\x02{}").await;
    assert_eq!(answer.headers()["x-aerostack-reason"], "BODY_TYPE_UNSUPPORTED");
    let explained = super::super::explain(&pair, "skill").await.secrets;
    assert_eq!(
        explained[0].placement,
        "body member secrets.TOKEN; in gRPC message field 7 entry TOKEN, of e2e.Probe/*"
    );
    pair.stop().await;
}

#[tokio::test]
async fn grpc_works_over_http1() {
    let (pair, upstream) = recorded(ProtobufMessages::First).await;
    let head = "POST /dev/skill/e2e.Probe/Any HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/grpc\r\n";
    let body = framed(0, b"\x0a\x01a");
    let bytes = [
        format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes(),
        &body,
    ]
    .concat();
    assert_eq!(
        raw::status(&raw::exchange(pair.injector.data_plane, bytes).await),
        200
    );
    assert_eq!(upstream.last().body, framed(0, [b"\x0a\x01a", TOKEN].concat()));
    pair.stop().await;
}

#[tokio::test]
async fn calls_of_other_methods_and_of_reflection_are_forwarded_without_secrets() {
    let (pair, upstream) = recorded(ProtobufMessages::All).await;
    let request = |method: &str| {
        Request::post(format!("/dev/skill/{method}")).header("content-type", "application/grpc")
    };
    let theirs = framed(0, [b"\x0a\x01a", TOKEN].concat());
    for method in [
        "e2e.Other/Any",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "grpc.health.v1.Health/Check",
    ] {
        let answer = pair.injector.send(request(method), theirs.clone()).await;
        assert_eq!(answer.status(), 200, "{method}");
        // The upstream gets the program's bytes unchanged.
        let sent = framed(0, b"\x0a\x01a");
        pair.injector.send(request(method), sent.clone()).await;
        assert_eq!(upstream.last().body, sent, "{method}");
    }
    let named = framed(0, b"\x0a\x01a");
    pair.injector.send(request("e2e.Probe/Any"), named).await;
    assert_eq!(upstream.last().body, theirs);
    pair.stop().await;
}
