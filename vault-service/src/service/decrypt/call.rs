//! One decrypt: parsed and authorized, answered, and counted.

use std::{sync::Arc, time::Instant};

use chassis::{
    authz::Authorized,
    tls::{Identity, Reloading},
};
use proto::{
    CallId, Principal, Reason, Refusal, SecretName, SecretValue, ServerName, Uid,
    secret_name::distinct,
    vault::v1::{DecryptRequest, DecryptResponse, DecryptStatus, DecryptedSecret},
};
use tokio_util::sync::CancellationToken;

use super::{sealing::DecryptedAnswer, stream_audit::RefusedDecrypt};
use crate::{
    audit_log::AuditLog,
    authz::DecryptPermit,
    metrics::Metrics,
    service::{quota::Quotas, subject::SubjectDetails, workspace_name},
    status::{duplicate_name, refusal, secret_name, server_name},
    vault::{DecryptOutcome, DecryptQuery, MAX_NAMES, Reader, VaultError},
};

/// Size of the head of a gRPC message, in bytes.
pub(super) const MESSAGE_HEAD: usize = 5;

#[derive(Clone)]
pub(crate) struct DecryptRpcs {
    pub(crate) reader: Reader,
    pub(crate) metrics: Metrics,
    pub(crate) audit_log: AuditLog,
    pub(crate) quotas: Quotas,
    /// The certificate of this vault, which names its principal.
    pub(crate) identity: Reloading<Identity>,
    /// True when the vault refuses to send values in clear.
    pub(crate) require_sealed: bool,
    /// Ends all streams. Without it, the shutdown would wait for streams that never end by themselves.
    pub(crate) shutdown: CancellationToken,
}

impl DecryptRpcs {
    /// Returns the principal of this vault, to which sealed answers are bound.
    pub(super) fn id(&self) -> Result<Principal, Refusal> {
        let identity = self.identity.current();
        let id = identity.and_then(|identity| identity.principal());
        id.ok_or_else(|| Refusal::new(Reason::Internal, "the vault has no certificate"))
    }

    pub(super) async fn answer(
        &self,
        parsed: Result<ParsedDecrypt, Refusal>,
        check_only: bool,
    ) -> Result<DecryptedAnswer, Refusal> {
        let began = Instant::now();
        let decrypted = match &parsed {
            Ok(parsed) => self.reader.decrypt(vec![parsed.query.clone()]).await.pop(),
            Err(_) => None,
        };
        let answer = match (parsed, decrypted) {
            (Ok(parsed), Some(decrypted)) => {
                let answer = parsed.answer(decrypted, &self.metrics);
                answer.map_err(|refused| refused.refusal)
            }
            (Ok(_), None) => Err(refusal(VaultError::Stopped)),
            (Err(refusal), _) => Err(refusal),
        };
        self.count(check_only, answer, began)
    }

    /// Counts one decrypt that began at `began`, and returns its answer.
    pub(super) fn count(
        &self,
        check_only: bool,
        answer: Result<DecryptedAnswer, Refusal>,
        began: Instant,
    ) -> Result<DecryptedAnswer, Refusal> {
        let refused = answer.as_ref().err().map(|refusal| refusal.reason);
        self.metrics.decrypt(check_only, refused);
        if !check_only {
            self.metrics.decrypt_duration(began.elapsed());
        }
        answer
    }
}

pub(super) struct ParsedDecrypt {
    pub(super) query: Arc<DecryptQuery>,
    call_id: Option<CallId>,
}

impl ParsedDecrypt {
    pub(super) fn parse(authorized: &Authorized, request: &DecryptRequest) -> Result<Self, Refusal> {
        let DecryptRequest {
            workspace,
            workspace_uid,
            server,
            names,
            check_only,
            recipient_key: _,
            call_id,
        } = request;
        let permit = DecryptPermit::decide(authorized, &workspace_name(workspace)?)?;
        Ok(Self {
            query: Arc::new(DecryptQuery {
                permit,
                names: parse_names(names)?,
                workspace_uid: parse_optional(workspace_uid, Uid::parse).map_err(malformed)?,
                check_only: *check_only,
                server: parse_optional(server, ServerName::parse).map_err(server_name)?,
            }),
            call_id: parse_optional(call_id, CallId::parse).map_err(malformed)?,
        })
    }

    /// Makes the answer from the vault's answer to the query.
    pub(super) fn answer(
        self,
        decrypted: Result<(Uid, Vec<DecryptOutcome>), VaultError>,
        metrics: &Metrics,
    ) -> Result<DecryptedAnswer, RefusedDecrypt> {
        let (workspace, outcomes) = decrypted.map_err(|error| RefusedDecrypt {
            refusal: refusal(error),
            subject: Box::new(SubjectDetails::of_query(&self.query, self.call_id.clone())),
        })?;
        tracing::debug!(
            principal = %self.query.permit.principal(),
            workspace = %self.query.permit.workspace(),
            server = self.query.server_text(),
            names = outcomes.len(),
            check_only = self.query.check_only,
            call_id = self.call_id.as_ref().map(CallId::as_str),
            "decrypted"
        );
        let secrets = self.query.names.iter().zip(outcomes);
        let (secrets, values) = secrets
            .map(|(name, outcome)| {
                let (secret, value) = split_value(name, outcome);
                if !self.query.check_only {
                    metrics.secret(secret.status());
                }
                (secret, value)
            })
            .unzip();
        Ok(DecryptedAnswer {
            response: DecryptResponse {
                workspace_uid: workspace.to_string(),
                secrets,
                ..Default::default()
            },
            values,
            query: self.query,
            call_id: self.call_id,
        })
    }
}

fn parse_names(names: &[String]) -> Result<Vec<SecretName>, Refusal> {
    if names.len() > MAX_NAMES {
        return Err(malformed(format!("names: at most {MAX_NAMES} at once")));
    }
    let names = names
        .iter()
        .map(|name| SecretName::parse(name))
        .collect::<Result<_, _>>();
    distinct(names.map_err(secret_name)?).map_err(duplicate_name)
}

/// Parses a field that may be empty.
fn parse_optional<T, E>(text: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<Option<T>, E> {
    match text {
        "" => Ok(None),
        text => parse(text).map(Some),
    }
}

fn malformed(message: impl ToString) -> Refusal {
    Refusal::new(Reason::RequestMalformed, message)
}

/// Returns the answer about one secret without its value, and the value.
fn split_value(name: &SecretName, outcome: DecryptOutcome) -> (DecryptedSecret, Option<SecretValue>) {
    let with_status = |status: DecryptStatus| DecryptedSecret {
        name: name.to_string(),
        status: status.into(),
        ..Default::default()
    };
    match outcome {
        DecryptOutcome::Value {
            version,
            origins,
            value,
            facts,
        } => {
            let secret = DecryptedSecret {
                version,
                upstream_origins: origins.iter().map(ToString::to_string).collect(),
                facts,
                ..with_status(DecryptStatus::Ok)
            };
            (secret, value)
        }
        DecryptOutcome::NotFound => (with_status(DecryptStatus::NotFound), None),
        DecryptOutcome::Expired => (with_status(DecryptStatus::Expired), None),
        DecryptOutcome::DataLoss => (with_status(DecryptStatus::DataLoss), None),
        DecryptOutcome::KeyNotLoaded => (with_status(DecryptStatus::KeyNotLoaded), None),
    }
}
