//! Refusals of the injector, at the fields that they are about.

use proto::Reason;

use super::more_view::ALLOW_PLAINTEXT;
use crate::{console::view::FormError, failure::Failure};

/// The fields that the injector's messages begin with, and the fields of the form. The longer ones are first.
const FIELDS: [(&str, &str); 24] = [
    ("tls.ca_pem: ", "ca_pem"),
    ("tls.server_name: ", "server_name"),
    ("tls.client_cert_secret: ", "client_cert"),
    ("tls.allow_bound_secrets: ", "allow_bound"),
    ("tls: ", "ca_pem"),
    ("url: ", "url"),
    ("name: ", "name"),
    ("secrets: ", "credential"),
    ("injections: ", "places"),
    ("auth_type: ", "auth"),
    ("allowed_origins: ", "origins"),
    ("protobuf_secrets_field: ", "secrets_field"),
    ("protobuf_messages: ", "all_messages"),
    ("paths: ", "paths"),
    ("grpc_methods: ", "grpc_methods"),
    ("description: ", "description"),
    ("inject_secrets: ", "credential"),
    ("required_secrets: ", "credential"),
    ("allow_plaintext: ", "allow_plaintext"),
    ("protocol: ", "protocol"),
    ("oauth: ", "oauth"),
    ("scrub: ", "scrub"),
    ("on_echo: ", "on_echo"),
    ("catalog_entry: ", "name"),
];

/// Returns the error of a server that the injector refused. `credential` is the field with the names of the secrets.
pub(super) fn refusal(failure: Failure, credential: &'static str) -> FormError {
    let message = failure
        .message
        .strip_prefix("the injector: ")
        .unwrap_or(&failure.message);
    let at = FIELDS
        .iter()
        .find_map(|(prefix, field)| Some((message.strip_prefix(prefix)?, *field)));
    match (at, failure.reason) {
        (Some((message, "credential")), _) => FormError::at(credential, message),
        (Some((message, "url")), _) => FormError::at(
            "url",
            &message.replace("or allow_plaintext", &format!("or “{ALLOW_PLAINTEXT}”")),
        ),
        (Some((message, field)), _) => FormError::at(field, &numbered(message)),
        (None, Some(Reason::ServerExists)) => FormError::at(
            "name",
            "the workspace has a server of this name already: give another name",
        ),
        (None, Some(Reason::UpstreamAddressRefused)) => FormError::at("url", message),
        (None, Some(Reason::SecretNotForThisUpstream)) => FormError::at(credential, message)
            .hint("replace the secret’s value with this server in `Send only to`, or correct the URL"),
        (None, _) => FormError::from(failure),
    }
}

/// Returns a message of the injector about an injection with the words of the form.
fn numbered(message: &str) -> String {
    match message.strip_prefix("number ") {
        Some(rest) => format!("place {rest}"),
        None => message.replace("numbers ", "places "),
    }
}

/// Returns the number of the place that an error is about, counted from 1.
pub(super) fn place_of(error: Option<&FormError>) -> Option<usize> {
    let rest = error?.message_at("places")?.strip_prefix("Place ")?;
    rest.split_once(':')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use proto::Refusal;
    use tonic::Status;

    use super::*;
    use crate::server_settings::settings_of_server;

    fn error(reason: Reason, message: &str) -> FormError {
        let status = Status::from(Refusal::new(reason, message));
        refusal(Failure::of_status("the injector", &status), "bearer")
    }

    #[test]
    fn every_setting_of_a_server_has_a_field_for_its_errors() {
        let has_field = |setting: &String| FIELDS.iter().any(|(prefix, _)| *prefix == format!("{setting}: "));
        let mut settings = settings_of_server();
        settings.retain(|setting| !has_field(setting));
        assert!(settings.is_empty(), "{settings:?}");
    }

    #[test]
    fn an_error_is_at_the_field_that_it_is_about() {
        for (message, field, shown) in [
            (
                "url: it must not have a fragment",
                "url",
                "It must not have a fragment.",
            ),
            ("tls.ca_pem: no certificate", "ca_pem", "No certificate."),
            ("secrets: bearer takes one", "bearer", "Bearer takes one."),
            (
                "injections: number 2: header.name: no",
                "places",
                "Place 2: header.name: no.",
            ),
        ] {
            let error = error(Reason::ServerInvalid, message);
            assert_eq!(error.message_at(field), Some(shown), "{message}");
        }
        assert_eq!(
            place_of(Some(&error(Reason::ServerInvalid, "injections: number 2: no"))),
            Some(2)
        );
        assert!(
            error(Reason::ServerExists, "it exists")
                .message_at("name")
                .is_some()
        );
        assert!(
            error(Reason::WorkspaceNotFound, "there is no workspace")
                .message_at("name")
                .is_none()
        );
    }
}
