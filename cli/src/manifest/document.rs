//! The YAML form of a document: parsed strictly, and written in one order only.

use std::collections::BTreeSet;

use injector_service::description::{FileError, RawDescription, ServerDescription, parse_yaml};
use proto::{WorkspaceName, vault::v1::Plan};
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::{
    error::ManifestError,
    secret::{RawSecret, SecretMetadata},
};
use crate::failure::{Failure, FailureKind};

const API_VERSION: &str = "aerostack/v1";
const KIND: &str = "Workspace";

/// The numbers of versions of a secret that a workspace may keep.
const KEPT_VERSIONS: std::ops::RangeInclusive<u32> = 1..=100;

/// A workspace as a document describes it. `None` means that the document says nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) name: WorkspaceName,
    pub(crate) plan: Option<PlanName>,
    pub(crate) kept_versions: Option<u32>,
    /// Ordered by name, like the servers.
    pub(crate) secrets: Option<Vec<SecretMetadata>>,
    pub(crate) servers: Option<Vec<ServerDescription>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PlanName {
    Free,
    Starter,
    Pro,
    Business,
    Enterprise,
}

impl PlanName {
    /// Returns `None` for a plan that this release does not know.
    pub(crate) fn of_wire(plan: Plan) -> Option<Self> {
        match plan {
            Plan::Unspecified => None,
            Plan::Free => Some(Self::Free),
            Plan::Starter => Some(Self::Starter),
            Plan::Pro => Some(Self::Pro),
            Plan::Business => Some(Self::Business),
            Plan::Enterprise => Some(Self::Enterprise),
        }
    }

    pub(crate) fn to_wire(self) -> Plan {
        match self {
            Self::Free => Plan::Free,
            Self::Starter => Plan::Starter,
            Self::Pro => Plan::Pro,
            Self::Business => Plan::Business,
            Self::Enterprise => Plan::Enterprise,
        }
    }
}

/// The fields that tell which document a file is. Another version may have other fields.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    name: String,
    plan: Option<PlanName>,
    kept_versions: Option<u32>,
    secrets: Option<Vec<Spanned<RawSecret>>>,
    servers: Option<Vec<Spanned<RawDescription>>>,
}

/// The fields in the order in which they are written.
#[derive(Serialize)]
struct WrittenManifest<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<PlanName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_versions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<&'a [SecretMetadata]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<&'a [ServerDescription]>,
}

impl Manifest {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if is_empty(bytes) {
            return Err(ManifestError::Empty);
        }
        if let Ok(Header { api_version, kind }) = parse_yaml(bytes) {
            if api_version != API_VERSION {
                return Err(ManifestError::ApiVersion {
                    expected: API_VERSION,
                });
            }
            if kind != KIND {
                return Err(ManifestError::Kind { expected: KIND });
            }
        }
        let RawManifest {
            _api_version,
            _kind,
            name,
            plan,
            kept_versions,
            secrets,
            servers,
        } = parse_yaml(bytes)?;
        if kept_versions.is_some_and(|kept| !KEPT_VERSIONS.contains(&kept)) {
            return Err(ManifestError::KeptVersions);
        }
        let name = WorkspaceName::parse(&name).map_err(ManifestError::Name)?;
        Ok(Self {
            plan,
            kept_versions,
            secrets: secrets.map(parse_secrets).transpose()?,
            servers: servers.map(|servers| parse_servers(servers, &name)).transpose()?,
            name,
        })
    }

    /// Writes the document, and refuses a text that would not read back as the same document.
    pub(crate) fn render(&self) -> Result<String, Failure> {
        let Self {
            name,
            plan,
            kept_versions,
            secrets,
            servers,
        } = self;
        let written = WrittenManifest {
            api_version: API_VERSION,
            kind: KIND,
            name: name.as_str(),
            plan: *plan,
            kept_versions: *kept_versions,
            secrets: secrets.as_deref(),
            servers: servers.as_deref(),
        };
        let text =
            serde_saphyr::to_string(&written).map_err(|error| Failure::new(FailureKind::Internal, error))?;
        match Self::parse(text.as_bytes()) {
            Ok(read) if read == *self => Ok(text),
            Err(ManifestError::Yaml(error @ FileError::TooLarge)) => {
                let message = format!("the document of {name} cannot be written: {error}");
                Err(Failure::new(FailureKind::Refused, message)
                    .hint("no document describes this workspace; divide it into several workspaces"))
            }
            Ok(_) | Err(_) => {
                let message = format!("{name} cannot be written so that it reads back the same");
                Err(Failure::new(FailureKind::Internal, message))
            }
        }
    }
}

/// Returns true for a document of blank lines, comments and markers alone.
fn is_empty(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.all(|line| line.is_empty() || line.starts_with(b"#") || line == b"---" || line == b"...")
}

fn parse_secrets(raw: Vec<Spanned<RawSecret>>) -> Result<Vec<SecretMetadata>, ManifestError> {
    let mut names = BTreeSet::new();
    let mut secrets = Vec::with_capacity(raw.len());
    for entry in raw {
        let line = entry.referenced.line();
        let secret = entry
            .value
            .parse()
            .map_err(|error| ManifestError::Secret { line, error })?;
        if !names.insert(secret.name.clone()) {
            let name = secret.name;
            return Err(ManifestError::SameSecret { line, name });
        }
        secrets.push(secret);
    }
    secrets.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(secrets)
}

fn parse_servers(
    raw: Vec<Spanned<RawDescription>>,
    workspace: &WorkspaceName,
) -> Result<Vec<ServerDescription>, ManifestError> {
    let mut names = BTreeSet::new();
    let mut servers = Vec::with_capacity(raw.len());
    for entry in raw {
        let line = entry.referenced.line();
        let server = entry
            .value
            .parse(workspace)
            .map_err(|error| ManifestError::Server { line, error })?;
        if !names.insert(server.name().clone()) {
            let name = server.name().clone();
            return Err(ManifestError::SameServer { line, name });
        }
        servers.push(server);
    }
    servers.sort_by(|one, other| one.name().cmp(other.name()));
    Ok(servers)
}

#[cfg(test)]
mod tests;
