//! Addresses and names under which cloud providers serve instance metadata, which includes credentials.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::embedded;

/// Addresses of metadata services and of the credential services beside them.
///
/// AWS, Azure, Google, Oracle, DigitalOcean, Hetzner, IBM, OpenStack and most others use `169.254.169.254`. The
/// providers' documentation names the rest: Amazon ECS (`169.254.170.2`) and EKS Pod Identity (`169.254.170.23`),
/// Scaleway (`169.254.42.42`), Tencent (`169.254.0.23`, earlier `169.254.10.10`), Alibaba (`100.100.100.200`), Oracle
/// Cloud Classic (`192.0.0.192`), Azure's WireServer (`168.63.129.16`). `check_ip` refuses the link-local range as a
/// whole; the list repeats the link-local addresses because IPv6 addresses may embed them.
pub(super) const SERVICES_V4: [Ipv4Addr; 9] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(169, 254, 42, 42),
    Ipv4Addr::new(169, 254, 0, 23),
    Ipv4Addr::new(169, 254, 10, 10),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

/// IPv6 addresses of the metadata services of Google, Oracle, Scaleway, Akamai (Linode) and Alibaba, from the
/// providers' documentation and the data sources of cloud-init. OpenStack's `fe80::a9fe:a9fe` is link-local, so
/// `check_ip` refuses it.
const SERVICES_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200),
];

/// Names of the metadata services of Google (two), Amazon (two), Tencent, IBM and Exoscale. Where such a name resolves
/// at all, it resolves to one of the addresses above.
const NAMES: [&str; 7] = [
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
    "api.metadata.cloud.ibm.com",
    "metadata.exoscale.com",
];

/// Returns true when a cloud provider serves instance metadata under `name`.
pub(super) fn is_name(name: &str) -> bool {
    NAMES.contains(&name.trim_end_matches('.'))
}

/// Returns true when a cloud provider serves instance metadata at `ip`, or at an IPv4 address that a NAT64 gateway may
/// read from `ip`.
pub(super) fn is_service(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => SERVICES_V4.contains(&v4),
        IpAddr::V6(v6) => {
            SERVICES_V6.contains(&v6)
                || is_amazons(v6)
                || embedded::nat64(v6).iter().any(|v4| SERVICES_V4.contains(v4))
        }
    }
}

/// Returns true for `fd00:ec2::/32`, where EC2 serves metadata (`::254`), EKS Pod Identity (`::23`), DNS and time.
fn is_amazons(v6: Ipv6Addr) -> bool {
    matches!(v6.segments(), [0xfd00, 0xec2, ..])
}
