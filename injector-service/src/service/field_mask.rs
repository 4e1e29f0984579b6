//! Field masks (AIP-134): the fields that an update replaces.

use prost_types::FieldMask;
use proto::{
    Reason, Refusal,
    injector::v1::{AuthType, Injection, QueryPlacement, Server, injection::Placement},
};

use crate::registry::server::UpstreamUrl;

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
const FIELDS: [MaskedField; 21] = [
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
    field!(injections),
    field!(scrub),
    field!(on_echo),
];

/// Returns `current` with the fields from `given` that `mask` names. Fields that follow from others are left out.
pub(super) fn apply(current: Server, given: &Server, mask: Option<&FieldMask>) -> Result<Server, Refusal> {
    let paths = mask.map_or(&[] as &[String], |mask| &mask.paths);
    if paths.is_empty() {
        return Err(invalid("it must name at least one field"));
    }
    let has = |field: &str| paths.iter().any(|path| path == field);
    let mut merged = without_derived_fields(current, has);
    for path in paths {
        let field = FIELDS.iter().find(|(name, _)| name == path);
        let (_, copy) =
            field.ok_or_else(|| invalid("it names a field that does not exist or cannot be changed"))?;
        copy(&mut merged, given);
    }
    Ok(merged)
}

/// Removes the view of the secrets that follows from the other one: of a server with a short form the injections, and
/// of a server with injections the names of the secrets. An update that changes to the other view keeps the names.
fn without_derived_fields(mut current: Server, has: impl Fn(&str) -> bool) -> Server {
    let is_custom = current.auth_type() == AuthType::Custom;
    let becomes_custom = has("injections") && !has("auth_type");
    if becomes_custom {
        current.set_auth_type(AuthType::Unspecified);
    }
    let becomes_short_form = is_custom && has("auth_type") && !has("injections");
    if has("url") && !has("injections") {
        remove_injections_of_url(&mut current);
    }
    if becomes_short_form || (!is_custom && !has("injections")) {
        current.injections.clear();
    } else {
        current.inject_secrets.clear();
        current.required_secrets.clear();
    }
    current
}

/// Removes the injections that follow from the URL, because another URL has others.
fn remove_injections_of_url(server: &mut Server) {
    let url = UpstreamUrl::parse(&server.url);
    let query = url.as_ref().map_or(&[][..], UpstreamUrl::query_injections);
    let is_of_url = |injection: &Injection| match &injection.placement {
        Some(Placement::Path(_)) => true,
        Some(Placement::Query(QueryPlacement { name, value })) => query
            .iter()
            .any(|(parameter, template)| parameter == name && template.to_string() == *value),
        Some(
            Placement::Header(_)
            | Placement::Basic(_)
            | Placement::Cookie(_)
            | Placement::Json(_)
            | Placement::Form(_)
            | Placement::Protobuf(_),
        )
        | None => false,
    };
    server.injections.retain(|injection| !is_of_url(injection));
}

fn invalid(problem: &str) -> Refusal {
    let names = FIELDS.map(|(name, _)| name).join(", ");
    Refusal::new(
        Reason::FieldMaskInvalid,
        format!("update_mask: {problem}; the fields are {names}"),
    )
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use proto::injector::v1::{HeaderPlacement, PathPlacement, UpstreamTls};

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

    fn header(name: &str, value: &str) -> Injection {
        Injection {
            required: false,
            placement: Some(Placement::Header(HeaderPlacement {
                name: name.into(),
                value: value.into(),
            })),
        }
    }

    /// Returns a server as it is stored: with both views of its secrets.
    fn stored(auth_type: AuthType, injection: Injection) -> Server {
        Server {
            auth_type: auth_type.into(),
            inject_secrets: vec!["A".into()],
            required_secrets: vec!["A".into()],
            injections: vec![injection],
            ..Default::default()
        }
    }

    /// Returns the auth type, the secrets and the injections after an update of a stored server.
    fn updated(current: Server, given: Server, paths: &[&str]) -> (AuthType, Vec<String>, Vec<Injection>) {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let merged = apply(current, &given, Some(&FieldMask { paths })).unwrap();
        assert_eq!(
            merged.inject_secrets.is_empty(),
            merged.required_secrets.is_empty()
        );
        (merged.auth_type(), merged.inject_secrets, merged.injections)
    }

    #[test]
    fn an_update_of_one_view_of_the_secrets_gives_up_the_other() {
        let (short, own) = (header("authorization", "Bearer ${A}"), header("x-key", "${A}"));
        let bearer = || stored(AuthType::Bearer, short.clone());
        let custom = || stored(AuthType::Custom, own.clone());
        let secrets = vec!["A".to_owned()];
        let of_type = |auth_type: AuthType| Server {
            auth_type: auth_type.into(),
            ..Default::default()
        };
        let with_injection = Server {
            injections: vec![own.clone()],
            ..Default::default()
        };
        for (current, given, paths, expected) in [
            (
                bearer(),
                Server::default(),
                "url",
                (AuthType::Bearer, secrets.clone(), vec![]),
            ),
            (
                custom(),
                Server::default(),
                "url",
                (AuthType::Custom, vec![], vec![own.clone()]),
            ),
            (
                bearer(),
                with_injection.clone(),
                "injections",
                (AuthType::Unspecified, vec![], vec![own.clone()]),
            ),
            (
                custom(),
                with_injection,
                "injections",
                (AuthType::Unspecified, vec![], vec![own.clone()]),
            ),
            (
                custom(),
                Server::default(),
                "injections",
                (AuthType::Unspecified, vec![], vec![]),
            ),
            (
                custom(),
                of_type(AuthType::Bearer),
                "auth_type",
                (AuthType::Bearer, secrets.clone(), vec![]),
            ),
            (
                bearer(),
                of_type(AuthType::SecretHeaders),
                "auth_type",
                (AuthType::SecretHeaders, secrets, vec![]),
            ),
        ] {
            assert_eq!(updated(current, given, &[paths]), expected, "{paths}");
        }
    }

    #[test]
    fn another_url_gives_up_the_injections_of_the_url() {
        let injection = |placement| Injection {
            required: true,
            placement: Some(placement),
        };
        let query = |name: &str| {
            injection(Placement::Query(QueryPlacement {
                name: name.into(),
                value: "x${B}".into(),
            }))
        };
        let path = injection(Placement::Path(PathPlacement { variable: "A".into() }));
        let current = Server {
            url: "https://a.example/${A}?q=x${b}".into(),
            injections: vec![query("own"), header("x-key", "${A}"), path, query("q")],
            ..stored(AuthType::Custom, query("own"))
        };
        let given = Server {
            url: "https://b.example".into(),
            ..Default::default()
        };
        let (_, _, left) = updated(current.clone(), given.clone(), &["url"]);
        assert_eq!(left, [query("own"), header("x-key", "${A}")]);
        let (_, _, left) = updated(current, given, &["description"]);
        assert_eq!(left.len(), 4);
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
