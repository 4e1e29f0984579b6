//! What `--output json` prints, and tables are made from. Documented in `cli/README.md`; members are only ever added.

pub mod keys;

use std::collections::BTreeMap;

use proto::{
    Warning as ApiWarning,
    injector::v1::{
        AuthType, CatalogEntry as ApiCatalogEntry, ExplainInjectionResponse, ExplainedSecret, Oauth,
        ProtobufMessages, Protocol, Server as ApiServer, UpstreamTls, explained_secret::State,
    },
    vault::v1::{
        Plan, RestoreBackupResponse, Secret as ApiSecret, SecretVersion as ApiSecretVersion,
        Workspace as ApiWorkspace,
    },
};
use serde::Serialize;

use crate::output::time;

/// A workspace.
#[derive(Debug, Serialize)]
pub struct Workspace {
    name: String,
    uid: String,
    revision: u64,
    create_time: String,
    update_time: String,
    plan: &'static str,
    secret_count: u64,
    /// How many versions of each secret are kept.
    pub kept_versions: u32,
}

/// What may be known of a secret.
#[derive(Debug, Serialize)]
pub struct Secret {
    workspace: String,
    /// The normalized name.
    pub name: String,
    uid: String,
    revision: u64,
    /// When the name was first put.
    pub create_time: String,
    /// When the current version was put.
    pub update_time: String,
    /// Counts up with every put.
    pub version: u64,
    /// Where the value may be sent; empty means anywhere.
    pub upstream_origins: Vec<String>,
    /// To sort secrets by.
    pub labels: BTreeMap<String, String>,
    /// When the current version expires; none means never.
    pub expires_at: Option<String>,
    /// Whether it has.
    pub expired: bool,
    /// When its value was last given to an injector; none when it never was.
    pub last_decrypt_time: Option<String>,
    /// For which server.
    pub last_decrypt_server: Option<String>,
    /// How often.
    pub decrypt_count: u64,
}

/// What may be known of one version of a secret.
#[derive(Debug, Serialize)]
pub struct SecretVersion {
    /// Its number.
    pub version: u64,
    /// When it was put or restored.
    pub create_time: String,
    /// Where the value may be sent; empty means anywhere.
    pub upstream_origins: Vec<String>,
    /// To sort secrets by.
    pub labels: BTreeMap<String, String>,
    /// When it expires; none means never.
    pub expires_at: Option<String>,
    /// Whether it has.
    pub expired: bool,
}

/// A server, with what it gets.
#[derive(Debug, Serialize)]
pub struct Server {
    /// Its workspace.
    pub workspace: String,
    /// Its name.
    pub name: String,
    uid: String,
    revision: u64,
    /// When it was added.
    pub create_time: String,
    /// When it was changed.
    pub update_time: String,
    workspace_uid: String,
    /// Where it is.
    pub url: String,
    /// Where its secrets go.
    pub auth_type: &'static str,
    /// What it gets.
    pub inject_secrets: Vec<String>,
    /// Without which a call is refused.
    pub required_secrets: Vec<String>,
    /// What is spoken to it.
    pub protocol: &'static str,
    /// How its certificate is verified, when not as usual.
    pub tls: Option<Tls>,
    /// Whether secrets may go to it in cleartext.
    pub allow_plaintext: bool,
    /// Web origins whose pages may call it.
    pub allowed_origins: Vec<String>,
    /// Who answers an upstream that demands a credential.
    pub oauth: &'static str,
    /// Free text.
    pub description: String,
    /// The field of gRPC messages that its secrets go to; 0 when there is none.
    pub protobuf_secrets_field: u32,
    /// Which messages get them: `first` or `all`; none without a field.
    pub protobuf_messages: Option<&'static str>,
    /// The gRPC methods whose messages get secrets.
    pub grpc_methods: Vec<String>,
    /// The paths whose JSON bodies get secrets; an empty list means all paths.
    pub paths: Vec<String>,
}

/// A server that can be added by name.
#[derive(Debug, Serialize)]
pub struct CatalogEntry {
    name: String,
    url: String,
    auth_type: &'static str,
    protocol: &'static str,
    description: String,
    suggested_secrets: Vec<String>,
}

/// How an upstream's certificate is verified.
#[derive(Debug, Serialize)]
pub struct Tls {
    ca_pem: String,
    server_name: String,
    /// True when an administrator allows secrets that are bound to the server's URL.
    pub allow_bound_secrets: bool,
    client_cert_secret: String,
}

/// What a call would carry.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// One for each of the server's secrets.
    pub secrets: Vec<Explained>,
    /// Whether a call would go out.
    pub would_forward: bool,
}

/// What becomes of one secret.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// The normalized name.
    pub name: String,
    /// Where it goes.
    pub placement: String,
    /// Whether a call without it is refused.
    pub required: bool,
    /// `injected`, `missing`, `expired`, `unfit`, `origin_refused`, `upstream_not_verified` or `unreadable`.
    pub state: &'static str,
    /// Set when the secret exists and has not expired.
    pub version: Option<u64>,
    /// Why it is not sent, or why a call is refused; none when it is sent.
    pub detail: Option<String>,
}

/// A doubt about something that was stored.
#[derive(Debug, Serialize)]
pub struct Warning {
    /// `secret_missing`, `secret_expired`, `secret_unbound`, `value_unfit`, `secret_unreadable`, `not_checked` or another.
    kind: String,
    /// The secret that it is about; none when it is about no secret, or about all.
    secret: Option<String>,
    message: String,
}

impl Warning {
    /// As JSON shows it.
    pub fn of(warning: ApiWarning) -> Self {
        let kind = warning.kind().as_str_name().trim_start_matches("KIND_");
        let kind = kind.to_ascii_lowercase();
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

    /// As people read it.
    pub fn note(&self) -> String {
        format!("warning: {}", self.message)
    }
}

/// A backup that was restored.
#[derive(Debug, Serialize)]
pub struct Restored {
    /// The uid that the vault has now.
    pub vault_uid: String,
    /// The uid that it had.
    pub replaced_vault_uid: String,
    /// When the backup was made.
    pub backup_time: String,
    /// Workspaces that came in.
    pub workspaces: u64,
    /// Secrets that came in.
    pub secrets: u64,
    /// Their versions.
    pub versions: u64,
    /// Names whose version numbers are not used again.
    pub deleted_secrets: u64,
}

impl Restored {
    /// As JSON shows it.
    pub fn of(restored: RestoreBackupResponse) -> Self {
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
    /// As JSON shows it.
    pub fn of(workspace: ApiWorkspace) -> Self {
        let plan = plan(workspace.plan());
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

    /// A row of a table: name, plan, secrets, created.
    pub fn row(&self) -> [String; 4] {
        let Self {
            name,
            plan,
            secret_count,
            create_time,
            ..
        } = self;
        let created = crate::output::date(create_time);
        [
            name.clone(),
            (*plan).to_owned(),
            secret_count.to_string(),
            created,
        ]
    }
}

impl Secret {
    /// As JSON shows it.
    pub fn of(secret: ApiSecret) -> Self {
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
    /// As JSON shows it.
    pub fn of(version: ApiSecretVersion) -> Self {
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

    /// A row of a table: version, created, expires, labels, only to.
    pub fn row(&self) -> [String; 5] {
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

/// The time when a value expires; for one that has expired, that it has.
pub fn expires(expires_at: Option<&str>, expired: bool) -> String {
    match expires_at {
        Some(_) if expired => "expired".to_owned(),
        Some(at) => at.to_owned(),
        None => String::new(),
    }
}

impl Server {
    /// As JSON shows it.
    pub fn of(server: ApiServer) -> Self {
        let (auth_type, protocol) = (auth_type(server.auth_type()), protocol(server.protocol()));
        let (protobuf_messages, oauth) = (
            protobuf_messages(server.protobuf_messages()),
            oauth(server.oauth()),
        );
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
        }
    }
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
    /// As JSON shows it.
    pub fn of(entry: ApiCatalogEntry) -> Self {
        let (auth_type, protocol) = (auth_type(entry.auth_type()), protocol(entry.protocol()));
        let ApiCatalogEntry {
            name,
            url,
            auth_type: _,
            protocol: _,
            description,
            suggested_secrets,
        } = entry;
        Self {
            name,
            url,
            auth_type,
            protocol,
            description,
            suggested_secrets,
        }
    }

    /// A row of a table: name, URL, auth type, secrets, description.
    pub fn row(&self) -> [String; 5] {
        [
            self.name.clone(),
            self.url.clone(),
            self.auth_type.to_owned(),
            self.suggested_secrets.join(","),
            self.description.clone(),
        ]
    }
}

impl Explanation {
    /// As JSON shows it.
    pub fn of(answer: ExplainInjectionResponse) -> Self {
        let ExplainInjectionResponse {
            secrets,
            would_forward,
        } = answer;
        Self {
            secrets: secrets.into_iter().map(Explained::of).collect(),
            would_forward,
        }
    }
}

impl Explained {
    fn of(secret: ExplainedSecret) -> Self {
        let state = match secret.state() {
            State::Unspecified => "unknown",
            State::Injected => "injected",
            State::Missing => "missing",
            State::OriginRefused => "origin_refused",
            State::UpstreamNotVerified => "upstream_not_verified",
            State::Unreadable => "unreadable",
            State::Expired => "expired",
            State::Unfit => "unfit",
        };
        let ExplainedSecret {
            name,
            placement,
            required,
            state: _,
            version,
            detail,
        } = secret;
        Self {
            name,
            placement,
            required,
            state,
            version: (version > 0).then_some(version),
            detail: (!detail.is_empty()).then_some(detail),
        }
    }
}

fn plan(plan: Plan) -> &'static str {
    match plan {
        Plan::Unspecified => "unknown",
        Plan::Free => "free",
        Plan::Starter => "starter",
        Plan::Pro => "pro",
        Plan::Business => "business",
        Plan::Enterprise => "enterprise",
    }
}

/// As the injector's file of servers names it.
pub fn auth_type(auth_type: AuthType) -> &'static str {
    match auth_type {
        AuthType::Unspecified => "unknown",
        AuthType::SecretHeaders => "secret_headers",
        AuthType::Bearer => "bearer",
        AuthType::Skill => "skill",
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Unspecified => "unknown",
        Protocol::Auto => "auto",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
    }
}

fn protobuf_messages(messages: ProtobufMessages) -> Option<&'static str> {
    match messages {
        ProtobufMessages::Unspecified => None,
        ProtobufMessages::First => Some("first"),
        ProtobufMessages::All => Some("all"),
    }
}

fn oauth(oauth: Oauth) -> &'static str {
    match oauth {
        Oauth::Unspecified => "unknown",
        Oauth::Replace => "replace",
        Oauth::Pass => "pass",
    }
}
