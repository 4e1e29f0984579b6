//! Credentials of the scheme Basic (RFC 7617).

use base64::{Engine as _, encoded_len, engine::general_purpose::STANDARD};
use proto::{Reason, Refusal, value_facts::MAX_HEADER_VALUE};
use zeroize::Zeroizing;

use super::render::{FilledTemplate, TextEncoding as _, Verbatim, check_total_length};

const USERNAME: &str =
    "be the user name of Basic credentials, which takes UTF-8 without control characters and without a colon";
const PASSWORD: &str = "be the password of Basic credentials, which takes UTF-8 without control characters";
const CREDENTIALS: &str = "be Basic credentials";
const SCHEME: &[u8] = b"Basic ";

/// Returns the value of `Authorization`: `Basic `, then the base64 of the user name, a colon and the password.
pub(super) fn value(
    username: FilledTemplate<'_>,
    password: FilledTemplate<'_>,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    username.check(USERNAME, |value| value.facts().basic_username_fault())?;
    password.check(PASSWORD, |value| value.facts().basic_password_fault())?;
    check_total_length(&[username, password], MAX_HEADER_VALUE, CREDENTIALS)?;
    let len = username.encoded_len::<Verbatim>() + 1 + password.encoded_len::<Verbatim>();
    let mut credentials = Zeroizing::new(Vec::with_capacity(len));
    username.append_to::<Verbatim>(&mut credentials);
    Verbatim::append(b":", &mut credentials);
    password.append_to::<Verbatim>(&mut credentials);
    with_scheme(&credentials)
        .ok_or_else(|| Refusal::new(Reason::Internal, "Basic credentials are not base64"))
}

fn with_scheme(credentials: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let len = SCHEME.len() + encoded_len(credentials.len(), true)?;
    let mut value = Zeroizing::new(vec![0; len]);
    let (scheme, encoded) = value.split_at_mut_checked(SCHEME.len())?;
    scheme.copy_from_slice(SCHEME);
    // `encode_slice` leaves no copy, while `encode_string` encodes into a buffer of its own.
    let written = STANDARD.encode_slice(credentials, encoded).ok()?;
    (written == encoded.len()).then_some(value)
}
