//! Values of secrets on their way from the command line, a file, standard input or the terminal to the vault.

mod edits;
pub(crate) mod env_file;
pub(crate) mod import;
mod prompt;
mod source;

pub(crate) use self::{
    edits::{Edits, flags_for_header},
    source::{ValueSource, read_text, to_wire},
};
