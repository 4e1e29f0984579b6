//! A place in the requests of a server, as in the servers file.

use proto::injector::v1::{
    BasicPlacement, CookiePlacement, FormPlacement, HeaderPlacement, Injection as ApiInjection,
    JsonPlacement, PathPlacement, ProtobufPlacement, QueryPlacement, injection::Placement as ApiPlacement,
};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Injection {
    #[serde(flatten)]
    placement: Placement,
    required: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Placement {
    Header {
        name: String,
        value: String,
    },
    Basic {
        username: String,
        password: String,
    },
    Query {
        name: String,
        value: String,
    },
    Path {
        variable: String,
    },
    Cookie {
        name: String,
        value: String,
    },
    Json {
        pointer: String,
        value: String,
    },
    Form {
        field: String,
        value: String,
    },
    Protobuf {
        field: u32,
        key: String,
        value: String,
    },
    /// A later release of the injector has more places.
    Unknown {},
}

impl Injection {
    pub(crate) fn of(injection: ApiInjection) -> Self {
        let ApiInjection { required, placement } = injection;
        let placement = match placement {
            Some(ApiPlacement::Header(HeaderPlacement { name, value })) => Placement::Header { name, value },
            Some(ApiPlacement::Basic(BasicPlacement { username, password })) => {
                Placement::Basic { username, password }
            }
            Some(ApiPlacement::Query(QueryPlacement { name, value })) => Placement::Query { name, value },
            Some(ApiPlacement::Path(PathPlacement { variable })) => Placement::Path { variable },
            Some(ApiPlacement::Cookie(CookiePlacement { name, value })) => Placement::Cookie { name, value },
            Some(ApiPlacement::Json(JsonPlacement { pointer, value })) => Placement::Json { pointer, value },
            Some(ApiPlacement::Form(FormPlacement { field, value })) => Placement::Form { field, value },
            Some(ApiPlacement::Protobuf(ProtobufPlacement { field, key, value })) => {
                Placement::Protobuf { field, key, value }
            }
            None => Placement::Unknown {},
        };
        Self { placement, required }
    }

    /// Returns the injection in the notation of `--inject`, which takes no `path`, because the URL has its variables.
    pub(crate) fn text(&self) -> String {
        match &self.placement {
            Placement::Header { name, value } => format!("header:{name}={value}"),
            Placement::Basic { username, password } => format!("basic:{username}:{password}"),
            Placement::Query { name, value } => format!("query:{name}={value}"),
            Placement::Path { variable } => format!("path:{variable}"),
            Placement::Cookie { name, value } => format!("cookie:{name}={value}"),
            Placement::Json { pointer, value } => format!("json:{pointer}={value}"),
            Placement::Form { field, value } => format!("form:{field}={value}"),
            Placement::Protobuf { field, key, value } => format!("protobuf:{field}:{key}={value}"),
            Placement::Unknown {} => "unknown".to_owned(),
        }
    }
}

/// Returns the injections in the notation of `--inject`.
pub(super) fn places(injections: &[Injection]) -> String {
    let places: Vec<_> = injections.iter().map(Injection::text).collect();
    places.join(", ")
}
