use jiff::Timestamp;
use proto::{Reason, SecretName, ServerName, Uid, WorkspaceName};

use super::*;

fn given() -> api::Server {
    api::Server {
        url: "https://api.example.com/v1".into(),
        inject_secrets: vec!["github-token".into(), "B".into()],
        required_secrets: vec!["GITHUB.TOKEN".into()],
        ..Default::default()
    }
}

fn parse(server: &api::Server) -> Result<Spec, SpecError> {
    Spec::from_wire(server, &OwnListeners::default())
}

/// Returns the server that a request describes, as if it had just been added.
fn server(given: &api::Server) -> Server {
    Server {
        workspace: WorkspaceName::parse("w").unwrap(),
        name: ServerName::parse("s").unwrap(),
        uid: Uid::generate(),
        revision: 1,
        create_time: Timestamp::UNIX_EPOCH,
        update_time: Timestamp::UNIX_EPOCH,
        workspace_uid: Some(Uid::generate()),
        spec: parse(given).unwrap(),
    }
}

fn refused(server: api::Server) -> Reason {
    crate::status::spec(parse(&server).unwrap_err()).reason
}

#[test]
fn an_absent_field_gets_its_default() {
    let shown = server(&given()).to_wire();
    assert_eq!(shown.auth_type(), api::AuthType::SecretHeaders);
    assert_eq!(shown.protocol(), api::Protocol::Auto);
    assert_eq!(shown.inject_secrets, ["GITHUB_TOKEN", "B"]);
    assert_eq!(shown.required_secrets, ["GITHUB_TOKEN"]);
    assert_eq!((shown.revision, shown.tls), (1, None));
}

#[test]
fn a_server_goes_out_as_it_was_given() {
    let server = api::Server {
        auth_type: api::AuthType::Bearer.into(),
        inject_secrets: vec!["A".into()],
        required_secrets: vec!["A".into()],
        protocol: api::Protocol::Http2.into(),
        tls: Some(api::UpstreamTls {
            ca_pem: String::new(),
            server_name: "x.example".into(),
            allow_bound_secrets: true,
            client_cert_secret: "CLIENT_CERT".into(),
        }),
        allow_plaintext: true,
        allowed_origins: vec!["https://app.example.com".into()],
        description: "for people".into(),
        oauth: api::Oauth::Pass.into(),
        ..given()
    };
    let server_of_request = self::server(&server);
    let first = server_of_request.to_wire();
    let api::Server {
        workspace,
        name,
        uid,
        revision,
        create_time,
        update_time,
        workspace_uid,
        ..
    } = first.clone();
    assert_eq!(
        server_of_request.workspace_uid.map(|uid| uid.to_string()),
        Some(workspace_uid.clone())
    );
    let output = api::Server {
        workspace,
        name,
        uid,
        revision,
        create_time,
        update_time,
        workspace_uid,
        ..server
    };
    assert_eq!(first, output);
    assert_eq!(parse(&first), Ok(server_of_request.spec));
}

#[test]
fn a_skill_names_the_messages_that_get_its_secrets() {
    let skill = |protobuf_secrets_field, messages: api::ProtobufMessages| api::Server {
        auth_type: api::AuthType::Skill.into(),
        protobuf_secrets_field,
        protobuf_messages: messages.into(),
        grpc_methods: match protobuf_secrets_field {
            0 => Vec::new(),
            _ => vec!["pkg.S/M".into()],
        },
        paths: vec!["/run".into()],
        ..given()
    };
    for (field, messages, expected) in [
        (
            0,
            api::ProtobufMessages::Unspecified,
            api::ProtobufMessages::Unspecified,
        ),
        (
            0,
            api::ProtobufMessages::First,
            api::ProtobufMessages::Unspecified,
        ),
        (
            7,
            api::ProtobufMessages::Unspecified,
            api::ProtobufMessages::First,
        ),
        (7, api::ProtobufMessages::All, api::ProtobufMessages::All),
    ] {
        let server = server(&skill(field, messages));
        let shown = server.to_wire();
        assert_eq!(
            (shown.protobuf_secrets_field, shown.protobuf_messages()),
            (field, expected)
        );
        assert_eq!(parse(&shown), Ok(server.spec));
    }
}

#[test]
fn an_invalid_server_is_refused_with_its_reason() {
    for (server, reason) in [
        (api::Server::default(), Reason::ServerInvalid),
        (
            api::Server {
                url: "ftp://a.example".into(),
                ..given()
            },
            Reason::ServerInvalid,
        ),
        (
            api::Server {
                url: "http://a.example".into(),
                ..given()
            },
            Reason::ServerInvalid,
        ),
        (
            api::Server {
                url: "https://169.254.169.254".into(),
                ..given()
            },
            Reason::UpstreamAddressRefused,
        ),
        (
            api::Server {
                auth_type: 5,
                ..given()
            },
            Reason::RequestMalformed,
        ),
        (
            api::Server {
                auth_type: -1,
                ..given()
            },
            Reason::RequestMalformed,
        ),
        (
            api::Server {
                auth_type: api::AuthType::Bearer.into(),
                ..given()
            },
            Reason::ServerInvalid,
        ),
        (
            api::Server {
                protocol: 4,
                ..given()
            },
            Reason::RequestMalformed,
        ),
        (
            api::Server {
                protobuf_secrets_field: 1,
                ..given()
            },
            Reason::ServerInvalid,
        ),
        (
            api::Server {
                auth_type: api::AuthType::Skill.into(),
                protobuf_secrets_field: 19_000,
                ..given()
            },
            Reason::ServerInvalid,
        ),
        (
            api::Server {
                auth_type: api::AuthType::Skill.into(),
                protobuf_messages: api::ProtobufMessages::All.into(),
                ..given()
            },
            Reason::ServerInvalid,
        ),
        (
            api::Server {
                auth_type: api::AuthType::Skill.into(),
                protobuf_secrets_field: 7,
                ..given()
            },
            Reason::ServerInvalid,
        ),
        (
            api::Server {
                paths: vec!["/run".into()],
                ..given()
            },
            Reason::ServerInvalid,
        ),
        (api::Server { oauth: 3, ..given() }, Reason::RequestMalformed),
        (
            api::Server {
                protobuf_messages: 3,
                ..given()
            },
            Reason::RequestMalformed,
        ),
        (
            api::Server {
                inject_secrets: vec!["_".into()],
                ..given()
            },
            Reason::SecretNameInvalid,
        ),
        (
            api::Server {
                inject_secrets: vec!["a".into(), "A".into()],
                ..given()
            },
            Reason::SecretNameDuplicate,
        ),
        (
            api::Server {
                required_secrets: vec!["B".into(), "b".into()],
                ..given()
            },
            Reason::SecretNameDuplicate,
        ),
        (
            api::Server {
                required_secrets: vec!["C".into()],
                ..given()
            },
            Reason::ServerInvalid,
        ),
        (
            api::Server {
                allowed_origins: vec!["*".into()],
                ..given()
            },
            Reason::OriginInvalid,
        ),
        (
            api::Server {
                description: "x".repeat(1025),
                ..given()
            },
            Reason::ServerInvalid,
        ),
        (
            api::Server {
                tls: Some(api::UpstreamTls {
                    ca_pem: "none".into(),
                    ..Default::default()
                }),
                ..given()
            },
            Reason::ServerInvalid,
        ),
    ] {
        let shown = format!("{server:?}");
        assert_eq!(refused(server), reason, "{shown}");
    }
}

#[test]
fn a_required_secret_must_be_injected() {
    let server = api::Server {
        required_secrets: vec!["x".into()],
        ..given()
    };
    let stray = SecretName::parse("X").unwrap();
    assert_eq!(parse(&server), Err(SpecError::RequiredNotInjected(stray)));
}

#[test]
fn times_before_1970_count_their_nanoseconds_forward() {
    for (text, seconds, nanos) in [
        ("1970-01-01T00:00:01.25Z", 1, 250_000_000),
        ("1969-12-31T23:59:59.75Z", -1, 750_000_000),
        ("1969-12-31T23:59:59Z", -1, 0),
    ] {
        assert_eq!(
            timestamp(text.parse().unwrap()),
            prost_types::Timestamp { seconds, nanos },
            "{text}"
        );
    }
}

/// Comparing two lists costs time in proportion to the product of their lengths, and a request may have a megabyte of names.
#[test]
fn lists_of_too_many_secrets_are_refused_before_they_are_compared() {
    let names = |count: usize| (0..count).map(|number| format!("N{number}")).collect::<Vec<_>>();
    for (inject_secrets, required_secrets) in [
        (names(MAX_SECRETS + 1), vec!["STRAY".to_owned()]),
        (names(1), names(MAX_SECRETS + 1)),
    ] {
        let server = api::Server {
            inject_secrets,
            required_secrets,
            ..given()
        };
        assert_eq!(parse(&server).err(), Some(SpecError::TooManySecrets));
    }
}
