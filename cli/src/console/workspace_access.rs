//! The roles of the console's identity in a workspace.

use proto::vault::v1::{DeleteSecretRequest, Workspace};

use super::{remembered_access::Question, services::Services};
use crate::failure::{Failure, FailureKind};

/// The roles of the console's identity in a workspace, with what only an administrator sees.
pub(super) enum WorkspaceAccess {
    Admin(Workspace),
    Editor,
    Viewer,
}

impl WorkspaceAccess {
    /// Returns true when secrets may be put and deleted.
    pub(super) fn may_edit(&self) -> bool {
        match self {
            Self::Admin(_) | Self::Editor => true,
            Self::Viewer => false,
        }
    }
}

impl Services {
    /// Returns what the identity may do in a workspace. Only an administrator may see the workspace itself, so editors and viewers
    /// get no failure for a workspace that does not exist.
    pub(super) async fn workspace_access(&self, workspace: &str) -> Result<WorkspaceAccess, Failure> {
        if let Some(may_edit) = self.remembered_access.get(Question::ChangeSecrets, workspace) {
            return Ok(Self::without_administration(may_edit));
        }
        match self.workspace(workspace).await {
            Ok(workspace) => Ok(WorkspaceAccess::Admin(workspace)),
            Err(failure) if failure.lacks_role() => {
                let may_edit = self.may_edit_secrets(workspace).await?;
                Ok(Self::without_administration(may_edit))
            }
            Err(failure) => Err(failure),
        }
    }

    fn without_administration(may_edit: bool) -> WorkspaceAccess {
        match may_edit {
            true => WorkspaceAccess::Editor,
            false => WorkspaceAccess::Viewer,
        }
    }

    /// No RPC answers this question. The vault decides about the caller before it reads the name of a secret, so the deletion of
    /// a secret without a name is refused for its name only if the caller may delete secrets. It changes nothing, because no
    /// secret has an empty name.
    async fn may_edit_secrets(&self, workspace: &str) -> Result<bool, Failure> {
        let nameless = DeleteSecretRequest {
            workspace: workspace.to_owned(),
            name: String::new(),
            expected_version: None,
        };
        let answer = self
            .vault
            .answer(self.secret_client().delete_secret(nameless))
            .await;
        let may_edit = match answer {
            Err(failure) if failure.lacks_role() => false,
            Ok(_) => true,
            Err(failure)
                if matches!(
                    failure.kind,
                    FailureKind::Usage | FailureKind::Refused | FailureKind::NotFound
                ) =>
            {
                true
            }
            // The page of the change says what is wrong.
            Err(_) => return Ok(true),
        };
        self.remembered_access
            .keep(Question::ChangeSecrets, workspace, may_edit);
        Ok(may_edit)
    }
}
