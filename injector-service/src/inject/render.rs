//! Templates in which the values of a call stand in place of the names of secrets.

use std::ops::Deref;

use proto::{Reason, Refusal, SecretName, SecretValue, ValueFault};
use zeroize::Zeroizing;

use super::ResolvedSecrets;
use crate::template::{Part, Template};

/// A template whose secrets all exist.
#[derive(Clone, Copy)]
pub(crate) struct FilledTemplate<'v> {
    template: &'v Template,
    secrets: &'v ResolvedSecrets<'v>,
}

/// The way in which a place writes text. Texts that are encoded one after the other are the encoding of both.
pub(crate) trait TextEncoding {
    /// Returns the number of bytes that [`Self::append`] appends.
    fn encoded_len(text: &[u8]) -> usize;
    fn append(text: &[u8], encoded: &mut Vec<u8>);
}

/// The encoding of places that take text as it is.
pub(crate) enum Verbatim {}

/// The text of a place that takes text as it is.
pub(crate) enum PlainText<'v> {
    /// The template consists of one secret, whose value need not be copied.
    Value(&'v SecretValue),
    Rendered(Zeroizing<Vec<u8>>),
}

impl<'v> FilledTemplate<'v> {
    /// Returns `None` when a secret of the template is missing, so that the injection is left out as a whole.
    pub(crate) fn new(template: &'v Template, secrets: &'v ResolvedSecrets<'_>) -> Option<Self> {
        let all_exist = template.secrets().all(|name| secrets.value(name).is_some());
        all_exist.then_some(Self { template, secrets })
    }

    /// Returns the values in the template, in order, with the names of their secrets.
    pub(crate) fn values(self) -> impl Iterator<Item = (&'v SecretName, &'v SecretValue)> {
        let names = self.template.secrets();
        names.map(move |name| (name, self.value(name)))
    }

    /// Returns the text of the template in the encoding `E`, in a buffer of its exact size, because a buffer that grows
    /// leaves copies of values behind.
    pub(crate) fn render<E: TextEncoding>(self) -> Zeroizing<Vec<u8>> {
        let mut rendered = Zeroizing::new(Vec::with_capacity(self.encoded_len::<E>()));
        self.append_to::<E>(&mut rendered);
        rendered
    }

    pub(crate) fn encoded_len<E: TextEncoding>(self) -> usize {
        self.pieces().map(E::encoded_len).sum()
    }

    /// Appends the text of the template in the encoding `E` to a buffer that has room for it.
    pub(crate) fn append_to<E: TextEncoding>(self, rendered: &mut Vec<u8>) {
        self.pieces().for_each(|piece| E::append(piece, rendered));
    }

    pub(crate) fn plain_text(self) -> PlainText<'v> {
        match self.template.parts() {
            [Part::Secret(name)] => PlainText::Value(self.value(name)),
            _ => PlainText::Rendered(self.render::<Verbatim>()),
        }
    }

    /// Refuses the call when a value does not fit the place, which `place` describes: "be a header, which takes …".
    pub(crate) fn check(
        self,
        place: &str,
        fault: impl Fn(&SecretValue) -> Option<ValueFault>,
    ) -> Result<(), Refusal> {
        self.values().try_for_each(|(name, value)| match fault(value) {
            None => Ok(()),
            Some(fault) => Err(not_placeable(name, fault, place)),
        })
    }

    /// Returns the bytes of the texts and values, in order.
    pub(crate) fn pieces(self) -> impl Iterator<Item = &'v [u8]> {
        self.template.parts().iter().map(move |part| match part {
            Part::Text(text) => text.as_bytes(),
            Part::Secret(name) => self.value(name).expose(),
        })
    }

    fn value(self, name: &SecretName) -> &'v SecretValue {
        let value = self.secrets.value(name);
        value.expect("`new` has found the value of every secret in the template")
    }
}

impl TextEncoding for Verbatim {
    fn encoded_len(text: &[u8]) -> usize {
        text.len()
    }

    fn append(text: &[u8], encoded: &mut Vec<u8>) {
        encoded.extend_from_slice(text);
    }
}

impl Deref for PlainText<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Value(value) => value.expose(),
            Self::Rendered(text) => text,
        }
    }
}

/// Refuses values that are legal one by one, and that together have more than `most` bytes. The text of the templates is
/// not counted, so that the limit on a value does not depend on the text around it.
pub(crate) fn check_total_length(
    templates: &[FilledTemplate<'_>],
    most: usize,
    place: &str,
) -> Result<(), Refusal> {
    let values = || templates.iter().flat_map(|template| template.values());
    let total: usize = values().map(|(_, value)| value.expose().len()).sum();
    if total <= most {
        return Ok(());
    }
    let names: Vec<_> = values().map(|(name, _)| name.as_str()).collect();
    let message = format!(
        "the values of {} have together more than {most} bytes, so they cannot {place}",
        names.join(" and ")
    );
    Err(Refusal::new(Reason::SecretValueNotPlaceable, message))
}

/// Refuses the call because of the value of the secret `name`. `place` is the verb and the object of "it cannot …".
pub(crate) fn not_placeable(name: &SecretName, fault: ValueFault, place: &str) -> Refusal {
    let message = format!("secret {name}: its value {fault}, so it cannot {place}");
    Refusal::new(Reason::SecretValueNotPlaceable, message)
}
