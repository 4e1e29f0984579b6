//! Calls that are refused before anything is sent to the upstream.

use super::{super::Untouched, *};

async fn untouched(messages: ProtobufMessages, edit: impl FnOnce(&mut Server)) -> (Pair, Untouched) {
    let (untouched, url) = Untouched::bind();
    let pair = super::super::dev(&[("TOKEN", "v-1")]).await;
    pair.vault.put("dev", "BINARY", b"v-1\xff").await;
    let mut server = skill(&url, messages);
    edit(&mut server);
    pair.injector.add(server).await;
    (pair, untouched)
}

const LARGE: &[u8] = b"\0\0\x40\0\x01";

#[tokio::test]
async fn a_malformed_first_message_is_not_sent() {
    let (pair, untouched) = untouched(ProtobufMessages::First, |_| {}).await;
    let zstd = ("grpc-encoding", "zstd");
    let bomb = wire::zstd(&vec![0; 5 << 20]);
    assert!(bomb.len() < 1000);
    for (headers, body, code, reason) in [
        (&[GRPC][..], framed(2, ""), Code::Internal, "MESSAGE_FLAG_INVALID"),
        (&[GRPC], framed(1, "x"), Code::Internal, "MESSAGE_FLAG_INVALID"),
        (
            &[GRPC, ("grpc-encoding", "identity")],
            framed(1, ""),
            Code::Internal,
            "MESSAGE_FLAG_INVALID",
        ),
        (
            &[GRPC, ("grpc-encoding", "snappy")],
            framed(1, "x"),
            Code::Unimplemented,
            "MESSAGE_ENCODING_UNSUPPORTED",
        ),
        (
            &[GRPC, zstd],
            framed(1, "x"),
            Code::InvalidArgument,
            "BODY_INVALID",
        ),
        (
            &[GRPC, zstd],
            framed(1, &bomb),
            Code::ResourceExhausted,
            "LIMIT_EXCEEDED",
        ),
        (&[GRPC], LARGE.to_vec(), Code::ResourceExhausted, "LIMIT_EXCEEDED"),
        (
            &[GRPC],
            framed(0, b"\x0a\x02a"),
            Code::InvalidArgument,
            "BODY_INVALID",
        ),
        (&[GRPC], framed(0, b"\x0c"), Code::InvalidArgument, "BODY_INVALID"),
        (&[GRPC], b"\0\0".to_vec(), Code::InvalidArgument, "BODY_INVALID"),
        (
            &[GRPC],
            b"\0\0\0\0\x02a".to_vec(),
            Code::InvalidArgument,
            "BODY_INVALID",
        ),
        (
            &[("content-type", "application/grpc+json")],
            framed(0, "{}"),
            Code::InvalidArgument,
            "BODY_TYPE_UNSUPPORTED",
        ),
        (
            &[GRPC, GRPC],
            framed(0, ""),
            Code::InvalidArgument,
            "BODY_TYPE_UNSUPPORTED",
        ),
        (
            &[GRPC, ("content-encoding", "gzip")],
            framed(0, ""),
            Code::InvalidArgument,
            "BODY_TYPE_UNSUPPORTED",
        ),
        (
            &[GRPC, ("content-digest", "sha-256=:x:")],
            framed(0, ""),
            Code::InvalidArgument,
            "BODY_SIGNED",
        ),
    ] {
        let (status, head) = call(&pair, headers, whole(body.clone())).await;
        assert_eq!(
            refused(&status),
            (code, reason.to_owned()),
            "{headers:?} {body:x?}"
        );
        assert_eq!(head["x-aerostack-reason"], reason);
        assert_eq!(
            head.contains_key("grpc-accept-encoding"),
            code == Code::Unimplemented
        );
    }
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn a_too_large_message_is_refused_by_its_announced_length() {
    let (pair, untouched) = untouched(ProtobufMessages::First, |_| {}).await;
    let endless = stream::iter([Ok(Bytes::from_static(LARGE))]).chain(stream::pending());
    let (status, _) = call(&pair, &[GRPC], chunks(endless)).await;
    assert_eq!(refused(&status).0, Code::ResourceExhausted);
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn a_call_without_its_first_message_ends_at_its_deadline() {
    let (pair, untouched) = untouched(ProtobufMessages::First, |_| {}).await;
    let begun = stream::iter([Ok(Bytes::from_static(b"\0\0\0"))]).chain(stream::pending());
    let (status, _) = call(&pair, &[GRPC, ("grpc-timeout", "200m")], chunks(begun)).await;
    assert_eq!(
        refused(&status),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned())
    );
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn a_required_missing_or_unfit_secret_refuses_the_call() {
    for messages in [ProtobufMessages::First, ProtobufMessages::All] {
        for (secret, required, reason) in [
            ("ABSENT", true, "SECRET_REQUIRED_MISSING"),
            ("BINARY", false, "SECRET_VALUE_NOT_PLACEABLE"),
        ] {
            let (pair, untouched) = untouched(messages, |server| {
                server.inject_secrets.push(secret.into());
                server.required_secrets = required.then(|| secret.into()).into_iter().collect();
            })
            .await;
            let (status, _) = call(&pair, &[GRPC], whole(framed(0, ""))).await;
            assert_eq!(refused(&status), (Code::FailedPrecondition, reason.to_owned()));
            untouched.check();
            pair.stop().await;
        }
    }
}

#[tokio::test]
async fn a_secret_that_is_missing_is_left_out() {
    let (pair, upstream) = recorded(ProtobufMessages::First).await;
    let two = Server {
        inject_secrets: vec!["ABSENT".into(), "TOKEN".into()],
        ..skill(&upstream.url(), ProtobufMessages::First)
    };
    pair.injector
        .add(Server {
            name: "two".into(),
            ..two
        })
        .await;
    let request = Request::post("/dev/two/e2e.Probe/Any").header("content-type", "application/grpc");
    let answer = pair.injector.send(request, framed(0, "")).await;
    assert_eq!(
        (answer.status().as_u16(), upstream.last().body),
        (200, framed(0, TOKEN).into())
    );
    pair.stop().await;
}

#[tokio::test]
async fn a_call_without_a_message_is_refused_when_a_secret_is_required() {
    for messages in [ProtobufMessages::First, ProtobufMessages::All] {
        let (pair, untouched) = untouched(messages, |server| {
            server.required_secrets = vec!["TOKEN".into()];
        })
        .await;
        let (status, _) = call(&pair, &[GRPC], whole("")).await;
        assert_eq!(
            super::refused(&status),
            (Code::InvalidArgument, "BODY_MISSING".into())
        );
        let trailers = chunks(stream::empty());
        let (status, _) = call(&pair, &[GRPC], trailers).await;
        assert_eq!(super::refused(&status).1, "BODY_MISSING");
        untouched.check();
    }
}
