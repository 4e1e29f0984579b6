use proto::{OriginPattern, Reason, ServerName, Uid, WorkspaceName, vault::v1::ValueFacts};

use super::*;
use crate::{address::OwnListeners, registry::server::Spec};

fn given() -> api::Server {
    api::Server {
        url: "https://api.example.com/v1".into(),
        inject_secrets: vec!["github-token".into(), "B".into()],
        required_secrets: vec!["GITHUB.TOKEN".into()],
        ..Default::default()
    }
}

fn entry(server: &api::Server) -> Entry {
    let spec = Spec::from_wire(server, &OwnListeners::default()).unwrap();
    let (workspace, name) = (
        WorkspaceName::parse("w").unwrap(),
        ServerName::parse("s").unwrap(),
    );
    Entry::added(workspace, name, Uid::generate(), spec)
}

fn explain(entry: &Entry, checked: &[SecretState]) -> api::ExplainInjectionResponse {
    super::explain(entry, checked, |injection| injection.required)
}

fn found(origins: &[&str]) -> SecretState {
    let origins = origins
        .iter()
        .map(|origin| OriginPattern::parse(origin).unwrap())
        .collect();
    SecretState::Found {
        version: 3,
        origins,
        facts: Some(ValueFacts::of(b"value")),
    }
}

/// Returns the state of a secret that may be sent anywhere and has this value.
fn valued(value: &[u8]) -> SecretState {
    let mut checked = found(&[]);
    if let SecretState::Found { facts, .. } = &mut checked {
        *facts = Some(ValueFacts::of(value));
    }
    checked
}

#[test]
fn a_value_that_does_not_fit_its_place_is_explained_as_such() {
    use api::AuthType::{Bearer, SecretHeaders, Skill};
    for (auth_type, name, value, state) in [
        (SecretHeaders, "A", b"tok".as_slice(), State::Injected),
        (SecretHeaders, "A", b"tok\n", State::Unfit),
        (Bearer, "A", b"two\nlines", State::Unfit),
        (Skill, "A", b"two\nlines\n", State::Injected),
        (Skill, "A", b"\xff", State::Unfit),
        // A name that ends in `_BIN` becomes binary metadata in gRPC calls.
        (SecretHeaders, "A_BIN", b"\xff\n", State::Injected),
        (SecretHeaders, "A_BIN", &[0xff; 6145], State::Unfit),
        (SecretHeaders, "A_BIN", &[b'x'; 6145], State::Injected),
    ] {
        let server = api::Server {
            auth_type: auth_type.into(),
            inject_secrets: vec![name.into()],
            required_secrets: Vec::new(),
            ..given()
        };
        let explained = explain(&entry(&server), &[valued(value)]);
        let secret = &explained.secrets[0];
        assert_eq!(secret.state(), state, "{auth_type:?} {value:?}");
        assert_eq!(explained.would_forward, state == State::Injected);
        assert_eq!(
            secret.detail.is_empty(),
            state == State::Injected,
            "{}",
            secret.detail
        );
    }
    let expired = explain(&entry(&given()), &[found(&[]), SecretState::Expired]);
    assert_eq!(expired.secrets[1].state(), State::Expired);
    // The first is required, the second is not.
    assert!(expired.would_forward);
    assert!(!explain(&entry(&given()), &[SecretState::Expired, found(&[])]).would_forward);
}

#[test]
fn an_explanation_says_where_each_secret_goes_and_whether_the_call_goes_out() {
    let states = |first: SecretState, second: SecretState| {
        let explained = explain(&entry(&given()), &[first, second]);
        let states: Vec<_> = explained
            .secrets
            .iter()
            .map(|secret| (secret.state(), secret.version))
            .collect();
        (states, explained.would_forward)
    };
    for (first, second, expected) in [
        (
            found(&[]),
            found(&["https://*.example.com"]),
            ([(State::Injected, 3), (State::Injected, 3)], true),
        ),
        // The first is required, the second is not.
        (
            found(&[]),
            SecretState::Missing,
            ([(State::Injected, 3), (State::Missing, 0)], true),
        ),
        (
            SecretState::Missing,
            found(&[]),
            ([(State::Missing, 0), (State::Injected, 3)], false),
        ),
        (
            found(&[]),
            found(&["https://b.example"]),
            ([(State::Injected, 3), (State::OriginRefused, 3)], false),
        ),
        (
            found(&[]),
            SecretState::Unreadable,
            ([(State::Injected, 3), (State::Unreadable, 0)], false),
        ),
    ] {
        assert_eq!(states(first, second), (expected.0.to_vec(), expected.1));
    }
    assert!(
        !explain(&entry(&given()), &[found(&[])]).would_forward,
        "the vault said too little"
    );
    assert!(
        explain(
            &entry(&api::Server {
                url: given().url,
                ..Default::default()
            }),
            &[]
        )
        .would_forward
    );
}

#[test]
fn an_explanation_names_the_place() {
    for (auth_type, protobuf_secrets_field, paths, place) in [
        (
            api::AuthType::SecretHeaders,
            0,
            &[][..],
            "header x-mcp-secret-a-b",
        ),
        (api::AuthType::Bearer, 0, &[], "header authorization: Bearer"),
        (api::AuthType::Skill, 0, &[], "body member secrets.A_B"),
        (
            api::AuthType::Skill,
            0,
            &["/run", "/tools/*"],
            "body member secrets.A_B, of /run, /tools/*",
        ),
        (
            api::AuthType::Skill,
            7,
            &["/run"],
            "body member secrets.A_B, of /run; in gRPC message field 7 entry A_B, of pkg.S/M, pkg.T/*",
        ),
    ] {
        let grpc_methods = match protobuf_secrets_field {
            0 => Vec::new(),
            _ => vec!["pkg.S/M".to_owned(), "pkg.T/*".to_owned()],
        };
        let server = api::Server {
            auth_type: auth_type.into(),
            protobuf_secrets_field,
            grpc_methods,
            paths: paths.iter().map(ToString::to_string).collect(),
            inject_secrets: vec!["a-b".into()],
            url: given().url,
            ..Default::default()
        };
        let explained = explain(&entry(&server), &[found(&[])]).secrets;
        assert_eq!(
            explained.first().map(|secret| secret.placement.as_str()),
            Some(place)
        );
    }
}

#[test]
fn a_server_whose_own_tls_is_not_allowed_for_bound_secrets_is_refused() {
    let tls = |allow_bound_secrets| {
        Some(api::UpstreamTls {
            server_name: "other.example.com".into(),
            allow_bound_secrets,
            ..Default::default()
        })
    };
    let entry_with = |tls| entry(&api::Server { tls, ..given() });
    let bound = [found(&[]), found(&["https://*.example.com"])];
    let doubtful = entry_with(tls(false));
    let refusal = check_bindings(&doubtful, &bound).unwrap_err();
    assert_eq!(refusal.reason, Reason::UpstreamNotVerified);
    assert!(
        refusal.message.contains("secret B ") && refusal.message.contains("tls.allow_bound_secrets"),
        "{refusal}"
    );
    let explained = explain(&doubtful, &bound);
    assert_eq!(
        explained.secrets.last().map(api::ExplainedSecret::state),
        Some(State::UpstreamNotVerified)
    );
    assert!(!explained.would_forward);
    for fine in [entry_with(tls(true)), entry_with(None)] {
        assert_eq!(check_bindings(&fine, &bound), Ok(()));
        assert!(explain(&fine, &bound).would_forward);
    }
    assert_eq!(check_bindings(&doubtful, &[found(&[]), found(&[])]), Ok(()));
}

#[test]
fn a_server_is_refused_when_a_secret_is_bound_to_other_origins() {
    let entry = entry(&given());
    let refusal = check_bindings(&entry, &[found(&[]), found(&["https://b.example"])]).unwrap_err();
    assert_eq!(refusal.reason, Reason::SecretNotForThisUpstream);
    assert!(refusal.message.contains("secret B "), "{refusal}");
    let fine = [found(&["https://api.example.com"]), SecretState::Missing];
    assert_eq!(check_bindings(&entry, &fine), Ok(()));
    assert_eq!(check_bindings(&entry, &[SecretState::Unreadable]), Ok(()));
}

#[test]
fn an_explanation_includes_the_client_certificate() {
    let server = api::Server {
        tls: Some(api::UpstreamTls {
            client_cert_secret: "client-cert".into(),
            ..Default::default()
        }),
        inject_secrets: Vec::new(),
        required_secrets: Vec::new(),
        ..given()
    };
    let entry = entry(&server);
    let pem = b"-----BEGIN CERTIFICATE-----\n...";
    for (checked, state, would_forward) in [
        (valued(pem), State::Injected, true),
        (valued(b"one line\n"), State::Unfit, false),
        (SecretState::Missing, State::Missing, false),
        (SecretState::Expired, State::Expired, false),
        (SecretState::Unreadable, State::Unreadable, false),
        (found(&["https://b.example"]), State::OriginRefused, false),
    ] {
        let explained = explain(&entry, &[checked]);
        let [secret] = explained.secrets.as_slice() else {
            panic!("{explained:?}")
        };
        assert_eq!((secret.name.as_str(), secret.state()), ("CLIENT_CERT", state));
        assert_eq!(secret.placement, "client certificate of the TLS connection");
        assert!(secret.required);
        assert_eq!(explained.would_forward, would_forward, "{state:?}");
    }
    assert!(!explain(&entry, &[]).would_forward, "the vault said too little");
    let refusal = check_bindings(&entry, &[found(&["https://b.example"])]).unwrap_err();
    assert_eq!(refusal.reason, Reason::SecretNotForThisUpstream);
}

fn custom(placement: api::injection::Placement) -> api::Injection {
    api::Injection {
        required: false,
        placement: Some(placement),
    }
}

fn basic(username: &str, password: &str) -> api::Injection {
    custom(api::injection::Placement::Basic(api::BasicPlacement {
        username: username.into(),
        password: password.into(),
    }))
}

fn header(name: &str, value: &str) -> api::Injection {
    custom(api::injection::Placement::Header(api::HeaderPlacement {
        name: name.into(),
        value: value.into(),
    }))
}

#[test]
fn an_explanation_has_an_entry_for_each_secret_of_each_injection() {
    let server = api::Server {
        url: given().url,
        injections: vec![
            header("x-api-key", "Key ${a}"),
            basic("${EMAIL}", "${a}"),
            api::Injection {
                required: true,
                ..header("x-both", "${EMAIL} ${EMAIL}")
            },
        ],
        ..Default::default()
    };
    // The states are those of `A` and of `EMAIL`.
    let explained = explain(&entry(&server), &[valued(b"secret"), valued(b"me:example")]);
    let secrets: Vec<_> = explained
        .secrets
        .iter()
        .map(|secret| {
            (
                secret.name.as_str(),
                secret.placement.as_str(),
                secret.required,
                secret.state(),
            )
        })
        .collect();
    assert_eq!(
        secrets,
        [
            ("A", "header x-api-key: Key ${A}", false, State::Injected),
            ("EMAIL", "basic authentication", true, State::Unfit),
            ("A", "basic authentication", false, State::Injected),
            ("EMAIL", "header x-both: ${EMAIL} ${EMAIL}", true, State::Injected),
        ]
    );
    assert!(!explained.would_forward);
    assert!(
        !explain(&entry(&server), &[found(&[])]).would_forward,
        "the vault said too little"
    );
    let missing = explain(&entry(&server), &[SecretState::Missing, found(&[])]);
    assert!(missing.would_forward);
    let missing = explain(&entry(&server), &[found(&[]), SecretState::Missing]);
    assert!(!missing.would_forward);
}

#[test]
fn a_value_that_is_too_short_to_be_scrubbed_is_noted() {
    for (value, scrub, noted) in [
        (b"1234567".as_slice(), api::Scrub::Unspecified, true),
        (b"1234567", api::Scrub::All, true),
        (b"1234567", api::Scrub::Off, false),
        (b"12345678", api::Scrub::Headers, false),
        (b"tok\n", api::Scrub::Headers, false),
    ] {
        let server = api::Server {
            inject_secrets: vec!["A".into()],
            required_secrets: Vec::new(),
            scrub: scrub.into(),
            ..given()
        };
        let explained = explain(&entry(&server), &[valued(value)]);
        assert_eq!(
            explained.secrets[0].note.contains("fewer than 8 bytes"),
            noted,
            "{value:?}"
        );
    }
}

fn states(injections: &[api::Injection], url: &str, values: &[&[u8]]) -> (Vec<State>, Vec<String>) {
    let server = api::Server {
        url: url.into(),
        injections: injections.to_vec(),
        ..Default::default()
    };
    let states: Vec<_> = values.iter().map(|value| valued(value)).collect();
    let secrets = explain(&entry(&server), &states).secrets;
    secrets
        .into_iter()
        .map(|secret| (secret.state(), secret.detail))
        .unzip()
}

#[test]
fn values_that_are_together_too_long_for_their_place_are_explained() {
    let (injected, unfit) = (vec![State::Injected; 2], vec![State::Unfit; 2]);
    let (half, more, binary) = (&[b'x'; 4096][..], &[b'x'; 4097][..], &[0xff; 3073][..]);
    let cookie = custom(api::injection::Placement::Cookie(api::CookiePlacement {
        name: "c".into(),
        value: "${A}-${B}".into(),
    }));
    for (place, a, b, expected) in [
        (header("x-key", "long text ${A}${B}"), half, half, &injected),
        (header("x-key", "${A}${B}"), half, more, &unfit),
        (basic("${A}", "${B}"), half, half, &injected),
        (basic("${A}", "${B}"), half, more, &unfit),
        (cookie.clone(), half, half, &injected),
        (cookie, half, more, &unfit),
        // Values that only gRPC calls can carry are base64.
        (header("x-key-bin", "${A}${B}"), half, half, &injected),
        (header("x-key-bin", "${A}${B}"), half, more, &unfit),
        (
            header("x-key-bin", "${A}${B}"),
            &binary[..3072],
            &binary[..3072],
            &injected,
        ),
        (header("x-key-bin", "${A}${B}"), binary, &binary[..3072], &unfit),
    ] {
        let (states, details) = states(std::slice::from_ref(&place), &given().url, &[a, b]);
        assert_eq!(&states, expected, "{place:?}");
        let is_explained = |detail: &String| detail.contains("A and B have together more than");
        assert!(
            *expected != unfit || details.iter().all(is_explained),
            "{details:?}"
        );
    }
    let twice = header("x-key", "${A}${A}");
    assert_eq!(states(&[twice], &given().url, &[more]).0, [State::Unfit]);
    // An injection with a missing secret is left out.
    let server = api::Server {
        url: given().url,
        injections: vec![header("x-key", "${A}${A}${B}")],
        ..Default::default()
    };
    let explained = explain(&entry(&server), &[valued(more), SecretState::Missing]);
    assert_eq!(explained.secrets[0].state(), State::Injected);
    assert!(explained.would_forward);
}

#[test]
fn values_that_no_url_can_hold_are_explained() {
    let eight = (0..8).map(|n| format!("${{S{n}}}")).collect::<String>();
    let url = format!("https://api.example.com/x?k={eight}");
    let long = [b'x'; 8192];
    let (states_of_eight, details) = states(&[], &url, &[&long[..]; 8]);
    assert_eq!(states_of_eight, [State::Unfit; 8]);
    assert!(details[0].contains("more than 65534 bytes"), "{details:?}");
    let (states_of_eight, _) = states(&[], &url, &[&long[..8000]; 8]);
    assert_eq!(states_of_eight, [State::Injected; 8]);
}

#[test]
fn a_value_of_dots_in_a_path_is_explained() {
    for (value, state) in [
        (b".".as_slice(), State::Unfit),
        (b"..", State::Unfit),
        (b"..a", State::Injected),
    ] {
        for url in [
            "https://api.example.com/${A}/x",
            "https://api.example.com/bot${A}",
        ] {
            assert_eq!(states(&[], url, &[value]).0, [state], "{url}");
        }
    }
}
