//! Field masks (AIP-134): which fields of the server that is there an update replaces.

use prost_types::FieldMask;
use proto::{
    Reason, Refusal,
    injector::v1::{Server, UpstreamTls},
};

/// Puts the fields that `mask` names from `given` into `current`. Each must be one that an update may change.
pub(super) fn apply(current: Server, given: &Server, mask: Option<&FieldMask>) -> Result<Server, Refusal> {
    let paths = mask.map_or(&[] as &[String], |mask| &mask.paths);
    if paths.is_empty() {
        return Err(wrong("it must name at least one field"));
    }
    let mut merged = current;
    for path in paths {
        replace(&mut merged, given, path)?;
    }
    Ok(merged)
}

fn replace(merged: &mut Server, given: &Server, path: &str) -> Result<(), Refusal> {
    let tls = |server: &Server| server.tls.clone().unwrap_or_default();
    match path {
        "url" => merged.url.clone_from(&given.url),
        "auth_type" => merged.auth_type = given.auth_type,
        "inject_secrets" => merged.inject_secrets.clone_from(&given.inject_secrets),
        "required_secrets" => merged.required_secrets.clone_from(&given.required_secrets),
        "protocol" => merged.protocol = given.protocol,
        "tls" => merged.tls.clone_from(&given.tls),
        "tls.ca_pem" => {
            merged.tls = Some(UpstreamTls {
                ca_pem: tls(given).ca_pem,
                ..tls(merged)
            })
        }
        "tls.server_name" => {
            merged.tls = Some(UpstreamTls {
                server_name: tls(given).server_name,
                ..tls(merged)
            })
        }
        "tls.allow_bound_secrets" => {
            merged.tls = Some(UpstreamTls {
                allow_bound_secrets: tls(given).allow_bound_secrets,
                ..tls(merged)
            })
        }
        "tls.client_cert_secret" => {
            merged.tls = Some(UpstreamTls {
                client_cert_secret: tls(given).client_cert_secret,
                ..tls(merged)
            })
        }
        "protobuf_secrets_field" => merged.protobuf_secrets_field = given.protobuf_secrets_field,
        "protobuf_messages" => merged.protobuf_messages = given.protobuf_messages,
        "grpc_methods" => merged.grpc_methods.clone_from(&given.grpc_methods),
        "paths" => merged.paths.clone_from(&given.paths),
        "allow_plaintext" => merged.allow_plaintext = given.allow_plaintext,
        "allowed_origins" => merged.allowed_origins.clone_from(&given.allowed_origins),
        "oauth" => merged.oauth = given.oauth,
        "description" => merged.description.clone_from(&given.description),
        _ => {
            return Err(wrong(
                "it names a field that is none, or that an update cannot change",
            ));
        }
    }
    Ok(())
}

fn wrong(what: &str) -> Refusal {
    Refusal::new(
        Reason::FieldMaskInvalid,
        format!(
            "update_mask: {what}; there are url, auth_type, inject_secrets, required_secrets, protocol, tls, \
             tls.ca_pem, tls.server_name, tls.allow_bound_secrets, tls.client_cert_secret, allow_plaintext, allowed_origins, description, \
             protobuf_secrets_field, \
             protobuf_messages, grpc_methods, paths and oauth"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            workspace: "w".into(),
            name: "s".into(),
            uid: "u".into(),
            revision: 7,
            url: "https://a.example".into(),
            inject_secrets: vec!["A".into()],
            tls: Some(UpstreamTls {
                ca_pem: "pem".into(),
                server_name: "name".into(),
                allow_bound_secrets: true,
                client_cert_secret: "CERT".into(),
            }),
            description: "before".into(),
            ..Default::default()
        }
    }

    fn applied(given: &Server, paths: &[&str]) -> Result<Server, Reason> {
        let mask = FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        };
        apply(server(), given, Some(&mask)).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn only_the_fields_that_are_named_change() {
        let given = Server {
            url: "https://b.example".into(),
            description: "after".into(),
            ..Default::default()
        };
        let changed = applied(&given, &["description"]).unwrap();
        assert_eq!(
            changed,
            Server {
                description: "after".into(),
                ..server()
            }
        );
    }

    #[test]
    fn a_named_field_that_is_not_given_is_emptied() {
        let emptied = applied(&Server::default(), &["inject_secrets", "tls"]).unwrap();
        assert_eq!(
            emptied,
            Server {
                inject_secrets: Vec::new(),
                tls: None,
                ..server()
            }
        );
    }

    #[test]
    fn where_in_messages_secrets_go_may_change() {
        let given = Server {
            protobuf_secrets_field: 7,
            protobuf_messages: 2,
            ..Default::default()
        };
        let changed = |path| {
            let changed = applied(&given, &[path]).unwrap();
            (changed.protobuf_secrets_field, changed.protobuf_messages)
        };
        assert_eq!(changed("description"), (0, 0));
        assert_eq!(changed("protobuf_secrets_field"), (7, 0));
        assert_eq!(changed("protobuf_messages"), (0, 2));
    }

    #[test]
    fn a_part_of_tls_may_change_alone() {
        let given = Server {
            tls: Some(UpstreamTls {
                ca_pem: "other".into(),
                server_name: "other".into(),
                allow_bound_secrets: false,
                client_cert_secret: "OTHER".into(),
            }),
            ..Default::default()
        };
        let before = server().tls.unwrap();
        for (path, changed) in [
            (
                "tls.ca_pem",
                UpstreamTls {
                    ca_pem: "other".into(),
                    ..before.clone()
                },
            ),
            (
                "tls.server_name",
                UpstreamTls {
                    server_name: "other".into(),
                    ..before.clone()
                },
            ),
            (
                "tls.allow_bound_secrets",
                UpstreamTls {
                    allow_bound_secrets: false,
                    ..before.clone()
                },
            ),
            (
                "tls.client_cert_secret",
                UpstreamTls {
                    client_cert_secret: "OTHER".into(),
                    ..before
                },
            ),
        ] {
            assert_eq!(applied(&given, &[path]).unwrap().tls, Some(changed), "{path}");
        }
    }

    #[test]
    fn a_mask_that_names_nothing_or_what_may_not_change_is_refused() {
        assert_eq!(
            apply(server(), &server(), None).unwrap_err().reason,
            Reason::FieldMaskInvalid
        );
        assert_eq!(applied(&server(), &[]), Err(Reason::FieldMaskInvalid));
        for path in [
            "",
            "*",
            "name",
            "workspace",
            "uid",
            "revision",
            "create_time",
            "update_time",
            "workspace_uid",
            "URL",
            "url ",
            "tls.",
            "tls.x",
            "url.host",
            "injectSecrets",
        ] {
            assert_eq!(
                applied(&server(), &["url", path]),
                Err(Reason::FieldMaskInvalid),
                "{path:?}"
            );
        }
    }
}
