//! The fields in which two descriptions of a server differ.

use proto::injector::v1::{Server, UpstreamTls};

use super::show::{oauth_text, protocol_text, scrub_text};

/// A group of fields that the form shows as one, with the paths for the update mask.
pub(super) struct ChangedSetting {
    /// The name that the form has for it.
    pub(super) label: &'static str,
    pub(super) paths: &'static [&'static str],
    /// The value before the change, in words; empty for a text of several lines.
    pub(super) before: String,
}

/// Returns what differs. Both servers come from forms, so that fields which the form does not show never differ, and an update
/// leaves them as they are.
pub(super) fn changes(before: &Server, after: &Server) -> Vec<ChangedSetting> {
    let differ = settings(before, after)
        .into_iter()
        .filter(|(_, _, differs, _)| *differs);
    differ
        .map(|(label, paths, _, before)| ChangedSetting { label, paths, before })
        .collect()
}

/// The label and the paths of a setting, true if it differs, and its value before.
type Setting = (&'static str, &'static [&'static str], bool, String);

fn settings(before: &Server, after: &Server) -> [Setting; 17] {
    let Server {
        // A form cannot change these.
        workspace: _,
        name: _,
        uid: _,
        revision: _,
        create_time: _,
        update_time: _,
        workspace_uid: _,
        url,
        auth_type,
        inject_secrets,
        required_secrets,
        injections,
        protocol,
        tls,
        allow_plaintext,
        allowed_origins,
        description,
        protobuf_secrets_field,
        protobuf_messages,
        grpc_methods,
        paths,
        oauth,
        scrub,
        on_echo,
    } = before;
    let UpstreamTls {
        ca_pem,
        server_name,
        allow_bound_secrets,
        client_cert_secret,
    } = tls.clone().unwrap_or_default();
    let new_tls = after.tls.clone().unwrap_or_default();
    let other_credential = *auth_type != after.auth_type
        || *inject_secrets != after.inject_secrets
        || *required_secrets != after.required_secrets
        || *injections != after.injections;
    let list = |items: &[String]| items.join(", ");
    let is_on = |is_on: bool| if is_on { "on" } else { "off" }.to_owned();
    let searched = scrub_text(before.scrub(), before.on_echo());
    // With injections, the names of the secrets follow from them, and the other way round.
    let credential: &[&str] = match after.injections.is_empty() {
        true => &["auth_type", "inject_secrets", "required_secrets"],
        false => &["auth_type", "injections"],
    };
    [
        ("URL", &["url"], *url != after.url, url.clone()),
        ("credential", credential, other_credential, list(inject_secrets)),
        (
            "description",
            &["description"],
            *description != after.description,
            description.clone(),
        ),
        ("paths", &["paths"], *paths != after.paths, list(paths)),
        (
            "gRPC methods",
            &["grpc_methods"],
            *grpc_methods != after.grpc_methods,
            list(grpc_methods),
        ),
        (
            "gRPC messages",
            &["protobuf_messages"],
            *protobuf_messages != after.protobuf_messages,
            String::new(),
        ),
        (
            "number of the gRPC field",
            &["protobuf_secrets_field"],
            *protobuf_secrets_field != after.protobuf_secrets_field,
            protobuf_secrets_field.to_string(),
        ),
        (
            "web pages that may call it",
            &["allowed_origins"],
            *allowed_origins != after.allowed_origins,
            list(allowed_origins),
        ),
        ("CA", &["tls.ca_pem"], ca_pem != new_tls.ca_pem, String::new()),
        (
            "name in its certificate",
            &["tls.server_name"],
            server_name != new_tls.server_name,
            server_name,
        ),
        (
            "bound secrets without a verified server",
            &["tls.allow_bound_secrets"],
            allow_bound_secrets != new_tls.allow_bound_secrets,
            is_on(allow_bound_secrets),
        ),
        (
            "client certificate",
            &["tls.client_cert_secret"],
            client_cert_secret != new_tls.client_cert_secret,
            client_cert_secret,
        ),
        (
            "cleartext",
            &["allow_plaintext"],
            *allow_plaintext != after.allow_plaintext,
            is_on(*allow_plaintext),
        ),
        (
            "version of HTTP",
            &["protocol"],
            *protocol != after.protocol,
            protocol_text(before.protocol()).to_owned(),
        ),
        (
            "search of answers",
            &["scrub"],
            *scrub != after.scrub,
            searched.clone(),
        ),
        (
            "treatment of an echo",
            &["on_echo"],
            *on_echo != after.on_echo,
            searched,
        ),
        (
            "treatment of a demand for a credential",
            &["oauth"],
            *oauth != after.oauth,
            oauth_text(before.oauth()).to_owned(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proto::injector::v1::{
        AuthType, HeaderPlacement, Injection, PathPlacement, QueryPlacement, injection::Placement,
    };

    use super::*;
    use crate::{
        console::page::servers::form::{Auth, ServerForm},
        server_settings::settings_of_server,
    };

    fn paths(before: &Server, after: &Server) -> Vec<&'static str> {
        changes(before, after)
            .iter()
            .flat_map(|change| change.paths)
            .copied()
            .collect()
    }

    /// A server as the injector shows it, with both views of its secrets.
    fn stored() -> Server {
        let injection = |placement| Injection {
            required: true,
            placement: Some(placement),
        };
        Server {
            workspace: "w".to_owned(),
            name: "s".to_owned(),
            uid: "u".to_owned(),
            revision: 7,
            url: "https://a.example/${P}?q=${Q}".to_owned(),
            auth_type: AuthType::Custom.into(),
            inject_secrets: ["A", "P", "Q"].map(str::to_owned).to_vec(),
            required_secrets: ["A", "P", "Q"].map(str::to_owned).to_vec(),
            injections: vec![
                injection(Placement::Header(HeaderPlacement {
                    name: "x-key".to_owned(),
                    value: "${A}".to_owned(),
                })),
                injection(Placement::Path(PathPlacement {
                    variable: "P".to_owned(),
                })),
                injection(Placement::Query(QueryPlacement {
                    name: "q".to_owned(),
                    value: "${Q}".to_owned(),
                })),
            ],
            ..Default::default()
        }
    }

    #[test]
    fn every_setting_of_a_server_is_compared() {
        // A server with injections has other paths for its credential than one without.
        let pairs = [Server::default(), stored()].map(|server| settings(&server, &server));
        let paths = pairs.iter().flatten().flat_map(|(_, paths, ..)| *paths);
        let fields = paths.map(|path| path.split('.').next().unwrap_or(path).to_owned());
        assert_eq!(fields.collect::<BTreeSet<_>>(), settings_of_server());
    }

    #[test]
    fn a_form_that_nobody_edited_changes_nothing() {
        let form = ServerForm::of_server(&stored());
        assert_eq!(form.places.len(), 1, "the places of the URL stand in the URL");
        let described = form.server("w");
        assert!(paths(&described, &ServerForm::of_server(&stored()).server("w")).is_empty());
    }

    #[test]
    fn a_path_with_a_comma_stays_one_path() {
        let server = Server {
            paths: ["/a,b", "/tools/*"].map(str::to_owned).to_vec(),
            ..stored()
        };
        assert_eq!(ServerForm::of_server(&server).server("w").paths, server.paths);
    }

    #[test]
    fn only_what_differs_is_in_the_mask() {
        let form = ServerForm::of_server(&stored());
        let before = form.server("w");
        let edited = |edit: fn(&mut ServerForm)| {
            let mut form = ServerForm::of_server(&stored());
            edit(&mut form);
            form.server("w")
        };
        assert_eq!(
            paths(&before, &edited(|form| form.description = "x".to_owned())),
            ["description"]
        );
        assert_eq!(
            paths(&before, &edited(|form| form.client_cert = "C".to_owned())),
            ["tls.client_cert_secret"]
        );
        let required = edited(|form| form.places.iter_mut().for_each(|place| place.required = false));
        assert_eq!(paths(&before, &required), ["auth_type", "injections"]);
        let bearer = edited(|form| {
            form.auth = Auth::Bearer;
            form.bearer.name = "A".to_owned();
        });
        assert_eq!(
            paths(&before, &bearer),
            ["auth_type", "inject_secrets", "required_secrets"]
        );
    }
}
