//! `aerostack workspace server …` and `aerostack explain`

use std::fs;

use serde_json::json;

use crate::shell::TestServices;

const URL: [&str; 2] = ["--url", "http://127.0.0.1:1"];

async fn add(services: &TestServices, args: &[&str]) -> serde_json::Value {
    services
        .json(&[&["workspace", "server", "add", "w"], args].concat())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scoped_name_with_a_url_needs_no_catalog() {
    let services = TestServices::with_workspace().await;
    let bearer = ["--auth-type", "bearer", "--secrets", "my-token"];
    let server = add(&services, &[&["@acme/api"], &URL[..], &bearer].concat()).await;
    assert_eq!(server["name"], "api");
    assert_eq!(server["auth_type"], "bearer");
    assert_eq!(server["inject_secrets"], json!(["MY_TOKEN"]));
    let named = add(&services, &[&["@acme/api", "--name", "other"], &URL[..]].concat()).await;
    assert_eq!(named["name"], "other");
    let message = services
        .fails(
            73,
            &[&["workspace", "server", "add", "w", "@acme/api"], &URL[..]].concat(),
        )
        .await;
    assert!(message.contains("--name"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_catalog_is_added_by_its_name_alone() {
    let services = TestServices::with_workspace().await;
    let server = add(&services, &["@stripe/api"]).await;
    assert_eq!(
        (&server["name"], &server["url"]),
        (&json!("stripe"), &json!("https://api.stripe.com"))
    );
    assert_eq!(server["auth_type"], "bearer");
    assert_eq!(server["required_secrets"], json!(["STRIPE_API_KEY"]));
    let other = add(
        &services,
        &["@stripe/api", "--name", "test", "--secrets", "TEST_KEY"],
    )
    .await;
    assert_eq!(
        (&other["name"], &other["inject_secrets"]),
        (&json!("test"), &json!(["TEST_KEY"]))
    );
    let message = services
        .fails(66, &["workspace", "server", "add", "w", "@github/nosuch"])
        .await;
    assert!(message.contains("@github/api"), "{message}");
    let catalog = services.json(&["workspace", "server", "catalog"]).await;
    let entries = catalog["entries"].as_array().unwrap();
    let entry = |name: &str| entries.iter().find(|entry| entry["name"] == name).unwrap();
    let github = entry("@github/api");
    assert_eq!(github["suggested_secrets"], json!(["GITHUB_TOKEN"]));
    assert_eq!(github["supplies_secrets"], true);
    let header = json!({"name": "authorization", "value": "Bearer ${GITHUB_TOKEN}"});
    assert_eq!(
        github["injections"],
        json!([{"header": header, "required": false}])
    );
    // The secret stands in the URL of the entry.
    assert_eq!(
        entry("@telegram/bot")["injections"],
        json!([{"path": {"variable": "TELEGRAM_BOT_TOKEN"}, "required": true}])
    );
    // A restart does not overwrite the catalog, which the developer may have edited.
    let path = services.dev.dir.join("injector/catalog.yaml");
    fs::write(&path, "version: 1\nservers: []\n").unwrap();
    let catalog = services.json(&["workspace", "server", "catalog"]).await;
    assert_eq!(catalog["entries"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_whose_host_depends_on_the_customer_is_added_with_a_url() {
    let services = TestServices::with_workspace().await;
    let message = services
        .fails(64, &["workspace", "server", "add", "w", "@grafana/api"])
        .await;
    assert!(
        message.contains("--url") && message.contains("https://YOUR-STACK.grafana.net"),
        "{message}"
    );
    let server = add(
        &services,
        &["@grafana/api", "--url", "https://grafana.acme.example"],
    )
    .await;
    assert_eq!(
        (&server["name"], &server["auth_type"]),
        (&json!("grafana"), &json!("bearer"))
    );
    assert_eq!(server["url"], "https://grafana.acme.example");
    assert_eq!(server["inject_secrets"], json!(["GRAFANA_SERVICE_ACCOUNT_TOKEN"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_url_is_refused() {
    let services = TestServices::with_workspace().await;
    let message = services
        .fails(64, &["workspace", "server", "add", "w", "api"])
        .await;
    assert!(message.contains("--url"), "{message}");
    services
        .fails(64, &["workspace", "server", "add", "w", "@api"])
        .await;
    services
        .fails(
            66,
            &[&["workspace", "server", "add", "nosuch", "api"], &URL[..]].concat(),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_its_flags_name() {
    let services = TestServices::with_workspace().await;
    let authority = fs::read_to_string(services.pki("ca.pem")).unwrap();
    let tls = [
        "--tls-ca",
        &services.pki("ca.pem"),
        "--tls-server-name",
        "internal.example",
    ];
    let secrets = ["--secrets", "a,b", "--required", "a", "--description", "first"];
    let before = add(
        &services,
        &[&["api", "--url", "https://a.example"], &tls[..], &secrets].concat(),
    )
    .await;
    let update = async |args: &[&str]| {
        services
            .json(&[&["workspace", "server", "update", "w", "api"], args].concat())
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
    // One of the two TLS settings changes, and the other stays.
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

    services
        .fails(64, &["workspace", "server", "update", "w", "api"])
        .await;
    services
        .fails(
            66,
            &["workspace", "server", "update", "w", "nosuch", "--secrets", "a"],
        )
        .await;
    services
        .fails(
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
    let services = TestServices::with_workspace().await;
    let server = add(&services, &[&["api"], &URL[..]].concat()).await;
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
        "injections",
        "protocol",
        "tls",
        "allow_plaintext",
        "allowed_origins",
        "oauth",
        "scrub",
        "on_echo",
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
    let services = TestServices::with_workspace().await;
    services.ok(&["workspace", "create", "v"]).await;
    let steer = "first\u{1b}[2J\nsecond";
    add(&services, &[&["api", "--description", steer], &URL[..]].concat()).await;
    services
        .ok(&[&["workspace", "server", "add", "v", "other"], &URL[..]].concat())
        .await;

    let all = services.ok(&["workspace", "server", "list"]).await.out;
    assert_eq!(all.lines().count(), 3, "{all}");
    let own = services.ok(&["workspace", "server", "list", "w"]).await.out;
    assert!(
        own.lines().count() == 2 && own.contains("api") && !own.contains("other"),
        "{own}"
    );
    let shown = services
        .ok(&["workspace", "server", "show", "w", "api"])
        .await
        .out;
    assert!(shown.contains(r"first\u{1b}[2J\nsecond"), "{shown}");
    services.ok(&["workspace", "server", "remove", "w", "api"]).await;
    services
        .fails(66, &["workspace", "server", "remove", "w", "api"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_exits_with_1_when_a_call_would_be_refused() {
    let services = TestServices::with_workspace().await;
    add(
        &services,
        &[&["api", "--secrets", "A", "--required", "A"], &URL[..]].concat(),
    )
    .await;
    let explain = ["explain", "w", "api"];
    let output = services.aerostack(&explain).await;
    assert_eq!(output.code, 1, "{}", output.err);
    assert!(
        output.out.ends_with("A call would be refused.\n"),
        "{}",
        output.out
    );
    services
        .ok(&["workspace", "secret", "set", "w", "A", "value-of-a"])
        .await;
    assert_eq!(
        services.json(&explain).await,
        json!({"would_forward": true, "secrets": [
            {"name": "A", "placement": "header x-mcp-secret-a", "required": true, "state": "injected", "version": 1,
             "detail": null, "note": null},
        ]})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_does_not_exist_is_reported_when_its_server_is_added() {
    let services = TestServices::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "GITHUB_TOKEN", "x"];
    services
        .ok(&[&set[..], &["--only-to", "http://127.0.0.1:1"]].concat())
        .await;
    let server = ["workspace", "server"];
    let add = [&server[..], &["add", "w", "s"], &URL[..]].concat();
    let output = services
        .ok(&[&add[..], &["--secrets", "GITHUB_TOKNE"]].concat())
        .await;
    assert!(
        output.err.contains("warning: secret GITHUB_TOKNE does not exist"),
        "{}",
        output.err
    );
    let update = [&server[..], &["update", "w", "s"]].concat();
    // The secrets of the workspace.
    let updated = services.json(&[&update[..], &["--require-all"]].concat()).await;
    assert_eq!(updated["required_secrets"], json!(["GITHUB_TOKNE"]));
    assert_eq!(updated["warnings"][0]["kind"], "secret_missing");
    assert_eq!(updated["warnings"][0]["secret"], "GITHUB_TOKNE");
    // The secrets of the server.
    let all = ["--secrets", "GITHUB_TOKEN", "--require-all"];
    let updated = services.json(&[&update[..], &all].concat()).await;
    assert_eq!(updated["required_secrets"], json!(["GITHUB_TOKEN"]));
    assert_eq!(updated["warnings"], json!([]));
    services
        .fails(64, &[&update[..], &all, &["--required", "GITHUB_TOKEN"]].concat())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_http_url_names_the_flag_that_allows_it() {
    let services = TestServices::with_workspace().await;
    let url = "http://10.0.0.1";
    let add = ["workspace", "server", "add", "w", "api", "--url", url];
    let output = services.aerostack(&add).await;
    assert!(
        output.err.contains("or --allow-plaintext") && !output.err.contains("allow_plaintext"),
        "{}",
        output.err
    );
}
