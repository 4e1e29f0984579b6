//! A measure for tests: whether the time for a text grows in proportion to the length of the text.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

const SHORT: usize = 8 << 10;
/// Four times the length takes four times the time when the work is linear, and sixteen times when it is quadratic.
const LONG: usize = 4 * SHORT;
const MAX_GROWTH: u128 = 8;
const RUNS: usize = 9;

/// Panics when `work` takes much more than four times as long for a text of four times the length. `text` makes a text of
/// about the given number of bytes.
pub(crate) fn assert_linear<R>(name: &str, text: impl Fn(usize) -> Vec<u8>, work: impl Fn(&[u8]) -> R) {
    let texts = [SHORT, LONG].map(text);
    let mut growths = [(); RUNS].map(|()| {
        let [short, long] = texts.each_ref().map(|text| {
            let start = Instant::now();
            black_box(work(black_box(text)));
            start.elapsed().max(Duration::from_micros(20))
        });
        (long.as_micros() / short.as_micros(), short, long)
    });
    // Other threads, and a processor whose speed changes, disturb single runs.
    growths.sort_unstable();
    let [.., _, (growth, short, long), _, _, _, _] = growths;
    assert!(growth < MAX_GROWTH, "{name}: {short:?}, then {long:?}");
}

/// Returns `before`, and then `repeated` as often as makes `length` bytes.
pub(crate) fn repeated(before: &str, repeated: &str, length: usize) -> Vec<u8> {
    let count = length.saturating_sub(before.len()) / repeated.len();
    [before, &repeated.repeat(count)].concat().into_bytes()
}
