//! The deadline of a call, and its form in gRPC's `grpc-timeout`
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::{pin::Pin, time::Duration};

use http::{HeaderMap, HeaderValue};
use proto::{Reason, Refusal};
use tokio::time::{Instant, timeout_at};

use crate::dialect::Dialect;

const TIMEOUT: &str = "grpc-timeout";
/// The unit letters of `grpc-timeout`, largest unit first.
const UNITS: [(char, Duration); 6] = [
    ('H', Duration::from_secs(3600)),
    ('M', Duration::from_secs(60)),
    ('S', Duration::from_secs(1)),
    ('m', Duration::from_millis(1)),
    ('u', Duration::from_micros(1)),
    ('n', Duration::from_nanos(1)),
];
/// The longest number in `grpc-timeout` has eight digits.
const NUMBER_LIMIT: u128 = 100_000_000;

/// The detail of the refusal when a call's deadline passes before the upstream has responded.
pub(super) const NO_RESPONSE: &str = "the upstream did not answer within the call's deadline";

/// Returns the moment by which a gRPC client wants its answer, if the client names one.
pub(super) fn read(headers: &HeaderMap, dialect: Dialect) -> Option<Instant> {
    if dialect != Dialect::Grpc {
        return None;
    }
    Instant::now().checked_add(parse(headers.get(TIMEOUT)?.to_str().ok()?)?)
}

/// Tells a gRPC upstream how much time is left, because decrypting took some of the time that the client gave.
pub(super) fn write(headers: &mut HeaderMap, deadline: Option<Instant>, dialect: Dialect) {
    if let (Some(deadline), Dialect::Grpc) = (deadline, dialect) {
        let left = deadline.saturating_duration_since(Instant::now());
        headers.insert(TIMEOUT, format(left));
    }
}

/// Returns the output of `future`, or a refusal with the detail `late` when the deadline comes first. The future is
/// pinned by the caller: it is large, and should not be copied into the future of this function.
pub(super) async fn within<T>(
    deadline: Option<Instant>,
    late: &str,
    future: Pin<&mut impl Future<Output = Result<T, Refusal>>>,
) -> Result<T, Refusal> {
    let late = || Err(Refusal::new(Reason::DeadlineExceeded, late));
    match deadline {
        None => future.await,
        // `timeout_at` polls once even after the deadline, and that poll could send a request that nobody waits for.
        Some(deadline) if deadline <= Instant::now() => late(),
        Some(deadline) => timeout_at(deadline, future).await.unwrap_or_else(|_| late()),
    }
}

/// Reads one to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.get(..text.len() - unit.len_utf8())?;
    let number: u32 = digits
        .parse()
        .ok()
        .filter(|_| digits.len() <= 8 && !digits.starts_with('+'))?;
    let (_, unit) = UNITS.into_iter().find(|(letter, _)| *letter == unit)?;
    unit.checked_mul(number)
}

/// Writes a duration in the finest unit for which the number has at most eight digits.
fn format(left: Duration) -> HeaderValue {
    let fits = UNITS.into_iter().rev().find_map(|(letter, unit)| {
        let number = left.as_nanos() / unit.as_nanos();
        (number < NUMBER_LIMIT).then(|| format!("{number}{letter}"))
    });
    fits.and_then(|text| HeaderValue::from_str(&text).ok())
        .unwrap_or(HeaderValue::from_static("99999999H"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_and_written() {
        for (text, duration) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("15M", Some(Duration::from_secs(900))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("1u", Some(Duration::from_micros(1))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("+1S", None),
            ("-1S", None),
            ("100000000S", None),
            ("1é", None),
        ] {
            assert_eq!(parse(text), duration, "{text}");
        }
        for (duration, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_millis(99), "99000000n"),
            (Duration::from_millis(250), "250000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::from_secs(99_999_999), "99999999S"),
        ] {
            assert_eq!(format(duration), text);
        }
    }
}
