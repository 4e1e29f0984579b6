use super::error::Fault;
use super::lexer::{Landmark, Lexer};
use super::name::{self, LONGEST_SPELLING};

/// The inside of the top-level object: passes its members on, without those that are called like ours.
///
/// Commas and whitespace go out as they come. What goes with a removed member is everything from its
/// name up to and including its comma or, if it is the last, up to the closing brace; so the comma that
/// stood before it is left for the member that follows, which may be ours.
#[derive(Default)]
pub(super) struct Members {
    lexer: Lexer,
    fate: Fate,
    /// The name, as far as it came, while it may turn out to be ours; at most [`LONGEST_NAME`] bytes.
    name: Vec<u8>,
    /// The last member that was passed on has no comma after it yet.
    needs_comma: bool,
}

/// What is longer is not ours. With the quotes.
const LONGEST_NAME: usize = LONGEST_SPELLING + 2;

/// What happens to the bytes at hand.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Fate {
    #[default]
    Kept,
    /// In a name that may turn out to be ours.
    Undecided,
    Removed,
}

/// The object has ended; its brace is the last byte taken, and was not passed on.
pub(super) struct Closed {
    pub(super) taken: usize,
    pub(super) needs_comma: bool,
}

impl Members {
    /// `None` as long as the object goes on.
    pub(super) fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<Option<Closed>, Fault> {
        let (mut settled, mut taken) = (0, 0);
        loop {
            let step = self
                .lexer
                .advance(between(chunk, taken, chunk.len()))
                .map_err(|fault| fault.after(taken))?;
            taken += step.taken;
            // `"` and `}` are a landmark's only byte, so it begins right here.
            let landmark_at = taken.saturating_sub(1);
            match step.landmark {
                Some(Landmark::NameOpens) => {
                    self.settle(between(chunk, settled, landmark_at), out);
                    self.fate = Fate::Undecided;
                    settled = landmark_at;
                }
                Some(Landmark::NameCloses) => {
                    self.settle(between(chunk, settled, taken), out);
                    self.decide(out);
                    settled = taken;
                }
                Some(Landmark::Comma) if self.fate == Fate::Removed => {
                    self.fate = Fate::Kept;
                    settled = taken;
                }
                Some(Landmark::Comma) => self.needs_comma = false,
                Some(Landmark::ObjectCloses) => {
                    self.settle(between(chunk, settled, landmark_at), out);
                    return Ok(Some(Closed {
                        taken,
                        needs_comma: self.needs_comma,
                    }));
                }
                None => {
                    self.settle(between(chunk, settled, taken), out);
                    return Ok(None);
                }
            }
        }
    }

    fn settle(&mut self, run: &[u8], out: &mut Vec<u8>) {
        match self.fate {
            Fate::Kept => out.extend_from_slice(run),
            Fate::Undecided if self.name.len() + run.len() <= LONGEST_NAME => {
                self.name.extend_from_slice(run)
            }
            Fate::Undecided => {
                out.append(&mut self.name);
                out.extend_from_slice(run);
                self.fate = Fate::Kept;
            }
            Fate::Removed => {}
        }
    }

    /// The name is whole: in `self.name`, or passed on already because it is too long.
    fn decide(&mut self, out: &mut Vec<u8>) {
        if matches!(self.name.as_slice(), [b'"', name @ .., b'"'] if name::is_ours(name)) {
            self.name.clear();
            self.fate = Fate::Removed;
        } else {
            out.append(&mut self.name);
            self.fate = Fate::Kept;
            self.needs_comma = true;
        }
    }
}

fn between(chunk: &[u8], from: usize, to: usize) -> &[u8] {
    chunk.get(from..to).unwrap_or_default()
}
