//! The texts of a form that the person did not touch.
//!
//! A form cannot send every text that a server may have: a field of one line loses line breaks, a field of several lines gets
//! others, and white space at the ends is removed. Such a text would look like a change of the person, and replace what an
//! administrator has set by the command line.

use super::{
    form::ServerForm,
    rows::{PlaceRow, SecretRow},
};

impl ServerForm {
    /// Takes the texts of `present` that the form could not send otherwise than it did.
    pub(super) fn keep_untouched(&mut self, present: &Self) {
        let Self {
            entry: _,
            name: _,
            url,
            description,
            auth: _,
            bearer,
            secrets,
            places,
            paths,
            grpc_methods,
            all_messages: _,
            secrets_field: _,
            origins,
            ca_pem,
            server_name,
            client_cert,
            allow_bound: _,
            allow_plaintext: _,
            protocol: _,
            scrub: _,
            on_echo: _,
            oauth: _,
        } = self;
        for (sent, stored) in [
            (url, &present.url),
            (description, &present.description),
            (paths, &present.paths),
            (grpc_methods, &present.grpc_methods),
            (origins, &present.origins),
            (ca_pem, &present.ca_pem),
            (server_name, &present.server_name),
            (client_cert, &present.client_cert),
        ] {
            keep(sent, stored);
        }
        keep_name(bearer, &present.bearer);
        for (sent, stored) in secrets.iter_mut().zip(&present.secrets) {
            keep_name(sent, stored);
        }
        for sent in places {
            // Rows may have been added and removed, so the row is looked for by its content.
            if let Some(stored) = present.places.iter().find(|stored| is_same_place(sent, stored)) {
                let required = sent.required;
                sent.clone_from(stored);
                sent.required = required;
            }
        }
    }
}

impl ServerForm {
    /// Takes the settings of `present` where the person left those that the form had `shown`.
    pub(super) fn merge(&mut self, shown: &Self, present: &Self) {
        let has_shown_credential = self.credential() == shown.credential();
        let Self {
            entry: _,
            name: _,
            url,
            description,
            auth,
            bearer,
            secrets,
            places,
            paths,
            grpc_methods,
            all_messages,
            secrets_field,
            origins,
            ca_pem,
            server_name,
            client_cert,
            allow_bound,
            allow_plaintext,
            protocol,
            scrub,
            on_echo,
            oauth,
        } = self;
        for (entered, shown, present) in [
            (url, &shown.url, &present.url),
            (description, &shown.description, &present.description),
            (paths, &shown.paths, &present.paths),
            (grpc_methods, &shown.grpc_methods, &present.grpc_methods),
            (secrets_field, &shown.secrets_field, &present.secrets_field),
            (origins, &shown.origins, &present.origins),
            (ca_pem, &shown.ca_pem, &present.ca_pem),
            (server_name, &shown.server_name, &present.server_name),
            (client_cert, &shown.client_cert, &present.client_cert),
        ] {
            take(entered, shown, present);
        }
        for (entered, shown, present) in [
            (all_messages, shown.all_messages, present.all_messages),
            (allow_bound, shown.allow_bound, present.allow_bound),
            (allow_plaintext, shown.allow_plaintext, present.allow_plaintext),
        ] {
            take(entered, &shown, &present);
        }
        take(protocol, &shown.protocol, &present.protocol);
        take(scrub, &shown.scrub, &present.scrub);
        take(on_echo, &shown.on_echo, &present.on_echo);
        take(oauth, &shown.oauth, &present.oauth);
        // The credential is one setting: its way and its secrets belong together.
        if has_shown_credential {
            *auth = present.auth;
            bearer.clone_from(&present.bearer);
            secrets.clone_from(&present.secrets);
            places.clone_from(&present.places);
        }
    }
}

fn take<T: PartialEq + Clone>(entered: &mut T, shown: &T, present: &T) {
    if entered == shown {
        entered.clone_from(present);
    }
}

fn keep(sent: &mut String, stored: &String) {
    if is_same(sent, stored) {
        sent.clone_from(stored);
    }
}

fn keep_name(sent: &mut SecretRow, stored: &SecretRow) {
    keep(&mut sent.name, &stored.name);
}

fn is_same_place(sent: &PlaceRow, stored: &PlaceRow) -> bool {
    let PlaceRow {
        kind,
        name,
        value,
        key,
        required: _,
    } = sent;
    *kind == stored.kind
        && is_same(name, &stored.name)
        && is_same(value, &stored.value)
        && is_same(key, &stored.key)
}

/// Returns true when a form with the text `stored` sends `sent`, in a field of one line or of several.
fn is_same(sent: &str, stored: &str) -> bool {
    let one_line = stored.replace(['\r', '\n'], "");
    let lines = stored.replace("\r\n", "\n").replace('\r', "\n");
    sent == one_line.trim() || sent == lines.trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::page::servers::rows::PlaceKind;

    fn place(value: &str) -> PlaceRow {
        PlaceRow {
            name: "x".to_owned(),
            value: value.to_owned(),
            ..PlaceRow::new(PlaceKind::Header)
        }
    }

    #[test]
    fn what_a_form_cannot_send_is_no_change() {
        let present = ServerForm {
            description: "one\ntwo ".to_owned(),
            ca_pem: "-----BEGIN\r\nA\n-----END\n".to_owned(),
            places: vec![place("${A} "), place(" ${B}")],
            ..ServerForm::new()
        };
        let sent = ServerForm {
            description: "onetwo".to_owned(),
            ca_pem: "-----BEGIN\nA\n-----END".to_owned(),
            places: vec![place("${B}"), place("${C}")],
            ..ServerForm::new()
        };
        let mut kept = sent.clone();
        kept.keep_untouched(&present);
        assert_eq!(
            (&kept.description, &kept.ca_pem),
            (&present.description, &present.ca_pem)
        );
        assert_eq!(kept.places, [place(" ${B}"), place("${C}")]);
        let mut changed = ServerForm {
            description: "one two".to_owned(),
            ..sent
        };
        changed.keep_untouched(&present);
        assert_eq!(changed.description, "one two");
    }
}
