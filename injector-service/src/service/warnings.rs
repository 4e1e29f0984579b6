//! Warnings about a server that was stored: problems of its secrets, settings that do not fit the server, and credentials
//! that are not in the vault.

use proto::{Refusal, Warning, WarningKind};

use super::clear_credential;
use crate::{
    placement::{AuthType, NamedSecret},
    registry::{Entry, server::Spec},
    resolve::{Resolver, SecretState},
};

/// Returns the warnings about the secrets of a server and its client certificate. `states` has what the vault says of
/// each secret in [`Spec::secrets_and_certificate`].
pub(super) fn of_secrets(entry: &Entry, states: &[SecretState], resolver: &Resolver) -> Vec<Warning> {
    let spec = &entry.server.spec;
    let secrets = spec.secrets().into_iter().map(|secret| (secret, Role::Injected));
    let certificate = spec.client_certificate();
    let certificate = certificate.map(|secret| (secret, Role::ClientCertificate));
    let secrets = secrets.chain(certificate).zip(states);
    let warnings = secrets.flat_map(|((secret, role), state)| {
        of_secret(spec, role, &secret, state, resolver.requires(&secret))
    });
    warnings.collect()
}

/// Returns the warnings about settings that do not fit the server, and about credentials in them. `is_mcp` is true when
/// the catalog says that the server speaks MCP; otherwise the last segment of the URL's path shows it.
pub(super) fn of_settings(spec: &Spec, is_mcp: bool) -> Vec<Warning> {
    let path = spec.url.path().to_ascii_lowercase();
    let is_sse = path.ends_with("/sse");
    let is_mcp = is_mcp || is_sse || path.ends_with("/mcp");
    let warnings = [
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
    let warnings = warnings.into_iter().filter(|(applies, ..)| *applies);
    warnings
        .map(|(_, kind, message)| of_setting(kind, message.to_owned()))
        .chain(clear_credential::parameters(spec.url.fixed_query()).map(of_clear_credential))
        .collect()
}

/// Returns the warning about a fixed parameter of the URL with the name of a credential.
fn of_clear_credential(parameter: &str) -> Warning {
    let message = format!(
        "the query of the url has a fixed {parameter}, which seems to be a credential: the servers file contains it, and \
         whoever may read servers can read it; put the value into the vault, and write {parameter}=${{NAME}}, with the \
         name of the secret"
    );
    of_setting(WarningKind::UrlCredential, message)
}

fn of_setting(kind: WarningKind, message: String) -> Warning {
    Warning {
        kind: kind.into(),
        secret: String::new(),
        message,
    }
}

/// Returns the warning that the secrets were not checked, because the vault did not answer.
pub(super) fn not_checked(cause: &Refusal) -> Warning {
    let message = format!(
        "the server's secrets were not checked, because the vault did not answer ({}); ExplainInjection, or `aerostack \
         explain`, checks them later",
        cause.message
    );
    of_setting(WarningKind::NotChecked, message)
}

/// The use of a secret by a server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Injected,
    ClientCertificate,
}

fn of_secret(
    spec: &Spec,
    role: Role,
    secret: &NamedSecret<'_>,
    state: &SecretState,
    is_required: bool,
) -> Vec<Warning> {
    let secret = secret.name;
    let is_certificate = role == Role::ClientCertificate;
    let role = if is_certificate {
        ", the client certificate of the server,"
    } else {
        ""
    };
    // An open connection needs no further handshake.
    let refused_calls = if is_certificate {
        "calls that need a new connection are refused"
    } else {
        "calls are refused"
    };
    let warning = |kind: WarningKind, problem: String| Warning {
        kind: kind.into(),
        secret: secret.to_string(),
        message: format!("secret {secret}{role} {problem}"),
    };
    let absent = |problem: &str| match is_required {
        true => format!("{problem}: {refused_calls} until it is put"),
        false => format!("{problem}: calls go out without it until it is put"),
    };
    let (kind, problem) = match state {
        SecretState::Found {
            version: _,
            origins,
            facts,
        } => {
            let fault = facts.and_then(|facts| match is_certificate {
                true => facts.pem_fault(),
                false => spec.fault(secret, &facts),
            });
            let unfit = fault.map(|fault| {
                let problem = format!("does not fit its place, because its value {fault}: {refused_calls}");
                warning(WarningKind::ValueUnfit, problem)
            });
            // The key of a certificate is not sent to any server.
            let is_unbound = origins.is_empty() && !is_certificate;
            let unbound = is_unbound.then(|| warning(WarningKind::SecretUnbound, UNBOUND.to_owned()));
            return unfit.into_iter().chain(unbound).collect();
        }
        SecretState::Missing => (WarningKind::SecretMissing, absent("does not exist")),
        SecretState::Expired => (WarningKind::SecretExpired, absent("has expired")),
        SecretState::Unreadable => (
            WarningKind::SecretUnreadable,
            format!("cannot be decrypted by the vault: {refused_calls}"),
        ),
    };
    vec![warning(kind, problem)]
}

const UNBOUND: &str = "is bound to no origin: whoever may edit servers can have it sent anywhere; limit its origins when \
                       you put it (`upstream_origins` in the API, `--only-to` on the command line)";

#[cfg(test)]
mod tests {
    use proto::{OriginPattern, SecretName, vault::v1::ValueFacts};

    use super::*;

    fn kinds(role: Role, state: &SecretState) -> Vec<WarningKind> {
        let name = SecretName::parse("A").unwrap();
        let spec = Spec {
            auth_type: AuthType::Bearer,
            injections: AuthType::Bearer.injections(&name, true),
            ..Spec::of_url("https://a.example")
        };
        let secret = NamedSecret {
            name: &name,
            required: true,
        };
        let warnings = of_secret(&spec, role, &secret, state, true);
        warnings.iter().map(Warning::kind).collect()
    }

    #[test]
    fn a_client_certificate_that_cannot_be_used_is_warned_of() {
        let found = |value: &[u8], origins: &[&str]| SecretState::Found {
            version: 1,
            origins: origins
                .iter()
                .map(|origin| OriginPattern::parse(origin).unwrap())
                .collect(),
            facts: Some(ValueFacts::of(value)),
        };
        let bound = &["https://a.example"];
        for (state, kind) in [
            (SecretState::Missing, Some(WarningKind::SecretMissing)),
            (SecretState::Expired, Some(WarningKind::SecretExpired)),
            (SecretState::Unreadable, Some(WarningKind::SecretUnreadable)),
            (found(b"one line", bound), Some(WarningKind::ValueUnfit)),
            (found(b"two\nlines", bound), None),
            (found(b"two\nlines", &[]), None),
        ] {
            let kinds = kinds(Role::ClientCertificate, &state);
            assert_eq!(kinds, Vec::from_iter(kind), "{state:?}");
        }
        assert_eq!(
            kinds(Role::Injected, &found(b"x", &[])),
            [WarningKind::SecretUnbound]
        );
    }
}
