//! The audit lines of the decrypts of one stream.

use chassis::caller::Caller;
use proto::{Refusal, vault::v1::DecryptRequest};

use super::sealing::DecryptedAnswer;
use crate::{
    audit_log::{AuditLog, Event, Line, Lines, Outcome, SecretEntry},
    service::subject::{SubjectDetails, audit_entry},
};

/// Name of the RPC in audit lines.
const METHOD: &str = "vault.v1.DecryptService/DecryptStream";

pub(super) struct RefusedDecrypt {
    pub(super) refusal: Refusal,
    pub(super) subject: Box<SubjectDetails>,
}

impl RefusedDecrypt {
    /// Makes the refusal of a request that was not parsed.
    pub(super) fn new(refusal: Refusal, request: &DecryptRequest) -> Self {
        Self {
            refusal,
            subject: Box::new(SubjectDetails::of_request(request)),
        }
    }
}

pub(super) struct StreamAudit {
    pub(super) log: AuditLog,
    pub(super) caller: Option<Caller>,
}

impl StreamAudit {
    /// Refuses a message while the log cannot be written.
    pub(super) fn admit(&self) -> Result<(), Refusal> {
        self.log.admit()
    }

    /// Writes the lines of all decrypts together. Returns the answers, or refusals when the lines could not be written,
    /// so that no value is sent before its line was written.
    pub(super) async fn record(
        &self,
        answers: Vec<(u64, Result<DecryptedAnswer, RefusedDecrypt>)>,
    ) -> Vec<(u64, Result<DecryptedAnswer, Refusal>)> {
        let written = match self.log.is_on() {
            true => self.log.write(self.lines(&answers)).await,
            false => Ok(()),
        };
        let or_withheld = |answer: Result<DecryptedAnswer, RefusedDecrypt>| match &written {
            Ok(()) => answer.map_err(|refused| refused.refusal),
            Err(refusal) => Err(refusal.clone()),
        };
        let answers = answers.into_iter();
        answers.map(|(id, answer)| (id, or_withheld(answer))).collect()
    }

    /// Writes the line of a message that ends the stream.
    pub(super) async fn record_refused_message(&self, refusal: &Refusal) {
        let line = Line {
            method: METHOD,
            outcome: Some(Outcome::Refused),
            reason: refusal.reason.name(),
            ..Line::new(Event::Decrypt).by(self.caller.as_ref())
        };
        // The result is not needed: the client gets the refusal in any case.
        drop(self.log.write(Lines::of(&line)).await);
    }

    fn lines(&self, answers: &[(u64, Result<DecryptedAnswer, RefusedDecrypt>)]) -> Lines {
        let mut lines = Lines::new();
        for (_, answer) in answers {
            match answer {
                Ok(answer) => self.push_answer(&mut lines, answer),
                Err(refused) => self.push_refused(&mut lines, refused),
            }
        }
        lines
    }

    fn push_answer(&self, lines: &mut Lines, answer: &DecryptedAnswer) {
        let DecryptedAnswer {
            response,
            values: _,
            query,
            call_id,
        } = answer;
        let secrets: Vec<SecretEntry<'_>> = response.secrets.iter().map(audit_entry).collect();
        lines.push(&Line {
            method: METHOD,
            workspace: Some(query.permit.workspace()),
            secrets: &secrets,
            server: query.server_text(),
            call_id: call_id.as_ref(),
            check_only: query.check_only,
            outcome: Some(Outcome::Ok),
            ..Line::new(Event::Decrypt).by(self.caller.as_ref())
        });
    }

    fn push_refused(&self, lines: &mut Lines, refused: &RefusedDecrypt) {
        let RefusedDecrypt { refusal, subject } = refused;
        let secrets = subject.entries();
        lines.push(&Line {
            method: METHOD,
            outcome: Some(Outcome::Refused),
            reason: refusal.reason.name(),
            ..subject.line(Event::Decrypt, &secrets).by(self.caller.as_ref())
        });
    }
}
