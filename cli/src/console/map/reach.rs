//! The result that a call has with a secret, as far as the metadata of the secret and the server tell.

use proto::{
    Origin, OriginPattern,
    injector::v1::{ExplainInjectionResponse, ExplainedSecret, Server, UpstreamTls, explained_secret::State},
    origin::allows,
    vault::v1::Secret,
};
use url::{Host, Url};

/// The result that a call to a server has with one of the server's secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The upstream gets the value.
    Sent,
    /// The call goes out without the secret, which is missing or expired and not required.
    LeftOut,
    /// The call is refused.
    Refused(Refusal),
}

/// The cause for which a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Missing,
    Expired,
    /// The secret may be sent to other origins only.
    OtherOrigin,
    /// The secret is bound to origins, and nothing proves that the server is the host of its URL.
    NotVerified,
    /// The value does not fit the place that it goes to.
    Unfit,
    /// The vault cannot decrypt the value.
    Unreadable,
}

impl Outcome {
    /// Returns the outcome for a secret of the vault.
    pub(super) fn of(secret: &Secret, server: &Server, is_required: bool) -> Self {
        match (secret.expired, is_required) {
            (true, true) => Self::Refused(Refusal::Expired),
            (true, false) => Self::LeftOut,
            (false, _) => match refusal_by_origin(secret, server) {
                Some(refusal) => Self::Refused(refusal),
                None => Self::Sent,
            },
        }
    }

    /// Adds what only the injector knows, because it depends on the value: whether the value can be read, and fits its place.
    /// `explained` is the injector's explanation of the server.
    pub(super) fn with_value(self, secret: &str, explained: &ExplainInjectionResponse) -> Self {
        let mut states = explained
            .secrets
            .iter()
            .filter(|explained| explained.name == secret)
            .map(ExplainedSecret::state);
        let refusal = states.find_map(|state| match state {
            State::Unfit => Some(Refusal::Unfit),
            State::Unreadable => Some(Refusal::Unreadable),
            State::Injected
            | State::Missing
            | State::Expired
            | State::OriginRefused
            | State::UpstreamNotVerified
            | State::Unspecified => None,
        });
        match (self, refusal) {
            (Self::Sent, Some(refusal)) => Self::Refused(refusal),
            (outcome, _) => outcome,
        }
    }

    /// Returns the outcome for a secret that the vault does not have.
    pub(super) fn of_missing(is_required: bool) -> Self {
        if is_required {
            Self::Refused(Refusal::Missing)
        } else {
            Self::LeftOut
        }
    }
}

/// Applies the injector's rule for bound secrets. An origin that this release cannot read refuses nothing here: the page
/// must not claim a refusal that it cannot know.
fn refusal_by_origin(secret: &Secret, server: &Server) -> Option<Refusal> {
    if secret.upstream_origins.is_empty() {
        return None;
    }
    let url = Url::parse(&server.url).ok()?;
    let origin = Origin::of(&url)?;
    let patterns = secret.upstream_origins.iter();
    let patterns: Vec<_> = patterns
        .map(|text| OriginPattern::parse(text))
        .collect::<Result<_, _>>()
        .ok()?;
    if !allows(&patterns, &origin) {
        return Some(Refusal::OtherOrigin);
    }
    (!is_verified(&url, server.tls.as_ref())).then_some(Refusal::NotVerified)
}

/// Returns true when only the host of the URL can receive a request, or an administrator allows bound secrets.
fn is_verified(url: &Url, tls: Option<&UpstreamTls>) -> bool {
    let ordinary = UpstreamTls::default();
    let UpstreamTls {
        ca_pem,
        server_name,
        allow_bound_secrets,
        client_cert_secret: _,
    } = tls.unwrap_or(&ordinary);
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    let is_own_name = || {
        let name = server_name.trim_end_matches('.');
        name.is_empty() || name.eq_ignore_ascii_case(host.trim_matches(['[', ']']))
    };
    let by_host = match url.scheme() {
        "https" => ca_pem.is_empty() && is_own_name(),
        _ => is_loopback(url),
    };
    by_host || *allow_bound_secrets
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(origins: &[&str], expired: bool) -> Secret {
        Secret {
            upstream_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            expired,
            ..Default::default()
        }
    }

    fn server(url: &str, tls: UpstreamTls) -> Server {
        Server {
            url: url.to_owned(),
            tls: Some(tls),
            ..Default::default()
        }
    }

    #[test]
    fn a_secret_that_is_missing_or_expired_refuses_the_call_only_when_it_is_required() {
        let server = server("https://api.example.com", UpstreamTls::default());
        let expired = secret(&["https://other.example"], true);
        assert_eq!(
            Outcome::of(&expired, &server, true),
            Outcome::Refused(Refusal::Expired)
        );
        assert_eq!(Outcome::of(&expired, &server, false), Outcome::LeftOut);
        assert_eq!(Outcome::of_missing(true), Outcome::Refused(Refusal::Missing));
        assert_eq!(Outcome::of_missing(false), Outcome::LeftOut);
    }

    #[test]
    fn a_value_that_does_not_fit_its_place_refuses_the_call() {
        let explained = |state: State| ExplainInjectionResponse {
            secrets: vec![ExplainedSecret {
                name: "A".to_owned(),
                state: state.into(),
                ..Default::default()
            }],
            would_forward: false,
        };
        let unfit = explained(State::Unfit);
        assert_eq!(
            Outcome::Sent.with_value("A", &unfit),
            Outcome::Refused(Refusal::Unfit)
        );
        assert_eq!(Outcome::Sent.with_value("B", &unfit), Outcome::Sent);
        assert_eq!(Outcome::LeftOut.with_value("A", &unfit), Outcome::LeftOut);
        let injected = explained(State::Injected);
        assert_eq!(Outcome::Sent.with_value("A", &injected), Outcome::Sent);
    }

    #[test]
    fn a_bound_secret_goes_only_to_its_origins_also_when_it_is_optional() {
        for (url, origins, outcome) in [
            ("https://api.example.com/v1/${TOKEN}?a=b", vec![], Outcome::Sent),
            (
                "https://api.example.com/v1/${TOKEN}?a=b",
                vec!["https://api.example.com"],
                Outcome::Sent,
            ),
            (
                "https://api.example.com",
                vec!["https://*.example.com"],
                Outcome::Sent,
            ),
            (
                "https://api.example.com:8443",
                vec!["https://api.example.com"],
                Outcome::Refused(Refusal::OtherOrigin),
            ),
            (
                "https://evil.example",
                vec!["https://api.example.com"],
                Outcome::Refused(Refusal::OtherOrigin),
            ),
            ("http://127.0.0.1:80", vec!["http://127.0.0.1"], Outcome::Sent),
            (
                "http://a.localhost:8",
                vec!["http://a.localhost:8"],
                Outcome::Sent,
            ),
            (
                "http://10.0.0.1",
                vec!["http://10.0.0.1"],
                Outcome::Refused(Refusal::NotVerified),
            ),
            ("not a URL", vec!["https://api.example.com"], Outcome::Sent),
        ] {
            let server = server(url, UpstreamTls::default());
            assert_eq!(
                Outcome::of(&secret(&origins, false), &server, false),
                outcome,
                "{url}"
            );
        }
    }

    #[test]
    fn a_bound_secret_goes_only_to_a_server_that_is_verified() {
        let refused = Outcome::Refused(Refusal::NotVerified);
        let ca = || UpstreamTls {
            ca_pem: "any".to_owned(),
            ..Default::default()
        };
        let named = |name: &str| UpstreamTls {
            server_name: name.to_owned(),
            ..Default::default()
        };
        let allowed = UpstreamTls {
            allow_bound_secrets: true,
            ..ca()
        };
        for (tls, outcome) in [
            (ca(), refused),
            (named("other.example.com"), refused),
            (named("API.example.com"), Outcome::Sent),
            (allowed, Outcome::Sent),
        ] {
            let server = server("https://api.example.com", tls);
            let bound = secret(&["https://api.example.com"], false);
            assert_eq!(Outcome::of(&bound, &server, true), outcome, "{:?}", server.tls);
        }
    }
}
