use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use proto::{Reason, Refusal};

use super::encoding::{self, Encoding};
use crate::{
    header_rules,
    inject::protobuf::{
        self, FramedMessage, FramingError, MessageDeframer, OwnedFields, SecretEntries, WireError,
    },
    placement::ProtobufMessages,
    proxy::{
        buffer_budget::Reservation,
        received_body::ReceivedBody,
        upload::{self, UploadState},
    },
    registry::Entry,
    upstream::BodyError,
};

/// Reads the messages of a request's body. Errors are also recorded in the call's [`UploadState`].
pub(super) struct MessageReader {
    deframer: MessageDeframer,
    body: ReceivedBody,
    has_ended: bool,
    encoding: Encoding,
    /// The messages that get secrets.
    pub(super) messages: ProtobufMessages,
    owned: OwnedFields,
    pub(super) trailers: Option<HeaderMap>,
    entry: Arc<Entry>,
    /// Holds the bytes of the messages that were read and not sent.
    reservation: Reservation,
    pub(super) upload: UploadState,
}

impl MessageReader {
    pub(super) fn new(
        body: ReceivedBody,
        encoding: Encoding,
        messages: ProtobufMessages,
        entry: Arc<Entry>,
        reservation: Reservation,
        upload: UploadState,
    ) -> Self {
        let spec = &entry.server.spec;
        Self {
            deframer: MessageDeframer::default(),
            has_ended: body.is_end_stream(),
            body,
            encoding,
            messages,
            owned: OwnedFields::of(spec.auth_type, &spec.injections),
            trailers: None,
            entry,
            reservation,
            upload,
        }
    }

    /// Returns the next message, uncompressed, or `None` at the end of the body. The body may end only between
    /// messages.
    pub(super) async fn next_message(&mut self) -> Result<Option<FramedMessage>, BodyError> {
        loop {
            let message = self.deframer.next_message();
            let message = message.map_err(|error| self.upload.fail(misframed(error)))?;
            if let Some(message) = message {
                return self.uncompressed(message).map(Some);
            }
            if self.has_ended && self.deframer.is_between_messages() {
                return Ok(None);
            }
            if self.has_ended {
                return Err(self.upload.fail(upload::incomplete()));
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<(), BodyError> {
        // All earlier messages were sent.
        self.reservation.shrink_to(self.deframer.buffered());
        match self.body.frame().await {
            None => self.has_ended = true,
            Some(Err(error)) => return Err(self.upload.fail_incomplete(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let held = self.reservation.grow(data.len());
                    held.map_err(|refusal| self.upload.fail(refusal))?;
                    self.deframer.push(data);
                }
                Err(frame) => {
                    self.has_ended = true;
                    self.trailers = frame.into_trailers().ok();
                    if let Some(trailers) = &mut self.trailers {
                        header_rules::clean_request_trailers(trailers, &self.entry.server.spec.injections);
                    }
                }
            },
        }
        Ok(())
    }

    fn uncompressed(&mut self, message: FramedMessage) -> Result<FramedMessage, BodyError> {
        if !message.is_compressed {
            return Ok(message);
        }
        let decoded = self.encoding.decode(message.payload());
        let decoded = decoded.map_err(|refusal| self.upload.fail(refusal))?;
        let held = self.reservation.grow(decoded.len());
        held.map_err(|refusal| self.upload.fail(refusal))?;
        Ok(FramedMessage::uncompressed(&decoded))
    }

    /// Returns the frame of the message with `entries` in the server's fields, and nothing else in them.
    pub(super) fn rewrite(&self, message: FramedMessage, entries: &SecretEntries) -> Result<Bytes, Refusal> {
        let rewritten = protobuf::rewrite(message.payload(), &self.owned, entries).map_err(malformed)?;
        Ok(match rewritten {
            Some(frame) => Bytes::from_owner(frame),
            None => message.into_frame(),
        })
    }
}

fn misframed(error: FramingError) -> Refusal {
    match error {
        FramingError::Flag => Refusal::new(Reason::MessageFlagInvalid, error),
        FramingError::TooLarge => encoding::too_large(),
    }
}

fn malformed(error: WireError) -> Refusal {
    let message = format!("a message is not what protobuf encodes: {error}");
    Refusal::new(Reason::BodyInvalid, message)
}
