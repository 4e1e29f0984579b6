//! The secrets and the servers of a workspace, and the edges between them.

use std::collections::{BTreeMap, BTreeSet};

use proto::{injector::v1::Server, vault::v1::Secret};

use super::reach::Outcome;
use crate::console::services::Explained;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecretState {
    Stored,
    Expired,
    /// A server names the secret, and the vault does not have it.
    Missing,
}

#[derive(Debug)]
pub(crate) struct SecretNode {
    pub(crate) name: String,
    pub(crate) state: SecretState,
    /// False for a secret that may be sent to any origin.
    pub(crate) is_bound: bool,
}

#[derive(Debug)]
pub(crate) struct ServerNode {
    pub(crate) name: String,
    pub(crate) url: String,
    /// True for a server that was added for an earlier workspace of the same name. All its calls are refused.
    pub(crate) is_of_deleted_workspace: bool,
}

/// A secret that a server gets. `secret` and `server` are indices into the lists of the graph.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) secret: usize,
    pub(crate) server: usize,
    pub(crate) is_required: bool,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) secrets: Vec<SecretNode>,
    pub(crate) servers: Vec<ServerNode>,
    pub(crate) edges: Vec<Edge>,
}

impl Graph {
    /// `workspace_uid` is the uid of the present workspace, when this identity may know it.
    /// `explained` has the injector's explanations of the first servers, as far as the injector gave them.
    pub(crate) fn of(
        workspace_uid: Option<&str>,
        secrets: &[Secret],
        servers: &[Server],
        explained: &[Explained],
    ) -> Self {
        let mut nodes: Vec<_> = secrets.iter().map(node_of).collect();
        let mut by_name: BTreeMap<_, _> = secrets
            .iter()
            .enumerate()
            .map(|(index, secret)| (secret.name.as_str(), index))
            .collect();
        let mut edges = Vec::new();
        for (server_index, server) in servers.iter().enumerate() {
            for (name, is_required) in needs(server) {
                let index = *by_name.entry(name).or_insert_with(|| {
                    nodes.push(missing(name));
                    nodes.len() - 1
                });
                let outcome = match secrets.get(index) {
                    Some(secret) => Outcome::of(secret, server, is_required),
                    None => Outcome::of_missing(is_required),
                };
                let outcome = match explained.get(server_index) {
                    Some(Ok(explained)) => outcome.with_value(name, explained),
                    Some(Err(_)) | None => outcome,
                };
                edges.push(Edge {
                    secret: index,
                    server: server_index,
                    is_required,
                    outcome,
                });
            }
        }
        Self {
            secrets: nodes,
            servers: servers
                .iter()
                .map(|server| server_of(server, workspace_uid))
                .collect(),
            edges,
        }
    }

    /// Returns the numbers of secrets that calls get and of servers that get one. A server whose calls are refused gets none.
    pub(crate) fn sent(&self) -> (usize, usize) {
        let refused = self.edges.iter();
        let refused = refused.filter(|edge| matches!(edge.outcome, Outcome::Refused(_)));
        let refused: BTreeSet<_> = refused.map(|edge| edge.server).collect();
        let is_of_deleted = |server: usize| {
            self.servers
                .get(server)
                .is_some_and(|server| server.is_of_deleted_workspace)
        };
        let sent = self.edges.iter().filter(|edge| {
            edge.outcome == Outcome::Sent && !refused.contains(&edge.server) && !is_of_deleted(edge.server)
        });
        let secrets: BTreeSet<_> = sent.clone().map(|edge| edge.secret).collect();
        let servers: BTreeSet<_> = sent.map(|edge| edge.server).collect();
        (secrets.len(), servers.len())
    }

    /// Returns the secrets that no server gets.
    pub(crate) fn unused_secrets(&self) -> Vec<&SecretNode> {
        let used = marked(self.secrets.len(), self.edges.iter().map(|edge| edge.secret));
        unmarked(&self.secrets, &used)
    }

    /// Returns the servers that get no secret.
    pub(crate) fn servers_without_secrets(&self) -> Vec<&ServerNode> {
        let used = marked(self.servers.len(), self.edges.iter().map(|edge| edge.server));
        unmarked(&self.servers, &used)
    }
}

fn marked(length: usize, indices: impl Iterator<Item = usize>) -> Vec<bool> {
    let mut marked = vec![false; length];
    for index in indices {
        if let Some(mark) = marked.get_mut(index) {
            *mark = true;
        }
    }
    marked
}

fn unmarked<'n, N>(nodes: &'n [N], marked: &[bool]) -> Vec<&'n N> {
    let pairs = nodes.iter().zip(marked);
    pairs
        .filter(|(_, marked)| !**marked)
        .map(|(node, _)| node)
        .collect()
}

fn node_of(secret: &Secret) -> SecretNode {
    SecretNode {
        name: secret.name.clone(),
        state: if secret.expired {
            SecretState::Expired
        } else {
            SecretState::Stored
        },
        is_bound: !secret.upstream_origins.is_empty(),
    }
}

fn missing(name: &str) -> SecretNode {
    SecretNode {
        name: name.to_owned(),
        state: SecretState::Missing,
        is_bound: false,
    }
}

fn server_of(server: &Server, workspace_uid: Option<&str>) -> ServerNode {
    ServerNode {
        name: server.name.clone(),
        url: server.url.clone(),
        is_of_deleted_workspace: workspace_uid.is_some_and(|uid| server.workspace_uid != uid),
    }
}

/// Returns the secrets of a server, each with true when a call needs it. A client certificate is always needed.
fn needs(server: &Server) -> BTreeMap<&str, bool> {
    let required = |name: &String| server.required_secrets.contains(name);
    let named = server.inject_secrets.iter();
    let mut needs: BTreeMap<_, _> = named.map(|name| (name.as_str(), required(name))).collect();
    let certificate = server.tls.as_ref().map(|tls| tls.client_cert_secret.as_str());
    if let Some(certificate) = certificate.filter(|name| !name.is_empty()) {
        needs.insert(certificate, true);
    }
    needs
}

#[cfg(test)]
mod tests {
    use proto::injector::v1::UpstreamTls;

    use super::{super::reach::Refusal, *};

    fn secret(name: &str) -> Secret {
        Secret {
            name: name.to_owned(),
            ..Default::default()
        }
    }

    fn server(name: &str, secrets: &[&str], required: &[&str]) -> Server {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Server {
            name: name.to_owned(),
            url: "https://api.example.com".to_owned(),
            inject_secrets: owned(secrets),
            required_secrets: owned(required),
            ..Default::default()
        }
    }

    fn names<'n>(nodes: &'n [&SecretNode]) -> Vec<&'n str> {
        nodes.iter().map(|node| node.name.as_str()).collect()
    }

    #[test]
    fn lines_say_what_goes_where_and_what_is_missing() {
        let servers = [
            server("a", &["ONE", "GONE"], &["GONE"]),
            server("b", &["GONE"], &[]),
            server("c", &[], &[]),
        ];
        let graph = Graph::of(None, &[secret("ONE"), secret("SPARE")], &servers, &[]);
        let edges: Vec<_> = graph
            .edges
            .iter()
            .map(|line| {
                let secret = graph.secrets.get(line.secret).map_or("", |secret| &secret.name);
                let server = graph.servers.get(line.server).map_or("", |server| &server.name);
                (secret, server, line.is_required, line.outcome)
            })
            .collect();
        assert_eq!(
            edges,
            [
                ("GONE", "a", true, Outcome::Refused(Refusal::Missing)),
                ("ONE", "a", false, Outcome::Sent),
                ("GONE", "b", false, Outcome::LeftOut),
            ]
        );
        assert_eq!(names(&graph.unused_secrets()), ["SPARE"]);
        let without: Vec<_> = graph
            .servers_without_secrets()
            .iter()
            .map(|server| &server.name)
            .collect();
        assert_eq!(without, ["c"]);
        // One node for a missing secret, also when several servers name it.
        assert_eq!(graph.secrets.len(), 3);
    }

    #[test]
    fn a_client_certificate_is_a_secret_that_is_always_required() {
        let mut server = server("a", &[], &[]);
        server.tls = Some(UpstreamTls {
            client_cert_secret: "CERT".to_owned(),
            ..Default::default()
        });
        let graph = Graph::of(None, &[secret("CERT")], &[server], &[]);
        assert!(graph.unused_secrets().is_empty());
        assert!(
            graph
                .edges
                .iter()
                .all(|edge| edge.is_required && edge.outcome == Outcome::Sent)
        );
        assert_eq!(graph.edges.len(), 1);
    }

    #[test]
    fn a_server_of_an_earlier_workspace_is_marked() {
        let mut old = server("a", &[], &[]);
        old.workspace_uid = "old".to_owned();
        let mut new = server("b", &[], &[]);
        new.workspace_uid = "new".to_owned();
        let servers = [old, new];
        let marks = |uid| {
            let nodes = Graph::of(uid, &[], &servers, &[]).servers.into_iter();
            nodes
                .map(|server| server.is_of_deleted_workspace)
                .collect::<Vec<_>>()
        };
        assert_eq!(marks(Some("new")), [true, false]);
        // Only administrators learn the uid of a workspace.
        assert_eq!(marks(None), [false, false]);
    }
}
