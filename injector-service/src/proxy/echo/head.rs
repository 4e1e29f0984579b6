//! Masks values in the head and in the trailers of an answer.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header, response::Parts};
use hyper::ext::ReasonPhrase;
use proto::Refusal;

use super::EchoFilter;
use crate::{
    placement::is_binary_metadata,
    registry::EchoPart,
    scrub::{SecretSet, mask_text},
};

/// Base64 without padding, which accepts padding when it decodes.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Fields that frame the body or the connection, or whose value is a number. A mask would break the answer, and a value
/// in them is a coincidence.
const FRAMING: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_ACCEPT,
];

impl EchoFilter {
    /// Masks the values in the fields of a head, and in the text after the status code.
    pub(in crate::proxy) fn mask_head(&self, head: &mut Parts) -> Result<(), Refusal> {
        let mut found = self.mask_fields(&mut head.headers);
        if let Some(reason) = head.extensions.get::<ReasonPhrase>()
            && let Some(masked) = mask_text(&self.call.fingerprints, reason.as_bytes())
        {
            found.add(masked.found);
            head.extensions.remove::<ReasonPhrase>();
        }
        self.report(EchoPart::Head, found)
    }

    pub(super) fn mask_trailers(&self, trailers: &mut HeaderMap) -> Result<(), Refusal> {
        let found = self.mask_fields(trailers);
        self.report(EchoPart::Trailers, found)
    }

    fn mask_fields(&self, headers: &mut HeaderMap) -> SecretSet {
        let mut found = SecretSet::default();
        for (name, value) in headers.iter_mut() {
            if FRAMING.contains(name) {
                continue;
            }
            // Binary metadata first, so that the result is base64 again.
            let masked = self.mask_binary(name, value).or_else(|| {
                let masked = mask_text(&self.call.fingerprints, value.as_bytes())?;
                Some((masked.output, masked.found))
            });
            if let Some((output, in_field)) = masked {
                found.add(in_field);
                // A mask consists of legal characters.
                if let Ok(masked) = HeaderValue::from_maybe_shared(output) {
                    *value = masked;
                }
            }
        }
        found
    }

    /// Masks the values inside binary metadata of gRPC: a list of texts in base64.
    fn mask_binary(&self, name: &HeaderName, value: &HeaderValue) -> Option<(Bytes, SecretSet)> {
        if !is_binary_metadata(name) {
            return None;
        }
        let mut found = SecretSet::default();
        let mut texts = Vec::new();
        for text in value.as_bytes().split(|byte| *byte == b',') {
            let encoded = text.trim_ascii();
            let decoded = BASE64.decode(encoded).ok();
            let masked = decoded.and_then(|decoded| mask_text(&self.call.fingerprints, &decoded));
            texts.push(match masked {
                None => text.to_vec(),
                Some(masked) => {
                    found.add(masked.found);
                    let mut text = BASE64.encode(masked.output).into_bytes();
                    text.resize(encoded.len(), b'=');
                    text
                }
            });
        }
        (!found.is_empty()).then(|| (texts.join(&b',').into(), found))
    }
}
