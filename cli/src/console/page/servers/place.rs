//! The places of a server's secrets, also for an auth type that decides them.

use proto::injector::v1::{
    AuthType, CookiePlacement, FormPlacement, HeaderPlacement, Injection, JsonPlacement, ProtobufPlacement,
    QueryPlacement, Server, injection::Placement,
};

/// Returns the injections of a server. The injector lists them for every stored server; for a server that a person is still
/// describing they follow from the auth type.
pub(super) fn injections_of(server: &Server) -> Vec<Injection> {
    if !server.injections.is_empty() {
        return server.injections.clone();
    }
    let auth_type = server.auth_type();
    let field = server.protobuf_secrets_field;
    let injections = server.inject_secrets.iter().flat_map(|secret| {
        let required = server.required_secrets.contains(secret);
        let placements = placements_of(auth_type, field, secret);
        placements.into_iter().map(move |placement| Injection {
            required,
            placement: Some(placement),
        })
    });
    injections.collect()
}

fn placements_of(auth_type: AuthType, protobuf_field: u32, secret: &str) -> Vec<Placement> {
    let value = format!("${{{secret}}}");
    match auth_type {
        AuthType::Unspecified | AuthType::SecretHeaders => vec![Placement::Header(HeaderPlacement {
            name: format!("x-mcp-secret-{}", secret.replace('_', "-").to_ascii_lowercase()),
            value,
        })],
        AuthType::Bearer => vec![Placement::Header(HeaderPlacement {
            name: "authorization".to_owned(),
            value: format!("Bearer {value}"),
        })],
        AuthType::Skill => {
            let message = (protobuf_field != 0).then(|| {
                Placement::Protobuf(ProtobufPlacement {
                    field: protobuf_field,
                    key: secret.to_owned(),
                    value: value.clone(),
                })
            });
            let member = Placement::Json(JsonPlacement {
                pointer: format!("/secrets/{secret}"),
                value,
            });
            std::iter::once(member).chain(message).collect()
        }
        AuthType::Custom => Vec::new(),
    }
}

/// Returns a short name for the place of an injection.
pub(super) fn place_name(injection: &Injection) -> String {
    match &injection.placement {
        None => "a place that this release does not know".to_owned(),
        Some(Placement::Header(HeaderPlacement { name, value })) if value.starts_with("Bearer ") => {
            format!("{name}: Bearer")
        }
        Some(Placement::Header(HeaderPlacement { name, value: _ })) => format!("header {name}"),
        Some(Placement::Basic(_)) => "Basic credentials".to_owned(),
        Some(Placement::Query(QueryPlacement { name, value: _ })) => format!("query ?{name}="),
        Some(Placement::Path(_)) => "path of the URL".to_owned(),
        Some(Placement::Cookie(CookiePlacement { name, value: _ })) => format!("cookie {name}"),
        Some(Placement::Json(JsonPlacement { pointer, value: _ })) => format!("JSON body {pointer}"),
        Some(Placement::Form(FormPlacement { field, value: _ })) => format!("form field {field}"),
        Some(Placement::Protobuf(ProtobufPlacement { field, key, value: _ })) => {
            format!("gRPC message field {field} {key}").trim_end().to_owned()
        }
    }
}
