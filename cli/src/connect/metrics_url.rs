//! The URLs of the services' metrics.

use http::Uri;

use crate::failure::{Failure, FailureKind};

/// Reads `http://HOST:PORT`, `http://HOST:PORT/PATH` or `HOST:PORT`. The path is `/metrics` unless the text has another one.
pub(super) fn parse(text: &str) -> Option<Uri> {
    let text = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let uri = text.parse::<Uri>().ok()?;
    // The probes of the services are plain HTTP.
    let is_plain = uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty());
    if !is_plain || uri.authority()?.as_str().contains('@') {
        return None;
    }
    match uri.path() {
        "/" => format!("http://{}/metrics", uri.authority()?).parse().ok(),
        _ => Some(uri),
    }
}

/// Returns the URL of a service's metrics. The default belongs to the service on its default address only.
pub(super) fn find(
    flag: &str,
    given: Option<&str>,
    service: Option<&str>,
    default: &str,
) -> Result<Option<Uri>, Failure> {
    match (given, service) {
        (None, Some(_)) => Ok(None),
        (None, None) => Ok(parse(default)),
        (Some(given), _) => parse(given).map(Some).ok_or_else(|| {
            let message = format!("{flag} {given:?}: not the URL of metrics");
            Failure::new(FailureKind::Configuration, message)
                .hint("it is a URL such as http://127.0.0.1:9052, of the service's --metrics-listen")
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_a_url_lead_to_the_metrics() {
        for (text, url) in [
            ("127.0.0.1:9052", "http://127.0.0.1:9052/metrics"),
            ("http://[::1]:9052", "http://[::1]:9052/metrics"),
            ("http://injector.example/", "http://injector.example/metrics"),
            (
                "http://proxy.example:80/injector/metrics?x=1",
                "http://proxy.example:80/injector/metrics?x=1",
            ),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), url);
        }
    }

    #[test]
    fn other_texts_are_refused_with_the_flag() {
        for text in [
            "",
            "https://x:1",
            "ftp://x",
            "http://",
            "http://u:p@x:1",
            "a b",
            "unix:///x",
        ] {
            let failure = find("--vault-metrics", Some(text), None, "127.0.0.1:9051").unwrap_err();
            assert!(failure.message.contains("--vault-metrics"), "{text}");
        }
    }

    #[test]
    fn the_default_is_only_for_the_service_on_its_default_address() {
        let found = |given, service| {
            find("--x", given, service, "127.0.0.1:9051")
                .unwrap()
                .map(|url| url.to_string())
        };
        assert_eq!(
            found(None, None).as_deref(),
            Some("http://127.0.0.1:9051/metrics")
        );
        assert_eq!(found(None, Some("10.0.0.5:7150")), None);
        assert_eq!(
            found(Some("x:1"), Some("10.0.0.5:7150")).as_deref(),
            Some("http://x:1/metrics")
        );
    }
}
