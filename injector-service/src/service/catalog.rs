//! `injector.v1.CatalogService`, and requests to add a server from an entry of the catalog.

use std::borrow::Cow;

use chassis::authz::Authorized;
use proto::{
    Reason, Refusal,
    injector::v1::{
        self as api, ListCatalogEntriesRequest, ListCatalogEntriesResponse,
        catalog_service_server::CatalogService,
    },
    page::Page,
};
use tonic::{Request, Response, Status};

use crate::{
    body_calls::BodyCalls,
    catalog::{Catalog, CatalogEntry, Entries, EntryName},
    placement::AuthType,
    registry::server::Spec,
    status::{self, page_token},
};

/// The most names of entries that an error lists.
const MAX_LISTED_NAMES: usize = 10;

/// The handlers of `CatalogService`.
pub(crate) struct CatalogEntries {
    catalog: Option<Catalog>,
}

impl CatalogEntries {
    /// Serves an empty list when there is no `catalog`.
    pub(crate) fn new(catalog: Option<Catalog>) -> Self {
        Self { catalog }
    }
}

#[tonic::async_trait]
impl CatalogService for CatalogEntries {
    async fn list_catalog_entries(
        &self,
        request: Request<ListCatalogEntriesRequest>,
    ) -> Result<Response<ListCatalogEntriesResponse>, Status> {
        let ListCatalogEntriesRequest {
            page_size,
            page_token: token,
        } = request.get_ref();
        // The authorization layer requires a role, and a role in any workspace is enough.
        let list = ("catalog", Authorized::of(&request)?.principal()?);
        let page = Page::parse(*page_size, token, list).map_err(page_token)?;
        let Some(catalog) = &self.catalog else {
            return Ok(Response::new(ListCatalogEntriesResponse::default()));
        };
        let entries = catalog.entries().await.map_err(status::catalog)?;
        let (entries, more) = entries.page(&page);
        let next_page_token = match entries.last() {
            Some(last) if more => page.token(last.name.as_str()),
            _ => String::new(),
        };
        Ok(Response::new(ListCatalogEntriesResponse {
            entries: entries.into_iter().map(to_wire).collect(),
            next_page_token,
        }))
    }
}

fn to_wire(entry: &CatalogEntry) -> api::CatalogEntry {
    let CatalogEntry {
        name,
        default_name,
        spec,
        supplies_secrets,
        needs_url,
        docs,
        mcp: _,
    } = entry;
    let secrets = spec.secrets().into_iter();
    api::CatalogEntry {
        name: name.to_string(),
        url: spec.url.as_str().to_owned(),
        auth_type: api::AuthType::from(spec.auth_type).into(),
        protocol: api::Protocol::from(spec.protocol).into(),
        description: spec.description.clone(),
        suggested_secrets: secrets.map(|secret| secret.name.to_string()).collect(),
        default_name: default_name.to_string(),
        needs_url: *needs_url,
        supplies_secrets: *supplies_secrets,
        documentation_url: docs.clone(),
        injections: spec.injections_to_wire(),
    }
}

/// The server of a request to add one, with the fields that a catalog entry supplied.
#[derive(Debug)]
pub(super) struct CompletedRequest<'a> {
    pub(super) server: Cow<'a, api::Server>,
    /// True when the catalog says that the server at the URL speaks MCP.
    pub(super) is_mcp: bool,
}

/// Completes `server` from the catalog entry `name`. An empty `name` leaves `server` as it is.
pub(super) async fn complete_from_catalog<'a>(
    server: &'a api::Server,
    name: &str,
    catalog: Option<&Catalog>,
) -> Result<CompletedRequest<'a>, Refusal> {
    if name.is_empty() {
        return Ok(CompletedRequest {
            server: Cow::Borrowed(server),
            is_mcp: false,
        });
    }
    let name = EntryName::parse(name).map_err(status::catalog_entry)?;
    let catalog = catalog.ok_or_else(no_catalog)?;
    let entries = catalog.entries().await.map_err(status::catalog)?;
    let entry = entries.get(&name).ok_or_else(|| unknown_entry(&name, &entries))?;
    Ok(CompletedRequest {
        server: Cow::Owned(complete(server.clone(), entry)?),
        // The flag of the entry is about the URL of the entry.
        is_mcp: entry.mcp && server.url.is_empty(),
    })
}

/// Fills the empty fields of `server` from `entry`. Refuses a server without the URL that the entry needs.
fn complete(mut server: api::Server, entry: &CatalogEntry) -> Result<api::Server, Refusal> {
    let Spec {
        url,
        auth_type,
        injections: _,
        body_calls: BodyCalls {
            paths,
            grpc_methods: _,
        },
        protocol,
        tls,
        allow_plaintext,
        allowed_origins: _,
        oauth: _,
        scrub: _,
        on_echo: _,
        description,
    } = &entry.spec;
    // The example may be the URL of another customer.
    if entry.needs_url && (server.url.is_empty() || server.url == url.as_str()) {
        return Err(no_url(entry));
    }
    if server.name.is_empty() {
        server.name = entry.default_name.to_string();
    }
    if server.url.is_empty() {
        server.url = url.as_str().to_owned();
        // `tls` and `allow_plaintext` belong to the entry's URL. A server with another URL must not inherit them,
        // because `allow_plaintext` permits secrets in cleartext.
        server.tls = server.tls.take().or_else(|| tls.to_wire());
        server.allow_plaintext |= allow_plaintext;
    }
    // Compared as a number, because `auth_type()` would read an unknown number as unspecified. Injections of the request
    // decide on the auth type themselves.
    if server.auth_type == api::AuthType::Unspecified as i32 && server.injections.is_empty() {
        server.set_auth_type((*auth_type).into());
    }
    if entry.supplies_secrets && server.auth_type == api::AuthType::from(*auth_type) as i32 {
        supply_secrets(&mut server, &entry.spec);
    }
    if server.paths.is_empty() && server.auth_type() == api::AuthType::Skill {
        server.paths = paths.iter().map(ToString::to_string).collect();
    }
    if server.protocol == api::Protocol::Unspecified as i32 {
        server.set_protocol((*protocol).into());
    }
    if server.description.is_empty() {
        server.description.clone_from(description);
    }
    Ok(server)
}

/// Gives a server that names no secrets those of an entry, with their places.
fn supply_secrets(server: &mut api::Server, spec: &Spec) {
    let names_secrets = !server.inject_secrets.is_empty() || !server.required_secrets.is_empty();
    if names_secrets || !server.injections.is_empty() {
        return;
    }
    if let AuthType::Custom(_) = spec.auth_type {
        server.injections = spec.injections_to_wire();
        if server.url != spec.url.as_str() {
            // Injections into the path name variables of the entry's URL, which the server does not have.
            server.injections.retain(|injection| !is_path(injection));
        }
        if server.paths.is_empty() {
            server.paths = spec.body_calls.paths.iter().map(ToString::to_string).collect();
        }
        return;
    }
    let secrets = spec.secrets();
    let required = secrets.iter().filter(|secret| secret.required);
    server.required_secrets = required.map(|secret| secret.name.to_string()).collect();
    server.inject_secrets = secrets.iter().map(|secret| secret.name.to_string()).collect();
}

fn is_path(injection: &api::Injection) -> bool {
    matches!(injection.placement, Some(api::injection::Placement::Path(_)))
}

fn no_url(entry: &CatalogEntry) -> Refusal {
    let CatalogEntry { name, spec, .. } = entry;
    Refusal::new(
        Reason::ServerInvalid,
        format!(
            "url: the host of {name} depends on your account; give the server's url (--url), such as {}",
            spec.url.as_str()
        ),
    )
}

fn no_catalog() -> Refusal {
    Refusal::new(
        Reason::CatalogEntryNotFound,
        "catalog_entry: this injector has no catalog (--catalog); give the server's url",
    )
}

fn unknown_entry(name: &EntryName, entries: &Entries) -> Refusal {
    let known = entries.names_nearest_first(name);
    let names: Vec<_> = known
        .iter()
        .take(MAX_LISTED_NAMES)
        .map(|name| name.as_str())
        .collect();
    let has = match (names.as_slice(), known.len().saturating_sub(MAX_LISTED_NAMES)) {
        ([], _) => "it has none".to_owned(),
        (names, 0) => format!("it has {}", names.join(", ")),
        (names, more) => format!("it has {} and {more} more", names.join(", ")),
    };
    Refusal::new(
        Reason::CatalogEntryNotFound,
        format!("catalog_entry: there is no {name} in the catalog; {has}"),
    )
}

#[cfg(test)]
mod tests;
