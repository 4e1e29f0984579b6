//! The messages of a gRPC request, with secrets put into them as they pass.

pub(super) mod encoding;
mod failure_trailers;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt as _, future::try_join_all, stream};
use http::{HeaderMap, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use proto::{Reason, Refusal};
use tokio::time::Instant;
use zeroize::Zeroizing;

pub(super) use failure_trailers::FailureTrailers;

use super::{
    body,
    buffer_budget::Reservation,
    call_record::MessageRecord,
    received_body::ReceivedBody,
    upload::{self, UploadState},
};
use crate::{
    header_rules,
    inject::{
        self,
        protobuf::{self, Framed, Frames, FramingError, SecretEntries, WireError},
    },
    placement::{Messages, ProtobufSecrets},
    registry::Entry,
    resolve::Resolver,
    upstream::{Body, BodyError},
};
use encoding::Encoding;

/// Messages that are there at the same time go on in one frame of HTTP/2, up to about this many bytes; those that are
/// decrypted for, up to this many, at the same time. Receivers take a multitude of tiny frames for an attack, and close
/// the connection.
const TOGETHER_LEN: usize = 16 * 1024;
const TOGETHER: usize = 16;

/// A request's messages, of which the first was read.
pub(super) struct GrpcBody {
    /// None when the body ended without any.
    first: Option<Framed>,
    reader: Reader,
}

/// What the messages after the first need. Dropped with the call's body, and its work with it.
pub(super) struct LaterMessages {
    pub(super) resolver: Resolver,
    pub(super) entry: Arc<Entry>,
    pub(super) deadline: Option<Instant>,
    pub(super) record: Arc<MessageRecord>,
}

impl GrpcBody {
    /// Reads the first message of a body that `headers` describe; they will describe what is sent.
    pub(super) async fn read(
        protobuf: ProtobufSecrets,
        headers: &mut HeaderMap,
        body: ReceivedBody,
        upload: &UploadState,
        held: Reservation,
    ) -> Result<Self, Refusal> {
        check_type(headers)?;
        let encoding = Encoding::named_by(headers);
        headers.remove(encoding::HEADER);
        let mut reader = Reader {
            frames: Frames::default(),
            ended: body.is_end_stream(),
            body,
            encoding,
            protobuf,
            trailers: None,
            held,
            upload: upload.clone(),
        };
        match reader.message().await {
            Ok(first) => Ok(Self { first, reader }),
            Err(_) => Err(upload.failure().unwrap_or_else(upload::incomplete)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The body with `entries` in its first message. What goes wrong later is left in the call's fault.
    pub(super) fn with(self, entries: &SecretEntries, later: LaterMessages) -> Result<Body, Refusal> {
        let Self { first, reader } = self;
        let first = match first {
            Some(message) => Some(reader.rewrite(message, entries)?),
            None if reader.trailers.is_none() => return Ok(body::empty()),
            None => None,
        };
        let sending = Sending {
            first,
            reader,
            later,
            failed: None,
        };
        let frames = stream::try_unfold(sending, |mut sending| async move {
            let frame = sending.frame().await?;
            Ok::<_, BodyError>(frame.map(|frame| (frame, sending)))
        });
        Ok(StreamBody::new(frames).boxed_unsync())
    }
}

/// Takes messages from a request's body. What goes wrong is left in its fault.
struct Reader {
    frames: Frames,
    body: ReceivedBody,
    encoding: Encoding,
    protobuf: ProtobufSecrets,
    ended: bool,
    trailers: Option<HeaderMap>,
    /// As many bytes as messages have that are not sent.
    held: Reservation,
    upload: UploadState,
}

impl Reader {
    /// The next message, uncompressed. None when the body has ended, which it may only do between messages.
    async fn message(&mut self) -> Result<Option<Framed>, BodyError> {
        loop {
            let framed = self.frames.next_frame();
            let framed = framed.map_err(|error| self.upload.fail(misframed(error)))?;
            if let Some(framed) = framed {
                return self.uncompressed(framed).map(Some);
            }
            if self.ended && self.frames.is_between_messages() {
                return Ok(None);
            }
            if self.ended {
                return Err(self.upload.fail(upload::incomplete()));
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<(), BodyError> {
        // What came before has gone on.
        self.held.shrink_to(self.frames.len());
        match self.body.frame().await {
            None => self.ended = true,
            Some(Err(error)) => return Err(self.upload.fail_incomplete(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let held = self.held.grow(data.len());
                    held.map_err(|refusal| self.upload.fail(refusal))?;
                    self.frames.push(data);
                }
                Err(frame) => {
                    self.ended = true;
                    self.trailers = frame.into_trailers().ok();
                    let trailers = self.trailers.iter_mut();
                    trailers.for_each(|trailers| header_rules::clean_request_trailers(trailers));
                }
            },
        }
        Ok(())
    }

    fn uncompressed(&mut self, framed: Framed) -> Result<Framed, BodyError> {
        if !framed.compressed {
            return Ok(framed);
        }
        let decoded = self.encoding.decode(framed.message());
        let decoded = decoded.map_err(|refusal| self.upload.fail(refusal))?;
        let held = self.held.grow(decoded.len());
        held.map_err(|refusal| self.upload.fail(refusal))?;
        Ok(Framed::uncompressed(&decoded))
    }

    fn rewrite(&self, framed: Framed, entries: &SecretEntries) -> Result<Bytes, Refusal> {
        let rewritten =
            protobuf::rewrite(framed.message(), self.protobuf.field, entries).map_err(malformed)?;
        Ok(match rewritten {
            Some(frame) => Bytes::from_owner(frame),
            None => framed.into_frame(),
        })
    }
}

/// The body as it is sent: each message only when it was read whole and found good.
struct Sending {
    first: Option<Bytes>,
    reader: Reader,
    later: LaterMessages,
    /// What comes after the messages that were good.
    failed: Option<BodyError>,
}

impl Sending {
    async fn frame(&mut self) -> Result<Option<Frame<Bytes>>, BodyError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(Frame::data(first)));
        }
        let messages = self.messages().await?;
        if messages.is_empty() {
            return Ok(self.reader.trailers.take().map(Frame::trailers));
        }
        let rewritten = self.rewritten(messages).await;
        let rewritten = rewritten.map_err(|refusal| self.reader.upload.fail(refusal))?;
        Ok(Some(Frame::data(together(rewritten))))
    }

    /// The next message, and those that are there already. None at the end.
    async fn messages(&mut self) -> Result<Vec<Framed>, BodyError> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        let mut messages: Vec<_> = self.reader.message().await?.into_iter().collect();
        let mut len: usize = messages.iter().map(Framed::len).sum();
        let most = match self.reader.protobuf.messages {
            Messages::First => usize::MAX,
            Messages::All => TOGETHER,
        };
        while (1..most).contains(&messages.len()) && len < TOGETHER_LEN {
            // What is not there yet stays where it is.
            match self.reader.message().now_or_never() {
                Some(Ok(Some(message))) => {
                    len += message.len();
                    messages.push(message);
                }
                Some(Err(error)) => {
                    self.failed = Some(error);
                    break;
                }
                Some(Ok(None)) | None => break,
            }
        }
        Ok(messages)
    }

    async fn rewritten(&self, messages: Vec<Framed>) -> Result<Vec<Bytes>, Refusal> {
        let entries = match self.reader.protobuf.messages {
            Messages::First => messages.iter().map(|_| SecretEntries::none()).collect(),
            Messages::All => {
                let each = messages.iter().map(|_| self.later.entries(self.reader.protobuf));
                try_join_all(each).await.map_err(of_a_later_message)?
            }
        };
        let both = messages.into_iter().zip(&entries);
        both.map(|(message, entries)| self.reader.rewrite(message, entries))
            .collect()
    }
}

/// All of them, in a buffer of their size, so that no copy of a value is left.
fn together(frames: Vec<Bytes>) -> Bytes {
    match <[Bytes; 1]>::try_from(frames) {
        Ok([only]) => only,
        Err(frames) => {
            let mut all = Zeroizing::new(Vec::with_capacity(frames.iter().map(Bytes::len).sum()));
            frames.iter().for_each(|frame| all.extend_from_slice(frame));
            Bytes::from_owner(all)
        }
    }
}

impl LaterMessages {
    /// As they are now.
    async fn entries(&self, protobuf: ProtobufSecrets) -> Result<SecretEntries, Refusal> {
        let call_id = &self.record.call_id;
        let resolved = self.resolver.resolve(&self.entry, call_id, self.deadline).await?;
        self.record.add_resolved(&resolved);
        inject::entries(protobuf.field, &resolved)
    }
}

/// What the vault's side says is of the message at hand; others were sent.
fn of_a_later_message(refusal: Refusal) -> Refusal {
    let Refusal { reason, message } = refusal;
    Refusal::new(reason, format!("for a later message of the call: {message}"))
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
    body::check_is_rewritable(headers)
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
    fn what_is_encoded_or_signed_as_a_whole_is_not_rewritten() {
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
