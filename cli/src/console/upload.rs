//! Forms with a file (`multipart/form-data`, RFC 7578).
//!
//! The token of the session is the first field of the form, so that it is checked before anything of the file is read.
//! Browsers send the fields in the order in which the form has them (HTML, "constructing the entry list").

use std::time::Duration;

use axum::{
    extract::{FromRequest, FromRequestParts as _, Request},
    response::Response,
};
use http::{HeaderMap, StatusCode, header};
use hyper::body::Bytes;
use multer::{Field, Multipart};
use tokio::time;
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

/// A form with a file, of a signed-in browser, that carries the session's CSRF token. Nothing after the token is read yet.
pub(super) struct Upload {
    pub(super) visit: PageRequest,
    pub(super) parts: Parts,
}

/// The fields after the token.
pub(super) struct Parts(Multipart<'static>);

/// The cause for which a form with a file could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UploadFault {
    /// The connection was interrupted, or the body is not a form.
    Interrupted,
    TooLarge,
    NotText,
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
        let mut parts = Parts(Multipart::new(body.into_data_stream(), boundary));
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
    async fn has_token(&mut self, visit: &PageRequest) -> Result<bool, UploadFault> {
        let Some(mut field) = self.next().await? else {
            return Ok(false);
        };
        if field.name() != Some("csrf") {
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

    pub(super) async fn next(&mut self) -> Result<Option<Field<'static>>, UploadFault> {
        match time::timeout(PAUSE, self.0.next_field()).await {
            Ok(Ok(field)) => Ok(field),
            Ok(Err(_)) | Err(_) => Err(UploadFault::Interrupted),
        }
    }

    /// Reads all fields, which together have at most `limit` bytes.
    pub(super) async fn fields(&mut self, mut limit: usize) -> Result<Fields, UploadFault> {
        let mut fields = Vec::new();
        while let Some(mut field) = self.next().await? {
            let name = field.name().unwrap_or_default().to_owned();
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
            while let Ok(Some(chunk)) = next_chunk(&mut field).await {
                left = left.saturating_sub(chunk.len() as u64);
                if left == 0 {
                    return;
                }
            }
        }
    }
}

/// Returns the next bytes of a field, and `None` at its end.
pub(super) async fn next_chunk(field: &mut Field<'static>) -> Result<Option<Bytes>, UploadFault> {
    match time::timeout(PAUSE, field.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(_)) | Err(_) => Err(UploadFault::Interrupted),
    }
}

/// Reads a field to its end.
async fn read(field: &mut Field<'static>, limit: usize) -> Result<Zeroizing<Vec<u8>>, UploadFault> {
    let mut content = Zeroizing::new(Vec::new());
    while let Some(chunk) = next_chunk(field).await? {
        if content.len() + chunk.len() > limit {
            return Err(UploadFault::TooLarge);
        }
        content.extend_from_slice(&chunk);
    }
    Ok(content)
}

impl UploadFault {
    pub(super) fn page(self) -> Response {
        match self {
            Self::Interrupted => message_page(
                StatusCode::BAD_REQUEST,
                "The form did not arrive",
                "The connection was interrupted. Nothing was changed.",
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
