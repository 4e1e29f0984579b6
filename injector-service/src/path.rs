//! Detection of dot segments. Paths go upstream byte for byte, so a path with dot segments could leave the server's own
//! path.

/// Returns true when a path has a `.` or `..` segment, in any spelling that an upstream may read as one: percent-encoded,
/// next to an encoded slash or a backslash, or with a path parameter (`..;x`). Makes no copy, because a path may contain
/// the value of a secret.
pub(crate) fn has_dot_segment(path: &str) -> bool {
    if !path.contains('.') && !path.contains('%') {
        return false;
    }
    let mut segment = Segment::Dots(0);
    for byte in DecodedPath(path.as_bytes()) {
        segment = match (segment, byte) {
            (Segment::Dots(1 | 2), b'/' | b'\\' | b';') => return true,
            (_, b'/' | b'\\') => Segment::Dots(0),
            (Segment::Dots(count @ 0..=2), b'.') => Segment::Dots(count + 1),
            _ => Segment::Other,
        };
    }
    matches!(segment, Segment::Dots(1 | 2))
}

/// The bytes of a segment so far.
enum Segment {
    /// The segment consists of this number of dots.
    Dots(u8),
    Other,
}

/// The bytes of a path, with `%2e`, `%2f`, `%5c` and `%3b` decoded once.
struct DecodedPath<'p>(&'p [u8]);

impl Iterator for DecodedPath<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = match self.0 {
            [b'%', b'2', b'e' | b'E', rest @ ..] => (b'.', rest),
            [b'%', b'2', b'f' | b'F', rest @ ..] => (b'/', rest),
            [b'%', b'5', b'c' | b'C', rest @ ..] => (b'\\', rest),
            [b'%', b'3', b'b' | b'B', rest @ ..] => (b';', rest),
            [byte, rest @ ..] => (*byte, rest),
            [] => return None,
        };
        self.0 = rest;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_found_in_every_spelling() {
        for path in [
            "/..",
            "/a/../b",
            "/./a",
            "/a/.",
            "/a/%2e%2e/b",
            "/a/%2E./b",
            "/a/.%2e",
            "/%2e",
            "/a/..;x=y/b",
            "/a/..%3bx/b",
            "/a/..%2fb",
            "/a%2f..",
            "/a/..\\b",
            "/a%5C..%5cb",
            "/a/..?q",
        ] {
            let path = path.split('?').next().unwrap();
            assert!(has_dot_segment(path), "{path}");
        }
    }

    #[test]
    fn other_paths_are_left_alone() {
        for path in [
            "/",
            "/a.b",
            "/...",
            "/..a",
            "/a..",
            "/.well-known/x",
            "//a//",
            "/a;b=c",
            "/%2fa",
            "/%252e%252e/",
            "/%",
        ] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }
}
