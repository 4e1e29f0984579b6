use proto::{SecretName, ServerName};
use tempfile::TempDir;

use super::*;
use crate::{
    address::OwnListeners,
    placement::{AuthType, Injection, Placement, ProtobufMessages},
    registry::server::{Protocol, SpecError, UpstreamTls},
    template::Template,
};

/// Returns an entry in which every field differs from its default.
fn entry() -> CatalogEntry {
    let secret = SecretName::parse("SUGGESTED").unwrap();
    CatalogEntry {
        name: EntryName::parse("@tools/mail").unwrap(),
        default_name: ServerName::parse("post").unwrap(),
        supplies_secrets: false,
        needs_url: false,
        docs: "https://mail.example/docs".into(),
        spec: Spec {
            auth_type: AuthType::Bearer,
            injections: AuthType::Bearer.injections(&secret, true),
            protocol: Protocol::Http2,
            tls: UpstreamTls {
                server_name: Some("other.example".into()),
                ..Default::default()
            },
            allow_plaintext: true,
            description: "Mail".into(),
            ..Spec::of_url("https://mail.example/v1")
        },
        mcp: true,
    }
}

fn from_entry() -> api::Server {
    api::Server {
        name: "post".into(),
        url: "https://mail.example/v1".into(),
        auth_type: api::AuthType::Bearer.into(),
        protocol: api::Protocol::Http2.into(),
        tls: tls("other.example"),
        allow_plaintext: true,
        description: "Mail".into(),
        ..Default::default()
    }
}

fn tls(server_name: &str) -> Option<api::UpstreamTls> {
    Some(api::UpstreamTls {
        server_name: server_name.into(),
        ..Default::default()
    })
}

#[test]
fn empty_fields_but_suggested_secrets_come_from_the_entry() {
    assert_eq!(complete(api::Server::default(), &entry()).unwrap(), from_entry());
}

fn supplying() -> CatalogEntry {
    CatalogEntry {
        supplies_secrets: true,
        ..entry()
    }
}

#[test]
fn an_entry_supplies_its_secrets_unless_the_request_names_secrets_or_another_auth_type() {
    let bearer = |secrets: &[&str]| api::Server {
        inject_secrets: secrets.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let supplied = |given: api::Server| {
        let server = complete(given, &supplying()).unwrap();
        (server.inject_secrets, server.required_secrets)
    };
    let required = (vec!["SUGGESTED".to_owned()], vec!["SUGGESTED".to_owned()]);
    assert_eq!(supplied(bearer(&[])), required);
    let same_type = api::Server {
        auth_type: api::AuthType::Bearer.into(),
        ..Default::default()
    };
    assert_eq!(supplied(same_type), required);
    let elsewhere = api::Server {
        url: "https://b.example".into(),
        ..Default::default()
    };
    assert_eq!(supplied(elsewhere), required);
    assert_eq!(supplied(bearer(&["MINE"])), (vec!["MINE".to_owned()], vec![]));
    let other_type = api::Server {
        auth_type: api::AuthType::SecretHeaders.into(),
        ..Default::default()
    };
    assert_eq!(supplied(other_type), (vec![], vec![]));
}

#[test]
fn an_entry_supplies_the_places_of_its_secrets() {
    let name = SecretName::parse("KEY").unwrap();
    let injections = vec![
        Injection {
            required: true,
            placement: Placement::Header {
                name: "x-api-key".parse().unwrap(),
                value: Template::of(name.clone()),
            },
        },
        Injection {
            required: true,
            placement: Placement::Path { secret: name },
        },
    ];
    let mut entry = supplying();
    entry.spec.auth_type = AuthType::Custom(ProtobufMessages::First);
    entry.spec.injections = injections;
    let server = complete(api::Server::default(), &entry).unwrap();
    assert_eq!(server.injections, entry.spec.injections_to_wire());
    assert_eq!(server.auth_type(), api::AuthType::Custom);
    assert!(server.inject_secrets.is_empty());

    let elsewhere = api::Server {
        url: "https://b.example".into(),
        ..Default::default()
    };
    let server = complete(elsewhere, &entry).unwrap();
    assert_eq!(
        server.injections,
        entry.spec.injections_to_wire()[..1],
        "without the variable of the entry's URL"
    );

    let own = api::Server {
        injections: entry.spec.injections_to_wire()[..1].to_vec(),
        ..Default::default()
    };
    let server = complete(own.clone(), &supplying()).unwrap();
    assert_eq!(
        (server.auth_type, server.injections, server.inject_secrets),
        (0, own.injections, vec![])
    );
}

#[test]
fn an_entry_whose_host_depends_on_the_customer_needs_a_url() {
    let entry = CatalogEntry {
        needs_url: true,
        ..supplying()
    };
    let with_url = |url: &str| api::Server {
        url: url.into(),
        ..Default::default()
    };
    for url in ["", "https://mail.example/v1"] {
        let Refusal { reason, message } = complete(with_url(url), &entry).unwrap_err();
        assert_eq!(reason, Reason::ServerInvalid);
        assert_eq!(
            message,
            "url: the host of @tools/mail depends on your account; give the server's url (--url), such as \
             https://mail.example/v1"
        );
    }
    let server = complete(with_url("https://mine.example"), &entry).unwrap();
    assert_eq!((server.url.as_str(), server.tls), ("https://mine.example", None));
}

#[test]
fn given_fields_override_the_entry() {
    let given = api::Server {
        workspace: "w".into(),
        name: "other".into(),
        url: "https://b.example".into(),
        auth_type: api::AuthType::SecretHeaders.into(),
        protocol: api::Protocol::Auto.into(),
        tls: tls("c.example"),
        inject_secrets: vec!["A".into(), "B".into()],
        required_secrets: vec!["A".into()],
        allowed_origins: vec!["https://app.example".into()],
        description: "mine".into(),
        ..Default::default()
    };
    assert_eq!(complete(given.clone(), &entry()).unwrap(), given);
    for (given, taken) in [
        (
            api::Server {
                tls: tls("c.example"),
                ..Default::default()
            },
            api::Server {
                tls: tls("c.example"),
                ..from_entry()
            },
        ),
        (
            api::Server {
                tls: Some(api::UpstreamTls::default()),
                ..Default::default()
            },
            api::Server {
                tls: Some(api::UpstreamTls::default()),
                ..from_entry()
            },
        ),
        (
            api::Server {
                auth_type: 99,
                protocol: 99,
                ..Default::default()
            },
            api::Server {
                auth_type: 99,
                protocol: 99,
                ..from_entry()
            },
        ),
    ] {
        assert_eq!(complete(given, &entry()).unwrap(), taken);
    }
}

#[test]
fn the_request_or_the_entry_may_allow_plaintext() {
    let given = |allow_plaintext| api::Server {
        allow_plaintext,
        ..Default::default()
    };
    let mut strict = entry();
    strict.spec.allow_plaintext = false;
    for (given, entry, allowed) in [
        (given(false), strict.clone(), false),
        (given(true), strict, true),
        (given(false), entry(), true),
    ] {
        assert_eq!(complete(given, &entry).unwrap().allow_plaintext, allowed);
    }
}

#[test]
fn another_url_does_not_inherit_the_tls_of_the_entry() {
    let given = api::Server {
        url: "http://b.example".into(),
        inject_secrets: vec!["A".into()],
        ..Default::default()
    };
    let taken = complete(given.clone(), &entry()).unwrap();
    let expected = api::Server {
        url: given.url,
        inject_secrets: given.inject_secrets,
        tls: None,
        allow_plaintext: false,
        ..from_entry()
    };
    assert_eq!(taken, expected);
    let refused = Spec::from_wire(&taken, &OwnListeners::default()).unwrap_err();
    assert_eq!(refused, SpecError::Plaintext);
    assert_eq!(status::spec(refused).reason, Reason::ServerInvalid);
}

fn on_disk(names: &[&str]) -> (TempDir, Catalog) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("catalog.yaml");
    let entries = names
        .iter()
        .map(|name| format!("{{name: '{name}', url: 'https://a.example'}},"));
    let text = format!("version: 1\nservers: [{}]\n", entries.collect::<String>());
    std::fs::write(&path, text).unwrap();
    let catalog = Catalog::open(&path).unwrap();
    (dir, catalog)
}

async fn refused(name: &str, catalog: Option<&Catalog>) -> (Reason, String) {
    let server = api::Server::default();
    let Refusal { reason, message } = complete_from_catalog(&server, name, catalog).await.unwrap_err();
    (reason, message)
}

#[tokio::test]
async fn an_invalid_name_is_refused_also_without_a_catalog() {
    for name in ["github", "@github", "@A/b", "@a/b/c", " "] {
        let (reason, message) = refused(name, None).await;
        assert_eq!(reason, Reason::ServerNameInvalid, "{name}");
        assert!(
            message.starts_with("catalog_entry: ") && message.contains("@SCOPE/NAME"),
            "{message}"
        );
    }
    let server = api::Server {
        name: "as-it-is".into(),
        ..Default::default()
    };
    let begun = complete_from_catalog(&server, "", None).await.unwrap();
    assert_eq!((begun.server.as_ref(), begun.is_mcp), (&server, false));
}

#[tokio::test]
async fn the_error_for_an_unknown_entry_lists_known_entries() {
    assert_eq!(
        refused("@a/b", None).await,
        (
            Reason::CatalogEntryNotFound,
            "catalog_entry: this injector has no catalog (--catalog); give the server's url".into()
        )
    );
    let (_dir, catalog) = on_disk(&["@a/one", "@a/two"]);
    assert_eq!(
        refused("@b/two", Some(&catalog)).await,
        (
            Reason::CatalogEntryNotFound,
            "catalog_entry: there is no @b/two in the catalog; it has @a/two, @a/one".into()
        )
    );
    let many: Vec<_> = (10..25).map(|number| format!("@a/n{number}")).collect();
    let (_dir, catalog) = on_disk(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let (_, message) = refused("@a/b", Some(&catalog)).await;
    assert!(
        message.ends_with(
            "it has @a/n10, @a/n11, @a/n12, @a/n13, @a/n14, @a/n15, @a/n16, @a/n17, @a/n18, @a/n19 and 5 more"
        ),
        "{message}"
    );
    let (_dir, catalog) = on_disk(&[]);
    assert!(refused("@a/b", Some(&catalog)).await.1.ends_with("it has none"));
}
