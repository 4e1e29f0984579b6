//! JSON with a line for each member. No byte besides white space between tokens changes, and members keep their order.

use serde::de::IgnoredAny;

/// The deepest indentation. Deeper levels stay in one column.
const MAX_INDENT: usize = 16;
/// The longest text in bytes that gets lines. Each byte may become a line with the deepest indentation.
const MAX_TEXT: usize = 64 * 1024;

/// Returns a JSON text in lines, and `None` for a text that is no JSON, is too long, or has lines already.
pub(super) fn indented(text: &str) -> Option<String> {
    let text = text.trim();
    let is_compact = text.len() <= MAX_TEXT && text.starts_with(['{', '[']) && !text.contains('\n');
    if !is_compact || serde_json::from_str::<IgnoredAny>(text).is_err() {
        return None;
    }
    let mut lines = Lines::default();
    let mut letters = text.chars().peekable();
    let mut before = ' ';
    while let Some(letter) = letters.next() {
        match letter {
            _ if lines.is_in_string => lines.string(letter),
            ' ' | '\t' | '\r' => continue,
            '{' | '[' => {
                lines.text.push(letter);
                lines.depth += 1;
                // An empty object or array stays in one line.
                while letters.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                if !matches!(letters.peek(), Some('}' | ']')) {
                    lines.end();
                }
            }
            '}' | ']' => {
                lines.depth = lines.depth.saturating_sub(1);
                if !matches!(before, '{' | '[') {
                    lines.end();
                }
                lines.text.push(letter);
            }
            ',' => {
                lines.text.push(letter);
                lines.end();
            }
            ':' => lines.text.push_str(": "),
            _ => {
                lines.is_in_string = letter == '"';
                lines.text.push(letter);
            }
        }
        before = letter;
    }
    Some(lines.text)
}

#[derive(Default)]
struct Lines {
    text: String,
    depth: usize,
    is_in_string: bool,
    /// True after a backslash in a string.
    is_escaped: bool,
}

impl Lines {
    fn string(&mut self, letter: char) {
        self.text.push(letter);
        match letter {
            _ if self.is_escaped => self.is_escaped = false,
            '\\' => self.is_escaped = true,
            '"' => self.is_in_string = false,
            _ => {}
        }
    }

    fn end(&mut self) {
        self.text.push('\n');
        self.text.push_str(&"  ".repeat(self.depth.min(MAX_INDENT)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_json_gets_lines_and_keeps_its_order() {
        let text = r#"{"b":[1,{"x":"a,{\"}:"}],"a":{ },"c":[],"d": null}"#;
        let expected = concat!(
            "{\n  \"b\": [\n    1,\n    {\n      \"x\": \"a,{\\\"}:\"\n    }\n  ],\n",
            "  \"a\": {},\n  \"c\": [],\n  \"d\": null\n}"
        );
        assert_eq!(indented(text).as_deref(), Some(expected));
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in ["", "text", "{", "{\"a\":1}\n{\"a\":2}", "{\n  \"a\": 1\n}", "1"] {
            assert_eq!(indented(text), None, "{text}");
        }
        assert_eq!(indented(&format!("[\"{}\"]", "x".repeat(MAX_TEXT))), None);
    }

    #[test]
    fn deep_nesting_stays_small() {
        let half = MAX_TEXT / 2;
        let deep = format!("{}{}", "[".repeat(half), "]".repeat(half));
        assert!(indented(&deep).is_none_or(|text| text.len() < 3 * 1024 * 1024));
    }
}
