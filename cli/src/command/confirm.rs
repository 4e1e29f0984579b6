//! Questions at the terminal before something is destroyed.

use std::io::{self, IsTerminal as _, Write as _};

use crate::failure::{Failure, FailureKind};

/// Returns true when a person can answer a question.
pub(super) fn is_possible() -> bool {
    io::stdin().is_terminal()
}

/// Fails without a terminal, with `action` as the subject of the message.
pub(super) fn require_terminal(action: &str) -> Result<(), Failure> {
    if is_possible() {
        return Ok(());
    }
    let message = format!("{action} has to be confirmed, and there is no terminal to ask on");
    Err(Failure::new(FailureKind::Usage, message).hint("give --yes"))
}

/// Asks `question` at the terminal. Fails without a terminal, with `action` as the subject of the message.
pub(super) fn confirm(action: &str, question: &str) -> Result<bool, Failure> {
    require_terminal(action)?;
    let ask = || {
        write!(io::stderr(), "{question} [y/N] ")?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    };
    ask().map_err(|error: io::Error| Failure::new(FailureKind::File, format_args!("the terminal: {error}")))
}
