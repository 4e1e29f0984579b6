//! `injector.v1.ServerService`.

use std::{iter, sync::Arc};

use chassis::authz::{Authorized, Role, Scope};
use proto::{
    Reason, Refusal, ServerName, Warning, WorkspaceName,
    injector::v1::{
        self as api, AddServerRequest, AddServerResponse, ExplainInjectionRequest, ExplainInjectionResponse,
        GetServerRequest, GetServerResponse, ListServersRequest, ListServersResponse, RemoveServerRequest,
        RemoveServerResponse, UpdateServerRequest, UpdateServerResponse,
        server_service_server::ServerService,
    },
    page::Page,
};
use tonic::{Request, Response, Status};

use super::{
    catalog::{self, CompletedRequest},
    explain::{check_bindings, explain},
    field_mask, warnings,
};
use crate::{
    authz::{ReadPermit, WritePermit},
    catalog::Catalog,
    placement::NamedSecret,
    registry::{Entry, ListedServers, Registry, RegistryError, page_key, server::Spec},
    resolve::Resolver,
    status::{self, page_token, refusal},
};

/// A server that was stored, and the warnings about it.
type StoredServer = (Arc<Entry>, Vec<Warning>);

/// The number of tries of an update without a revision. A try fails when the server is changed in its midst.
const UPDATE_TRIES: usize = 5;

/// The handlers of `ServerService`.
pub(crate) struct Servers {
    registry: Registry,
    resolver: Resolver,
    catalog: Option<Catalog>,
}

#[tonic::async_trait]
impl ServerService for Servers {
    async fn add_server(
        &self,
        request: Request<AddServerRequest>,
    ) -> Result<Response<AddServerResponse>, Status> {
        let AddServerRequest {
            server,
            catalog_entry,
        } = request.get_ref();
        let server = given(server.as_ref())?;
        let permit = write_permit(&request, &server.workspace)?;
        let CompletedRequest { server, is_mcp } =
            catalog::complete_from_catalog(server, catalog_entry, self.catalog.as_ref()).await?;
        let name = server_name(&server.name)?;
        let spec = self.parse(&server, None)?;
        check_allowance(&permit, None, &spec)?;
        let (entry, mut warnings) = self.add(&permit, name, spec).await?;
        warnings.extend(warnings::of_settings(&entry.server.spec, is_mcp));
        Ok(Response::new(AddServerResponse {
            server: Some(entry.to_wire()),
            warnings,
        }))
    }

    async fn update_server(
        &self,
        request: Request<UpdateServerRequest>,
    ) -> Result<Response<UpdateServerResponse>, Status> {
        let server = given(request.get_ref().server.as_ref())?;
        let permit = write_permit(&request, &server.workspace)?;
        let name = server_name(&server.name)?;
        let (entry, mut warnings) = self.update(&permit, &name, request.get_ref(), server).await?;
        warnings.extend(warnings::of_settings(&entry.server.spec, false));
        Ok(Response::new(UpdateServerResponse {
            server: Some(entry.to_wire()),
            warnings,
        }))
    }

    async fn get_server(
        &self,
        request: Request<GetServerRequest>,
    ) -> Result<Response<GetServerResponse>, Status> {
        let GetServerRequest { workspace, name } = request.get_ref();
        let permit = read_permit(&request, workspace)?;
        let entry = self.registry.get(&permit, &server_name(name)?).map_err(refusal)?;
        Ok(Response::new(GetServerResponse {
            server: Some(entry.to_wire()),
        }))
    }

    async fn list_servers(
        &self,
        request: Request<ListServersRequest>,
    ) -> Result<Response<ListServersResponse>, Status> {
        let ListServersRequest {
            workspace,
            page_size,
            page_token: token,
        } = request.get_ref();
        let caller = Authorized::of(&request)?;
        let scope = match workspace.as_str() {
            "" => caller.scope()?,
            one => Scope::Only([read_permit(&request, one)?.workspace().clone()].into()),
        };
        let list = ("servers", caller.principal()?, workspace);
        let page = Page::parse(*page_size, token, list).map_err(page_token)?;
        let ListedServers {
            entries,
            more,
            revision,
        } = self.registry.list(&scope, &page);
        let next_page_token = match entries.last() {
            Some(last) if more => page.token(&page_key(&last.server)),
            _ => String::new(),
        };
        let servers = entries.iter().map(|entry| entry.to_wire()).collect();
        Ok(Response::new(ListServersResponse {
            servers,
            next_page_token,
            servers_file_revision: revision.to_string(),
        }))
    }

    async fn remove_server(
        &self,
        request: Request<RemoveServerRequest>,
    ) -> Result<Response<RemoveServerResponse>, Status> {
        let RemoveServerRequest {
            workspace,
            name,
            revision,
        } = request.get_ref();
        let permit = write_permit(&request, workspace)?;
        self.registry
            .remove(&permit, &server_name(name)?, *revision)
            .await
            .map_err(refusal)?;
        Ok(Response::new(RemoveServerResponse {}))
    }

    async fn explain_injection(
        &self,
        request: Request<ExplainInjectionRequest>,
    ) -> Result<Response<ExplainInjectionResponse>, Status> {
        let ExplainInjectionRequest { workspace, name } = request.get_ref();
        let permit = read_permit(&request, workspace)?;
        let entry = self.registry.get(&permit, &server_name(name)?).map_err(refusal)?;
        let states = self.resolver.check_server(&entry).await?;
        let requires = |secret: &NamedSecret<'_>| self.resolver.requires(secret);
        Ok(Response::new(explain(&entry, &states, requires)))
    }
}

impl Servers {
    pub(crate) fn new(registry: Registry, resolver: Resolver, catalog: Option<Catalog>) -> Self {
        Self {
            registry,
            resolver,
            catalog,
        }
    }

    async fn add(&self, permit: &WritePermit, name: ServerName, spec: Spec) -> Result<StoredServer, Refusal> {
        let workspace = permit.workspace().clone();
        if self.registry.get(permit, &name).is_ok() {
            return Err(refusal(RegistryError::ServerExists(workspace, name)));
        }
        let workspace_uid = self.resolver.workspace_uid(&workspace).await?;
        let candidate = Entry::added(workspace, name.clone(), workspace_uid, spec.clone());
        let warnings = self.check_secrets(&Arc::new(candidate)).await?;
        let added = self.registry.add(permit, &name, workspace_uid, spec).await;
        Ok((added.map_err(refusal)?, warnings))
    }

    /// Merges the given fields into the current revision of the server. When another change comes in between, an update
    /// without a revision is tried again, and an update with a revision is refused.
    async fn update(
        &self,
        permit: &WritePermit,
        name: &ServerName,
        request: &UpdateServerRequest,
        given: &api::Server,
    ) -> Result<StoredServer, Refusal> {
        for _ in 0..UPDATE_TRIES {
            let current = self.registry.get(permit, name).map_err(refusal)?;
            if given.revision != 0 {
                current.check_revision(given.revision).map_err(refusal)?;
            }
            let merged = field_mask::apply(current.to_wire(), given, request.update_mask.as_ref())?;
            let spec = self.parse(&merged, Some(&current.server.spec))?;
            check_allowance(permit, Some(&current.server.spec), &spec)?;
            let candidate = Arc::new(current.updated(spec.clone()));
            let warnings = self.check_secrets(&candidate).await?;
            match self
                .registry
                .update(permit, name, current.server.revision, spec)
                .await
            {
                Err(RegistryError::RevisionMismatch) if given.revision == 0 => {}
                other => return Ok((other.map_err(refusal)?, warnings)),
            }
        }
        Err(Refusal::new(
            Reason::Conflict,
            "other calls changed this server at the same time; try again",
        ))
    }

    /// Refuses a server whose secrets may not be sent to it, and returns the warnings about its secrets. The server is also
    /// stored when the vault does not answer, because each call is checked anyway.
    async fn check_secrets(&self, candidate: &Arc<Entry>) -> Result<Vec<Warning>, Refusal> {
        let mut states = Vec::new();
        let spec = &candidate.server.spec;
        let certificate = spec.client_certificate().map(|certificate| vec![certificate]);
        for secrets in iter::once(spec.secrets()).chain(certificate) {
            match self.resolver.check(candidate, &secrets).await {
                Ok(answered) => states.extend(answered),
                Err(unknown) => {
                    let mut warnings = warnings::of_secrets(candidate, &states, &self.resolver);
                    warnings.push(warnings::not_checked(&unknown));
                    return Ok(warnings);
                }
            }
            check_bindings(candidate, &states)?;
        }
        Ok(warnings::of_secrets(candidate, &states, &self.resolver))
    }

    /// Parses a server that replaces `before`, if there is such a server.
    fn parse(&self, server: &api::Server, before: Option<&Spec>) -> Result<Spec, Refusal> {
        let spec = Spec::from_wire(server, self.registry.own()).map_err(status::spec)?;
        spec.check_wildcard_origins(before).map_err(status::spec)?;
        Ok(spec)
    }
}

/// Refuses a change from `before` to `after` by an editor when `after.tls.allow_bound_secrets` is set. With this field an
/// administrator vouches for the server's URL and TLS, so an editor may change only the other fields.
fn check_allowance(permit: &WritePermit, before: Option<&Spec>, after: &Spec) -> Result<(), Refusal> {
    let vouched_for = before.is_some_and(|before| before.url == after.url && before.tls == after.tls);
    if !after.tls.allow_bound_secrets || vouched_for || permit.role() == Role::Admin {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::PermissionDenied,
        "tls.allow_bound_secrets: only an administrator of the workspace may set it, and change the url or the tls of a \
         server that has it set",
    ))
}

fn given(server: Option<&api::Server>) -> Result<&api::Server, Refusal> {
    server.ok_or_else(|| Refusal::new(Reason::RequestMalformed, "server is required"))
}

fn read_permit<T>(request: &Request<T>, workspace: &str) -> Result<ReadPermit, Refusal> {
    ReadPermit::decide(Authorized::of(request)?, &workspace_name(workspace)?)
}

fn write_permit<T>(request: &Request<T>, workspace: &str) -> Result<WritePermit, Refusal> {
    WritePermit::decide(Authorized::of(request)?, &workspace_name(workspace)?)
}

fn workspace_name(text: &str) -> Result<WorkspaceName, Refusal> {
    WorkspaceName::parse(text).map_err(status::workspace_name)
}

fn server_name(text: &str) -> Result<ServerName, Refusal> {
    ServerName::parse(text).map_err(status::server_name)
}
