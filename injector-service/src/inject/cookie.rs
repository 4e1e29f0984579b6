//! Values of cookies (RFC 6265, section 4.1.1).

use proto::{Refusal, value_facts::MAX_HEADER_VALUE};
use zeroize::Zeroizing;

use super::render::{FilledTemplate, PlainText, check_total_length};

const PLACE: &str = "be a cookie, which takes 1 to 8192 bytes of printable ASCII without spaces, \", \\, commas and semicolons";
const SEPARATOR: &[u8] = b"; ";

/// A cookie of the injector: its name and its value.
pub(super) struct CookiePair<'v> {
    pub(super) name: &'v str,
    pub(super) value: PlainText<'v>,
}

impl<'v> CookiePair<'v> {
    pub(super) fn new(name: &'v str, template: FilledTemplate<'v>) -> Result<Self, Refusal> {
        template.check(PLACE, |value| value.facts().cookie_fault())?;
        check_total_length(&[template], MAX_HEADER_VALUE, PLACE)?;
        let value = template.plain_text();
        Ok(Self { name, value })
    }
}

/// Returns the value of the field `Cookie`: the cookies of the injector, then those of the program. The cookies of the
/// injector come first, because some servers take an unfinished `"` for the beginning of a value that contains all
/// cookies after it.
pub(super) fn joined(cookies: &[CookiePair<'_>], program: Option<&[u8]>) -> Zeroizing<Vec<u8>> {
    let own_len = |cookie: &CookiePair<'_>| cookie.name.len() + 1 + cookie.value.len();
    let lens = cookies.iter().map(own_len).chain(program.map(<[u8]>::len));
    let len = lens.map(|len| len + SEPARATOR.len()).sum();
    let mut field = Zeroizing::new(Vec::with_capacity(len));
    for CookiePair { name, value } in cookies {
        separate(&mut field);
        field.extend_from_slice(name.as_bytes());
        field.push(b'=');
        field.extend_from_slice(value);
    }
    if let Some(program) = program {
        separate(&mut field);
        field.extend_from_slice(program);
    }
    field
}

fn separate(field: &mut Vec<u8>) {
    if !field.is_empty() {
        field.extend_from_slice(SEPARATOR);
    }
}
