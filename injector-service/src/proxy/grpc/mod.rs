//! Puts secrets into the messages of a gRPC request while the messages stream to the upstream.

pub(super) mod encoding;
mod failure_trailers;
mod reader;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt as _, future::try_join_all, stream};
use http::{HeaderMap, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use proto::{Reason, Refusal};
use tokio::time::Instant;
use zeroize::Zeroizing;

pub(super) use failure_trailers::FailureTrailers;

use super::{
    body, body_type,
    buffer_budget::Reservation,
    call_record::LaterRecord,
    received_body::ReceivedBody,
    upload::{self, UploadState},
};
use crate::{
    inject::{
        self,
        protobuf::{FramedMessage, SecretEntries},
    },
    placement::{Injection, ProtobufMessages, distinct_secrets},
    registry::Entry,
    resolve::Resolver,
    upstream::{Body, BodyError},
};
use encoding::Encoding;
use reader::MessageReader;

/// Approximate number of bytes at which joined messages are passed on. Messages that are available at the same time are
/// joined, because many receivers close a connection that has very many tiny HTTP/2 frames.
const MAX_JOINED_BYTES: usize = 16 * 1024;
/// Most messages for which secrets are decrypted at the same time.
const MAX_DECRYPTED_MESSAGES: usize = 16;

/// A request's body whose first message was read.
pub(super) struct GrpcBody {
    first: Option<FramedMessage>,
    reader: MessageReader,
}

/// The means to decrypt secrets for the messages after the first.
pub(super) struct LaterMessages {
    pub(super) resolver: Resolver,
    pub(super) entry: Arc<Entry>,
    pub(super) deadline: Option<Instant>,
    pub(super) record: Arc<LaterRecord>,
}

impl GrpcBody {
    /// Reads the first message of a body, and removes the field of `headers` that does not hold for the rewritten body.
    pub(super) async fn read(
        messages: ProtobufMessages,
        entry: Arc<Entry>,
        headers: &mut HeaderMap,
        body: ReceivedBody,
        upload: &UploadState,
        held: Reservation,
    ) -> Result<Self, Refusal> {
        check_type(headers)?;
        let encoding = Encoding::named_by(headers);
        headers.remove(encoding::HEADER);
        let mut reader = MessageReader::new(body, encoding, messages, entry, held, upload.clone());
        match reader.next_message().await {
            Ok(first) => Ok(Self { first, reader }),
            Err(_) => Err(upload.failure().unwrap_or_else(upload::incomplete)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Returns the body with `entries` in its first message. Later errors are recorded in the call's [`UploadState`].
    pub(super) fn with(self, entries: &SecretEntries, later: LaterMessages) -> Result<Body, Refusal> {
        let Self { first, reader } = self;
        let first = match first {
            Some(message) => Some(reader.rewrite(message, entries)?),
            None if reader.trailers.is_none() => return Ok(body::empty()),
            None => None,
        };
        let rewriting = MessageRewriter {
            first,
            reader,
            later,
            error: None,
        };
        let frames = stream::try_unfold(rewriting, |mut rewriting| async move {
            let frame = rewriting.next_frame().await?;
            Ok::<_, BodyError>(frame.map(|frame| (frame, rewriting)))
        });
        Ok(StreamBody::new(frames).boxed_unsync())
    }
}

/// Produces the frames of the rewritten body. A message is sent only after all of it was read and checked.
struct MessageRewriter {
    first: Option<Bytes>,
    reader: MessageReader,
    later: LaterMessages,
    /// An error that was read behind messages that have to be sent first.
    error: Option<BodyError>,
}

impl MessageRewriter {
    async fn next_frame(&mut self) -> Result<Option<Frame<Bytes>>, BodyError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(Frame::data(first)));
        }
        let messages = self.available_messages().await?;
        if messages.is_empty() {
            return Ok(self.reader.trailers.take().map(Frame::trailers));
        }
        let rewritten = self.rewrite(messages).await;
        let rewritten = rewritten.map_err(|refusal| self.reader.upload.fail(refusal))?;
        Ok(Some(Frame::data(join(rewritten))))
    }

    /// Waits for the next message. Returns this message and those that are available without waiting, or no message at
    /// the end of the body.
    async fn available_messages(&mut self) -> Result<Vec<FramedMessage>, BodyError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let mut messages: Vec<_> = self.reader.next_message().await?.into_iter().collect();
        let mut len: usize = messages.iter().map(FramedMessage::len).sum();
        let most = match self.reader.messages {
            ProtobufMessages::First => usize::MAX,
            ProtobufMessages::All => MAX_DECRYPTED_MESSAGES,
        };
        while (1..most).contains(&messages.len()) && len < MAX_JOINED_BYTES {
            // Dropping the pending future loses nothing, because the reader keeps the part of a message that it has
            // read.
            match self.reader.next_message().now_or_never() {
                Some(Ok(Some(message))) => {
                    len += message.len();
                    messages.push(message);
                }
                Some(Err(error)) => {
                    self.error = Some(error);
                    break;
                }
                Some(Ok(None)) | None => break,
            }
        }
        Ok(messages)
    }

    async fn rewrite(&self, messages: Vec<FramedMessage>) -> Result<Vec<Bytes>, Refusal> {
        let entries = match self.reader.messages {
            ProtobufMessages::First => messages.iter().map(|_| SecretEntries::none()).collect(),
            ProtobufMessages::All => {
                let each = messages.iter().map(|_| self.later.entries());
                try_join_all(each).await.map_err(of_later_message)?
            }
        };
        let both = messages.into_iter().zip(&entries);
        both.map(|(message, entries)| self.reader.rewrite(message, entries))
            .collect()
    }
}

/// Joins frames in a buffer of their exact size, because a buffer that grows leaves copies of values behind.
fn join(frames: Vec<Bytes>) -> Bytes {
    match <[Bytes; 1]>::try_from(frames) {
        Ok([only]) => only,
        Err(frames) => {
            let mut joined = Zeroizing::new(Vec::with_capacity(frames.iter().map(Bytes::len).sum()));
            frames.iter().for_each(|frame| joined.extend_from_slice(frame));
            Bytes::from_owner(joined)
        }
    }
}

impl LaterMessages {
    async fn entries(&self) -> Result<SecretEntries, Refusal> {
        let call_id = &self.record.call_id;
        let injections = &self.entry.server.spec.injections;
        let in_messages = |injection: &&Injection| injection.placement.is_in_messages();
        let secrets = distinct_secrets(injections.iter().filter(in_messages));
        let resolved = self
            .resolver
            .resolve(&self.entry, &secrets, call_id, self.deadline);
        let resolved = resolved.await?;
        self.record.add_resolved(&resolved);
        inject::message_entries(injections, &resolved)
    }
}

/// Adds to a refusal that it concerns a later message, because earlier messages were sent.
fn of_later_message(refusal: Refusal) -> Refusal {
    let Refusal { reason, message } = refusal;
    Refusal::new(reason, format!("for a later message of the call: {message}"))
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let only = match (types.next(), types.next()) {
        (Some(only), None) => only.as_bytes(),
        _ => b"",
    };
    let essence = only.split(|byte| *byte == b';').next().unwrap_or_default();
    if !matches!(essence, b"application/grpc" | b"application/grpc+proto") {
        return Err(Refusal::new(
            Reason::BodyTypeUnsupported,
            "this server gets its secrets in protobuf messages: Content-Type must be application/grpc or application/grpc+proto",
        ));
    }
    body_type::check_is_rewritable(headers)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_protobuf_is_rewritten() {
        for (content_types, taken) in [
            (&["application/grpc"][..], true),
            (&["application/grpc+proto"], true),
            (&["application/grpc;x=y"], true),
            (&["application/grpc+json"], false),
            (&["application/grpc+proto+json"], false),
            (&["application/grpc+thrift"], false),
            (&["application/grpc", "application/grpc+json"], false),
            (&["application/grpc", "application/grpc"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for content_type in content_types {
                headers.append(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            }
            assert_eq!(check_type(&headers).is_ok(), taken, "{content_types:?}");
        }
    }

    #[test]
    fn an_encoded_or_signed_body_is_not_rewritten() {
        for (name, reason) in [
            ("content-encoding", Reason::BodyTypeUnsupported),
            ("content-digest", Reason::BodySigned),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(name, HeaderValue::from_static("gzip"));
            assert_eq!(check_type(&headers).unwrap_err().reason, reason);
        }
    }
}
