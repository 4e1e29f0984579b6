//! The calls to the injector that the pages of servers are made of.

use chassis::service_channel::ServiceChannel;
use proto::{
    ServerName, Warning, WorkspaceName,
    injector::v1::{
        AddServerRequest, CatalogEntry, ExplainInjectionRequest, GetServerRequest, RemoveServerRequest,
        Server, UpdateServerRequest, server_service_client::ServerServiceClient,
    },
};
use tokio::task::JoinSet;

use super::{Services, explained::Explained};
use crate::{
    connect::Remote,
    console::remembered_access::Question,
    failure::{Failure, FailureKind},
    pages,
};

/// Number of explanations that are asked for at the same time.
const CONCURRENT_EXPLANATIONS: usize = 16;

impl Services {
    fn server_client(&self) -> ServerServiceClient<ServiceChannel> {
        client(&self.injector)
    }

    pub(in crate::console) async fn server(
        &self,
        workspace: &WorkspaceName,
        name: &ServerName,
    ) -> Result<Server, Failure> {
        let request = GetServerRequest {
            workspace: workspace.as_str().to_owned(),
            name: name.as_str().to_owned(),
        };
        let answer = self
            .injector
            .answer(self.server_client().get_server(request))
            .await?;
        Ok(answer.server.unwrap_or_default())
    }

    /// Adds a server, whose empty fields an entry of the catalog fills if `catalog_entry` names one.
    pub(in crate::console) async fn add_server(
        &self,
        server: Server,
        catalog_entry: String,
    ) -> Result<(Server, Vec<Warning>), Failure> {
        let request = AddServerRequest {
            server: Some(server),
            catalog_entry,
        };
        let answer = self
            .injector
            .answer(self.server_client().add_server(request))
            .await?;
        Ok((answer.server.unwrap_or_default(), answer.warnings))
    }

    /// Changes the fields `paths`, if the revision in `server` is the present one.
    pub(in crate::console) async fn update_server(
        &self,
        server: Server,
        paths: Vec<String>,
    ) -> Result<(Server, Vec<Warning>), Failure> {
        let request = UpdateServerRequest {
            server: Some(server),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let answer = self
            .injector
            .answer(self.server_client().update_server(request))
            .await?;
        Ok((answer.server.unwrap_or_default(), answer.warnings))
    }

    /// Removes a server, if `revision` is its present revision.
    pub(in crate::console) async fn remove_server(
        &self,
        workspace: &WorkspaceName,
        name: &ServerName,
        revision: u64,
    ) -> Result<(), Failure> {
        let request = RemoveServerRequest {
            workspace: workspace.as_str().to_owned(),
            name: name.as_str().to_owned(),
            revision,
        };
        self.injector
            .answer(self.server_client().remove_server(request))
            .await
            .map(drop)
    }

    pub(in crate::console) async fn catalog(&self) -> Result<Vec<CatalogEntry>, Failure> {
        pages::catalog_entries(&self.injector).await
    }

    pub(in crate::console) async fn explain(&self, workspace: &str, server: &str) -> Explained {
        explain(&self.injector, workspace.to_owned(), server.to_owned()).await
    }

    /// Explains several servers of a workspace, in their order.
    pub(in crate::console) async fn explain_all(&self, servers: &[&Server]) -> Vec<Explained> {
        let mut running = JoinSet::new();
        let mut explained: Vec<_> = servers.iter().map(|_| None).collect();
        let mut waiting = servers.iter().enumerate();
        loop {
            while running.len() < CONCURRENT_EXPLANATIONS
                && let Some((index, server)) = waiting.next()
            {
                let (injector, workspace, name) = (
                    self.injector.clone(),
                    server.workspace.clone(),
                    server.name.clone(),
                );
                running.spawn(async move { (index, explain(&injector, workspace, name).await) });
            }
            let Some(ended) = running.join_next().await else {
                break;
            };
            if let Ok((index, answer)) = ended
                && let Some(place) = explained.get_mut(index)
            {
                *place = Some(answer);
            }
        }
        let lost = || Err(Failure::new(FailureKind::Internal, "the question was lost"));
        explained
            .into_iter()
            .map(|answer| answer.unwrap_or_else(lost))
            .collect()
    }

    /// Returns true when this identity may add, change and remove servers of a workspace.
    ///
    /// No RPC answers this question. The injector decides about the caller before it reads anything but the workspace, so an
    /// update of a server without a name is refused for its name only if the caller may update servers. It changes nothing,
    /// because no server has an empty name.
    pub(in crate::console) async fn may_change_servers(
        &self,
        workspace: &WorkspaceName,
    ) -> Result<bool, Failure> {
        let (remembered, question) = (&self.remembered_access, Question::ChangeServers);
        if let Some(may_change) = remembered.get(question, workspace.as_str()) {
            return Ok(may_change);
        }
        let nameless = Server {
            workspace: workspace.as_str().to_owned(),
            ..Default::default()
        };
        let may_change = match self.update_server(nameless, Vec::new()).await {
            Err(failure) if failure.lacks_role() => false,
            Err(failure) if failure.kind != FailureKind::Usage => return Err(failure),
            Ok(_) | Err(_) => true,
        };
        remembered.keep(question, workspace.as_str(), may_change);
        Ok(may_change)
    }
}

fn client(injector: &Remote) -> ServerServiceClient<ServiceChannel> {
    ServerServiceClient::new(injector.channel.clone())
}

async fn explain(injector: &Remote, workspace: String, name: String) -> Explained {
    let request = ExplainInjectionRequest { workspace, name };
    injector.answer(client(injector).explain_injection(request)).await
}
