//! The flags of `workspace server add` and `update` for the settings of a server.

use std::ffi::OsString;

use clap::{Args, ValueEnum};
use proto::injector::v1 as api;

use super::{
    ca_file,
    injection::{self, RequiredSecrets},
};
use crate::{
    failure::{Failure, FailureKind},
    pasted_credential,
};

/// The place of a server's secrets in a request.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum AuthType {
    /// A header `X-Mcp-Secret-{NAME}` for each secret
    #[value(alias = "secret_headers")]
    SecretHeaders,
    /// `Authorization: Bearer {value}`; exactly one secret
    Bearer,
    /// The member `secrets` of the JSON body, or --protobuf-secrets-field
    Skill,
    /// The places that --inject names
    Custom,
}

/// The parts of a response in which the injector looks for the values that it put into the request.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Scrub {
    /// Nothing, except that values in the server's URL are masked in headers
    Off,
    /// The headers and the trailers
    Headers,
    /// The headers, the trailers and the body
    All,
}

/// The treatment of a response that contains a value that the injector put into the request.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OnEcho {
    /// The injector replaces every byte of the value by `*`
    Mask,
    /// The response ends with an error
    Block,
}

/// The messages of a gRPC request that get secrets.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProtobufMessages {
    /// The first message
    First,
    /// All messages; the vault decrypts the secrets again for each one
    All,
}

/// The version of HTTP that the injector speaks to the upstream.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Protocol {
    /// Over TLS the version that ALPN selects; in cleartext HTTP/2 for gRPC, else HTTP/1.1
    Auto,
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

/// The treatment of an upstream's demand for a credential.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Oauth {
    /// The program gets an error UPSTREAM_REJECTED_CREDENTIAL instead, because the credential is the injector's
    Replace,
    /// The program gets the demand and may authenticate itself
    Pass,
}

/// The settings of a server. A flag that is not given leaves its field as it is.
#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    /// The secrets that requests to the server get; they get no others
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    secrets: Option<Vec<String>>,
    /// A place in the requests of the server and the secrets that go there, such as `header:x-api-key=${API_KEY}`; repeatable.
    /// Also `basic:${USER}:${PASSWORD}`, `query:key=${KEY}`, `cookie:session=${C}`, `json:/params/_meta/token=${T}`,
    /// `form:token=${T}` and `protobuf:7:TOKEN=${T}`. Use single quotes
    #[arg(long, value_name = "PLACE=TEMPLATE", value_parser = injection::parse, conflicts_with = "secrets")]
    inject: Vec<api::Injection>,
    /// The secrets without which a call is refused; each must be one of the server's secrets. Without this flag and --require-all, a
    /// call goes out without a secret that is missing; the form of the console proposes to require every secret
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    required: Option<Vec<String>>,
    /// Refuse calls that lack any of the server's secrets
    #[arg(long, conflicts_with = "required")]
    pub(super) require_all: bool,
    /// The server's URL, such as `https://api.github.com`
    #[arg(long)]
    pub(super) url: Option<String>,
    /// The place of the secrets in a request
    #[arg(long, value_enum)]
    auth_type: Option<AuthType>,
    /// With `--auth-type skill`: the number of the map<string, string> field of gRPC messages that gets the secrets; 0 for
    /// none
    #[arg(long, value_name = "N")]
    protobuf_secrets_field: Option<u32>,
    /// The messages of a gRPC call that get secrets
    #[arg(long, value_enum)]
    protobuf_messages: Option<ProtobufMessages>,
    /// With `--protobuf-secrets-field` or `--inject protobuf:…`: the gRPC methods whose messages get secrets, as
    /// `pkg.Service/Method` or `pkg.Service/*`
    #[arg(long, value_name = "METHOD,…", value_delimiter = ',')]
    grpc_methods: Option<Vec<String>>,
    /// The paths whose JSON bodies and forms get secrets, as `/run` or `/tools/*`; empty for all paths. May be repeated. A comma ends a
    /// path only before `/`, because a path may contain commas
    #[arg(long, value_name = "PATH,…")]
    paths: Option<Vec<String>>,
    /// The version of HTTP that the injector speaks to the server
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// File with the CAs that may have issued the server's certificate, PEM; empty for the system's CAs. `-` reads standard
    /// input
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<OsString>,
    /// The name in the server's certificate, when it differs from the URL's host
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
    /// The secret with a client certificate for the server, its chain and its key, in PEM; empty for none
    #[arg(long, value_name = "NAME")]
    tls_client_cert_secret: Option<String>,
    /// Administrators only: send secrets that are bound to the URL although only the server's own --tls-ca or
    /// --tls-server-name verifies the upstream, or nothing does (`http://`)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    allow_bound_secrets: Option<bool>,
    /// Allow secrets to cross the network in cleartext (`http://`)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    allow_plaintext: Option<bool>,
    /// Web origins whose pages may call the server through the injector
    #[arg(long, value_name = "ORIGIN,…", value_delimiter = ',')]
    allowed_origins: Option<Vec<String>>,
    /// The parts of a response in which the injector looks for the values that it put into the request
    #[arg(long, value_enum)]
    scrub: Option<Scrub>,
    /// The treatment of a response that contains such a value
    #[arg(long, value_enum)]
    on_echo: Option<OnEcho>,
    /// The treatment of the upstream's demand for a credential (401, WWW-Authenticate)
    #[arg(long, value_enum)]
    oauth: Option<Oauth>,
    /// A description for people
    #[arg(long)]
    description: Option<String>,
}

impl From<AuthType> for api::AuthType {
    fn from(auth_type: AuthType) -> Self {
        match auth_type {
            AuthType::SecretHeaders => Self::SecretHeaders,
            AuthType::Bearer => Self::Bearer,
            AuthType::Skill => Self::Skill,
            AuthType::Custom => Self::Custom,
        }
    }
}

impl From<Scrub> for api::Scrub {
    fn from(scrub: Scrub) -> Self {
        match scrub {
            Scrub::Off => Self::Off,
            Scrub::Headers => Self::Headers,
            Scrub::All => Self::All,
        }
    }
}

impl From<OnEcho> for api::OnEcho {
    fn from(on_echo: OnEcho) -> Self {
        match on_echo {
            OnEcho::Mask => Self::Mask,
            OnEcho::Block => Self::Block,
        }
    }
}

impl From<ProtobufMessages> for api::ProtobufMessages {
    fn from(messages: ProtobufMessages) -> Self {
        match messages {
            ProtobufMessages::First => Self::First,
            ProtobufMessages::All => Self::All,
        }
    }
}

impl From<Protocol> for api::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Auto => Self::Auto,
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
        }
    }
}

impl From<Oauth> for api::Oauth {
    fn from(oauth: Oauth) -> Self {
        match oauth {
            Oauth::Replace => Self::Replace,
            Oauth::Pass => Self::Pass,
        }
    }
}

impl SpecArgs {
    /// Returns true when secrets are to be required that the server already has.
    pub(super) fn requires_known_secrets(&self) -> bool {
        let requires = self.require_all || self.required.is_some();
        requires && self.secrets.is_none() && self.inject.is_empty()
    }

    /// Writes the given settings into `server`, and returns the paths of their fields for the update mask.
    pub(super) fn apply(self, server: &mut api::Server) -> Result<Vec<String>, Failure> {
        let Self {
            secrets,
            inject,
            required,
            require_all,
            url,
            auth_type,
            protobuf_secrets_field,
            protobuf_messages,
            grpc_methods,
            paths,
            protocol,
            tls_ca,
            tls_server_name,
            tls_client_cert_secret,
            allow_bound_secrets,
            allow_plaintext,
            allowed_origins,
            scrub,
            on_echo,
            oauth,
            description,
        } = self;
        for name in secrets.iter().flatten() {
            pasted_credential::check(name).map_err(|pasted| Failure::new(FailureKind::Usage, pasted))?;
        }
        let sets_injections = !inject.is_empty();
        if sets_injections {
            server.injections = inject;
        }
        let sets_secrets = set(&mut server.inject_secrets, secrets.map(non_empty));
        let (requires_injections, required) = match (require_all, required.map(non_empty)) {
            (true, _) if server.injections.is_empty() => (None, Some(server.inject_secrets.clone())),
            (true, _) => (Some(RequiredSecrets::All), None),
            (false, Some(names)) if !server.injections.is_empty() => {
                (Some(RequiredSecrets::Named(names)), None)
            }
            (false, names) => (None, names),
        };
        if let Some(required) = &requires_injections {
            injection::require(&mut server.injections, required).map_err(|name| {
                let message = format!("{name:?} is required, but no injection names it");
                Failure::new(FailureKind::Usage, message)
            })?;
        }
        let tls = server.tls.get_or_insert_default();
        let fields = [
            ("inject_secrets", sets_secrets),
            ("injections", sets_injections || requires_injections.is_some()),
            ("required_secrets", set(&mut server.required_secrets, required)),
            ("url", set(&mut server.url, url)),
            (
                "auth_type",
                set_enum(&mut server.auth_type, auth_type.map(api::AuthType::from)),
            ),
            (
                "protobuf_secrets_field",
                set(&mut server.protobuf_secrets_field, protobuf_secrets_field),
            ),
            (
                "protobuf_messages",
                set_enum(
                    &mut server.protobuf_messages,
                    protobuf_messages.map(api::ProtobufMessages::from),
                ),
            ),
            (
                "grpc_methods",
                set(&mut server.grpc_methods, grpc_methods.map(non_empty)),
            ),
            ("paths", set(&mut server.paths, paths.map(split_paths))),
            (
                "protocol",
                set_enum(&mut server.protocol, protocol.map(api::Protocol::from)),
            ),
            (
                "allow_plaintext",
                set(&mut server.allow_plaintext, allow_plaintext),
            ),
            (
                "allowed_origins",
                set(&mut server.allowed_origins, allowed_origins.map(non_empty)),
            ),
            ("oauth", set_enum(&mut server.oauth, oauth.map(api::Oauth::from))),
            ("scrub", set_enum(&mut server.scrub, scrub.map(api::Scrub::from))),
            (
                "on_echo",
                set_enum(&mut server.on_echo, on_echo.map(api::OnEcho::from)),
            ),
            ("description", set(&mut server.description, description)),
            (
                "tls.ca_pem",
                set(&mut tls.ca_pem, tls_ca.map(ca_file::read).transpose()?),
            ),
            ("tls.server_name", set(&mut tls.server_name, tls_server_name)),
            (
                "tls.allow_bound_secrets",
                set(&mut tls.allow_bound_secrets, allow_bound_secrets),
            ),
            (
                "tls.client_cert_secret",
                set(&mut tls.client_cert_secret, tls_client_cert_secret),
            ),
        ];
        let given = fields.into_iter().filter(|(_, is_given)| *is_given);
        let given = given.map(|(field, _)| field.to_owned()).collect();
        // The injector uses the `tls` of a catalog entry only when the request has no `tls`.
        server.tls = server
            .tls
            .take()
            .filter(|tls| *tls != api::UpstreamTls::default());
        Ok(given)
    }
}

/// Sets `field` to a given value, and returns true when there is one.
fn set<T>(field: &mut T, given: Option<T>) -> bool {
    let is_given = given.is_some();
    if let Some(value) = given {
        *field = value;
    }
    is_given
}

fn set_enum(field: &mut i32, given: Option<impl Into<i32>>) -> bool {
    set(field, given.map(Into::into))
}

/// Returns the names in a list without empty ones, because `--secrets=` gives one empty name.
/// Returns the paths of `--paths`. The part after a comma that does not begin with `/` belongs to the path before it.
fn split_paths(list: Vec<String>) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for text in list {
        let mut parts = text.trim_end().trim_end_matches(',').split(',');
        paths.extend(parts.next().map(str::to_owned));
        for part in parts {
            match paths.last_mut().filter(|_| !part.trim_start().starts_with('/')) {
                Some(path) => {
                    path.push(',');
                    path.push_str(part);
                }
                None => paths.push(part.to_owned()),
            }
        }
    }
    non_empty(paths)
}

fn non_empty(list: Vec<String>) -> Vec<String> {
    let names = list.into_iter().map(|name| name.trim().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::split_paths;

    #[test]
    fn a_path_may_contain_commas() {
        for (given, paths) in [
            (&["/run,/tools/*"][..], &["/run", "/tools/*"][..]),
            (&["/run, /tools/*,"], &["/run", "/tools/*"]),
            (&["/a,b", "/c"], &["/a,b", "/c"]),
            (&["/a,b,/c,d"], &["/a,b", "/c,d"]),
            (&[""], &[]),
        ] {
            let list = given.iter().map(ToString::to_string).collect();
            assert_eq!(split_paths(list), paths, "{given:?}");
        }
    }
}
