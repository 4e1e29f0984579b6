//! The answer of `ExplainInjection`, and the check that a server's secrets may be sent to it.

use proto::{
    Refusal, SecretName, ValueFault,
    injector::v1::{self as api, explained_secret::State},
    vault::v1::ValueFacts,
};

use crate::{
    placement::{NamedSecret, Placement, distinct_secrets},
    registry::{
        Entry,
        server::{BindingError, Scrub, Spec},
    },
    resolve::SecretState,
    status,
    value_totals::excess,
};

/// The least bytes of a value that the injector looks for in responses. A shorter value occurs by chance.
const MIN_SCRUBBED: u32 = 8;

/// A secret in one of its places.
struct PlacedSecret<'s> {
    secret: NamedSecret<'s>,
    /// The place as the answer names it.
    text: String,
    /// `None` for the client certificate.
    placement: Option<&'s Placement>,
}

/// Describes what a call to this server would carry. `states` has what the vault says of each secret in
/// [`Spec::secrets_and_certificate`], and `requires` returns true for a secret without which a call is refused.
pub(crate) fn explain(
    entry: &Entry,
    states: &[SecretState],
    requires: impl Fn(&NamedSecret<'_>) -> bool,
) -> api::ExplainInjectionResponse {
    let spec = &entry.server.spec;
    let (named, certificate) = (spec.secrets(), spec.client_certificate());
    let state = |name: &SecretName| {
        let index = named.iter().position(|named| named.name == name);
        states.get(index?)
    };
    let facts = |name: &SecretName| match state(name)? {
        SecretState::Found { facts, .. } => *facts,
        SecretState::Missing | SecretState::Expired | SecretState::Unreadable => None,
    };
    let explained = |placed: PlacedSecret<'_>| {
        let state = state(placed.secret.name)?;
        let excess = placed
            .placement
            .and_then(|placement| excess(placement, &spec.injections, facts));
        Some(explain_secret(
            spec,
            &placed,
            requires(&placed.secret),
            state,
            excess,
        ))
    };
    let placed = placed_secrets(spec, &named);
    let mut count = placed.len();
    let mut secrets: Vec<_> = placed.into_iter().filter_map(explained).collect();
    if let Some(secret) = certificate {
        count += 1;
        let placed = PlacedSecret {
            secret,
            text: "client certificate of the TLS connection".to_owned(),
            placement: None,
        };
        let state = states.get(named.len());
        secrets.extend(state.map(|state| explain_secret(spec, &placed, requires(&secret), state, None)));
    }
    let would_forward = secrets.len() == count && secrets.iter().all(would_forward);
    api::ExplainInjectionResponse {
        secrets,
        would_forward,
    }
}

/// Returns the secrets of the injections with their places. A short form has one place for each secret; otherwise each
/// injection is a place of each of its secrets.
fn placed_secrets<'s>(spec: &'s Spec, named: &[NamedSecret<'s>]) -> Vec<PlacedSecret<'s>> {
    let mut placed = Vec::new();
    for injection in &spec.injections {
        for secret in distinct_secrets([injection]) {
            // The secret is required when any of its injections is.
            let secret = named
                .iter()
                .find(|named| named.name == secret.name)
                .copied()
                .unwrap_or(secret);
            let short_form = spec.auth_type.explain(secret.name, &spec.body_calls);
            let is_known = |placed: &PlacedSecret<'_>| placed.secret.name == secret.name;
            if short_form.is_some() && placed.iter().any(is_known) {
                continue;
            }
            placed.push(PlacedSecret {
                secret,
                text: short_form.unwrap_or_else(|| injection.placement.explain(&spec.body_calls)),
                placement: Some(&injection.placement),
            });
        }
    }
    placed
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
    spec: &Spec,
    placed: &PlacedSecret<'_>,
    required: bool,
    state: &SecretState,
    excess: Option<String>,
) -> api::ExplainedSecret {
    let (version, size) = match state {
        SecretState::Found { version, facts, .. } => (*version, facts.map(|facts| facts.size)),
        SecretState::Missing | SecretState::Expired | SecretState::Unreadable => (0, None),
    };
    let (state, detail) = outcome(spec, placed, state, excess);
    api::ExplainedSecret {
        name: placed.secret.name.to_string(),
        placement: placed.text.clone(),
        required,
        state: state.into(),
        version,
        detail,
        note: match size {
            Some(0..MIN_SCRUBBED) if state == State::Injected && placed.placement.is_some() => {
                too_short_to_scrub(spec.scrub)
            }
            Some(_) | None => String::new(),
        },
    }
}

/// Returns the note about a value that responses are not searched for. A server without scrubbing needs no such note.
fn too_short_to_scrub(scrub: Scrub) -> String {
    match scrub {
        Scrub::Off => String::new(),
        Scrub::Headers | Scrub::All => format!(
            "the value has fewer than {MIN_SCRUBBED} bytes, so the injector does not look for it in responses"
        ),
    }
}

/// Returns what happens to a secret in a call, and the reason why it is not sent, which is empty when it is. `excess` is the
/// reason why the secret's place cannot hold all of its values together.
fn outcome(
    spec: &Spec,
    placed: &PlacedSecret<'_>,
    state: &SecretState,
    excess: Option<String>,
) -> (State, String) {
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
    if let Err(error) = spec.check_binding(origins) {
        let state = match error {
            BindingError::OtherOrigin(_) => State::OriginRefused,
            BindingError::NotVerified(_) => State::UpstreamNotVerified,
        };
        return (state, format!("the secret is {error}"));
    }
    let fault = facts.and_then(|facts| placed.fault(&facts));
    let unfit = fault.map(|fault| format!("the value {fault}, so it does not fit its place"));
    match unfit.or(excess) {
        Some(detail) => (State::Unfit, detail),
        None => (State::Injected, String::new()),
    }
}

impl PlacedSecret<'_> {
    /// Returns the reason why the place cannot hold a value with these facts.
    fn fault(&self, facts: &ValueFacts) -> Option<ValueFault> {
        match self.placement {
            Some(placement) => placement.fault(self.secret.name, facts),
            None => facts.pem_fault(),
        }
    }
}

/// Refuses a server when one of its secrets may not be sent to it. `states` is the beginning of
/// the list for [`explain`].
pub(super) fn check_bindings(entry: &Entry, states: &[SecretState]) -> Result<(), Refusal> {
    let spec = &entry.server.spec;
    for (secret, state) in spec.secrets_and_certificate().iter().zip(states) {
        if let SecretState::Found { origins, .. } = state {
            spec.check_binding(origins)
                .map_err(|error| status::binding(secret.name, &error, "it would never be sent there"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
