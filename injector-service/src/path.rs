//! Detection of dot segments. Paths go upstream byte for byte, so a path with dot segments could leave the server's own
//! path.

/// Returns true when a path has a `.` or `..` segment, in any spelling that an upstream may read as one: percent-encoded,
/// next to an encoded slash or a backslash, or with a path parameter (`..;x`).
pub(crate) fn has_dot_segment(path: &str) -> bool {
    if !path.contains('.') && !path.contains('%') {
        return false;
    }
    let plain = decode(path);
    plain
        .split(['/', '\\'])
        .any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
}

/// Decodes `%2e`, `%2f`, `%5c` and `%3b` once.
fn decode(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let code = after.get(..2).unwrap_or_default().to_ascii_lowercase();
        let (decoded, skip) = match code.as_str() {
            "2e" => ('.', 2),
            "2f" => ('/', 2),
            "5c" => ('\\', 2),
            "3b" => (';', 2),
            _ => ('%', 0),
        };
        plain.push(decoded);
        rest = after.get(skip..).unwrap_or_default();
    }
    plain.push_str(rest);
    plain
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
