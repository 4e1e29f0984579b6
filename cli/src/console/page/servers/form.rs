//! The form of a server, as it is read from a request and as it is sent to the injector.

use proto::injector::v1::{
    AuthType, CatalogEntry, Oauth, OnEcho, ProtobufMessages, Protocol, Scrub, Server, UpstreamTls,
    injection::Placement,
};

use super::{
    place::injections_of,
    rows::{MAX_ROWS, PlaceKind, PlaceRow, SecretRow, UnreadableForm},
    url::UrlParts,
};
use crate::{
    console::{
        fields::{Fields, items, lines},
        view::FormError,
    },
    pasted_credential,
    template::secrets_of,
};

/// The ways in which a server gets its credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Auth {
    Bearer,
    /// Each place is described by itself.
    Places,
    /// `X-Mcp-Secret-{NAME}`.
    Headers,
    /// The member `secrets` of the JSON body.
    Body,
    Nothing,
}

impl Auth {
    pub(super) const ALL: [Self; 5] = [
        Self::Bearer,
        Self::Places,
        Self::Headers,
        Self::Body,
        Self::Nothing,
    ];

    /// Returns the name in forms.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Places => "places",
            Self::Headers => "headers",
            Self::Body => "body",
            Self::Nothing => "nothing",
        }
    }

    fn parse(key: &str) -> Self {
        let found = Self::ALL.into_iter().find(|auth| auth.key() == key);
        found.unwrap_or(Self::Bearer)
    }

    fn of(auth_type: AuthType, has_secrets: bool) -> Self {
        match auth_type {
            AuthType::Bearer => Self::Bearer,
            AuthType::Custom => Self::Places,
            AuthType::Skill => Self::Body,
            AuthType::SecretHeaders | AuthType::Unspecified if has_secrets => Self::Headers,
            AuthType::SecretHeaders | AuthType::Unspecified => Self::Nothing,
        }
    }
}

/// The form. Texts are as the person entered them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerForm {
    /// The entry of the catalog that filled the form; empty without one.
    pub(super) entry: String,
    pub(super) name: String,
    pub(super) url: String,
    pub(super) description: String,
    pub(super) auth: Auth,
    pub(super) bearer: SecretRow,
    pub(super) secrets: Vec<SecretRow>,
    pub(super) places: Vec<PlaceRow>,
    pub(super) paths: String,
    pub(super) grpc_methods: String,
    pub(super) all_messages: bool,
    pub(super) secrets_field: String,
    pub(super) origins: String,
    pub(super) ca_pem: String,
    pub(super) server_name: String,
    pub(super) client_cert: String,
    pub(super) allow_bound: bool,
    pub(super) allow_plaintext: bool,
    pub(super) protocol: Protocol,
    pub(super) scrub: Scrub,
    pub(super) on_echo: OnEcho,
    pub(super) oauth: Oauth,
}

/// Returns true for the name of a secret that the server has already.
fn is_present(name: &str, server: Option<&Server>) -> bool {
    server.is_some_and(|server| server.inject_secrets.iter().any(|present| present == name))
}

impl ServerForm {
    /// Returns an empty form.
    pub(super) fn new() -> Self {
        Self {
            bearer: SecretRow::new(),
            secrets: vec![SecretRow::new()],
            places: vec![PlaceRow::new(PlaceKind::Header)],
            auth: Auth::Bearer,
            ..Self::of_server(&Server::default())
        }
    }

    /// Reads a form. Browsers send the line breaks of a text as CR LF, which no server is to be stored with.
    pub(super) fn of(fields: &Fields) -> Result<Self, UnreadableForm> {
        let text = |name| fields.text(name).replace("\r\n", "\n");
        let form = Self {
            entry: text("entry"),
            name: text("name"),
            url: text("url"),
            description: text("description"),
            auth: Auth::parse(fields.text("auth")),
            bearer: SecretRow {
                name: text("bearer"),
                required: fields.is_set("bearer-required"),
            },
            secrets: SecretRow::all_of(fields)?,
            places: PlaceRow::all_of(fields)?,
            paths: text("paths"),
            grpc_methods: text("grpc_methods"),
            all_messages: fields.is_set("all_messages"),
            secrets_field: text("secrets_field"),
            origins: text("origins"),
            ca_pem: text("ca_pem"),
            server_name: text("server_name"),
            client_cert: text("client_cert"),
            allow_bound: fields.is_set("allow_bound"),
            allow_plaintext: fields.is_set("allow_plaintext"),
            protocol: Protocol::from_str_name(fields.text("protocol")).unwrap_or(Protocol::Auto),
            scrub: Scrub::from_str_name(fields.text("scrub")).unwrap_or(Scrub::Headers),
            on_echo: OnEcho::from_str_name(fields.text("on_echo")).unwrap_or(OnEcho::Mask),
            oauth: Oauth::from_str_name(fields.text("oauth")).unwrap_or(Oauth::Replace),
        };
        Ok(form.with_places_beside_url())
    }

    /// Returns the form with the chosen way described as places when the URL has a secret, because an auth type that decides the
    /// places allows no secret in the URL. A name that looks like a credential stays where [`Self::check`] finds it.
    fn with_places_beside_url(mut self) -> Self {
        let (_, secrets, _) = self.credential();
        let has_pasted = secrets
            .iter()
            .any(|secret| pasted_credential::check(&secret.name).is_err());
        if self.auth != Auth::Places && has_secret(&self.url) && !has_pasted {
            let injections = injections_of(&self.server(""));
            self.places = injections.iter().filter_map(PlaceRow::of).collect();
            self.auth = Auth::Places;
        }
        self
    }

    /// Returns true when the form has no room for another place. Blank rows make room.
    pub(super) fn has_all_places(&self) -> bool {
        let used = self.places.iter().filter(|row| !row.is_blank());
        used.count() >= MAX_ROWS
    }

    /// Returns the form for a server that exists.
    pub(super) fn of_server(server: &Server) -> Self {
        let secrets: Vec<_> = server
            .inject_secrets
            .iter()
            .map(|name| SecretRow {
                name: name.clone(),
                required: server.required_secrets.contains(name),
            })
            .collect();
        let auth = Auth::of(server.auth_type(), !secrets.is_empty());
        let places = own_places(server);
        let tls = server.tls.clone().unwrap_or_default();
        let UpstreamTls {
            ca_pem,
            server_name,
            allow_bound_secrets,
            client_cert_secret,
        } = tls;
        let field = server.protobuf_secrets_field;
        Self {
            entry: String::new(),
            name: server.name.clone(),
            url: server.url.clone(),
            description: server.description.clone(),
            auth,
            bearer: secrets.first().cloned().unwrap_or_else(SecretRow::new),
            secrets: or_one(secrets, SecretRow::new()),
            places: or_proposal(places, &server.url),
            paths: server.paths.join("\n"),
            grpc_methods: server.grpc_methods.join("\n"),
            all_messages: server.protobuf_messages() == ProtobufMessages::All,
            secrets_field: if field == 0 {
                String::new()
            } else {
                field.to_string()
            },
            origins: server.allowed_origins.join("\n"),
            ca_pem,
            server_name,
            client_cert: client_cert_secret,
            allow_bound: allow_bound_secrets,
            allow_plaintext: server.allow_plaintext,
            protocol: known(server.protocol(), Protocol::Unspecified, Protocol::Auto),
            scrub: known(server.scrub(), Scrub::Unspecified, Scrub::Headers),
            on_echo: known(server.on_echo(), OnEcho::Unspecified, OnEcho::Mask),
            oauth: known(server.oauth(), Oauth::Unspecified, Oauth::Replace),
        }
    }

    /// Returns the form for a server from the catalog. The person gives the URL when the entry has only an example.
    pub(super) fn of_entry(entry: &CatalogEntry) -> Self {
        let required = entry.injections.iter().filter(|injection| injection.required);
        let required: Vec<_> = required.flat_map(secrets_of).collect();
        let server = Server {
            name: entry.default_name.clone(),
            url: if entry.needs_url {
                String::new()
            } else {
                entry.url.clone()
            },
            description: entry.description.clone(),
            auth_type: entry.auth_type,
            inject_secrets: entry.suggested_secrets.clone(),
            required_secrets: required,
            injections: entry.injections.clone(),
            protocol: entry.protocol,
            ..Default::default()
        };
        Self {
            entry: entry.name.clone(),
            ..Self::of_server(&server)
        }
    }

    /// Returns the chosen way, with the rows that belong to it.
    pub(super) fn credential(&self) -> (AuthType, &[SecretRow], &[PlaceRow]) {
        match self.auth {
            Auth::Bearer => (AuthType::Bearer, std::slice::from_ref(&self.bearer), &[]),
            Auth::Headers => (AuthType::SecretHeaders, &self.secrets, &[]),
            Auth::Body => (AuthType::Skill, &self.secrets, &[]),
            Auth::Nothing => (AuthType::SecretHeaders, &[], &[]),
            Auth::Places => (AuthType::Custom, &[], &self.places),
        }
    }

    /// Returns the server that the form describes.
    pub(super) fn server(&self, workspace: &str) -> Server {
        let (auth_type, secrets, places) = self.credential();
        let named = secrets.iter().filter(|secret| !secret.name.is_empty());
        let required = named.clone().filter(|secret| secret.required);
        let injections: Vec<_> = places
            .iter()
            .filter(|row| !row.is_blank())
            .map(PlaceRow::injection)
            .collect();
        let has_messages = places
            .iter()
            .any(|row| row.kind == PlaceKind::Protobuf && !row.is_blank());
        let secrets_field = match self.auth {
            Auth::Body => self.secrets_field.parse().unwrap_or_default(),
            Auth::Bearer | Auth::Headers | Auth::Nothing | Auth::Places => 0,
        };
        let tls = UpstreamTls {
            ca_pem: self.ca_pem.clone(),
            server_name: self.server_name.clone(),
            allow_bound_secrets: self.allow_bound,
            client_cert_secret: self.client_cert.clone(),
        };
        let messages = match (has_messages || secrets_field != 0, self.all_messages) {
            (false, _) => ProtobufMessages::Unspecified,
            (true, true) => ProtobufMessages::All,
            (true, false) => ProtobufMessages::First,
        };
        Server {
            workspace: workspace.to_owned(),
            name: self.name.clone(),
            url: self.url.clone(),
            // A server whose only secrets are in its URL has no injections in a request, and then no auth type.
            auth_type: match injections.is_empty() && auth_type == AuthType::Custom {
                true => AuthType::Unspecified.into(),
                false => auth_type.into(),
            },
            inject_secrets: named.map(|secret| secret.name.clone()).collect(),
            required_secrets: required.map(|secret| secret.name.clone()).collect(),
            injections,
            protocol: self.protocol.into(),
            tls: (tls != UpstreamTls::default()).then_some(tls),
            allow_plaintext: self.allow_plaintext,
            allowed_origins: items(&self.origins),
            description: self.description.clone(),
            protobuf_secrets_field: secrets_field,
            protobuf_messages: messages.into(),
            grpc_methods: items(&self.grpc_methods),
            paths: lines(&self.paths),
            oauth: self.oauth.into(),
            scrub: self.scrub.into(),
            on_echo: self.on_echo.into(),
            // Only the injector sets these.
            uid: String::new(),
            revision: 0,
            create_time: None,
            update_time: None,
            workspace_uid: String::new(),
        }
    }

    /// Removes rows without content, so that the numbers of the injector's messages are those of the form.
    pub(super) fn remove_blank_rows(&mut self) {
        self.secrets.retain(|row| !row.name.is_empty());
        self.places.retain(|row| !row.is_blank());
        self.secrets = or_one(std::mem::take(&mut self.secrets), SecretRow::new());
        self.places = or_proposal(std::mem::take(&mut self.places), &self.url);
    }

    /// Returns the field with the names of the secrets.
    pub(super) fn credential_field(&self) -> &'static str {
        match self.auth {
            Auth::Bearer => "bearer",
            Auth::Headers | Auth::Body => "secret-0",
            Auth::Places => "places",
            Auth::Nothing => "auth",
        }
    }

    /// Enters the name of a secret where the form takes one secret only.
    pub(super) fn with_secret(mut self, secret: &str) -> Self {
        if secret.is_empty() {
            return self;
        }
        match (self.auth, self.secrets.as_mut_slice(), self.places.as_mut_slice()) {
            (Auth::Bearer, ..) => secret.clone_into(&mut self.bearer.name),
            (Auth::Headers | Auth::Body, [row], _) => secret.clone_into(&mut row.name),
            (Auth::Places, _, [row]) => {
                if let [only] = secrets_of(&row.injection()).as_slice() {
                    let variable = |name: &str| format!("${{{name}}}");
                    row.value = row.value.replace(&variable(only), &variable(secret));
                }
            }
            _ => {}
        }
        self
    }

    /// Returns the fields for names of secrets. Names that a browser sends stay in the fields of ways that are not chosen.
    fn names_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let rows = self.secrets.iter_mut().chain([&mut self.bearer]);
        rows.map(|row| &mut row.name)
    }

    /// Empties the names that look like credentials, so that the page does not show them again. `present` has names that stay.
    pub(super) fn forget_pasted_credentials(&mut self, present: Option<&Server>) {
        let is_pasted = |name: &str| !is_present(name, present) && pasted_credential::check(name).is_err();
        self.names_mut()
            .filter(|name| is_pasted(name))
            .for_each(String::clear);
    }

    /// Finds the mistakes that the injector would not see, because it sees only the server. The names of the secrets of `present`
    /// are taken as they are.
    pub(super) fn check(&self, present: Option<&Server>) -> Result<(), FormError> {
        let (_, secrets, _) = self.credential();
        let mut names = secrets.iter().map(|secret| secret.name.as_str());
        let pasted = names.find_map(|name| match is_present(name, present) {
            true => None,
            false => pasted_credential::check(name).err(),
        });
        if let Some(pasted) = pasted {
            return Err(FormError::at(self.credential_field(), &pasted.to_string()));
        }
        let rows = self.places.iter().filter(|row| !row.is_blank());
        let half =
            |row: &&PlaceRow| row.value.is_empty() || (row.name.is_empty() && row.kind != PlaceKind::Basic);
        match self.auth {
            _ if self.url.is_empty() => Err(FormError::at(
                "url",
                "enter the URL of the server, such as `https://api.github.com`",
            )),
            Auth::Bearer if self.bearer.name.is_empty() => Err(FormError::at(
                "bearer",
                "name the secret that holds the token; a secret that does not exist yet may be named too",
            )),
            Auth::Headers | Auth::Body if self.secrets.iter().all(|secret| secret.name.is_empty()) => Err(
                FormError::at("secret-0", "name a secret, or choose “No credential”"),
            ),
            Auth::Places if rows.clone().next().is_none() && !has_secret(&self.url) => Err(FormError::at(
                "places",
                "describe a place, or choose “No credential”",
            )),
            Auth::Places if rows.clone().any(|row| half(&row)) => Err(FormError::at(
                "places",
                "each place needs a name and a value with a secret, such as `${API_KEY}`; remove a place that you do not need",
            )),
            Auth::Bearer | Auth::Headers | Auth::Body | Auth::Places | Auth::Nothing => Ok(()),
        }
    }
}

/// Returns the places that stand in the form: those in the URL follow from the URL.
fn own_places(server: &Server) -> Vec<PlaceRow> {
    if server.auth_type() != AuthType::Custom {
        return Vec::new();
    }
    let url = UrlParts::of(&server.url);
    let is_own = |placement: &Option<Placement>| match placement {
        Some(Placement::Query(query)) => !url.has_parameter(&query.name),
        Some(
            Placement::Header(_)
            | Placement::Basic(_)
            | Placement::Cookie(_)
            | Placement::Json(_)
            | Placement::Form(_)
            | Placement::Path(_)
            | Placement::Protobuf(_),
        )
        | None => true,
    };
    let own = server
        .injections
        .iter()
        .filter(|injection| is_own(&injection.placement));
    own.filter_map(PlaceRow::of).collect()
}

/// Returns true for a URL with a secret, such as `https://api.example/bot${TOKEN}`.
fn has_secret(url: &str) -> bool {
    url.contains("${")
}

/// Returns the rows, or a blank row for the place that a server without a secret in its URL needs.
fn or_proposal(rows: Vec<PlaceRow>, url: &str) -> Vec<PlaceRow> {
    match has_secret(url) {
        true => rows,
        false => or_one(rows, PlaceRow::new(PlaceKind::Header)),
    }
}

fn or_one<T>(rows: Vec<T>, row: T) -> Vec<T> {
    match rows.is_empty() {
        true => vec![row],
        false => rows,
    }
}

fn known<T: PartialEq>(value: T, unspecified: T, default: T) -> T {
    if value == unspecified { default } else { value }
}
