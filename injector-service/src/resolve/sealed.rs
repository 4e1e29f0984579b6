//! The injector's end of sealing: its keys, an epoch at a time, and answers opened with them.

use std::time::Duration;

use proto::{
    Principal, Reason, Refusal,
    seal::{
        OpenedValues, Opener, RecipientKey, SealContext, SealError, SealedCall, StreamNonce, stream_nonce,
    },
    vault::v1::{DecryptResponse, DecryptStatus, Recipient},
};
use tokio::time::Instant;

/// How long a key is used. What was sealed to it cannot be opened by whoever gets at a later one.
const EPOCH: Duration = Duration::from_secs(55);
/// How long the vault may then take to seal to the next one. It answers first what it was asked before.
const GRACE: Duration = Duration::from_secs(60);

/// Both ends of the connection, as their certificates name them.
#[derive(Debug, Clone)]
pub struct Identities {
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
    pub(super) values: OpenedValues,
}

/// The keys of one stream.
pub(super) struct Keys {
    ends: Identities,
    nonce: StreamNonce,
    epoch: u64,
    /// Made for the latest epoch, until the vault says that it seals to it. Boxed so that no copy stays where it was.
    announced: Option<Box<Announced>>,
    /// What the vault's answers open with now: of the latest epoch, or of the one before, until the vault has taken up
    /// the latest. Messages come in their order, so none of an older epoch follows.
    opener: Option<(u64, Opener)>,
    /// When what answers open with has been used for long enough.
    over: Instant,
}

struct Announced {
    key: RecipientKey,
    made: Instant,
}

/// What is to be done about the keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing until then.
    Later(Instant),
    /// The next epoch begins with the next message.
    Renewal {
        /// By when the vault has to have taken it up.
        by: Instant,
    },
    /// The vault did not take up the latest in time: the stream ends, and its keys with it.
    End,
}

impl Keys {
    /// The keys of a stream that is about to begin.
    pub(super) fn new(ends: Identities) -> Result<Self, SealError> {
        Ok(Self {
            ends,
            nonce: stream_nonce()?,
            epoch: 0,
            announced: None,
            opener: None,
            over: Instant::now(),
        })
    }

    /// What is to be done now.
    pub(super) fn due(&self) -> Due {
        let now = Instant::now();
        if now < self.over {
            return Due::Later(self.over);
        }
        let by = self.over + GRACE;
        match &self.announced {
            _ if now >= by => Due::End,
            Some(_) => Due::Later(by),
            None => Due::Renewal { by },
        }
    }

    /// Begins the next epoch. What the vault is told.
    pub(super) fn renew(&mut self) -> Result<Recipient, SealError> {
        let announced = self.announced.insert(Box::new(Announced {
            key: RecipientKey::generate()?,
            made: Instant::now(),
        }));
        self.epoch += 1;
        Ok(Recipient {
            epoch: self.epoch,
            public_key: announced.key.public(),
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
        let announced = self
            .announced
            .take_if(|_| epoch == self.epoch)
            .ok_or(SealError::DoesNotOpen)?;
        let between = SealContext {
            vault: &self.ends.vault,
            injector: &self.ends.injector,
            nonce: &self.nonce,
            epoch,
        };
        self.opener = Some((epoch, announced.key.open(encapsulated_key, between)?));
        self.over = announced.made + EPOCH;
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
        let answering = SealedCall {
            epoch: *epoch,
            id,
            server,
        };
        let values = opener.open(answering, &response)?;
        if response.secrets.iter().any(|secret| !secret.value.is_empty()) {
            return Err(SealError::ValuesMalformed);
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
