//! The remedy of each refusal, from the tables of the documentation.

/// The tables of all reasons.
const REFUSALS: &str = include_str!("../../../../../docs/refusals.md");

/// Returns the remedy for a reason, without a full stop.
pub(super) fn remedy(reason: &str) -> Option<String> {
    let beginning = format!("| `{reason}` |");
    let row = REFUSALS.lines().find(|line| line.starts_with(&beginning))?;
    let cell = row.trim_end_matches([' ', '|']).rsplit(" | ").next()?;
    Some(without_links(cell))
}

/// Replaces each `[text](target)` by its text.
fn without_links(text: &str) -> String {
    let mut parts = text.split("](");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if let Some(open) = plain.rfind('[') {
            plain.remove(open);
        }
        plain.push_str(part.split_once(')').map_or(part, |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_that_of_the_documentation() {
        let remedy_of = |reason| remedy(reason).unwrap();
        assert!(remedy_of("SECRET_VALUE_NOT_PLACEABLE").starts_with("put the value again, with `--trim`"));
        assert_eq!(
            remedy_of("SERVER_NOT_FOUND"),
            "compare with `aerostack workspace server list WORKSPACE`; naming.md lists the ways to name a server"
        );
        assert_eq!(remedy("NO_SUCH_REASON"), None);
    }
}
