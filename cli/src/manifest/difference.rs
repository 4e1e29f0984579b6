//! The difference between a document and the present state, as the steps that remove it. Pure: it reads and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use injector_service::description::ServerDescription;
use jiff::Timestamp;
use proto::{SecretName, ServerName};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Manifest, PlanName, SecretMetadata,
    present::{PresentSecret, PresentServer, PresentState, PresentWorkspace},
};

/// The choices of the user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choices {
    /// Remove the servers that the document does not have.
    pub(crate) prune: bool,
    /// Let a value expire later than now, which only an administrator may do.
    pub(crate) allow_later_expiry: bool,
    pub(crate) now: Timestamp,
}

/// All differences.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Difference {
    /// In the order in which they must be made: servers after the workspace, and removals last.
    pub(crate) changes: Vec<PlannedChange>,
    /// Secrets of the document that the workspace does not have.
    pub(crate) missing_secrets: Vec<SecretMetadata>,
    /// Differences of secrets that no step removes.
    pub(crate) unchangeable: Vec<Unchangeable>,
    /// Servers that the document does not have, and that stay.
    pub(crate) kept_servers: Vec<ServerName>,
    /// Secrets that the document does not have. No step deletes a secret.
    pub(crate) other_secrets: Vec<SecretName>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct PlannedChange {
    pub(crate) step: Step,
    pub(crate) fields: Vec<FieldChange>,
}

/// One call that changes something. A revision or version is the one that was read.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    CreateWorkspace {
        plan: Option<PlanName>,
        kept_versions: Option<u32>,
    },
    UpdateWorkspace {
        revision: u64,
        plan: Option<PlanName>,
        kept_versions: Option<u32>,
    },
    SetExpiry {
        secret: SecretName,
        version: u64,
        /// `None` for never.
        expires_at: Option<Timestamp>,
        is_later: bool,
    },
    AddServer(ServerDescription),
    UpdateServer {
        server: ServerDescription,
        revision: u64,
    },
    RemoveServer {
        name: ServerName,
        revision: u64,
    },
}

/// A field that differs. `None` is a field that is not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FieldChange {
    pub(crate) field: String,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Unchangeable {
    pub(crate) secret: String,
    #[serde(flatten)]
    pub(crate) field: FieldChange,
    pub(crate) reason: UnchangeableReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnchangeableReason {
    /// Only a put of the value changes the field.
    NeedsValue,
    /// Only an administrator may let the value expire later, and the user did not ask for it.
    LaterExpiry,
    /// The document's time is in the past.
    PastExpiry,
}

impl Difference {
    pub(crate) fn between(manifest: &Manifest, present: &PresentState, choices: Choices) -> Self {
        let Manifest {
            name: _,
            plan,
            kept_versions,
            secrets,
            servers,
        } = manifest;
        let mut difference = Self::default();
        difference.changes.extend(workspace_change(
            present.workspace.as_ref(),
            *plan,
            *kept_versions,
        ));
        if let Some(secrets) = secrets {
            difference.add_secrets(secrets, &present.secrets, choices);
        }
        if let Some(servers) = servers {
            difference.add_servers(servers, &present.servers, choices.prune);
        }
        difference
    }

    /// Returns true when the workspace is as the document says. What the document does not have is no difference.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.missing_secrets.is_empty() && self.unchangeable.is_empty()
    }

    /// Returns the names of the servers that a step removes.
    pub(crate) fn removed_servers(&self) -> Vec<&ServerName> {
        let removed = self.changes.iter().filter_map(|change| match &change.step {
            Step::RemoveServer { name, revision: _ } => Some(name),
            Step::CreateWorkspace { .. }
            | Step::UpdateWorkspace { .. }
            | Step::SetExpiry { .. }
            | Step::AddServer(_)
            | Step::UpdateServer { .. } => None,
        });
        removed.collect()
    }

    fn add_secrets(&mut self, wanted: &[SecretMetadata], present: &[PresentSecret], choices: Choices) {
        let by_name: BTreeMap<_, _> = present
            .iter()
            .map(|secret| (&secret.metadata.name, secret))
            .collect();
        for secret in wanted {
            match by_name.get(&secret.name) {
                None => self.missing_secrets.push(secret.clone()),
                Some(present) => self.add_secret(secret, present, choices),
            }
        }
        let wanted: BTreeSet<_> = wanted.iter().map(|secret| &secret.name).collect();
        let others = by_name.into_keys().filter(|name| !wanted.contains(name));
        self.other_secrets.extend(others.cloned());
    }

    fn add_secret(&mut self, wanted: &SecretMetadata, present: &PresentSecret, choices: Choices) {
        for field in field_changes(&present.metadata, wanted) {
            let reason = match field.field.as_str() {
                "expires_at" => match expiry_step(wanted, present, choices) {
                    Ok(step) => {
                        self.changes.push(PlannedChange {
                            step,
                            fields: vec![field],
                        });
                        continue;
                    }
                    Err(reason) => reason,
                },
                _ => UnchangeableReason::NeedsValue,
            };
            self.unchangeable.push(Unchangeable {
                secret: wanted.name.to_string(),
                field,
                reason,
            });
        }
    }

    fn add_servers(&mut self, wanted: &[ServerDescription], present: &[PresentServer], prune: bool) {
        let by_name: BTreeMap<_, _> = present.iter().map(|server| (server.name(), server)).collect();
        for server in wanted {
            self.changes
                .extend(server_change(server, by_name.get(server.name()).copied()));
        }
        let wanted: BTreeSet<_> = wanted.iter().map(ServerDescription::name).collect();
        for (name, server) in by_name.into_iter().filter(|(name, _)| !wanted.contains(name)) {
            if !prune {
                self.kept_servers.push(name.clone());
                continue;
            }
            self.changes.push(PlannedChange {
                step: Step::RemoveServer {
                    name: name.clone(),
                    revision: server.revision,
                },
                fields: Vec::new(),
            });
        }
    }
}

fn workspace_change(
    present: Option<&PresentWorkspace>,
    plan: Option<PlanName>,
    kept_versions: Option<u32>,
) -> Option<PlannedChange> {
    let Some(present) = present else {
        let fields = [
            ("plan", plan.map(|plan| json!(plan))),
            ("kept_versions", kept_versions.map(|kept| json!(kept))),
        ];
        let fields = fields.into_iter().filter(|(_, after)| after.is_some());
        return Some(PlannedChange {
            step: Step::CreateWorkspace { plan, kept_versions },
            fields: fields.map(|(field, after)| change(field, None, after)).collect(),
        });
    };
    let PresentWorkspace {
        revision,
        plan: plan_before,
        kept_versions: kept_before,
    } = *present;
    let plan = plan.filter(|plan| plan_before != Some(*plan));
    let kept_versions = kept_versions.filter(|kept| kept_before != *kept);
    let plan_change =
        plan.map(|plan| change("plan", plan_before.map(|before| json!(before)), Some(json!(plan))));
    let kept_change =
        kept_versions.map(|kept| change("kept_versions", Some(json!(kept_before)), Some(json!(kept))));
    let fields: Vec<_> = plan_change.into_iter().chain(kept_change).collect();
    (!fields.is_empty()).then_some(PlannedChange {
        step: Step::UpdateWorkspace {
            revision,
            plan,
            kept_versions,
        },
        fields,
    })
}

/// Returns the step that gives a secret another expiry: a restore of its current version.
fn expiry_step(
    wanted: &SecretMetadata,
    present: &PresentSecret,
    choices: Choices,
) -> Result<Step, UnchangeableReason> {
    let (after, before) = (wanted.expires_at, present.metadata.expires_at);
    let is_later = match (before, after) {
        (Some(before), Some(after)) => after > before,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if after.is_some_and(|after| after <= choices.now) {
        return Err(UnchangeableReason::PastExpiry);
    }
    if is_later && !choices.allow_later_expiry {
        return Err(UnchangeableReason::LaterExpiry);
    }
    Ok(Step::SetExpiry {
        secret: wanted.name.clone(),
        version: present.version,
        expires_at: after,
        is_later,
    })
}

fn server_change(wanted: &ServerDescription, present: Option<&PresentServer>) -> Option<PlannedChange> {
    let Some(PresentServer {
        description: before,
        revision,
    }) = present
    else {
        return Some(PlannedChange {
            step: Step::AddServer(wanted.clone()),
            fields: object(wanted)
                .into_iter()
                .filter(|(field, _)| field != "name")
                .map(|(field, after)| change(&field, None, Some(after)))
                .collect(),
        });
    };
    if before == wanted {
        return None;
    }
    Some(PlannedChange {
        step: Step::UpdateServer {
            server: wanted.clone(),
            revision: *revision,
        },
        fields: field_changes(before, wanted),
    })
}

/// Returns the fields that differ in the written forms of two entries.
fn field_changes<T: Serialize>(before: &T, after: &T) -> Vec<FieldChange> {
    let (mut before, mut after) = (object(before), object(after));
    let fields: BTreeSet<String> = before.keys().chain(after.keys()).cloned().collect();
    let fields = fields
        .into_iter()
        .map(|field| change(&field, before.remove(&field), after.remove(&field)));
    fields.filter(|change| change.before != change.after).collect()
}

/// Returns the fields of an entry in its written form. Both kinds of entries are written as objects.
fn object<T: Serialize>(entry: &T) -> Map<String, Value> {
    match serde_json::to_value(entry) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => Map::new(),
    }
}

fn change(field: &str, before: Option<Value>, after: Option<Value>) -> FieldChange {
    FieldChange {
        field: field.to_owned(),
        before,
        after,
    }
}

#[cfg(test)]
mod tests;
