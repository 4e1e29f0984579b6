//! Tests of the RPC that lists the catalog.

use e2e::pki;
use proto::injector::v1::{
    AddServerRequest, AuthType, CatalogEntry, HeaderPlacement, Injection, ListCatalogEntriesRequest,
    Protocol, Server, catalog_service_client::CatalogServiceClient, injection::Placement,
    server_service_client::ServerServiceClient,
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{
    URL,
    catalog::{EDITOR, Shop, VIEWER, entry, with_roles},
    why,
};

const STRANGER: &str = "spiffe://test/stranger";

fn denied() -> (Code, String) {
    (Code::PermissionDenied, "PERMISSION_DENIED".into())
}

#[tokio::test]
async fn entries_are_listed_by_name_and_in_pages() {
    let shop = Shop::open(&format!(
        "{}  auth_type: bearer\n  protocol: http1\n  description: Mail\n  injections: [{{secret: mail-token}}]\n  \
         default_name: post\n  needs_url: true\n  docs: https://mail.example/docs\n{}{}",
        entry("@tools/mail", "https://mail.example/v1"),
        entry("@a/one", URL),
        entry("@a-b/one", URL),
    ))
    .await;
    let all = ["@a-b/one", "@a/one", "@tools/mail"];
    let whole = shop.list_as(pki::ADMIN, 0, "").await.unwrap();
    assert_eq!((whole.0, whole.1.as_str()), (all.map(str::to_owned).to_vec(), ""));
    let (first, token) = shop.list_as(VIEWER, 2, "").await.unwrap();
    assert_eq!(first, all[..2]);
    let (rest, end) = shop.list_as(VIEWER, 2, &token).await.unwrap();
    assert_eq!((rest, end.as_str()), (vec!["@tools/mail".to_owned()], ""));
    for (who, token) in [(EDITOR, token.as_str()), (VIEWER, "nonsense")] {
        let refused = shop.list_as(who, 2, token).await.unwrap_err();
        assert_eq!(
            why(&refused),
            (Code::InvalidArgument, "PAGE_TOKEN_INVALID".into())
        );
    }

    let mut client = CatalogServiceClient::new(shop.pair.injector.channel(VIEWER));
    let listed = client
        .list_catalog_entries(ListCatalogEntriesRequest::default())
        .await;
    let expected = CatalogEntry {
        name: "@tools/mail".into(),
        url: "https://mail.example/v1".into(),
        auth_type: AuthType::Bearer.into(),
        protocol: Protocol::Http1.into(),
        description: "Mail".into(),
        suggested_secrets: vec!["MAIL_TOKEN".into()],
        default_name: "post".into(),
        needs_url: true,
        supplies_secrets: true,
        documentation_url: "https://mail.example/docs".into(),
        injections: vec![Injection {
            required: false,
            placement: Some(Placement::Header(HeaderPlacement {
                name: "authorization".into(),
                value: "Bearer ${MAIL_TOKEN}".into(),
            })),
        }],
    };
    assert_eq!(listed.unwrap().into_inner().entries.pop(), Some(expected));
    shop.pair.stop().await;
}

#[tokio::test]
async fn any_role_may_list_entries_and_only_editors_of_the_workspace_may_add_servers() {
    let shop = Shop::open(&entry("@a/one", URL)).await;
    for who in [pki::ADMIN, EDITOR, VIEWER] {
        assert_eq!(shop.list_as(who, 0, "").await.unwrap().0, ["@a/one"], "{who}");
    }
    assert_eq!(why(&shop.list_as(STRANGER, 0, "").await.unwrap_err()), denied());

    let add = async |who: &str, workspace: &str, entry: &str| {
        let request = AddServerRequest {
            server: Some(Server {
                workspace: workspace.into(),
                ..Default::default()
            }),
            catalog_entry: entry.into(),
        };
        let mut client = ServerServiceClient::new(shop.pair.injector.channel(who));
        client.add_server(request).await.map(drop)
    };
    // Only a caller who may add servers learns that an entry does not exist or that its name is invalid.
    for (who, workspace) in [
        (VIEWER, "dev"),
        (STRANGER, "dev"),
        (EDITOR, "ops"),
        (EDITOR, "none"),
    ] {
        let refused = add(who, workspace, "@a/one").await.unwrap_err();
        assert_eq!(why(&refused), denied(), "{who} {workspace}");
        for other in ["@a/none", "nothing"] {
            let other = add(who, workspace, other).await.unwrap_err();
            assert_eq!(
                (why(&other), other.message()),
                (denied(), refused.message()),
                "{who} {workspace}"
            );
        }
    }
    add(EDITOR, "dev", "@a/one").await.unwrap();
    add(pki::ADMIN, "ops", "@a/one").await.unwrap();
    shop.pair.stop().await;
}

#[tokio::test]
async fn only_administrators_may_add_an_entry_that_allows_bound_secrets() {
    let tls = "  tls: {server_name: other.example, allow_bound_secrets: true}\n";
    let shop = Shop::open(&(entry("@a/own", "https://a.example") + tls)).await;
    let add = async |who: &str| {
        let request = AddServerRequest {
            server: Some(Server {
                workspace: "dev".into(),
                ..Default::default()
            }),
            catalog_entry: "@a/own".into(),
        };
        let mut client = ServerServiceClient::new(shop.pair.injector.channel(who));
        client.add_server(request).await
    };
    assert_eq!(why(&add(EDITOR).await.unwrap_err()), denied());
    let added = add(pki::ADMIN).await.unwrap().into_inner().server.unwrap();
    assert!(added.tls.unwrap().allow_bound_secrets);
    shop.pair.stop().await;
}

#[tokio::test]
async fn health_and_reflection_include_the_catalog_service() {
    let pair = with_roles(None).await;
    let name = "injector.v1.CatalogService";
    let request = HealthCheckRequest { service: name.into() };
    let health = HealthClient::new(pair.injector.channel(VIEWER))
        .check(request)
        .await
        .unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);

    let list = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut reflection = ServerReflectionClient::new(pair.injector.channel(VIEWER));
    let answers = reflection
        .server_reflection_info(tokio_stream::once(list))
        .await
        .unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        panic!("{answer:?}")
    };
    assert!(
        listed.service.iter().any(|service| service.name == name),
        "{listed:?}"
    );
    pair.stop().await;
}
