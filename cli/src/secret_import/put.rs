//! Puts the secrets of a plan.

use std::{collections::BTreeMap, ops::ControlFlow};

use prost_types::Timestamp;
use proto::{
    Reason,
    vault::v1::{PutSecretRequest, PutSecretResponse, secret_service_client::SecretServiceClient},
};

use super::plan::PlannedPut;
use crate::{
    connect::Remote,
    failure::{Failure, FailureKind},
    value::to_wire,
};

/// The metadata of all secrets of an import.
pub(crate) struct ImportOptions {
    /// `None` keeps the origins of a secret that is replaced.
    pub(crate) origins: Option<Vec<String>>,
    /// `None` keeps the labels of a secret that is replaced.
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) expires_at: Option<Timestamp>,
}

/// The result for one secret of a plan.
pub(crate) struct Imported {
    pub(crate) line: usize,
    pub(crate) name: String,
    pub(crate) outcome: PutOutcome,
}

pub(crate) enum PutOutcome {
    Created {
        version: u64,
        is_bound: bool,
    },
    Replaced {
        version: u64,
        is_bound: bool,
    },
    /// The secret was not put, or the vault did not say whether it was.
    Failed(Failure),
    /// The secret was not put, because an earlier failure concerns all secrets, or because the import was interrupted.
    NotTried,
}

impl PutOutcome {
    pub(crate) fn is_put(&self) -> bool {
        matches!(self, Self::Created { .. } | Self::Replaced { .. })
    }
}

/// Puts secrets one after another, and calls `done` after each. Each put is made only if the secret is still the one of the
/// plan. After a refusal of one secret the others are put; after a failure that concerns all, or when `done` breaks, no more are
/// tried.
pub(crate) async fn put_all(
    vault: &Remote,
    workspace: &str,
    options: &ImportOptions,
    puts: Vec<PlannedPut>,
    done: &mut (dyn FnMut() -> ControlFlow<()> + Send),
) -> Vec<Imported> {
    let mut client = SecretServiceClient::new(vault.channel.clone());
    let mut results = Vec::with_capacity(puts.len());
    let mut goes_on = true;
    for put in puts {
        let (line, name) = (put.line, put.name.to_string());
        let outcome = if goes_on {
            let request = request(workspace, options, put);
            outcome_of(vault.answer(client.put_secret(request)).await)
        } else {
            PutOutcome::NotTried
        };
        goes_on &= !matches!(&outcome, PutOutcome::Failed(failure) if concerns_all(failure));
        results.push(Imported { line, name, outcome });
        goes_on &= done().is_continue();
    }
    results
}

/// The value is wiped when this function returns; the request's copy is wiped by the allocator once it was sent.
fn request(workspace: &str, options: &ImportOptions, put: PlannedPut) -> PutSecretRequest {
    let PlannedPut {
        line: _,
        given: _,
        name,
        present,
        fits_nowhere: _,
        fits_no_header: _,
        variable: _,
        value,
    } = put;
    let present = present.unwrap_or_default();
    PutSecretRequest {
        workspace: workspace.to_owned(),
        name: name.as_str().to_owned(),
        value: Some(to_wire(&value)),
        upstream_origins: options.origins.clone().unwrap_or(present.upstream_origins),
        labels: options.labels.clone().unwrap_or(present.labels),
        expires_at: options.expires_at,
        // 0 for a secret that did not exist.
        expected_version: Some(present.version),
        // The request has no id, because it is never sent again.
        request_id: String::new(),
    }
}

fn outcome_of(answer: Result<PutSecretResponse, Failure>) -> PutOutcome {
    match answer {
        Ok(PutSecretResponse {
            secret,
            created,
            // The plan has shown which values fit no header.
            warnings: _,
        }) => {
            let secret = secret.unwrap_or_default();
            let (version, is_bound) = (secret.version, !secret.upstream_origins.is_empty());
            match created {
                true => PutOutcome::Created { version, is_bound },
                false => PutOutcome::Replaced { version, is_bound },
            }
        }
        Err(failure) => PutOutcome::Failed(explained(failure)),
    }
}

/// Says what the usual refusals mean in an import.
fn explained(failure: Failure) -> Failure {
    match (failure.reason, failure.kind) {
        (Some(Reason::VersionMismatch | Reason::Conflict), _) => Failure {
            message: "somebody else changed it at the same time".to_owned(),
            ..failure
        },
        (_, FailureKind::Unavailable) => Failure {
            message: format!("{}; whether it was put is not known", failure.message),
            ..failure
        },
        _ => failure,
    }
}

/// Returns true for a failure that the next secret would meet as well.
fn concerns_all(failure: &Failure) -> bool {
    match failure.kind {
        FailureKind::Unavailable
        | FailureKind::NotAllowed
        | FailureKind::NotFound
        | FailureKind::Configuration
        | FailureKind::Internal => true,
        FailureKind::Refused => !matches!(failure.reason, Some(Reason::PlanLimitReached)),
        FailureKind::Negative
        | FailureKind::HttpError
        | FailureKind::Usage
        | FailureKind::AlreadyExists
        | FailureKind::File
        | FailureKind::Conflict
        | FailureKind::Interrupted => false,
    }
}
