//! A server, as `--output json` prints it.

use proto::injector::v1::{Server as ApiServer, UpstreamTls};
use serde::Serialize;

use super::{
    enum_name::enum_name,
    injection::{Injection, places},
};
use crate::output::time;

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
pub(crate) struct Tls {
    ca_pem: String,
    server_name: String,
    pub allow_bound_secrets: bool,
    client_cert_secret: String,
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
