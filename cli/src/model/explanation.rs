//! The secrets that a call would carry now, as `--output json` prints them.

use proto::injector::v1::{ExplainInjectionResponse, ExplainedSecret as ApiExplainedSecret};
use serde::Serialize;

use super::enum_name::enum_name;

#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    pub secrets: Vec<ExplainedSecret>,
    pub would_forward: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct ExplainedSecret {
    pub name: String,
    pub placement: String,
    pub required: bool,
    /// `injected`, `missing`, `expired`, `unfit`, `origin_refused`, `upstream_not_verified` or `unreadable`.
    pub state: String,
    /// `None` unless the secret exists and has not expired.
    pub version: Option<u64>,
    /// The reason why the secret is not sent or a call is refused; `None` when the secret is sent.
    pub detail: Option<String>,
    /// A message about a secret that is sent.
    pub note: Option<String>,
}

impl Explanation {
    pub(crate) fn of(answer: ExplainInjectionResponse) -> Self {
        let ExplainInjectionResponse {
            secrets,
            would_forward,
        } = answer;
        Self {
            secrets: secrets.into_iter().map(ExplainedSecret::of).collect(),
            would_forward,
        }
    }
}

impl ExplainedSecret {
    fn of(secret: ApiExplainedSecret) -> Self {
        let state = enum_name(secret.state().as_str_name(), "STATE_");
        let ApiExplainedSecret {
            name,
            placement,
            required,
            state: _,
            version,
            detail,
            note,
        } = secret;
        Self {
            name,
            placement,
            required,
            state,
            version: (version > 0).then_some(version),
            detail: (!detail.is_empty()).then_some(detail),
            note: (!note.is_empty()).then_some(note),
        }
    }
}
