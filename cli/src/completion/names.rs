//! Asks the services for names. Every failure is `None`.
//!
//! A shell puts a name into a command line as it is, and a service may be hostile. So a name with any character that a shell could
//! interpret is left out: each name is parsed by the rules of its kind.

use std::ffi::OsString;

use proto::{
    SecretName, ServerName, WorkspaceName,
    injector::v1::{ListServersRequest, server_service_client::ServerServiceClient},
    vault::v1::{
        ListSecretsRequest, ListWorkspacesRequest, secret_service_client::SecretServiceClient,
        workspace_service_client::WorkspaceServiceClient,
    },
};

use super::position::Subject;
use crate::{
    connect::{ConnectArgs, Connection},
    contexts,
    pages::MAX_PAGE_SIZE,
};

/// Returns the first names of a kind. Nobody picks from more than one page of them.
pub(super) async fn of(
    subject: &Subject,
    connect: &ConnectArgs,
    env: impl Fn(&str) -> Option<OsString>,
) -> Option<Vec<String>> {
    if *subject == Subject::Contexts {
        let contexts = contexts::read(&contexts::path(env)?).ok()?;
        return Some(contexts.names().map(ToString::to_string).collect());
    }
    // A folder of somebody else may bring a directory `.aerostack` with addresses of his services, which get no connection.
    let connection = Connection::find_for_completion(connect, env).ok()?;
    match subject {
        Subject::Contexts => None,
        Subject::Workspaces => workspaces(&connection).await,
        Subject::Servers { workspace } => servers(&connection, workspace).await,
        Subject::Secrets { workspace } => secrets(&connection, workspace).await,
    }
}

async fn workspaces(connection: &Connection) -> Option<Vec<String>> {
    let request = ListWorkspacesRequest {
        page_size: MAX_PAGE_SIZE,
        page_token: String::new(),
    };
    let mut client = WorkspaceServiceClient::new(connection.vault().ok()?.channel);
    let answer = client.list_workspaces(request).await.ok()?.into_inner();
    let names = answer.workspaces.into_iter().map(|found| found.name);
    Some(names.filter(|name| is_workspace(name)).collect())
}

async fn servers(connection: &Connection, workspace: &str) -> Option<Vec<String>> {
    let request = ListServersRequest {
        workspace: workspace.to_owned(),
        page_size: MAX_PAGE_SIZE,
        page_token: String::new(),
    };
    let mut client = ServerServiceClient::new(connection.injector().ok()?.channel);
    let answer = client.list_servers(request).await.ok()?.into_inner();
    let names = answer.servers.into_iter().map(|found| found.name);
    Some(names.filter(|name| is_server(name)).collect())
}

async fn secrets(connection: &Connection, workspace: &str) -> Option<Vec<String>> {
    let request = ListSecretsRequest {
        workspace: workspace.to_owned(),
        page_size: MAX_PAGE_SIZE,
        page_token: String::new(),
    };
    let mut client = SecretServiceClient::new(connection.vault().ok()?.channel);
    let answer = client.list_secrets(request).await.ok()?.into_inner();
    let names = answer.secrets.into_iter().map(|found| found.name);
    Some(names.filter(|name| is_secret(name)).collect())
}

fn is_workspace(name: &str) -> bool {
    WorkspaceName::parse(name).is_ok()
}

fn is_server(name: &str) -> bool {
    ServerName::parse(name).is_ok()
}

/// Returns true for a name that normalization leaves as it is. Parsing alone accepts every text with a letter.
fn is_secret(name: &str) -> bool {
    SecretName::parse(name).is_ok_and(|parsed| parsed.as_str() == name)
}
