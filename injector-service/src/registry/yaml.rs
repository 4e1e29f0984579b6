//! How the injector reads the YAML that people write: strictly, and with errors that repeat nothing of it.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_saphyr::{Error as Yaml, MergeKeyPolicy, Options, Spanned};

use super::error::FileError;

/// The layout that this release reads and writes.
pub(super) const VERSION: u64 = 1;

/// The most bytes that a file has.
pub(crate) const MAX_BYTES: usize = 8 * 1024 * 1024;

/// A whole file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout<S> {
    pub(super) version: u64,
    pub(super) servers: Vec<S>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

/// What stands under `servers` in a file, and where.
pub(crate) fn read<S: DeserializeOwned>(bytes: &[u8]) -> Result<Vec<Spanned<S>>, FileError> {
    if bytes.len() > MAX_BYTES {
        return Err(FileError::TooLarge);
    }
    let text = str::from_utf8(bytes).map_err(|_| FileError::NotUtf8)?;
    // First of all, since the fields of another version may be other fields.
    if let Ok(Versioned { version }) = serde_saphyr::from_str_with_options(text, options())
        && version != VERSION
    {
        return Err(FileError::Version(version));
    }
    let Layout { version: _, servers } =
        serde_saphyr::from_str_with_options(text, options()).map_err(|error| of_yaml(&error))?;
    Ok(servers)
}

/// Strict, and without anything that makes a file mean more than it shows: no anchors, merge keys or tags.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: 16,
            flow_nesting_limit: 16,
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
            max_inclusion_depth: 0,
            // Without aliases the size of the file bounds the rest; it has been checked.
            max_events: MAX_BYTES,
            max_nodes: MAX_BYTES,
            max_buffered_comment_events: 10_000,
        },
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        with_snippet: false,
    }
}

/// What the YAML library says, in words that repeat nothing of the file but names that look like fields.
fn of_yaml(error: &Yaml) -> FileError {
    let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
    FileError::Yaml {
        line,
        column,
        problem: problem(error),
    }
}

fn problem(error: &Yaml) -> String {
    match error.without_snippet() {
        // The parser's own words name at most one character or bracket.
        Yaml::ExternalMessage { msg, .. } => format!("it is not YAML: {msg}"),
        Yaml::SerdeUnknownField { field, expected, .. } => {
            format!(
                "{} is not one of the fields {}",
                named("field", Some(field)),
                expected.join(", ")
            )
        }
        Yaml::SerdeUnknownVariant { expected, .. } => format!("it must be one of {}", expected.join(", ")),
        Yaml::SerdeMissingField { field, .. } => format!("field {field} is missing"),
        Yaml::DuplicateMappingKey { key, .. } => format!("{} is given twice", named("field", key.as_ref())),
        Yaml::SerdeInvalidType { expected, .. } | Yaml::SerdeInvalidValue { expected, .. } => {
            format!("it must be {expected}")
        }
        Yaml::Unexpected {
            expected: "sequence start",
            ..
        } => "it must be a list".to_owned(),
        Yaml::Unexpected {
            expected: "mapping start",
            ..
        } => "it must be `field: value` lines".to_owned(),
        Yaml::Unexpected { expected, .. } => format!("it must be {expected}"),
        Yaml::InvalidScalar { ty, .. } => format!("it must be of type {ty}"),
        Yaml::InvalidBooleanStrict { .. } => "it must be true or false".to_owned(),
        Yaml::NullIntoString { .. } => "it must be text, and is empty".to_owned(),
        Yaml::MultipleDocuments { .. } => "there must be one document".to_owned(),
        Yaml::Eof { .. } => "the file ends too early; it begins with `version: 1`".to_owned(),
        Yaml::Budget { .. } | Yaml::UnknownAnchor { .. } | Yaml::MergeKeyNotAllowed { .. } => {
            "anchors, aliases and merge keys are not read, nor more than one document, nor deep nesting"
                .to_owned()
        }
        Yaml::UnsupportedTag { .. } | Yaml::TaggedStructFieldName { .. } => "tags are not read".to_owned(),
        _ => "it is not as it must be".to_owned(),
    }
}

/// A key that looks like one of a field, by its name; else not.
fn named(what: &str, key: Option<&String>) -> String {
    let like_a_field = |key: &&String| {
        (1..=32).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    match key.filter(like_a_field) {
        Some(key) => format!("{what} {key}"),
        None => format!("a {what}"),
    }
}
