//! The Huffman code of HPACK (RFC 7541, appendix B) for printable ASCII, the only characters of the values in headers.

use zeroize::Zeroizing;

/// The code of every character from the space (0x20) to the tilde (0x7E), and the length of the code in bits.
const CODES: [(u32, u8); 95] = [
    (0x14, 6),
    (0x3f8, 10),
    (0x3f9, 10),
    (0xffa, 12),
    (0x1ff9, 13),
    (0x15, 6),
    (0xf8, 8),
    (0x7fa, 11),
    (0x3fa, 10),
    (0x3fb, 10),
    (0xf9, 8),
    (0x7fb, 11),
    (0xfa, 8),
    (0x16, 6),
    (0x17, 6),
    (0x18, 6),
    (0x0, 5),
    (0x1, 5),
    (0x2, 5),
    (0x19, 6),
    (0x1a, 6),
    (0x1b, 6),
    (0x1c, 6),
    (0x1d, 6),
    (0x1e, 6),
    (0x1f, 6),
    (0x5c, 7),
    (0xfb, 8),
    (0x7ffc, 15),
    (0x20, 6),
    (0xffb, 12),
    (0x3fc, 10),
    (0x1ffa, 13),
    (0x21, 6),
    (0x5d, 7),
    (0x5e, 7),
    (0x5f, 7),
    (0x60, 7),
    (0x61, 7),
    (0x62, 7),
    (0x63, 7),
    (0x64, 7),
    (0x65, 7),
    (0x66, 7),
    (0x67, 7),
    (0x68, 7),
    (0x69, 7),
    (0x6a, 7),
    (0x6b, 7),
    (0x6c, 7),
    (0x6d, 7),
    (0x6e, 7),
    (0x6f, 7),
    (0x70, 7),
    (0x71, 7),
    (0x72, 7),
    (0xfc, 8),
    (0x73, 7),
    (0xfd, 8),
    (0x1ffb, 13),
    (0x7fff0, 19),
    (0x1ffc, 13),
    (0x3ffc, 14),
    (0x22, 6),
    (0x7ffd, 15),
    (0x3, 5),
    (0x23, 6),
    (0x4, 5),
    (0x24, 6),
    (0x5, 5),
    (0x25, 6),
    (0x26, 6),
    (0x27, 6),
    (0x6, 5),
    (0x74, 7),
    (0x75, 7),
    (0x28, 6),
    (0x29, 6),
    (0x2a, 6),
    (0x7, 5),
    (0x2b, 6),
    (0x76, 7),
    (0x2c, 6),
    (0x8, 5),
    (0x9, 5),
    (0x2d, 6),
    (0x77, 7),
    (0x78, 7),
    (0x79, 7),
    (0x7a, 7),
    (0x7b, 7),
    (0x7ffe, 15),
    (0x7fc, 11),
    (0x3ffd, 14),
    (0x1ffd, 13),
];

/// Returns the code of `text`, padded with ones to a whole byte (section 5.2), or `None` when `text` contains a
/// character outside printable ASCII.
pub(super) fn encode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // The buffer gets its final capacity at once, because a buffer that grows leaves copies of a value behind.
    let mut out = Zeroizing::new(Vec::with_capacity(bits(text)?.div_ceil(8)));
    let (mut pending, mut length) = (0_u64, 0_u32);
    for (code, bits) in text.iter().filter_map(code) {
        pending = pending << bits | u64::from(code);
        length += u32::from(bits);
        while length >= 8 {
            length -= 8;
            out.push(low_byte(pending >> length));
        }
    }
    if length > 0 {
        let fill = 8 - length;
        out.push(low_byte(pending << fill | ((1 << fill) - 1)));
    }
    Some(out)
}

/// Returns the length of the code of `text` in bits, without the padding of the last byte.
pub(super) fn bits(text: &[u8]) -> Option<usize> {
    text.iter().map(|byte| Some(usize::from(code(byte)?.1))).sum()
}

fn code(byte: &u8) -> Option<(u32, u8)> {
    CODES.get(usize::from(byte.checked_sub(0x20)?)).copied()
}

fn low_byte(bits: u64) -> u8 {
    let [.., low] = bits.to_be_bytes();
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The strings are the examples of RFC 7541, appendices C.4 and C.6.
    #[test]
    fn strings_are_coded_as_the_standard_says() {
        for (text, code) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-key", "25a849e95ba97d7f"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("private", "aec3771a4b"),
            (
                "Mon, 21 Oct 2013 20:13:21 GMT",
                "d07abe941054d444a8200595040b8166e082a62d1bff",
            ),
            ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
            ("gzip", "9bd9ab"),
        ] {
            let coded: String = encode(text.as_bytes())
                .unwrap()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(coded, code, "{text}");
        }
    }

    #[test]
    fn no_code_is_a_prefix_of_another() {
        for (at, (code, bits)) in CODES.iter().enumerate() {
            for (other, other_bits) in CODES.iter().skip(at + 1) {
                let shared = bits.min(other_bits);
                assert_ne!(code >> (bits - shared), other >> (other_bits - shared));
            }
        }
    }

    #[test]
    fn characters_outside_printable_ascii_are_not_encoded() {
        for text in [b"\x1f".as_slice(), b"\x7f", b"a\n", b"\xff"] {
            assert!(encode(text).is_none());
        }
    }
}
