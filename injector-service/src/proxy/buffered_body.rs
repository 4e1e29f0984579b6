//! Bodies of requests that are read before secrets are put into them.

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use proto::{Reason, Refusal};
use zeroize::Zeroizing;

use super::{body, buffer_budget::Reservation, received_body::ReceivedBody, upload};
use crate::upstream::Body;

/// A body that was read up to `--max-buffered-body`. Trailers are dropped, because they describe the body that the program
/// sent, and not the rewritten one.
pub(super) enum BufferedBody {
    /// The request has no body.
    Absent,
    /// The body was read whole, and will be sent with its exact length.
    Whole(BufferedBytes),
    /// The body is larger than the limit. The rest was not read.
    Large(BufferedBytes, ReceivedBody),
}

/// A body that was read whole. `None` when the request has no body.
pub(super) struct WholeBody(Option<BufferedBytes>);

/// Bytes that were read, with their reservation in the budget of `--max-buffered-total`.
pub(super) struct BufferedBytes {
    bytes: Vec<u8>,
    reservation: Reservation,
}

/// Bytes to send, with the reservation of the bytes that they replace.
pub(super) struct ReservedBytes {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    _reservation: Reservation,
}

impl BufferedBody {
    /// Reads a body, whole if it has up to `limit` bytes.
    pub(super) async fn read(
        mut body: ReceivedBody,
        limit: usize,
        reservation: Reservation,
    ) -> Result<Self, Refusal> {
        if body.is_end_stream() {
            return Ok(Self::Absent);
        }
        let mut read = BufferedBytes {
            bytes: Vec::new(),
            reservation,
        };
        while read.bytes.len() <= limit {
            match body.frame().await {
                None if read.bytes.is_empty() => return Ok(Self::Absent),
                None => return Ok(Self::Whole(read)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        read.push(&data)?;
                    }
                }
                Some(Err(_)) => return Err(upload::incomplete()),
            }
        }
        Ok(Self::Large(read, body))
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl WholeBody {
    /// Reads a body of up to `limit` bytes, and refuses a larger one, before reading it if its length was announced.
    pub(super) async fn read(
        body: ReceivedBody,
        limit: usize,
        reservation: Reservation,
    ) -> Result<Self, Refusal> {
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large(limit));
        }
        match BufferedBody::read(body, limit, reservation).await? {
            BufferedBody::Absent => Ok(Self(None)),
            BufferedBody::Whole(bytes) => Ok(Self(Some(bytes))),
            BufferedBody::Large(..) => Err(too_large(limit)),
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the body that `rewrite` makes of this one. An absent body stays absent.
    pub(super) fn rewrite(
        self,
        rewrite: impl FnOnce(&[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal>,
    ) -> Result<Body, Refusal> {
        match self.0 {
            None => Ok(body::empty()),
            Some(buffer) => Ok(body::full(Bytes::from_owner(buffer.rewrite(rewrite)?))),
        }
    }
}

impl BufferedBytes {
    fn push(&mut self, data: &[u8]) -> Result<(), Refusal> {
        self.reservation.grow(data.len())?;
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    pub(super) fn rewrite(
        self,
        rewrite: impl FnOnce(&[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal>,
    ) -> Result<ReservedBytes, Refusal> {
        let Self { bytes, reservation } = self;
        Ok(ReservedBytes {
            bytes: rewrite(&bytes)?,
            _reservation: reservation,
        })
    }
}

impl AsRef<[u8]> for ReservedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn too_large(limit: usize) -> Refusal {
    let message = format!(
        "this server gets its secrets inside the body, which then may have up to {limit} bytes; see --max-buffered-body"
    );
    Refusal::new(Reason::BodyTooLarge, message)
}
