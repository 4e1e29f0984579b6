//! Values of header fields.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use http::HeaderName;
use proto::{Refusal, value_facts::MAX_HEADER_VALUE};
use zeroize::Zeroizing;

use super::render::{FilledTemplate, PlainText, check_total_length};
use crate::{dialect::Dialect, placement::is_binary_metadata, value_totals::MAX_METADATA};

const PLACE: &str = "be a header, which takes 1 to 8192 bytes of printable ASCII without outer spaces";
const METADATA: &str = "be binary metadata, which takes up to 8192 bytes of base64";

/// Returns the value of the field `name`. In gRPC, a field whose name ends in `-bin` is binary metadata, whose value is
/// base64.
pub(super) fn header_value<'v>(
    name: &HeaderName,
    template: FilledTemplate<'v>,
    dialect: Dialect,
) -> Result<PlainText<'v>, Refusal> {
    if dialect == Dialect::Grpc && is_binary_metadata(name) {
        template.check(METADATA, |value| value.facts().metadata_fault())?;
        check_total_length(&[template], MAX_METADATA, METADATA)?;
        let encoded = STANDARD_NO_PAD.encode(&*template.plain_text()).into_bytes();
        return Ok(PlainText::Rendered(Zeroizing::new(encoded)));
    }
    template.check(PLACE, |value| value.facts().header_fault())?;
    check_total_length(&[template], MAX_HEADER_VALUE, PLACE)?;
    Ok(template.plain_text())
}
