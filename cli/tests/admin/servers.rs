//! `aerostack workspace server …` and `aerostack explain`

use std::fs;

use serde_json::json;

use crate::shell::Pair;

const URL: [&str; 2] = ["--url", "http://127.0.0.1:1"];

async fn add(pair: &Pair, args: &[&str]) -> serde_json::Value {
    pair.json(&[&["workspace", "server", "add", "w"], args].concat())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scoped_name_with_a_url_needs_no_catalog() {
    let pair = Pair::with_workspace().await;
    let bearer = ["--auth-type", "bearer", "--secrets", "my-token"];
    let server = add(&pair, &[&["@acme/api"], &URL[..], &bearer].concat()).await;
    assert_eq!(server["name"], "api");
    assert_eq!(server["auth_type"], "bearer");
    assert_eq!(server["inject_secrets"], json!(["MY_TOKEN"]));
    let named = add(&pair, &[&["@acme/api", "--name", "other"], &URL[..]].concat()).await;
    assert_eq!(named["name"], "other");
    let said = pair
        .fails(
            73,
            &[&["workspace", "server", "add", "w", "@acme/api"], &URL[..]].concat(),
        )
        .await;
    assert!(said.contains("--name"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_of_known_servers_says_where_they_are() {
    let pair = Pair::with_workspace().await;
    let server = add(&pair, &["@github/api", "--secrets", "GITHUB_TOKEN"]).await;
    assert_eq!(server["url"], "https://api.github.com");
    assert_eq!(server["auth_type"], "bearer");
    let said = pair
        .fails(66, &["workspace", "server", "add", "w", "@github/nosuch"])
        .await;
    assert!(said.contains("@github/api"), "{said}");
    let catalog = pair.json(&["workspace", "server", "catalog"]).await;
    let entries = catalog["entries"].as_array().unwrap();
    let github = entries
        .iter()
        .find(|entry| entry["name"] == "@github/api")
        .unwrap();
    assert_eq!(github["suggested_secrets"], json!(["GITHUB_TOKEN"]));
    // It is the developer's to edit: nothing writes over it.
    let path = pair.dev.dir.join("injector/catalog.yaml");
    fs::write(&path, "version: 1\nservers: []\n").unwrap();
    let catalog = pair.json(&["workspace", "server", "catalog"]).await;
    assert_eq!(catalog["entries"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_nowhere_is_refused() {
    let pair = Pair::with_workspace().await;
    let said = pair.fails(64, &["workspace", "server", "add", "w", "api"]).await;
    assert!(said.contains("--url"), "{said}");
    pair.fails(64, &["workspace", "server", "add", "w", "@api"]).await;
    pair.fails(
        66,
        &[&["workspace", "server", "add", "nosuch", "api"], &URL[..]].concat(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_its_flags_name() {
    let pair = Pair::with_workspace().await;
    let authority = fs::read_to_string(pair.pki("ca.pem")).unwrap();
    let tls = [
        "--tls-ca",
        &pair.pki("ca.pem"),
        "--tls-server-name",
        "internal.example",
    ];
    let secrets = ["--secrets", "a,b", "--required", "a", "--description", "first"];
    let before = add(
        &pair,
        &[&["api", "--url", "https://a.example"], &tls[..], &secrets].concat(),
    )
    .await;
    let update = async |args: &[&str]| {
        pair.json(&[&["workspace", "server", "update", "w", "api"], args].concat())
            .await
    };

    let mut after = update(&["--secrets", "b,A,c", "--protocol", "http2"]).await;
    assert_eq!(after["inject_secrets"], json!(["B", "A", "C"]));
    assert_eq!(after["protocol"], "http2");
    for same in [
        "required_secrets",
        "description",
        "tls",
        "url",
        "uid",
        "auth_type",
    ] {
        assert_eq!(after[same], before[same], "{same}");
    }
    after = update(&["--required=", "--allow-plaintext"]).await;
    assert_eq!(after["required_secrets"], json!([]));
    assert_eq!(after["allow_plaintext"], true);
    after = update(&["--allow-plaintext=false"]).await;
    assert_eq!(after["allow_plaintext"], false);
    // Half of how the certificate is verified stays, and the other half changes.
    after = update(&["--tls-server-name", "other.example"]).await;
    assert_eq!(
        after["tls"],
        json!({"ca_pem": authority, "server_name": "other.example", "allow_bound_secrets": false, "client_cert_secret": ""})
    );
    after = update(&["--allow-bound-secrets", "--tls-client-cert-secret", "client-cert"]).await;
    assert_eq!(
        after["tls"],
        json!({"ca_pem": authority, "server_name": "other.example", "allow_bound_secrets": true,
               "client_cert_secret": "CLIENT_CERT"})
    );
    after = update(&["--allow-bound-secrets=false"]).await;
    assert_eq!(after["tls"]["allow_bound_secrets"], false);
    after = update(&["--tls-ca=", "--tls-server-name=", "--tls-client-cert-secret="]).await;
    assert_eq!(after["tls"], json!(null));

    pair.fails(64, &["workspace", "server", "update", "w", "api"])
        .await;
    pair.fails(
        66,
        &["workspace", "server", "update", "w", "nosuch", "--secrets", "a"],
    )
    .await;
    pair.fails(
        64,
        &[
            "workspace",
            "server",
            "update",
            "w",
            "api",
            "--required",
            "not-injected",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_members_of_a_server_in_json_are_those_that_are_documented() {
    let pair = Pair::with_workspace().await;
    let server = add(&pair, &[&["api"], &URL[..]].concat()).await;
    let mut documented = [
        "workspace",
        "name",
        "uid",
        "revision",
        "create_time",
        "update_time",
        "workspace_uid",
        "url",
        "auth_type",
        "inject_secrets",
        "required_secrets",
        "protocol",
        "tls",
        "allow_plaintext",
        "allowed_origins",
        "oauth",
        "description",
        "protobuf_secrets_field",
        "protobuf_messages",
        "grpc_methods",
        "paths",
        "warnings",
    ];
    documented.sort_unstable();
    let members: Vec<&str> = server.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, documented);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_listed_shown_and_removed() {
    let pair = Pair::with_workspace().await;
    pair.ok(&["workspace", "create", "v"]).await;
    let steer = "first\u{1b}[2J\nsecond";
    add(&pair, &[&["api", "--description", steer], &URL[..]].concat()).await;
    pair.ok(&[&["workspace", "server", "add", "v", "other"], &URL[..]].concat())
        .await;

    let all = pair.ok(&["workspace", "server", "list"]).await.out;
    assert_eq!(all.lines().count(), 3, "{all}");
    let own = pair.ok(&["workspace", "server", "list", "w"]).await.out;
    assert!(
        own.lines().count() == 2 && own.contains("api") && !own.contains("other"),
        "{own}"
    );
    let shown = pair.ok(&["workspace", "server", "show", "w", "api"]).await.out;
    assert!(shown.contains(r"first\u{1b}[2J\nsecond"), "{shown}");
    pair.ok(&["workspace", "server", "remove", "w", "api"]).await;
    pair.fails(66, &["workspace", "server", "remove", "w", "api"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_a_call_that_would_be_refused_by_its_exit_code() {
    let pair = Pair::with_workspace().await;
    add(
        &pair,
        &[&["api", "--secrets", "A", "--required", "A"], &URL[..]].concat(),
    )
    .await;
    let explain = ["explain", "w", "api"];
    let ended = pair.aerostack(&explain).await;
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.out.ends_with("A call would be refused.\n"), "{}", ended.out);
    pair.ok(&["workspace", "secret", "set", "w", "A", "1"]).await;
    assert_eq!(
        pair.json(&explain).await,
        json!({"would_forward": true, "secrets": [
            {"name": "A", "placement": "header x-mcp-secret-a", "required": true, "state": "injected", "version": 1,
             "detail": null},
        ]})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_in_a_secrets_name_is_said_when_its_server_is_added() {
    let pair = Pair::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "GITHUB_TOKEN", "x"];
    pair.ok(&[&set[..], &["--only-to", "http://127.0.0.1:1"]].concat())
        .await;
    let server = ["workspace", "server"];
    let add = [&server[..], &["add", "w", "s"], &URL[..]].concat();
    let ended = pair
        .ok(&[&add[..], &["--secrets", "GITHUB_TOKNE"]].concat())
        .await;
    assert!(
        ended.err.contains("warning: secret GITHUB_TOKNE does not exist"),
        "{}",
        ended.err
    );
    let update = [&server[..], &["update", "w", "s"]].concat();
    // Of the secrets that it has.
    let updated = pair.json(&[&update[..], &["--require-all"]].concat()).await;
    assert_eq!(updated["required_secrets"], json!(["GITHUB_TOKNE"]));
    assert_eq!(updated["warnings"][0]["kind"], "secret_missing");
    assert_eq!(updated["warnings"][0]["secret"], "GITHUB_TOKNE");
    // Of those that it gets.
    let all = ["--secrets", "GITHUB_TOKEN", "--require-all"];
    let updated = pair.json(&[&update[..], &all].concat()).await;
    assert_eq!(updated["required_secrets"], json!(["GITHUB_TOKEN"]));
    assert_eq!(updated["warnings"], json!([]));
    pair.fails(64, &[&update[..], &all, &["--required", "GITHUB_TOKEN"]].concat())
        .await;
}
