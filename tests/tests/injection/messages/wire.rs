//! The bytes that the upstream receives of requests that no gRPC library would send.

use std::io::Write as _;

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use prost::Message as _;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

const LARGEST: usize = 4 * 1024 * 1024;

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(message).unwrap();
    encoder.finish().unwrap()
}

fn deflate(message: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(message).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(message: &[u8]) -> Vec<u8> {
    compress_to_vec(message, CompressionLevel::Fastest)
}

/// Returns a message with a text of this many bytes.
fn long(len: usize) -> Vec<u8> {
    peer::Probe::new("x".repeat(len)).encode_to_vec()
}

#[tokio::test]
async fn a_body_may_arrive_in_any_pieces() {
    let (pair, upstream) = recorded(ProtobufMessages::First).await;
    let body = [
        framed(0, b"\x0a\x01a\x3a\x01x"),
        framed(0, b"\x3a\x01x"),
        framed(0, b""),
        framed(0, b"\x08\x01"),
    ];
    let expected = [
        framed(0, [b"\x0a\x01a", TOKEN].concat()),
        framed(0, b""),
        framed(0, b""),
        framed(0, b"\x08\x01"),
    ];
    let bytes = body.concat();
    let mut count = 0;
    for sent in [one_by_one(bytes.clone()), whole(bytes.clone())]
        .into_iter()
        .chain((1..bytes.len()).map(|at| {
            let (one, two) = bytes.split_at(at);
            let both = [one, b"", two].map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
            chunks(stream::iter(both))
        }))
    {
        let (status, _) = call(&pair, &[GRPC], sent).await;
        assert_eq!(status.code(), Code::Ok);
        count += 1;
        let seen = seen(&upstream, count).await;
        assert_eq!(seen.body, expected.concat());
        assert!(seen.complete);
        assert_eq!(seen.headers["content-type"], "application/grpc");
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_empty_message_gets_its_secrets_and_no_message_gets_none() {
    let (pair, upstream) = recorded(ProtobufMessages::All).await;
    let (status, _) = call(&pair, &[GRPC], whole(framed(0, ""))).await;
    assert_eq!(
        (status.code(), upstream.last().body),
        (Code::Ok, framed(0, TOKEN).into())
    );
    for none in [
        whole(""),
        chunks(stream::empty()),
        chunks(stream::iter([Ok(Bytes::new())])),
    ] {
        let (status, _) = call(&pair, &[GRPC], none).await;
        let seen = upstream.last();
        assert_eq!(
            (status.code(), seen.body.len(), seen.complete),
            (Code::Ok, 0, true)
        );
    }
    let metrics = e2e::pair::get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    let missed = "aerostack_injector_missed_secrets_total{workspace=\"dev\",server=\"skill\"} 3\n";
    assert!(metrics.contains(missed), "{metrics}");
    pair.stop().await;
}

#[tokio::test]
async fn the_field_of_the_client_is_removed_in_every_message() {
    let forged: [&[u8]; 9] = [
        b"\x3a\x0d\x0a\x05TOKEN\x12\x04fake",
        b"\x38\x01",
        b"\x39........",
        b"\x3d....",
        b"\x3b\x0a\x01a\x3b\x3c\x3c",
        b"\xba\x80\x80\x80\x00\x01x",
        b"\xba\x80\x80\x80\x80\x80\x80\x80\x80\x00\x81\x00x",
        b"\xbb\x00\xbc\x80\x80\x00",
        b"\x3a\x00\x3a\x00",
    ];
    for (messages, later) in [
        (ProtobufMessages::First, &b""[..]),
        (ProtobufMessages::All, TOKEN),
    ] {
        let (pair, upstream) = recorded(messages).await;
        for forged in forged {
            let message = framed(0, [b"\x08\x01", forged, b"\x12\x01b", forged].concat());
            let (status, _) = call(&pair, &[GRPC], whole([&message[..], &message].concat())).await;
            assert_eq!(status.code(), Code::Ok);
            let kept = b"\x08\x01\x12\x01b";
            let expected = [
                framed(0, [&kept[..], TOKEN].concat()),
                framed(0, [&kept[..], later].concat()),
            ];
            assert_eq!(upstream.last().body, expected.concat(), "{forged:x?}");
        }
        pair.vault.delete("dev", "TOKEN").await;
        let (status, _) = call(&pair, &[GRPC], whole(framed(0, forged[0]))).await;
        assert_eq!(
            (status.code(), upstream.last().body),
            (Code::Ok, framed(0, "").into())
        );
        pair.stop().await;
    }
}

#[tokio::test]
async fn compressed_messages_are_forwarded_uncompressed() {
    for messages in [ProtobufMessages::First, ProtobufMessages::All] {
        let (pair, upstream) = recorded(messages).await;
        let later = if messages == ProtobufMessages::All {
            TOKEN
        } else {
            b""
        };
        for (name, compress) in [
            ("gzip", gzip as fn(&[u8]) -> Vec<u8>),
            ("deflate", deflate),
            ("zstd", zstd),
        ] {
            let message = long(100_000);
            let body = [
                framed(1, compress(&message)),
                framed(0, b"\x3a\x00"),
                framed(1, compress(b"\x3a\x00\x08\x01")),
                framed(1, ""),
            ];
            let headers = [GRPC, ("grpc-encoding", name), ("grpc-accept-encoding", name)];
            let (status, _) = call(&pair, &headers, whole(body.concat())).await;
            assert_eq!(status.code(), Code::Ok);
            let expected = [
                framed(0, [&message[..], TOKEN].concat()),
                framed(0, later),
                framed(0, [b"\x08\x01", later].concat()),
                framed(0, later),
            ];
            let seen = upstream.last();
            assert_eq!(seen.body, expected.concat());
            assert!(!seen.headers.contains_key("grpc-encoding"));
            assert_eq!(seen.header("grpc-accept-encoding"), Some(name));
        }
        // An unknown encoding does not matter when no message is compressed.
        let headers = [GRPC, ("grpc-encoding", "snappy")];
        let (status, _) = call(&pair, &headers, whole(framed(0, ""))).await;
        assert_eq!(
            (status.code(), upstream.last().body),
            (Code::Ok, framed(0, TOKEN).into())
        );
        assert!(!upstream.last().headers.contains_key("grpc-encoding"));
        pair.stop().await;
    }
}

#[tokio::test]
async fn a_message_of_4_mib_is_accepted() {
    let (pair, upstream) = recorded(ProtobufMessages::First).await;
    let largest = long(LARGEST - 5);
    let body = [framed(0, &largest), framed(1, gzip(&largest))].concat();
    let (status, _) = call(&pair, &[GRPC, ("grpc-encoding", "gzip")], whole(body)).await;
    assert_eq!(status.code(), Code::Ok);
    let expected = [framed(0, [&largest[..], TOKEN].concat()), framed(0, &largest)];
    assert!(upstream.last().body == expected.concat());
    pair.stop().await;
}

/// The injector puts many messages into one DATA frame. An upstream takes many tiny frames for an attack, and closes
/// the connection.
#[tokio::test]
async fn a_hundred_thousand_messages_arrive_in_order() {
    for (messages, later, count) in [
        (ProtobufMessages::First, &b""[..], 100_000),
        (ProtobufMessages::All, TOKEN, 10_000),
    ] {
        let (pair, upstream) = recorded(messages).await;
        for (count, len) in [(count, 10_007), (2000, 25)] {
            let body: Vec<_> = (0..count)
                .flat_map(|number| framed(0, peer::Probe::forged(number).encode_to_vec()))
                .collect();
            let expected: Vec<_> = (0..count)
                .flat_map(|number| {
                    let text = peer::Probe::new(number).encode_to_vec();
                    framed(0, [&text[..], if number == 0 { TOKEN } else { later }].concat())
                })
                .collect();
            let pieces: Vec<_> = body
                .chunks(len)
                .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                .collect();
            let (status, _) = call(&pair, &[GRPC], chunks(stream::iter(pieces))).await;
            assert_eq!(status.code(), Code::Ok);
            assert!(upstream.last().body == expected);
        }
        pair.stop().await;
    }
}

#[tokio::test]
async fn trailers_of_a_request_are_forwarded_without_reserved_fields() {
    let (pair, upstream) = recorded(ProtobufMessages::First).await;
    for data in [Some(framed(0, "")), None] {
        let trailers = [
            ("x-checksum", "1"),
            ("x-mcp-secret-token", "theirs"),
            ("authorization", "theirs"),
        ];
        let trailers = trailers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let trailers = HeaderMap::from_iter(trailers);
        let frames = data.clone().map(|data| Ok(Frame::data(Bytes::from(data))));
        let frames: Vec<_> = frames
            .into_iter()
            .chain([Ok(Frame::trailers(trailers))])
            .collect();
        let (status, _) = call(
            &pair,
            &[GRPC],
            StreamBody::new(stream::iter(frames)).boxed_unsync(),
        )
        .await;
        assert_eq!(status.code(), Code::Ok);
        let seen = upstream.last();
        assert_eq!(seen.body, data.map(|_| framed(0, TOKEN)).unwrap_or_default());
        assert_eq!(seen.trailers.keys().collect::<Vec<_>>(), ["x-checksum"]);
    }
    pair.stop().await;
}
