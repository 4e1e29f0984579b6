//! The target of a request, which is its path and query, with values of secrets in it.
//!
//! The target consists of these parts, in this order: the path of an OAuth document, the path of the server's URL, the
//! path that the program sends, the fixed parameters of the server's URL, the injected parameters, and the program's
//! parameters. A parameter of the program is removed when a server may read its name as the name of a fixed or of an
//! injected parameter, also when the secret of the injected parameter is missing. All else is copied byte for byte.

mod values;

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;
use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use proto::{Reason, Refusal, SecretName};
use zeroize::Zeroizing;

use super::parameter_name::{ParameterName, without_names};
use crate::{
    path::has_dot_segment,
    placement::{Injection, Placement},
    template::Part,
    value_totals::MAX_TARGET,
};

/// Everything but the unreserved characters of a URL (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// The byte that stands for each byte of a value in [`RequestTarget::shown`].
const MASK: u8 = b'*';

/// The target of one request.
pub(crate) struct RequestTarget {
    /// The target with `*` in place of each byte of a value. Everything but the connection to the upstream uses this one.
    pub(crate) shown: PathAndQuery,
    /// The target with its values, or `None` when the target contains no value.
    pub(crate) secret: Option<Zeroizing<Vec<u8>>>,
}

/// The parts of a target that contain no value.
pub(crate) struct TargetParts<'t> {
    /// The path of a well-known document about the server (RFC 8414, section 3), or empty.
    pub(crate) document: &'t str,
    /// The path of the server's URL, with its trailing `/`.
    pub(crate) path: &'t [Part],
    /// The fixed parameters of the server's URL, without `?`.
    pub(crate) fixed_query: &'t str,
    /// The path and query that the program sends: empty, or beginning with `/` or `?`.
    pub(crate) rest: &'t str,
}

/// The values of one target, percent-encoded.
#[derive(Default)]
pub(crate) struct TargetValues<'v> {
    /// The values of all secrets in the path of the server's URL.
    pub(crate) path: Vec<(&'v SecretName, Zeroizing<Vec<u8>>)>,
    /// The injected parameters whose secrets exist: the name as text, and the encoded value.
    pub(crate) query: Vec<(&'v str, Zeroizing<Vec<u8>>)>,
}

/// The names of the parameters that a program must not send to a server.
pub(crate) struct OwnedParameters(Vec<ParameterName>);

impl OwnedParameters {
    /// Returns the names in the fixed query of a server's URL, and the names of the server's injected parameters.
    pub(crate) fn of(fixed_query: &str, injections: &[Injection]) -> Self {
        let injected = injections
            .iter()
            .filter_map(|injection| match &injection.placement {
                Placement::Query { name, value: _ } => Some(name.as_str()),
                Placement::Header { .. }
                | Placement::Basic { .. }
                | Placement::Path { .. }
                | Placement::Cookie { .. }
                | Placement::Json { .. }
                | Placement::Form { .. }
                | Placement::Protobuf { .. } => None,
            });
        Self::new(fixed_query, injected)
    }

    fn new<'n>(fixed_query: &str, injected: impl IntoIterator<Item = &'n str>) -> Self {
        let fixed = fixed_query
            .split(['&', ';'])
            .filter_map(|parameter| parameter.split('=').next())
            .filter(|name| !name.is_empty())
            .map(|name| ParameterName::encoded(name.as_bytes()));
        Self(
            fixed
                .chain(injected.into_iter().map(ParameterName::plain))
                .collect(),
        )
    }

    /// Returns `query` without these parameters.
    fn remove_from<'q>(&self, query: &'q str) -> Cow<'q, [u8]> {
        if self.0.is_empty() {
            return query.as_bytes().into();
        }
        without_names(query.as_bytes(), &self.0)
            .collect::<Vec<_>>()
            .concat()
            .into()
    }
}

impl RequestTarget {
    /// Joins the parts of a target. Fails when a value makes a segment of the path that is empty, `.` or `..`, because
    /// servers may read such a path as another one, and when the target is too long.
    pub(crate) fn new(
        parts: &TargetParts<'_>,
        owned: &OwnedParameters,
        values: &TargetValues<'_>,
    ) -> Result<Self, Refusal> {
        let (path, query) = match parts.rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (parts.rest, None),
        };
        let mut target = MaskedTarget::default();
        target.push_path(parts, path, values)?;
        let path_end = target.shown.len();
        target.push_query(parts.fixed_query, values, query, owned);
        if target.shown.len() > MAX_TARGET {
            return Err(too_long(target.shown.len()));
        }
        let secret = target.unmasked();
        if let (Some(secret), false) = (&secret, values.path.is_empty()) {
            check_path(
                secret.get(..path_end).unwrap_or_default(),
                &target.values,
                &values.path,
            )?;
        }
        let shown = PathAndQuery::from_maybe_shared(Bytes::from(target.shown)).map_err(|_| not_a_target())?;
        Ok(Self { shown, secret })
    }
}

impl RequestTarget {
    /// Returns the target to write into the request. `placeholder` may return a placeholder instead of a target with
    /// values.
    pub(crate) fn insert(
        &self,
        placeholder: impl FnOnce(&[u8]) -> Option<PathAndQuery>,
    ) -> Result<PathAndQuery, Refusal> {
        let Some(secret) = &self.secret else {
            return Ok(self.shown.clone());
        };
        match placeholder(secret) {
            Some(placeholder) => Ok(placeholder),
            None => PathAndQuery::try_from(secret.as_slice()).map_err(|_| not_a_target()),
        }
    }
}

/// A target that is being written, with `*` in place of values, and the values with their positions.
#[derive(Default)]
struct MaskedTarget<'v> {
    shown: Vec<u8>,
    values: Vec<(Range<usize>, &'v [u8])>,
}

impl<'v> MaskedTarget<'v> {
    fn push_path(
        &mut self,
        parts: &TargetParts<'_>,
        rest: &str,
        values: &'v TargetValues<'_>,
    ) -> Result<(), Refusal> {
        self.push(parts.document.as_bytes());
        for part in parts.path {
            match part {
                Part::Text(text) => self.push(text.as_bytes()),
                Part::Secret(name) => {
                    let value = values.path.iter().find(|(other, _)| *other == name);
                    let (_, value) = value.ok_or_else(|| {
                        let message = "a secret in the path of the server's URL has no value";
                        Refusal::new(Reason::Internal, message)
                    })?;
                    self.push_value(value);
                }
            }
        }
        // The path of the server's URL keeps its trailing `/` when nothing follows that path.
        if rest.starts_with('/') || !parts.document.is_empty() {
            let last_value = self.values.last().map_or(0, |(range, _)| range.end);
            let shortest = parts.document.len().max(last_value);
            while self.shown.ends_with(b"/") && self.shown.len() > shortest {
                self.shown.pop();
            }
        }
        self.push(rest.as_bytes());
        Ok(())
    }

    fn push_query(
        &mut self,
        fixed: &str,
        values: &'v TargetValues<'_>,
        of_program: Option<&str>,
        owned: &OwnedParameters,
    ) {
        let mut separator: &[u8] = b"?";
        if !fixed.is_empty() {
            self.push(separator);
            self.push(fixed.as_bytes());
            separator = b"&";
        }
        for (name, value) in &values.query {
            self.push(separator);
            percent_encode(name.as_bytes(), RESERVED).for_each(|piece| self.push(piece.as_bytes()));
            self.push(b"=");
            self.push_value(value);
            separator = b"&";
        }
        let remaining = of_program
            .map(|query| owned.remove_from(query))
            .unwrap_or_default();
        // A `?` that the program ends its target with stays, and one whose parameters were all removed goes.
        let ends_in_mark = of_program == Some("") && separator == b"?";
        if !remaining.is_empty() || ends_in_mark {
            self.push(separator);
            self.push(&remaining);
        }
    }

    fn push(&mut self, text: &[u8]) {
        self.shown.extend_from_slice(text);
    }

    fn push_value(&mut self, value: &'v [u8]) {
        let start = self.shown.len();
        self.shown.resize(start + value.len(), MASK);
        self.values.push((start..self.shown.len(), value));
    }

    /// Returns the target with its values, in a buffer of its exact size.
    fn unmasked(&self) -> Option<Zeroizing<Vec<u8>>> {
        if self.values.is_empty() {
            return None;
        }
        let mut secret = Zeroizing::new(self.shown.clone());
        for (range, value) in &self.values {
            if let Some(masked) = secret.get_mut(range.clone()) {
                masked.copy_from_slice(value);
            }
        }
        Some(secret)
    }
}

/// Checks a path with values in it. Its other parts are known to have no dot segments.
fn check_path(
    path: &[u8],
    values: &[(Range<usize>, &[u8])],
    names: &[(&SecretName, Zeroizing<Vec<u8>>)],
) -> Result<(), Refusal> {
    let path = str::from_utf8(path).map_err(|_| not_a_target())?;
    let is_alone = |range: &Range<usize>| {
        let (before, after) = (path.get(..range.start), path.get(range.end..));
        before.is_some_and(|before| before.ends_with('/'))
            && after.is_some_and(|after| after.is_empty() || after.starts_with('/'))
    };
    let has_empty_segment = values
        .iter()
        .any(|(range, value)| value.is_empty() && is_alone(range));
    if !has_empty_segment && !has_dot_segment(path) {
        return Ok(());
    }
    let names: Vec<_> = names.iter().map(|(name, _)| name.as_str()).collect();
    let message = format!(
        "secret {}: its value makes a segment of the path empty, `.` or `..`, which servers may leave out",
        names.join(" or ")
    );
    Err(Refusal::new(Reason::SecretValueNotPlaceable, message))
}

fn too_long(length: usize) -> Refusal {
    let message = format!(
        "the path and query of the request have {length} bytes with the server's own part; an upstream gets at most \
         {MAX_TARGET}"
    );
    Refusal::new(Reason::PathInvalid, message)
}

fn not_a_target() -> Refusal {
    Refusal::new(Reason::PathInvalid, "the path and query do not make a URL")
}

#[cfg(test)]
mod tests;
