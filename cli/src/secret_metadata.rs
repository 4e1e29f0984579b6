//! The metadata of a secret, as a person writes it: labels and expiries.

use jiff::{Span, tz::TimeZone};
use prost_types::Timestamp;

/// Splits `KEY=VALUE`. The vault checks the key and the value.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Parses a time such as `2027-01-31T00:00:00Z`.
pub(crate) fn time_at(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|_| "write a date, a time of day and a time zone, such as 2027-01-31T00:00:00Z".to_owned())
}

/// Parses a duration such as `90d`, `12h` or `1h30m`, and returns the time at which it will have passed from now.
pub(crate) fn time_in(text: &str) -> Result<Timestamp, String> {
    let wrong = |_| "write a number and its unit, such as 90d for 90 days, 12h or 1h30m".to_owned();
    let duration: Span = text.parse().map_err(wrong)?;
    // In UTC every day has 24 hours.
    let now = jiff::Timestamp::now().to_zoned(TimeZone::UTC);
    let then = now.checked_add(duration).map_err(wrong)?.timestamp();
    Ok(Timestamp {
        seconds: then.as_second(),
        nanos: 0,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_from_now() {
        for (text, seconds) in [
            ("90d", 90 * 86_400),
            ("12h", 43_200),
            ("1h30m", 5_400),
            ("1 week", 604_800),
        ] {
            let then = time_in(text).unwrap().seconds;
            let expected = jiff::Timestamp::now().as_second() + seconds;
            assert!((expected - 5..=expected).contains(&then), "{text}");
        }
        for text in ["", "90", "d", "soon", "99999999999999d"] {
            assert!(time_in(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_label_is_a_key_and_a_value() {
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(label("a/b=c"), pair("a/b", "c"));
        assert_eq!(label("a=b=c"), pair("a", "b=c"));
        assert_eq!(label("a="), pair("a", ""));
        assert!(label("a").is_err());
    }
}
