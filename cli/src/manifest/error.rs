//! The errors of documents. The messages name lines and fields, and repeat nothing of the document but names.

use injector_service::description::{DescriptionError, FileError};
use proto::{LabelError, SecretName, SecretNameError, ServerName};
use vault_service::vault::LabelsError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("it is empty; it begins with `apiVersion: aerostack/v1`")]
    Empty,
    #[error("apiVersion: this release reads {expected}, and the file has another version")]
    ApiVersion { expected: &'static str },
    #[error("kind: it must be {expected}")]
    Kind { expected: &'static str },
    #[error(transparent)]
    Yaml(#[from] FileError),
    #[error("name: {0}")]
    Name(LabelError),
    #[error("kept_versions: it is 1 to 100")]
    KeptVersions,
    /// `line` is the first line of the entry.
    #[error("line {line}: secret: {error}")]
    Secret { line: u64, error: SecretError },
    #[error("line {line}: secret {name} is there above already")]
    SameSecret { line: u64, name: SecretName },
    #[error("line {line}: server: {error}")]
    Server { line: u64, error: DescriptionError },
    #[error("line {line}: server {name} is there above already")]
    SameServer { line: u64, name: ServerName },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("name: {0}")]
    Name(SecretNameError),
    #[error(
        "upstream_origins: number {0} is not an origin; write https://api.github.com or https://*.example.com"
    )]
    Origin(usize),
    #[error("labels: {0}")]
    Labels(&'static str),
    #[error("expires_at: write a time such as 2027-01-31T00:00:00Z")]
    ExpiresAt,
}

impl SecretError {
    /// The vault's own messages repeat the label.
    pub(super) fn labels(error: LabelsError) -> Self {
        Self::Labels(match error {
            LabelsError::TooMany => "there are too many",
            LabelsError::Key(_) => {
                "a key is 1 to 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends, and may have a DNS name \
                 and a `/` before it"
            }
            LabelsError::Value(_) => {
                "a value is empty, or 1 to 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends"
            }
        })
    }
}
