//! The fields in which two descriptions of a server differ.

use proto::injector::v1::{Server, UpstreamTls};

/// A group of fields that the form shows as one, with the paths for the update mask.
pub(super) struct ChangedSetting {
    /// The name that the form has for it.
    pub(super) label: &'static str,
    pub(super) paths: &'static [&'static str],
}

/// Returns what differs. Both servers come from forms, so that fields which the form does not show never differ, and an update
/// leaves them as they are.
pub(super) fn changes(before: &Server, after: &Server) -> Vec<ChangedSetting> {
    let tls = |server: &Server| server.tls.clone().unwrap_or_default();
    let (old_tls, new_tls) = (tls(before), tls(after));
    let UpstreamTls {
        ca_pem,
        server_name,
        allow_bound_secrets,
        client_cert_secret,
    } = &old_tls;
    let secrets = |server: &Server| {
        (
            server.auth_type,
            server.inject_secrets.clone(),
            server.required_secrets.clone(),
            server.injections.clone(),
        )
    };
    // With injections, the names of the secrets follow from them, and the other way round.
    let credential: &[&str] = match after.injections.is_empty() {
        true => &["auth_type", "inject_secrets", "required_secrets"],
        false => &["auth_type", "injections"],
    };
    let all: [(&str, &'static [&'static str], bool); 17] = [
        ("URL", &["url"], before.url != after.url),
        ("credential", credential, secrets(before) != secrets(after)),
        (
            "description",
            &["description"],
            before.description != after.description,
        ),
        ("paths", &["paths"], before.paths != after.paths),
        (
            "gRPC methods",
            &["grpc_methods"],
            before.grpc_methods != after.grpc_methods,
        ),
        (
            "gRPC messages",
            &["protobuf_messages"],
            before.protobuf_messages != after.protobuf_messages,
        ),
        (
            "number of the gRPC field",
            &["protobuf_secrets_field"],
            before.protobuf_secrets_field != after.protobuf_secrets_field,
        ),
        (
            "web pages that may call it",
            &["allowed_origins"],
            before.allowed_origins != after.allowed_origins,
        ),
        ("CA", &["tls.ca_pem"], *ca_pem != new_tls.ca_pem),
        (
            "name in its certificate",
            &["tls.server_name"],
            *server_name != new_tls.server_name,
        ),
        (
            "bound secrets without a verified server",
            &["tls.allow_bound_secrets"],
            *allow_bound_secrets != new_tls.allow_bound_secrets,
        ),
        (
            "client certificate",
            &["tls.client_cert_secret"],
            *client_cert_secret != new_tls.client_cert_secret,
        ),
        (
            "cleartext",
            &["allow_plaintext"],
            before.allow_plaintext != after.allow_plaintext,
        ),
        (
            "version of HTTP",
            &["protocol"],
            before.protocol != after.protocol,
        ),
        ("search of answers", &["scrub"], before.scrub != after.scrub),
        (
            "treatment of an echo",
            &["on_echo"],
            before.on_echo != after.on_echo,
        ),
        (
            "treatment of a demand for a credential",
            &["oauth"],
            before.oauth != after.oauth,
        ),
    ];
    let differ = all.into_iter().filter(|(_, _, differs)| *differs);
    differ
        .map(|(label, paths, _)| ChangedSetting { label, paths })
        .collect()
}

#[cfg(test)]
mod tests {
    use proto::injector::v1::{
        AuthType, HeaderPlacement, Injection, PathPlacement, QueryPlacement, injection::Placement,
    };

    use super::*;
    use crate::console::page::servers::form::{Auth, ServerForm};

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
