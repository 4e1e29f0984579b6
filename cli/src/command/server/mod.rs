//! `aerostack workspace server …`

mod ca_file;
mod injection;
mod spec;

use chassis::service_channel::ServiceChannel;
use clap::{Args, Subcommand};
use proto::{
    Reason, Warning,
    injector::v1::{
        self as api, AddServerRequest, GetServerRequest, RemoveServerRequest, UpdateServerRequest,
        server_service_client::ServerServiceClient,
    },
};
use serde::Serialize;

use self::spec::SpecArgs;
use crate::{
    connect::{Connection, Remote},
    failure::{Failure, FailureKind},
    model::{self, CatalogEntry, Server},
    output::{OutputArgs, Report, date, fields, table, yes_or_no},
    pages,
};

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace server list my-workspace\n\
\x20 aerostack workspace server add my-workspace @aerostack/github --secrets GITHUB_TOKEN")]
pub enum ServerCommand {
    /// Add a server: an upstream, and the secrets that it gets
    Add(AddServerArgs),
    /// Change a server; settings without a flag stay unchanged
    Update(UpdateServerArgs),
    /// List the servers of a workspace, or of all
    List(ListServersArgs),
    /// List the injector's catalog: servers that can be added as `@SCOPE/NAME`
    Catalog(ListCatalogArgs),
    /// Show a server
    Show(ShowServerArgs),
    /// Remove a server. Calls under way finish
    Remove(RemoveServerArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace server add my-workspace @stripe/api\n\
\x20 aerostack workspace server add my-workspace api --url https://api.github.com --auth-type bearer --secrets GITHUB_TOKEN\n\
\x20 aerostack workspace server add my-workspace sentry --url https://sentry.io/api --inject 'header:authorization=Bearer ${SENTRY_TOKEN}'")]
pub struct AddServerArgs {
    /// The workspace
    workspace: String,
    /// The server's name, a DNS label; or the entry `@SCOPE/NAME` of the injector's catalog, which supplies what is not given
    server: String,
    /// The server's name, instead of the one of the entry `@SCOPE/NAME`
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace server update my-workspace github --secrets GITHUB_TOKEN,GITHUB_WEBHOOK_SECRET\n\
\x20 aerostack workspace server update my-workspace github --required=")]
pub struct UpdateServerArgs {
    /// The workspace
    workspace: String,
    /// The server
    server: String,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace server list\n\
\x20 aerostack workspace server list my-workspace")]
pub struct ListServersArgs {
    /// The workspace; without it, the servers of all
    workspace: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack workspace server catalog")]
pub struct ListCatalogArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack workspace server show my-workspace github")]
pub struct ShowServerArgs {
    /// The workspace
    workspace: String,
    /// The server
    server: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack workspace server remove my-workspace github")]
pub struct RemoveServerArgs {
    /// The workspace
    workspace: String,
    /// The server
    server: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Catalog {
    entries: Vec<CatalogEntry>,
}

#[derive(Serialize)]
struct StoredServer {
    #[serde(flatten)]
    server: Server,
    warnings: Vec<model::Warning>,
}

#[derive(Serialize)]
struct RemovedServer {
    workspace: String,
    name: String,
}

#[derive(Serialize)]
struct Servers {
    servers: Vec<Server>,
}

impl ServerCommand {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let injector = connection.injector()?;
        match self {
            Self::Add(args) => add(args, &injector).await,
            Self::Update(args) => update(args, &injector).await,
            Self::List(args) => list(args, &injector).await,
            Self::Catalog(args) => catalog(args, &injector).await,
            Self::Show(args) => show(args, &injector).await,
            Self::Remove(args) => remove(args, &injector).await,
        }
    }
}

fn client(injector: &Remote) -> ServerServiceClient<ServiceChannel> {
    ServerServiceClient::new(injector.channel.clone())
}

async fn add(args: AddServerArgs, injector: &Remote) -> Result<Report, Failure> {
    let AddServerArgs {
        workspace,
        server: named,
        name,
        spec,
        output,
    } = args;
    let mut server = api::Server {
        workspace,
        name: name.unwrap_or_default(),
        ..Default::default()
    };
    spec.apply(&mut server)?;
    let Some(scoped) = named.strip_prefix('@') else {
        if server.url.is_empty() {
            let message = format!("{named:?} needs to know where it is");
            return Err(Failure::new(FailureKind::Usage, message)
                .hint("give --url, or name an entry of the injector's catalog: @SCOPE/NAME"));
        }
        let answer = send(injector, named_or(server, &named), String::new()).await?;
        return stored(output, answer.server, answer.warnings, "added to");
    };
    let (_, last) = scoped
        .split_once('/')
        .ok_or_else(|| Failure::new(FailureKind::Usage, format_args!("{named:?} is not @SCOPE/NAME")))?;
    match send(injector, server.clone(), named.clone()).await {
        // A server with a URL needs no entry of the catalog.
        Err(failure) if failure.reason == Some(Reason::CatalogEntryNotFound) && !server.url.is_empty() => {
            let answer = send(injector, named_or(server, last), String::new()).await?;
            let report = stored(output, answer.server, answer.warnings, "added to")?;
            let note = format!("the catalog has no {named}: the server has only what the command gives it");
            Ok(report.note(note))
        }
        answer => {
            let answer = answer?;
            stored(output, answer.server, answer.warnings, "added to")
        }
    }
}

async fn send(
    injector: &Remote,
    server: api::Server,
    catalog_entry: String,
) -> Result<api::AddServerResponse, Failure> {
    let request = AddServerRequest {
        server: Some(server),
        catalog_entry,
    };
    let answer = injector.answer(client(injector).add_server(request)).await;
    answer.map_err(with_flag)
}

/// Returns a refusal of a URL with the flag in place of the setting.
fn with_flag(failure: Failure) -> Failure {
    Failure {
        message: failure
            .message
            .replace("or allow_plaintext", "or --allow-plaintext"),
        ..failure
    }
}

/// Returns `server` with the name `name` if it has none.
fn named_or(mut server: api::Server, name: &str) -> api::Server {
    if server.name.is_empty() {
        server.name = name.to_owned();
    }
    server
}

/// Reports a server that was stored, and the injector's warnings about it.
fn stored(
    output: OutputArgs,
    server: Option<api::Server>,
    warnings: Vec<Warning>,
    how: &str,
) -> Result<Report, Failure> {
    let stored = StoredServer {
        server: Server::of(server.unwrap_or_default()),
        warnings: warnings.into_iter().map(model::Warning::of).collect(),
    };
    let report = Report::new(output, &stored, |stored| changed(&stored.server, how))?;
    Ok(stored
        .warnings
        .iter()
        .map(model::Warning::note)
        .fold(report, Report::note))
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

async fn update(args: UpdateServerArgs, injector: &Remote) -> Result<Report, Failure> {
    let UpdateServerArgs {
        workspace,
        server: name,
        spec,
        output,
    } = args;
    let mut server = api::Server {
        workspace,
        name,
        ..Default::default()
    };
    if spec.requires_known_secrets() {
        let before = get(injector, server.workspace.clone(), server.name.clone()).await?;
        // The update is refused if the server's secrets change before it.
        server.revision = before.revision;
        if before.auth_type() == api::AuthType::Custom {
            server.injections = before.injections;
        } else {
            server.inject_secrets = before.inject_secrets;
        }
    }
    let paths = spec.apply(&mut server)?;
    if paths.is_empty() {
        return Err(Failure::new(FailureKind::Usage, "nothing to change was given")
            .hint("--secrets NAME,… changes what the server gets; --help lists the rest"));
    }
    let request = UpdateServerRequest {
        server: Some(server),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    let answer = injector.answer(client(injector).update_server(request)).await;
    let answer = answer.map_err(with_flag)?;
    stored(output, answer.server, answer.warnings, "updated in")
}

async fn list(args: ListServersArgs, injector: &Remote) -> Result<Report, Failure> {
    let ListServersArgs { workspace, output } = args;
    let servers = pages::servers(injector, workspace.as_deref().unwrap_or_default()).await?;
    let servers = servers.into_iter().map(Server::of).collect();
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
        auth_type.clone(),
        inject_secrets.join(","),
        date(create_time),
    ]
}

async fn catalog(args: ListCatalogArgs, injector: &Remote) -> Result<Report, Failure> {
    let entries = pages::catalog_entries(injector).await?;
    let entries: Vec<_> = entries.into_iter().map(CatalogEntry::of).collect();
    let is_empty = entries.is_empty();
    let report = Report::new(args.output, &Catalog { entries }, |catalog| {
        let rows = catalog.entries.iter().map(CatalogEntry::row);
        table(["NAME", "URL", "SECRETS GO TO", "DESCRIPTION"], rows)
    })?;
    Ok(if is_empty {
        report.note(
            "This injector has no catalog: it was started without --catalog, or the file has no entries",
        )
    } else {
        report
    })
}

async fn get(injector: &Remote, workspace: String, name: String) -> Result<api::Server, Failure> {
    let request = GetServerRequest { workspace, name };
    let answer = injector.answer(client(injector).get_server(request)).await?;
    Ok(answer.server.unwrap_or_default())
}

async fn show(args: ShowServerArgs, injector: &Remote) -> Result<Report, Failure> {
    let ShowServerArgs {
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
            ("Auth type", server.auth_type.clone()),
            ("Secrets", server.inject_secrets.join(", ")),
            ("Injections", server.own_places()),
            ("Required", server.required_secrets.join(", ")),
            ("Protobuf field", field_number(server)),
            (
                "Protobuf messages",
                server.protobuf_messages.clone().unwrap_or_default(),
            ),
            ("gRPC methods", server.grpc_methods.join(", ")),
            ("Paths", server.paths.join(", ")),
            ("Protocol", server.protocol.clone()),
            ("Own TLS settings", yes_or_no(server.tls.is_some())),
            (
                "Bound secrets",
                yes_or_no(server.tls.as_ref().is_some_and(|tls| tls.allow_bound_secrets)),
            ),
            ("Plaintext allowed", yes_or_no(server.allow_plaintext)),
            ("Allowed origins", server.allowed_origins.join(", ")),
            ("OAuth", server.oauth.clone()),
            ("Scrub", server.scrub.clone()),
            ("On echo", server.on_echo.clone()),
            ("Description", server.description.clone()),
            ("Created", server.create_time.clone()),
            ("Updated", server.update_time.clone()),
        ])
    })
}

/// Returns an empty text instead of 0, which means that no field is set.
fn field_number(server: &Server) -> String {
    match server.protobuf_secrets_field {
        0 => String::new(),
        number => number.to_string(),
    }
}

async fn remove(args: RemoveServerArgs, injector: &Remote) -> Result<Report, Failure> {
    let RemoveServerArgs {
        workspace,
        server: name,
        output,
    } = args;
    let request = RemoveServerRequest {
        workspace: workspace.clone(),
        name: name.clone(),
        revision: 0,
    };
    injector.answer(client(injector).remove_server(request)).await?;
    Report::new(
        output,
        &RemovedServer { workspace, name },
        |RemovedServer { workspace, name }| format!("{name} removed from {workspace}\n"),
    )
}
