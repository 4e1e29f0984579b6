//! Tells the formats of files of secrets apart.

use super::{
    format::{Format, FormatError},
    json,
    node::{Content, Node},
};

/// Returns the format of a text, unless the text could have several.
pub(super) fn detect(text: &str) -> Result<Format, FormatError> {
    match text.trim_start().chars().next() {
        None => Err(FormatError::Empty),
        Some('{') => of_object(text),
        Some('[') => Err(FormatError::List),
        Some(_) => of_lines(text),
    }
}

fn of_lines(text: &str) -> Result<Format, FormatError> {
    let has_pairs = text.lines().any(is_pair);
    let is_manifest = text
        .lines()
        .any(|line| line.starts_with("apiVersion:") || line.starts_with("kind:"));
    match (has_pairs, is_manifest) {
        (true, false) => Ok(Format::Dotenv),
        (false, true) => Ok(Format::Kubernetes),
        (true, true) => Err(FormatError::AmbiguousLines),
        (false, false) => Err(FormatError::Unknown),
    }
}

/// Returns true for a line that begins as `NAME=VALUE` does, without white space in front. Lines of YAML that could look so,
/// in a block of text, are indented.
fn is_pair(line: &str) -> bool {
    let line = line.strip_prefix("export ").unwrap_or(line);
    line.split_once('=').is_some_and(|(name, _)| {
        let name = name.trim_end();
        !name.is_empty()
            && name
                .chars()
                .all(|scalar| scalar.is_ascii_alphanumeric() || matches!(scalar, '_' | '-' | '.'))
    })
}

/// A manifest has `apiVersion`, `kind`, and an object or list of content. An object with only some of these is ambiguous: read
/// as secrets, it would make a secret `KIND`.
fn of_object(text: &str) -> Result<Format, FormatError> {
    // The reader names the line of an object that is not JSON.
    let Ok(Node {
        line: _,
        content: Content::Map(members),
    }) = json::node(text)
    else {
        return Ok(Format::Json);
    };
    let is_text = |wanted: &str| {
        let found = members.iter().find(|(name, _)| name == wanted);
        found.map(|(_, member)| matches!(member.content, Content::Text(_)))
    };
    let has_text = |name| is_text(name) == Some(true);
    let has_content = ["data", "stringData", "items"]
        .iter()
        .any(|name| is_text(name) == Some(false));
    match (has_text("apiVersion") && has_text("kind"), has_content) {
        (true, true) => Ok(Format::Kubernetes),
        (false, false) => Ok(Format::Json),
        (true, false) | (false, true) => Err(FormatError::AmbiguousObject),
    }
}
