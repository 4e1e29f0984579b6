//! The reasons why a description of a server is refused, and the limits that the messages name.

use proto::{DuplicateName, SecretName, secret_name::SecretNameError};

use super::upstream_url::UrlError;
use crate::{
    body_calls::{MAX_PATTERNS, MethodPatternError, NotAPathPattern},
    json_pointer::JsonPointerError,
    placement::NotAFieldNumber,
    template::TemplateError,
};

/// The most places of secrets of one server, unless the auth type decides the places.
pub(super) const MAX_INJECTIONS: usize = 64;
/// The most bytes of the name of a parameter, a form field or a map entry.
pub(super) const MAX_PLACE_NAME: usize = 256;
/// The most secrets of one server.
pub(super) const MAX_SECRETS: usize = 64;
/// The most web origins that one server allows.
pub(super) const MAX_WEB_ORIGINS: usize = 64;
/// The most characters of a description.
pub(super) const MAX_DESCRIPTION: usize = 1024;

/// The reason why a description of a server is refused. The message begins with the field, and repeats nothing of the
/// description but names of secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("url: {0}")]
    Url(#[from] UrlError),
    #[error(
        "url: http:// to an address that is not loopback sends secrets in cleartext; use https://, or allow_plaintext"
    )]
    Plaintext,
    /// The injector never connects to the host of the URL, such as its own listeners or a metadata service.
    #[error("url: {0}")]
    Address(String),
    #[error(
        "url: only a server with injections may have secrets in its path or query; give the other secrets as injections too, \
         without an auth type or with the auth type custom"
    )]
    UrlVariable,
    #[error("secrets: {0}")]
    SecretName(#[from] SecretNameError),
    #[error("secrets: {0}")]
    DuplicateSecret(#[from] DuplicateName),
    #[error("secrets: the auth type bearer takes exactly one; {0} are given")]
    BearerCount(usize),
    #[error("auth_type: the auth type custom needs injections, each with its place")]
    CustomWithoutInjections,
    #[error("injections: one server has at most {MAX_INJECTIONS}")]
    TooManyInjections,
    /// The number of the injection counts from 1.
    #[error("injections: number {0}: {1}")]
    Injection(usize, InjectionError),
    /// The numbers of the injections count from 1.
    #[error("injections: numbers {0} and {1} have the same place")]
    SamePlace(usize, usize),
    #[error(
        "injections: they differ from the places that the auth type gives to inject_secrets; give either injections or \
         an auth type with inject_secrets"
    )]
    InjectionsOfShortForm,
    #[error("{0}: it differs from the secrets that injections names; with injections, leave it out")]
    SecretsOfInjections(&'static str),
    #[error("secrets: one server gets at most {MAX_SECRETS}")]
    TooManySecrets,
    #[error("secrets: {0} is required, but is not among those that the server gets")]
    RequiredNotInjected(SecretName),
    /// The number of the entry counts from 1.
    #[error(
        "allowed_origins: number {0} is not a web origin as browsers write it, such as https://app.example.com; `*` is \
         no wildcard"
    )]
    WebOrigin(usize),
    #[error("allowed_origins: at most {MAX_WEB_ORIGINS} may be given")]
    TooManyWebOrigins,
    #[error("tls.ca_pem: no certificate in PEM form was found, or one is not a CA's")]
    CaPem,
    #[error("tls.server_name: it is neither a DNS name nor an IP address")]
    ServerName,
    #[error("tls.client_cert_secret: {0}")]
    ClientCertSecret(SecretNameError),
    #[error("tls: the url is http://, which has no TLS")]
    TlsOfPlaintext,
    #[error("protobuf_secrets_field: {0}")]
    ProtobufField(#[from] NotAFieldNumber),
    #[error("protobuf_secrets_field: only the auth type skill puts secrets into messages")]
    ProtobufWithoutSkill,
    #[error(
        "protobuf_messages: which messages get secrets only matters with a protobuf_secrets_field or protobuf injections"
    )]
    ProtobufMessages,
    /// The number of the entry counts from 1.
    #[error("paths: number {0}: {1}")]
    Path(usize, NotAPathPattern),
    /// The number of the entry counts from 1.
    #[error("grpc_methods: number {0}: {1}")]
    GrpcMethod(usize, MethodPatternError),
    #[error("{0}: at most {MAX_PATTERNS} may be given")]
    TooManyPatterns(&'static str),
    #[error("paths: only the auth type skill and injections of json and form put secrets into bodies")]
    PathsWithoutSkill,
    #[error(
        "grpc_methods: a protobuf_secrets_field needs the methods whose messages get secrets, as pkg.Service/Method or \
         pkg.Service/*, and so does a protobuf injection"
    )]
    NoGrpcMethods,
    #[error(
        "grpc_methods: secrets go into messages only with a protobuf_secrets_field or protobuf injections"
    )]
    GrpcMethodsWithoutField,
    #[error("description: at most {MAX_DESCRIPTION} characters")]
    Description,
    /// An enum of a request has a number that this release does not know. Files cannot cause this error.
    #[error("server.{0}")]
    UnknownEnumValue(&'static str),
}

/// The reason why an injection is refused. The message repeats nothing of the injection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectionError {
    #[error(
        "its place is missing; give one of header, basic, query, path, cookie, json, form and protobuf (or a secret alone, \
         with another auth type)"
    )]
    NoPlace,
    #[error(
        "the auth type already decides the place of each secret; give the secret alone, or the auth type custom"
    )]
    PlaceOfShortForm,
    #[error("{0}: the template {1}")]
    Template(&'static str, TemplateError),
    #[error("its template names no secret; write ${{NAME}} for the value of a secret")]
    NoSecret,
    #[error("header.name: it is not the name of a header")]
    HeaderName,
    #[error(
        "header.name: the injector does not put secrets into a header that frames, routes or describes the request, or \
         that it writes itself (use cookie for a cookie)"
    )]
    ReservedHeader,
    #[error("header.value: the template begins or ends with a space")]
    OuterSpace,
    #[error("basic.username: a user name of Basic credentials has no colon")]
    UsernameColon,
    #[error("{0}: it must have 1 to {MAX_PLACE_NAME} bytes and no control character")]
    PlaceName(&'static str),
    #[error("cookie.name: it is not the name of a cookie")]
    CookieName,
    #[error("cookie.value: a cookie has no space, comma, semicolon, quotation mark or backslash")]
    CookieText,
    #[error("path.variable: {0}")]
    PathVariable(SecretNameError),
    #[error("query.name: the query of the url has this parameter already")]
    FixedParameter,
    #[error("path.variable: the path of the url has no such variable")]
    NoPathVariable,
    #[error("json.pointer: the pointer {0}")]
    Pointer(#[from] JsonPointerError),
    #[error("protobuf.field: {0}")]
    ProtobufField(#[from] NotAFieldNumber),
    #[error("protobuf.key: its template names several secrets, so the entry needs a key of its own")]
    MapKey,
}
