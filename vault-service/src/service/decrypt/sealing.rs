//! The values of an answer: sealed to a key of the client (HPKE, RFC 9180), or in clear inside TLS.

use std::sync::Arc;

use proto::{
    CallId, Principal, Reason, Refusal, SecretValue,
    seal::{NONCE_SIZE, SealContext, SealError, SealedCall, Sealer},
    vault::v1::{DecryptResponse, DecryptStreamResponse, DecryptedSecret, Recipient},
};

use crate::vault::DecryptQuery;

/// An answer whose values are not in its response yet.
pub(super) struct DecryptedAnswer {
    pub(super) response: DecryptResponse,
    /// One element for each secret of the response; `None` for a secret without a value.
    pub(super) values: Vec<Option<SecretValue>>,
    pub(super) query: Arc<DecryptQuery>,
    /// The injector's call that the values are for.
    pub(super) call_id: Option<CallId>,
}

impl DecryptedAnswer {
    /// Returns the response with its values in clear, for a client that named no key.
    pub(super) fn in_clear(self) -> DecryptResponse {
        let Self {
            mut response,
            values,
            query: _,
            call_id: _,
        } = self;
        for (secret, value) in response.secrets.iter_mut().zip(values) {
            let DecryptedSecret { value: field, .. } = secret;
            *field = value.map(|value| value.expose().to_vec()).unwrap_or_default();
        }
        response
    }

    fn sealed(self, sealer: &mut Sealer, epoch: u64, id: u64) -> Result<DecryptResponse, Refusal> {
        let Self {
            response,
            values,
            query,
            call_id: _,
        } = self;
        let answering = SealedCall {
            epoch,
            id,
            server: query.server_text(),
        };
        let values = values.iter().flatten().map(SecretValue::expose);
        let sealed = sealer
            .seal(answering, &response, values)
            .map_err(|error| Refusal::new(Reason::Internal, error))?;
        Ok(DecryptResponse { sealed, ..response })
    }
}

/// Seals the answer of the unary RPC to the key in its request.
pub(super) fn seal_unary(
    answer: DecryptedAnswer,
    recipient: &[u8],
    vault: &Principal,
    injector: &Principal,
) -> Result<DecryptResponse, Refusal> {
    let between = SealContext {
        vault,
        injector,
        nonce: &[],
        epoch: 0,
    };
    let mut sealer = Sealer::new(recipient, between).map_err(malformed)?;
    let response = answer.sealed(&mut sealer, 0, 0)?;
    Ok(DecryptResponse {
        encapsulated_key: sealer.encapsulated_key().to_vec(),
        ..response
    })
}

pub(super) enum StreamSealing {
    /// The client named no key yet, so values are in clear.
    Clear,
    /// Values are sealed to the client's latest key.
    To(Box<SealingEpoch>),
}

/// The time in which a stream's answers are sealed to one key of the client.
pub(super) struct SealingEpoch {
    number: u64,
    nonce: Vec<u8>,
    sealer: Sealer,
    /// True when the client has the encapsulated key.
    announced: bool,
}

impl StreamSealing {
    /// Seals all further answers to the key of `recipient`.
    pub(super) fn begin(
        &mut self,
        recipient: &Recipient,
        vault: &Principal,
        injector: &Principal,
    ) -> Result<(), Refusal> {
        let Recipient {
            epoch,
            public_key,
            stream_nonce,
        } = recipient;
        let wrong = |what: &str| {
            Err(Refusal::new(
                Reason::RequestMalformed,
                format!("recipient: {what}"),
            ))
        };
        if stream_nonce.len() != NONCE_SIZE {
            return wrong("stream_nonce is 32 random bytes");
        }
        let (last, same_stream) = match self {
            Self::Clear => (0, true),
            Self::To(before) => (before.number, before.nonce == *stream_nonce),
        };
        if *epoch <= last || !same_stream {
            return wrong("epoch counts up, and stream_nonce stays the same");
        }
        let between = SealContext {
            vault,
            injector,
            nonce: stream_nonce,
            epoch: *epoch,
        };
        *self = Self::To(Box::new(SealingEpoch {
            number: *epoch,
            nonce: stream_nonce.clone(),
            sealer: Sealer::new(public_key, between).map_err(malformed)?,
            announced: false,
        }));
        Ok(())
    }

    pub(super) fn is_on(&self) -> bool {
        match self {
            Self::Clear => false,
            Self::To(_) => true,
        }
    }

    /// Returns the response to call `id`, with its values. Responses must be sent in the order of these calls, because the
    /// client opens sealed values in sequence.
    pub(super) fn answer(&mut self, answer: DecryptedAnswer, id: u64) -> Result<DecryptResponse, Refusal> {
        match self {
            Self::Clear => Ok(answer.in_clear()),
            Self::To(epoch) => answer.sealed(&mut epoch.sealer, epoch.number, id),
        }
    }

    /// Adds to a message the epoch of its answers, and the encapsulated key to the first message of an epoch.
    pub(super) fn add_epoch(&mut self, message: &mut DecryptStreamResponse) {
        let Self::To(epoch) = self else { return };
        message.epoch = epoch.number;
        if !std::mem::replace(&mut epoch.announced, true) {
            message.encapsulated_key = epoch.sealer.encapsulated_key().to_vec();
        }
    }
}

fn malformed(error: SealError) -> Refusal {
    Refusal::new(Reason::RequestMalformed, error)
}

/// Returns the refusal of a client without a key by a vault that must seal all values.
pub(super) fn sealing_required() -> Refusal {
    Refusal::new(
        Reason::SealingRequired,
        "this vault gives no value in clear; name a recipient's key",
    )
}
