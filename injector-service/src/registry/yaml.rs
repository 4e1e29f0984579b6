//! Strict reading of YAML, with errors that repeat nothing of the file.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_saphyr::{Error as Yaml, MergeKeyPolicy, Options, Spanned};

use super::error::{FileError, MAX_FILE_SIZE};

/// The version of the format that this release reads and writes.
pub(super) const VERSION: u64 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document<S> {
    pub(super) version: u64,
    pub(super) servers: Vec<S>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

/// Returns the entries under `servers`, with their positions in the file.
pub(crate) fn read<S: DeserializeOwned>(bytes: &[u8]) -> Result<Vec<Spanned<S>>, FileError> {
    let text = checked_text(bytes)?;
    // The version comes first, because another version may have other fields.
    if let Ok(Versioned { version }) = serde_saphyr::from_str_with_options(text, options())
        && version != VERSION
    {
        return Err(FileError::Version(version));
    }
    let Document { version: _, servers } = parse(bytes)?;
    Ok(servers)
}

/// Parses a document. A type that does not deny unknown fields reads its own fields alone, such as a version.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FileError> {
    let text = checked_text(bytes)?;
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| file_error(&error))
}

fn checked_text(bytes: &[u8]) -> Result<&str, FileError> {
    if bytes.len() > MAX_FILE_SIZE {
        return Err(FileError::TooLarge);
    }
    str::from_utf8(bytes).map_err(|_| FileError::NotUtf8)
}

/// Refuses everything that makes a file mean more than it shows: anchors, aliases, merge keys and tags.
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
            // Without aliases, the size of the file bounds the numbers of events and nodes.
            max_events: MAX_FILE_SIZE,
            max_nodes: MAX_FILE_SIZE,
            max_buffered_comment_events: 10_000,
        },
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        with_snippet: false,
    }
}

/// Converts an error of the YAML library. The result repeats nothing of the file but keys that look like names of fields.
fn file_error(error: &Yaml) -> FileError {
    let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
    FileError::Yaml {
        line,
        column,
        problem: problem(error),
    }
}

fn problem(error: &Yaml) -> String {
    match error.without_snippet() {
        // The messages of the parser repeat at most one character of the file.
        Yaml::ExternalMessage { msg, .. } => format!("it is not YAML: {msg}"),
        Yaml::SerdeUnknownField { field, expected, .. } => {
            format!(
                "{} is not one of the fields {}",
                field_named(Some(field)),
                expected.join(", ")
            )
        }
        Yaml::SerdeUnknownVariant { expected, .. } => format!("it must be one of {}", expected.join(", ")),
        Yaml::SerdeMissingField { field, .. } => format!("field {field} is missing"),
        Yaml::DuplicateMappingKey { key, .. } => format!("{} is given twice", field_named(key.as_ref())),
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

/// Returns "field NAME" for a key that looks like the name of a field, else "a field".
fn field_named(key: Option<&String>) -> String {
    let like_a_field = |key: &&String| {
        (1..=32).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    match key.filter(like_a_field) {
        Some(key) => format!("field {key}"),
        None => "a field".to_owned(),
    }
}
