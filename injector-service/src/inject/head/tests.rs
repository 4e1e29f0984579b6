use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use proto::{SecretName, SecretValue, value_facts::MAX_HEADER_VALUE};
use zeroize::Zeroizing;

use super::*;
use crate::{inject::ResolvedSecret, template::Template};

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

fn header_place(name: &'static str, value: &str) -> Placement {
    Placement::Header {
        name: HeaderName::from_static(name),
        value: template(value),
    }
}

fn basic_place(username: &str, password: &str) -> Placement {
    Placement::Basic {
        username: template(username),
        password: template(password),
    }
}

fn cookie_place(name: &str, value: &str) -> Placement {
    Placement::Cookie {
        name: name.to_owned(),
        value: template(value),
    }
}

/// Puts the values into a request with the headers `sent`.
fn insert(
    placements: &[Placement],
    dialect: Dialect,
    values: &[(&str, &[u8])],
    sent: &[(&'static str, &'static str)],
) -> Result<HeaderMap, Refusal> {
    let injections: Vec<_> = placements
        .iter()
        .map(|placement| Injection {
            required: false,
            placement: placement.clone(),
        })
        .collect();
    let names: Vec<_> = values
        .iter()
        .map(|(name, _)| SecretName::parse(name).unwrap())
        .collect();
    let secrets = names.iter().zip(values).map(|(name, (_, value))| ResolvedSecret {
        name,
        value: Some(SecretValue::parse(Zeroizing::new(value.to_vec())).unwrap()),
    });
    let secrets = secrets.collect();
    let mut headers = HeaderMap::new();
    for (name, value) in sent {
        headers.append(*name, HeaderValue::from_static(value));
    }
    HeadSecrets::new(dialect, &injections, &secrets)?.insert(&mut headers, |_, _| None)?;
    Ok(headers)
}

/// Returns the only header of a request that had none.
fn only(placement: Placement, dialect: Dialect, values: &[(&str, &[u8])]) -> Result<HeaderValue, Refusal> {
    let headers = insert(&[placement], dialect, values, &[])?;
    let mut values = headers.into_iter().map(|(_, value)| value);
    let only = values.next().expect("a header was inserted");
    assert!(only.is_sensitive() && values.next().is_none());
    Ok(only)
}

/// Checks that a value is refused in this place, with a message that names the secret and has nothing of the value.
fn assert_refused(placement: &Placement, dialect: Dialect, value: &[u8], says: &str) {
    let refused = insert(std::slice::from_ref(placement), dialect, &[("T", value)], &[]);
    let Refusal { reason, message } = refused.expect_err(says);
    assert_eq!(reason, Reason::SecretValueNotPlaceable);
    assert!(
        message.starts_with("secret T: its value ") && message.contains(says),
        "{message}"
    );
    assert!(
        !message.contains("canary") && !message.contains("zzz"),
        "{message}"
    );
}

const LONG: [u8; MAX_HEADER_VALUE + 1] = [b'z'; MAX_HEADER_VALUE + 1];

#[test]
fn a_header_has_the_text_of_its_template() {
    let values: [(&str, &[u8]); 2] = [("A", b"one two"), ("B", b"2")];
    for (written, sent) in [
        ("${A}", "one two"),
        ("Token token=${A}", "Token token=one two"),
        ("${A}${B}", "one two2"),
        ("$$${B}, ${A}; ${B}", "$2, one two; 2"),
    ] {
        for dialect in [Dialect::Http, Dialect::Grpc] {
            let value = only(header_place("x-key", written), dialect, &values).unwrap();
            assert_eq!(value, sent);
        }
    }
}

#[test]
fn an_injection_without_one_of_its_secrets_is_left_out_as_a_whole() {
    let places = [
        header_place("x-both", "${A} ${MISSING}"),
        header_place("x-one", "${A}"),
        basic_place("${A}", "${MISSING}"),
        cookie_place("both", "${MISSING}${A}"),
    ];
    let headers = insert(&places, Dialect::Http, &[("A", b"a")], &[("cookie", "a=1")]).unwrap();
    assert_eq!(
        (headers.len(), &headers["x-one"], &headers["cookie"]),
        (2, &"a".parse().unwrap(), &"a=1".parse().unwrap())
    );
}

#[test]
fn a_value_that_is_illegal_in_a_header_is_refused_with_its_fault() {
    for (value, says) in [
        (&b"canary\n"[..], "ends with a line break"),
        (b"a\ncanary", "has several lines"),
        (b"a\tcanary", "printable ASCII"),
        (b" canary", "begins or ends with a space"),
        (b"canary\xff", "is not UTF-8"),
        (&LONG, "more than 8192 bytes"),
    ] {
        assert_refused(&header_place("x-key", "Key ${T} ."), Dialect::Http, value, says);
        assert_refused(&header_place("x-key-bin", "${T}"), Dialect::Http, value, says);
    }
}

#[test]
fn the_values_of_a_header_have_a_limit_together_that_leaves_out_the_text() {
    let (half, rest) = (&LONG[..4096], &LONG[..4097]);
    let place = || header_place("x-key", "Bearer ${A}${B}");
    let most = only(place(), Dialect::Http, &[("A", half), ("B", half)]).unwrap();
    assert_eq!(most.len(), 7 + MAX_HEADER_VALUE);
    let refusal = only(place(), Dialect::Http, &[("A", half), ("B", rest)]).unwrap_err();
    assert_eq!(refusal.reason, Reason::SecretValueNotPlaceable);
    assert!(
        refusal
            .message
            .contains("values of A and B have together more than 8192 bytes"),
        "{}",
        refusal.message
    );
}

#[test]
fn binary_metadata_is_the_base64_of_the_text_of_its_template() {
    let place = || header_place("x-key-bin", "k=${A}${B}");
    let values: [(&str, &[u8]); 2] = [("A", b"\xff\0"), ("B", b"\n")];
    assert_eq!(only(place(), Dialect::Grpc, &values).unwrap(), "az3/AAo");
    assert!(only(place(), Dialect::Http, &values).is_err());
    let (half, rest) = (&LONG[..3072], &LONG[..3073]);
    assert!(only(place(), Dialect::Grpc, &[("A", half), ("B", half)]).is_ok());
    assert!(only(place(), Dialect::Grpc, &[("A", half), ("B", rest)]).is_err());
    assert_refused(
        &header_place("x-key-bin", "${T}"),
        Dialect::Grpc,
        &LONG[..6145],
        "has more than 8192 bytes",
    );
}

#[test]
fn basic_credentials_are_the_base64_of_user_name_and_password() {
    let values: [(&str, &[u8]); 2] = [("EMAIL", "schl\u{fc}ssel@x".as_bytes()), ("TOKEN", b"to:k en")];
    for (username, password, credentials) in [
        ("${EMAIL}", "${TOKEN}", "schl\u{fc}ssel@x:to:k en"),
        ("${EMAIL}/token", "${TOKEN}!", "schl\u{fc}ssel@x/token:to:k en!"),
        ("api", "${TOKEN}", "api:to:k en"),
        ("${EMAIL}", "x", "schl\u{fc}ssel@x:x"),
        ("", "${TOKEN}", ":to:k en"),
        ("${EMAIL}", "", "schl\u{fc}ssel@x:"),
    ] {
        let value = only(basic_place(username, password), Dialect::Http, &values).unwrap();
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(encoded).unwrap(), credentials.as_bytes());
    }
    // The example of RFC 7617, section 2.
    let value = only(
        basic_place("Aladdin", "${T}"),
        Dialect::Http,
        &[("T", b"open sesame")],
    )
    .unwrap();
    assert_eq!(value, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
}

#[test]
fn a_value_that_is_illegal_in_basic_credentials_is_refused_with_its_fault() {
    for place in [basic_place("${T}", "x"), basic_place("x", "a ${T}")] {
        for (value, says) in [
            (&b"canary\n"[..], "ends with a line break"),
            (b"a\r\ncanary", "has several lines"),
            (b"a\tcanary", "control character"),
            (b"\x7fcanary", "control character"),
            ("canary\u{85}".as_bytes(), "control character"),
            (b"canary\xff", "is not UTF-8"),
            (&LONG, "more than 8192 bytes"),
        ] {
            assert_refused(&place, Dialect::Http, value, says);
        }
    }
    assert_refused(&basic_place("${T}", ""), Dialect::Http, b"can:ary", "colon");
    assert!(only(basic_place("", "${T}"), Dialect::Http, &[("T", b"a:b")]).is_ok());
    let (half, rest) = (&LONG[..4096], &LONG[..4097]);
    assert!(
        only(
            basic_place("${A}", "${B}"),
            Dialect::Http,
            &[("A", half), ("B", half)]
        )
        .is_ok()
    );
    assert!(
        only(
            basic_place("${A}", "${B}"),
            Dialect::Http,
            &[("A", half), ("B", rest)]
        )
        .is_err()
    );
}

#[test]
fn cookies_stand_before_those_of_the_program() {
    let places = [
        cookie_place("session", "${A}"),
        cookie_place("__Host-t", "v1.${B}"),
    ];
    let values: [(&str, &[u8]); 2] = [("A", b"s3=/+"), ("B", b"2")];
    for (sent, expected) in [
        (&[][..], "session=s3=/+; __Host-t=v1.2"),
        (
            &[("cookie", "a=1; b=\"")],
            "session=s3=/+; __Host-t=v1.2; a=1; b=\"",
        ),
    ] {
        let headers = insert(&places, Dialect::Http, &values, sent).unwrap();
        assert_eq!(
            (headers.len(), &headers["cookie"]),
            (1, &expected.parse().unwrap())
        );
        assert!(headers["cookie"].is_sensitive());
    }
}

#[test]
fn a_value_that_is_illegal_in_a_cookie_is_refused_with_its_fault() {
    for (value, says) in [
        (&b"can ary"[..], "a space"),
        (b"canary\"", "a quotation mark"),
        (b"can,ary", "a comma"),
        (b"can;ary", "a semicolon"),
        (b"can\\ary", "a backslash"),
        (b"canary\n", "ends with a line break"),
        (b"can\tary", "printable ASCII"),
        ("canar\u{e9}".as_bytes(), "printable ASCII"),
        (&LONG, "more than 8192 bytes"),
    ] {
        assert_refused(&cookie_place("session", "a${T}"), Dialect::Http, value, says);
    }
    let legal: Vec<u8> = (0x21..=0x7e).filter(|byte| !b"\",;\\".contains(byte)).collect();
    let value = only(cookie_place("c", "${T}"), Dialect::Http, &[("T", &legal)]).unwrap();
    assert_eq!(value.as_bytes().strip_prefix(b"c=").unwrap(), legal);
}

proptest! {
    #[test]
    fn a_header_is_refused_or_arrives_as_it_is(value in prop::collection::vec(any::<u8>(), 1..40)) {
        if let Ok(header) = only(header_place("x-key", "a ${T}"), Dialect::Http, &[("T", &value)]) {
            prop_assert_eq!(header.as_bytes().strip_prefix(b"a ").unwrap(), value);
        }
    }

    #[test]
    fn basic_credentials_are_refused_or_read_as_they_were_meant(
        username in "[ -~\\n\u{e9}]{1,12}",
        password in "[ -~\\n\u{e9}]{1,12}",
    ) {
        let values: [(&str, &[u8]); 2] = [("U", username.as_bytes()), ("P", password.as_bytes())];
        if let Ok(value) = only(basic_place("${U}", "${P}"), Dialect::Http, &values) {
            let credentials = STANDARD.decode(&value.as_bytes()[6..]).unwrap();
            let colon = credentials.iter().position(|byte| *byte == b':').unwrap();
            prop_assert_eq!(&credentials[..colon], username.as_bytes());
            prop_assert_eq!(&credentials[colon + 1..], password.as_bytes());
        }
    }

    #[test]
    fn a_cookie_is_refused_or_is_one_cookie(value in "[ -~]{1,20}") {
        if let Ok(cookie) = only(cookie_place("c", "${T}"), Dialect::Http, &[("T", value.as_bytes())]) {
            prop_assert_eq!(cookie.to_str().unwrap(), format!("c={value}"));
            prop_assert!(!value.contains([';', ',', ' ', '"', '\\']));
        }
    }
}
