use super::parse;
use crate::{
    catalog::{CatalogEntry, Entries, EntryName, error::CatalogProblem},
    placement::AuthType,
    registry::server::{Protocol, UpstreamTls},
};

/// A text in the file that no error may repeat.
const MARK: &str = "s3cr3t";

const SHIPPED: &str = include_str!("../../../../deploy/catalog.yaml");

fn read(text: &str) -> Result<Entries, CatalogProblem> {
    parse(text.as_bytes())
}

fn refused(text: &str) -> String {
    read(text)
        .err()
        .unwrap_or_else(|| panic!("was read: {text}"))
        .to_string()
}

fn name(text: &str) -> EntryName {
    EntryName::parse(text).unwrap()
}

#[test]
fn an_entry_needs_a_name_and_a_url() {
    let entries = read("version: 1\nservers: [{name: '@a/b', url: 'https://a.example'}]\n").unwrap();
    let entry = entries.get(&name("@a/b")).unwrap();
    let CatalogEntry { spec, mcp, .. } = entry;
    assert_eq!(entry.default_name.as_str(), "b");
    assert!(!entry.supplies_secrets && !entry.needs_url && entry.docs.is_empty());
    assert_eq!(
        (spec.url.as_str(), spec.auth_type, spec.protocol),
        ("https://a.example", AuthType::SecretHeaders, Protocol::Auto)
    );
    assert_eq!((spec.injections.len(), spec.description.as_str()), (0, ""));
    assert_eq!(
        (&spec.tls, spec.allow_plaintext),
        (&UpstreamTls::default(), false)
    );
    assert!(!mcp);
    assert_eq!(entries.get(&name("@a/c")), None);
}

#[test]
fn every_field_is_read() {
    let entries = read(
        "version: 1\nservers:\n- name: '@tools/mail'\n  url: https://mail.example/v1\n  auth_type: bearer\n  \
         protocol: http2\n  tls: {server_name: other.example}\n  allow_plaintext: true\n  description: Mail\n  \
         secrets: [mail-token]\n  mcp: true\n",
    )
    .unwrap();
    let entry = entries.get(&name("@tools/mail")).unwrap();
    let CatalogEntry { name, spec, mcp, .. } = entry;
    assert!(!entry.supplies_secrets);
    assert_eq!(
        (name.scope(), name.server().as_str(), name.to_string()),
        ("@tools", "mail", "@tools/mail".to_owned())
    );
    assert_eq!(spec.url.as_str(), "https://mail.example/v1");
    assert_eq!(
        (spec.auth_type, spec.protocol),
        (AuthType::Bearer, Protocol::Http2)
    );
    assert_eq!(spec.tls.server_name.as_deref(), Some("other.example"));
    assert_eq!((spec.allow_plaintext, spec.description.as_str()), (true, "Mail"));
    let secrets: Vec<_> = spec.secrets().iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(secrets, ["MAIL_TOKEN"]);
    assert!(mcp);
}

#[test]
fn the_file_that_we_ship_is_a_catalog() {
    let entries = read(SHIPPED).unwrap();
    let github = entries.get(&name("@aerostack/github")).unwrap();
    assert_eq!(github.spec.auth_type, AuthType::SecretHeaders);
    assert!(!github.supplies_secrets && github.spec.injections.len() == 1);
    for entry in entries.0.values() {
        let CatalogEntry { name, spec, .. } = entry;
        assert!(spec.url.is_tls() && !spec.allow_plaintext, "{name}");
        assert!(!spec.description.is_empty(), "{name}");
        assert_eq!(entry.needs_url, spec.url.as_str().contains("YOUR-"), "{name}");
        if name.as_str() != "@aerostack/github" {
            assert!(entry.supplies_secrets && !entry.docs.is_empty(), "{name}");
        }
    }
}

#[test]
fn an_entry_with_injections_supplies_them() {
    let entries = read(
        "version: 1\nservers:\n- name: '@acme/billing'\n  default_name: bills\n  url: https://YOUR-ACCOUNT.example\n  \
         needs_url: true\n  auth_type: bearer\n  injections: [{secret: key, required: true}]\n  docs: \
         https://billing.example/docs\n",
    )
    .unwrap();
    let entry = entries.get(&name("@acme/billing")).unwrap();
    assert_eq!(entry.default_name.as_str(), "bills");
    assert!(entry.supplies_secrets && entry.needs_url);
    assert_eq!(entry.docs, "https://billing.example/docs");
    let secrets = entry.spec.secrets();
    let secrets: Vec<_> = secrets
        .iter()
        .map(|secret| (secret.name.as_str(), secret.required))
        .collect();
    assert_eq!(secrets, [("KEY", true)]);
}

#[test]
fn an_error_names_the_line_the_entry_and_the_field_but_repeats_nothing_else() {
    let entry =
        |lines: &str| format!("version: 1\nservers:\n- name: '@a/b'\n  url: https://a.example\n{lines}");
    let url = |url: &str| format!("version: 1\nservers:\n- name: '@a/b'\n  url: {url}\n");
    for (text, says) in [
        (String::new(), &["version: 1"][..]),
        ("version: 1\n".to_owned(), &["servers is missing"]),
        ("version: 2\nservers: []\n".to_owned(), &["version: it is 2"]),
        (
            "version: 1\nservers: {}\n".to_owned(),
            &["line 2", "must be a list"],
        ),
        (
            "version: 1\nservers:\n- url: https://a.example\n".to_owned(),
            &["line 3", "name is missing"],
        ),
        (
            "version: 1\nservers:\n- name: '@a/b'\n".to_owned(),
            &["line 3", "url is missing"],
        ),
        (
            format!("version: 1\nservers:\n- name: {MARK}\n  url: https://a.example\n"),
            &["line 3, entry 1", "name:", "@SCOPE/NAME"],
        ),
        (entry(&format!("  token: {MARK}\n")), &["line 5", "field token"]),
        // Fields of the servers file that a catalog does not have.
        (
            entry(&format!("  workspace: {MARK}\n")),
            &["line 5", "field workspace"],
        ),
        (
            entry("  injections: [{secret: A}]\n  secrets: [B]\n"),
            &["line 3, @a/b", "secrets: an entry with injections"],
        ),
        (
            entry(&format!("  default_name: {MARK}_\n")),
            &["line 3, @a/b", "default_name:", "a-z"],
        ),
        (
            entry(&format!("  docs: http://{MARK}.example\n")),
            &["line 3, @a/b", "docs:", "https"],
        ),
        (
            entry(&format!("  needs_url: {MARK}\n")),
            &["line 5", "true or false"],
        ),
        (entry(&format!("  uid: {MARK}\n")), &["line 5", "field uid"]),
        (
            entry("  allowed_origins: ['https://a.example']\n"),
            &["line 5", "allowed_origins"],
        ),
        (
            entry(&format!("  auth_type: {MARK}\n")),
            &["line 5", "secret_headers, bearer, skill"],
        ),
        (
            entry(&format!("  protocol: {MARK}\n")),
            &["line 5", "auto, http1, http2"],
        ),
        (entry("  allow_plaintext: yes\n"), &["line 5", "true or false"]),
        (
            entry(&format!("  tls: {{ca_pem: {MARK}}}\n")),
            &["line 3, @a/b", "tls.ca_pem"],
        ),
        (
            entry("  tls: {server_name: 'a b'}\n"),
            &["line 3, @a/b", "tls.server_name"],
        ),
        (
            entry(&format!("  description: {}\n", "x".repeat(1025))),
            &["line 3, @a/b", "description"],
        ),
        (entry("  secrets: ['-']\n"), &["line 3, @a/b", "secrets"]),
        (
            entry("  secrets: [a-b, A.B]\n"),
            &["line 3, @a/b", "A_B is named more than once"],
        ),
        (
            entry("  auth_type: bearer\n  secrets: [A, B]\n"),
            &["line 3, @a/b", "bearer takes exactly one"],
        ),
        (
            url(&format!("ftp://{MARK}")),
            &["line 3, @a/b", "url:", "https or http"],
        ),
        (
            url(&format!("https://u:{MARK}@a.example")),
            &["line 3, @a/b", "user or password"],
        ),
        (
            url(&format!("https://a.example/#{MARK}")),
            &["line 3, @a/b", "fragment"],
        ),
        (
            url("http://a.example"),
            &["line 3, @a/b", "cleartext", "allow_plaintext"],
        ),
        (url("http://169.254.169.254"), &["line 3, @a/b", "metadata"]),
        (
            url("http://localhost:1\n  tls: {server_name: a.example}"),
            &["line 3, @a/b", "no TLS"],
        ),
        (
            format!("{}- name: '@a/b'\n  url: https://b.example\n", entry("")),
            &["line 5, @a/b", "above already"],
        ),
        (entry("  description: &a x\n"), &["anchors"]),
        (
            format!("version: 1\nservers:\n- name: @a/{MARK}\n  url: https://a.example\n"),
            &["line 3", "it is not YAML", "@"],
        ),
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
fn one_error_lists_the_mistakes_of_all_entries() {
    let error = refused(
        "version: 1\nservers:\n- {name: a, url: ftp://a.example}\n- {name: '@a/b', url: 'https://a.example'}\n- \
         {name: '@a/b', url: 'https://a.example'}\n- {name: '@a/c', url: 'http://a.example'}\n",
    );
    let told: Vec<_> = error
        .split("; ")
        .map(|mistake| mistake.split(':').next().unwrap())
        .collect();
    assert_eq!(
        (
            told[0],
            told.iter().filter(|mistake| mistake.starts_with("line")).count()
        ),
        ("line 3, entry 1", 4),
        "{error}"
    );
    for part in [
        "entry 1: name:",
        "entry 1: url:",
        "line 5, @a/b: there is",
        "line 6, @a/c: url:",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let many = refused(&format!(
        "version: 1\nservers:\n{}",
        "- {name: x, url: 'https://a.example'}\n".repeat(500)
    ));
    assert!(
        many.contains("entry 10: ") && !many.contains("entry 11: "),
        "{many}"
    );
    assert!(many.ends_with("; and 490 more") && many.len() < 4096, "{many}");
}
