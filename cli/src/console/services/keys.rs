//! The calls about the vault's keys.

use std::{collections::BTreeMap, time::Duration};

use chassis::service_channel::ServiceChannel;
use proto::vault::v1::{
    GetKeyStatusRequest, GetKeyStatusResponse, ListWorkspaceKeysRequest, RotateRootKeyRequest,
    RotateWorkspaceKeyRequest, WorkspaceKey, key_service_client::KeyServiceClient,
};
use tokio::{task::JoinSet, time};

use super::Services;
use crate::{connect::Remote, console::remembered_access::Question, failure::Failure};

/// Longest time for which a page waits to know what its navigation may offer.
const NAVIGATION_WAIT: Duration = Duration::from_secs(1);

fn client(vault: &Remote) -> KeyServiceClient<ServiceChannel> {
    KeyServiceClient::new(vault.channel.clone())
}

async fn workspace_keys(vault: &Remote, workspace: &str) -> Result<Vec<WorkspaceKey>, Failure> {
    let request = ListWorkspaceKeysRequest {
        workspace: workspace.to_owned(),
    };
    let answer = vault.answer(client(vault).list_workspace_keys(request)).await?;
    Ok(answer.keys)
}

impl Services {
    pub(in crate::console) async fn key_status(&self) -> Result<GetKeyStatusResponse, Failure> {
        let mut client = client(&self.vault);
        self.vault
            .answer(client.get_key_status(GetKeyStatusRequest {}))
            .await
    }

    /// Returns false when this identity may neither see the keys nor make backups. Returns true as long as the vault does not say,
    /// because the pages of the keys and of backups explain what is wrong.
    pub(in crate::console) async fn may_administer_vault(&self) -> bool {
        let (remembered, question) = (&self.remembered_access, Question::AdministerVault);
        if let Some(may_administer) = remembered.get(question, "") {
            return may_administer;
        }
        let may_administer = match time::timeout(NAVIGATION_WAIT, self.key_status()).await {
            Ok(Ok(_)) => true,
            Ok(Err(failure)) if failure.lacks_role() => false,
            Ok(Err(_)) | Err(_) => return true,
        };
        remembered.keep(question, "", may_administer);
        may_administer
    }

    /// Returns the keys of several workspaces. The calls run at the same time.
    pub(in crate::console) async fn keys_of(
        &self,
        workspaces: Vec<String>,
    ) -> BTreeMap<String, Result<Vec<WorkspaceKey>, Failure>> {
        let mut calls = JoinSet::new();
        for workspace in workspaces {
            let vault = self.vault.clone();
            calls.spawn(async move {
                let keys = workspace_keys(&vault, &workspace).await;
                (workspace, keys)
            });
        }
        calls.join_all().await.into_iter().collect()
    }

    /// Makes a new key for a workspace, and returns its id.
    pub(in crate::console) async fn rotate_workspace_key(&self, workspace: &str) -> Result<String, Failure> {
        let request = RotateWorkspaceKeyRequest {
            workspace: workspace.to_owned(),
        };
        let mut client = client(&self.vault);
        Ok(self
            .vault
            .answer(client.rotate_workspace_key(request))
            .await?
            .key_id)
    }

    /// Makes a new root key, and returns its id.
    pub(in crate::console) async fn rotate_root_key(&self) -> Result<String, Failure> {
        let mut client = client(&self.vault);
        let rotate = client.rotate_root_key(RotateRootKeyRequest {});
        Ok(self.vault.answer(rotate).await?.key_id)
    }
}
