//! The host that a request is for, which must be one of the injector's own names.

use std::net::IpAddr;

use chassis::dial::without_brackets;
use http::{HeaderValue, header, request::Parts, uri::Authority};
use proto::{Reason, Refusal};

/// The names under which the data plane answers.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// Names besides loopback addresses and `localhost`, in lower case.
    pub names: Vec<String>,
    /// The suffix of hosts that name a server, `{server}.{workspace}.{suffix}`, in lower case.
    pub suffix: String,
}

impl Hosts {
    /// Refuses a host that is not the injector's. A web page whose own name resolves to the injector's address (DNS
    /// rebinding) could otherwise call the injector as a page of the same origin.
    pub(super) fn check(&self, host: &str) -> Result<(), Refusal> {
        if is_loopback(host) || self.names.iter().any(|name| name == host) || self.server(host).is_some() {
            return Ok(());
        }
        Err(Refusal::new(
            Reason::HostNotServed,
            "this host is not served here; ask for localhost or a configured host",
        ))
    }

    /// Returns the workspace and the server that the host `{server}.{workspace}.{suffix}` names.
    pub(super) fn server<'a>(&self, host: &'a str) -> Option<(&'a str, &'a str)> {
        let (server, workspace) = host
            .strip_suffix(&self.suffix)?
            .strip_suffix('.')?
            .split_once('.')?;
        (!workspace.contains('.') && !server.is_empty() && !workspace.is_empty())
            .then_some((workspace, server))
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || without_brackets(host)
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Returns the one host and port that a request is for. HTTP/1.1 requires exactly one `Host`, equal to the authority of
/// an absolute target (RFC 9112, section 3.2).
pub(super) fn authority(parts: &Parts) -> Result<Authority, Refusal> {
    let wrong = |what: &str| Refusal::new(Reason::HostInvalid, what);
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            Some(parse(host).ok_or_else(|| wrong("Host is not a host and an optional port"))?)
        }
        (None, _) => None,
        (Some(_), Some(_)) => return Err(wrong("Host is given more than once")),
    };
    match (parts.uri.authority(), header) {
        (Some(target), _) if target.as_str().contains('@') => Err(wrong("the target must not name a user")),
        (Some(target), Some(header)) if !same(target, &header) => {
            Err(wrong("Host and the request's target name different hosts"))
        }
        (Some(host), _) => Ok(host.clone()),
        (None, Some(host)) => Ok(host),
        (None, None) => Err(wrong("Host is required")),
    }
}

fn parse(host: &HeaderValue) -> Option<Authority> {
    let host = Authority::try_from(host.as_bytes()).ok()?;
    // `Authority` accepts text after the colon that is no port.
    let ends_in_port = host.port().is_some() || host.as_str().len() == host.host().len();
    (!host.as_str().contains('@') && !host.host().is_empty() && ends_in_port).then_some(host)
}

fn same(one: &Authority, other: &Authority) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_request_is_for_exactly_one_host() {
        for (uri, hosts, authority_of) in [
            ("/", &["LocalHost:7100"][..], Some("LocalHost:7100")),
            ("/", &["[::1]:7100"], Some("[::1]:7100")),
            ("http://127.0.0.1:1/", &[], Some("127.0.0.1:1")),
            ("http://a:1/", &["A:1"], Some("a:1")),
            ("/", &[], None),
            ("/", &["a", "a"], None),
            ("/", &[""], None),
            ("/", &["u@a"], None),
            ("/", &["a b"], None),
            ("/", &["a/b"], None),
            ("/", &["a:x"], None),
            ("/", &["a:99999"], None),
            ("/", &["a:"], None),
            ("http://u@a/", &[], None),
            ("http://a/", &["b"], None),
            ("http://a:1/", &["a:2"], None),
        ] {
            assert_eq!(
                authority(&parts(uri, hosts)).ok().as_ref().map(Authority::as_str),
                authority_of,
                "{uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn foreign_hosts_are_not_served() {
        let hosts = Hosts {
            names: vec!["injector.internal".into()],
            suffix: "localhost".into(),
        };
        for (host, served) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.1.2.3", true),
            ("[::1]", true),
            ("injector.internal", true),
            ("github.dev-tools.localhost", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
            ("a.localhost", false),
            ("a.b.c.localhost", false),
            (".b.localhost", false),
            ("evillocalhost", false),
        ] {
            assert_eq!(hosts.check(host).is_ok(), served, "{host}");
        }
        assert_eq!(
            hosts.server("github.dev-tools.localhost"),
            Some(("dev-tools", "github"))
        );
    }
}
