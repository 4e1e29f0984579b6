//! Values in the head of a request: in header fields of their own, and in the field `Cookie`.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::{Reason, Refusal};

use super::{
    ResolvedSecrets, basic,
    cookie::{self, CookiePair},
    header::header_value,
    render::{FilledTemplate, PlainText},
};
use crate::{
    dialect::Dialect,
    placement::{Injection, Placement},
};

/// The fields and the cookies of the injections whose secrets all exist.
#[derive(Default)]
pub(super) struct HeadSecrets<'v> {
    fields: Vec<(HeaderName, PlainText<'v>)>,
    cookies: Vec<CookiePair<'v>>,
}

impl<'v> HeadSecrets<'v> {
    pub(super) fn new(
        dialect: Dialect,
        injections: &'v [Injection],
        secrets: &'v ResolvedSecrets<'_>,
    ) -> Result<Self, Refusal> {
        let mut head = Self::default();
        for injection in injections {
            head.add(&injection.placement, dialect, secrets)?;
        }
        Ok(head)
    }

    fn add(
        &mut self,
        placement: &'v Placement,
        dialect: Dialect,
        secrets: &'v ResolvedSecrets<'_>,
    ) -> Result<(), Refusal> {
        match placement {
            Placement::Header { name, value } => {
                if let Some(value) = FilledTemplate::new(value, secrets) {
                    self.fields
                        .push((name.clone(), header_value(name, value, dialect)?));
                }
            }
            Placement::Basic { username, password } => {
                let username = FilledTemplate::new(username, secrets);
                if let Some((username, password)) = username.zip(FilledTemplate::new(password, secrets)) {
                    let value = PlainText::Rendered(basic::value(username, password)?);
                    self.fields.push((header::AUTHORIZATION, value));
                }
            }
            Placement::Cookie { name, value } => {
                if let Some(value) = FilledTemplate::new(value, secrets) {
                    self.cookies.push(CookiePair::new(name, value)?);
                }
            }
            Placement::Query { .. }
            | Placement::Path { .. }
            | Placement::Json { .. }
            | Placement::Form { .. }
            | Placement::Protobuf { .. } => {}
        }
        Ok(())
    }

    /// Inserts the fields, in place of any that are present, and adds the cookies to those that are present.
    pub(super) fn insert(
        self,
        headers: &mut HeaderMap,
        mut placeholder: impl FnMut(&HeaderName, &[u8]) -> Option<HeaderValue>,
    ) -> Result<(), Refusal> {
        let mut insert = |headers: &mut HeaderMap, name: HeaderName, value: &[u8]| {
            let value = match placeholder(&name, value) {
                Some(placeholder) => placeholder,
                None => sensitive(value)?,
            };
            headers.insert(name, value);
            Ok(())
        };
        for (name, value) in self.fields {
            insert(headers, name, &value)?;
        }
        if !self.cookies.is_empty() {
            let of_program = headers.get(header::COOKIE).map(HeaderValue::as_bytes);
            let cookies = cookie::joined(&self.cookies, of_program);
            insert(headers, header::COOKIE, &cookies)?;
        }
        Ok(())
    }
}

fn sensitive(value: &[u8]) -> Result<HeaderValue, Refusal> {
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| Refusal::new(Reason::Internal, "a value that is legal in a header is not"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
