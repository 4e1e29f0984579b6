//! Reads the OpenMetrics and Prometheus text formats, as far as samples go: names, labels and values.
//!
//! The crates for it (`prometheus-parse`, `openmetrics-parser`) bring a regular expression engine or a parser generator, and
//! keep every family of a page in memory. The console needs a few families of a page that may have a hundred thousand lines.

use std::borrow::Cow;

/// One line of a page.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'p> {
    pub(super) name: &'p str,
    labels: Vec<(&'p str, Cow<'p, str>)>,
    pub(super) value: f64,
}

impl Sample<'_> {
    /// Returns the value of a label, and an empty text without the label: the formats do not tell one from the other.
    pub(super) fn label(&self, name: &str) -> &str {
        let label = self.labels.iter().find(|(given, _)| *given == name);
        label.map_or("", |(_, value)| value)
    }

    /// Returns the value of a counter.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, and a counter is a whole number that is not negative"
    )]
    pub(super) fn count(&self) -> u64 {
        self.value as u64
    }
}

/// Returns the samples whose names begin with `prefix`. A line that cannot be read is left out.
pub(super) fn samples<'p>(page: &'p str, prefix: &'p str) -> impl Iterator<Item = Sample<'p>> {
    let lines = page.lines().filter(move |line| line.starts_with(prefix));
    lines.filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, rest) = line.split_at(line.find(['{', ' ', '\t'])?);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A time and an exemplar may follow the value.
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

type Labels<'p> = Vec<(&'p str, Cow<'p, str>)>;

/// Reads labels up to the closing brace, and returns the text behind it.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, behind) = rest.split_once('=')?;
        let (value, behind) = quoted(behind.trim_start())?;
        labels.push((name.trim_end(), value));
        rest = behind;
    }
}

/// Reads a text in quotes, and returns the text behind it.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let text = text.strip_prefix('"')?;
    let mut is_escaped = false;
    let end = text.find(|letter| {
        let ends = letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        ends
    })?;
    let (value, behind) = (text.get(..end)?, text.get(end + 1..)?);
    Some((unescaped(value), behind))
}

fn unescaped(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return value.into();
    }
    let (mut plain, mut letters) = (String::new(), value.chars());
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, true) => match letters.next() {
                Some('n') => plain.push('\n'),
                Some(escaped) => plain.push(escaped),
                None => {}
            },
            (letter, false) => plain.push(letter),
        }
    }
    plain.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn samples_have_names_labels_and_values() {
        let page = "# TYPE calls counter\n\
                    calls_total{workspace=\"dev\",server=\"api\"} 17\n\
                    calls_created{} 1.5\n\
                    calls_seconds_bucket{le=\"+Inf\"} 3 1700000000 # {trace=\"x\"} 0.5\n\
                    up 1\n\
                    # EOF\n";
        let found: Vec<_> = samples(page, "calls").collect();
        let shown: Vec<_> = found
            .iter()
            .map(|sample| (sample.name, sample.label("server"), sample.value))
            .collect();
        assert_eq!(
            shown,
            [
                ("calls_total", "api", 17.0),
                ("calls_created", "", 1.5),
                ("calls_seconds_bucket", "", 3.0)
            ]
        );
        assert_eq!(found.first().unwrap().count(), 17);
        assert_eq!(samples(page, "up").next().unwrap().value, 1.0);
    }

    #[test]
    fn label_values_may_contain_everything() {
        let line = r#"m{a="x,y}=\"z\" \\",b="1\n2" , c=""} 1"#;
        let sample = samples(line, "m").next().unwrap();
        assert_eq!(
            (sample.label("a"), sample.label("b"), sample.label("c")),
            ("x,y}=\"z\" \\", "1\n2", "")
        );
    }

    #[test]
    fn lines_that_are_no_samples_are_left_out() {
        for line in [
            "m",
            "m{",
            "m{a",
            "m{a=",
            "m{a=\"",
            "m{a=\"\\\"} 1",
            "m{a=\"b\"}",
            "m x",
            "m{a=b} 1",
            "",
        ] {
            assert_eq!(samples(line, "").next(), None, "{line}");
        }
        let infinite = samples("m -1", "m").next().unwrap();
        assert_eq!(infinite.count(), 0);
    }
}
