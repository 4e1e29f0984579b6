//! The formats of files of secrets.

use std::fmt;

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines NAME=VALUE
    Dotenv,
    /// Manifests of Kubernetes Secrets, in YAML or JSON
    Kubernetes,
    /// One JSON object, whose members are texts
    Json,
}

/// The reason for which a text has no format. The message never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("there is nothing in it")]
    Empty,
    #[error(
        "it is neither NAME=VALUE lines, nor a manifest of a Kubernetes Secret with `apiVersion` and `kind`, nor a JSON object"
    )]
    Unknown,
    #[error(
        "it is a JSON list: a JSON object has the names as its members, such as {{\"GITHUB_TOKEN\": \"…\"}}"
    )]
    List,
    #[error(
        "it has lines NAME=VALUE and lines of a Kubernetes manifest, so its format is ambiguous: choose the format yourself"
    )]
    AmbiguousLines,
    #[error(
        "it could be a Kubernetes manifest or an object of secrets, so its format is ambiguous: choose the format yourself"
    )]
    AmbiguousObject,
    #[error("it was read as {0}, and sets no secret")]
    NoSecret(Format),
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dotenv => "NAME=VALUE lines",
            Self::Kubernetes => "a Kubernetes manifest",
            Self::Json => "a JSON object",
        })
    }
}
