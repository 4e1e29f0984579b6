use super::*;

fn workspace() -> WorkspaceName {
    WorkspaceName::parse("w").unwrap()
}

fn parse(yaml: &str) -> Result<ServerDescription, DescriptionError> {
    let raw: RawDescription = parse_yaml(yaml.as_bytes()).unwrap();
    raw.parse(&workspace())
}

/// Servers of all auth types, with most of the optional fields.
const SERVERS: [&str; 10] = [
    "name: plain\nurl: https://a.example\n",
    "name: bearer\nurl: https://a.example\nauth_type: bearer\ninjections: [{secret: T, required: true}]\n",
    "name: skill\nurl: https://a.example\nauth_type: skill\ninjections: [{secret: T}]\nprotobuf_secrets_field: 7\n\
     protobuf_messages: all\ngrpc_methods: [p.S/M]\npaths: [/run]\n",
    "name: custom\nurl: https://a.example/bot${T}?k=${K}\ninjections: [{header: {name: x-key, value: 'a ${B}'}}]\n\
     protocol: http2\noauth: pass\nscrub: all\non_echo: block\ndescription: 'no'\nallowed_origins: [https://b.example]\n",
    "name: tls\nurl: https://a.example\ntls: {server_name: b.example, client_cert_secret: CERT, allow_bound_secrets: true}\n",
    "name: clear\nurl: http://10.0.0.1\nallow_plaintext: true\nprotocol: http1\nscrub: 'off'\nauth_type: bearer\n\
     injections: [{secret: T}]\ndescription: |\n  Lines with 'quotes', # a hash,\n\n    an indent and: a colon.\n",
    "name: places\nurl: https://a.example/${P}\ninjections:\n- basic: {username: u, password: '${A}'}\n\
     - query: {name: q, value: '${B}'}\n- cookie: {name: c, value: '${C}'}\n",
    "name: json\nurl: https://a.example\npaths: [/run]\ninjections:\n- json: {pointer: /a/b, value: '${D}'}\n",
    "name: form\nurl: https://a.example\npaths: [/run]\ninjections:\n- form: {field: f, value: '${A}'}\n  required: true\n",
    "name: messages\nurl: https://a.example\ninjections:\n- protobuf: {field: 7, key: b.c, value: '${A}'}\n\
     protobuf_messages: first\ngrpc_methods: [p.S/M]\n",
];

/// An authority of an upstream, as one block of several lines.
fn with_authority() -> String {
    let pem = "\
-----BEGIN CERTIFICATE-----
MIIBbzCCARWgAwIBAgIUatVx2T1trToj3rhoRXQuDgkLNKIwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBYTAgFw0yNjExMzAxMjU3MzFaGA8yMTI2MTEwNjEyNTczMVow
DDEKMAgGA1UEAwwBYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCCT7vTs+haH
CccN4oXI/Cc+Tbw/2m7vyu3K1JEWWC4PC++5h5rVCdyvTVOyI3RK0aVJNn3sDhVi
My6MsC7hDDqjUzBRMB0GA1UdDgQWBBSTscMtBeRE2UtUWfOHMowf/bc7BzAfBgNV
HSMEGDAWgBSTscMtBeRE2UtUWfOHMowf/bc7BzAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0gAMEUCIQD0Y7/bWGFjBcnz6Ouwnmza3Vy1C1tHEI+OXODmQeVp
UAIgYrSs3BIiQ9vlx1UKR115aYIf2D0C0JO6uKcJ4Xr7W7w=
-----END CERTIFICATE-----
";
    let block: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!("name: ca\nurl: https://a.example\ntls:\n  ca_pem: |\n{block}")
}

#[test]
fn a_description_is_the_same_after_the_wire_and_after_yaml() {
    let authority = with_authority();
    for yaml in SERVERS.into_iter().chain([authority.as_str()]) {
        let description = parse(yaml).unwrap();
        let wire = description.to_wire(&workspace());
        assert_eq!(ServerDescription::of_wire(&wire).unwrap(), description, "{yaml}");
        let written = serde_saphyr::to_string(&description).unwrap();
        assert!(!written.contains("workspace"), "{written}");
        assert_eq!(parse(&written).unwrap(), description, "{written}");
    }
}

#[test]
fn a_description_goes_through_a_request() {
    for yaml in SERVERS {
        let wire = parse(yaml).unwrap().to_wire(&workspace());
        let stored = Spec::from_wire(&wire, &OwnListeners::default()).unwrap();
        assert_eq!(stored, parse(yaml).unwrap().spec, "{yaml}");
    }
}

#[test]
fn what_the_injector_decides_is_refused() {
    let with = |line: &str| parse(&format!("name: a\nurl: https://a.example\n{line}\n"));
    assert!(with("workspace: w").is_ok());
    for (line, says) in [
        ("workspace: other", "workspace: it is another one"),
        ("revision: 3", "revision: the injector decides it"),
        (
            "uid: 00000000-0000-4000-8000-000000000000",
            "uid: the injector decides it",
        ),
    ] {
        let error = with(line).unwrap_err().to_string();
        assert!(error.starts_with(says), "{error}");
    }
}
