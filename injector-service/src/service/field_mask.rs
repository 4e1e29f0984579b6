//! Field masks (AIP-134): the fields that an update replaces.

use prost_types::FieldMask;
use proto::{Reason, Refusal, injector::v1::Server};

/// The path of a field, and a function that copies the field from the second server to the first.
type MaskedField = (&'static str, fn(&mut Server, &Server));

macro_rules! field {
    ($field:ident) => {
        (stringify!($field), |merged, given| {
            merged.$field.clone_from(&given.$field);
        })
    };
    (tls.$field:ident) => {
        (concat!("tls.", stringify!($field)), |merged, given| {
            let given = given.tls.clone().unwrap_or_default();
            merged.tls.get_or_insert_default().$field = given.$field;
        })
    };
}

/// Every field that an update may change, in the order of the message.
const FIELDS: [MaskedField; 18] = [
    field!(url),
    field!(auth_type),
    field!(inject_secrets),
    field!(required_secrets),
    field!(protocol),
    field!(tls),
    field!(tls.ca_pem),
    field!(tls.server_name),
    field!(tls.allow_bound_secrets),
    field!(tls.client_cert_secret),
    field!(allow_plaintext),
    field!(allowed_origins),
    field!(description),
    field!(protobuf_secrets_field),
    field!(protobuf_messages),
    field!(grpc_methods),
    field!(paths),
    field!(oauth),
];

/// Returns `current` with the fields from `given` that `mask` names.
pub(super) fn apply(current: Server, given: &Server, mask: Option<&FieldMask>) -> Result<Server, Refusal> {
    let paths = mask.map_or(&[] as &[String], |mask| &mask.paths);
    if paths.is_empty() {
        return Err(invalid("it must name at least one field"));
    }
    let mut merged = current;
    for path in paths {
        let field = FIELDS.iter().find(|(name, _)| name == path);
        let (_, copy) =
            field.ok_or_else(|| invalid("it names a field that is none, or that an update cannot change"))?;
        copy(&mut merged, given);
    }
    Ok(merged)
}

fn invalid(problem: &str) -> Refusal {
    let names = FIELDS.map(|(name, _)| name).join(", ");
    Refusal::new(
        Reason::FieldMaskInvalid,
        format!("update_mask: {problem}; there are {names}"),
    )
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use proto::injector::v1::UpstreamTls;

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
    fn an_update_may_change_every_field_that_is_not_output_only() {
        let descriptor = |message: &str| {
            let files = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET)
                .unwrap()
                .file;
            let files = files.into_iter().filter(|file| file.package() == "injector.v1");
            let mut messages = files.flat_map(|file| file.message_type);
            let found = messages.find(|found| found.name() == message).unwrap();
            found
                .field
                .iter()
                .map(|field| field.name().to_owned())
                .collect::<Vec<_>>()
        };
        let tls = descriptor("UpstreamTls");
        let mut expected = Vec::new();
        for field in descriptor("Server") {
            let parts = if field == "tls" { tls.as_slice() } else { &[] };
            let parts: Vec<_> = parts.iter().map(|part| format!("tls.{part}")).collect();
            expected.push(field);
            expected.extend(parts);
        }
        let fixed = [
            "workspace",
            "name",
            "uid",
            "revision",
            "create_time",
            "update_time",
            "workspace_uid",
        ];
        expected.retain(|field| !fixed.contains(&field.as_str()));
        assert_eq!(FIELDS.map(|(name, _)| name).as_slice(), expected);
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
    fn a_named_field_without_a_value_is_cleared() {
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
    fn the_field_and_the_messages_of_secrets_change_separately() {
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
    fn an_empty_mask_or_one_with_an_unknown_field_is_refused() {
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
