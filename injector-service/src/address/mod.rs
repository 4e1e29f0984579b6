//! Addresses that the injector never dials. The injector checks the URL when a server is stored, and checks the
//! resolved address again before each connection.

mod embedded;
mod metadata;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use url::Host;

/// The addresses of the injector's own listeners, which no server may point at.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnListeners(Arc<[SocketAddr]>);

impl OwnListeners {
    pub(crate) fn new(listeners: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(listeners.into_iter().collect())
    }

    fn contains(&self, address: SocketAddr) -> bool {
        self.0
            .iter()
            .any(|own| own.port() == address.port() && reaches(own.ip(), address.ip()))
    }
}

/// Returns true when a connection to `dialled` reaches a listener on `own`.
fn reaches(own: IpAddr, dialled: IpAddr) -> bool {
    if !own.is_unspecified() {
        return own == dialled;
    }
    // A listener on all interfaces is reached at every address of this machine: every address that a socket can bind.
    dialled.is_loopback() || UdpSocket::bind((dialled, 0)).is_ok()
}

/// The reason why an address may not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Forbidden {
    /// The address is link-local, or a cloud's metadata service.
    #[error("link-local and metadata addresses are never dialled")]
    LinkLocal,
    #[error("unspecified, multicast and broadcast addresses are never dialled")]
    NotAHost,
    /// The address is one of our listeners.
    #[error("it is a listener of the injector itself")]
    Ourselves,
    /// A host other than a loopback address or `localhost` resolved to this machine.
    #[error(
        "it leads to a loopback address, which only localhost, names under it and loopback addresses may do"
    )]
    Rebound,
    /// `localhost`, or a name under `localhost`, resolved to another machine.
    #[error("localhost, or a name under it, resolved to an address that is not a loopback address")]
    NotLoopback,
}

/// Returns the reason why the host of a server's URL can never be dialled, if the URL alone shows one.
pub(crate) fn refused_literal(host: &Host<String>, port: u16, own: &OwnListeners) -> Option<Forbidden> {
    let ips = match host {
        Host::Ipv4(ip) => vec![IpAddr::V4(*ip)],
        Host::Ipv6(ip) => vec![IpAddr::V6(*ip)],
        Host::Domain(name) if metadata::is_name(name) => return Some(Forbidden::LinkLocal),
        Host::Domain(name) if is_localhost(name) => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        Host::Domain(_) => Vec::new(),
    };
    let loopback = is_loopback(host);
    ips.into_iter()
        .find_map(|ip| check(SocketAddr::new(ip, port), loopback, own).err())
}

/// Returns true when `host` is a loopback address, `localhost` or a name under `localhost`.
pub(crate) fn is_loopback(host: &Host<String>) -> bool {
    match host {
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.to_canonical().is_loopback(),
        Host::Domain(name) => is_localhost(name),
    }
}

/// Returns true for the names that are always this machine's (RFC 6761, section 6.3).
fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// Checks that `address` may be dialled. `loopback` is the result of [`is_loopback`] for the host that resolved to
/// `address`. A loopback host must have a loopback address: a resolver may answer for names under `localhost` as it
/// likes, and the injector may send cleartext to a loopback host. Any other host must have another address.
pub(crate) fn check(address: SocketAddr, loopback: bool, own: &OwnListeners) -> Result<(), Forbidden> {
    let ip = address.ip().to_canonical();
    check_ip(ip)?;
    let embedded = match ip {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(v6) => embedded::by_format(v6),
    };
    for v4 in &embedded {
        check_ip(IpAddr::V4(*v4))?;
    }
    let mut reached = std::iter::once(ip).chain(embedded.into_iter().map(IpAddr::V4));
    if !loopback && reached.clone().any(|ip| ip.is_loopback()) {
        return Err(Forbidden::Rebound);
    }
    if reached.any(|ip| own.contains(SocketAddr::new(ip, address.port()))) {
        return Err(Forbidden::Ourselves);
    }
    if loopback && !ip.is_loopback() {
        return Err(Forbidden::NotLoopback);
    }
    Ok(())
}

/// Applies the checks that depend on `ip` alone.
fn check_ip(ip: IpAddr) -> Result<(), Forbidden> {
    let (link_local, not_a_host) = match ip {
        IpAddr::V4(v4) => (
            v4.is_link_local(),
            v4.octets().first() == Some(&0) || v4.is_multicast() || v4.is_broadcast(),
        ),
        IpAddr::V6(v6) => (
            v6.is_unicast_link_local(),
            v6.is_unspecified() || v6.is_multicast(),
        ),
    };
    if link_local || metadata::is_service(ip) {
        return Err(Forbidden::LinkLocal);
    }
    if not_a_host {
        return Err(Forbidden::NotAHost);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(address: &str, loopback: bool) -> Option<Forbidden> {
        let own = OwnListeners::new(["127.0.0.1:7100".parse().unwrap(), "0.0.0.0:9052".parse().unwrap()]);
        check(address.parse().unwrap(), loopback, &own).err()
    }

    #[test]
    fn metadata_and_link_local_addresses_are_never_dialled() {
        for address in [
            "169.254.169.254:80",
            "169.254.0.1:80",
            "[fe80::1]:80",
            "[fd00:ec2::254]:80",
            "100.100.100.200:80",
            "192.0.0.192:80",
            "168.63.129.16:80",
            "[fd00:ec2::23]:80",
            "[fd00:ec2::253]:53",
            "[fd20:ce::254]:80",
            "[fd00:c1::a9fe:a9fe]:80",
            "[fd00:42::42]:80",
            "[fd00:a9fe:a9fe::1]:80",
            "[fd00:100::100:200]:80",
            "[fe80::a9fe:a9fe]:80",
        ] {
            for loopback in [true, false] {
                assert_eq!(why(address, loopback), Some(Forbidden::LinkLocal), "{address}");
            }
        }
        for address in [
            "0.0.0.0:80",
            "0.1.2.3:80",
            "[::]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[ff02::1]:80",
        ] {
            assert_eq!(why(address, true), Some(Forbidden::NotAHost), "{address}");
        }
    }

    #[test]
    fn metadata_addresses_inside_ipv6_addresses_are_never_dialled() {
        for v4 in super::metadata::SERVICES_V4 {
            let [a, b, c, d] = v4.octets();
            let [na, nb, nc, nd] = [!a, !b, !c, !d];
            let hex = |octets: [u8; 4]| {
                let [a, b, c, d] = octets;
                format!("{a:02x}{b:02x}:{c:02x}{d:02x}")
            };
            for form in [
                format!("[::ffff:{v4}]"),
                format!("[::{v4}]"),
                format!("[::ffff:0:{v4}]"),
                format!("[64:ff9b::{v4}]"),
                format!("[64:ff9b:1::{v4}]"),
                format!("[64:ff9b:1:dead:beef:0:{v4}]"),
                format!("[64:ff9b:1:{a:02x}{b:02x}:{c:02x}:{d:02x}00::]"),
                format!("[64:ff9b:1:42{a:02x}:{b:02x}:{c:02x}{d:02x}::]"),
                format!("[64:ff9b:1:4242:{a:02x}:{b:02x}{c:02x}:{d:02x}00:0]"),
                format!("[2002:{}::1]", hex([a, b, c, d])),
                format!("[2002:{}:1::{v4}]", hex([192, 0, 2, 1])),
                // The address of Teredo's server, and then of Teredo's client.
                format!("[2001:0:{}:0:0:0:0]", hex([a, b, c, d])),
                format!(
                    "[2001:0:{}:8000:63bf:{}]",
                    hex([192, 0, 2, 45]),
                    hex([na, nb, nc, nd])
                ),
                format!("[2001:db8::5efe:{v4}]"),
                format!("[2001:db8::200:5efe:{v4}]"),
                // NAT64 addresses with a network's own prefix, of 32 and of 96 bits.
                format!("[2001:db8:{}::]", hex([a, b, c, d])),
                format!("[2001:db8:1:2:3:4:{v4}]"),
            ] {
                assert_eq!(
                    why(&format!("{form}:80"), false),
                    Some(Forbidden::LinkLocal),
                    "{form}"
                );
                let host = Host::parse(&form).unwrap();
                let literal = refused_literal(&host, 80, &OwnListeners::default());
                assert_eq!(literal, Some(Forbidden::LinkLocal), "{form}");
            }
        }
    }

    #[test]
    fn names_of_metadata_services_are_known_at_once() {
        for (name, refused) in [
            ("metadata.google.internal", true),
            ("METADATA.google.internal.", true),
            ("metadata.goog", true),
            ("instance-data", true),
            ("metadata.tencentyun.com", true),
            ("api.metadata.cloud.ibm.com", true),
            ("metadata.example.com", false),
            ("x.metadata.goog", false),
        ] {
            let why = refused_literal(&Host::parse(name).unwrap(), 80, &OwnListeners::default());
            assert_eq!(why, refused.then_some(Forbidden::LinkLocal), "{name}");
        }
    }

    #[test]
    fn what_stands_for_this_machine_inside_an_ipv6_address_is_treated_as_it() {
        for (address, forbidden) in [
            ("[64:ff9b::7f00:1]:80", Forbidden::Rebound),
            ("[::127.0.0.1]:80", Forbidden::Rebound),
            ("[2002:7f00:1::1]:80", Forbidden::Rebound),
            ("[64:ff9b::]:80", Forbidden::NotAHost),
            ("[2002:e000:1::]:80", Forbidden::NotAHost),
        ] {
            assert_eq!(why(address, false), Some(forbidden), "{address}");
        }
        // The kernel takes only the IPv4-mapped form for a loopback address.
        assert_eq!(why("[64:ff9b::7f00:1]:80", true), Some(Forbidden::NotLoopback));
        assert_eq!(why("[::ffff:127.0.0.1]:80", true), None);
        assert_eq!(why("[64:ff9b::7f00:1]:7100", true), Some(Forbidden::Ourselves));
    }

    #[test]
    fn a_name_of_this_machine_may_not_resolve_to_another() {
        for address in [
            "10.0.0.1:80",
            "93.184.216.34:80",
            "[2001:db8::1]:80",
            "[fd00::1]:80",
        ] {
            assert_eq!(why(address, true), Some(Forbidden::NotLoopback), "{address}");
            assert_eq!(why(address, false), None, "{address}");
        }
    }

    #[test]
    fn our_own_listeners_are_never_dialled() {
        for (address, refused) in [
            ("127.0.0.1:7100", true),
            ("[::ffff:127.0.0.1]:7100", true),
            ("127.0.0.1:7101", false),
            ("127.0.0.1:9052", true),
            ("127.9.9.9:9052", true),
            ("[::1]:9052", true),
        ] {
            assert_eq!(
                why(address, true),
                refused.then_some(Forbidden::Ourselves),
                "{address}"
            );
        }
        assert_eq!(why("192.0.2.1:9052", false), None);
    }

    #[test]
    fn a_url_that_names_our_own_listener_is_known_at_once() {
        let own = OwnListeners::new(["127.0.0.1:7100".parse().unwrap(), "[::1]:7101".parse().unwrap()]);
        for (host, port, refused) in [
            ("127.0.0.1", 7100, true),
            ("localhost", 7100, true),
            ("localhost.", 7100, true),
            ("a.localhost", 7101, true),
            ("localhost", 7102, false),
            ("localhost.example.com", 7100, false),
        ] {
            let why = refused_literal(&Host::parse(host).unwrap(), port, &own);
            assert_eq!(why, refused.then_some(Forbidden::Ourselves), "{host}:{port}");
        }
    }

    #[test]
    fn a_name_that_is_not_ours_may_not_resolve_to_loopback() {
        for address in ["127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(why(address, false), Some(Forbidden::Rebound), "{address}");
            assert_eq!(why(address, true), None, "{address}");
        }
    }

    #[test]
    fn private_and_public_addresses_are_dialled() {
        for address in [
            "10.0.0.1:80",
            "192.168.1.1:80",
            "172.16.0.1:443",
            "[fd00::1]:80",
            "[fd00:ec3::254]:80",
            "93.184.216.34:443",
            "[2606:2800:21f::1]:443",
            // Addresses of other machines behind the gateways.
            "[64:ff9b::5db8:d822]:443",
            "[64:ff9b:1::5db8:d822]:443",
            "[64:ff9b:1:5db8:d8:2200::]:443",
            "[2002:5db8:d822::1]:443",
            "[2001:0:5db8:d822:8000:63bf:a247:27dd]:443",
            "[2001:db8::5efe:10.0.0.1]:443",
        ] {
            assert_eq!(why(address, false), None, "{address}");
        }
    }
}
