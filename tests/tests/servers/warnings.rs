//! Tests of warnings about the secrets of a server when the server is stored.

use e2e::{Pair, Upstream, pair::server};
use http::Request;
use proto::{
    WarningKind,
    injector::v1::{AddServerRequest, AuthType, ExplainInjectionRequest, Server, UpdateServerRequest},
};

use super::{URL, catalog::Shop, dev};

/// Updates a server, and returns the kinds and the secrets of the warnings.
async fn updated(pair: &Pair, server: Server, path: &str) -> Vec<(WarningKind, String)> {
    let request = UpdateServerRequest {
        server: Some(server),
        update_mask: Some(prost_types::FieldMask {
            paths: vec![path.to_owned()],
        }),
    };
    let updated = pair.injector.servers().update_server(request).await.unwrap();
    let warnings = updated.into_inner().warnings.into_iter();
    warnings.map(|warning| (warning.kind(), warning.secret)).collect()
}

#[tokio::test]
async fn a_missing_or_unbound_secret_has_a_warning_when_its_server_is_stored() {
    let pair = dev().await;
    let origin = ["https://api.example.com"];
    pair.vault.put_for("dev", "GITHUB_TOKEN", "x", &origin).await;
    pair.vault.put("dev", "FREE", "x").await;
    let fine = server("dev", "fine", URL, &["GITHUB_TOKEN"]);
    assert_eq!(pair.injector.add_with_warnings(fine.clone()).await, []);

    let doubtful = Server {
        required_secrets: vec!["NONE".into()],
        ..server("dev", "doubtful", URL, &["GITHUB_TOKNE", "FREE", "NONE"])
    };
    let warnings = pair.injector.add_with_warnings(doubtful).await;
    let kinds: Vec<_> = warnings.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(
        kinds,
        [
            WarningKind::SecretMissing,
            WarningKind::SecretUnbound,
            WarningKind::SecretMissing
        ]
    );
    for ((_, message), part) in warnings
        .iter()
        .zip(["without it", "FREE is bound to no", "refused"])
    {
        assert!(message.contains(part), "{message}");
    }

    // An update gets the warnings about the whole server.
    let described = Server {
        description: "other".into(),
        inject_secrets: vec!["GITHUB_TOKNE".into()],
        ..fine
    };
    assert_eq!(updated(&pair, described.clone(), "description").await, []);
    assert_eq!(
        updated(&pair, described, "inject_secrets").await,
        [(WarningKind::SecretMissing, "GITHUB_TOKNE".to_owned())]
    );
    pair.stop().await;
}

#[tokio::test]
async fn a_server_that_is_changed_without_the_vault_has_a_warning() {
    let Pair { vault, injector } = dev().await;
    injector.add(server("dev", "api", URL, &["GONE"])).await;
    vault.stop().await;
    let request = UpdateServerRequest {
        server: Some(Server {
            description: "other".into(),
            ..server("dev", "api", URL, &[])
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["description".to_owned()],
        }),
    };
    let answer = injector.servers().update_server(request).await.unwrap();
    let warnings = answer.into_inner().warnings;
    let kinds: Vec<_> = warnings.iter().map(proto::Warning::kind).collect();
    assert_eq!(kinds, [WarningKind::NotChecked]);
    // Only the refusal of a call has something to say about what was sent.
    assert!(!warnings[0].message.contains("was sent"), "{warnings:?}");
    let refused = injector.get("/dev/api/").await;
    assert_eq!(refused.status(), 503);
    let text = String::from_utf8_lossy(refused.body()).into_owned();
    assert!(text.contains("; nothing was sent"), "{text}");
    injector.stop().await;
}

#[tokio::test]
async fn an_injector_that_requires_all_secrets_refuses_calls_with_a_missing_secret() {
    let upstream = Upstream::start().await;
    let pair = Pair::start_with(|_| {}, |settings| settings.require_all_secrets = true).await;
    pair.vault.workspace("dev").await;
    let warnings = pair
        .injector
        .add_with_warnings(server("dev", "api", &upstream.url(), &["OPTIONAL"]))
        .await;
    assert!(warnings[0].1.contains("refused"), "{warnings:?}");
    let request = ExplainInjectionRequest {
        workspace: "dev".into(),
        name: "api".into(),
    };
    let explained = pair.injector.servers().explain_injection(request).await;
    let explained = explained.unwrap().into_inner();
    assert!(!explained.would_forward && explained.secrets[0].required);

    let refused = pair.injector.send(Request::get("/dev/api/"), "").await;
    assert_eq!(refused.status(), 502);
    assert_eq!(refused.headers()["x-aerostack-reason"], "SECRET_REQUIRED_MISSING");
    assert!(upstream.seen().is_empty());
    pair.vault.put("dev", "OPTIONAL", "x").await;
    assert_eq!(
        pair.injector.send(Request::get("/dev/api/"), "").await.status(),
        200
    );
    // The stored server is unchanged.
    let list = pair.injector.servers_file();
    assert!(!std::fs::read_to_string(list).unwrap().contains("required"));
    pair.stop().await;
}

#[tokio::test]
async fn settings_that_do_not_fit_an_mcp_server_have_a_warning_when_it_is_stored() {
    use WarningKind::{AuthTypeUnfit, UrlUnfit};
    let pair = dev().await;
    let (skill, headers) = (AuthType::Skill, AuthType::SecretHeaders);
    for (number, (path, auth_type, expected)) in [
        ("/mcp", skill, &[AuthTypeUnfit][..]),
        ("/v1/MCP/", skill, &[AuthTypeUnfit]),
        ("/mcp", headers, &[]),
        ("/sse", skill, &[AuthTypeUnfit, UrlUnfit]),
        ("/sse", headers, &[UrlUnfit]),
        ("/run", skill, &[]),
        ("/amcp", skill, &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let described = Server {
            auth_type: auth_type.into(),
            ..server(
                "dev",
                &format!("s{number}"),
                &format!("https://a.example{path}"),
                &[],
            )
        };
        let warnings = pair.injector.add_with_warnings(described.clone()).await;
        let kinds: Vec<_> = warnings.into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, expected, "{path}");
        let kinds = updated(&pair, described, "description").await;
        let kinds: Vec<_> = kinds.into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, expected, "{path}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_credential_in_clear_in_the_url_has_a_warning_when_the_server_is_stored() {
    let pair = dev().await;
    let origin = ["https://a.example"];
    pair.vault.put_for("dev", "KEY", "x", &origin).await;
    let of_url = |name: &str, query: &str| server("dev", name, &format!("https://a.example/v1?{query}"), &[]);

    let described = of_url("clear", "v=2&api_key=sk-123&token=t-456");
    let warnings = pair.injector.add_with_warnings(described.clone()).await;
    let kinds: Vec<_> = warnings.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [WarningKind::UrlCredential; 2]);
    for ((_, message), part) in warnings.iter().zip(["api_key=${NAME}", "token=${NAME}"]) {
        assert!(message.contains(part), "{message}");
        assert!(
            !message.contains("-123") && !message.contains("-456"),
            "{message}"
        );
    }
    assert_eq!(
        updated(&pair, described, "description").await.len(),
        2,
        "an update has the warnings about the whole server"
    );

    let injected = Server {
        auth_type: AuthType::Custom.into(),
        ..of_url("injected", "v=2&api_key=${KEY}")
    };
    assert_eq!(pair.injector.add_with_warnings(injected).await, []);
    assert_eq!(pair.injector.add_with_warnings(of_url("plain", "v=2")).await, []);
    pair.stop().await;
}

#[tokio::test]
async fn the_catalog_tells_which_server_speaks_mcp() {
    let entry = "- name: '@tools/mail'\n  url: https://mail.example/\n  auth_type: skill\n  mcp: true\n";
    let shop = Shop::open(entry).await;
    for (name, url, expected) in [
        ("mail", "", &[WarningKind::AuthTypeUnfit][..]),
        // The entry does not apply to another URL.
        ("other", "https://other.example/", &[]),
    ] {
        let request = AddServerRequest {
            server: Some(server("dev", name, url, &[])),
            catalog_entry: "@tools/mail".into(),
        };
        let added = shop.pair.injector.servers().add_server(request).await.unwrap();
        let warnings = added.into_inner().warnings;
        let kinds: Vec<_> = warnings.iter().map(proto::Warning::kind).collect();
        assert_eq!(kinds, expected, "{name}");
    }
    shop.pair.stop().await;
}
