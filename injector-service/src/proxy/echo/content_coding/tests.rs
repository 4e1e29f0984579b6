use std::{io::Write as _, iter};

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{decoded_body::Decoder as _, *};
use crate::proxy::buffer_budget::BufferBudget;
use crate::upstream::BodyError;

/// The text of `testdata/encoded`, in the encodings of other libraries: by `zstd -19 --no-check` (libzstd 1.5.4), whose
/// window has 8 MiB, by `zstd -3`, whose window has 2 MiB, and by Node 20 (libbrotli) with the largest window of 16 MiB.
const ENCODED: [(&str, &[u8]); 3] = [
    ("zstd", include_bytes!("../../../../testdata/encoded/text.19.zst")),
    ("zstd", include_bytes!("../../../../testdata/encoded/text.3.zst")),
    ("br", include_bytes!("../../../../testdata/encoded/text.br")),
];
const MIB: usize = 1024 * 1024;
/// More than any decoder needs.
const ENOUGH: usize = 64 * MIB;

fn text() -> Vec<u8> {
    let line = |line: u64| {
        let said = (((line * 2_654_435_761 + 12345) % (1 << 32)) >> 7) % 9973;
        let secret = match line % 997 {
            0 => " and ghp_0123456789abcdefghijABCDEFGHIJ+/xyzw",
            _ => "",
        };
        format!("line {line} of the text says {said:08x}{secret}\n")
    };
    (0..4000).map(line).collect::<String>().repeat(35).into_bytes()
}

fn encodings(text: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(text).unwrap();
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(text).unwrap();
    let own = [
        ("gzip", gzip.finish().unwrap()),
        ("deflate", deflate.finish().unwrap()),
    ];
    let others = ENCODED.map(|(coding, encoded)| (coding, encoded.to_vec()));
    own.into_iter().chain(others).collect()
}

type Frames = UnboundedReceiverStream<Result<Frame<Bytes>, BodyError>>;

fn unbounded_frames() -> (UnboundedSender<Result<Frame<Bytes>, BodyError>>, Frames) {
    let (sender, receiver) = unbounded_channel();
    (sender, UnboundedReceiverStream::new(receiver))
}

fn head(coding: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    headers
}

/// Returns the body whose encoded bytes come in `pieces`.
fn begin<'p>(
    coding: &'static str,
    pieces: impl Iterator<Item = &'p [u8]>,
    budget: &BufferBudget,
) -> Result<Body, Refusal> {
    let frames = pieces.map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
    let frames: Vec<Result<_, BodyError>> = frames.collect();
    let body = StreamBody::new(stream::iter(frames));
    decode(body, &mut head(coding), budget)
}

/// Returns the reason for which the body is refused or broken off.
fn failure(decoded: Result<Body, Refusal>) -> Option<Reason> {
    let mut body = match decoded {
        Ok(body) => body,
        Err(refusal) => return Some(refusal.reason),
    };
    loop {
        let frame = body.frame().now_or_never().expect("all bytes are there");
        if let Err(error) = frame? {
            let refusal = error.downcast_ref::<Refusal>();
            return Some(refusal.map_or(Reason::Internal, |refusal| refusal.reason));
        }
    }
}

fn failure_of(coding: &'static str, encoded: &[u8], budget: usize) -> Option<Reason> {
    failure(begin(coding, iter::once(encoded), &BufferBudget::new(budget)))
}

fn decoded(body: Result<Body, Refusal>) -> Vec<u8> {
    let collected = body.unwrap().collect().now_or_never();
    collected.unwrap().unwrap().to_bytes().to_vec()
}

/// Returns the bytes of a frame of Zstandard whose blocks are not compressed (RFC 8878, section 3.1.1).
fn zstd_frame(window_descriptor: u8, blocks: &[&[u8]]) -> Vec<u8> {
    let head = [0x28, 0xb5, 0x2f, 0xfd, 0, window_descriptor];
    let blocks = blocks.iter().enumerate().flat_map(|(index, block)| {
        let is_last = u32::from(index + 1 == blocks.len());
        zstd_block(RAW, is_last, block)
    });
    head.into_iter().chain(blocks).collect()
}

const RAW: u32 = 0;
const COMPRESSED: u32 = 2;

fn zstd_block(kind: u32, is_last: u32, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).unwrap();
    let header = len << 3 | kind << 1 | is_last;
    [&header.to_le_bytes()[..3], content].concat()
}

/// The window of a frame whose descriptor is `exponent << 3`.
const fn window(exponent: u8) -> u8 {
    (exponent - 10) << 3
}

#[test]
fn a_body_of_other_libraries_is_decoded_in_pieces_of_every_size() {
    let text = text();
    for (coding, encoded) in encodings(&text) {
        for size in [1, 3, 1000, encoded.len()] {
            let body = begin(coding, encoded.chunks(size), &BufferBudget::new(ENOUGH));
            assert!(decoded(body) == text, "{coding} {size}");
        }
    }
}

#[test]
fn a_larger_window_than_the_encoding_permits_is_refused() {
    // 128 MiB, and the smallest window above 8 MiB (RFC 9659, section 3).
    for descriptor in [window(27), window(23) + 1] {
        let encoded = zstd_frame(descriptor, &[b"plain text"]);
        assert_eq!(
            failure_of("zstd", &encoded, ENOUGH),
            Some(Reason::UpstreamEncodingUnsupported),
            "{descriptor}"
        );
    }
    assert_eq!(
        failure_of("zstd", &zstd_frame(window(23), &[b"plain"]), ENOUGH),
        None
    );
    // "plain text" by libbrotli with a window of 1 GiB, which is an extension of RFC 7932.
    let brotli = b"\x11\x1e\x12\x00\x02plain text\x03";
    assert_eq!(
        failure_of("br", brotli, ENOUGH),
        Some(Reason::UpstreamEncodingUnsupported)
    );
}

/// An event stream may be open for hours, and all streams share the budget.
#[test]
fn a_stream_in_zstandard_with_few_bytes_takes_little_of_the_budget() {
    let budget = BufferBudget::new(ENOUGH);
    let mut decoder = ZstdDecoder::new(&budget).unwrap();
    let mut input = Bytes::from(zstd_frame(window(23), &[b"data: 1\n\n", b"data: 2\n\n"]));
    let mut text = Vec::new();
    while !input.is_empty() {
        text.extend(decoder.decode(&mut input).unwrap());
    }
    assert_eq!(text, b"data: 1\n\ndata: 2\n\n");
    assert!(budget.empty_reservation().grow(ENOUGH - 3 * MIB / 2).is_ok());
}

#[test]
fn a_decoder_takes_its_memory_from_the_budget() {
    for (coding, encoded) in ENCODED {
        assert_eq!(
            failure_of(coding, encoded, 16 * 1024),
            Some(Reason::UpstreamEncodingUnsupported),
            "{coding} before its head"
        );
        assert_eq!(
            failure_of(coding, encoded, 4 * MIB),
            Some(Reason::UpstreamEncodingUnsupported),
            "{coding} later"
        );
        let budget = BufferBudget::new(ENOUGH);
        decoded(begin(coding, iter::once(encoded), &budget));
        assert!(budget.empty_reservation().grow(ENOUGH).is_ok(), "{coding}");
    }
}

/// Returns two events in each encoding, in two parts with a flush between them.
fn flushed_encodings(events: [&[u8]; 2]) -> Vec<(&'static str, [Vec<u8>; 2])> {
    let [first, second] = events;
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(first).unwrap();
    deflate.flush().unwrap();
    let flushed = std::mem::take(deflate.get_mut());
    deflate.write_all(second).unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(first).unwrap();
    gzip.flush().unwrap();
    let flushed_gzip = std::mem::take(gzip.get_mut());
    gzip.write_all(second).unwrap();
    let zstd = zstd_frame(window(23), &[first, second]);
    let (zstd, rest) = zstd.split_at(6 + 3 + first.len());
    vec![
        ("deflate", [flushed, deflate.finish().unwrap()]),
        ("gzip", [flushed_gzip, gzip.finish().unwrap()]),
        ("zstd", [zstd.to_vec(), rest.to_vec()]),
        // By Node 20 (libbrotli), with a window of 16 MiB.
        (
            "br",
            [
                b"\x0f\x05\x80data: one\n\n".to_vec(),
                b"\x50\x00\x80\x5f\x5a\xe1\x8d\xee\x4e\x11\xa2\x4a\x04\x60\x0b\x03".to_vec(),
            ],
        ),
    ]
}

#[test]
fn a_flushed_event_comes_before_the_next_one() {
    let events = [&b"data: one\n\n"[..], b"data: two\n\n"];
    for (coding, encoded) in flushed_encodings(events) {
        let (sender, receiver) = unbounded_frames();
        let budget = BufferBudget::new(ENOUGH);
        let mut body = decode(StreamBody::new(receiver), &mut head(coding), &budget).unwrap();
        for (encoded, event) in encoded.into_iter().zip(events) {
            assert!(body.frame().now_or_never().is_none(), "{coding}");
            sender.send(Ok(Frame::data(Bytes::from(encoded)))).unwrap();
            let mut came = Vec::new();
            while let Some(frame) = body.frame().now_or_never() {
                came.extend_from_slice(&frame.unwrap().unwrap().into_data().unwrap());
            }
            assert_eq!(came, event, "{coding}");
        }
        drop(sender);
        assert!(body.frame().now_or_never().unwrap().is_none(), "{coding}");
    }
}

/// A block that repeats 34 bytes from exactly 8 MiB before: one sequence whose codes are `RLE` (RFC 8878, section 3.1.1.3.2).
const FROM_THE_BEGINNING_OF_THE_WINDOW: [u8; 9] = [0, 1, 0x54, 0, 23, 31, 3, 0, 0x80];

#[test]
fn a_frame_of_zstandard_may_reach_back_as_far_as_its_window() {
    const WINDOW: usize = 8 * MIB;
    const BLOCK: usize = 128 * 1024;
    let random = |at: usize| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let random: Vec<u8> = (0..WINDOW / 8).flat_map(random).collect();
    let (mut frame, mut plain) = (zstd_frame(window(23), &[]), Vec::new());
    let head = frame.len();
    for block in random.chunks(BLOCK) {
        frame.extend(zstd_block(RAW, 0, block));
        plain.extend_from_slice(block);
    }
    // Nearly five windows: 32 MiB of other bytes, and after each MiB a copy.
    for mib in 0..32_u8 {
        frame.extend(zstd_block(COMPRESSED, 0, &FROM_THE_BEGINNING_OF_THE_WINDOW));
        plain.extend_from_within(plain.len() - WINDOW..plain.len() - WINDOW + 34);
        let other: Vec<u8> = random.iter().take(MIB).map(|byte| byte ^ mib).collect();
        for block in other.chunks(BLOCK) {
            frame.extend(zstd_block(RAW, 0, block));
            plain.extend_from_slice(block);
        }
    }
    frame.extend(zstd_block(RAW, 1, b""));
    assert_eq!(head, 6);
    let body = begin("zstd", frame.chunks(100_000), &BufferBudget::new(40 * MIB));
    assert!(decoded(body) == plain);
}

#[test]
fn frames_of_zstandard_follow_one_another() {
    let [(_, long), (_, with_digest), _] = ENCODED;
    let skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc";
    let empty_skippable = b"\x5f\x2a\x4d\x18\x00\x00\x00\x00";
    let frames = [
        &skippable[..],
        with_digest,
        empty_skippable,
        &zstd_frame(window(10), &[b"between"]),
        long,
        skippable,
    ]
    .concat();
    let text = text();
    let expected = [&text[..], b"between", &text].concat();
    for size in [1, 17, frames.len()] {
        let body = begin("zstd", frames.chunks(size), &BufferBudget::new(ENOUGH));
        assert!(decoded(body) == expected, "{size}");
    }
}

#[test]
fn a_body_that_is_not_in_its_encoding_is_broken_off() {
    let [(_, zstd), (_, with_digest), (_, brotli)] = ENCODED;
    let mut wrong_digest = with_digest.to_vec();
    *wrong_digest.last_mut().unwrap() ^= 1;
    for (coding, encoded) in [
        ("zstd", &zstd[..zstd.len() - 1]),
        ("zstd", &zstd[..3]),
        ("zstd", &wrong_digest),
        ("zstd", b"plain text"),
        ("zstd", &[zstd, b"x"].concat()),
        ("zstd", &zstd_frame(window(10), &[&[0; 1025]])),
        (
            "zstd",
            &[&zstd_frame(window(10), &[])[..], &zstd_block(3, 1, b"x")].concat(),
        ),
        ("br", &brotli[..brotli.len() - 1]),
        ("br", &[brotli, b"x"].concat()),
        ("br", b"plain text"),
    ] {
        let reason = failure_of(coding, encoded, ENOUGH);
        let len = encoded.len();
        assert_eq!(reason, Some(Reason::UpstreamProtocol), "{coding} of {len} bytes");
    }
}

#[test]
fn a_body_without_bytes_is_decoded_to_nothing() {
    for coding in ["zstd", "br"] {
        assert_eq!(failure_of(coding, b"", ENOUGH), None, "{coding}");
    }
}

#[test]
fn trailers_follow_a_decoded_body() {
    for (coding, encoded) in ENCODED {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-last", HeaderValue::from_static("yes"));
        let frames = [
            Frame::data(Bytes::from_static(encoded)),
            Frame::trailers(trailers.clone()),
        ];
        let frames = frames.map(Ok::<_, BodyError>);
        let body = StreamBody::new(stream::iter(frames));
        let body = decode(body, &mut head(coding), &BufferBudget::new(ENOUGH)).unwrap();
        let collected = body.collect().now_or_never().unwrap().unwrap();
        assert_eq!(collected.trailers(), Some(&trailers), "{coding}");
    }
}
