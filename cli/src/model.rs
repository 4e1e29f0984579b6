//! The objects that `--output json` prints, and from which the tables are made.
//!
//! `cli/README.md` documents the JSON. A release may add members, but never renames or removes one.

mod injection;
pub(crate) mod keys;

use std::collections::BTreeMap;

use proto::{
    Warning as ApiWarning,
    injector::v1::{
        CatalogEntry as ApiCatalogEntry, ExplainInjectionResponse, ExplainedSecret as ApiExplainedSecret,
        Server as ApiServer, UpstreamTls,
    },
    vault::v1::{
        RestoreBackupResponse, Secret as ApiSecret, SecretVersion as ApiSecretVersion,
        Workspace as ApiWorkspace,
    },
};
use serde::Serialize;

use crate::output::time;
pub(crate) use injection::Injection;

#[derive(Debug, Serialize)]
pub(crate) struct Workspace {
    name: String,
    uid: String,
    revision: u64,
    create_time: String,
    update_time: String,
    plan: String,
    secret_count: u64,
    pub kept_versions: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct Secret {
    workspace: String,
    pub name: String,
    uid: String,
    revision: u64,
    pub create_time: String,
    pub update_time: String,
    pub version: u64,
    /// The servers to which the value may be sent; an empty list means any server.
    pub upstream_origins: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// `None` for a version that never expires.
    pub expires_at: Option<String>,
    pub expired: bool,
    /// The time when an injector last got the value.
    pub last_decrypt_time: Option<String>,
    pub last_decrypt_server: Option<String>,
    pub decrypt_count: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct SecretVersion {
    pub version: u64,
    pub create_time: String,
    /// The servers to which the value may be sent; an empty list means any server.
    pub upstream_origins: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// `None` for a version that never expires.
    pub expires_at: Option<String>,
    pub expired: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Server {
    pub workspace: String,
    pub name: String,
    uid: String,
    revision: u64,
    pub create_time: String,
    pub update_time: String,
    workspace_uid: String,
    pub url: String,
    pub auth_type: String,
    pub inject_secrets: Vec<String>,
    pub required_secrets: Vec<String>,
    pub protocol: String,
    pub tls: Option<Tls>,
    pub allow_plaintext: bool,
    pub allowed_origins: Vec<String>,
    pub oauth: String,
    pub description: String,
    pub protobuf_secrets_field: u32,
    /// `first` or `all`; `None` without a `protobuf_secrets_field`.
    pub protobuf_messages: Option<String>,
    pub grpc_methods: Vec<String>,
    pub paths: Vec<String>,
    /// The places of the secrets, also for an auth type that decides them.
    pub injections: Vec<Injection>,
    pub scrub: String,
    pub on_echo: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct CatalogEntry {
    name: String,
    url: String,
    auth_type: String,
    protocol: String,
    description: String,
    suggested_secrets: Vec<String>,
    default_name: String,
    needs_url: bool,
    supplies_secrets: bool,
    documentation_url: String,
    /// The places of the secrets, also for an auth type that decides them.
    injections: Vec<Injection>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Tls {
    ca_pem: String,
    server_name: String,
    pub allow_bound_secrets: bool,
    client_cert_secret: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    pub secrets: Vec<ExplainedSecret>,
    pub would_forward: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct ExplainedSecret {
    pub name: String,
    pub placement: String,
    pub required: bool,
    /// `injected`, `missing`, `expired`, `unfit`, `origin_refused`, `upstream_not_verified` or `unreadable`.
    pub state: String,
    /// `None` unless the secret exists and has not expired.
    pub version: Option<u64>,
    /// The reason why the secret is not sent or a call is refused; `None` when the secret is sent.
    pub detail: Option<String>,
    /// A message about a secret that is sent.
    pub note: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Warning {
    /// `secret_missing`, `secret_expired`, `secret_unbound`, `value_unfit`, `secret_unreadable`, `not_checked` or another.
    kind: String,
    /// `None` for a warning about no secret, or about all secrets.
    secret: Option<String>,
    message: String,
}

impl Warning {
    pub(crate) fn of(warning: ApiWarning) -> Self {
        let kind = enum_name(warning.kind().as_str_name(), "KIND_");
        let ApiWarning {
            kind: _,
            secret,
            message,
        } = warning;
        Self {
            kind,
            secret: (!secret.is_empty()).then_some(secret),
            message,
        }
    }

    pub(crate) fn note(&self) -> String {
        format!("warning: {}", self.message)
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct RestoredBackup {
    pub vault_uid: String,
    pub replaced_vault_uid: String,
    pub backup_time: String,
    pub workspaces: u64,
    pub secrets: u64,
    pub versions: u64,
    /// Names of deleted secrets, whose version numbers are not used again.
    pub deleted_secrets: u64,
}

impl RestoredBackup {
    pub(crate) fn of(restored: RestoreBackupResponse) -> Self {
        let RestoreBackupResponse {
            vault_uid,
            replaced_vault_uid,
            backup_time,
            workspaces,
            secrets,
            versions,
            deleted_secrets,
        } = restored;
        Self {
            vault_uid,
            replaced_vault_uid,
            backup_time: time(backup_time),
            workspaces,
            secrets,
            versions,
            deleted_secrets,
        }
    }
}

impl Workspace {
    pub(crate) fn of(workspace: ApiWorkspace) -> Self {
        let plan = enum_name(workspace.plan().as_str_name(), "PLAN_");
        let ApiWorkspace {
            name,
            uid,
            revision,
            create_time,
            update_time,
            plan: _,
            secret_count,
            kept_versions,
        } = workspace;
        Self {
            name,
            uid,
            revision,
            create_time: time(create_time),
            update_time: time(update_time),
            plan,
            secret_count,
            kept_versions,
        }
    }

    /// Returns a row of a table: name, plan, secrets, created.
    pub(crate) fn row(&self) -> [String; 4] {
        let Self {
            name,
            plan,
            secret_count,
            create_time,
            ..
        } = self;
        let created = crate::output::date(create_time);
        [name.clone(), plan.clone(), secret_count.to_string(), created]
    }
}

impl Secret {
    pub(crate) fn of(secret: ApiSecret) -> Self {
        let ApiSecret {
            workspace,
            name,
            uid,
            revision,
            create_time,
            update_time,
            version,
            upstream_origins,
            labels,
            expires_at,
            expired,
            last_decrypt_time,
            last_decrypt_server,
            decrypt_count,
        } = secret;
        Self {
            workspace,
            name,
            uid,
            revision,
            create_time: time(create_time),
            update_time: time(update_time),
            version,
            upstream_origins,
            labels,
            expires_at: expires_at.map(|at| time(Some(at))),
            expired,
            last_decrypt_server: last_decrypt_time.is_some().then_some(last_decrypt_server),
            last_decrypt_time: last_decrypt_time.map(|at| time(Some(at))),
            decrypt_count,
        }
    }
}

impl SecretVersion {
    pub(crate) fn of(version: ApiSecretVersion) -> Self {
        let ApiSecretVersion {
            version,
            create_time,
            upstream_origins,
            labels,
            expires_at,
            expired,
        } = version;
        Self {
            version,
            create_time: time(create_time),
            upstream_origins,
            labels,
            expires_at: expires_at.map(|at| time(Some(at))),
            expired,
        }
    }

    /// Returns a row of a table: version, created, expires, labels, only to.
    pub(crate) fn row(&self) -> [String; 5] {
        let Self {
            version,
            create_time,
            upstream_origins,
            labels,
            expires_at,
            expired,
        } = self;
        let expires = expires(expires_at.as_deref(), *expired);
        let labels: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        [
            version.to_string(),
            crate::output::date(create_time),
            expires,
            labels.join(","),
            upstream_origins.join(", "),
        ]
    }
}

/// Returns the time when a value expires, or `expired`. Returns an empty text for a value that never expires.
pub(crate) fn expires(expires_at: Option<&str>, expired: bool) -> String {
    match expires_at {
        Some(_) if expired => "expired".to_owned(),
        Some(at) => at.to_owned(),
        None => String::new(),
    }
}

impl Server {
    pub(crate) fn of(server: ApiServer) -> Self {
        let auth_type = enum_name(server.auth_type().as_str_name(), "AUTH_TYPE_");
        let protocol = enum_name(server.protocol().as_str_name(), "PROTOCOL_");
        let oauth = enum_name(server.oauth().as_str_name(), "OAUTH_");
        let scrub = enum_name(server.scrub().as_str_name(), "SCRUB_");
        let on_echo = enum_name(server.on_echo().as_str_name(), "ON_ECHO_");
        let protobuf_messages = (server.protobuf_messages != 0)
            .then(|| enum_name(server.protobuf_messages().as_str_name(), "PROTOBUF_MESSAGES_"));
        let ApiServer {
            workspace,
            name,
            uid,
            revision,
            create_time,
            update_time,
            workspace_uid,
            url,
            auth_type: _,
            inject_secrets,
            required_secrets,
            protocol: _,
            tls,
            allow_plaintext,
            allowed_origins,
            description,
            protobuf_secrets_field,
            protobuf_messages: _,
            grpc_methods,
            paths,
            oauth: _,
            injections,
            scrub: _,
            on_echo: _,
        } = server;
        Self {
            workspace,
            name,
            uid,
            revision,
            create_time: time(create_time),
            update_time: time(update_time),
            workspace_uid,
            url,
            auth_type,
            inject_secrets,
            required_secrets,
            protocol,
            tls: tls.map(Tls::of),
            allow_plaintext,
            allowed_origins,
            oauth,
            description,
            protobuf_secrets_field,
            protobuf_messages,
            grpc_methods,
            paths,
            injections: injections.into_iter().map(Injection::of).collect(),
            scrub,
            on_echo,
        }
    }

    /// Returns the injections of a server whose secrets have places of their own, in the notation of `--inject`.
    pub(crate) fn own_places(&self) -> String {
        match self.auth_type.as_str() {
            "custom" => places(&self.injections),
            _ => String::new(),
        }
    }
}

/// Returns the injections in the notation of `--inject`.
fn places(injections: &[Injection]) -> String {
    let places: Vec<_> = injections.iter().map(Injection::text).collect();
    places.join(", ")
}

impl Tls {
    fn of(tls: UpstreamTls) -> Self {
        let UpstreamTls {
            ca_pem,
            server_name,
            allow_bound_secrets,
            client_cert_secret,
        } = tls;
        Self {
            ca_pem,
            server_name,
            allow_bound_secrets,
            client_cert_secret,
        }
    }
}

impl CatalogEntry {
    pub(crate) fn of(entry: ApiCatalogEntry) -> Self {
        let auth_type = enum_name(entry.auth_type().as_str_name(), "AUTH_TYPE_");
        let protocol = enum_name(entry.protocol().as_str_name(), "PROTOCOL_");
        let ApiCatalogEntry {
            name,
            url,
            auth_type: _,
            protocol: _,
            description,
            suggested_secrets,
            default_name,
            needs_url,
            supplies_secrets,
            documentation_url,
            injections,
        } = entry;
        Self {
            name,
            url,
            auth_type,
            protocol,
            description,
            suggested_secrets,
            default_name,
            needs_url,
            supplies_secrets,
            documentation_url,
            injections: injections.into_iter().map(Injection::of).collect(),
        }
    }

    /// Returns a row of a table: name, URL, places of the secrets, description.
    pub(crate) fn row(&self) -> [String; 4] {
        [
            self.name.clone(),
            self.url.clone(),
            places(&self.injections),
            self.description.clone(),
        ]
    }
}

impl Explanation {
    pub(crate) fn of(answer: ExplainInjectionResponse) -> Self {
        let ExplainInjectionResponse {
            secrets,
            would_forward,
        } = answer;
        Self {
            secrets: secrets.into_iter().map(ExplainedSecret::of).collect(),
            would_forward,
        }
    }
}

impl ExplainedSecret {
    fn of(secret: ApiExplainedSecret) -> Self {
        let state = enum_name(secret.state().as_str_name(), "STATE_");
        let ApiExplainedSecret {
            name,
            placement,
            required,
            state: _,
            version,
            detail,
            note,
        } = secret;
        Self {
            name,
            placement,
            required,
            state,
            version: (version > 0).then_some(version),
            detail: (!detail.is_empty()).then_some(detail),
            note: (!note.is_empty()).then_some(note),
        }
    }
}

/// Returns the name of an enum value without the prefix of its type, in lower case: `bearer` for `AUTH_TYPE_BEARER`. The
/// servers file uses the same names. A value that this release does not know is `unknown`.
pub(super) fn enum_name(name: &str, prefix: &str) -> String {
    match name.trim_start_matches(prefix) {
        "UNSPECIFIED" => "unknown".to_owned(),
        name => name.to_ascii_lowercase(),
    }
}
