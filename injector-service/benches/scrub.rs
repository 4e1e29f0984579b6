//! Measures the search for values in answers, which has a price for each byte of each answer:
//! `cargo bench -p injector-service --bench scrub`. The module doc of `scrub` explains the search.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use injector_service::scrub::{Fingerprints, Scanner, SearchScope, mask_text};

const TOKEN: &[u8] = b"ghp_0123456789abcdefghijklmnopqrstuvwxyzAB";
const PASSWORD: &[u8] = b"pass word/with+all&of=it: 12345678901234";
/// The values of the fields of a usual answer.
const HEAD: [&str; 10] = [
    "application/json; charset=utf-8",
    "Mon, 06 Jul 2026 10:00:00 GMT",
    "W/\"2c1f8ad1a1f60ab1a1e0d0c6b7f1c5a4\"",
    "private, max-age=60, s-maxage=60",
    "Accept, Authorization, Cookie, X-Token, Accept-Encoding",
    "strict-origin-when-cross-origin",
    "max-age=31536000; includeSubdomains; preload",
    "nosniff",
    "5000",
    "C0DE:1A2B:3C4D5E6:7F80912:68A1B2C3",
];
const PIECE: usize = 16 * 1024;
const ROUND: Duration = Duration::from_millis(300);

fn main() {
    let token = TOKEN.get(..40).unwrap_or_default();
    let many: Vec<Vec<u8>> = (0..64).map(|index| [token, &[index][..]].concat()).collect();
    let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    for (name, values) in [
        ("one token of 40 bytes", &[token][..]),
        ("one password of 40 bytes", &[PASSWORD]),
        ("one value of 8 bytes", &[b"hunter22"]),
        ("64 tokens of 41 bytes", &many),
    ] {
        let fingerprints = |scope| Fingerprints::of(black_box(values).iter().copied(), scope);
        for (scope, kind) in [(SearchScope::Heads, "heads"), (SearchScope::Bodies, "bodies")] {
            let making = time(|| drop(black_box(fingerprints(scope))));
            report(&format!("{name}: fingerprints for {kind}"), making, 0);
        }
        let (Some(for_heads), Some(for_bodies)) = (
            fingerprints(SearchScope::Heads),
            fingerprints(SearchScope::Bodies),
        ) else {
            continue;
        };
        let head = time(|| {
            for field in HEAD {
                drop(black_box(mask_text(&for_heads, field.as_bytes())));
            }
        });
        report(&format!("{name}: head of {} fields", HEAD.len()), head, 0);
        let fingerprints = for_bodies;
        for (kind, piece) in [("JSON", json()), ("random bytes", random())] {
            let piece = Bytes::from(piece);
            let mut scanner = Scanner::new(fingerprints.clone());
            let scanning = time(|| drop(black_box(scanner.scan(piece.clone()))));
            report(&format!("{name}: {kind}"), scanning, piece.len());
        }
    }
}

/// Returns the fewest nanoseconds of one call.
fn time(mut call: impl FnMut()) -> f64 {
    let mut calls = 1_u32;
    let mut round = || {
        let began = Instant::now();
        (0..calls).for_each(|_| call());
        let nanoseconds = began.elapsed().as_secs_f64() * 1e9 / f64::from(calls);
        calls = if nanoseconds < 1e4 { 100 } else { 1 };
        nanoseconds
    };
    let began = Instant::now();
    let mut fewest = round();
    while began.elapsed() < ROUND {
        fewest = fewest.min(round());
    }
    fewest
}

#[expect(clippy::print_stdout, reason = "the output of the benchmark")]
#[expect(clippy::cast_precision_loss, reason = "the lengths are small")]
fn report(name: &str, nanoseconds: f64, bytes: usize) {
    match bytes {
        0 => println!("{name:45} {nanoseconds:9.0} ns"),
        bytes => println!("{name:45} {:9.2} GB/s", bytes as f64 / nanoseconds),
    }
}

fn json() -> Vec<u8> {
    let text = br#"{"id":184012,"name":"a name of an item","tags":["first","second"],"price":12.75},"#;
    text.iter().copied().cycle().take(PIECE).collect()
}

fn random() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state.to_le_bytes())
    };
    std::iter::from_fn({
        let mut next = next;
        move || next()
    })
    .flatten()
    .take(PIECE)
    .collect()
}
