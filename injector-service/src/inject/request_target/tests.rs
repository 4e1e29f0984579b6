mod props;

use super::*;
use crate::template::Template;

fn name(name: &str) -> SecretName {
    SecretName::parse(name).unwrap()
}

fn path_parts(path: &str) -> Vec<Part> {
    Template::parse(path).unwrap().parts().to_vec()
}

/// Joins a target with the secrets `path` in the server's path, and the injected parameters `query`, of which one without
/// a value is missing. Returns the shown target and the secret one.
fn joined(
    url_path: &str,
    fixed_query: &str,
    rest: &str,
    path: &[(&str, &str)],
    query: &[(&str, Option<&str>)],
) -> Result<(String, Option<String>), Refusal> {
    let path: Vec<_> = path
        .iter()
        .map(|(secret, value)| (name(secret), *value))
        .collect();
    let encoded = |value: &str| Zeroizing::new(value.as_bytes().to_vec());
    let values = TargetValues {
        path: path.iter().map(|(name, value)| (name, encoded(value))).collect(),
        query: query
            .iter()
            .filter_map(|(name, value)| Some((*name, encoded((*value)?))))
            .collect(),
    };
    let owned = OwnedParameters::new(fixed_query, query.iter().map(|(name, _)| *name));
    let parts = TargetParts {
        document: "",
        path: &path_parts(url_path),
        fixed_query,
        rest,
    };
    let RequestTarget { shown, secret } = RequestTarget::new(&parts, &owned, &values)?;
    let secret = secret.map(|secret| {
        assert_eq!(secret.len(), secret.capacity(), "the buffer has grown");
        String::from_utf8(secret.to_vec()).unwrap()
    });
    Ok((shown.as_str().to_owned(), secret))
}

/// Returns the target that the upstream gets.
fn sent(url_path: &str, fixed_query: &str, rest: &str, query: &[(&str, Option<&str>)]) -> String {
    let (shown, secret) = joined(url_path, fixed_query, rest, &[], query).unwrap();
    secret.unwrap_or(shown)
}

#[test]
fn a_target_of_a_server_without_own_parameters_is_copied_byte_for_byte() {
    for (path, rest, target) in [
        ("/", "", "/"),
        ("/", "/a//b;c=%2F?q=%20&r", "/a//b;c=%2F?q=%20&r"),
        ("/v1", "", "/v1"),
        ("/v1/", "", "/v1/"),
        ("/v1/", "?q=/", "/v1/?q=/"),
        ("/v1/", "/", "/v1/"),
        ("/v1/", "/a", "/v1/a"),
        ("/v1", "/", "/v1/"),
        ("/x", "?q", "/x?q"),
        ("/", "?q", "/?q"),
        ("/", "?&&;a=b=c&", "/?&&;a=b=c&"),
        ("/v1", "/a?b?c", "/v1/a?b?c"),
        ("/v1", "/a?", "/v1/a?"),
    ] {
        assert_eq!(
            joined(path, "", rest, &[], &[]).unwrap(),
            (target.to_owned(), None)
        );
    }
}

#[test]
fn the_path_of_a_document_comes_before_the_servers() {
    for (path, rest, target) in [
        ("/", "", "/.well-known/x"),
        ("/mcp/", "?q", "/.well-known/x/mcp?q"),
        ("/mcp", "/a", "/.well-known/x/mcp/a"),
        ("/", "/a?q", "/.well-known/x/a?q"),
    ] {
        let parts = TargetParts {
            document: "/.well-known/x",
            path: &path_parts(path),
            fixed_query: "",
            rest,
        };
        let owned = OwnedParameters::new("", []);
        let built = RequestTarget::new(&parts, &owned, &TargetValues::default()).unwrap();
        assert_eq!(built.shown, target);
    }
}

#[test]
fn a_query_has_fixed_parameters_then_injected_ones_then_the_programs() {
    let key = &[("key", Some("v%20w"))][..];
    for (fixed, rest, query, target) in [
        ("", "", key, "/x?key=v%20w"),
        ("", "?", key, "/x?key=v%20w"),
        ("v=1", "", &[][..], "/x?v=1"),
        ("v=1", "/y", key, "/x/y?v=1&key=v%20w"),
        ("v=1&w", "/y?a=1;b&c", key, "/x/y?v=1&w&key=v%20w&a=1;b&c"),
        (
            "",
            "?a=1",
            &[("k", Some("1")), ("l[]", Some("2"))],
            "/x?k=1&l%5B%5D=2&a=1",
        ),
        ("", "?a=1", &[("key", None)], "/x?a=1"),
    ] {
        assert_eq!(sent("/x", fixed, rest, query), target);
    }
}

#[test]
fn parameters_of_the_program_with_owned_names_are_removed_in_every_spelling() {
    for spelled in [
        "key=evil",
        "key",
        "KEY=evil",
        "k%65y=evil",
        "%4B%45%59=evil",
        "key[]=evil",
        "key[0]=evil",
        "key%5Ba%5D=evil",
        "[key]=evil",
        "%5bkey]=evil",
        "%u006bey=evil",
        "+key=evil",
        "key%00x=evil",
        "key=evil&key=evil;Key=evil",
    ] {
        for value in [Some("v"), None] {
            let own = value.map_or(String::new(), |value| format!("key={value}"));
            let target = |rest: &str| sent("/x", "", rest, &[("key", value)]);
            let with = |program: &str| {
                let all: Vec<_> = [own.as_str(), program]
                    .into_iter()
                    .filter(|each| !each.is_empty())
                    .collect();
                let mark = if all.is_empty() { "" } else { "?" };
                format!("/x{mark}{}", all.join("&"))
            };
            assert_eq!(target(&format!("?{spelled}")), with(""), "{spelled}");
            assert_eq!(target(&format!("?a=1&{spelled}")), with("a=1"), "{spelled}");
            assert_eq!(target(&format!("?{spelled};b=2")), with("b=2"), "{spelled}");
            assert_eq!(
                target(&format!("?a=%6b;{spelled}&b=key")),
                with("a=%6b&b=key"),
                "{spelled}"
            );
        }
    }
}

#[test]
fn names_of_fixed_parameters_are_owned_too() {
    for (fixed, rest, target) in [
        ("api-version=2", "?api-version=1&a=b", "/x?api-version=2&a=b"),
        ("api%2Dversion=2", "?API-VERSION=1", "/x?api%2Dversion=2"),
        ("a=1&b;c=2", "?a=2&b=2;c=2&d", "/x?a=1&b;c=2&d"),
        (
            "filter[x]=1",
            "?filter[y]=2&filters=3",
            "/x?filter[x]=1&filters=3",
        ),
        ("a=1&&b=2", "?&c", "/x?a=1&&b=2&&c"),
    ] {
        assert_eq!(sent("/x", fixed, rest, &[]), target);
    }
}

#[test]
fn nothing_is_left_of_a_query_whose_parameters_are_all_removed() {
    for rest in ["?key=1", "?key=1&KEY=2", "?key"] {
        assert_eq!(sent("/x", "", rest, &[("key", None)]), "/x");
        assert_eq!(sent("/x", "", &format!("/y{rest}"), &[("key", None)]), "/x/y");
    }
}

#[test]
fn every_value_is_shown_as_asterisks_of_the_same_length() {
    let path = [("TOKEN", "123%3AABC"), ("PART", "z")];
    let query = [("key", Some("s3cr%20t")), ("empty", Some(""))];
    let (shown, secret) = joined("/bot${TOKEN}/${PART}-x/", "v=1", "/send?a=b", &path, &query).unwrap();
    assert_eq!(shown, "/bot*********/*-x/send?v=1&key=********&empty=&a=b");
    assert_eq!(
        secret.unwrap(),
        "/bot123%3AABC/z-x/send?v=1&key=s3cr%20t&empty=&a=b"
    );
}

#[test]
fn a_value_keeps_the_rules_on_slashes() {
    for (url, rest, target) in [
        ("/${T}", "", "/v"),
        ("/${T}/", "", "/v/"),
        ("/${T}/", "/", "/v/"),
        ("/${T}", "/a", "/v/a"),
        ("/a/${T}${T}/", "?q", "/a/vv/?q"),
    ] {
        let (_, secret) = joined(url, "", rest, &[("T", "v")], &[]).unwrap();
        assert_eq!(secret.unwrap(), target);
    }
}

#[test]
fn a_value_that_makes_an_empty_segment_or_a_dot_segment_is_refused() {
    for (url, value, is_legal) in [
        ("/${T}", "", false),
        ("/${T}/x", "", false),
        ("/${T}", ".", false),
        ("/${T}/", "..", false),
        ("/.${T}/x", ".", false),
        ("/.${T}", "", false),
        ("/%2e${T}", "", false),
        ("/${T}", "%2E%2E", false),
        ("/${T}", "..%2Fadmin", false),
        ("/${T}", "a%2F..%2Fb", false),
        ("/${T}", "..%3Bx", false),
        ("/${T}", "..%5Cx", false),
        ("/x${T}", "", true),
        ("/${T}", "...", true),
        ("/x${T}/y", "..", true),
        ("/${T}", "a%2Fb", true),
        ("/${T}", ".a.", true),
    ] {
        for rest in ["", "/", "/a?b=..", "?.."] {
            let joined = joined(url, "", rest, &[("T", value)], &[]);
            match joined {
                Ok(_) => assert!(is_legal, "{url} {value}"),
                Err(refusal) => {
                    assert!(!is_legal, "{url} {value}: {refusal:?}");
                    assert_eq!(refusal.reason, Reason::SecretValueNotPlaceable);
                    assert!(refusal.message.starts_with("secret T: "), "{refusal:?}");
                }
            }
        }
    }
    assert!(joined("/x", "", "", &[], &[("key", Some(".."))]).is_ok());
}

#[test]
fn a_target_has_a_greatest_length() {
    let refused = |rest: &str, value: &str| joined("/x", "", rest, &[], &[("k", Some(value))]).err();
    let fits = "a".repeat(MAX_TARGET - "/x?k=".len());
    assert!(refused("", &fits).is_none());
    for (rest, value) in [("", format!("{fits}a")), ("/a", fits)] {
        let refusal = refused(rest, &value).unwrap();
        assert_eq!(refusal.reason, Reason::PathInvalid);
        assert!(refusal.message.contains(&MAX_TARGET.to_string()), "{refusal:?}");
    }
}
