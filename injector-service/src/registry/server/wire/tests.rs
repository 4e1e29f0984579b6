use jiff::Timestamp;
use proto::{Reason, SecretName, ServerName, Uid, WorkspaceName};

use super::*;
use crate::registry::server::error::InjectionError;
use api::injection::Placement;

fn injection(required: bool, placement: Placement) -> api::Injection {
    api::Injection {
        required,
        placement: Some(placement),
    }
}

fn header(name: &str, value: &str) -> api::Injection {
    let (name, value) = (name.into(), value.into());
    injection(false, Placement::Header(api::HeaderPlacement { name, value }))
}

fn cookie(name: &str, value: &str) -> api::Injection {
    let (name, value) = (name.into(), value.into());
    injection(false, Placement::Cookie(api::CookiePlacement { name, value }))
}

fn basic(username: &str, password: &str) -> api::Injection {
    let (username, password) = (username.into(), password.into());
    injection(true, Placement::Basic(api::BasicPlacement { username, password }))
}

/// Returns a server whose injections name their places.
fn custom(injections: Vec<api::Injection>) -> api::Server {
    api::Server {
        url: given().url,
        injections,
        ..Default::default()
    }
}

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
        injections: vec![injection(
            true,
            Placement::Header(api::HeaderPlacement {
                name: "authorization".into(),
                value: "Bearer ${A}".into(),
            }),
        )],
        scrub: api::Scrub::All.into(),
        on_echo: api::OnEcho::Block.into(),
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

#[test]
fn a_server_with_injections_is_shown_in_both_views_and_can_be_sent_back() {
    let given = custom(vec![
        basic("me", "${api-key}"),
        header("x-extra", "a${B}b$$${API_KEY}"),
        cookie("session", "${C}"),
    ]);
    let server = server(&given);
    let shown = server.to_wire();
    assert_eq!(shown.auth_type(), api::AuthType::Custom);
    assert_eq!(shown.inject_secrets, ["API_KEY", "B", "C"]);
    assert_eq!(shown.required_secrets, ["API_KEY"]);
    let injections = vec![
        basic("me", "${API_KEY}"),
        header("x-extra", "a${B}b$$${API_KEY}"),
        cookie("session", "${C}"),
    ];
    assert_eq!(shown.injections, injections);
    assert_eq!(
        (shown.scrub(), shown.on_echo()),
        (api::Scrub::Headers, api::OnEcho::Mask)
    );
    assert_eq!(parse(&shown), Ok(server.spec));
    for (field, changed) in [
        (
            "inject_secrets",
            api::Server {
                inject_secrets: vec!["B".into(), "API_KEY".into(), "C".into()],
                ..shown.clone()
            },
        ),
        (
            "required_secrets",
            api::Server {
                required_secrets: vec!["B".into()],
                ..shown.clone()
            },
        ),
    ] {
        assert_eq!(parse(&changed), Err(SpecError::SecretsOfInjections(field)));
    }
    let spelled = api::Server {
        inject_secrets: vec!["api.key".into(), "b".into(), "c".into()],
        ..shown
    };
    assert!(parse(&spelled).is_ok());
}

#[test]
fn a_short_form_is_shown_with_its_places() {
    for (auth_type, expected) in [
        (
            api::AuthType::SecretHeaders,
            vec![header("x-mcp-secret-a-b", "${A_B}")],
        ),
        (
            api::AuthType::Bearer,
            vec![header("authorization", "Bearer ${A_B}")],
        ),
        (
            api::AuthType::Skill,
            vec![injection(
                false,
                Placement::Json(api::JsonPlacement {
                    pointer: "/secrets/A_B".into(),
                    value: "${A_B}".into(),
                }),
            )],
        ),
    ] {
        let given = api::Server {
            auth_type: auth_type.into(),
            inject_secrets: vec!["a-b".into()],
            required_secrets: Vec::new(),
            ..given()
        };
        let server = server(&given);
        let shown = server.to_wire();
        assert_eq!(shown.injections, expected);
        assert_eq!(parse(&shown), Ok(server.spec));
        let other = api::Server {
            injections: vec![header("x-other", "${A_B}")],
            ..given
        };
        assert_eq!(
            parse(&other),
            Err(SpecError::InjectionsOfShortForm),
            "{auth_type:?}"
        );
    }
}

#[test]
fn a_wrong_injection_is_refused_with_its_number() {
    let good = || header("x-good", "${A}");
    for (wrong, error) in [
        (api::Injection::default(), InjectionError::NoPlace),
        (header("x key", "${A}"), InjectionError::HeaderName),
        (header("Host", "${A}"), InjectionError::ReservedHeader),
        (header("x-key", "constant"), InjectionError::NoSecret),
        (header("x-key", " ${A}"), InjectionError::OuterSpace),
        (basic("a:b", "${A}"), InjectionError::UsernameColon),
        (basic("", ""), InjectionError::NoSecret),
        (cookie("a b", "${A}"), InjectionError::CookieName),
        (cookie("a", "${A};"), InjectionError::CookieText),
    ] {
        let refused = parse(&custom(vec![good(), wrong]));
        assert_eq!(refused, Err(SpecError::Injection(2, error)));
    }
    let refused = parse(&custom(vec![header("x-key", "${A"), good()])).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("injections: number 1: header.value: the template has a $"),
        "{refused}"
    );
    assert_eq!(crate::status::spec(refused).reason, Reason::ServerInvalid);
    let refused = parse(&custom(vec![header("x-key", "${_}")])).unwrap_err();
    assert_eq!(crate::status::spec(refused).reason, Reason::SecretNameInvalid);
}

#[test]
fn two_injections_into_one_place_are_refused() {
    for (one, other) in [
        (header("x-key", "${A}"), header("X_Key", "${B}")),
        (header("Authorization", "${A}"), basic("", "${B}")),
        (cookie("session", "${A}"), cookie("session", "${B}")),
    ] {
        let refused = parse(&custom(vec![header("x-good", "${A}"), one, other]));
        assert_eq!(refused, Err(SpecError::SamePlace(2, 3)));
    }
}

#[test]
fn a_server_has_a_limited_number_of_injections_and_at_least_one() {
    let many = |count| custom((0..count).map(|n| header(&format!("x-{n}"), "${A}")).collect());
    assert!(parse(&many(64)).is_ok());
    assert_eq!(parse(&many(65)), Err(SpecError::TooManyInjections));
    assert_eq!(parse(&many(10_000)), Err(SpecError::TooManyInjections));
    let none = api::Server {
        auth_type: api::AuthType::Custom.into(),
        ..many(0)
    };
    assert_eq!(parse(&none), Err(SpecError::CustomWithoutInjections));
    let eight = |n: usize| (0..8).map(|m| format!("${{S{}}}", 8 * n + m)).collect::<String>();
    let secrets = |count| custom((0..count).map(|n| header(&format!("x-{n}"), &eight(n))).collect());
    assert!(parse(&secrets(8)).is_ok());
    assert_eq!(parse(&secrets(9)), Err(SpecError::TooManySecrets));
}

#[test]
fn fields_about_bodies_are_refused_for_injections_into_heads() {
    for (server, error) in [
        (
            api::Server {
                paths: vec!["/run".into()],
                ..custom(vec![basic("", "${A}")])
            },
            SpecError::PathsWithoutSkill,
        ),
        (
            api::Server {
                grpc_methods: vec!["S/M".into()],
                ..custom(vec![basic("", "${A}")])
            },
            SpecError::GrpcMethodsWithoutField,
        ),
        (
            api::Server {
                protobuf_messages: api::ProtobufMessages::All.into(),
                ..custom(vec![basic("", "${A}")])
            },
            SpecError::ProtobufMessages,
        ),
        (
            api::Server {
                protobuf_secrets_field: 7,
                ..custom(vec![basic("", "${A}")])
            },
            SpecError::ProtobufWithoutSkill,
        ),
    ] {
        assert_eq!(parse(&server), Err(error));
    }
}

fn query(name: &str, value: &str) -> api::Injection {
    let (name, value) = (name.into(), value.into());
    injection(true, Placement::Query(api::QueryPlacement { name, value }))
}

fn path(variable: &str) -> api::Injection {
    let variable = variable.into();
    injection(true, Placement::Path(api::PathPlacement { variable }))
}

#[test]
fn an_origin_with_a_wildcard_is_refused_unless_it_is_stored() {
    let with = |origins: &[&str]| {
        let allowed_origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        parse(&api::Server {
            allowed_origins,
            ..given()
        })
        .unwrap()
    };
    let (wild, other) = (with(&["https://*.example.com"]), with(&["https://a.example.com"]));
    for (spec, before, accepted) in [
        (&wild, None, false),
        (&wild, Some(&other), false),
        (&wild, Some(&wild), true),
        (&other, Some(&wild), true),
        (&other, None, true),
    ] {
        assert_eq!(spec.check_wildcard_origins(before).is_ok(), accepted);
    }
    let number = with(&["https://a.example.com", "https://*.example.com"]).check_wildcard_origins(None);
    assert!(matches!(number, Err(SpecError::WebOrigin(2))));
}

#[test]
fn secrets_in_the_url_are_injections() {
    let url = "https://api.example.com/bot${token}/x?v=1&key=a${KEY}";
    let with_url = |injections| api::Server {
        url: url.into(),
        ..custom(injections)
    };
    let all = [header("x-key", "${B}"), path("TOKEN"), query("key", "a${KEY}")];
    let server = server(&with_url(vec![header("x-key", "${B}")]));
    let shown = server.to_wire();
    assert_eq!(shown.injections, all);
    assert_eq!(shown.required_secrets, ["TOKEN", "KEY"]);
    assert_eq!(parse(&shown), Ok(server.spec));
    // The injections in the URL may be listed as well, and are required then too.
    let listed = with_url(vec![
        api::Injection {
            required: false,
            ..path("token")
        },
        api::Injection {
            required: false,
            ..query("key", "a${key}")
        },
        header("x-key", "${B}"),
    ]);
    assert_eq!(self::server(&listed).to_wire().injections, all);
    assert_eq!(self::server(&with_url(vec![])).to_wire().injections, all[1..]);

    for (refused, error) in [
        (
            with_url(vec![path("OTHER")]),
            SpecError::Injection(1, InjectionError::NoPathVariable),
        ),
        (
            with_url(vec![query("v", "${A}")]),
            SpecError::Injection(1, InjectionError::FixedParameter),
        ),
        (with_url(vec![query("KEY", "${A}")]), SpecError::SamePlace(1, 3)),
        (
            custom(vec![path("A")]),
            SpecError::Injection(1, InjectionError::NoPathVariable),
        ),
        (
            api::Server {
                auth_type: api::AuthType::SecretHeaders.into(),
                ..with_url(vec![])
            },
            SpecError::UrlVariable,
        ),
        (
            api::Server {
                inject_secrets: vec!["A".into()],
                ..with_url(vec![])
            },
            SpecError::UrlVariable,
        ),
    ] {
        assert_eq!(parse(&refused), Err(error));
    }
}

fn json(pointer: &str, value: &str) -> api::Injection {
    let (pointer, value) = (pointer.into(), value.into());
    injection(false, Placement::Json(api::JsonPlacement { pointer, value }))
}

fn form(field: &str, value: &str) -> api::Injection {
    let (field, value) = (field.into(), value.into());
    injection(false, Placement::Form(api::FormPlacement { field, value }))
}

#[test]
fn injections_into_bodies_may_be_limited_to_paths() {
    let given = api::Server {
        paths: vec!["/run".into()],
        ..custom(vec![json("/params/_meta/token", "${A}"), form("token", "x${A}")])
    };
    let server = server(&given);
    let shown = server.to_wire();
    assert_eq!(
        (&shown.injections, &shown.paths),
        (&given.injections, &given.paths)
    );
    assert_eq!(parse(&shown), Ok(server.spec));
    for (wrong, error) in [
        (
            vec![json("token", "${A}")],
            "injections: number 1: json.pointer: the pointer does not begin with /",
        ),
        (
            vec![form("", "${A}")],
            "injections: number 1: form.field: it must have",
        ),
        (
            vec![form("a", "${A}"), form("A[b]", "${B}")],
            "injections: numbers 1 and 2 have the same place",
        ),
        (
            vec![json("/a", "${A}"), json("/A/b", "${B}")],
            "injections: numbers 1 and 2 have the same place",
        ),
    ] {
        let refused = parse(&custom(wrong)).unwrap_err().to_string();
        assert!(refused.starts_with(error), "{refused}");
    }
}

fn protobuf(field: u32, key: &str, value: &str) -> api::Injection {
    let (key, value) = (key.into(), value.into());
    injection(
        false,
        Placement::Protobuf(api::ProtobufPlacement { field, key, value }),
    )
}

/// Returns a server with injections into the messages of one method.
fn in_messages(injections: Vec<api::Injection>) -> api::Server {
    api::Server {
        grpc_methods: vec!["S/M".into()],
        ..custom(injections)
    }
}

#[test]
fn injections_into_messages_have_a_field_and_a_key() {
    let given = api::Server {
        protobuf_messages: api::ProtobufMessages::All.into(),
        ..in_messages(vec![
            protobuf(7, "", "Bearer ${api-key}"),
            protobuf(7, "B", "${A}${B}"),
            protobuf(8, "B", "${B}"),
        ])
    };
    let server = server(&given);
    let shown = server.to_wire();
    assert_eq!(shown.injections[0], protobuf(7, "API_KEY", "Bearer ${API_KEY}"));
    assert_eq!(shown.injections[1..], given.injections[1..]);
    assert_eq!(shown.protobuf_messages(), api::ProtobufMessages::All);
    assert_eq!(shown.grpc_methods, ["S/M"]);
    assert_eq!(parse(&shown), Ok(server.spec));
    // The first message is the default.
    let shown = self::server(&in_messages(vec![protobuf(7, "A", "${A}")])).to_wire();
    assert_eq!(shown.protobuf_messages(), api::ProtobufMessages::First);
    assert_eq!(shown.protobuf_secrets_field, 0);
}

#[test]
fn wrong_injections_into_messages_are_refused() {
    for (wrong, error) in [
        (
            in_messages(vec![protobuf(19_000, "A", "${A}")]),
            "injections: number 1: protobuf.field: the number of a field",
        ),
        (
            in_messages(vec![protobuf(7, "", "${A}${B}")]),
            "injections: number 1: protobuf.key: its template names several secrets",
        ),
        (
            in_messages(vec![protobuf(7, "", "constant")]),
            "injections: number 1: its template names no secret",
        ),
        (
            in_messages(vec![protobuf(7, &"k".repeat(257), "${A}")]),
            "injections: number 1: protobuf.key: it must have",
        ),
        (
            in_messages(vec![protobuf(7, "A", "${B}"), protobuf(7, "", "${a}")]),
            "injections: numbers 1 and 2 have the same place",
        ),
        (
            custom(vec![protobuf(7, "A", "${A}")]),
            "grpc_methods: a protobuf_secrets_field needs the methods",
        ),
        (
            api::Server {
                protobuf_secrets_field: 7,
                ..in_messages(vec![protobuf(7, "A", "${A}")])
            },
            "protobuf_secrets_field: only the auth type skill",
        ),
        (
            api::Server {
                grpc_methods: vec!["grpc.health.v1.Health/Check".into()],
                ..custom(vec![protobuf(7, "A", "${A}")])
            },
            "grpc_methods: number 1: gRPC reflection and health",
        ),
    ] {
        let refused = parse(&wrong).unwrap_err().to_string();
        assert!(refused.starts_with(error), "{refused}");
    }
}
