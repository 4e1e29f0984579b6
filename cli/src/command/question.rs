//! Questions at the terminal that are answered with yes or no.

use std::io::{self, IsTerminal as _, Write as _};

use crate::failure::{Failure, FailureKind};

/// Asks a question. Fails without a terminal, and then names `action`, which has to be confirmed.
pub(super) fn ask(action: &str, question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let message = format!("{action} has to be confirmed, and there is no terminal to ask on");
        return Err(Failure::new(FailureKind::Usage, message).hint("give --yes"));
    }
    let ask = || {
        write!(io::stderr(), "{question} [y/N] ")?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    };
    ask().map_err(|error: io::Error| Failure::new(FailureKind::File, format_args!("the terminal: {error}")))
}
