//! Which addresses are never dialled: decided when a server is stored, as far as its URL says, and again on the
//! resolved address at the moment of dialling.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use url::Host;

/// Our own listeners, which no server may point at.
#[derive(Debug, Clone, Default)]
pub struct Own(Arc<[SocketAddr]>);

impl Own {
    /// The listeners at these addresses.
    pub fn new(listeners: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(listeners.into_iter().collect())
    }

    fn contains(&self, address: SocketAddr) -> bool {
        self.0
            .iter()
            .any(|own| own.port() == address.port() && reaches(own.ip(), address.ip()))
    }
}

/// Whether a listener on `own` is reached at `dialled`.
fn reaches(own: IpAddr, dialled: IpAddr) -> bool {
    if !own.is_unspecified() {
        return own == dialled;
    }
    // One that listens everywhere is reached at every address of this machine: those that a socket can be bound to.
    dialled.is_loopback() || UdpSocket::bind((dialled, 0)).is_ok()
}

/// Why an address may not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Reached only on the local link, as clouds' metadata services are.
    #[error("link-local and metadata addresses are never dialled")]
    LinkLocal,
    /// No host in particular.
    #[error("unspecified, multicast and broadcast addresses are never dialled")]
    NotAHost,
    /// One of our listeners.
    #[error("it is a listener of the injector itself")]
    Ourselves,
    /// A name that is not this machine's resolved to this machine.
    #[error("a name that is not localhost resolved to a loopback address")]
    Rebound,
}

/// Whether a server's URL names an address that can never be dialled.
pub fn refused_literal(host: &Host<String>, port: u16, own: &Own) -> Option<Forbidden> {
    let ips = match host {
        Host::Ipv4(ip) => vec![IpAddr::V4(*ip)],
        Host::Ipv6(ip) => vec![IpAddr::V6(*ip)],
        Host::Domain(name) if is_localhost(name) => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        Host::Domain(_) => Vec::new(),
    };
    ips.into_iter()
        .find_map(|ip| check(SocketAddr::new(ip, port), true, own).err())
}

/// Whether a name is this machine's by definition (RFC 6761, section 6.3).
pub fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether `address` may be dialled. `loopback`: whether the name that it came from is this machine's.
pub fn check(address: SocketAddr, loopback: bool, own: &Own) -> Result<(), Forbidden> {
    let ip = plain(address.ip());
    let (link_local, not_a_host) = match ip {
        IpAddr::V4(v4) => (
            v4.is_link_local() || METADATA_V4.contains(&v4),
            v4.octets().first() == Some(&0) || v4.is_multicast() || v4.is_broadcast(),
        ),
        IpAddr::V6(v6) => (
            v6.is_unicast_link_local() || METADATA_V6.contains(&v6),
            v6.is_unspecified() || v6.is_multicast(),
        ),
    };
    if link_local {
        return Err(Forbidden::LinkLocal);
    }
    if not_a_host {
        return Err(Forbidden::NotAHost);
    }
    if ip.is_loopback() && !loopback {
        return Err(Forbidden::Rebound);
    }
    if own.contains(SocketAddr::new(ip, address.port())) {
        return Err(Forbidden::Ourselves);
    }
    Ok(())
}

/// Metadata services that are not at a link-local address: Alibaba's, Oracle's, Azure's.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
/// Amazon's and Google's.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// The address that is reached in the end: an IPv6 address that carries an IPv4 one stands for it. Mapped and compatible
/// (RFC 4291, section 2.5.5), NAT64 (RFC 6052) and 6to4 (RFC 3056), whose gateways would dial it for us.
fn plain(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        [0, 0, 0, 0, 0, 0] if g != 0 => v4(g, h),
        [0x2002, high, low, _, _, _] => v4(high, low),
        _ => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(address: &str, loopback: bool) -> Option<Forbidden> {
        let own = Own::new(["127.0.0.1:7100".parse().unwrap(), "0.0.0.0:9052".parse().unwrap()]);
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
            "[::ffff:169.254.169.254]:80",
            "[::169.254.169.254]:80",
            "168.63.129.16:80",
            "[fd20:ce::254]:80",
            "[64:ff9b::6464:64c8]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:a9fe:a9fe::1]:80",
        ] {
            assert_eq!(why(address, true), Some(Forbidden::LinkLocal), "{address}");
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
    fn our_own_listeners_are_never_dialled() {
        for (address, refused) in [
            ("127.0.0.1:7100", true),
            ("[::ffff:127.0.0.1]:7100", true),
            ("127.0.0.1:7101", false),
            ("127.0.0.1:9052", true),
            ("127.9.9.9:9052", true),
            ("[::1]:9052", true),
            ("192.0.2.1:9052", false),
        ] {
            assert_eq!(
                why(address, true),
                refused.then_some(Forbidden::Ourselves),
                "{address}"
            );
        }
    }

    #[test]
    fn a_url_that_names_our_own_listener_is_known_at_once() {
        let own = Own::new(["127.0.0.1:7100".parse().unwrap(), "[::1]:7101".parse().unwrap()]);
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
            "93.184.216.34:443",
        ] {
            assert_eq!(why(address, false), None, "{address}");
        }
    }
}
