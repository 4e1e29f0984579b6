//! The rules that decide which places a value fits. The vault warns by these rules, and the injector enforces them.

use crate::vault::v1::ValueFacts;

/// Maximum size of a value in a header, in bytes.
pub const MAX_HEADER_VALUE: usize = 8192;

/// The reason for which a value does not fit a place. The message completes the sentence "the value …" and reveals
/// nothing else about the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueFault {
    /// The value is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// The value begins with U+FEFF, which some editors write.
    #[error("begins with a byte order mark")]
    ByteOrderMark,
    /// The value has several lines.
    #[error("has several lines")]
    SeveralLines,
    /// The value is one line with a line break at its end.
    #[error("ends with a line break")]
    LineBreakAtEnd,
    /// A byte is not in the range 0x20 to 0x7E.
    #[error("has other characters than printable ASCII, such as a tab or an umlaut")]
    NotPrintableAscii,
    /// The value begins or ends with a space.
    #[error("begins or ends with a space")]
    OuterSpace,
    /// The value is longer than a header may be.
    #[error("has more than {MAX_HEADER_VALUE} bytes")]
    TooLong,
    /// The value has a control character other than a line break.
    #[error("has a control character, such as a tab")]
    ControlCharacter,
    /// The value has a colon, which ends the user name of Basic credentials.
    #[error("has a colon")]
    Colon,
    /// The value has a character that ends or quotes a cookie.
    #[error("has a space, a comma, a semicolon, a quotation mark or a backslash")]
    NotCookieOctets,
    /// The value is a dot segment of a path, or could be a part of one.
    #[error("consists of dots")]
    OnlyDots,
    /// The value has only one line, but PEM has several.
    #[error("is not in PEM form, which has several lines")]
    NotPem,
}

impl ValueFacts {
    /// Returns the facts about a value.
    pub fn of(value: &[u8]) -> Self {
        let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let breaks_at_end = value.iter().rev().take_while(|byte| is_break(byte)).count();
        let lines = value.split_at(value.len() - breaks_at_end).0;
        Self {
            size: u32::try_from(value.len()).unwrap_or(u32::MAX),
            utf8: std::str::from_utf8(value).is_ok(),
            printable_ascii: value.iter().all(|byte| (0x20..=0x7e).contains(byte)),
            outer_space: value.first() == Some(&b' ') || value.last() == Some(&b' '),
            byte_order_mark: value.starts_with(b"\xef\xbb\xbf"),
            several_lines: lines.iter().any(is_break),
            line_break_at_end: breaks_at_end > 0,
            control_character: str::from_utf8(value).is_ok_and(|text| text.chars().any(char::is_control)),
            colon: value.contains(&b':'),
            cookie_octets: value.iter().all(is_cookie_octet),
            only_dots: value.iter().all(|byte| *byte == b'.'),
        }
    }

    /// Returns the reason why the value is not legal in a header, or `None` when it is: 1 to 8,192 bytes of 0x20 to 0x7E,
    /// no space first or last, so that every server reads it as it was meant.
    pub fn header_fault(&self) -> Option<ValueFault> {
        first_fault([
            (!self.utf8, ValueFault::NotUtf8),
            (self.byte_order_mark, ValueFault::ByteOrderMark),
            (self.several_lines, ValueFault::SeveralLines),
            (self.line_break_at_end, ValueFault::LineBreakAtEnd),
            (!self.printable_ascii, ValueFault::NotPrintableAscii),
            (self.outer_space, ValueFault::OuterSpace),
            (self.is_longer_than_a_header(), ValueFault::TooLong),
        ])
    }

    /// Returns the reason why the value is not legal in a cookie, or `None` when it is: 1 to 8,192 cookie octets.
    pub fn cookie_fault(&self) -> Option<ValueFault> {
        first_fault([
            (!self.utf8, ValueFault::NotUtf8),
            (self.byte_order_mark, ValueFault::ByteOrderMark),
            (self.several_lines, ValueFault::SeveralLines),
            (self.line_break_at_end, ValueFault::LineBreakAtEnd),
            (!self.printable_ascii, ValueFault::NotPrintableAscii),
            (!self.cookie_octets, ValueFault::NotCookieOctets),
            (self.is_longer_than_a_header(), ValueFault::TooLong),
        ])
    }

    /// Returns the reason why the value is not legal in a query, or `None` when it is: up to 8,192 bytes of UTF-8 without
    /// control characters.
    pub fn query_fault(&self) -> Option<ValueFault> {
        first_fault([
            (!self.utf8, ValueFault::NotUtf8),
            (self.several_lines, ValueFault::SeveralLines),
            (self.line_break_at_end, ValueFault::LineBreakAtEnd),
            (self.control_character, ValueFault::ControlCharacter),
            (self.is_longer_than_a_header(), ValueFault::TooLong),
        ])
    }

    /// Returns the reason why the value is not legal in a path, or `None` when it is: as in a query, and not only dots,
    /// because servers and clients resolve the segments `.` and `..`.
    pub fn path_fault(&self) -> Option<ValueFault> {
        let dots = self.only_dots.then_some(ValueFault::OnlyDots);
        self.query_fault().or(dots)
    }

    /// Returns the reason why the value is not legal as the user name of Basic credentials (RFC 7617), or `None` when it
    /// is: up to 8,192 bytes of UTF-8 without control characters and colons.
    pub fn basic_username_fault(&self) -> Option<ValueFault> {
        let colon = self.colon.then_some(ValueFault::Colon);
        self.basic_password_fault().or(colon)
    }

    /// Returns the reason why the value is not legal as the password of Basic credentials (RFC 7617), or `None` when it
    /// is: up to 8,192 bytes of UTF-8 without control characters.
    pub fn basic_password_fault(&self) -> Option<ValueFault> {
        self.query_fault()
    }

    /// Returns the reason why the value cannot be text in a body, or `None` when it can.
    pub fn text_fault(&self) -> Option<ValueFault> {
        (!self.utf8).then_some(ValueFault::NotUtf8)
    }

    /// Returns the reason why the value cannot be PEM (RFC 7468), which has several lines. A value without a
    /// fault may still lack a certificate or a key.
    pub fn pem_fault(&self) -> Option<ValueFault> {
        (!self.several_lines).then_some(ValueFault::NotPem)
    }

    /// Returns the reason why the value is too long for binary gRPC metadata, which is base64 without padding.
    pub fn metadata_fault(&self) -> Option<ValueFault> {
        let encoded = (self.size as usize * 4).div_ceil(3);
        (encoded > MAX_HEADER_VALUE).then_some(ValueFault::TooLong)
    }

    fn is_longer_than_a_header(&self) -> bool {
        self.size as usize > MAX_HEADER_VALUE
    }

    /// Returns the encoding of the facts in the authenticated data of a sealed answer: the size in big-endian order, then
    /// 16 bits in big-endian order, one for each other fact in the order of the fields, starting with the lowest bit.
    pub(crate) fn to_bytes(self) -> [u8; 6] {
        let Self {
            size,
            utf8,
            printable_ascii,
            outer_space,
            byte_order_mark,
            several_lines,
            line_break_at_end,
            control_character,
            colon,
            cookie_octets,
            only_dots,
        } = self;
        let bits = [
            utf8,
            printable_ascii,
            outer_space,
            byte_order_mark,
            several_lines,
            line_break_at_end,
            control_character,
            colon,
            cookie_octets,
            only_dots,
        ];
        let bits = bits
            .into_iter()
            .rev()
            .fold(0, |bits, bit| (bits << 1) | u16::from(bit));
        let [a, b, c, d] = size.to_be_bytes();
        let [high, low] = bits.to_be_bytes();
        [a, b, c, d, high, low]
    }
}

/// Returns true for a character that may stand in a cookie without quotation marks (RFC 6265, section 4.1.1).
fn is_cookie_octet(byte: &u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}

fn first_fault<const N: usize>(faults: [(bool, ValueFault); N]) -> Option<ValueFault> {
    let mut faults = faults.into_iter();
    faults.find_map(|(is_so, fault)| is_so.then_some(fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_in_headers_and_in_bodies() {
        let (most, long) = ("x".repeat(MAX_HEADER_VALUE), "x".repeat(MAX_HEADER_VALUE + 1));
        for (value, in_header, in_body) in [
            (b"ghp_abc".as_slice(), None, None),
            (b"two words", None, None),
            (b"tok\n", Some(ValueFault::LineBreakAtEnd), None),
            (b"tok\r\n\n", Some(ValueFault::LineBreakAtEnd), None),
            (b"\n", Some(ValueFault::LineBreakAtEnd), None),
            (b"{\n}\n", Some(ValueFault::SeveralLines), None),
            (b"a\rb", Some(ValueFault::SeveralLines), None),
            (b"a\tb", Some(ValueFault::NotPrintableAscii), None),
            (
                "schl\u{fc}ssel".as_bytes(),
                Some(ValueFault::NotPrintableAscii),
                None,
            ),
            (b"a\0", Some(ValueFault::NotPrintableAscii), None),
            (b" a", Some(ValueFault::OuterSpace), None),
            (b"a ", Some(ValueFault::OuterSpace), None),
            ("\u{feff}a".as_bytes(), Some(ValueFault::ByteOrderMark), None),
            (b"\x86\xda", Some(ValueFault::NotUtf8), Some(ValueFault::NotUtf8)),
            (most.as_bytes(), None, None),
            (long.as_bytes(), Some(ValueFault::TooLong), None),
        ] {
            let facts = ValueFacts::of(value);
            assert_eq!(
                (facts.header_fault(), facts.text_fault()),
                (in_header, in_body),
                "{value:?}"
            );
        }
    }

    #[test]
    fn binary_metadata_is_limited_by_the_size_of_its_base64() {
        for (size, fits) in [(1, true), (6144, true), (6145, false)] {
            assert_eq!(
                ValueFacts::of(&vec![0xff; size]).metadata_fault().is_none(),
                fits,
                "{size}"
            );
        }
    }

    #[test]
    fn every_fact_has_a_bit_of_its_own() {
        let bits = |value: &[u8]| ValueFacts::of(value).to_bytes();
        assert_eq!(bits(b"a"), [0, 0, 0, 1, 0b01, 0b0000_0011]);
        assert_eq!(bits(b" a"), [0, 0, 0, 2, 0b00, 0b0000_0111]);
        assert_eq!(bits(b"\xef\xbb\xbf"), [0, 0, 0, 3, 0b00, 0b0000_1001]);
        assert_eq!(bits(b"a\nb\n"), [0, 0, 0, 4, 0b00, 0b0111_0001]);
        assert_eq!(bits(b":"), [0, 0, 0, 1, 0b01, 0b1000_0011]);
        assert_eq!(bits(b".."), [0, 0, 0, 2, 0b11, 0b0000_0011]);
        assert_eq!(bits(&[0xff; 258]), [0, 0, 1, 2, 0, 0]);
    }

    #[test]
    fn every_place_has_its_own_faults() {
        use ValueFault::*;
        let long = "x".repeat(MAX_HEADER_VALUE + 1);
        for (value, query, path, username, password, cookie) in [
            (b"tok-1_~/+=".as_slice(), None, None, None, None, None),
            (
                "schl\u{fc}ssel".as_bytes(),
                None,
                None,
                None,
                None,
                Some(NotPrintableAscii),
            ),
            (b"a b", None, None, None, None, Some(NotCookieOctets)),
            (b"a;b", None, None, None, None, Some(NotCookieOctets)),
            (b"a,b", None, None, None, None, Some(NotCookieOctets)),
            (b"a\\b", None, None, None, None, Some(NotCookieOctets)),
            (b"\"a\"", None, None, None, None, Some(NotCookieOctets)),
            (b"a:b", None, None, Some(Colon), None, None),
            (b".", None, Some(OnlyDots), None, None, None),
            (b"..", None, Some(OnlyDots), None, None, None),
            (b".a", None, None, None, None, None),
            (
                b"a\tb",
                Some(ControlCharacter),
                Some(ControlCharacter),
                Some(ControlCharacter),
                Some(ControlCharacter),
                Some(NotPrintableAscii),
            ),
            (
                b"a\x7f",
                Some(ControlCharacter),
                Some(ControlCharacter),
                Some(ControlCharacter),
                Some(ControlCharacter),
                Some(NotPrintableAscii),
            ),
            (
                "a\u{85}".as_bytes(),
                Some(ControlCharacter),
                Some(ControlCharacter),
                Some(ControlCharacter),
                Some(ControlCharacter),
                Some(NotPrintableAscii),
            ),
            (
                b"a\n",
                Some(LineBreakAtEnd),
                Some(LineBreakAtEnd),
                Some(LineBreakAtEnd),
                Some(LineBreakAtEnd),
                Some(LineBreakAtEnd),
            ),
            (
                b"a\nb",
                Some(SeveralLines),
                Some(SeveralLines),
                Some(SeveralLines),
                Some(SeveralLines),
                Some(SeveralLines),
            ),
            (
                b"\xff",
                Some(NotUtf8),
                Some(NotUtf8),
                Some(NotUtf8),
                Some(NotUtf8),
                Some(NotUtf8),
            ),
            (
                long.as_bytes(),
                Some(TooLong),
                Some(TooLong),
                Some(TooLong),
                Some(TooLong),
                Some(TooLong),
            ),
        ] {
            let facts = ValueFacts::of(value);
            let value = String::from_utf8_lossy(value);
            assert_eq!(facts.query_fault(), query, "query {value:?}");
            assert_eq!(facts.path_fault(), path, "path {value:?}");
            assert_eq!(facts.basic_username_fault(), username, "user name {value:?}");
            assert_eq!(facts.basic_password_fault(), password, "password {value:?}");
            assert_eq!(facts.cookie_fault(), cookie, "cookie {value:?}");
        }
    }
}
