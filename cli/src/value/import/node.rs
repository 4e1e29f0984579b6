//! A document of JSON or YAML, with the number of the line of each part.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

pub(super) struct Node {
    /// Number of the line in which the node begins.
    pub(super) line: usize,
    pub(super) content: Content,
}

pub(super) enum Content {
    Text(Zeroizing<String>),
    /// The members in their order. A name may occur more than once.
    Map(Vec<(String, Node)>),
    List(Vec<Node>),
    Null,
    /// A number, `true` or `false`.
    Other,
}

/// A document that cannot be read.
#[derive(Debug)]
pub(super) struct SyntaxFault {
    pub(super) line: usize,
    pub(super) message: &'static str,
}

impl Node {
    /// Returns the member of a map.
    pub(super) fn member(&self, name: &str) -> Option<&Self> {
        match &self.content {
            Content::Map(members) => members
                .iter()
                .find(|(given, _)| given == name)
                .map(|(_, member)| member),
            Content::Text(_) | Content::List(_) | Content::Null | Content::Other => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::Map(_) | Content::List(_) | Content::Null | Content::Other => None,
        }
    }

    /// Returns the line of a member of a map whose name an earlier member has.
    pub(super) fn repeated_member(&self) -> Option<usize> {
        match &self.content {
            Content::Map(members) => {
                let mut names = BTreeSet::new();
                let repeated = members.iter().find(|(name, _)| !names.insert(name));
                repeated.map(|(_, member)| member.line)
            }
            Content::Text(_) | Content::List(_) | Content::Null | Content::Other => None,
        }
    }

    /// Takes a member out of a map.
    pub(super) fn take(&mut self, name: &str) -> Option<Self> {
        match &mut self.content {
            Content::Map(members) => {
                let index = members.iter().position(|(given, _)| given == name)?;
                Some(members.remove(index).1)
            }
            Content::Text(_) | Content::List(_) | Content::Null | Content::Other => None,
        }
    }
}
