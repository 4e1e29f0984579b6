use proto::{SecretName, SecretValue, value_facts::MAX_HEADER_VALUE};
use zeroize::Zeroizing;

use super::*;
use crate::placement::FieldNumber;

/// A secret of a server with its injections.
struct Given {
    injections: Vec<Injection>,
    name: SecretName,
    value: Option<&'static [u8]>,
}

fn request_secrets(
    auth_type: AuthType,
    dialect: Dialect,
    secrets: &[Given],
) -> Result<RequestSecrets<'_>, Refusal> {
    let injections = secrets.iter().flat_map(|given| given.injections.clone());
    let injections: &[Injection] = injections.collect::<Vec<_>>().leak();
    let parse = |value: &[u8]| SecretValue::parse(Zeroizing::new(value.to_vec())).unwrap();
    let resolved = secrets.iter().map(|given| ResolvedSecret {
        name: &given.name,
        value: given.value.map(parse),
    });
    let body = BodyPlacement::of(auth_type, injections, dialect, false)?;
    let resolved: &ResolvedSecrets<'_> = Box::leak(Box::new(resolved.collect()));
    RequestSecrets::new(body, dialect, injections, resolved)
}

fn resolved(auth_type: AuthType, name: &str, value: Option<&[u8]>) -> Given {
    let name = SecretName::parse(name).unwrap();
    Given {
        injections: auth_type.injections(&name, false),
        name,
        value: value.map(|value| &*value.to_vec().leak()),
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

#[test]
fn each_secret_goes_into_its_header() {
    let secrets = [
        resolved(AuthType::SecretHeaders, "GITHUB_TOKEN", Some(b"ghp_1")),
        resolved(AuthType::SecretHeaders, "MISSING", None),
    ];
    let mut request = headers(&[("accept", "*/*")]);
    let body = request_secrets(AuthType::SecretHeaders, Dialect::Http, &secrets)
        .unwrap()
        .insert(&mut request, |_, _| None)
        .unwrap();
    assert!(matches!(body, BodySecrets::None));
    assert_eq!(request.len(), 2);
    let value = &request["x-mcp-secret-github-token"];
    assert_eq!(value, "ghp_1");
    assert!(value.is_sensitive());
}

#[test]
fn a_bearer_token_replaces_the_authorization_that_was_there() {
    let secrets = [resolved(AuthType::Bearer, "T", Some(b"tok en"))];
    let mut request = headers(&[("authorization", "Basic x"), ("authorization", "Basic y")]);
    request_secrets(AuthType::Bearer, Dialect::Http, &secrets)
        .unwrap()
        .insert(&mut request, |_, _| None)
        .unwrap();
    let values: Vec<_> = request.get_all("authorization").iter().collect();
    assert_eq!(values, ["Bearer tok en"]);
    assert!(values[0].is_sensitive());
}

#[test]
fn an_illegal_value_refuses_the_whole_call_and_is_not_in_the_message() {
    let long = vec![b'x'; MAX_HEADER_VALUE + 1];
    let values: [&[u8]; 9] = [
        b"a\rcanary",
        b"a\ncanary",
        b"a\0canary",
        b"canar\xc3\xa9",
        b" canary",
        b"canary ",
        b"a\tcanary",
        b"\x7f",
        &long,
    ];
    for value in values {
        for auth_type in [AuthType::SecretHeaders, AuthType::Bearer] {
            let secrets = [
                resolved(auth_type, "GOOD", Some(b"good")),
                resolved(auth_type, "BAD", Some(value)),
            ];
            let Err(refusal) = request_secrets(auth_type, Dialect::Http, &secrets) else {
                panic!("{value:?} was taken")
            };
            assert_eq!(refusal.reason, Reason::SecretValueNotPlaceable);
            assert!(
                refusal.message.contains("BAD") && !refusal.message.contains("canar"),
                "{}",
                refusal.message
            );
        }
    }
    let most = vec![b'x'; MAX_HEADER_VALUE];
    assert!(
        request_secrets(
            AuthType::Bearer,
            Dialect::Http,
            &[resolved(AuthType::Bearer, "T", Some(&most))]
        )
        .is_ok()
    );
}

#[test]
fn binary_metadata_is_base64_in_grpc_only() {
    let secrets = [resolved(AuthType::SecretHeaders, "KEY_BIN", Some(b"\xff\x00abc"))];
    let mut request = HeaderMap::new();
    request_secrets(AuthType::SecretHeaders, Dialect::Grpc, &secrets)
        .unwrap()
        .insert(&mut request, |_, _| None)
        .unwrap();
    assert_eq!(request["x-mcp-secret-key-bin"], "/wBhYmM");
    assert!(request_secrets(AuthType::SecretHeaders, Dialect::Http, &secrets).is_err());
}

fn skill(protobuf: bool) -> AuthType {
    AuthType::Skill(protobuf.then(|| ProtobufSecrets {
        field: FieldNumber::parse(7).unwrap(),
        messages: ProtobufMessages::First,
    }))
}

#[test]
fn a_skill_gets_secrets_in_its_body_even_when_all_are_missing() {
    let mut request = HeaderMap::new();
    for (auth_type, dialect) in [
        (skill(false), Dialect::Http),
        (skill(true), Dialect::Http),
        (skill(true), Dialect::Grpc),
    ] {
        let missing = [resolved(auth_type, "T", None)];
        let body = request_secrets(auth_type, dialect, &missing)
            .unwrap()
            .insert(&mut request, |_, _| None)
            .unwrap();
        assert!(match dialect {
            Dialect::Http => matches!(body, BodySecrets::Json(_)),
            Dialect::Grpc => matches!(body, BodySecrets::Protobuf(_)),
        });
        let bad = [resolved(auth_type, "T", Some(b"canary\xff"))];
        let Err(refusal) = request_secrets(auth_type, dialect, &bad) else {
            panic!()
        };
        assert_eq!(refusal.reason, Reason::SecretValueNotPlaceable);
        assert!(refusal.message.contains("secret T") && !refusal.message.contains("canary"));
    }
    assert!(request.is_empty());
}

#[test]
fn a_skill_without_a_protobuf_field_cannot_be_called_by_grpc() {
    let refused = request_secrets(skill(false), Dialect::Grpc, &[]);
    assert_eq!(refused.err().unwrap().reason, Reason::BodyTypeUnsupported);
}

#[test]
fn a_header_that_connection_names_is_removed_before_injection() {
    let mut request = headers(&[("connection", "authorization, accept"), ("accept", "*/*")]);
    let secrets = [resolved(AuthType::Bearer, "T", Some(b"v"))];
    crate::header_rules::clean_request(&mut request, &secrets[0].injections);
    request_secrets(AuthType::Bearer, Dialect::Http, &secrets)
        .unwrap()
        .insert(&mut request, |_, _| None)
        .unwrap();
    let names: Vec<_> = request.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["authorization"]);
}

proptest::proptest! {
    #[test]
    fn a_header_carries_exactly_the_value_of_its_secret(value in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..40)) {
        let secrets = [resolved(AuthType::SecretHeaders, "T", Some(&value))];
        let mut request = HeaderMap::new();
        if let Ok(secrets) = request_secrets(AuthType::SecretHeaders, Dialect::Http, &secrets) {
            secrets.insert(&mut request, |_, _| None).unwrap();
            assert_eq!(request["x-mcp-secret-t"].as_bytes(), value);
        }
    }
}

fn custom(placement: Placement) -> Injection {
    Injection {
        required: false,
        placement,
    }
}

fn json_member(pointer: &str, value: &str) -> Injection {
    custom(Placement::Json {
        pointer: json::JsonPointer::parse(pointer).unwrap(),
        value: Template::parse(value).unwrap(),
    })
}

fn form_field(field: &str, value: &str) -> Injection {
    custom(Placement::Form {
        field: field.to_owned(),
        value: Template::parse(value).unwrap(),
    })
}

/// Returns the body that a server with `injections` gets for `body`, when `TOKEN` has this value and no other secret
/// exists.
fn rewritten(injections: &[Injection], is_form: bool, token: &[u8], body: &str) -> Result<String, Refusal> {
    let name = SecretName::parse("TOKEN").unwrap();
    let resolved: ResolvedSecrets<'_> = [ResolvedSecret {
        name: &name,
        value: Some(SecretValue::parse(Zeroizing::new(token.to_vec())).unwrap()),
    }]
    .into_iter()
    .collect();
    let auth_type = AuthType::Custom(ProtobufMessages::First);
    let placement = BodyPlacement::of(auth_type, injections, Dialect::Http, is_form)?;
    let secrets = RequestSecrets::new(placement, Dialect::Http, injections, &resolved)?;
    let out = match secrets.insert(&mut HeaderMap::new(), |_, _| None)? {
        BodySecrets::Members(members) => json::insert_members(body.as_bytes(), &members).unwrap(),
        BodySecrets::Form(fields) => fields.put_into(body.as_bytes()),
        BodySecrets::None | BodySecrets::Json(_) | BodySecrets::Protobuf(_) => panic!("{placement:?}"),
    };
    Ok(String::from_utf8(out.to_vec()).unwrap())
}

#[test]
fn templates_go_to_their_places_in_the_body() {
    let injections = [
        json_member("/params/_meta/token", "Bearer ${TOKEN}"),
        json_member("/params/other", "${TOKEN}/${MISSING}"),
        form_field("token", "${TOKEN}"),
        form_field("other", "${MISSING}"),
    ];
    let json = rewritten(&injections, false, b"a\"b", r#"{"params":{"other":1}}"#);
    assert_eq!(json.unwrap(), r#"{"params":{"_meta":{"token":"Bearer a\"b"}}}"#);
    let form = rewritten(&injections, true, b"a&b", "other=1&a=%20");
    assert_eq!(form.unwrap(), "a=%20&token=a%26b");
}

#[test]
fn the_only_kind_of_body_places_does_not_depend_on_the_type_of_the_request() {
    for is_form in [false, true] {
        let json = rewritten(&[json_member("/t", "${TOKEN}")], is_form, b"v", "{}");
        assert_eq!(json.unwrap(), r#"{"t":"v"}"#);
        let form = rewritten(&[form_field("t", "${TOKEN}")], is_form, b"v", "");
        assert_eq!(form.unwrap(), "t=v");
    }
}

#[test]
fn a_value_that_is_no_text_refuses_the_call_and_is_not_in_the_message() {
    for (injection, is_form) in [
        (json_member("/t", "x${TOKEN}"), false),
        (form_field("t", "${TOKEN}"), true),
    ] {
        let refusal = rewritten(&[injection], is_form, b"canary\xff", "").unwrap_err();
        assert_eq!(refusal.reason, Reason::SecretValueNotPlaceable);
        assert!(refusal.message.contains("secret TOKEN") && !refusal.message.contains("canary"));
    }
}

#[test]
fn a_server_with_places_in_http_bodies_only_cannot_be_called_by_grpc() {
    let of = |injections: &[Injection]| {
        let auth_type = AuthType::Custom(ProtobufMessages::First);
        BodyPlacement::of(auth_type, injections, Dialect::Grpc, false)
    };
    for injection in [json_member("/t", "${TOKEN}"), form_field("t", "${TOKEN}")] {
        assert_eq!(of(&[injection]).unwrap_err().reason, Reason::BodyTypeUnsupported);
    }
    let header = Placement::Header {
        name: HeaderName::from_static("x-key"),
        value: Template::parse("${TOKEN}").unwrap(),
    };
    assert_eq!(of(&[custom(header)]), Ok(BodyPlacement::None));
    let both = [json_member("/t", "${TOKEN}"), map_entry(7, "T", "${TOKEN}")];
    assert_eq!(of(&both), Ok(BodyPlacement::Protobuf(ProtobufMessages::First)));
}

fn map_entry(field: u32, key: &str, value: &str) -> Injection {
    custom(Placement::Protobuf {
        field: FieldNumber::parse(field).unwrap(),
        key: key.to_owned(),
        value: Template::parse(value).unwrap(),
    })
}

/// Returns the message that a server with `injections` gets for `message`.
fn rewritten_message(injections: &[Injection], token: &[u8], message: &[u8]) -> Result<Vec<u8>, Refusal> {
    let name = SecretName::parse("TOKEN").unwrap();
    let value = Some(SecretValue::parse(Zeroizing::new(token.to_vec())).unwrap());
    let resolved = ResolvedSecrets::from_iter([ResolvedSecret { name: &name, value }]);
    let owned = protobuf::OwnedFields::of(AuthType::Custom(ProtobufMessages::First), injections);
    let entries = message_entries(injections, &resolved)?;
    let frame = protobuf::rewrite(message, &owned, &entries).unwrap().unwrap();
    Ok(frame[5..].to_vec())
}

#[test]
fn templates_go_to_their_entries_of_a_message() {
    let injections = [
        map_entry(7, "T", "Bearer ${TOKEN}"),
        map_entry(8, "T", "${TOKEN}"),
        map_entry(9, "M", "${TOKEN}/${MISSING}"),
    ];
    // The program's fields 7, 8 and 9 are removed, also when a secret is missing.
    let theirs = b"\x3a\x01x\x08\x01\x40\x01\x4a\x00";
    let expected = b"\x08\x01\x3a\x0d\x0a\x01T\x12\x08Bearer v\x42\x06\x0a\x01T\x12\x01v";
    assert_eq!(rewritten_message(&injections, b"v", theirs).unwrap(), expected);
}

#[test]
fn an_entry_of_a_message_is_text() {
    let injections = [map_entry(7, "T", "x${TOKEN}")];
    let refusal = rewritten_message(&injections, b"canary\xff", b"").unwrap_err();
    assert_eq!(refusal.reason, Reason::SecretValueNotPlaceable);
    assert_eq!(
        refusal.message,
        "secret TOKEN: its value is not UTF-8, so it cannot be a protobuf string"
    );
}
