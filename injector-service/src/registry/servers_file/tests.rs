use std::time::{Duration, Instant};

use proto::SecretName;

use super::{FileEntry, parse, render};
use crate::{
    address::OwnListeners,
    placement::{AuthType, ProtobufMessages},
    registry::{
        error::FileError,
        server::{Oauth, OnEcho, Protocol, Scrub, Server, Spec, WebOrigin},
    },
};

/// A text in the file that no error may repeat.
const MARK: &str = "s3cr3t";

const FULL: &str = include_str!("test_full.yaml");

fn read(text: &str) -> Result<Vec<FileEntry>, FileError> {
    parse(
        text.as_bytes(),
        &OwnListeners::new(["127.0.0.1:7100".parse().unwrap()]),
    )
}

fn refused(text: &str) -> String {
    read(text)
        .err()
        .unwrap_or_else(|| panic!("was read: {text}"))
        .to_string()
}

fn one(text: &str) -> FileEntry {
    read(text).unwrap().pop().unwrap()
}

fn server(text: &str) -> Server {
    one(text).complete().unwrap()
}

fn with_description(description: &str) -> Server {
    let server = server(FULL);
    Server {
        spec: Spec {
            description: description.to_owned(),
            ..server.spec
        },
        ..server
    }
}

#[test]
fn an_entry_needs_a_workspace_a_name_and_a_url() {
    let FileEntry {
        line,
        uid,
        revision,
        workspace_uid,
        spec,
        ..
    } = one("version: 1\nservers:\n- workspace: w\n  name: s\n  url: https://a.example\n");
    assert_eq!((line, uid, revision, workspace_uid), (3, None, None, None));
    assert_eq!(
        (spec.auth_type, spec.protocol, spec.injections.len()),
        (AuthType::SecretHeaders, Protocol::Auto, 0)
    );
}

const CUSTOM: &str = "\
version: 1
servers:
- workspace: w
  name: s
  url: https://a.example/${path}?q=${Q}
  injections:
  - header: {name: X-Api-Key, value: 'Key ${api-key}'}
    required: true
  - basic: {username: '${EMAIL}', password: '$$${TOKEN}'}
  - cookie: {name: session, value: '${SESSION}'}
  uid: 67e55044-10b1-426f-9247-bb680e5fe0c8
  revision: 7
  create_time: 2026-01-31T12:00:00Z
  update_time: 2026-02-01T12:00:00.5Z
  workspace_uid: 0e984725-c51c-4bf4-9960-e1c80e27aba0
";

#[test]
fn an_injection_may_name_its_place() {
    let server = server(CUSTOM);
    assert_eq!(server.spec.auth_type, AuthType::Custom(ProtobufMessages::First));
    let places: Vec<_> = server
        .spec
        .injections
        .iter()
        .map(|injection| {
            (
                injection.placement.explain(&server.spec.body_calls),
                injection.required,
            )
        })
        .collect();
    let places: Vec<_> = places
        .iter()
        .map(|(place, required)| (place.as_str(), *required))
        .collect();
    assert_eq!(
        places,
        [
            ("header x-api-key: Key ${API_KEY}", true),
            ("basic authentication", false),
            ("cookie session", false),
            ("path variable PATH", true),
            ("query parameter q", true)
        ]
    );
    let text = render([&server].into_iter()).unwrap();
    assert!(text.contains("auth_type: custom\n"), "{text}");
    assert!(!text.contains("variable:") && !text.contains("query:"), "{text}");
    assert_eq!(self::server(&text), server);
}

#[test]
fn an_injection_may_name_an_entry_of_messages() {
    let text = "\
version: 1
servers:
- workspace: w
  name: s
  url: https://a.example
  injections:
  - protobuf: {field: 7, value: 'Bearer ${api-key}'}
  - protobuf: {field: 7, key: b.c, value: '${A}${B}'}
    required: true
  protobuf_messages: all
  grpc_methods: [S/M]
";
    let FileEntry { spec, .. } = one(text);
    assert_eq!(spec.auth_type, AuthType::Custom(ProtobufMessages::All));
    let server = server(&CUSTOM.replace(
        "  - cookie: {name: session, value: '${SESSION}'}\n",
        "  - protobuf: {field: 7, value: 'Bearer ${api-key}'}\n  grpc_methods: [S/M]\n  protobuf_messages: all\n",
    ));
    let written = render([&server].into_iter()).unwrap();
    assert!(
        written.contains("field: 7") && written.contains("key: API_KEY"),
        "{written}"
    );
    assert_eq!(self::server(&written), server);
    for (wrong, error) in [("'${A}${B}'}\n", "protobuf.key"), ("'x'}\n", "names no secret")] {
        let wrong = text.replace("'Bearer ${api-key}'}\n", wrong);
        assert!(refused(&wrong).contains(error), "{}", refused(&wrong));
    }
}

#[test]
fn every_field_is_read() {
    let Server {
        workspace,
        name,
        revision,
        update_time,
        workspace_uid,
        spec,
        ..
    } = server(FULL);
    assert_eq!(
        (workspace.as_str(), name.as_str(), revision),
        ("dev-tools", "github", 7)
    );
    assert_eq!(update_time.to_string(), "2026-02-01T12:00:00.5Z");
    assert!(workspace_uid.is_some());
    assert_eq!(
        (spec.auth_type, spec.protocol),
        (AuthType::Bearer, Protocol::Http2)
    );
    let secret = SecretName::parse("GITHUB_TOKEN").unwrap();
    assert_eq!(spec.injections, AuthType::Bearer.injections(&secret, true));
    assert_eq!(spec.tls.server_name.as_deref(), Some("internal.example.com"));
    assert!(spec.tls.allow_bound_secrets);
    assert!(spec.tls.ca_pem.starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert!(spec.allow_plaintext);
    assert_eq!((spec.scrub, spec.on_echo), (Scrub::All, OnEcho::Block));
    assert_eq!(spec.allowed_origins.len(), 1);
    assert_eq!(spec.oauth, Oauth::Pass);
    assert_eq!(spec.description, "GitHub, for the agents");
}

/// Earlier releases stored such an origin. It matches no web page, and must not keep the other servers from being loaded.
#[test]
fn a_stored_origin_with_a_wildcard_is_read_and_written() {
    let stored = server(&FULL.replace("https://app.example.com", "https://*.example.com"));
    assert!(stored.spec.allowed_origins.iter().all(WebOrigin::has_wildcard));
    assert_eq!(server(&render([&stored].into_iter()).unwrap()), stored);
}

#[test]
fn a_written_server_reads_back_the_same() {
    let full = server(FULL);
    let text = render([&full].into_iter()).unwrap();
    assert_eq!(server(&text), full);
    assert!(text.starts_with("# The servers"), "{text}");
    assert!(text.contains("  tls:\n    ca_pem: |\n      -----BEGIN"), "{text}");
    assert_eq!(
        render([].into_iter())
            .map(|text| read(&text).unwrap().len())
            .unwrap(),
        0
    );
}

#[test]
fn the_calls_and_messages_that_get_secrets_are_read_and_written() {
    let skill = |fields: &str| FULL.replace("auth_type: bearer", &format!("auth_type: skill\n  {fields}"));
    for (fields, written) in [
        (
            "protobuf_secrets_field: 7\n  grpc_methods: [S/M]",
            "  protobuf_secrets_field: 7\n  grpc_methods:\n  - S/M\n  tls:",
        ),
        (
            "protobuf_secrets_field: 7\n  grpc_methods: [S/M]\n  protobuf_messages: first",
            "  protobuf_secrets_field: 7\n  grpc_methods:\n  - S/M\n  tls:",
        ),
        (
            "protobuf_secrets_field: 7\n  grpc_methods: [S/M]\n  protobuf_messages: all",
            "  protobuf_secrets_field: 7\n  protobuf_messages: all\n  grpc_methods:\n  - S/M\n  tls:",
        ),
        ("paths: [/run, /a/*]", "  paths:\n  - /run\n  - /a/*\n  tls:"),
    ] {
        let full = server(&skill(fields));
        let text = render([&full].into_iter()).unwrap();
        assert!(text.contains(written), "{text}");
        assert_eq!(server(&text), full);
    }
    for (fields, error) in [
        (
            "protobuf_secrets_field: 19000",
            "protobuf_secrets_field: the number",
        ),
        ("protobuf_messages: all", "protobuf_messages: which"),
        (
            "protobuf_secrets_field: 7",
            "grpc_methods: a protobuf_secrets_field needs",
        ),
        ("paths: [/ok, run]", "paths: number 2: a path begins"),
        (
            "protobuf_secrets_field: 7\n  grpc_methods: [grpc.health.v1.Health/Check]",
            "grpc_methods: number 1: gRPC reflection and health",
        ),
    ] {
        assert!(
            refused(&skill(fields)).contains(error),
            "{}",
            refused(&skill(fields))
        );
    }
}

#[test]
fn texts_that_yaml_would_read_as_another_type_stay_texts() {
    for word in [
        "no",
        "on",
        "~",
        "null",
        "true",
        "1",
        "0x1f",
        "1e3",
        ".inf",
        "2026-01-01",
        "-",
        "- a",
        "a: b",
        "a #b",
        "# a",
        "*a",
        "&a",
        "!a",
        "|",
        ">",
        "%YAML",
        "---",
        "...",
        "'",
        "\"",
        "\\",
        "{}",
        "[",
        "<<",
        "=",
        " a ",
        "\ta",
        "a\n",
        "\n\na\n\n",
        "a\r\nb",
        "\u{85}",
        "\u{2028}",
        "\u{feff}a",
        "\u{0}",
        "\u{1b}",
        "\u{7f}",
        "\u{202e}",
        "🔑",
        "@a",
        "`a`",
        "?",
        "? a",
    ] {
        let described = with_description(word);
        assert_eq!(
            render([&described].into_iter())
                .map(|text| server(&text))
                .unwrap(),
            described,
            "{word:?}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn any_description_reads_back(description in "(?s).{0,300}") {
        let described = with_description(&description);
        proptest::prop_assert!(render([&described].into_iter()).is_ok());
    }

    #[test]
    fn any_text_in_yamls_own_characters_reads_back(description in "[-a:#\\n ' \"|>\\t\\\\\\[\\]{},&*!%@~]{0,40}") {
        let described = with_description(&description);
        proptest::prop_assert!(render([&described].into_iter()).is_ok());
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s).{0,300}") {
        let _ = read(&text);
        let _ = read(&format!("version: 1\nservers:\n- {text}"));
    }
}

#[test]
fn an_error_names_the_line_and_the_field_but_repeats_nothing() {
    let entry = |lines: &str| {
        format!("version: 1\nservers:\n- workspace: w\n  name: s\n  url: https://a.example\n{lines}")
    };
    for (text, says) in [
        (String::new(), vec!["version: 1"]),
        (MARK.to_owned(), vec!["`field: value`"]),
        ("version: 1\n".to_owned(), vec!["servers is missing"]),
        (
            "version: 1\nservers:\n".to_owned(),
            vec!["line 2", "must be a list"],
        ),
        ("servers: []\n".to_owned(), vec!["version is missing"]),
        (
            "version: 2\nservers: []\nsecrets: {}\n".to_owned(),
            vec!["version: it is 2"],
        ),
        ("version: one\nservers: []\n".to_owned(), vec!["line 1"]),
        (
            format!("version: 1\nservers: []\nextra: {MARK}\n"),
            vec!["line 3", "field extra", "servers"],
        ),
        (
            format!("version: 1\nservers: []\n{MARK}: x\n"),
            vec!["line 3", "a field is not"],
        ),
        (format!("version: 1\nservers: {MARK}\n"), vec!["line 2"]),
        (
            "version: 1\nversion: 1\nservers: []\n".to_owned(),
            vec!["line 2", "version is given twice"],
        ),
        (
            "version: 1\nservers: []\n---\nversion: 1\nservers: []\n".to_owned(),
            vec!["one document"],
        ),
        (
            "version: 1\nservers:\n\t- workspace: w\n".to_owned(),
            vec!["line 3", "tab"],
        ),
        (entry("\tdescription: x\n"), vec!["tab"]),
        (
            entry(&format!("  password: {MARK}\n")),
            vec!["line 6", "field password"],
        ),
        (
            entry(&format!("  url: https://{MARK}.example\n")),
            vec!["line 6", "url is given twice"],
        ),
        (
            entry(&format!("  auth_type: {MARK}\n")),
            vec!["line 6", "secret_headers, bearer, skill"],
        ),
        (entry(&format!("  allow_plaintext: {MARK}\n")), vec!["line 6"]),
        (entry("  allow_plaintext: yes\n"), vec!["line 6", "true or false"]),
        (entry(&format!("  revision: {MARK}\n")), vec!["line 6"]),
        (entry("  revision: 0\n"), vec!["line 3", "server 1", "revision:"]),
        (entry(&format!("  revision: {}\n", u64::MAX)), vec!["revision:"]),
        (entry("  revision: -1\n"), vec!["line 6"]),
        (entry(&format!("  uid: {MARK}\n")), vec!["line 3", "uid:"]),
        (entry(&format!("  create_time: {MARK}\n")), vec!["create_time:"]),
        (entry(&format!("  injections: [{MARK}]\n")), vec!["line 6"]),
        (
            entry(&format!("  injections: [{{name: {MARK}}}]\n")),
            vec!["line 6", "field name"],
        ),
        (
            entry("  injections: [{required: true}]\n"),
            vec!["line 6", "secret is missing"],
        ),
        (
            entry("  injections: [{secret: a, header: {name: x-a, value: '${A}'}}]\n"),
            vec!["line 6", "only one of secret, header"],
        ),
        (
            entry(&format!(
                "  injections: [{{header: {{name: x-a, value: '${{{MARK}'}}}}]\n"
            )),
            vec!["line 3", "injections: number 1: header.value:"],
        ),
        (
            entry(&format!("  injections: [{{header: {{name: x-a, {MARK}: a}}}}]\n")),
            vec!["line 6"],
        ),
        (
            entry("  injections: [{secret: a}, {basic: {password: '${A}'}}]\n"),
            vec!["injections: number 1: its place is missing"],
        ),
        (
            entry("  auth_type: bearer\n  injections: [{basic: {password: '${A}'}}]\n"),
            vec!["injections: number 1: the auth type already decides"],
        ),
        (
            entry("  auth_type: custom\n"),
            vec!["auth_type: the auth type custom needs"],
        ),
        (
            entry(&format!("  scrub: {MARK}\n")),
            vec!["line 6", "off, headers, all"],
        ),
        (
            entry(&format!("  on_echo: {MARK}\n")),
            vec!["line 6", "mask, block"],
        ),
        (
            entry("  injections: [{secret: a-b}, {secret: A.B}]\n"),
            vec!["secrets: A_B is named more than once"],
        ),
        (entry("  injections: [{secret: ''}]\n"), vec!["secrets:"]),
        (entry("  auth_type: bearer\n"), vec!["bearer takes exactly one"]),
        (
            entry(&format!("  tls: {{ca_pem: {MARK}}}\n")),
            vec!["tls.ca_pem:"],
        ),
        (
            entry(&format!("  tls: {{server_name: '{MARK} '}}\n")),
            vec!["tls.server_name:"],
        ),
        (
            entry(&format!("  allowed_origins: ['https://a.example', {MARK}]\n")),
            vec!["allowed_origins: number 2"],
        ),
        (
            entry(&format!("  description: {}\n", "x".repeat(1025))),
            vec!["description:"],
        ),
        (
            entry("- workspace: w\n  name: s\n  url: https://b.example\n"),
            vec!["line 6", "w/s"],
        ),
        (
            entry(&format!(
                "- workspace: {}\n  name: t\n  url: https://b.example\n",
                "W"
            )),
            vec!["line 6", "server 2", "workspace:"],
        ),
        (
            entry(&format!(
                "- workspace: w\n  name: t\n  url: https://u:{MARK}@b.example\n"
            )),
            vec!["line 6", "url:"],
        ),
        (
            entry("- workspace: w\n  name: t\n  url: http://b.example\n"),
            vec!["line 6", "cleartext"],
        ),
        (
            entry("- workspace: w\n  name: t\n  url: http://169.254.169.254\n"),
            vec!["line 6", "metadata"],
        ),
        (
            entry("- workspace: w\n  name: t\n  url: http://localhost:7100\n"),
            vec!["line 6", "injector itself"],
        ),
        (
            format!("version: 1\nservers: [{{workspace: w, name: s, url: &a {MARK}}}]\n"),
            vec!["anchors"],
        ),
        (format!("version: 1\nservers: *{MARK}\n"), vec!["anchors"]),
        (entry("  <<: {description: x}\n"), vec!["line 6", "merge keys"]),
        (entry("  description: !secret x\n"), vec!["line 6", "tags"]),
        (format!("version: 1\nservers: {}", "[".repeat(100_000)), vec![]),
        (format!("version: 1\nservers: {}", "{a: ".repeat(5_000)), vec![]),
        (format!("version: 1\nservers: \"{MARK}\n"), vec!["it is not YAML"]),
    ] {
        let error = refused(&text);
        for part in says {
            assert!(error.contains(part), "{part:?} in {error:?} for {text:.200}");
        }
        assert!(!error.contains(MARK), "{error}");
        assert!(error.len() < 400, "{error}");
    }
}

#[test]
fn nested_aliases_are_refused_quickly() {
    let mut bomb = String::from("version: 1\nservers:\n- &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        bomb += &format!("- &a{level} [{}]\n", vec![alias; 9].join(", "));
    }
    let started = Instant::now();
    assert!(refused(&bomb).contains("anchors"));
    let long = format!("version: 1\nservers: []\n#{}", "x".repeat(9 << 20));
    assert!(matches!(read(&long), Err(FileError::TooLarge)));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn many_comments_are_allowed() {
    let comments = "# a server\n".repeat(2_000);
    let text = format!(
        "{comments}version: 1\n{comments}servers:\n{comments}- workspace: w\n  name: s\n{comments}  url: https://a.example\n"
    );
    assert_eq!(read(&text).unwrap().len(), 1);
}

#[test]
fn json_is_yaml() {
    let text = r#"{"version": 1, "servers": [{"workspace": "w", "name": "s", "url": "https://a.example"}]}"#;
    assert_eq!(read(text).unwrap().len(), 1);
    assert!(matches!(
        parse(b"version: 1\nservers: []\n# \xff", &OwnListeners::default()),
        Err(FileError::NotUtf8)
    ));
    assert_eq!(read("\u{feff}version: 1\nservers: []\n").unwrap().len(), 0);
    assert_eq!(read("version: 1\r\nservers: []\r\n").unwrap().len(), 0);
}

#[test]
fn two_servers_of_one_name_are_not_written() {
    // Only a bug could cause two servers of one name, and the bug must not reach the file.
    let full = server(FULL);
    assert!(render([&full, &full].into_iter()).is_err());
    assert_eq!(full.spec.clone().check(&OwnListeners::default()), Ok(full.spec));
}
