use zeroize::Zeroizing;

/// A JSON string with its quotes, which may have plaintext in it and is wiped on drop.
pub struct JsonString(Zeroizing<Vec<u8>>);

impl JsonString {
    /// Encodes the text that `pieces` make together.
    pub fn concat(pieces: &[&str]) -> Self {
        let write = |sink: &mut dyn FnMut(&[u8])| {
            sink(b"\"");
            pieces.iter().for_each(|piece| write_escaped(piece, &mut *sink));
            sink(b"\"");
        };
        let mut len = 0;
        write(&mut |piece| len += piece.len());
        // The buffer gets its exact size at once, because a buffer that grows leaves unwiped copies behind.
        let mut string = Zeroizing::new(Vec::with_capacity(len));
        write(&mut |piece| string.extend_from_slice(piece));
        Self(string)
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

pub(super) fn write_string(text: &str, sink: &mut impl FnMut(&[u8])) {
    sink(b"\"");
    write_escaped(text, sink);
    sink(b"\"");
}

fn write_escaped(text: &str, sink: &mut (impl FnMut(&[u8]) + ?Sized)) {
    for run in text.as_bytes().split_inclusive(|&byte| must_escape(byte)) {
        match run.split_last() {
            Some((&last, plain)) if must_escape(last) => {
                sink(plain);
                write_escape(last, sink);
            }
            _ => sink(run),
        }
    }
}

fn must_escape(byte: u8) -> bool {
    matches!(byte, 0x00..=0x1F | b'"' | b'\\')
}

fn write_escape(byte: u8, sink: &mut (impl FnMut(&[u8]) + ?Sized)) {
    match byte {
        b'\n' => sink(b"\\n"),
        b'\r' => sink(b"\\r"),
        b'\t' => sink(b"\\t"),
        b'"' | b'\\' => sink(&[b'\\', byte]),
        _ => sink(&[
            b'\\',
            b'u',
            b'0',
            b'0',
            b'0' + (byte >> 4),
            hex_digit(byte & 0x0F),
        ]),
    }
}

fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + (nibble - 10),
    }
}

#[cfg(test)]
mod tests {
    use super::JsonString;

    #[test]
    fn the_pieces_make_one_string_of_exactly_its_size() {
        let string = JsonString::concat(&["Bearer ", "a\"\\\n\u{1}", "", "\u{e9}\u{1f511}"]);
        assert_eq!(
            string.expose(),
            "\"Bearer a\\\"\\\\\\n\\u0001\u{e9}\u{1f511}\"".as_bytes()
        );
        assert_eq!(string.0.capacity(), string.0.len());
        assert_eq!(JsonString::concat(&[]).expose(), b"\"\"");
    }
}
