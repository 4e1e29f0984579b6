//! JSON: one object, whose members are the secrets.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Error, value::RawValue};
use zeroize::Zeroizing;

use super::{
    file::{ImportEntry, ImportFile, ValueFault, bytes_of},
    format::Format,
    node::{Content, Node, SyntaxFault},
};

/// Deepest nesting of lists and objects.
const MAX_DEPTH: usize = 64;

pub(super) fn read(text: &str) -> ImportFile {
    let mut file = ImportFile::of(Format::Json);
    match node(text) {
        Ok(Node {
            line: _,
            content: Content::Map(members),
        }) => file.entries.extend(members.into_iter().map(entry)),
        Ok(Node { line, content: _ }) => file.fault(line, "it is not a JSON object"),
        Err(SyntaxFault { line, message }) => file.fault(line, message),
    }
    file
}

fn entry((given, member): (String, Node)) -> ImportEntry {
    let value = match &member.content {
        Content::Text(text) => Ok(bytes_of(text)),
        Content::Map(_) | Content::List(_) => Err(ValueFault::Nested),
        Content::Null | Content::Other => Err(ValueFault::NotText),
    };
    ImportEntry {
        line: member.line,
        given,
        value,
        has_variable: false,
    }
}

/// Reads a JSON document.
pub(super) fn node(text: &str) -> Result<Node, SyntaxFault> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| not_json(error.line()))?;
    Source::of(text).node(raw, 0)
}

/// The library's own message may quote a value.
fn not_json(line: usize) -> SyntaxFault {
    SyntaxFault {
        line,
        message: "it is not JSON",
    }
}

struct Source<'t> {
    text: &'t str,
    line_breaks: Vec<usize>,
}

impl<'t> Source<'t> {
    fn of(text: &'t str) -> Self {
        let bytes = text.bytes().enumerate();
        Self {
            text,
            line_breaks: bytes
                .filter(|(_, byte)| *byte == b'\n')
                .map(|(offset, _)| offset)
                .collect(),
        }
    }

    /// Returns the number of the line in which `part` begins, which is a part of the text.
    fn line_of(&self, part: &str) -> usize {
        let offset = part.as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        self.line_breaks
            .partition_point(|line_break| *line_break < offset)
            + 1
    }

    /// Converts a part of the text. serde_json bounds no nesting in a `RawValue`.
    fn node(&self, raw: &'t RawValue, depth: usize) -> Result<Node, SyntaxFault> {
        let raw = raw.get();
        let line = self.line_of(raw);
        if depth > MAX_DEPTH {
            return Err(SyntaxFault {
                line,
                message: "it is nested too deeply",
            });
        }
        let fault = |_: Error| not_json(line);
        let content = match raw.as_bytes().first() {
            Some(b'{') => {
                let Members(members) = serde_json::from_str(raw).map_err(fault)?;
                let nodes = members
                    .into_iter()
                    .map(|(name, member)| Ok((name, self.node(member, depth + 1)?)));
                Content::Map(nodes.collect::<Result<_, SyntaxFault>>()?)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(raw).map_err(fault)?;
                let nodes = items.into_iter().map(|item| self.node(item, depth + 1));
                Content::List(nodes.collect::<Result<_, SyntaxFault>>()?)
            }
            Some(b'"') => Content::Text(Zeroizing::new(serde_json::from_str(raw).map_err(fault)?)),
            Some(b'n') => Content::Null,
            _ => Content::Other,
        };
        Ok(Node { line, content })
    }
}

/// The members of an object in their order. A map of the standard library would keep only one of two with the same name.
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let member = map.next_value::<&RawValue>()?;
                    members.push((name, member));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}
