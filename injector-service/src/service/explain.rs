//! The answer of `ExplainInjection`, and the check that a server's secrets may be sent to it.

use proto::{
    Refusal,
    injector::v1::{self as api, explained_secret::State},
};

use crate::{
    placement::Placement,
    registry::{
        Entry,
        server::{BindingError, Injection},
    },
    resolve::SecretState,
    status,
};

/// Describes what a call to this server would carry. `states` has what the vault says of each secret in
/// [`Spec::secrets_and_certificate`](crate::registry::server::Spec::secrets_and_certificate), and `requires` returns
/// true for a secret without which a call is refused.
pub(super) fn explain(
    entry: &Entry,
    states: &[SecretState],
    requires: impl Fn(&Injection) -> bool,
) -> api::ExplainInjectionResponse {
    let injections = entry.server.spec.secrets_and_certificate();
    let explained = |(injection, state)| explain_secret(entry, injection, requires(injection), state);
    let secrets: Vec<_> = injections.iter().zip(states).map(explained).collect();
    let would_forward = secrets.len() == injections.len() && secrets.iter().all(would_forward);
    api::ExplainInjectionResponse {
        secrets,
        would_forward,
    }
}

fn would_forward(secret: &api::ExplainedSecret) -> bool {
    match secret.state() {
        State::Injected => true,
        State::Missing | State::Expired => !secret.required,
        State::OriginRefused
        | State::UpstreamNotVerified
        | State::Unfit
        | State::Unreadable
        | State::Unspecified => false,
    }
}

fn explain_secret(
    entry: &Entry,
    injection: &Injection,
    required: bool,
    state: &SecretState,
) -> api::ExplainedSecret {
    let Injection {
        secret,
        required: _,
        placement,
    } = injection;
    let version = match state {
        SecretState::Found { version, .. } => *version,
        SecretState::Missing | SecretState::Expired | SecretState::Unreadable => 0,
    };
    let (state, detail) = outcome(entry, placement, state);
    api::ExplainedSecret {
        name: secret.to_string(),
        placement: placement.explain(secret, &entry.server.spec.body_calls),
        required,
        state: state.into(),
        version,
        detail,
    }
}

/// Returns what happens to a secret in a call, and the reason why it is not sent, which is empty when it is.
fn outcome(entry: &Entry, placement: &Placement, state: &SecretState) -> (State, String) {
    let (origins, facts) = match state {
        SecretState::Found {
            version: _,
            origins,
            facts,
        } => (origins, facts),
        SecretState::Missing => return (State::Missing, "the secret does not exist".to_owned()),
        SecretState::Expired => return (State::Expired, "the secret has expired".to_owned()),
        SecretState::Unreadable => {
            return (
                State::Unreadable,
                "the vault cannot decrypt the secret".to_owned(),
            );
        }
    };
    if let Err(error) = entry.server.spec.check_binding(origins) {
        let state = match error {
            BindingError::OtherOrigin(_) => State::OriginRefused,
            BindingError::NotVerified(_) => State::UpstreamNotVerified,
        };
        return (state, format!("the secret is {error}"));
    }
    match facts.and_then(|facts| placement.fault(&facts)) {
        Some(fault) => (
            State::Unfit,
            format!("the value {fault}, so it does not fit its place"),
        ),
        None => (State::Injected, String::new()),
    }
}

/// Refuses a server when one of its secrets may not be sent to it. `states` is the beginning of
/// the list for [`explain`].
pub(super) fn check_bindings(entry: &Entry, states: &[SecretState]) -> Result<(), Refusal> {
    let spec = &entry.server.spec;
    for (injection, state) in spec.secrets_and_certificate().iter().zip(states) {
        if let SecretState::Found { origins, .. } = state {
            spec.check_binding(origins).map_err(|error| {
                status::binding(&injection.secret, &error, "it would never be sent there")
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
