//! A server: an upstream and the secrets that it gets.

use proto::{
    DuplicateName, Origin, SecretName, ServerName, Uid, WorkspaceName, distinct, secret_name::SecretNameError,
};
use url::Url;

use crate::{
    address::{OwnListeners, refused_literal},
    body_calls::{BodyCalls, MAX_PATTERNS, MethodPattern, MethodPatternError, NotAPathPattern, PathPattern},
    placement::{AuthType, FieldNumber, Messages, NotAFieldNumber, Placement, ProtobufSecrets},
};

pub use super::{
    upstream_tls::UpstreamTls,
    upstream_url::{UpstreamUrl, UrlError},
};

/// The most secrets that one server gets.
pub const MAX_INJECTIONS: usize = 64;
/// The most web origins that may call one server.
pub const MAX_WEB_ORIGINS: usize = 64;
/// The most characters that a description has.
pub const MAX_DESCRIPTION: usize = 1024;

/// What a server is, apart from who it is and when it was changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Where requests go.
    pub url: UpstreamUrl,
    /// Where its secrets go.
    pub auth_type: AuthType,
    /// Its secrets, each with its place; no two of one name, at most [`MAX_INJECTIONS`].
    pub injections: Vec<Injection>,
    /// The calls that get secrets in their body.
    pub body_calls: BodyCalls,
    /// What is spoken to it.
    pub protocol: Protocol,
    /// How its TLS differs from the ordinary.
    pub tls: UpstreamTls,
    /// Whether secrets may go to it in cleartext over a network.
    pub allow_plaintext: bool,
    /// Web origins whose pages may call it.
    pub allowed_origins: Vec<WebOrigin>,
    /// What becomes of the upstream's demand for a credential.
    pub oauth: Oauth,
    /// For people.
    pub description: String,
}

/// A server that the registry holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// The workspace that its secrets are in.
    pub workspace: WorkspaceName,
    /// Its name there.
    pub name: ServerName,
    /// Tells it from an earlier one of its name.
    pub uid: Uid,
    /// Changes with every change.
    pub revision: u64,
    /// When it was added.
    pub create_time: jiff::Timestamp,
    /// When it was last changed.
    pub update_time: jiff::Timestamp,
    /// The workspace that it was added for. None in a file written by hand: then the first answer of the vault decides,
    /// until the next restart.
    pub workspace_uid: Option<Uid>,
    /// What it is.
    pub spec: Spec,
}

/// One secret of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// Which secret.
    pub secret: SecretName,
    /// Whether a call without it is refused.
    pub required: bool,
    /// Where it goes.
    pub placement: Placement,
}

/// What is spoken to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Over TLS what ALPN gives; in cleartext HTTP/2 for gRPC, else HTTP/1.1.
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// What becomes of an upstream's demand for a credential.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Oauth {
    /// The program hears of a rejected credential instead, because the credential is the injector's.
    #[default]
    Replace,
    /// The program may authenticate itself.
    Pass,
}

/// A web origin in the spelling of browsers, such as `https://app.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebOrigin(String);

/// The text is not a web origin in that spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a web origin as browsers write it, such as https://app.example.com")]
pub struct NotAWebOrigin;

/// Why a server cannot be as it was described. Says no more of the description than names of secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The URL is none.
    #[error("url: {0}")]
    Url(#[from] UrlError),
    /// It would send secrets in cleartext over a network.
    #[error(
        "url: http:// to an address that is not loopback sends secrets in cleartext; use https://, or allow_plaintext"
    )]
    Plaintext,
    /// Nothing is sent to its host.
    #[error("url: {0}")]
    Address(String),
    /// Not the name of a secret.
    #[error("secrets: {0}")]
    SecretName(#[from] SecretNameError),
    /// One secret twice.
    #[error("secrets: {0}")]
    DuplicateSecret(#[from] DuplicateName),
    /// The wrong number for a bearer token.
    #[error("secrets: the auth type bearer takes exactly one; {0} are given")]
    BearerCount(usize),
    /// More than are sent.
    #[error("secrets: one server gets at most {MAX_INJECTIONS}")]
    TooMany,
    /// Required, but not sent.
    #[error("secrets: {0} is required, but is not among those that the server gets")]
    RequiredNotInjected(SecretName),
    /// Not an origin of a browser.
    #[error(
        "allowed_origins: number {0} is not a web origin as browsers write it, such as https://app.example.com"
    )]
    WebOrigin(usize),
    /// More than anyone lists.
    #[error("allowed_origins: at most {MAX_WEB_ORIGINS} may be given")]
    TooManyWebOrigins,
    /// The CAs are none.
    #[error("tls.ca_pem: no certificate in PEM form was found, or one is not a CA's")]
    CaPem,
    /// The server name is none.
    #[error("tls.server_name: it is neither a DNS name nor an IP address")]
    ServerName,
    /// Not the name of a secret.
    #[error("tls.client_cert_secret: {0}")]
    ClientCertSecret(SecretNameError),
    /// TLS was described for a URL that has none.
    #[error("tls: the url is http://, which has no TLS")]
    TlsOfPlaintext,
    /// No field has this number.
    #[error("protobuf_secrets_field: {0}")]
    ProtobufField(#[from] NotAFieldNumber),
    /// A field, but nothing goes into bodies.
    #[error("protobuf_secrets_field: only the auth type skill puts secrets into messages")]
    ProtobufWithoutSkill,
    /// Messages, but no field of them.
    #[error("protobuf_messages: which messages get secrets only matters with a protobuf_secrets_field")]
    ProtobufMessages,
    /// An entry of `paths` is not a pattern of paths.
    #[error("paths: number {0}: {1}")]
    Path(usize, NotAPathPattern),
    /// An entry of `grpc_methods` is not a pattern of gRPC methods.
    #[error("grpc_methods: number {0}: {1}")]
    GrpcMethod(usize, MethodPatternError),
    /// `paths` or `grpc_methods` has more patterns than a server may have.
    #[error("{0}: at most {MAX_PATTERNS} may be given")]
    TooManyPatterns(&'static str),
    /// `paths` has entries, but the auth type puts no secret into a body.
    #[error("paths: only the auth type skill puts secrets into bodies")]
    PathsWithoutSkill,
    /// `protobuf_secrets_field` is set, but `grpc_methods` is empty.
    #[error(
        "grpc_methods: a protobuf_secrets_field needs the methods whose messages get secrets, as pkg.Service/Method or \
         pkg.Service/*"
    )]
    NoGrpcMethods,
    /// `grpc_methods` has entries, but `protobuf_secrets_field` is not set.
    #[error("grpc_methods: secrets go into messages only with a protobuf_secrets_field")]
    GrpcMethodsWithoutField,
    /// For people, but not that long.
    #[error("description: at most {MAX_DESCRIPTION} characters")]
    Description,
}

impl Spec {
    /// Reads names of secrets, no two of which may be the same.
    pub fn secrets<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<SecretName>, SpecError> {
        let names = texts
            .into_iter()
            .map(SecretName::parse)
            .collect::<Result<_, _>>()?;
        Ok(distinct(names)?)
    }

    /// Reads web origins.
    pub fn web_origins(texts: &[String]) -> Result<Vec<WebOrigin>, SpecError> {
        if texts.len() > MAX_WEB_ORIGINS {
            return Err(SpecError::TooManyWebOrigins);
        }
        let numbered = texts.iter().enumerate();
        numbered
            .map(|(index, text)| {
                WebOrigin::parse(text).map_err(|NotAWebOrigin| SpecError::WebOrigin(index + 1))
            })
            .collect()
    }

    /// Parses the patterns of the calls that get secrets in their body.
    pub fn body_calls(paths: &[String], grpc_methods: &[String]) -> Result<BodyCalls, SpecError> {
        for (field, list) in [("paths", paths), ("grpc_methods", grpc_methods)] {
            if list.len() > MAX_PATTERNS {
                return Err(SpecError::TooManyPatterns(field));
            }
        }
        let path = |(index, text): (usize, &String)| {
            PathPattern::parse(text).map_err(|error| SpecError::Path(index + 1, error))
        };
        let method = |(index, text): (usize, &String)| {
            MethodPattern::parse(text).map_err(|error| SpecError::GrpcMethod(index + 1, error))
        };
        Ok(BodyCalls {
            paths: paths.iter().enumerate().map(path).collect::<Result<_, _>>()?,
            grpc_methods: grpc_methods
                .iter()
                .enumerate()
                .map(method)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The auth type, with where in gRPC messages secrets go. A `field` of 0 means nowhere; no `messages`, the first.
    pub fn auth_type(
        auth_type: AuthType,
        field: u32,
        messages: Option<Messages>,
    ) -> Result<AuthType, SpecError> {
        match (auth_type, field, messages) {
            (_, 0, Some(Messages::All)) => Err(SpecError::ProtobufMessages),
            (_, 0, Some(Messages::First) | None) => Ok(auth_type),
            (AuthType::Skill(_), number, messages) => Ok(AuthType::Skill(Some(ProtobufSecrets {
                field: FieldNumber::parse(number)?,
                messages: messages.unwrap_or(Messages::First),
            }))),
            (AuthType::SecretHeaders | AuthType::Bearer, ..) => Err(SpecError::ProtobufWithoutSkill),
        }
    }

    /// Puts each secret in its place. `required` must be among `secrets`.
    pub fn injections(
        auth_type: AuthType,
        secrets: Vec<SecretName>,
        required: &[SecretName],
    ) -> Result<Vec<Injection>, SpecError> {
        if secrets.len() > MAX_INJECTIONS {
            return Err(SpecError::TooMany);
        }
        if auth_type == AuthType::Bearer && secrets.len() != 1 {
            return Err(SpecError::BearerCount(secrets.len()));
        }
        if let Some(stray) = required.iter().find(|name| !secrets.contains(name)) {
            return Err(SpecError::RequiredNotInjected(stray.clone()));
        }
        let inject = |secret: SecretName| Injection {
            required: required.contains(&secret),
            placement: auth_type.place(&secret),
            secret,
        };
        Ok(secrets.into_iter().map(inject).collect())
    }

    /// What only shows when all parts are known; `own` are our listeners, which no server may point at.
    pub fn check(self, own: &OwnListeners) -> Result<Self, SpecError> {
        if let Some(why) = refused_literal(self.url.host(), self.url.port(), own) {
            return Err(SpecError::Address(why.to_string()));
        }
        if !self.url.is_tls() && !self.url.is_loopback() && !self.allow_plaintext {
            return Err(SpecError::Plaintext);
        }
        if !self.url.is_tls() && self.tls.is_special() {
            return Err(SpecError::TlsOfPlaintext);
        }
        if self.description.chars().count() > MAX_DESCRIPTION {
            return Err(SpecError::Description);
        }
        self.check_body_calls()?;
        self.tls.check()?;
        Ok(self)
    }

    fn check_body_calls(&self) -> Result<(), SpecError> {
        let BodyCalls { paths, grpc_methods } = &self.body_calls;
        match (self.auth_type, paths.is_empty(), grpc_methods.is_empty()) {
            (AuthType::SecretHeaders | AuthType::Bearer, false, _) => Err(SpecError::PathsWithoutSkill),
            (AuthType::Skill(Some(_)), _, true) => Err(SpecError::NoGrpcMethods),
            (AuthType::SecretHeaders | AuthType::Bearer | AuthType::Skill(None), _, false) => {
                Err(SpecError::GrpcMethodsWithoutField)
            }
            (AuthType::SecretHeaders | AuthType::Bearer, true, true)
            | (AuthType::Skill(None), _, true)
            | (AuthType::Skill(Some(_)), _, false) => Ok(()),
        }
    }
}

impl WebOrigin {
    /// Reads an origin as browsers write it in `Origin`.
    pub fn parse(text: &str) -> Result<Self, NotAWebOrigin> {
        let url = Url::parse(text).map_err(|_| NotAWebOrigin)?;
        let origin = Origin::of(&url).ok_or(NotAWebOrigin)?.to_string();
        // Only the origin, and in the one spelling that a browser sends.
        if origin == text {
            Ok(Self(origin))
        } else {
            Err(NotAWebOrigin)
        }
    }

    /// The origin as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
impl Spec {
    /// Returns the spec of a server at `url` that gets no secrets and has every other field at its default.
    pub(crate) fn of_url(url: &str) -> Self {
        Self {
            url: UpstreamUrl::parse(url).expect("the test gives a URL"),
            auth_type: AuthType::SecretHeaders,
            injections: Vec::new(),
            body_calls: BodyCalls::default(),
            protocol: Protocol::Auto,
            tls: UpstreamTls::default(),
            allow_plaintext: false,
            allowed_origins: Vec::new(),
            oauth: Oauth::Replace,
            description: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_server_has_exactly_one_secret() {
        let names = |count: usize| {
            (0..count)
                .map(|n| SecretName::parse(&format!("N{n}")).unwrap())
                .collect()
        };
        for count in [0, 2] {
            assert_eq!(
                Spec::injections(AuthType::Bearer, names(count), &[]),
                Err(SpecError::BearerCount(count))
            );
        }
        assert_eq!(
            Spec::injections(AuthType::Bearer, names(1), &[]).unwrap().len(),
            1
        );
        assert_eq!(
            Spec::injections(AuthType::SecretHeaders, names(65), &[]),
            Err(SpecError::TooMany)
        );
        let stray = SecretName::parse("X").unwrap();
        let required = Spec::injections(AuthType::Skill(None), names(2), std::slice::from_ref(&stray));
        assert_eq!(required, Err(SpecError::RequiredNotInjected(stray)));
    }

    #[test]
    fn only_a_skill_puts_secrets_into_messages() {
        let skill = AuthType::Skill(None);
        let with = |number, messages| {
            let field = FieldNumber::parse(number).unwrap();
            Ok(AuthType::Skill(Some(ProtobufSecrets { field, messages })))
        };
        for (auth_type, field, messages, expected) in [
            (skill, 0, None, Ok(skill)),
            (skill, 0, Some(Messages::First), Ok(skill)),
            (skill, 0, Some(Messages::All), Err(SpecError::ProtobufMessages)),
            (skill, 7, None, with(7, Messages::First)),
            (skill, 7, Some(Messages::All), with(7, Messages::All)),
            (skill, 19_000, None, Err(NotAFieldNumber.into())),
            (AuthType::Bearer, 0, None, Ok(AuthType::Bearer)),
            (AuthType::Bearer, 7, None, Err(SpecError::ProtobufWithoutSkill)),
        ] {
            assert_eq!(Spec::auth_type(auth_type, field, messages), expected);
        }
    }

    #[test]
    fn methods_and_a_field_of_their_messages_belong_together() {
        let (skill, bearer) = (AuthType::Skill(None), AuthType::Bearer);
        let messages = Spec::auth_type(skill, 7, None).unwrap();
        let own = OwnListeners::default();
        for (auth_type, paths, methods, expected) in [
            (bearer, &[][..], &[][..], Ok(())),
            (bearer, &["/run"], &[], Err(SpecError::PathsWithoutSkill)),
            (bearer, &[], &["S/M"], Err(SpecError::GrpcMethodsWithoutField)),
            (skill, &["/run"], &[], Ok(())),
            (skill, &[], &["S/M"], Err(SpecError::GrpcMethodsWithoutField)),
            (messages, &["/run"], &[], Err(SpecError::NoGrpcMethods)),
            (messages, &[], &["S/M", "T/*"], Ok(())),
        ] {
            let lists = [paths, methods].map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
            let spec = Spec {
                auth_type,
                body_calls: Spec::body_calls(&lists[0], &lists[1]).unwrap(),
                ..Spec::of_url("https://a.example")
            };
            assert_eq!(spec.check(&own).map(drop), expected);
        }
        let many = vec!["/run".to_owned(); MAX_PATTERNS + 1];
        assert_eq!(
            Spec::body_calls(&many, &[]),
            Err(SpecError::TooManyPatterns("paths"))
        );
        let wrong = Spec::body_calls(&["/run".into(), "run".into()], &[]);
        assert_eq!(wrong, Err(SpecError::Path(2, NotAPathPattern)));
    }

    #[test]
    fn what_can_never_be_dialled_is_not_stored() {
        let own = OwnListeners::new(["127.0.0.1:7100".parse().unwrap()]);
        for (url, stored) in [
            ("http://127.0.0.1:7100/x", false),
            ("http://localhost:7100", false),
            ("http://0x7f000001:7100", false),
            ("http://0xa9fea9fe/latest", false),
            ("http://[::ffff:169.254.169.254]", false),
            ("http://0", false),
            ("http://127.0.0.1:7101", true),
            ("http://example.com:7100", true),
        ] {
            let spec = Spec {
                allow_plaintext: true,
                ..Spec::of_url(url)
            };
            let checked = spec.check(&own);
            assert_eq!(checked.is_ok(), stored, "{url}");
            assert!(stored || matches!(checked, Err(SpecError::Address(_))), "{url}");
        }
    }

    #[test]
    fn one_secret_in_two_spellings_is_refused() {
        assert_eq!(Spec::secrets(["a", "b"]).map(|names| names.len()), Ok(2));
        let twice = DuplicateName(SecretName::parse("GITHUB_TOKEN").unwrap());
        assert_eq!(
            Spec::secrets(["github-token", "x", "GITHUB.TOKEN"]),
            Err(twice.into())
        );
        assert_eq!(Spec::secrets(["a", ""]), Err(SecretNameError::Empty.into()));
    }

    #[test]
    fn a_web_origin_is_spelled_as_browsers_do() {
        assert!(WebOrigin::parse("https://app.example.com").is_ok());
        assert!(WebOrigin::parse("http://localhost:3000").is_ok());
        for text in [
            "null",
            "*",
            "https://app.example.com/",
            "https://App.example.com",
            "https://app.example.com:443",
        ] {
            assert!(WebOrigin::parse(text).is_err(), "{text}");
        }
    }
}
