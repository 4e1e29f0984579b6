//! Answers of the vault, parsed. An answer is used only when it has exactly the secrets of the request, in their order.

use proto::{
    OriginPattern, Reason, Refusal, SecretName, Uid,
    vault::v1::{DecryptStatus, DecryptedSecret, ValueFacts},
};
use zeroize::Zeroizing;

use super::seal_keys::OpenedAnswer;

/// The answer for one secret of a request.
pub(super) enum SecretAnswer {
    Found {
        version: u64,
        origins: Vec<OriginPattern>,
        /// `None` when the request did not ask for values.
        value: Option<Zeroizing<Vec<u8>>>,
        facts: Option<ValueFacts>,
    },
    Missing,
    Expired,
    DataLoss,
    KeyNotLoaded,
}

/// Returns the workspace's uid and the answer for each secret. Refuses an answer with other secrets than `names`.
pub(super) fn parse<'n>(
    opened: OpenedAnswer,
    names: impl Iterator<Item = &'n SecretName>,
    check_only: bool,
) -> Result<(Uid, Vec<SecretAnswer>), Refusal> {
    let opened = opened.into_parts(check_only);
    let (uid, secrets) = opened.map_err(|_| not_what_was_asked("a status without its value"))?;
    let as_asked = secrets
        .iter()
        .map(|(secret, _)| secret.name.as_str())
        .eq(names.map(SecretName::as_str));
    if !as_asked {
        return Err(not_what_was_asked("other names than asked for"));
    }
    let uid = Uid::parse(&uid).map_err(|_| not_what_was_asked("no workspace uid"))?;
    let answers = secrets
        .into_iter()
        .map(|(secret, value)| parse_secret(secret, value))
        .collect::<Result<_, _>>()?;
    Ok((uid, answers))
}

fn parse_secret(secret: DecryptedSecret, value: Option<Zeroizing<Vec<u8>>>) -> Result<SecretAnswer, Refusal> {
    let status = secret.status();
    let DecryptedSecret {
        name: _,
        status: _,
        version,
        value: _,
        upstream_origins,
        facts,
    } = secret;
    match status {
        DecryptStatus::Ok => {
            let origins = upstream_origins
                .iter()
                .map(|origin| OriginPattern::parse(origin))
                .collect::<Result<_, _>>();
            let origins = origins.map_err(|_| not_what_was_asked("an invalid origin"))?;
            Ok(SecretAnswer::Found {
                version,
                origins,
                value,
                facts,
            })
        }
        DecryptStatus::NotFound => Ok(SecretAnswer::Missing),
        DecryptStatus::Expired => Ok(SecretAnswer::Expired),
        DecryptStatus::DataLoss => Ok(SecretAnswer::DataLoss),
        DecryptStatus::KeyNotLoaded => Ok(SecretAnswer::KeyNotLoaded),
        DecryptStatus::Unspecified => Err(not_what_was_asked("no known status")),
    }
}

/// Logs `what` is wrong with the answer, and returns the refusal.
pub(super) fn not_what_was_asked(what: &str) -> Refusal {
    tracing::error!(what, "the vault's answer does not match the request");
    Refusal::new(
        Reason::VaultAnswerInvalid,
        "the vault's answer does not match the request",
    )
}
