use std::io::Write as _;

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use http::HeaderValue;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

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

fn zstd(message: &[u8]) -> Vec<u8> {
    compress_to_vec(message, CompressionLevel::Fastest)
}

type Compress = fn(&[u8]) -> Vec<u8>;

const ALL: [(Encoding, Compress); 3] = [
    (Encoding::Gzip, gzip),
    (Encoding::Deflate, deflate),
    (Encoding::Zstd, zstd),
];

fn reason(decoded: Result<Vec<u8>, Refusal>) -> Option<Reason> {
    decoded.err().map(|refusal| refusal.reason)
}

/// Returns the bytes 0, 1, 2, …, which compress, but not to nearly nothing.
fn counting(len: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(len).collect()
}

#[test]
fn a_compressed_message_is_decoded_to_the_original() {
    for (encoding, compress) in ALL {
        for len in [0, 1, 1000, MAX_MESSAGE] {
            let message = counting(len);
            assert_eq!(
                encoding.decode(&compress(&message)).as_ref(),
                Ok(&message),
                "{encoding:?} {len}"
            );
        }
        assert_eq!(encoding.decode(b""), Ok(Vec::new()), "{encoding:?}");
    }
}

#[test]
fn several_compressed_frames_are_one_message() {
    for (encoding, compress) in [(Encoding::Gzip, gzip as Compress), (Encoding::Zstd, zstd)] {
        let both = [compress(b"one, "), compress(b"two")].concat();
        assert_eq!(encoding.decode(&both).unwrap(), b"one, two");
    }
}

#[test]
fn a_decompression_bomb_is_refused() {
    for (encoding, compress) in ALL {
        let bomb = compress(&vec![0; MAX_MESSAGE + 1]);
        assert!(bomb.len() < 100_000);
        assert_eq!(
            reason(encoding.decode(&bomb)),
            Some(Reason::LimitExceeded),
            "{encoding:?}"
        );
    }
    // The bomb consists of several frames, none of which is too large.
    for (encoding, compress) in [(Encoding::Gzip, gzip as Compress), (Encoding::Zstd, zstd)] {
        let bomb = compress(&vec![0; MAX_MESSAGE / 2]).repeat(3);
        assert_eq!(
            reason(encoding.decode(&bomb)),
            Some(Reason::LimitExceeded),
            "{encoding:?}"
        );
    }
}

#[test]
fn decoding_stops_at_the_size_limit() {
    let mut out = vec![0; 10];
    let endless = read(&mut io::repeat(0), &mut out);
    assert!(matches!(endless, Err(DecodeError::TooLarge)));
    assert_eq!(out.len(), MAX_MESSAGE + 1);
}

#[test]
fn a_zstandard_window_above_the_limit_is_refused() {
    // The frame has this window descriptor and an empty last block.
    let frame = |descriptor| [b"\x28\xb5\x2f\xfd\x00", &[descriptor][..], b"\x01\0\0"].concat();
    assert_eq!(Encoding::Zstd.decode(&frame(13 << 3)), Ok(Vec::new()), "8 MiB");
    assert_eq!(
        reason(Encoding::Zstd.decode(&frame(13 << 3 | 1))),
        Some(Reason::LimitExceeded)
    );
    assert_eq!(
        reason(Encoding::Zstd.decode(&frame(0xf7))),
        Some(Reason::LimitExceeded)
    );
    // The frame states a single segment of 1 GiB.
    let large = b"\x28\xb5\x2f\xfd\xa0\0\0\0\x40\x01\0\0";
    assert_eq!(reason(Encoding::Zstd.decode(large)), Some(Reason::LimitExceeded));
}

#[test]
fn a_truncated_malformed_or_extended_message_is_refused() {
    for (encoding, compress) in ALL {
        let whole = compress(&counting(1000));
        for len in 1..whole.len() {
            assert_eq!(
                reason(encoding.decode(&whole[..len])),
                Some(Reason::BodyInvalid),
                "{encoding:?} {len}"
            );
        }
        let followed = [&whole[..], b"x"].concat();
        assert_eq!(
            reason(encoding.decode(&followed)),
            Some(Reason::BodyInvalid),
            "{encoding:?}"
        );
        let last = whole.len() - 1;
        let mut changed = whole;
        changed[last] ^= 1;
        assert_eq!(
            reason(encoding.decode(&changed)),
            Some(Reason::BodyInvalid),
            "{encoding:?}"
        );
    }
}

#[test]
fn only_a_single_known_encoding_is_accepted() {
    for (names, encoding) in [
        (&[][..], Encoding::Identity),
        (&["identity"], Encoding::Identity),
        (&["gzip"], Encoding::Gzip),
        (&["deflate"], Encoding::Deflate),
        (&["zstd"], Encoding::Zstd),
        (&["snappy"], Encoding::Unknown),
        (&["gzip, zstd"], Encoding::Unknown),
        (&["gzip", "gzip"], Encoding::Unknown),
        (&[""], Encoding::Unknown),
    ] {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(HEADER, HeaderValue::from_static(name));
        }
        assert_eq!(Encoding::named_by(&headers), encoding, "{names:?}");
    }
    assert_eq!(
        reason(Encoding::Identity.decode(b"x")),
        Some(Reason::MessageFlagInvalid)
    );
    assert_eq!(
        reason(Encoding::Unknown.decode(b"x")),
        Some(Reason::MessageEncodingUnsupported)
    );
}
