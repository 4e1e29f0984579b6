//! `aerostack workspace server …`

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use proto::injector::v1::{
    self as api, AddServerRequest, GetServerRequest, ListServersRequest, RemoveServerRequest,
    UpdateServerRequest, UpstreamTls, server_service_client::ServerServiceClient,
};
use serde::Serialize;
use tonic::transport::Channel;

use super::{PAGE, all};
use crate::{
    connect::{Connection, Remote},
    failure::{Failure, Kind},
    model::Server,
    output::{OutputArgs, Report, date, fields, table, yes},
};

/// What is done with servers.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a server: an upstream, and the secrets that it gets
    Add(AddArgs),
    /// Change a server: what no flag names stays as it is
    Update(UpdateArgs),
    /// List the servers of a workspace, or of all
    List(ListArgs),
    /// Show a server
    Show(ShowArgs),
    /// Remove a server. Calls under way finish
    Remove(RemoveArgs),
}

/// Where a server's secrets go.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum AuthType {
    /// A header `X-Mcp-Secret-{NAME}` for each secret
    #[value(alias = "secret_headers")]
    SecretHeaders,
    /// `Authorization: Bearer {value}`; exactly one secret
    Bearer,
    /// The member `secrets` of the JSON body
    Skill,
}

/// What is spoken to the upstream.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Protocol {
    /// Over TLS what ALPN gives; in cleartext HTTP/2 for gRPC, else HTTP/1.1
    Auto,
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

/// What a server is; all of it can be changed.
#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    /// The secrets that it gets, and no others
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    secrets: Option<Vec<String>>,
    /// Those of them without which a call is refused
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    required: Option<Vec<String>>,
    /// Where it is: `https://api.github.com`
    #[arg(long)]
    url: Option<String>,
    /// Where its secrets go
    #[arg(long, value_enum)]
    auth_type: Option<AuthType>,
    /// What is spoken to it
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// The authorities that its certificate may come from, PEM; empty: the system's
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The name in its certificate, when that is not the URL's host
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
    /// Let its secrets go over the network in cleartext
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    allow_plaintext: Option<bool>,
    /// Web origins whose pages may call it through the injector
    #[arg(long, value_name = "ORIGIN,…", value_delimiter = ',')]
    allowed_origins: Option<Vec<String>>,
    /// Free text
    #[arg(long)]
    description: Option<String>,
}

/// `workspace server add`
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The workspace
    workspace: String,
    /// The server's name, a DNS label; or `@SCOPE/NAME` of the injector's catalog, or with --url
    server: String,
    /// What the server is called, instead of the last part of `@SCOPE/NAME`
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace server update`
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The workspace
    workspace: String,
    /// The server
    server: String,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace server list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The workspace; without it, the servers of all
    workspace: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace server show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The workspace
    workspace: String,
    /// The server
    server: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace server remove`
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The workspace
    workspace: String,
    /// The server
    server: String,
}

#[derive(Serialize)]
struct Servers {
    servers: Vec<Server>,
}

impl Command {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let injector = connection.injector()?;
        match self {
            Self::Add(args) => add(args, &injector).await,
            Self::Update(args) => update(args, &injector).await,
            Self::List(args) => list(args, &injector).await,
            Self::Show(args) => show(args, &injector).await,
            Self::Remove(args) => remove(args, &injector).await,
        }
    }
}

impl From<AuthType> for api::AuthType {
    fn from(auth_type: AuthType) -> Self {
        match auth_type {
            AuthType::SecretHeaders => Self::SecretHeaders,
            AuthType::Bearer => Self::Bearer,
            AuthType::Skill => Self::Skill,
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

impl SpecArgs {
    /// Writes what was given into `server`, and names the fields that were.
    fn apply(self, server: &mut api::Server) -> Result<Vec<String>, Failure> {
        let Self {
            secrets,
            required,
            url,
            auth_type,
            protocol,
            tls_ca,
            tls_server_name,
            allow_plaintext,
            allowed_origins,
            description,
        } = self;
        let mut given = Vec::new();
        let mut set = |field: &str, is_given: bool| {
            if is_given {
                given.push(field.to_owned());
            }
        };
        set(
            "inject_secrets",
            put(&mut server.inject_secrets, secrets.map(named)),
        );
        set(
            "required_secrets",
            put(&mut server.required_secrets, required.map(named)),
        );
        set("url", put(&mut server.url, url));
        let auth_type = auth_type.map(|auth_type| api::AuthType::from(auth_type).into());
        set("auth_type", put(&mut server.auth_type, auth_type));
        let protocol = protocol.map(|protocol| api::Protocol::from(protocol).into());
        set("protocol", put(&mut server.protocol, protocol));
        set(
            "allow_plaintext",
            put(&mut server.allow_plaintext, allow_plaintext),
        );
        set(
            "allowed_origins",
            put(&mut server.allowed_origins, allowed_origins.map(named)),
        );
        set("description", put(&mut server.description, description));
        if tls_ca.is_some() || tls_server_name.is_some() {
            let tls = server.tls.get_or_insert_default();
            put(&mut tls.ca_pem, tls_ca.map(pem).transpose()?);
            put(&mut tls.server_name, tls_server_name);
            if *tls == UpstreamTls::default() {
                server.tls = None;
            }
            set("tls", true);
        }
        Ok(given)
    }

    /// Whether one half of how the certificate is verified is given, so that the other half has to be kept.
    fn changes_half_of_tls(&self) -> bool {
        self.tls_ca.is_some() != self.tls_server_name.is_some()
    }
}

fn put<T>(field: &mut T, given: Option<T>) -> bool {
    let is_given = given.is_some();
    if let Some(value) = given {
        *field = value;
    }
    is_given
}

/// `--secrets=` names none.
fn named(list: Vec<String>) -> Vec<String> {
    let names = list.into_iter().map(|name| name.trim().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

fn pem(path: PathBuf) -> Result<String, Failure> {
    if path.as_os_str().is_empty() {
        return Ok(String::new());
    }
    fs::read_to_string(&path).map_err(|error| Failure::file(&path, &error))
}

fn client(injector: &Remote) -> ServerServiceClient<Channel> {
    ServerServiceClient::new(injector.channel.clone())
}

async fn add(args: AddArgs, injector: &Remote) -> Result<Report, Failure> {
    let AddArgs {
        workspace,
        server: named,
        name,
        spec,
        output,
    } = args;
    let (own_name, catalog_entry) = match named.strip_prefix('@') {
        None => (named, String::new()),
        Some(scoped) => {
            let (_, last) = scoped
                .split_once('/')
                .ok_or_else(|| Failure::new(Kind::Usage, format_args!("{named:?} is not @SCOPE/NAME")))?;
            // With a URL there is nothing to look up.
            let entry = if spec.url.is_some() {
                String::new()
            } else {
                named.clone()
            };
            (last.to_owned(), entry)
        }
    };
    let mut server = api::Server {
        workspace,
        name: name.unwrap_or(own_name),
        ..Default::default()
    };
    spec.apply(&mut server)?;
    if server.url.is_empty() && catalog_entry.is_empty() {
        let message = format!("{:?} needs to know where it is", server.name);
        return Err(Failure::new(Kind::Usage, message)
            .next("give --url, or name an entry of the injector's catalog: @SCOPE/NAME"));
    }
    let request = AddServerRequest {
        server: Some(server),
        // catalog_entry,
    };
    let answer = injector.answer(client(injector).add_server(request)).await?;
    let server = Server::of(answer.server.unwrap_or_default());
    Report::new(output, &server, |server| changed(server, "added to"))
}

fn changed(server: &Server, how: &str) -> String {
    let Server {
        name,
        workspace,
        url,
        inject_secrets,
        ..
    } = server;
    let gets = if inject_secrets.is_empty() {
        "no secret".to_owned()
    } else {
        inject_secrets.join(", ")
    };
    format!("{name} {how} {workspace}: {url} gets {gets}\n")
}

async fn update(args: UpdateArgs, injector: &Remote) -> Result<Report, Failure> {
    let UpdateArgs {
        workspace,
        server: name,
        spec,
        output,
    } = args;
    let mut server = if spec.changes_half_of_tls() {
        get(injector, workspace, name).await?
    } else {
        api::Server {
            workspace,
            name,
            ..Default::default()
        }
    };
    let paths = spec.apply(&mut server)?;
    if paths.is_empty() {
        return Err(Failure::new(Kind::Usage, "nothing to change was given")
            .next("--secrets NAME,… changes what the server gets; --help lists the rest"));
    }
    let request = UpdateServerRequest {
        server: Some(server),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    let answer = injector.answer(client(injector).update_server(request)).await?;
    let server = Server::of(answer.server.unwrap_or_default());
    Report::new(output, &server, |server| changed(server, "updated in"))
}

/// The servers of a workspace; of all, when its name is empty.
pub(super) async fn servers(injector: &Remote, workspace: &str) -> Result<Vec<Server>, Failure> {
    let servers = all(async |page_token| {
        let request = ListServersRequest {
            workspace: workspace.to_owned(),
            page_size: PAGE,
            page_token,
        };
        let answer = injector.answer(client(injector).list_servers(request)).await?;
        Ok((answer.servers, answer.next_page_token))
    });
    Ok(servers.await?.into_iter().map(Server::of).collect())
}

async fn list(args: ListArgs, injector: &Remote) -> Result<Report, Failure> {
    let ListArgs { workspace, output } = args;
    let servers = servers(injector, workspace.as_deref().unwrap_or_default()).await?;
    Report::new(output, &Servers { servers }, |all| match workspace {
        Some(_) => table(
            ["NAME", "URL", "AUTH TYPE", "SECRETS", "CREATED"],
            all.servers.iter().map(row),
        ),
        None => {
            let rows = all.servers.iter().map(|server| {
                let [name, url, auth_type, secrets, created] = row(server);
                [server.workspace.clone(), name, url, auth_type, secrets, created]
            });
            table(
                ["WORKSPACE", "NAME", "URL", "AUTH TYPE", "SECRETS", "CREATED"],
                rows,
            )
        }
    })
}

fn row(server: &Server) -> [String; 5] {
    let Server {
        name,
        url,
        auth_type,
        inject_secrets,
        create_time,
        ..
    } = server;
    [
        name.clone(),
        url.clone(),
        (*auth_type).to_owned(),
        inject_secrets.join(","),
        date(create_time),
    ]
}

async fn get(injector: &Remote, workspace: String, name: String) -> Result<api::Server, Failure> {
    let request = GetServerRequest { workspace, name };
    let answer = injector.answer(client(injector).get_server(request)).await?;
    Ok(answer.server.unwrap_or_default())
}

async fn show(args: ShowArgs, injector: &Remote) -> Result<Report, Failure> {
    let ShowArgs {
        workspace,
        server,
        output,
    } = args;
    let server = Server::of(get(injector, workspace, server).await?);
    Report::new(output, &server, |server| {
        fields([
            ("Workspace", server.workspace.clone()),
            ("Name", server.name.clone()),
            ("URL", server.url.clone()),
            ("Auth type", server.auth_type.to_owned()),
            ("Secrets", server.inject_secrets.join(", ")),
            ("Required", server.required_secrets.join(", ")),
            ("Protocol", server.protocol.to_owned()),
            ("Own TLS settings", yes(server.tls.is_some())),
            ("Plaintext allowed", yes(server.allow_plaintext)),
            ("Allowed origins", server.allowed_origins.join(", ")),
            ("Description", server.description.clone()),
            ("Created", server.create_time.clone()),
            ("Updated", server.update_time.clone()),
        ])
    })
}

async fn remove(args: RemoveArgs, injector: &Remote) -> Result<Report, Failure> {
    let RemoveArgs { workspace, server } = args;
    let request = RemoveServerRequest {
        workspace: workspace.clone(),
        name: server.clone(),
        revision: 0,
    };
    injector.answer(client(injector).remove_server(request)).await?;
    Ok(Report {
        result: format!("{server} removed from {workspace}\n"),
        ..Report::default()
    })
}
