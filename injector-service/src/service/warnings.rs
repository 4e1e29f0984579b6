//! Doubts about a server that was stored: what the vault says of its secrets, and settings that do not fit the server.

use proto::{Refusal, SecretName, Warning, WarningKind};

use crate::{
    placement::AuthType,
    registry::{
        Entry,
        server::{Injection, Spec},
    },
    resolve::{Resolver, SecretState},
};

/// Returns the warnings about the secrets of a server, in the order of its secrets.
pub(super) fn of_secrets(entry: &Entry, checked: &[SecretState], resolver: &Resolver) -> Vec<Warning> {
    let injections = entry.server.spec.injections.iter();
    injections
        .zip(checked)
        .flat_map(|(injection, checked)| of_secret(injection, checked, resolver))
        .collect()
}

/// Returns the warnings about settings that do not fit the server. `is_mcp` is true when the catalog says that the server
/// speaks MCP; otherwise the last segment of the URL's path shows it.
pub(super) fn of_settings(spec: &Spec, is_mcp: bool) -> Vec<Warning> {
    let path = spec.url.path().to_ascii_lowercase();
    let is_sse = path.ends_with("/sse");
    let is_mcp = is_mcp || is_sse || path.ends_with("/mcp");
    let doubts = [
        (
            is_mcp && matches!(spec.auth_type, AuthType::Skill(_)),
            WarningKind::AuthTypeUnfit,
            "this seems to be an MCP server, and the auth type skill puts a member `secrets` into each message, which MCP \
             servers refuse (-32700); use secret_headers, or bearer for a server that takes one token",
        ),
        (
            is_sse,
            WarningKind::UrlUnfit,
            "this seems to be an MCP server of the older transport, whose clients post their messages to another path than \
             /sse; give the URL without /sse, so that programs reach both",
        ),
    ];
    let doubts = doubts.into_iter().filter(|(is_doubtful, ..)| *is_doubtful);
    doubts
        .map(|(_, kind, message)| Warning {
            kind: kind.into(),
            secret: String::new(),
            message: message.to_owned(),
        })
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

fn of_secret(injection: &Injection, checked: &SecretState, resolver: &Resolver) -> Vec<Warning> {
    let Injection {
        secret, placement, ..
    } = injection;
    let absent = |what: &str| match resolver.requires(injection) {
        true => format!("{what}: calls are refused until it is put"),
        false => format!("{what}: calls go out without it until it is put"),
    };
    let (kind, what) = match checked {
        SecretState::Found {
            version: _,
            origins,
            facts,
        } => {
            let unfit = facts.and_then(|facts| placement.fault(&facts)).map(|fault| {
                let what = format!("does not fit its place, because its value {fault}: calls are refused");
                warning(WarningKind::ValueUnfit, secret, &what)
            });
            let unbound = origins
                .is_empty()
                .then(|| warning(WarningKind::SecretUnbound, secret, UNBOUND));
            return unfit.into_iter().chain(unbound).collect();
        }
        SecretState::Missing => (WarningKind::SecretMissing, absent("does not exist")),
        SecretState::Expired => (WarningKind::SecretExpired, absent("has expired")),
        SecretState::Unreadable => (
            WarningKind::SecretUnreadable,
            "cannot be decrypted by the vault: calls are refused".to_owned(),
        ),
    };
    vec![warning(kind, secret, &what)]
}

const UNBOUND: &str = "is bound to no origin: whoever may edit servers can have it sent anywhere; put it with \
                       upstream_origins";

/// `what` completes the sentence "secret NAME …".
fn warning(kind: WarningKind, secret: &SecretName, what: &str) -> Warning {
    Warning {
        kind: kind.into(),
        secret: secret.to_string(),
        message: format!("secret {secret} {what}"),
    }
}
