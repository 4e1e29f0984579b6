//! Forms with a file (`multipart/form-data`, RFC 7578).
//!
//! The token of the session is the first field of the form, so that it is checked before anything of the file is read.
//! Browsers send the fields in the order in which the form has them (HTML, "constructing the entry list").

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::BodyDataStream,
    extract::{FromRequest, FromRequestParts as _, Request},
    response::Response,
};
use http::{HeaderMap, StatusCode, header};
use hyper::body::Bytes;
use multer::{Field, Multipart};
use tokio::time;
use tokio_stream::Stream;
use zeroize::Zeroizing;

use super::{
    app::SharedApp,
    fields::Fields,
    guard::{PageRequest, foreign_form},
    view::message_page,
};

/// Time within which the next part of an upload must arrive.
const PAUSE: Duration = Duration::from_secs(60);
/// Maximum size of the field with the token, in bytes.
const MAX_TOKEN: usize = 256;
/// Number of bytes that are read after a refusal. A browser shows the answer only when it could send the form to its end.
const MAX_DISCARDED: u64 = 16 * 1024 * 1024;

/// Largest number of fields of a form.
const MAX_FIELDS: usize = 20;
/// Number of bytes that the parser gets at once.
const PIECE: usize = 64 * 1024;
/// Maximum size of what the parser has read and not handed out, in bytes. It reads a piece whenever it is asked for more, so a
/// form with all its fields stays below this.
const MAX_UNPARSED: usize = MAX_FIELDS * 3 * PIECE;

/// A form with a file, of a signed-in browser, that carries the session's CSRF token. Nothing after the token is read yet.
pub(super) struct Upload {
    pub(super) visit: PageRequest,
    pub(super) parts: Parts,
}

/// The fields after the token.
pub(super) struct Parts {
    form: Multipart<'static>,
    fields: usize,
    unparsed: Arc<AtomicUsize>,
}

/// A field of a form.
pub(super) struct Part {
    field: Field<'static>,
    unparsed: Arc<AtomicUsize>,
}

/// A body in pieces of bounded size. `multer` reads a body for as long as there are bytes, and keeps everything until a field
/// ends or its head is whole, without a limit. So this stream pauses after each piece, and fails when too much was read.
struct Pieces {
    body: BodyDataStream,
    rest: Bytes,
    /// Number of bytes that were read and that no field has handed out.
    unparsed: Arc<AtomicUsize>,
    pauses: bool,
}

#[derive(Debug, thiserror::Error)]
enum PieceError {
    #[error("the body was interrupted")]
    Body(#[source] axum::Error),
    #[error("a part of the form has no end")]
    TooLong,
}

impl Stream for Pieces {
    type Item = Result<Bytes, PieceError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.pauses) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_next(context)) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(error)) => return Poll::Ready(Some(Err(PieceError::Body(error)))),
                None => return Poll::Ready(None),
            }
        }
        let size = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(size);
        if self.unparsed.fetch_add(size, Ordering::Relaxed) + size > MAX_UNPARSED {
            return Poll::Ready(Some(Err(PieceError::TooLong)));
        }
        self.pauses = true;
        Poll::Ready(Some(Ok(piece)))
    }
}

/// The cause for which a form with a file could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UploadFault {
    /// The connection was interrupted, or the body is not a form.
    Interrupted,
    TooLarge,
    NotText,
    SessionEnded,
}

impl FromRequest<SharedApp> for Upload {
    type Rejection = Response;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, Response> {
        let (mut head, body) = request.into_parts();
        let visit = PageRequest::from_request_parts(&mut head, app).await?;
        let Some(boundary) = boundary(&head.headers) else {
            return Err(message_page(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "This is not a form with a file",
                "The console takes `multipart/form-data` here.",
            ));
        };
        let mut parts = Parts::of(body.into_data_stream(), boundary);
        match parts.has_token(&visit).await {
            Ok(true) => Ok(Self { visit, parts }),
            Ok(false) => {
                parts.discard(MAX_DISCARDED).await;
                Err(foreign_form())
            }
            Err(fault) => Err(fault.page()),
        }
    }
}

fn boundary(headers: &HeaderMap) -> Option<String> {
    let media_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    multer::parse_boundary(media_type).ok()
}

impl Parts {
    fn of(body: BodyDataStream, boundary: String) -> Self {
        let unparsed = Arc::<AtomicUsize>::default();
        let pieces = Pieces {
            body,
            rest: Bytes::new(),
            unparsed: unparsed.clone(),
            pauses: false,
        };
        Self {
            form: Multipart::new(pieces, boundary),
            fields: 0,
            unparsed,
        }
    }

    async fn has_token(&mut self, visit: &PageRequest) -> Result<bool, UploadFault> {
        let Some(mut field) = self.next().await? else {
            return Ok(false);
        };
        if field.name() != "csrf" {
            // A field must be dropped before the next one is read.
            drop(field);
            return Ok(false);
        }
        let token = match read(&mut field, MAX_TOKEN).await {
            Err(UploadFault::TooLarge) => return Ok(false),
            read => read?,
        };
        Ok(std::str::from_utf8(&token).is_ok_and(|token| visit.has_token(token)))
    }

    pub(super) async fn next(&mut self) -> Result<Option<Part>, UploadFault> {
        match time::timeout(PAUSE, self.form.next_field()).await {
            Ok(Ok(Some(_))) if self.fields == MAX_FIELDS => Err(UploadFault::TooLarge),
            Ok(Ok(Some(field))) => {
                self.fields += 1;
                let unparsed = self.unparsed.clone();
                Ok(Some(Part { field, unparsed }))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(UploadFault::of(&error)),
            Err(_) => Err(UploadFault::Interrupted),
        }
    }

    /// Reads all fields, which together have at most `limit` bytes.
    pub(super) async fn fields(&mut self, mut limit: usize) -> Result<Fields, UploadFault> {
        let mut fields = Vec::new();
        while let Some(mut field) = self.next().await? {
            let name = field.name().to_owned();
            let read = read(&mut field, limit).await;
            drop(field);
            let content = match read {
                Ok(content) => content,
                Err(fault) => {
                    self.discard(MAX_DISCARDED).await;
                    return Err(fault);
                }
            };
            limit -= content.len();
            let text = std::str::from_utf8(&content).map_err(|_| UploadFault::NotText)?;
            let text = Zeroizing::new(text.to_owned());
            fields.push((name, text));
        }
        Ok(Fields::of(fields))
    }

    /// Reads what is left, at most `limit` bytes.
    pub(super) async fn discard(&mut self, limit: u64) {
        let mut left = limit;
        while let Ok(Some(mut field)) = self.next().await {
            while let Ok(Some(chunk)) = field.next_chunk().await {
                left = left.saturating_sub(chunk.len() as u64);
                if left == 0 {
                    return;
                }
            }
        }
    }
}

impl Part {
    /// Returns the name of the field, or an empty text.
    pub(super) fn name(&self) -> &str {
        self.field.name().unwrap_or_default()
    }

    /// Returns the next bytes of the field, and `None` at its end.
    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, UploadFault> {
        match time::timeout(PAUSE, self.field.chunk()).await {
            Ok(Ok(chunk)) => {
                let size = chunk.as_ref().map_or(0, Bytes::len);
                // Every byte of a chunk was added when it was read.
                self.unparsed.fetch_sub(size, Ordering::Relaxed);
                Ok(chunk)
            }
            Ok(Err(error)) => Err(UploadFault::of(&error)),
            Err(_) => Err(UploadFault::Interrupted),
        }
    }
}

/// Reads a field to its end.
async fn read(field: &mut Part, limit: usize) -> Result<Zeroizing<Vec<u8>>, UploadFault> {
    let mut content = Zeroizing::new(Vec::new());
    while let Some(chunk) = field.next_chunk().await? {
        if content.len() + chunk.len() > limit {
            return Err(UploadFault::TooLarge);
        }
        content.extend_from_slice(&chunk);
    }
    Ok(content)
}

impl UploadFault {
    fn of(error: &multer::Error) -> Self {
        let cause = match error {
            multer::Error::StreamReadFailed(cause) => cause.downcast_ref(),
            _ => None,
        };
        match cause {
            Some(PieceError::TooLong) => Self::TooLarge,
            Some(PieceError::Body(_)) | None => Self::Interrupted,
        }
    }

    pub(super) fn page(self) -> Response {
        match self {
            Self::Interrupted => message_page(
                StatusCode::BAD_REQUEST,
                "The form did not arrive",
                "The connection was interrupted. Nothing was changed.",
            ),
            Self::SessionEnded => message_page(
                StatusCode::UNAUTHORIZED,
                "Your session has ended",
                "The form was not read to its end. Nothing was changed. Sign in again, and repeat what you did.",
            ),
            Self::NotText => message_page(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The file is not text",
                "The console reads text in UTF-8. Nothing was changed. Save the file in UTF-8, and choose it again.",
            ),
            Self::TooLarge => message_page(
                StatusCode::PAYLOAD_TOO_LARGE,
                "The form is too long",
                "Nothing was changed. Import a large file with `aerostack workspace secret import`.",
            ),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use axum::body::Body;

    use super::*;

    const FRAME: usize = 400 * 1024;

    /// Returns the fields of a form whose body has `frames` frames of 400 KiB, which are all there at once, between `start` and
    /// `end`. The number counts the frames that were read.
    fn form(start: &'static str, frames: usize, filler: u8, end: &'static str) -> (Parts, Arc<AtomicUsize>) {
        let read = Arc::<AtomicUsize>::default();
        let counted = read.clone();
        let frames = (0..frames).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Bytes::from(vec![filler; FRAME])
        });
        let frames = std::iter::once(Bytes::from(start))
            .chain(frames)
            .chain(std::iter::once(Bytes::from(end)));
        let body = Body::from_stream(tokio_stream::iter(frames.map(Ok::<_, axum::Error>)));
        (Parts::of(body.into_data_stream(), "b".to_owned()), read)
    }

    #[tokio::test]
    async fn a_part_without_an_end_is_not_kept_in_memory() {
        for start in ["", "--b\r\nContent-Disposition: form-data; name=\"", "--b\r\nA: "] {
            let (mut parts, read) = form(start, 1_000, b'x', "");
            assert_eq!(parts.next().await.err(), Some(UploadFault::TooLarge), "{start}");
            let read = read.load(Ordering::Relaxed);
            assert!(read * FRAME <= MAX_UNPARSED + FRAME, "{read}");
        }
    }

    #[tokio::test]
    async fn a_file_of_any_size_is_read_in_pieces() {
        let start = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
        let (mut parts, _) = form(start, 100, b'x', "\r\n--b--\r\n");
        let mut file = parts.next().await.unwrap().unwrap();
        let mut size = 0;
        while let Some(chunk) = file.next_chunk().await.unwrap() {
            assert!(chunk.len() <= 2 * PIECE, "{}", chunk.len());
            size += chunk.len();
        }
        drop(file);
        assert_eq!(size, 100 * FRAME);
        assert!(parts.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_form_with_endless_fields_is_refused() {
        let field = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n";
        let body = Body::from(field.repeat(1_000_000));
        let mut parts = Parts::of(body.into_data_stream(), "b".to_owned());
        assert_eq!(parts.fields(1_000_000).await.err(), Some(UploadFault::TooLarge));
        parts.discard(u64::MAX).await;
        assert!(parts.unparsed.load(Ordering::Relaxed) <= MAX_UNPARSED);
    }
}
