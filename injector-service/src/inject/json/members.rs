use super::error::SliceError;
use super::lexer::{Lexer, MemberEvent};
use super::name::{self, LONGEST_SPELLING};

/// Copies the members of the top-level object, and removes those with the name `secrets`.
///
/// Commas and whitespace pass unchanged. A member is removed from its name up to and including the comma after it, or
/// up to the closing brace if it is the last member. The comma before a removed member therefore stays, for the next
/// member or for the injected member.
#[derive(Default)]
pub(super) struct MemberFilter {
    lexer: Lexer,
    action: MemberAction,
    /// The beginning of a name that may be `secrets`: at most [`LONGEST_NAME`] bytes.
    name: Vec<u8>,
    /// True when the last copied member has no comma after it.
    needs_comma: bool,
}

/// The longest spelling of `secrets`, with the quotes.
const LONGEST_NAME: usize = LONGEST_SPELLING + 2;

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum MemberAction {
    #[default]
    Copy,
    Undecided,
    Remove,
}

/// The end of the object. The last consumed byte is the closing brace, which was not copied.
pub(super) struct ObjectEnd {
    pub(super) consumed: usize,
    pub(super) needs_comma: bool,
}

impl MemberFilter {
    /// Appends the copied part of `chunk` to `out`. Returns `None` when the object continues after `chunk`.
    pub(super) fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<Option<ObjectEnd>, SliceError> {
        let (mut done, mut consumed) = (0, 0);
        loop {
            let step = self
                .lexer
                .advance(between(chunk, consumed, chunk.len()))
                .map_err(|error| error.after(consumed))?;
            consumed += step.consumed;
            let end = match step.event {
                // `"` and `}` are single bytes, so the event begins one byte before.
                Some(MemberEvent::NameStart | MemberEvent::ObjectEnd) => consumed.saturating_sub(1),
                Some(MemberEvent::NameEnd | MemberEvent::Comma) | None => consumed,
            };
            self.apply_action(between(chunk, done, end), out);
            done = end;
            match step.event {
                Some(MemberEvent::NameStart) => self.action = MemberAction::Undecided,
                Some(MemberEvent::NameEnd) => self.decide(out),
                Some(MemberEvent::Comma) if self.action == MemberAction::Remove => {
                    self.action = MemberAction::Copy;
                }
                Some(MemberEvent::Comma) => self.needs_comma = false,
                Some(MemberEvent::ObjectEnd) => {
                    return Ok(Some(ObjectEnd {
                        consumed,
                        needs_comma: self.needs_comma,
                    }));
                }
                None => return Ok(None),
            }
        }
    }

    fn apply_action(&mut self, run: &[u8], out: &mut Vec<u8>) {
        match self.action {
            MemberAction::Copy => out.extend_from_slice(run),
            MemberAction::Undecided if self.name.len() + run.len() <= LONGEST_NAME => {
                self.name.extend_from_slice(run)
            }
            MemberAction::Undecided => {
                out.append(&mut self.name);
                out.extend_from_slice(run);
                self.action = MemberAction::Copy;
            }
            MemberAction::Remove => {}
        }
    }

    /// Decides about the member whose name has ended. The name is in `self.name`, or was copied because it is too long.
    fn decide(&mut self, out: &mut Vec<u8>) {
        if matches!(self.name.as_slice(), [b'"', name @ .., b'"'] if name::is_secrets(name)) {
            self.name.clear();
            self.action = MemberAction::Remove;
        } else {
            out.append(&mut self.name);
            self.action = MemberAction::Copy;
            self.needs_comma = true;
        }
    }
}

fn between(chunk: &[u8], from: usize, to: usize) -> &[u8] {
    chunk.get(from..to).unwrap_or_default()
}
