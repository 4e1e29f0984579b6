//! Names in the paths of pages.

use axum::{
    extract::{FromRequestParts, Path},
    response::Response,
};
use http::{StatusCode, request::Parts};
use proto::{SecretName, ServerName, WorkspaceName};
use serde::de::DeserializeOwned;

use crate::console::{app::SharedApp, view::message_page};

/// The workspace of a path `/w/{workspace}/…`.
pub(in crate::console) struct InWorkspace(pub(super) WorkspaceName);

impl FromRequestParts<SharedApp> for InWorkspace {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Response> {
        let name: String = path(parts, app).await?;
        WorkspaceName::parse(&name).map(Self).map_err(|_| no_such_page())
    }
}

/// The secret of a path `/w/{workspace}/secrets/{name}…`.
pub(in crate::console) struct OfSecret {
    pub(super) workspace: WorkspaceName,
    pub(super) name: SecretName,
}

impl FromRequestParts<SharedApp> for OfSecret {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Response> {
        let (workspace, name): (String, String) = path(parts, app).await?;
        let workspace = WorkspaceName::parse(&workspace).map_err(|_| no_such_page())?;
        let name = SecretName::parse(&name).map_err(|_| no_such_page())?;
        Ok(Self { workspace, name })
    }
}

/// The server of a path `/w/{workspace}/servers/{name}…`.
pub(in crate::console) struct OfServer {
    pub(super) workspace: WorkspaceName,
    pub(super) name: ServerName,
}

impl OfServer {
    /// Returns the path of the server's page.
    pub(super) fn path(&self) -> String {
        let Self { workspace, name } = self;
        format!("/w/{workspace}/servers/{name}")
    }
}

impl FromRequestParts<SharedApp> for OfServer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Response> {
        let (workspace, name): (String, String) = path(parts, app).await?;
        let workspace = WorkspaceName::parse(&workspace).map_err(|_| no_such_page())?;
        let name = ServerName::parse(&name).map_err(|_| no_such_page())?;
        Ok(Self { workspace, name })
    }
}

async fn path<T: DeserializeOwned + Send>(parts: &mut Parts, app: &SharedApp) -> Result<T, Response> {
    let path = Path::<T>::from_request_parts(parts, app).await;
    path.map(|Path(names)| names).map_err(|_| no_such_page())
}

fn no_such_page() -> Response {
    message_page(
        StatusCode::NOT_FOUND,
        "There is no such page",
        "No workspace, secret or server can have the name in the address.",
    )
}
