//! The members that go into one JSON body.

use std::sync::Arc;

use super::encode::{JsonString, write_string};
use crate::json_pointer::{JsonPointer, MemberName};

/// The members at several pointers, as the tree of objects that lead to them. A member without a value is removed from
/// the body and not put in.
pub struct JsonMembers(Vec<Member>);

pub(super) struct Member {
    pub(super) name: Arc<MemberName>,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// The member is ours.
    Value(Option<JsonString>),
    /// The member is an object of the program, in which some members are ours.
    Object(Vec<Member>),
}

/// Two of the pointers conflict ([`JsonPointer::conflicts`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("two JSON pointers lead to the same place")]
pub struct ConflictingPointers;

impl JsonMembers {
    pub fn new<'p>(
        values: impl IntoIterator<Item = (&'p JsonPointer, Option<JsonString>)>,
    ) -> Result<Self, ConflictingPointers> {
        let mut members = Vec::new();
        for (pointer, value) in values {
            add(&mut members, pointer.names(), value)?;
        }
        Ok(Self(members))
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.0
    }
}

fn add(
    members: &mut Vec<Member>,
    names: &[Arc<MemberName>],
    value: Option<JsonString>,
) -> Result<(), ConflictingPointers> {
    // A pointer has at least one name, and a pointer that leads into a `Content::Value` is refused below.
    let (name, inner) = names.split_first().ok_or(ConflictingPointers)?;
    let found = members
        .iter_mut()
        .find(|member| member.name.folded == name.folded);
    let Some(Member { name: first, content }) = found else {
        members.push(Member {
            name: name.clone(),
            content: content_of(inner, value)?,
        });
        return Ok(());
    };
    match content {
        Content::Object(members) if first.text == name.text => add(members, inner, value),
        Content::Object(_) | Content::Value(_) => Err(ConflictingPointers),
    }
}

fn content_of(inner: &[Arc<MemberName>], value: Option<JsonString>) -> Result<Content, ConflictingPointers> {
    if inner.is_empty() {
        return Ok(Content::Value(value));
    }
    let mut members = Vec::new();
    add(&mut members, inner, value)?;
    Ok(Content::Object(members))
}

impl Member {
    /// Returns true when something of this member is put into the body.
    pub(super) fn has_value(&self) -> bool {
        match &self.content {
            Content::Value(value) => value.is_some(),
            Content::Object(members) => members.iter().any(Self::has_value),
        }
    }

    /// Writes the member, with its name. An object that has no value is written as `{}`.
    pub(super) fn write(&self, sink: &mut impl FnMut(&[u8])) {
        write_string(&self.name.text, sink);
        sink(b":");
        match &self.content {
            Content::Value(value) => sink(value.as_ref().map_or(b"null", JsonString::expose)),
            Content::Object(members) => {
                sink(b"{");
                write_members(members.iter().filter(|member| member.has_value()), sink);
                sink(b"}");
            }
        }
    }
}

/// Writes `members`, separated by commas.
pub(super) fn write_members<'m>(members: impl Iterator<Item = &'m Member>, sink: &mut impl FnMut(&[u8])) {
    for (index, member) in members.enumerate() {
        if index > 0 {
            sink(b",");
        }
        member.write(sink);
    }
}
