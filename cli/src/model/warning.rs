//! A warning of a service, as `--output json` prints it.

use proto::Warning as ApiWarning;
use serde::Serialize;

use super::enum_name::enum_name;

#[derive(Debug, Serialize)]
pub(crate) struct Warning {
    /// `secret_missing`, `secret_expired`, `secret_unbound`, `value_unfit`, `secret_unreadable`, `not_checked` or another.
    kind: String,
    /// `None` for a warning about no secret, or about all secrets.
    secret: Option<String>,
    message: String,
}

impl Warning {
    pub(crate) fn of(warning: ApiWarning) -> Self {
        let kind = enum_name(warning.kind().as_str_name(), "KIND_");
        let ApiWarning {
            kind: _,
            secret,
            message,
        } = warning;
        Self {
            kind,
            secret: (!secret.is_empty()).then_some(secret),
            message,
        }
    }

    pub(crate) fn note(&self) -> String {
        format!("warning: {}", self.message)
    }
}
