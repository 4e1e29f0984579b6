//! Runs every example of `cli/README.md`, and compares the output with the documented output.

use std::fs;

use crate::shell::TestServices;

const DOCUMENTATION: &str = include_str!("../../README.md");

/// A line of shell, and its documented output.
struct Example {
    line: String,
    printed: Vec<String>,
}

/// Returns the examples in the blocks that are marked `console`.
fn examples() -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut inside = false;
    for text in DOCUMENTATION.lines() {
        match text.strip_prefix("$ ") {
            _ if text.starts_with("```") => inside = text == "```console",
            Some(line) if inside => examples.push(Example {
                line: line.to_owned(),
                printed: Vec::new(),
            }),
            None if inside => examples.last_mut().unwrap().printed.push(text.to_owned()),
            _ => {}
        }
    }
    examples
}

/// Replaces dates by `DATE`, and several spaces by two, because the width of a table's columns depends on the cells.
fn normalize(line: &str) -> String {
    let mut normalized = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let date = rest.get(..10).is_some_and(|date| {
            let digits = [0, 1, 2, 3, 5, 6, 8, 9];
            date.bytes().enumerate().all(|(at, byte)| {
                if digits.contains(&at) {
                    byte.is_ascii_digit()
                } else {
                    byte == b'-'
                }
            })
        });
        if date {
            normalized.push_str("DATE");
            rest = &rest[10..];
        } else if rest.starts_with("  ") {
            normalized.push_str("  ");
            rest = rest.trim_start_matches(' ');
        } else {
            normalized.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    normalized
}

/// Compares a line of output with the documented line, in which `…` matches any text.
fn is_as_documented(line: &str, documented: &str) -> bool {
    let (line, documented) = (normalize(line), normalize(documented));
    let mut pieces = documented.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_prints_what_the_documentation_says() {
    let services = TestServices::start().await;
    fs::write(services.home().join("token.txt"), "ghp_from_a_file\n").unwrap();
    let examples = examples();
    assert!(examples.len() >= 15, "the examples were not found");
    for Example { line, printed } in examples {
        let mut message = services.sh(&line).await;
        for (name, documented) in [
            ("vault", "127.0.0.1:7150"),
            ("injector", "127.0.0.1:7151"),
            ("data_plane", "127.0.0.1:7100"),
        ] {
            message = message.replace(&services.address(name), documented);
        }
        let lines: Vec<&str> = message.lines().collect();
        let same = lines.len() == printed.len()
            && lines
                .iter()
                .zip(&printed)
                .all(|(line, documented)| is_as_documented(line, documented));
        assert!(
            same,
            "$ {line}\n{message}\nbut the documentation says:\n{}",
            printed.join("\n")
        );
    }
}

/// The documentation must keep the commands of the list as they are. The test above runs them.
#[test]
fn the_known_commands_are_documented_verbatim() {
    let lines: Vec<String> = examples().into_iter().map(|example| example.line).collect();
    for known in [
        "aerostack workspace secret set my-workspace GITHUB_TOKEN ghp_abc123def456...",
        "aerostack workspace secret list my-workspace",
        "aerostack workspace secret delete my-workspace GITHUB_TOKEN",
        "aerostack workspace server add my-workspace @aerostack/github --secrets GITHUB_TOKEN",
        "aerostack workspace server update my-workspace github --secrets GITHUB_TOKEN,GITHUB_WEBHOOK_SECRET",
    ] {
        assert!(lines.iter().any(|line| line == known), "{known}");
    }
}

#[test]
fn a_line_that_differs_from_the_documentation_is_found() {
    assert!(is_as_documented("A    2026-11-23  x", "A  2001-01-01  x"));
    assert!(is_as_documented("took 3.1 ms", "took … ms"));
    assert!(!is_as_documented("took 3.1 ms.", "took … ms"));
    assert!(!is_as_documented("GITHUB_TOKEN created", "GITHUB_TOKEN replaced"));
    assert!(!is_as_documented("a b", "a"));
}
