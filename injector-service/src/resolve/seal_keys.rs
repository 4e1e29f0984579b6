//! The injector's keys of one stream. The vault seals each answer by HPKE (RFC 9180) to a short-lived key of the
//! injector; the time in which one key is used is an epoch.

use std::time::Duration;

use proto::{
    Principal, Reason, Refusal,
    seal::{
        OpenedValues, Opener, RecipientKey, SealContext, SealError, SealedCall, StreamNonce, stream_nonce,
    },
    vault::v1::{DecryptResponse, DecryptStatus, DecryptedSecret, Recipient},
};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Time for which a key is used. An attacker who gets a key can open only the answers of its epoch.
const EPOCH: Duration = Duration::from_secs(55);
/// Time in which the vault then has to seal to the next key. It first answers the requests that arrived before that key.
const GRACE: Duration = Duration::from_secs(60);

/// The principals of both ends of the stream. Sealed answers are bound to both.
#[derive(Debug, Clone)]
pub(super) struct Identities {
    pub(super) vault: Principal,
    pub(super) injector: Principal,
}

pub(super) struct OpenedAnswer {
    /// The answer without its values.
    pub(super) response: DecryptResponse,
    /// The values of the secrets whose status is OK. None when the request did not ask for values.
    pub(super) values: OpenedValues,
}

pub(super) struct SealKeys {
    identities: Identities,
    nonce: StreamNonce,
    /// The latest epoch that was announced to the vault.
    epoch: u64,
    /// The key of the latest epoch, until the vault seals to it. Boxed so that the key is never moved and leaves no copy.
    announced: Option<Box<AnnouncedKey>>,
    /// Opens the answers of the epoch that the vault seals to now: the latest one, or the one before. Messages arrive in
    /// order, so no answer of an older epoch follows.
    opener: Option<(u64, Opener)>,
    /// End of the time for which the opener's key is used.
    expiry: Instant,
}

struct AnnouncedKey {
    key: RecipientKey,
    created: Instant,
}

/// The next step of the rotation of keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rotation {
    /// Nothing is to be done before this time.
    NotBefore(Instant),
    /// A new key has to be announced with the next message, and used by the vault before the deadline.
    Announce { deadline: Instant },
    /// The vault did not use the announced key in time. The stream ends, and its keys with it.
    Overdue,
}

impl SealKeys {
    pub(super) fn new(identities: Identities) -> Result<Self, SealError> {
        Ok(Self {
            identities,
            nonce: stream_nonce()?,
            epoch: 0,
            announced: None,
            opener: None,
            expiry: Instant::now(),
        })
    }

    pub(super) fn rotation(&self) -> Rotation {
        let now = Instant::now();
        if now < self.expiry {
            return Rotation::NotBefore(self.expiry);
        }
        let deadline = self.expiry + GRACE;
        match &self.announced {
            _ if now >= deadline => Rotation::Overdue,
            Some(_) => Rotation::NotBefore(deadline),
            None => Rotation::Announce { deadline },
        }
    }

    /// Generates the key of the next epoch, and returns the announcement for the vault.
    pub(super) fn announce(&mut self) -> Result<Recipient, SealError> {
        let announced = self.announced.insert(Box::new(AnnouncedKey {
            key: RecipientKey::generate()?,
            created: Instant::now(),
        }));
        self.epoch += 1;
        Ok(Recipient {
            epoch: self.epoch,
            public_key: announced.key.public(),
            stream_nonce: self.nonce.to_vec(),
        })
    }

    /// Switches to the epoch of a message. `encapsulated_key` is empty unless the message is the first of its epoch.
    pub(super) fn switch_to(&mut self, epoch: u64, encapsulated_key: &[u8]) -> Result<(), SealError> {
        if encapsulated_key.is_empty() {
            return match &self.opener {
                Some((current, _)) if *current == epoch => Ok(()),
                Some(_) | None => Err(SealError::DoesNotOpen),
            };
        }
        let announced = self
            .announced
            .take_if(|_| epoch == self.epoch)
            .ok_or(SealError::DoesNotOpen)?;
        let context = SealContext {
            vault: &self.identities.vault,
            injector: &self.identities.injector,
            nonce: &self.nonce,
            epoch,
        };
        self.opener = Some((epoch, announced.key.open(encapsulated_key, context)?));
        self.expiry = announced.created + EPOCH;
        Ok(())
    }

    /// Opens the answer to the request `id`, which was for `server`. Refuses an answer with a value that is not sealed.
    pub(super) fn open(
        &mut self,
        id: u64,
        server: &str,
        response: DecryptResponse,
    ) -> Result<OpenedAnswer, SealError> {
        let (epoch, opener) = self.opener.as_mut().ok_or(SealError::DoesNotOpen)?;
        let call = SealedCall {
            epoch: *epoch,
            id,
            server,
        };
        let values = opener.open(call, &response)?;
        if response.secrets.iter().any(|secret| !secret.value.is_empty()) {
            return Err(SealError::ValuesMalformed);
        }
        Ok(OpenedAnswer { response, values })
    }
}

/// A secret as the vault answered for it, and its value if it has one.
pub(super) type SecretWithValue = (DecryptedSecret, Option<Zeroizing<Vec<u8>>>);

impl OpenedAnswer {
    /// Returns the workspace's uid, and each secret with its value. Fails when the answer does not have one value for each
    /// secret whose status is OK, or has a value although the request was `check_only`.
    pub(super) fn into_parts(self, check_only: bool) -> Result<(String, Vec<SecretWithValue>), SealError> {
        let Self { response, values } = self;
        let DecryptResponse {
            workspace_uid,
            secrets,
            sealed: _,
            encapsulated_key: _,
        } = response;
        let has_value = |secret: &DecryptedSecret| !check_only && secret.status() == DecryptStatus::Ok;
        let count = secrets.iter().filter(|secret| has_value(secret)).count();
        let mut values = values.split(count)?.into_iter();
        let secrets = secrets.into_iter().map(|secret| {
            let value = has_value(&secret).then(|| values.next()).flatten();
            (secret, value)
        });
        Ok((workspace_uid, secrets.collect()))
    }
}

/// Logs that an answer did not open, and returns the refusal of its request.
pub(super) fn not_sealed_for_us(error: SealError) -> Refusal {
    tracing::error!(%error, "the vault's answer cannot be unsealed");
    Refusal::new(
        Reason::VaultAnswerInvalid,
        "the vault's answer was not sealed for this call",
    )
}
