//! The difference between a document and the present state, as the steps that remove it. Pure: it reads and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use injector_service::description::ServerDescription;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Manifest, PlanName, SecretMetadata,
    change::{Difference, FieldChange, PlannedChange, Step, Unchangeable, UnchangeableReason},
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
            let kept = kept_versions.or(present
                .workspace
                .as_ref()
                .map(|workspace| workspace.kept_versions));
            difference.add_secrets(secrets, &present.secrets, kept, choices);
        }
        if let Some(servers) = servers {
            let uid = present.workspace.as_ref().map(|workspace| workspace.uid.as_str());
            difference.add_servers(servers, &present.servers, uid, choices.prune);
        }
        difference
    }

    fn add_secrets(
        &mut self,
        wanted: &[SecretMetadata],
        present: &[PresentSecret],
        kept: Option<u32>,
        choices: Choices,
    ) {
        let by_name: BTreeMap<_, _> = present
            .iter()
            .map(|secret| (&secret.metadata.name, secret))
            .collect();
        for secret in wanted {
            match by_name.get(&secret.name) {
                None => self.missing_secrets.push(secret.clone()),
                Some(present) => self.add_secret(secret, present, kept, choices),
            }
        }
        let wanted: BTreeSet<_> = wanted.iter().map(|secret| &secret.name).collect();
        let others = by_name.into_keys().filter(|name| !wanted.contains(name));
        self.other_secrets.extend(others.cloned());
    }

    fn add_secret(
        &mut self,
        wanted: &SecretMetadata,
        present: &PresentSecret,
        kept: Option<u32>,
        choices: Choices,
    ) {
        for field in field_changes(&present.metadata, wanted) {
            let reason = match field.field.as_str() {
                "expires_at" => match expiry_change(wanted, present, kept, choices, field.clone()) {
                    Ok(change) => {
                        self.changes.push(change);
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

    /// `uid` is the uid of the present workspace.
    fn add_servers(
        &mut self,
        wanted: &[ServerDescription],
        present: &[PresentServer],
        uid: Option<&str>,
        prune: bool,
    ) {
        let by_name: BTreeMap<_, _> = present.iter().map(|server| (server.name(), server)).collect();
        let names: BTreeSet<_> = wanted.iter().map(ServerDescription::name).collect();
        for (name, server) in by_name.iter().filter(|(name, _)| !names.contains(*name)) {
            match prune {
                true => self.changes.push(removal(server, Vec::new(), false)),
                false => self.kept_servers.push((*name).clone()),
            }
        }
        for server in wanted {
            match by_name.get(server.name()).copied() {
                None => self.changes.push(addition(server)),
                // The injector refuses to update a server of a deleted workspace, and no call reaches it.
                Some(present) if is_of_another_workspace(present, uid) => {
                    let before = Some(json!(present.workspace_uid));
                    let fields = vec![change("workspace_uid", before, uid.map(|uid| json!(uid)))];
                    self.changes.push(removal(present, fields, true));
                    self.changes.push(addition(server));
                }
                Some(present) => self.changes.extend(server_update(server, present)),
            }
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
        uid: _,
        revision,
        plan: plan_before,
        kept_versions: kept_before,
    } = present;
    let (revision, kept_before) = (*revision, *kept_before);
    let plan = plan.filter(|plan| plan_before != plan);
    let kept_versions = kept_versions.filter(|kept| kept_before != *kept);
    let plan_change = plan.map(|plan| change("plan", Some(json!(plan_before)), Some(json!(plan))));
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

/// Returns the change that gives a secret another expiry: a restore of its current version. `kept` is the number of versions that
/// the workspace keeps.
fn expiry_change(
    wanted: &SecretMetadata,
    present: &PresentSecret,
    kept: Option<u32>,
    choices: Choices,
    expiry: FieldChange,
) -> Result<PlannedChange, UnchangeableReason> {
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
    // The restored version is one of those that are kept.
    let others = kept.map_or(usize::MAX, |kept| kept.saturating_sub(1) as usize);
    let mut lost_versions: Vec<_> = present.versions.iter().skip(others).copied().collect();
    lost_versions.reverse();
    let lost = (!lost_versions.is_empty()).then(|| change("lost_versions", None, Some(json!(lost_versions))));
    Ok(PlannedChange {
        step: Step::SetExpiry {
            secret: wanted.name.clone(),
            version: present.version,
            expires_at: after,
            is_later,
            lost_versions,
        },
        fields: std::iter::once(expiry).chain(lost).collect(),
    })
}

fn is_of_another_workspace(server: &PresentServer, uid: Option<&str>) -> bool {
    !server.workspace_uid.is_empty() && uid != Some(server.workspace_uid.as_str())
}

fn removal(server: &PresentServer, fields: Vec<FieldChange>, is_added_again: bool) -> PlannedChange {
    PlannedChange {
        step: Step::RemoveServer {
            name: server.name().clone(),
            revision: server.revision,
            is_added_again,
        },
        fields,
    }
}

fn addition(wanted: &ServerDescription) -> PlannedChange {
    PlannedChange {
        step: Step::AddServer(wanted.clone()),
        fields: object(wanted)
            .into_iter()
            .filter(|(field, _)| field != "name")
            .map(|(field, after)| change(&field, None, Some(after)))
            .collect(),
    }
}

fn server_update(wanted: &ServerDescription, present: &PresentServer) -> Option<PlannedChange> {
    let PresentServer {
        description: before,
        revision,
        workspace_uid: _,
    } = present;
    (before != wanted).then(|| PlannedChange {
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
