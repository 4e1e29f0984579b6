//! `vault.v1.WorkspaceService`.

use chassis::authz::Authorized;
use proto::{
    Reason, Refusal,
    page::Page,
    vault::v1::{
        self as api, CreateWorkspaceRequest, CreateWorkspaceResponse, DeleteWorkspaceRequest,
        DeleteWorkspaceResponse, GetWorkspaceRequest, GetWorkspaceResponse, ListWorkspacesRequest,
        ListWorkspacesResponse, UpdateWorkspaceRequest, UpdateWorkspaceResponse,
        workspace_service_server::WorkspaceService,
    },
};
use tonic::{Request, Response, Status};

use super::subject::Subject;
use crate::{
    authz::AdminPermit,
    status::{page_token, refusal},
    vault::{KeptVersions, Plan, SettingsChange, Workspace, WorkspaceSettings, Writer},
};

pub(crate) struct WorkspaceRpcs {
    pub(crate) writer: Writer,
    pub(crate) default_plan: Plan,
}

#[tonic::async_trait]
impl WorkspaceService for WorkspaceRpcs {
    async fn create_workspace(
        &self,
        request: Request<CreateWorkspaceRequest>,
    ) -> Result<Response<CreateWorkspaceResponse>, Status> {
        let CreateWorkspaceRequest { workspace } = request.get_ref();
        let api::Workspace {
            name,
            plan,
            kept_versions,
            ..
        } = required_workspace(workspace.as_ref())?;
        let settings = WorkspaceSettings {
            plan: parse_plan(*plan)?.unwrap_or(self.default_plan),
            kept_versions: match kept_versions {
                0 => KeptVersions::default(),
                number => parse_kept_versions(*number)?,
            },
        };
        let permit = admin_permit(&request, name)?;
        let workspace = self
            .writer
            .create_workspace(&permit, settings)
            .await
            .map_err(refusal)?;
        Ok(Response::new(CreateWorkspaceResponse {
            workspace: Some(to_wire(workspace)),
        }))
    }

    async fn get_workspace(
        &self,
        request: Request<GetWorkspaceRequest>,
    ) -> Result<Response<GetWorkspaceResponse>, Status> {
        let GetWorkspaceRequest { name } = request.get_ref();
        let permit = admin_permit(&request, name)?;
        let workspace = self.writer.workspace(&permit).await.map_err(refusal)?;
        Ok(Response::new(GetWorkspaceResponse {
            workspace: Some(to_wire(workspace)),
        }))
    }

    async fn list_workspaces(
        &self,
        request: Request<ListWorkspacesRequest>,
    ) -> Result<Response<ListWorkspacesResponse>, Status> {
        let ListWorkspacesRequest {
            page_size,
            page_token: token,
        } = request.get_ref();
        let caller = Authorized::of(&request)?;
        let page = Page::parse(*page_size, token, ("workspaces", caller.principal()?)).map_err(page_token)?;
        let (workspaces, more) = self
            .writer
            .workspaces(caller.scope()?, page.clone())
            .await
            .map_err(refusal)?;
        let next_page_token = match workspaces.last() {
            Some(last) if more => page.token(last.name.as_str()),
            _ => String::new(),
        };
        let workspaces = workspaces.into_iter().map(to_wire).collect();
        Ok(Response::new(ListWorkspacesResponse {
            workspaces,
            next_page_token,
        }))
    }

    async fn update_workspace(
        &self,
        request: Request<UpdateWorkspaceRequest>,
    ) -> Result<Response<UpdateWorkspaceResponse>, Status> {
        let UpdateWorkspaceRequest {
            workspace,
            update_mask,
        } = request.get_ref();
        let workspace = required_workspace(workspace.as_ref())?;
        let paths = update_mask.as_ref().map(|mask| mask.paths.as_slice());
        let changes = parse_changes(workspace, paths.unwrap_or_default())?;
        let api::Workspace { name, revision, .. } = workspace;
        let permit = admin_permit(&request, name)?;
        let workspace = self
            .writer
            .update_workspace(&permit, *revision, changes)
            .await
            .map_err(refusal)?;
        Ok(Response::new(UpdateWorkspaceResponse {
            workspace: Some(to_wire(workspace)),
        }))
    }

    async fn delete_workspace(
        &self,
        request: Request<DeleteWorkspaceRequest>,
    ) -> Result<Response<DeleteWorkspaceResponse>, Status> {
        let DeleteWorkspaceRequest {
            name,
            force,
            revision,
        } = request.get_ref();
        let permit = admin_permit(&request, name)?;
        self.writer
            .delete_workspace(&permit, *revision, *force)
            .await
            .map_err(refusal)?;
        Ok(Response::new(DeleteWorkspaceResponse {}))
    }
}

fn admin_permit<T>(request: &Request<T>, workspace: &str) -> Result<AdminPermit, Refusal> {
    AdminPermit::decide(
        Authorized::of(request)?,
        &Subject::of(request).parse_workspace(workspace)?,
    )
}

fn required_workspace(workspace: Option<&api::Workspace>) -> Result<&api::Workspace, Refusal> {
    workspace.ok_or_else(|| Refusal::new(Reason::RequestMalformed, "workspace is required"))
}

/// Returns the changes of the fields that `paths` name. There must be at least one, and none twice.
fn parse_changes(workspace: &api::Workspace, paths: &[String]) -> Result<SettingsChange, Refusal> {
    let mut changes = SettingsChange::default();
    for path in paths {
        let is_repeated = match path.as_str() {
            "plan" => changes
                .plan
                .replace(parse_changed_plan(workspace.plan)?)
                .is_some(),
            "kept_versions" => {
                let number = parse_kept_versions(workspace.kept_versions)?;
                changes.kept_versions.replace(number).is_some()
            }
            _ => return Err(wrong_mask()),
        };
        if is_repeated {
            return Err(wrong_mask());
        }
    }
    match changes {
        SettingsChange {
            plan: None,
            kept_versions: None,
        } => Err(wrong_mask()),
        changes => Ok(changes),
    }
}

fn wrong_mask() -> Refusal {
    Refusal::new(
        Reason::FieldMaskInvalid,
        "update_mask must name what to change, once: `plan`, `kept_versions`",
    )
}

fn parse_kept_versions(number: u32) -> Result<KeptVersions, Refusal> {
    KeptVersions::parse(number).map_err(|error| {
        Refusal::new(
            Reason::RequestMalformed,
            format!("workspace.kept_versions: {error}"),
        )
    })
}

fn parse_changed_plan(number: i32) -> Result<Plan, Refusal> {
    parse_plan(number)?
        .ok_or_else(|| Refusal::new(Reason::RequestMalformed, "workspace.plan: say which plan"))
}

fn parse_plan(number: i32) -> Result<Option<Plan>, Refusal> {
    Ok(match api::Plan::try_from(number) {
        Ok(api::Plan::Unspecified) => None,
        Ok(api::Plan::Free) => Some(Plan::Free),
        Ok(api::Plan::Starter) => Some(Plan::Starter),
        Ok(api::Plan::Pro) => Some(Plan::Pro),
        Ok(api::Plan::Business) => Some(Plan::Business),
        Ok(api::Plan::Enterprise) => Some(Plan::Enterprise),
        Err(_) => {
            return Err(Refusal::new(
                Reason::RequestMalformed,
                "workspace.plan: there is no such plan",
            ));
        }
    })
}

fn to_wire(workspace: Workspace) -> api::Workspace {
    let Workspace {
        name,
        uid,
        revision,
        create_time,
        update_time,
        settings: WorkspaceSettings { plan, kept_versions },
        secret_count,
    } = workspace;
    let plan = match plan {
        Plan::Free => api::Plan::Free,
        Plan::Starter => api::Plan::Starter,
        Plan::Pro => api::Plan::Pro,
        Plan::Business => api::Plan::Business,
        Plan::Enterprise => api::Plan::Enterprise,
    };
    api::Workspace {
        name: name.to_string(),
        uid: uid.to_string(),
        revision,
        create_time: Some(create_time),
        update_time: Some(update_time),
        plan: plan.into(),
        secret_count,
        kept_versions: kept_versions.number(),
    }
}
