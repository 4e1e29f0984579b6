//! Lists that the services return in pages, each read to its end.

use proto::{
    SecretName,
    injector::v1::{
        CatalogEntry, ListCatalogEntriesRequest, ListServersRequest, Server,
        catalog_service_client::CatalogServiceClient, server_service_client::ServerServiceClient,
    },
    vault::v1::{
        ListSecretVersionsRequest, ListSecretsRequest, ListWorkspacesRequest, Secret, SecretVersion,
        Workspace, secret_service_client::SecretServiceClient,
        workspace_service_client::WorkspaceServiceClient,
    },
};

use crate::{connect::Remote, failure::Failure};

/// The largest `page_size` that the services accept.
pub(crate) const MAX_PAGE_SIZE: u32 = 1000;

/// Returns the items of all pages. `fetch` takes a page token, and returns that page's items and the next page's token.
async fn list_all<T, Page>(fetch: impl Fn(String) -> Page) -> Result<Vec<T>, Failure>
where
    Page: Future<Output = Result<(Vec<T>, String), Failure>>,
{
    let (mut items, mut token) = fetch(String::new()).await?;
    while !token.is_empty() {
        let (page, next_token) = fetch(token).await?;
        items.extend(page);
        token = next_token;
    }
    Ok(items)
}

pub(crate) async fn workspaces(vault: &Remote) -> Result<Vec<Workspace>, Failure> {
    list_all(move |page_token| async move {
        let request = ListWorkspacesRequest {
            page_size: MAX_PAGE_SIZE,
            page_token,
        };
        let mut client = WorkspaceServiceClient::new(vault.channel.clone());
        let answer = vault.answer(client.list_workspaces(request)).await?;
        Ok((answer.workspaces, answer.next_page_token))
    })
    .await
}

/// Returns the metadata of all secrets of a workspace.
pub(crate) async fn secrets(vault: &Remote, workspace: &str) -> Result<Vec<Secret>, Failure> {
    list_all(move |page_token| async move {
        let request = ListSecretsRequest {
            workspace: workspace.to_owned(),
            page_size: MAX_PAGE_SIZE,
            page_token,
        };
        let mut client = SecretServiceClient::new(vault.channel.clone());
        let answer = vault.answer(client.list_secrets(request)).await?;
        Ok((answer.secrets, answer.next_page_token))
    })
    .await
}

/// Returns the kept versions of a secret, the newest first.
pub(crate) async fn versions(
    vault: &Remote,
    workspace: &str,
    secret: &str,
) -> Result<Vec<SecretVersion>, Failure> {
    list_all(move |page_token| async move {
        let request = ListSecretVersionsRequest {
            workspace: workspace.to_owned(),
            name: secret.to_owned(),
            page_size: MAX_PAGE_SIZE,
            page_token,
        };
        let mut client = SecretServiceClient::new(vault.channel.clone());
        let answer = vault.answer(client.list_secret_versions(request)).await?;
        Ok((answer.versions, answer.next_page_token))
    })
    .await
}

/// Returns the servers of a workspace, or of all workspaces when `workspace` is empty.
pub(crate) async fn servers(injector: &Remote, workspace: &str) -> Result<Vec<Server>, Failure> {
    list_all(move |page_token| async move {
        let request = ListServersRequest {
            workspace: workspace.to_owned(),
            page_size: MAX_PAGE_SIZE,
            page_token,
        };
        let mut client = ServerServiceClient::new(injector.channel.clone());
        let answer = injector.answer(client.list_servers(request)).await?;
        Ok((answer.servers, answer.next_page_token))
    })
    .await
}

/// Returns the names of the servers that get a secret, also as a client certificate.
pub(crate) async fn servers_with(
    injector: &Remote,
    workspace: &str,
    secret: &SecretName,
) -> Result<Vec<String>, Failure> {
    let gets = |server: &Server| {
        let certificate = server.tls.as_ref().map(|tls| &tls.client_cert_secret);
        let mut secrets = server.inject_secrets.iter().chain(certificate);
        secrets.any(|name| name == secret.as_str())
    };
    let servers = servers(injector, workspace).await?.into_iter().filter(gets);
    Ok(servers.map(|server| server.name).collect())
}

pub(crate) async fn catalog_entries(injector: &Remote) -> Result<Vec<CatalogEntry>, Failure> {
    list_all(move |page_token| async move {
        let request = ListCatalogEntriesRequest {
            page_size: MAX_PAGE_SIZE,
            page_token,
        };
        let mut client = CatalogServiceClient::new(injector.channel.clone());
        let answer = injector.answer(client.list_catalog_entries(request)).await?;
        Ok((answer.entries, answer.next_page_token))
    })
    .await
}
