//! One server as YAML has it, and back.

use jiff::Timestamp;
use proto::{ServerName, Uid, WorkspaceName};
use serde::{Deserialize, Serialize};

use super::{
    file::{Described, EntryError, MAX_REVISION},
    server::{Server, Spec, SpecError, UpstreamUrl},
    words::{AuthTypeWord, MessagesWord, OauthWord, ProtocolWord, TlsRecord, is_default},
};
use crate::{address::OwnListeners, body_calls::BodyCalls, placement::AuthType};

/// An entry of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    workspace: String,
    name: String,
    url: String,
    #[serde(default)]
    auth_type: AuthTypeWord,
    #[serde(default)]
    injections: Vec<InjectionRecord>,
    #[serde(default, skip_serializing_if = "is_default")]
    protocol: ProtocolWord,
    #[serde(default, skip_serializing_if = "is_default")]
    protobuf_secrets_field: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    protobuf_messages: MessagesWord,
    #[serde(default, skip_serializing_if = "is_default")]
    grpc_methods: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    paths: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    tls: TlsRecord,
    #[serde(default, skip_serializing_if = "is_default")]
    allow_plaintext: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    allowed_origins: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    oauth: OauthWord,
    #[serde(default, skip_serializing_if = "is_default")]
    description: String,
    #[serde(skip_serializing_if = "is_default")]
    uid: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    create_time: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    update_time: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    workspace_uid: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectionRecord {
    secret: String,
    #[serde(default, skip_serializing_if = "is_default")]
    required: bool,
}

impl Record {
    pub(super) fn read(self, line: u64, own: &OwnListeners) -> Result<Described, EntryError> {
        let Self {
            workspace,
            name,
            url,
            auth_type,
            injections,
            protocol,
            protobuf_secrets_field,
            protobuf_messages,
            grpc_methods,
            paths,
            tls,
            allow_plaintext,
            allowed_origins,
            oauth,
            description,
            uid,
            revision,
            create_time,
            update_time,
            workspace_uid,
        } = self;
        let auth_type = Spec::auth_type(
            auth_type.into(),
            protobuf_secrets_field,
            Some(protobuf_messages.into()),
        )?;
        let secrets = Spec::secrets(injections.iter().map(|injection| injection.secret.as_str()))?;
        let both = injections.iter().zip(&secrets);
        let required: Vec<_> = both
            .filter(|(injection, _)| injection.required)
            .map(|(_, secret)| secret.clone())
            .collect();
        let spec = Spec {
            url: UpstreamUrl::parse(&url).map_err(SpecError::from)?,
            auth_type,
            injections: Spec::injections(auth_type, secrets, &required)?,
            body_calls: Spec::body_calls(&paths, &grpc_methods)?,
            protocol: protocol.into(),
            tls: tls.try_into()?,
            allow_plaintext,
            allowed_origins: Spec::web_origins(&allowed_origins)?,
            oauth: oauth.into(),
            description,
        };
        Ok(Described {
            line,
            workspace: WorkspaceName::parse(&workspace).map_err(EntryError::Workspace)?,
            name: ServerName::parse(&name).map_err(EntryError::Name)?,
            uid: read_uid("uid", uid)?,
            revision: read_revision(revision)?,
            create_time: read_time("create_time", create_time)?,
            update_time: read_time("update_time", update_time)?,
            workspace_uid: read_uid("workspace_uid", workspace_uid)?,
            spec: spec.check(own)?,
        })
    }

    pub(super) fn of(server: &Server) -> Self {
        let Server {
            workspace,
            name,
            uid,
            revision,
            create_time,
            update_time,
            workspace_uid,
            spec,
        } = server;
        let Spec {
            url,
            auth_type,
            injections,
            body_calls: BodyCalls { paths, grpc_methods },
            protocol,
            tls,
            allow_plaintext,
            allowed_origins,
            oauth,
            description,
        } = spec;
        let injections = injections.iter();
        let protobuf = match auth_type {
            AuthType::Skill(protobuf) => *protobuf,
            AuthType::SecretHeaders | AuthType::Bearer => None,
        };
        Self {
            workspace: workspace.to_string(),
            name: name.to_string(),
            url: url.as_str().to_owned(),
            auth_type: (*auth_type).into(),
            // The placement follows from the auth type, so far.
            injections: injections
                .map(|injection| InjectionRecord {
                    secret: injection.secret.to_string(),
                    required: injection.required,
                })
                .collect(),
            protocol: (*protocol).into(),
            protobuf_secrets_field: protobuf.map_or(0, |protobuf| protobuf.field.get()),
            protobuf_messages: protobuf
                .map_or_else(MessagesWord::default, |protobuf| protobuf.messages.into()),
            grpc_methods: grpc_methods.iter().map(ToString::to_string).collect(),
            paths: paths.iter().map(ToString::to_string).collect(),
            tls: tls.clone().into(),
            allow_plaintext: *allow_plaintext,
            allowed_origins: allowed_origins
                .iter()
                .map(|origin| origin.as_str().to_owned())
                .collect(),
            oauth: (*oauth).into(),
            description: description.clone(),
            uid: Some(uid.to_string()),
            revision: Some(*revision),
            create_time: Some(create_time.to_string()),
            update_time: Some(update_time.to_string()),
            workspace_uid: workspace_uid.map(|uid| uid.to_string()),
        }
    }
}

fn read_uid(field: &'static str, text: Option<String>) -> Result<Option<Uid>, EntryError> {
    text.map(|text| Uid::parse(&text).map_err(|_| EntryError::Uid(field)))
        .transpose()
}

fn read_time(field: &'static str, text: Option<String>) -> Result<Option<Timestamp>, EntryError> {
    text.map(|text| text.parse().map_err(|_| EntryError::Time(field)))
        .transpose()
}

fn read_revision(revision: Option<u64>) -> Result<Option<u64>, EntryError> {
    match revision {
        Some(revision) if !(1..=MAX_REVISION).contains(&revision) => Err(EntryError::Revision),
        other => Ok(other),
    }
}
