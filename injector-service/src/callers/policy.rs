//! The servers that each caller may call (`--caller`).

use std::collections::{BTreeMap, BTreeSet};

use chassis::jwt::Issuers;
use proto::{Principal, ServerName, WorkspaceName};

/// The servers of all callers. A principal that is not in it may call none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CallerPolicy(BTreeMap<Principal, ServerScope>);

/// A set of servers, which need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerScope {
    All,
    Only(BTreeMap<WorkspaceName, WorkspaceServers>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WorkspaceServers {
    All,
    Only(BTreeSet<ServerName>),
}

impl CallerPolicy {
    /// Reads `PRINCIPAL=WORKSPACE/SERVER,WORKSPACE/*` or `PRINCIPAL=*`, and adds it to the policy.
    pub(crate) fn add(&mut self, text: &str, issuers: &Issuers) -> Result<(), String> {
        let (principal, servers) = text.rsplit_once('=').ok_or_else(|| {
            format!("{text:?} names no servers; write PRINCIPAL=WORKSPACE/SERVER,WORKSPACE/* or PRINCIPAL=*")
        })?;
        let principal = issuers
            .principal(principal)
            .map_err(|error| format!("{text:?}: {error}"))?;
        let servers = ServerScope::parse(servers).map_err(|error| format!("{text:?}: {error}"))?;
        let servers = match self.0.remove(&principal) {
            Some(earlier) => earlier.union(servers),
            None => servers,
        };
        self.0.insert(principal, servers);
        Ok(())
    }

    pub(crate) fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.0.keys()
    }

    /// Returns the servers of a principal, or `None` for one that may call no server.
    pub(super) fn servers(&self, principal: &Principal) -> Option<&ServerScope> {
        self.0.get(principal)
    }
}

impl ServerScope {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::All);
        }
        let mut servers = BTreeMap::<_, WorkspaceServers>::new();
        for name in text.split(',') {
            let wrong = || format!("{name:?} is not WORKSPACE/SERVER, WORKSPACE/* or *");
            let (workspace, server) = name.split_once('/').ok_or_else(wrong)?;
            let workspace = WorkspaceName::parse(workspace).map_err(|_| wrong())?;
            let server = match server {
                "*" => WorkspaceServers::All,
                server => WorkspaceServers::Only([ServerName::parse(server).map_err(|_| wrong())?].into()),
            };
            add(&mut servers, workspace, server);
        }
        Ok(Self::Only(servers))
    }

    /// Returns true when the set has a server with these names, which need not be valid.
    pub(super) fn contains(&self, workspace: &str, server: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(workspaces) => match workspaces.get(workspace) {
                Some(WorkspaceServers::All) => true,
                Some(WorkspaceServers::Only(servers)) => servers.contains(server),
                None => false,
            },
        }
    }

    fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::Only(mut servers), Self::Only(others)) => {
                for (workspace, other) in others {
                    add(&mut servers, workspace, other);
                }
                Self::Only(servers)
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }
}

fn add(
    servers: &mut BTreeMap<WorkspaceName, WorkspaceServers>,
    workspace: WorkspaceName,
    added: WorkspaceServers,
) {
    let all = match (servers.remove(&workspace), added) {
        (None, added) => added,
        (Some(WorkspaceServers::Only(mut names)), WorkspaceServers::Only(added)) => {
            names.extend(added);
            WorkspaceServers::Only(names)
        }
        (Some(WorkspaceServers::All), _) | (_, WorkspaceServers::All) => WorkspaceServers::All,
    };
    servers.insert(workspace, all);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(texts: &[&str]) -> CallerPolicy {
        let mut policy = CallerPolicy::default();
        for text in texts {
            policy.add(text, &Issuers::default()).unwrap();
        }
        policy
    }

    fn allows(policy: &CallerPolicy, principal: &str, workspace: &str, server: &str) -> bool {
        let servers = policy.servers(&Principal::parse(principal).unwrap());
        servers.is_some_and(|servers| servers.contains(workspace, server))
    }

    #[test]
    fn a_caller_may_call_the_servers_that_it_is_given_and_no_others() {
        let policy = policy(&[
            "token:ci=dev/github,shop/*",
            "token:ci=dev/jira",
            "spiffe://td/a=*",
            "jwt:https://issuer.example?x=1#sub=dev/github",
        ]);
        for (principal, workspace, server, allowed) in [
            ("token:ci", "dev", "github", true),
            ("token:ci", "dev", "jira", true),
            ("token:ci", "dev", "other", false),
            ("token:ci", "shop", "anything", true),
            ("token:ci", "shopping", "anything", false),
            ("token:ci", "", "", false),
            ("token:ci", "*", "*", false),
            ("token:other", "dev", "github", false),
            ("spiffe://td/a", "no-such-workspace", "%", true),
            ("spiffe://td/b", "dev", "github", false),
            ("jwt:https://issuer.example?x=1#sub", "dev", "github", true),
            ("jwt:https://issuer.example?x=1#sub", "dev", "jira", false),
        ] {
            assert_eq!(
                allows(&policy, principal, workspace, server),
                allowed,
                "{principal} {workspace}/{server}"
            );
        }
    }

    #[test]
    fn the_widest_of_several_settings_counts() {
        let all = policy(&["token:a=dev/x", "token:a=dev/*", "token:a=dev/y"]);
        assert!(allows(&all, "token:a", "dev", "z") && !allows(&all, "token:a", "other", "z"));
        let everything = policy(&["token:a=*", "token:a=dev/x"]);
        assert!(allows(&everything, "token:a", "other", "z"));
    }

    #[test]
    fn a_setting_that_names_no_servers_is_refused() {
        for text in [
            "token:a",
            "token:a=",
            "token:a=dev",
            "token:a=dev/",
            "token:a=/github",
            "token:a=dev/github,",
            "token:a=dev/github,*",
            "token:a=*/github",
            "token:a=Dev/github",
            "token:a=dev/github/x",
            "nobody=*",
            "token:A=*",
            "=*",
            "system:serviceaccount:shop:web=*",
        ] {
            let refused = CallerPolicy::default().add(text, &Issuers::default());
            assert!(refused.is_err(), "{text:?}");
        }
    }
}
