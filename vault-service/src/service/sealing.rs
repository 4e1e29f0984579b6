//! How the values of an answer travel: sealed to a key of the client, or in clear inside TLS.

use std::sync::Arc;

use proto::{
    CallId, Principal, Reason, Refusal, SecretValue,
    seal::{Answering, Between, NONCE, SealError, Sealer},
    vault::v1::{DecryptResponse, DecryptStreamResponse, DecryptedSecret, Recipient},
};

use crate::vault::Wanted;

/// An answer whose values have not been given away yet.
pub(super) struct Answer {
    /// All but the values.
    pub(super) response: DecryptResponse,
    /// One for each secret that says so, in their order.
    pub(super) values: Vec<Option<SecretValue>>,
    /// What they answer, with the server that they are for.
    pub(super) wanted: Arc<Wanted>,
    /// The injector's call that the values are for.
    pub(super) call_id: Option<CallId>,
}

impl Answer {
    /// The values in clear, for a client that named no key.
    pub(super) fn in_clear(self) -> DecryptResponse {
        let Self {
            mut response,
            values,
            wanted: _,
            call_id: _,
        } = self;
        for (secret, value) in response.secrets.iter_mut().zip(values) {
            let DecryptedSecret { value: field, .. } = secret;
            *field = value.map(|value| value.expose().to_vec()).unwrap_or_default();
        }
        response
    }

    /// The values sealed, each wiped when it is.
    fn sealed(self, sealer: &mut Sealer, epoch: u64, id: u64) -> Result<DecryptResponse, Refusal> {
        let Self {
            response,
            values,
            wanted,
            call_id: _,
        } = self;
        let answering = Answering {
            epoch,
            id,
            server: &wanted.server,
        };
        let values = values.iter().flatten().map(SecretValue::expose);
        let sealed = sealer
            .seal(answering, &response, values)
            .map_err(|error| Refusal::new(Reason::Internal, error))?;
        Ok(DecryptResponse { sealed, ..response })
    }
}

/// One answer, sealed to a key of its own: of the unary call.
pub(super) fn seal_one(
    answer: Answer,
    recipient: &[u8],
    vault: &Principal,
    injector: &Principal,
) -> Result<DecryptResponse, Refusal> {
    let between = Between {
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

/// How a stream's answers travel from here on.
pub(super) enum Sealing {
    /// No key was named yet.
    Clear,
    /// Sealed to the client's latest key.
    To(Box<Epoch>),
}

/// The client's latest key.
pub(super) struct Epoch {
    number: u64,
    nonce: Vec<u8>,
    sealer: Sealer,
    announced: bool,
}

impl Sealing {
    /// Seals to another key from here on.
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
        if stream_nonce.len() != NONCE {
            return wrong("stream_nonce is 32 random bytes");
        }
        let (last, same_stream) = match self {
            Self::Clear => (0, true),
            Self::To(before) => (before.number, before.nonce == *stream_nonce),
        };
        if *epoch <= last || !same_stream {
            return wrong("epoch counts up, and stream_nonce stays the same");
        }
        let between = Between {
            vault,
            injector,
            nonce: stream_nonce,
            epoch: *epoch,
        };
        *self = Self::To(Box::new(Epoch {
            number: *epoch,
            nonce: stream_nonce.clone(),
            sealer: Sealer::new(public_key, between).map_err(malformed)?,
            announced: false,
        }));
        Ok(())
    }

    /// Whether answers are sealed.
    pub(super) fn is_on(&self) -> bool {
        match self {
            Self::Clear => false,
            Self::To(_) => true,
        }
    }

    /// The answer to call `id`, to be sent before any that is asked for later.
    pub(super) fn answer(&mut self, answer: Answer, id: u64) -> Result<DecryptResponse, Refusal> {
        match self {
            Self::Clear => Ok(answer.in_clear()),
            Self::To(epoch) => answer.sealed(&mut epoch.sealer, epoch.number, id),
        }
    }

    /// Says in a message whose key its answers are sealed to.
    pub(super) fn sign(&mut self, message: &mut DecryptStreamResponse) {
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

/// What a vault answers that seals everything.
pub(super) fn required() -> Refusal {
    Refusal::new(
        Reason::SealingRequired,
        "this vault gives no value in clear; name a recipient's key",
    )
}
