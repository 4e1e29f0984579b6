//! `injector.v1.CatalogService`, and servers that begin from an entry of the catalog.

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

use super::convert::{shown_auth_type, shown_protocol, shown_tls};
use crate::{
    body_calls::BodyCalls,
    catalog::{Catalog, Entries, Entry, EntryName},
    registry::server::Spec,
    status::{self, page_token},
};

/// The most names that an error lists.
const NEAREST: usize = 10;

/// Answers from a [`Catalog`].
pub(crate) struct CatalogEntries {
    catalog: Option<Catalog>,
}

impl CatalogEntries {
    /// Shows `catalog`, if there is one.
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
        // The layer has seen to a role; in which workspace does not matter.
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
            entries: entries.into_iter().map(shown).collect(),
            next_page_token,
        }))
    }
}

fn shown(entry: &Entry) -> api::CatalogEntry {
    let Entry { name, spec, mcp: _ } = entry;
    let secrets = spec.injections.iter();
    api::CatalogEntry {
        name: name.to_string(),
        url: spec.url.as_str().to_owned(),
        auth_type: shown_auth_type(spec.auth_type).into(),
        protocol: shown_protocol(spec.protocol).into(),
        description: spec.description.clone(),
        suggested_secrets: secrets.map(|injection| injection.secret.to_string()).collect(),
    }
}

/// The server of a request, completed from an entry of the catalog if the request names one.
#[derive(Debug)]
pub(super) struct Begun<'a> {
    pub(super) server: Cow<'a, api::Server>,
    /// True when the catalog says that the server speaks MCP.
    pub(super) is_mcp: bool,
}

/// The server of a request that may begin from the entry `name`; empty when it does not.
pub(super) async fn begin<'a>(
    server: &'a api::Server,
    name: &str,
    catalog: Option<&Catalog>,
) -> Result<Begun<'a>, Refusal> {
    if name.is_empty() {
        return Ok(Begun {
            server: Cow::Borrowed(server),
            is_mcp: false,
        });
    }
    let name = EntryName::parse(name).map_err(status::catalog_entry)?;
    let catalog = catalog.ok_or_else(no_catalog)?;
    let entries = catalog.entries().await.map_err(status::catalog)?;
    let entry = entries.get(&name).ok_or_else(|| unknown(&name, &entries))?;
    Ok(Begun {
        server: Cow::Owned(complete(server.clone(), entry)),
        // The entry speaks of its own URL.
        is_mcp: entry.mcp && server.url.is_empty(),
    })
}

/// Takes what `server` leaves empty from `entry`.
fn complete(mut server: api::Server, entry: &Entry) -> api::Server {
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
        description,
    } = &entry.spec;
    if server.name.is_empty() {
        server.name = entry.name.server().to_string();
    }
    if server.url.is_empty() {
        server.url = url.as_str().to_owned();
        // How this URL is reached; another one must not inherit, say, that it may be sent secrets in cleartext.
        server.tls = server.tls.take().or_else(|| shown_tls(tls));
        server.allow_plaintext |= allow_plaintext;
    }
    // By number: one that is unknown is the caller's, and is refused later.
    if server.auth_type == api::AuthType::Unspecified as i32 {
        server.set_auth_type(shown_auth_type(*auth_type));
    }
    if server.paths.is_empty() && server.auth_type() == api::AuthType::Skill {
        server.paths = paths.iter().map(ToString::to_string).collect();
    }
    if server.protocol == api::Protocol::Unspecified as i32 {
        server.set_protocol(shown_protocol(*protocol));
    }
    if server.description.is_empty() {
        server.description.clone_from(description);
    }
    server
}

fn no_catalog() -> Refusal {
    Refusal::new(
        Reason::CatalogEntryNotFound,
        "catalog_entry: this injector has no catalog (--catalog); give the server's url",
    )
}

fn unknown(name: &EntryName, entries: &Entries) -> Refusal {
    let known = entries.near(name);
    let names: Vec<_> = known.iter().take(NEAREST).map(|name| name.as_str()).collect();
    let has = match (names.as_slice(), known.len().saturating_sub(NEAREST)) {
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
#[path = "catalog_tests.rs"]
mod tests;
