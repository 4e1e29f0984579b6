//! Finds the members of a JSON body that the pointers lead to.

use std::ops::Range;

use super::{
    error::{InsertError, JsonCause, JsonError, MAX_FOUND, SliceError},
    lexer::{Lexer, MemberEvent, whitespace_run},
    tree::{Content, Member},
};
use crate::json_pointer::fold;

/// An object that a pointer leads through, or the whole body.
pub(super) struct FoundObject<'m> {
    /// The members of this object that are ours or lead to ours.
    pub(super) members: &'m [Member],
    pub(super) within: Option<Within>,
    /// Position of the closing brace.
    pub(super) end: usize,
    pub(super) last_comma: LastComma,
}

/// The place of an object in the object around it.
#[derive(Clone, Copy)]
pub(super) struct Within {
    /// The number of the object around it, among the found objects.
    pub(super) object: usize,
    /// The index of its member among that object's `members`.
    pub(super) member: usize,
    /// True when the object has exactly the member's name, and not only one that is equal without regard to case.
    pub(super) is_exact: bool,
}

/// The comma after the last member of an object that stays.
#[derive(Clone, Copy)]
pub(super) enum LastComma {
    /// No member stays, so a comma is not needed.
    NotNeeded,
    Missing,
    At(usize),
}

/// The parts of a body that change.
pub(super) struct Found<'m> {
    /// The whole body is the first one.
    pub(super) objects: Vec<FoundObject<'m>>,
    /// The members that are removed, each with the comma after it or up to the closing brace.
    pub(super) removed: Vec<Range<usize>>,
}

/// Searches `body`, which must be one JSON object, in one pass.
pub(super) fn find<'m>(body: &[u8], members: &'m [Member]) -> Result<Found<'m>, InsertError> {
    let mut finder = Finder {
        body,
        lexer: Lexer::default(),
        at: 0,
        found: Found {
            objects: Vec::new(),
            removed: Vec::new(),
        },
        open: Vec::new(),
        misfit: None,
    };
    finder.open(members, None)?;
    while !finder.open.is_empty() {
        finder.step()?;
    }
    finder.check_rest()?;
    match finder.misfit {
        None => Ok(finder.found),
        Some(member) => Err(InsertError::NotAnObject {
            pointer: member.name.pointer.clone(),
        }),
    }
}

struct Finder<'b, 'm> {
    body: &'b [u8],
    lexer: Lexer,
    at: usize,
    found: Found<'m>,
    /// The objects that contain the position `at`, from the outermost one to the innermost one.
    open: Vec<OpenObject>,
    /// The first member on the way of a pointer that is no object. Reported when the whole body is valid JSON.
    misfit: Option<&'m Member>,
}

struct OpenObject {
    number: usize,
    /// Position of the name of the current member.
    name_start: usize,
    is_removed: bool,
}

impl<'m> Finder<'_, 'm> {
    /// Advances to the next event in the innermost open object.
    fn step(&mut self) -> Result<(), InsertError> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let step = self.lexer.advance(rest).map_err(|error| self.invalid(error))?;
        self.at += step.consumed;
        let event = step
            .event
            .ok_or_else(|| self.error(self.at, JsonCause::Truncated))?;
        // The loop in `find` ends with the last open object.
        let Some(object) = self.open.last_mut() else {
            return Ok(());
        };
        match event {
            MemberEvent::NameStart => object.name_start = self.at - 1,
            MemberEvent::NameEnd => self.end_name()?,
            MemberEvent::Comma if object.is_removed => {
                object.is_removed = false;
                let start = object.name_start;
                self.remove(start..self.at)?;
            }
            MemberEvent::Comma => self.set_last_comma(LastComma::At(self.at - 1)),
            MemberEvent::ObjectEnd => self.close()?,
        }
        Ok(())
    }

    /// Decides about the member whose name has ended.
    fn end_name(&mut self) -> Result<(), InsertError> {
        let Some(OpenObject {
            number,
            name_start,
            is_removed,
        }) = self.open.last_mut()
        else {
            return Ok(());
        };
        let Some(object) = self.found.objects.get_mut(*number) else {
            return Ok(());
        };
        let name = self.body.get(*name_start + 1..self.at - 1).unwrap_or_default();
        let mut members = object.members.iter().enumerate();
        let Some((index, member)) = members.find(|(_, member)| member.name.folded.equals_spelled(name))
        else {
            object.last_comma = LastComma::Missing;
            return Ok(());
        };
        match &member.content {
            Content::Value(_) => *is_removed = true,
            Content::Object(members) => {
                object.last_comma = LastComma::Missing;
                let within = Within {
                    object: *number,
                    member: index,
                    is_exact: fold::is_exactly(name, &member.name.text),
                };
                if self.is_object_next() {
                    self.lexer.watch_inner();
                    self.open(members, Some(within))?;
                } else {
                    self.misfit.get_or_insert(member);
                }
            }
        }
        Ok(())
    }

    /// Returns true when the value of the member whose name has ended begins like an object. The lexer checks it later.
    fn is_object_next(&self) -> bool {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let colon = rest.get(whitespace_run(rest)..).unwrap_or_default();
        let value = colon.strip_prefix(b":").unwrap_or_default();
        value.get(whitespace_run(value)) == Some(&b'{')
    }

    fn open(&mut self, members: &'m [Member], within: Option<Within>) -> Result<(), InsertError> {
        if self.found.objects.len() == MAX_FOUND {
            return Err(InsertError::TooManyFound);
        }
        self.open.push(OpenObject {
            number: self.found.objects.len(),
            name_start: 0,
            is_removed: false,
        });
        self.found.objects.push(FoundObject {
            members,
            within,
            end: 0,
            last_comma: LastComma::NotNeeded,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), InsertError> {
        let Some(object) = self.open.pop() else {
            return Ok(());
        };
        self.lexer.watch_outer();
        let end = self.at - 1;
        if let Some(found) = self.found.objects.get_mut(object.number) {
            found.end = end;
        }
        if object.is_removed {
            self.remove(object.name_start..end)?;
        }
        Ok(())
    }

    fn set_last_comma(&mut self, comma: LastComma) {
        let number = self.open.last().map(|object| object.number);
        if let Some(object) = number.and_then(|number| self.found.objects.get_mut(number)) {
            object.last_comma = comma;
        }
    }

    fn remove(&mut self, range: Range<usize>) -> Result<(), InsertError> {
        if self.found.removed.len() == MAX_FOUND {
            return Err(InsertError::TooManyFound);
        }
        self.found.removed.push(range);
        Ok(())
    }

    /// Checks that only whitespace follows the object.
    fn check_rest(&self) -> Result<(), InsertError> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        match whitespace_run(rest) {
            blank if blank == rest.len() => Ok(()),
            blank => Err(self.error(self.at + blank, JsonCause::TrailingData)),
        }
    }

    fn invalid(&self, error: SliceError) -> InsertError {
        self.error(self.at + error.at, error.cause)
    }

    fn error(&self, at: usize, cause: JsonCause) -> InsertError {
        InsertError::Json(JsonError {
            offset: at as u64,
            cause,
        })
    }
}
