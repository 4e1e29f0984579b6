//! The injector's end of sealing: its keys, an epoch at a time, and answers opened with them.

use std::time::Duration;

use proto::{
    Reason, Refusal,
    seal::{Answering, Between, Opener, RecipientKey, SealError, StreamNonce, Values, stream_nonce},
    serve::caller::Principal,
    vault::v1::{DecryptResponse, DecryptStatus, Recipient},
};
use tokio::time::Instant;

/// How long a key is used. What was sealed to it cannot be opened by whoever gets at a later one.
const EPOCH: Duration = Duration::from_secs(55);

/// Both ends of the connection, as their certificates name them.
#[derive(Debug, Clone)]
pub struct Ends {
    /// The vault.
    pub vault: Principal,
    /// This injector.
    pub injector: Principal,
}

/// An answer that was opened: what it says, and its values.
pub(super) struct Opened {
    /// Everything but the values.
    pub(super) response: DecryptResponse,
    /// The values of the secrets whose status is OK; none when they were not asked for.
    pub(super) values: Values,
}

/// The keys of one stream.
pub(super) struct Keys {
    ends: Ends,
    nonce: StreamNonce,
    epoch: u64,
    /// Made for the latest epoch, until the vault's first answer in it.
    announced: Option<RecipientKey>,
    /// What the vault's answers open with now: of the latest epoch, or of the one before, until an answer of the latest
    /// has come. They come in their order, so none of an older epoch follows it.
    opener: Option<(u64, Opener)>,
    next: Instant,
}

impl Keys {
    /// The keys of a stream that is about to begin.
    pub(super) fn new(ends: Ends) -> Result<Self, SealError> {
        Ok(Self {
            ends,
            nonce: stream_nonce()?,
            epoch: 0,
            announced: None,
            opener: None,
            next: Instant::now(),
        })
    }

    /// When the next epoch begins. None until the vault answers in the latest: its key is still needed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.announced.is_none().then_some(self.next)
    }

    /// Whether it has to begin with the next message.
    pub(super) fn is_due(&self) -> bool {
        self.due().is_some_and(|due| due <= Instant::now())
    }

    /// Begins the next epoch. What the vault is told.
    pub(super) fn renew(&mut self) -> Result<Recipient, SealError> {
        let key = RecipientKey::generate()?;
        let public_key = key.public();
        self.epoch += 1;
        self.announced = Some(key);
        self.next = Instant::now() + EPOCH;
        Ok(Recipient {
            epoch: self.epoch,
            public_key,
            stream_nonce: self.nonce.to_vec(),
        })
    }

    /// Reads whose key a message's answers are sealed to.
    pub(super) fn turn_to(&mut self, epoch: u64, encapsulated_key: &[u8]) -> Result<(), SealError> {
        if encapsulated_key.is_empty() {
            return match &self.opener {
                Some((current, _)) if *current == epoch => Ok(()),
                Some(_) | None => Err(SealError::DoesNotOpen),
            };
        }
        let key = self
            .announced
            .take_if(|_| epoch == self.epoch)
            .ok_or(SealError::DoesNotOpen)?;
        let between = Between {
            vault: &self.ends.vault,
            injector: &self.ends.injector,
            nonce: &self.nonce,
            epoch,
        };
        self.opener = Some((epoch, key.open(encapsulated_key, between)?));
        Ok(())
    }

    /// Opens the answer to call `id`, which was for `server`. Whatever is not sealed is not used.
    pub(super) fn open(
        &mut self,
        id: u64,
        server: &str,
        response: DecryptResponse,
    ) -> Result<Opened, SealError> {
        let (epoch, opener) = self.opener.as_mut().ok_or(SealError::DoesNotOpen)?;
        let answering = Answering {
            epoch: *epoch,
            id,
            server,
        };
        let values = opener.open(answering, &response)?;
        if response.secrets.iter().any(|secret| !secret.value.is_empty()) {
            return Err(SealError::NotItsValues);
        }
        Ok(Opened { response, values })
    }
}

impl Opened {
    /// The secrets, each with its value if it has one.
    pub(super) fn take(self, check_only: bool) -> Result<(String, Vec<super::OneAnswer>), SealError> {
        let Self { response, values } = self;
        let DecryptResponse {
            workspace_uid,
            secrets,
            sealed: _,
            encapsulated_key: _,
        } = response;
        let has_value = |status| !check_only && status == DecryptStatus::Ok;
        let count = secrets.iter().filter(|secret| has_value(secret.status())).count();
        let mut values = values.split(count)?.into_iter();
        let answers = secrets.into_iter().map(|secret| {
            let value = if has_value(secret.status()) {
                values.next()
            } else {
                None
            };
            (secret, value)
        });
        Ok((workspace_uid, answers.collect()))
    }
}

/// An answer of the vault that does not open.
pub(super) fn not_sealed_for_us(error: SealError) -> Refusal {
    tracing::error!(%error, "the vault's answer was not used");
    Refusal::new(
        Reason::VaultAnswerInvalid,
        "the vault's answer was not sealed for this call; nothing was sent",
    )
}
