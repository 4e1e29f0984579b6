//! The subjects of calls (workspaces, secrets and keys) for the audit log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::{
    CallId, Refusal, SecretName, ServerName, WorkspaceName,
    vault::v1::{DecryptRequest, DecryptStatus, DecryptedSecret},
};
use tonic::Request;

use super::workspace_name;
use crate::{
    audit_log::{Event, Line, SecretEntry, SecretOutcome},
    status::secret_name,
    vault::{DecryptQuery, MAX_NAMES},
};

/// The subject of a call, as far as its handler knows it. Handlers validate names through this type, so that no handler
/// can forget to note a name.
#[derive(Clone, Default)]
pub(crate) struct Subject(pub(super) Option<Arc<Mutex<SubjectDetails>>>);

pub(super) fn lock(details: &Mutex<SubjectDetails>) -> MutexGuard<'_, SubjectDetails> {
    details.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
pub(super) struct SubjectDetails {
    workspace: Option<WorkspaceName>,
    secrets: Vec<SecretSubject>,
    server: Option<ServerName>,
    call_id: Option<CallId>,
    pub(super) check_only: bool,
    key_id: String,
}

struct SecretSubject {
    name: SecretName,
    version: Option<u64>,
    outcome: Option<SecretOutcome>,
}

impl SecretSubject {
    fn new(name: SecretName) -> Self {
        Self {
            name,
            version: None,
            outcome: None,
        }
    }

    fn entry(&self) -> SecretEntry<'_> {
        let Self {
            name,
            version,
            outcome,
        } = self;
        SecretEntry {
            name: name.as_str(),
            version: *version,
            outcome: *outcome,
        }
    }
}

impl SubjectDetails {
    /// Takes the valid parts of a decrypt request. Invalid text is left out, because it could be anything, even a
    /// secret value.
    pub(super) fn of_request(request: &DecryptRequest) -> Self {
        let DecryptRequest {
            workspace,
            workspace_uid: _,
            server,
            names,
            check_only,
            recipient_key: _,
            call_id,
        } = request;
        let names = names.iter().take(MAX_NAMES);
        let names = names.filter_map(|name| SecretName::parse(name).ok());
        Self {
            workspace: WorkspaceName::parse(workspace).ok(),
            secrets: names.map(SecretSubject::new).collect(),
            server: ServerName::parse(server).ok(),
            call_id: CallId::parse(call_id).ok(),
            check_only: *check_only,
            key_id: String::new(),
        }
    }

    pub(super) fn of_query(query: &DecryptQuery, call_id: Option<CallId>) -> Self {
        let DecryptQuery {
            permit,
            workspace_uid: _,
            names,
            check_only,
            server,
        } = query;
        Self {
            workspace: Some(permit.workspace().clone()),
            secrets: names.iter().cloned().map(SecretSubject::new).collect(),
            server: server.clone(),
            call_id,
            check_only: *check_only,
            key_id: String::new(),
        }
    }

    pub(super) fn entries(&self) -> Vec<SecretEntry<'_>> {
        self.secrets.iter().map(SecretSubject::entry).collect()
    }

    /// Makes a line about this subject and `secrets`, which are its [`entries`](Self::entries).
    pub(super) fn line<'a>(&'a self, event: Event, secrets: &'a [SecretEntry<'a>]) -> Line<'a> {
        Line {
            workspace: self.workspace.as_ref(),
            secrets,
            server: self.server.as_ref().map_or("", ServerName::as_str),
            call_id: self.call_id.as_ref(),
            check_only: self.check_only,
            key_id: &self.key_id,
            ..Line::new(event)
        }
    }
}

/// Converts a secret of a decrypt's answer into an entry of the audit line.
pub(super) fn audit_entry(secret: &DecryptedSecret) -> SecretEntry<'_> {
    let (version, outcome) = match secret.status() {
        DecryptStatus::Unspecified | DecryptStatus::Ok => (Some(secret.version), SecretOutcome::Ok),
        DecryptStatus::NotFound => (None, SecretOutcome::NotFound),
        DecryptStatus::Expired => (None, SecretOutcome::Expired),
        DecryptStatus::DataLoss => (None, SecretOutcome::DataLoss),
        DecryptStatus::KeyNotLoaded => (None, SecretOutcome::KeyNotLoaded),
    };
    SecretEntry {
        name: &secret.name,
        version,
        outcome: Some(outcome),
    }
}

impl Subject {
    /// Returns the subject of a call. For a call that is not audited, the returned subject notes nothing.
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    fn note(&self, note: impl FnOnce(&mut SubjectDetails)) {
        if let Some(details) = &self.0 {
            note(&mut lock(details));
        }
    }

    pub(crate) fn parse_workspace(&self, text: &str) -> Result<WorkspaceName, Refusal> {
        let workspace = workspace_name(text)?;
        self.note(|details| details.workspace = Some(workspace.clone()));
        Ok(workspace)
    }

    pub(crate) fn parse_secret(&self, text: &str) -> Result<SecretName, Refusal> {
        let name = SecretName::parse(text).map_err(secret_name)?;
        self.note(|details| details.secrets = vec![SecretSubject::new(name.clone())]);
        Ok(name)
    }

    pub(crate) fn note_version(&self, version: u64) {
        self.note(|details| {
            if let [secret] = details.secrets.as_mut_slice() {
                secret.version = Some(version);
            }
        });
    }

    pub(super) fn note_request(&self, request: &DecryptRequest) {
        self.note(|details| *details = SubjectDetails::of_request(request));
    }

    /// Notes the outcome for each secret that was asked for.
    pub(super) fn note_outcomes(&self, secrets: &[DecryptedSecret]) {
        self.note(|details| {
            for (noted, secret) in details.secrets.iter_mut().zip(secrets) {
                let SecretEntry {
                    name: _,
                    version,
                    outcome,
                } = audit_entry(secret);
                (noted.version, noted.outcome) = (version, outcome);
            }
        });
    }

    pub(crate) fn note_key_id(&self, id: &str) {
        self.note(|details| id.clone_into(&mut details.key_id));
    }
}
