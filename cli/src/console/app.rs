//! The state that all requests share.

use std::{net::SocketAddr, sync::Arc};

use proto::Principal;
use tokio_util::sync::CancellationToken;

use super::{activity::Activity, live_streams::LiveStreams, services::Services, sign_in::SignIns};

pub(super) type SharedApp = Arc<App>;

pub(super) struct App {
    pub(super) services: Services,
    pub(super) sign_ins: SignIns,
    pub(super) site: Site,
    pub(super) sign_in_method: SignInMethod,
    pub(super) activity: Arc<Activity>,
    pub(super) live_streams: Arc<LiveStreams>,
    /// The upstream of `aerostack dev --demo`.
    pub(super) demo_upstream: Option<SocketAddr>,
    /// Cancelled when the console stops. An event stream would keep its connection open.
    pub(super) stopping: CancellationToken,
}

/// The way in which people sign in.
pub(super) enum SignInMethod {
    /// With a link, which the console prints for the person who started it.
    Link,
    /// With a client certificate that names one of these users.
    Certificate {
        users: Vec<Principal>,
        /// True when the users may send calls through the data plane. Whoever reaches the data plane uses the secrets of all servers,
        /// whatever role the console's identity has.
        allows_calls: bool,
    },
}

impl App {
    /// Returns true when people may try calls. The person who started the console reaches the data plane without it, too.
    pub(super) fn allows_calls(&self) -> bool {
        match self.sign_in_method {
            SignInMethod::Link => true,
            SignInMethod::Certificate {
                users: _,
                allows_calls,
            } => allows_calls,
        }
    }
}

/// The address of the console as browsers write it.
pub(super) struct Site {
    scheme: &'static str,
    port: u16,
    /// Values of the header `Host` that name the console. The first one is in the printed address.
    hosts: Vec<String>,
}

impl Site {
    /// Returns the site of a console that only this machine reaches.
    pub(super) fn on_loopback(listen: SocketAddr) -> Self {
        let own = match listen {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        Self {
            scheme: "http",
            port: listen.port(),
            hosts: hosts_with_port(&[own, "localhost".to_owned()], listen.port(), 80),
        }
    }

    /// Returns the site of a console that other machines reach under `hosts`. A host without a port has the listener's.
    pub(super) fn for_users(hosts: &[String], port: u16) -> Self {
        Self {
            scheme: "https",
            port,
            hosts: hosts_with_port(hosts, port, 443),
        }
    }

    /// Returns true when `host` names the console. A name of another site whose DNS entry was changed to the console's address
    /// (DNS rebinding) does not.
    pub(super) fn has_host(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    }

    /// Returns the origin of the console's pages for a request that names `host`.
    pub(super) fn origin(&self, host: &str) -> String {
        format!("{}://{host}", self.scheme)
    }

    /// Returns the address of the first page.
    pub(super) fn address(&self) -> String {
        let host = self.hosts.first().map_or("", String::as_str);
        format!("{}/", self.origin(host))
    }

    /// Returns the link that signs in with `token`.
    pub(super) fn sign_in_link(&self, token: &str) -> String {
        format!("{}sign-in?token={token}", self.address())
    }

    /// Returns true when browsers reach the console over TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.scheme == "https"
    }

    /// Returns the name of the session cookie. Cookies do not know ports, and two consoles on one address must not
    /// overwrite each other's cookies. Browsers take a cookie with the prefix `__Host-` only from this host, and over TLS.
    pub(super) fn cookie_name(&self) -> String {
        let prefix = if self.is_secure() { "__Host-" } else { "" };
        format!("{prefix}aerostack-console-{}", self.port)
    }
}

/// Adds the port to the hosts that have none. Browsers leave the default port of a scheme out, and a host with that port means
/// both forms.
fn hosts_with_port(hosts: &[String], port: u16, default_port: u16) -> Vec<String> {
    let mut all = Vec::new();
    for host in hosts {
        let full = if has_port(host) {
            host.clone()
        } else {
            format!("{host}:{port}")
        };
        if let Some(short) = full.strip_suffix(&format!(":{default_port}")) {
            all.push(short.to_owned());
        }
        all.push(full);
    }
    all
}

/// Returns true for `name:1` and `[::1]:1`, and false for `name` and `[::1]`.
fn has_port(host: &str) -> bool {
    host.rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_site_has_the_hosts_of_its_listener() {
        let site = |listen: &str| Site::on_loopback(listen.parse().unwrap());
        for (listen, own, foreign) in [
            ("127.0.0.1:7180", "127.0.0.1:7180", "127.0.0.1"),
            ("127.0.0.1:7180", "LOCALHOST:7180", "localhost:7181"),
            ("127.0.0.1:7180", "localhost:7180", "127.0.0.1.example.org:7180"),
            ("[::1]:7180", "[::1]:7180", "::1:7180"),
            ("127.0.0.1:80", "127.0.0.1", "127.0.0.2"),
            ("127.0.0.1:80", "127.0.0.1:80", "127.0.0.1:8"),
            ("[::1]:80", "localhost", ""),
        ] {
            assert!(site(listen).has_host(own), "{listen} {own}");
            assert!(!site(listen).has_host(foreign), "{listen} {foreign}");
        }
        let link = site("[::1]:7180").sign_in_link("x");
        assert_eq!(link, "http://[::1]:7180/sign-in?token=x");
    }

    #[test]
    fn a_site_for_users_has_the_given_hosts_and_no_others() {
        let hosts = ["console.example.org", "vpn.example.org:443", "[2001:db8::1]"].map(str::to_owned);
        let site = Site::for_users(&hosts, 7180);
        for own in [
            "console.example.org:7180",
            "vpn.example.org",
            "VPN.example.org:443",
            "[2001:db8::1]:7180",
        ] {
            assert!(site.has_host(own), "{own}");
        }
        for foreign in [
            "console.example.org",
            "localhost:7180",
            "vpn.example.org:7180",
            "",
        ] {
            assert!(!site.has_host(foreign), "{foreign}");
        }
        assert_eq!(site.address(), "https://console.example.org:7180/");
        assert_eq!(
            Site::for_users(&hosts, 443).address(),
            "https://console.example.org/"
        );
        assert_eq!(site.cookie_name(), "__Host-aerostack-console-7180");
    }
}
