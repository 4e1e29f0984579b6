//! Text and times.

use jiff::tz::TimeZone;
use maud::{Markup, html};
use prost_types::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// An expiry that is nearer than this is marked.
const SOON: i64 = 14 * DAY;
/// Times that are further away are shown as dates.
const FAR: i64 = 45 * DAY;

/// Returns the present time in seconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Returns text with the parts between backticks as code.
pub(crate) fn prose(text: &str) -> Markup {
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// Returns a message as a sentence: with a capital letter and a full stop.
pub(crate) fn sentence(message: &str) -> String {
    let message = ["the vault: ", "the injector: "]
        .iter()
        .find_map(|service| message.strip_prefix(service))
        .unwrap_or(message);
    let mut letters = message.chars();
    let mut sentence: String = letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default();
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

/// Returns a number with its noun, whose plural has an `s`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{} {noun}s", grouped(number)),
    }
}

/// Returns a number with a comma between groups of three digits.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn zoned(seconds: i64) -> Option<jiff::Zoned> {
    let time = jiff::Timestamp::from_second(seconds).ok()?;
    Some(time.to_zoned(TimeZone::UTC))
}

/// Returns the date of a time, in UTC.
pub(crate) fn day_of(seconds: i64) -> String {
    zoned(seconds).map_or_else(String::new, |time| time.strftime("%Y-%m-%d").to_string())
}

fn in_full(seconds: i64) -> String {
    zoned(seconds).map_or_else(String::new, |time| {
        time.strftime("%Y-%m-%d %H:%M UTC").to_string()
    })
}

/// Returns the time of the day, in UTC.
pub(crate) fn time_of_day(seconds: i64) -> String {
    zoned(seconds).map_or_else(String::new, |time| time.strftime("%H:%M UTC").to_string())
}

/// Returns a time as programs read it, for the attribute `datetime`.
fn rfc3339(seconds: i64) -> String {
    zoned(seconds).map_or_else(String::new, |time| time.strftime("%Y-%m-%dT%H:%MZ").to_string())
}

/// Returns a time as `shown`, and below it in full: nobody can see a tooltip on a touch screen.
pub(crate) fn with_full_time(shown: &Markup, time: Option<&Timestamp>) -> Markup {
    html! {
        (shown)
        @if let Some(Timestamp { seconds, nanos: _ }) = time { small { (in_full(*seconds)) } }
    }
}

/// Returns a time as a date, with the time of day in a tooltip.
pub(crate) fn date(time: Option<&Timestamp>) -> Markup {
    html! {
        @if let Some(Timestamp { seconds, nanos: _ }) = time {
            time datetime=(rfc3339(*seconds)) title=(in_full(*seconds)) { (day_of(*seconds)) }
        }
    }
}

/// Returns a past time as its distance from now, with the exact time in a tooltip.
pub(crate) fn moment(time: Option<&Timestamp>, now: i64) -> Markup {
    html! {
        @if let Some(Timestamp { seconds, nanos: _ }) = time {
            time datetime=(rfc3339(*seconds)) title=(in_full(*seconds)) { (ago(now - seconds, *seconds)) }
        }
    }
}

fn ago(distance: i64, seconds: i64) -> String {
    match distance {
        ..MINUTE => "just now".to_owned(),
        MINUTE..HOUR => format!("{} ago", distance_in(distance, MINUTE, "minute")),
        HOUR..DAY => format!("{} ago", distance_in(distance, HOUR, "hour")),
        DAY..FAR => format!("{} ago", distance_in(distance, DAY, "day")),
        _ => day_of(seconds),
    }
}

fn distance_in(distance: i64, unit: i64, noun: &str) -> String {
    count(usize::try_from(distance / unit).unwrap_or_default(), noun)
}

/// Returns the time at which a value expires.
pub(crate) fn expiry(expires_at: Option<&Timestamp>, is_expired: bool, now: i64) -> Markup {
    let Some(Timestamp { seconds, nanos: _ }) = expires_at else {
        return html! { span.quiet { "never" } };
    };
    let left = seconds - now;
    html! {
        @if is_expired || left <= 0 {
            span.badge.bad title=(in_full(*seconds)) { "expired" }
        } @else if left < SOON {
            span.badge.warn title=(in_full(*seconds)) { (until(left)) }
        } @else {
            time datetime=(rfc3339(*seconds)) title=(in_full(*seconds)) { (day_of(*seconds)) }
        }
    }
}

/// Returns the distance to a time, rounded to the nearest unit.
fn until(left: i64) -> String {
    match left {
        ..HOUR => format!(
            "in {}",
            distance_in(left.max(MINUTE) + MINUTE / 2, MINUTE, "minute")
        ),
        HOUR..DAY => format!("in {}", distance_in(left + HOUR / 2, HOUR, "hour")),
        _ => format!("in {}", distance_in(left + DAY / 2, DAY, "day")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_sentences() {
        assert_eq!(
            sentence("the vault: there is no workspace w"),
            "There is no workspace w."
        );
        assert_eq!(sentence("Done."), "Done.");
        assert_eq!(sentence(""), ".");
    }

    #[test]
    fn code_is_marked_and_text_is_escaped() {
        assert_eq!(
            prose("run `a <b>` & go").into_string(),
            "run <code>a &lt;b&gt;</code> &amp; go"
        );
    }

    #[test]
    fn numbers_are_grouped_and_agree_with_their_noun() {
        assert_eq!(count(1, "secret"), "1 secret");
        assert_eq!(count(0, "secret"), "0 secrets");
        assert_eq!(count(12_345, "secret"), "12,345 secrets");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000_000), "1,000,000");
    }

    #[test]
    fn a_time_is_shown_to_people_and_to_programs() {
        let at = Timestamp {
            seconds: 1_795_464_000,
            nanos: 0,
        };
        let shown = with_full_time(&date(Some(&at)), Some(&at)).into_string();
        assert_eq!(
            shown,
            "<time datetime=\"2026-11-23T20:00Z\" title=\"2026-11-23 20:00 UTC\">2026-11-23</time>\
             <small>2026-11-23 20:00 UTC</small>"
        );
    }

    #[test]
    fn near_times_are_distances_and_far_times_are_dates() {
        let at = 1_795_464_000;
        for (distance, text) in [
            (-5, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (2 * HOUR, "2 hours ago"),
            (DAY, "1 day ago"),
            (FAR, "2026-11-23"),
        ] {
            assert_eq!(ago(distance, at), text);
        }
        assert_eq!(until(1), "in 1 minute");
        assert_eq!(until(3 * DAY + 1), "in 3 days");
        assert_eq!(until(3 * DAY - 1), "in 3 days");
    }
}
