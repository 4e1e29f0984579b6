//! The words of the map for what happens to a call.

use crate::console::map::{Outcome, Refusal};

/// Returns the result for the table.
pub(super) fn text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Sent => "is sent",
        Outcome::LeftOut => "calls go out without it",
        Outcome::Refused(refusal) => match refusal {
            Refusal::Missing => "calls are refused: not in the vault",
            Refusal::Expired => "calls are refused: expired",
            Refusal::OtherOrigin => "calls are refused: bound to other origins",
            Refusal::NotVerified => "calls are refused: the server is not verified",
            Refusal::Unfit => "calls are refused: the value does not fit its place",
            Refusal::Unreadable => "calls are refused: the value cannot be decrypted",
        },
    }
}

/// Returns the class of the line, its mark and its badge.
pub(super) fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Sent => "sent",
        Outcome::LeftOut => "left-out",
        Outcome::Refused(_) => "refused",
    }
}
