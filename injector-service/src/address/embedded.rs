//! IPv4 addresses inside IPv6 addresses. The kernel, a tunnel or a gateway may forward packets for such an IPv6 address
//! to the embedded IPv4 address.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Returns the IPv4 addresses that the format of `v6` embeds.
pub(super) fn by_format(v6: Ipv6Addr) -> Vec<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    match [a, b, c, d, e, f] {
        // IPv4-mapped and IPv4-compatible (RFC 4291, section 2.5.5); `::` and `::1` are neither.
        [0, 0, 0, 0, 0, 0xffff] => vec![v4(g, h)],
        [0, 0, 0, 0, 0, 0] if g != 0 => vec![v4(g, h)],
        // IPv4-translated (RFC 2765, section 2.1).
        [0, 0, 0, 0, 0xffff, 0] => vec![v4(g, h)],
        // NAT64 with the well-known prefix (RFC 6052, section 2.1), and with one of 96 bits of those for local use (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0] | [0x64, 0xff9b, 1, _, 0, 0] => vec![v4(g, h)],
        // 6to4 (RFC 3056, section 2).
        [0x2002, high, low, ..] => vec![v4(high, low)],
        // Teredo (RFC 4380, section 4): the server, and the client with its bits inverted.
        [0x2001, 0, high, low, ..] => vec![v4(high, low), v4(!g, !h)],
        // ISATAP (RFC 5214, section 6.1), in any network; the u and g bits may be set.
        [_, _, _, _, e, 0x5efe] if e & !0x0300 == 0 => vec![v4(g, h)],
        _ => Vec::new(),
    }
}

/// Returns the six candidates for the IPv4 address in a NAT64 address, one for each length of the network's prefix: 32,
/// 40, 48, 56, 64 or 96 bits (RFC 6052, section 2.2). Networks choose prefixes of their own, so any IPv6 address may be
/// a NAT64 address.
pub(super) fn nat64(v6: Ipv6Addr) -> [Ipv4Addr; 6] {
    // The format skips octet 8, which is reserved and zero.
    let [_, _, _, _, o4, o5, o6, o7, _, o9, o10, o11, o12, o13, o14, o15] = v6.octets();
    [
        Ipv4Addr::new(o4, o5, o6, o7),
        Ipv4Addr::new(o5, o6, o7, o9),
        Ipv4Addr::new(o6, o7, o9, o10),
        Ipv4Addr::new(o7, o9, o10, o11),
        Ipv4Addr::new(o9, o10, o11, o12),
        Ipv4Addr::new(o12, o13, o14, o15),
    ]
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}
