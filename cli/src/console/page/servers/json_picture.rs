//! The members of a JSON body into which secrets go, drawn as one object.

use super::span::Span;

/// An object that is being drawn, with its members in the order of the injections.
#[derive(Default)]
pub(super) struct JsonPicture(Vec<(String, Member)>);

enum Member {
    Object(JsonPicture),
    Value(Vec<Span>),
}

impl JsonPicture {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts a value at a JSON Pointer (RFC 6901).
    pub(super) fn put(&mut self, pointer: &str, value: Vec<Span>) {
        let tokens = pointer.trim_start_matches('/').split('/');
        let tokens: Vec<_> = tokens
            .map(|token| token.replace("~1", "/").replace("~0", "~"))
            .collect();
        self.put_at(&tokens, value);
    }

    fn put_at(&mut self, tokens: &[String], value: Vec<Span>) {
        match tokens {
            [] => {}
            [last] => self.0.push((last.clone(), Member::Value(value))),
            [first, rest @ ..] => self.object(first).put_at(rest, value),
        }
    }

    /// Returns the object of a member, which it makes.
    fn object(&mut self, name: &str) -> &mut Self {
        let is_object =
            |(known, member): &(String, Member)| known == name && matches!(member, Member::Object(_));
        let index = self.0.iter().position(is_object).unwrap_or_else(|| {
            self.0.push((name.to_owned(), Member::Object(Self::default())));
            self.0.len() - 1
        });
        match self.0.get_mut(index) {
            Some((_, Member::Object(object))) => object,
            _ => unreachable!("the member at this index is an object"),
        }
    }

    /// Returns the lines of the whole body, with the program's own members.
    pub(super) fn lines(self) -> Vec<Vec<Span>> {
        let mut lines = vec![
            vec![Span::text("{")],
            vec![Span::quiet("  …the program's members")],
        ];
        self.members(1, &mut lines);
        lines.push(vec![Span::text("}")]);
        lines
    }

    fn members(self, depth: usize, lines: &mut Vec<Vec<Span>>) {
        let indent = "  ".repeat(depth);
        let last = self.0.len().saturating_sub(1);
        for (index, (name, member)) in self.0.into_iter().enumerate() {
            let comma = if index < last { "," } else { "" };
            let name = format!("{indent}{}: ", serde_json::Value::from(name));
            match member {
                Member::Value(value) => {
                    let value = [
                        vec![Span::text(format!("{name}\""))],
                        value,
                        vec![Span::text(format!("\"{comma}"))],
                    ];
                    lines.push(value.concat());
                }
                Member::Object(object) => {
                    lines.push(vec![Span::text(format!("{name}{{"))]);
                    object.members(depth + 1, lines);
                    lines.push(vec![Span::text(format!("{indent}}}{comma}"))]);
                }
            }
        }
    }
}
