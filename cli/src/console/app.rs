//! The state that all requests share.

use std::{net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{activity::Activity, live_streams::LiveStreams, services::Services, sign_in::SignIns};

pub(super) type SharedApp = Arc<App>;

pub(super) struct App {
    pub(super) services: Services,
    pub(super) sign_ins: SignIns,
    pub(super) site: Site,
    pub(super) activity: Arc<Activity>,
    pub(super) live_streams: Arc<LiveStreams>,
    /// Cancelled when the console stops. An event stream would keep its connection open.
    pub(super) stopping: CancellationToken,
}

/// The address of the console as browsers write it.
pub(super) struct Site {
    listen: SocketAddr,
    /// Values of the header `Host` that name the console.
    hosts: Vec<String>,
}

impl Site {
    pub(super) fn of(listen: SocketAddr) -> Self {
        let mut hosts = vec![listen.to_string(), format!("localhost:{}", listen.port())];
        // Browsers leave the default port out.
        if let (80, SocketAddr::V4(v4)) = (listen.port(), listen) {
            hosts.extend([v4.ip().to_string(), "localhost".to_owned()]);
        } else if let (80, SocketAddr::V6(v6)) = (listen.port(), listen) {
            hosts.extend([format!("[{}]", v6.ip()), "localhost".to_owned()]);
        }
        Self { listen, hosts }
    }

    /// Returns true when `host` is the address of the listener. A name of another site whose DNS entry was changed to a
    /// loopback address (DNS rebinding) is not.
    pub(super) fn has_host(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    }

    /// Returns the link that signs in with `token`.
    pub(super) fn sign_in_link(&self, token: &str) -> String {
        format!("http://{}/sign-in?token={token}", self.listen)
    }

    /// Returns the name of the session cookie. Cookies do not know ports, and two consoles on one address must not
    /// overwrite each other's cookies.
    pub(super) fn cookie_name(&self) -> String {
        format!("aerostack-console-{}", self.listen.port())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_site_has_the_hosts_of_its_listener() {
        let site = |listen: &str| Site::of(listen.parse().unwrap());
        for (listen, own, foreign) in [
            ("127.0.0.1:7180", "127.0.0.1:7180", "127.0.0.1"),
            ("127.0.0.1:7180", "LOCALHOST:7180", "localhost:7181"),
            ("127.0.0.1:7180", "localhost:7180", "127.0.0.1.example.org:7180"),
            ("[::1]:7180", "[::1]:7180", "::1:7180"),
            ("127.0.0.1:80", "127.0.0.1", "127.0.0.2"),
            ("[::1]:80", "localhost", ""),
        ] {
            assert!(site(listen).has_host(own), "{listen} {own}");
            assert!(!site(listen).has_host(foreign), "{listen} {foreign}");
        }
    }
}
