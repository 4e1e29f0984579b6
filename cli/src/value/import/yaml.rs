//! YAML documents.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Error, MergeKeyPolicy, Options, Spanned};
use zeroize::Zeroizing;

use super::node::{Content, Node, SyntaxFault};

/// Reads all documents of a text.
pub(super) fn nodes(text: &str) -> Result<Vec<Node>, SyntaxFault> {
    let documents: Vec<Spanned<Untyped>> =
        serde_saphyr::from_multiple_with_options(text, options(text.len())).map_err(|error| fault(&error))?;
    Ok(documents.into_iter().map(Node::of).collect())
}

/// Refuses everything that makes a text mean more than it shows: anchors, aliases, merge keys and tags.
fn options(size: usize) -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 10_000,
            max_depth: 64,
            flow_nesting_limit: 64,
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
            max_inclusion_depth: 0,
            // Without aliases, the size of the text bounds the numbers of events and nodes.
            max_events: size.saturating_add(16),
            max_nodes: size.saturating_add(16),
            max_buffered_comment_events: 10_000,
        },
        merge_keys: MergeKeyPolicy::Error,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn fault(error: &Error) -> SyntaxFault {
    let line = error
        .location()
        .map_or(1, |location| line_number(location.line()));
    // The error's own message may quote a value.
    let message = match error.without_snippet() {
        Error::DuplicateMappingKey { .. } => "a name occurs twice",
        Error::Budget { .. } | Error::UnknownAnchor { .. } | Error::MergeKeyNotAllowed { .. } => {
            "anchors, aliases, merge keys and deep nesting are not read"
        }
        Error::UnsupportedTag { .. } => "tags are not read",
        _ => "it is not YAML",
    };
    SyntaxFault { line, message }
}

fn line_number(line: u64) -> usize {
    usize::try_from(line).unwrap_or(usize::MAX)
}

enum Untyped {
    Text(Zeroizing<String>),
    Map(Vec<(String, Spanned<Self>)>),
    List(Vec<Spanned<Self>>),
    Null,
    Other,
}

impl Node {
    fn of(
        Spanned {
            value, referenced, ..
        }: Spanned<Untyped>,
    ) -> Self {
        let content = match value {
            Untyped::Text(text) => Content::Text(text),
            Untyped::Map(members) => Content::Map(
                members
                    .into_iter()
                    .map(|(name, member)| (name, Self::of(member)))
                    .collect(),
            ),
            Untyped::List(items) => Content::List(items.into_iter().map(Self::of).collect()),
            Untyped::Null => Content::Null,
            Untyped::Other => Content::Other,
        };
        Self {
            line: line_number(referenced.line()),
            content,
        }
    }
}

impl<'de> Deserialize<'de> for Untyped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UntypedVisitor)
    }
}

struct UntypedVisitor;

impl<'de> Visitor<'de> for UntypedVisitor {
    type Value = Untyped;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Untyped, E> {
        Ok(Untyped::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Untyped, E> {
        Ok(Untyped::Text(Zeroizing::new(text)))
    }

    fn visit_unit<E>(self) -> Result<Untyped, E> {
        Ok(Untyped::Null)
    }

    fn visit_none<E>(self) -> Result<Untyped, E> {
        Ok(Untyped::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Untyped, D::Error> {
        Untyped::deserialize(deserializer)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Untyped, E> {
        Ok(Untyped::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Untyped, E> {
        Ok(Untyped::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Untyped, E> {
        Ok(Untyped::Other)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Untyped, E> {
        Ok(Untyped::Other)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Untyped, E> {
        Ok(Untyped::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Untyped, E> {
        Ok(Untyped::Other)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Untyped, E> {
        Ok(Untyped::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Untyped, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Untyped::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Untyped, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Untyped::Map(members))
    }
}
