//! The figures of the page, as text.

use std::time::Duration;

use crate::console::{activity::Counts, view::grouped};

/// Returns a number with a comma between groups of three digits.
pub(super) fn number(number: u64) -> String {
    grouped(usize::try_from(number).unwrap_or(usize::MAX))
}

/// Returns a number that is not negative as a whole one.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates"
)]
pub(super) fn rounded(value: f64) -> String {
    number(value.round() as u64)
}

/// Returns the duration that a share of the calls did not exceed.
pub(super) fn quantile(counts: &Counts, quantile: f64) -> String {
    counts
        .seconds
        .quantile(quantile)
        .map_or_else(|| "–".to_owned(), duration)
}

/// Returns a duration with two digits that matter.
pub(super) fn duration(seconds: f64) -> String {
    let ms = seconds * 1e3;
    match ms {
        ..0.1 => format!("{:.0} µs", ms * 1e3),
        ..10.0 => format!("{ms:.1} ms"),
        ..1_000.0 => format!("{ms:.0} ms"),
        _ => format!("{seconds:.1} s"),
    }
}

/// Returns how long ago something was, in minutes.
pub(super) fn ago(distance: Duration) -> String {
    match distance.as_secs() / 60 {
        0 => "just now".to_owned(),
        minutes => format!("{minutes} min ago"),
    }
}

/// Returns the time that the figures cover.
pub(super) fn span(covered: Duration) -> String {
    match covered.as_secs() {
        0 => "since this page is live".to_owned(),
        seconds @ 1..120 => format!("last {seconds} seconds"),
        seconds => format!("last {} minutes", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_cover_no_time_yet_say_so() {
        assert_eq!(span(Duration::ZERO), "since this page is live");
        assert_eq!(span(Duration::from_secs(2)), "last 2 seconds");
        assert_eq!(span(Duration::from_secs(120)), "last 2 minutes");
    }

    #[test]
    fn durations_have_a_unit_that_fits() {
        for (seconds, text) in [
            (0.000_025, "25 µs"),
            (0.001_24, "1.2 ms"),
            (0.012_4, "12 ms"),
            (1.25, "1.2 s"),
            (30.0, "30.0 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
