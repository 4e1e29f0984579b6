//! The rule that decides which placements have the same place, so that no server can have both.

use http::header;

use crate::{header_rules::are_read_as_one, inject::parameter_name::ParameterName, placement::Placement};

/// Returns true when a server may read both places as one.
pub(crate) fn have_same_place(one: &Placement, other: &Placement) -> bool {
    use Placement::{Basic, Cookie, Form, Header, Json, Path, Protobuf, Query};
    match (one, other) {
        (
            Header { name: one, value: _ },
            Header {
                name: other,
                value: _,
            },
        ) => are_read_as_one(one, other),
        (Basic { .. }, Basic { .. }) => true,
        (Basic { .. }, Header { name, value: _ }) | (Header { name, value: _ }, Basic { .. }) => {
            are_read_as_one(name, &header::AUTHORIZATION)
        }
        (
            Query { name: one, value: _ },
            Query {
                name: other,
                value: _,
            },
        )
        | (
            Cookie { name: one, value: _ },
            Cookie {
                name: other,
                value: _,
            },
        )
        | (
            Form { field: one, value: _ },
            Form {
                field: other,
                value: _,
            },
        ) => ParameterName::plain(one).compares_equal(&ParameterName::plain(other)),
        (Path { secret: one }, Path { secret: other }) => one == other,
        (
            Json {
                pointer: one,
                value: _,
            },
            Json {
                pointer: other,
                value: _,
            },
        ) => one.conflicts(other),
        (
            Protobuf {
                field: one,
                key: one_key,
                value: _,
            },
            Protobuf {
                field: other,
                key: other_key,
                value: _,
            },
        ) => (one, one_key) == (other, other_key),
        (
            Header { .. }
            | Basic { .. }
            | Query { .. }
            | Path { .. }
            | Cookie { .. }
            | Json { .. }
            | Form { .. }
            | Protobuf { .. },
            _,
        ) => false,
    }
}

/// Returns true when the query of a URL has a parameter that a server may read as the one of `placement`.
pub(crate) fn is_in_query(placement: &Placement, query: &str) -> bool {
    let Placement::Query { name, value: _ } = placement else {
        return false;
    };
    let name = ParameterName::plain(name);
    let parameters = query
        .split(['&', ';'])
        .filter_map(|parameter| parameter.split('=').next());
    let mut names = parameters.filter(|name| !name.is_empty());
    names.any(|other| ParameterName::encoded(other.as_bytes()).compares_equal(&name))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proto::SecretName;

    use super::*;
    use crate::{json_pointer::JsonPointer, placement::FieldNumber, template::Template};

    fn value() -> Template {
        Template::parse("${A}").unwrap()
    }

    fn header(name: &str) -> Placement {
        Placement::Header {
            name: HeaderName::try_from(name).unwrap(),
            value: value(),
        }
    }

    fn basic() -> Placement {
        Placement::Basic {
            username: value(),
            password: value(),
        }
    }

    fn query(name: &str) -> Placement {
        Placement::Query {
            name: name.to_owned(),
            value: value(),
        }
    }

    fn cookie(name: &str) -> Placement {
        Placement::Cookie {
            name: name.to_owned(),
            value: value(),
        }
    }

    fn form(field: &str) -> Placement {
        Placement::Form {
            field: field.to_owned(),
            value: value(),
        }
    }

    fn json(pointer: &str) -> Placement {
        Placement::Json {
            pointer: JsonPointer::parse(pointer).unwrap(),
            value: value(),
        }
    }

    fn protobuf(field: u32, key: &str) -> Placement {
        Placement::Protobuf {
            field: FieldNumber::parse(field).unwrap(),
            key: key.to_owned(),
            value: value(),
        }
    }

    fn path(name: &str) -> Placement {
        let secret = SecretName::parse(name).unwrap();
        Placement::Path { secret }
    }

    #[test]
    fn places_that_a_server_may_read_as_one_are_the_same() {
        for (one, other, same) in [
            (header("x-api-key"), header("X_Api.Key"), true),
            (header("x-api-key"), header("x-api-keys"), false),
            (header("Authorization"), basic(), true),
            (header("x-authorization"), basic(), false),
            (basic(), basic(), true),
            (query("api.key"), query("API_KEY[x]"), true),
            (query("key"), query("keys"), false),
            (query("key"), form("key"), false),
            (form("token"), form("Token"), true),
            (cookie("session"), cookie("session"), true),
            (cookie("session"), header("session"), false),
            (json("/a/b"), json("/A/b"), true),
            (json("/a"), json("/a/b"), true),
            (json("/a/b"), json("/a/c"), false),
            (protobuf(7, "A"), protobuf(7, "A"), true),
            (protobuf(7, "A"), protobuf(7, "a"), false),
            (protobuf(7, "A"), protobuf(8, "A"), false),
            (path("a"), path("A"), true),
            (path("a"), path("b"), false),
        ] {
            assert_eq!(have_same_place(&one, &other), same, "{one:?} {other:?}");
            assert_eq!(have_same_place(&other, &one), same, "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_parameter_is_found_in_the_query_of_a_url() {
        for (name, query, found) in [
            ("key", "v=1&k%65y=2", true),
            ("Key", "key", true),
            ("key", "", false),
            ("key", "v=key&keys=1&=key", false),
        ] {
            assert_eq!(is_in_query(&self::query(name), query), found, "{query}");
        }
        assert!(!is_in_query(&header("key"), "key=1"));
    }
}
