//! Puts members into a whole JSON body, at the places that pointers name.
//!
//! ```text
//! pointers  /params/_meta/token, /params/_meta/user
//! in        {"params": {"_meta": {"TOKEN":"spoofed", "progressToken":1}}, "id":1}
//! out       {"params": {"_meta": { "progressToken":1,"token":"ghp_…","user":"me"}}, "id":1}
//! ```
//!
//! Names are compared without regard to case ([`crate::json_pointer::fold`]), because some parsers do so, and of several members with
//! one name any may win. So every member that may be read as ours is removed, in every object that the pointer may lead
//! through. Ours goes into one object: among objects with equal names, into the last one that has exactly the pointer's
//! name, or else into the last one. No object is made where one with an equal name exists, so that no parser sees two
//! objects of ours. A member is written right before the closing brace, after any whitespace there. No other byte changes,
//! except a comma that would be left without a member after it.

use std::ops::Range;

use zeroize::Zeroizing;

use super::{
    error::InsertError,
    find::{Found, FoundObject, LastComma, find},
    tree::{Content, JsonMembers, Member, write_members},
};

/// Returns `body` with these members, in a buffer that was never moved.
pub fn insert_members(body: &[u8], members: &JsonMembers) -> Result<Zeroizing<Vec<u8>>, InsertError> {
    let Found { objects, removed } = find(body, members.members())?;
    let mut edits: Vec<_> = removed.into_iter().map(Edit::remove).collect();
    let mut insertions: Vec<_> = objects.iter().map(|_| Vec::new()).collect();
    place(&objects, 0, &mut insertions);
    edits.extend(
        objects
            .iter()
            .zip(insertions)
            .filter_map(|(object, members)| object.edit(members)),
    );
    edits.sort_by_key(|edit| edit.replaced.start);
    let mut len = 0;
    write(body, &edits, &mut |piece| len += piece.len());
    let mut out = Zeroizing::new(Vec::with_capacity(len));
    write(body, &edits, &mut |piece| out.extend_from_slice(piece));
    Ok(out)
}

/// A change of the body: a range that is removed, or a position at which members are inserted.
struct Edit<'m> {
    replaced: Range<usize>,
    has_comma: bool,
    members: Vec<&'m Member>,
}

impl Edit<'_> {
    fn remove(replaced: Range<usize>) -> Self {
        Self {
            replaced,
            has_comma: false,
            members: Vec::new(),
        }
    }
}

impl<'m> FoundObject<'m> {
    /// Returns the change at the end of the object, into which `members` go.
    fn edit(&self, members: Vec<&'m Member>) -> Option<Edit<'m>> {
        match (members.is_empty(), self.last_comma) {
            (true, LastComma::NotNeeded | LastComma::Missing) => None,
            (true, LastComma::At(comma)) => Some(Edit::remove(comma..comma + 1)),
            (false, comma) => Some(Edit {
                replaced: self.end..self.end,
                has_comma: matches!(comma, LastComma::Missing),
                members,
            }),
        }
    }
}

/// Decides for the members of the object with the number `number` which object they go into.
fn place<'m>(objects: &[FoundObject<'m>], number: usize, insertions: &mut [Vec<&'m Member>]) {
    let Some(object) = objects.get(number) else { return };
    for (index, member) in object.members.iter().enumerate() {
        let inner = match &member.content {
            Content::Value(_) => None,
            Content::Object(_) => existing(objects, number, index),
        };
        match (inner, insertions.get_mut(number)) {
            (Some(inner), _) => place(objects, inner, insertions),
            (None, Some(here)) if member.has_value() => here.push(member),
            (None, _) => {}
        }
    }
}

/// Returns the number of the object that member `index` of the object with the number `number` goes into.
fn existing(objects: &[FoundObject<'_>], number: usize, index: usize) -> Option<usize> {
    let candidates = objects.iter().enumerate().filter_map(|(candidate, object)| {
        let within = object.within?;
        (within.object == number && within.member == index).then_some((within.is_exact, candidate))
    });
    candidates.max().map(|(_, candidate)| candidate)
}

/// Writes the changed body to `sink`. [`insert_members`] uses this function to measure the body and then to write it.
fn write(body: &[u8], edits: &[Edit<'_>], sink: &mut impl FnMut(&[u8])) {
    let mut copied = 0;
    for edit in edits {
        sink(body.get(copied..edit.replaced.start).unwrap_or_default());
        if edit.has_comma {
            sink(b",");
        }
        write_members(edit.members.iter().copied(), sink);
        copied = edit.replaced.end;
    }
    sink(body.get(copied..).unwrap_or_default());
}
