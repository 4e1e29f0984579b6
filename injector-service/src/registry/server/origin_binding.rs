//! The rule that decides which servers may get a value that is bound to origins.

use proto::{Origin, OriginPattern, origin::allows};

use super::Spec;

/// The reason why a bound value may not be sent to a server. The message completes the sentence "secret NAME is".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    #[error("bound to other origins than {0}")]
    OtherOrigin(Origin),
    /// The origin is allowed, but TLS does not prove that the upstream is the host of that origin.
    #[error(
        "bound to origins, but no CA of the system or of --upstream-ca verifies that this server is {0}; an \
         administrator may set tls.allow_bound_secrets"
    )]
    NotVerified(Origin),
}

impl Spec {
    /// Checks that a value bound to `origins` may be sent to this server. A value without origins may always be sent.
    pub fn check_binding(&self, origins: &[OriginPattern]) -> Result<(), BindingError> {
        let origin = self.url.origin();
        if !allows(origins, origin) {
            return Err(BindingError::OtherOrigin(origin.clone()));
        }
        if !origins.is_empty() && !self.accepts_bound_secrets() {
            return Err(BindingError::NotVerified(origin.clone()));
        }
        Ok(())
    }

    /// Returns true when only the URL's host can receive a request, because TLS authenticates the host or the
    /// connection stays on this machine, and also when an administrator allows bound secrets.
    fn accepts_bound_secrets(&self) -> bool {
        let verified = if self.url.is_tls() {
            self.tls.verifies(self.url.host())
        } else {
            self.url.is_loopback()
        };
        verified || self.tls.allow_bound_secrets
    }
}

#[cfg(test)]
mod tests {
    use super::super::UpstreamTls;
    use super::*;

    fn spec(url: &str, tls: UpstreamTls) -> Spec {
        Spec {
            tls,
            allow_plaintext: true,
            ..Spec::of_url(url)
        }
    }

    fn named(server_name: &str) -> UpstreamTls {
        UpstreamTls {
            server_name: Some(server_name.to_owned()),
            ..Default::default()
        }
    }

    #[test]
    fn a_bound_value_goes_only_to_a_host_that_is_verified() {
        let own_ca = || UpstreamTls {
            ca_pem: "any".to_owned(),
            ..Default::default()
        };
        let ordinary = UpstreamTls::default;
        for (url, tls, verified) in [
            ("https://api.example.com", ordinary(), true),
            ("https://api.example.com.", ordinary(), true),
            ("https://192.0.2.1", ordinary(), true),
            ("https://localhost", ordinary(), true),
            ("https://api.example.com", own_ca(), false),
            ("https://localhost", own_ca(), false),
            ("https://api.example.com", named("other.example.com"), false),
            ("https://api.example.com", named("API.example.com"), true),
            ("https://192.0.2.1", named("192.0.2.1"), true),
            ("https://192.0.2.1", named("192.0.2.2"), false),
            ("https://[2001:db8::1]", named("2001:db8::1"), true),
            ("http://127.0.0.1:8080", ordinary(), true),
            ("http://localhost", ordinary(), true),
            ("http://10.0.0.1", ordinary(), false),
            ("http://api.example.com", ordinary(), false),
        ] {
            let mut spec = spec(url, tls);
            let origin = spec.url.origin().clone();
            let bound = [OriginPattern::parse(&origin.to_string()).unwrap()];
            let expected = if verified {
                Ok(())
            } else {
                Err(BindingError::NotVerified(origin))
            };
            assert_eq!(spec.check_binding(&bound), expected, "{url} {:?}", spec.tls);
            assert_eq!(spec.check_binding(&[]), Ok(()), "{url}");
            spec.tls.allow_bound_secrets = true;
            assert_eq!(spec.check_binding(&bound), Ok(()), "{url}");
        }
    }

    #[test]
    fn an_administrator_cannot_allow_another_origin() {
        let tls = UpstreamTls {
            allow_bound_secrets: true,
            ..Default::default()
        };
        let spec = spec("https://api.example.com", tls);
        let elsewhere = [OriginPattern::parse("https://other.example.com").unwrap()];
        let error = spec.check_binding(&elsewhere).unwrap_err();
        assert_eq!(error, BindingError::OtherOrigin(spec.url.origin().clone()));
    }
}
