//! Doubts about a server that was stored: what the vault says of its secrets.

use proto::{Refusal, SecretName, Warning, WarningKind};

use crate::{
    registry::{Entry, server::Injection},
    resolve::{Checked, CheckedState, Resolver},
};

/// Returns the warnings about the secrets of a server, in the order of its secrets.
pub(super) fn of_secrets(entry: &Entry, checked: &[Checked], resolver: &Resolver) -> Vec<Warning> {
    let injections = entry.server.spec.injections.iter();
    injections
        .zip(checked)
        .filter_map(|(injection, checked)| of_secret(injection, checked, resolver))
        .collect()
}

/// Returns the warning that the vault could not be asked.
pub(super) fn not_checked(cause: &Refusal) -> Warning {
    Warning {
        kind: WarningKind::NotChecked.into(),
        secret: String::new(),
        message: format!(
            "the server's secrets were not checked, because the vault did not say what it has ({}); ExplainInjection \
             checks them later",
            cause.message
        ),
    }
}

fn of_secret(injection: &Injection, checked: &Checked, resolver: &Resolver) -> Option<Warning> {
    let Injection { secret, .. } = injection;
    match &checked.state {
        CheckedState::Found { origins, .. } if origins.is_empty() => Some(warning(
            WarningKind::SecretUnbound,
            secret,
            "is bound to no origin: whoever may edit servers can have it sent anywhere; put it with upstream_origins",
        )),
        CheckedState::Found { .. } => None,
        CheckedState::Missing => {
            let effect = match resolver.requires(injection) {
                true => "does not exist: calls are refused until it is put",
                false => "does not exist: calls go out without it until it is put; is the name right?",
            };
            Some(warning(WarningKind::SecretMissing, secret, effect))
        }
        CheckedState::Unreadable => Some(warning(
            WarningKind::SecretUnreadable,
            secret,
            "cannot be decrypted by the vault: calls are refused",
        )),
    }
}

/// `what` completes the sentence "secret NAME …".
fn warning(kind: WarningKind, secret: &SecretName, what: &str) -> Warning {
    Warning {
        kind: kind.into(),
        secret: secret.to_string(),
        message: format!("secret {secret} {what}"),
    }
}
