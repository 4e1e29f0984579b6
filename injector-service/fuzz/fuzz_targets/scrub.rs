//! Splits a stream at every zero byte of the input, and compares a scanner with a scan of the whole stream.

#![no_main]

use bytes::Bytes;
use injector_service::scrub::{Fingerprints, Scanner, SearchScope, mask_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((count, data)) = data.split_first() else {
        return;
    };
    let mut parts: Vec<&[u8]> = data.split(|byte| *byte == 0).collect();
    let pieces = parts.split_off(parts.len().min(usize::from(count % 4)));
    let Some(fingerprints) = Fingerprints::of(parts.iter().copied(), SearchScope::Bodies) else {
        return;
    };

    let stream = pieces.concat();
    let whole = mask_text(&fingerprints, &stream).map_or(stream.clone(), |masked| masked.output.to_vec());
    // A mask can complete a value that contains an asterisk.
    let found = parts
        .iter()
        .filter(|value| value.len() >= 8 && !value.contains(&b'*'));
    for value in found {
        assert!(!whole.windows(value.len()).any(|window| window == *value));
    }

    let mut scanner = Scanner::new(fingerprints);
    let mut output = Vec::new();
    for piece in &pieces {
        output.extend_from_slice(&scanner.scan(Bytes::copy_from_slice(piece)).output);
    }
    output.extend_from_slice(&scanner.finish());
    assert_eq!(output, whole);
});
