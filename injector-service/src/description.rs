//! Servers in documents of the command line, in the YAML form of the servers file.
//!
//! A document is about one workspace, so its servers name none. The fields that the injector writes into the servers file
//! (`uid`, `revision`, …) are refused in a document, because a document does not decide them.

use proto::{LabelError, ServerName, WorkspaceName, injector::v1 as api};
use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};

pub use crate::registry::FileError;
use crate::{
    address::OwnListeners,
    registry::{
        server::{RawServer, Spec, SpecError},
        yaml,
    },
};

/// A server as it stands in a document, before it is checked.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct RawDescription(RawServer);

/// A server without its workspace and its history.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerDescription {
    name: ServerName,
    spec: Spec,
}

/// The reason why a server in a document is not valid. The messages repeat nothing of the document but names of secrets.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    #[error("workspace: it is another one than the document's; leave it out")]
    OtherWorkspace,
    #[error("{0}: the injector decides it; leave it out")]
    DecidedByInjector(&'static str),
    #[error("name: {0}")]
    Name(LabelError),
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// Parses a document strictly: without anchors, aliases, merge keys and tags. An error names the line, and repeats nothing of
/// the document but keys that look like names of fields.
pub fn parse_yaml<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FileError> {
    yaml::parse(bytes)
}

impl RawDescription {
    /// Parses a server of a document about `workspace`.
    pub fn parse(self, workspace: &WorkspaceName) -> Result<ServerDescription, DescriptionError> {
        let Self(raw) = self;
        if !(raw.workspace.is_empty() || raw.workspace == workspace.as_str()) {
            return Err(DescriptionError::OtherWorkspace);
        }
        let decided = [
            ("uid", raw.uid.is_some()),
            ("revision", raw.revision.is_some()),
            ("create_time", raw.create_time.is_some()),
            ("update_time", raw.update_time.is_some()),
            ("workspace_uid", raw.workspace_uid.is_some()),
        ];
        if let Some((field, _)) = decided.into_iter().find(|(_, is_stated)| *is_stated) {
            return Err(DescriptionError::DecidedByInjector(field));
        }
        Ok(ServerDescription {
            name: ServerName::parse(&raw.name).map_err(DescriptionError::Name)?,
            // The addresses of the injector's listeners are not known here. The injector checks them.
            spec: raw.spec()?.check(&OwnListeners::default())?,
        })
    }
}

impl ServerDescription {
    /// Returns the description of a server that an injector answered with. Fails for a server that this release cannot
    /// describe.
    pub fn of_wire(server: &api::Server) -> Result<Self, DescriptionError> {
        Ok(Self {
            name: ServerName::parse(&server.name).map_err(DescriptionError::Name)?,
            spec: Spec::of_answer(server)?,
        })
    }

    /// Returns the server that this description has in `workspace`, for a request.
    pub fn to_wire(&self, workspace: &WorkspaceName) -> api::Server {
        api::Server {
            workspace: workspace.to_string(),
            name: self.name.to_string(),
            ..self.spec.to_wire()
        }
    }

    pub fn name(&self) -> &ServerName {
        &self.name
    }
}

/// Writes the YAML form of the servers file, with the fields that have not their default.
impl Serialize for ServerDescription {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { name, spec } = self;
        let raw = RawServer {
            name: name.to_string(),
            ..RawServer::of_spec(spec)
        };
        raw.serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
