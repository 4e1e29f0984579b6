//! The vault's contract, over real sockets: names, values, versions, lists, plans, and decrypting.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod wire;

use std::{collections::BTreeSet, fmt::Debug, fs, path::Path, time::Duration};

use bytes::Bytes;
use e2e::{Injector, Pki, Vault, eventually, pki, raw};
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use prost_reflect::DescriptorPool;
use prost_types::FieldMask;
use proto::{
    injector::v1 as injector_api,
    vault::v1::{
        CreateWorkspaceRequest, DecryptAnswer, DecryptCall, DecryptRequest, DecryptResponse, DecryptStatus,
        DecryptStreamRequest, DecryptedSecret, DeleteSecretRequest, DeleteWorkspaceRequest,
        GetSecretMetadataRequest, GetWorkspaceRequest, ListSecretsRequest, ListSecretsResponse,
        ListWorkspacesRequest, Plan, PutSecretRequest, PutSecretResponse, Secret, UpdateWorkspaceRequest,
        Workspace, decrypt_answer::Outcome, put_secret_request::Value,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

const MIB: usize = 1024 * 1024;
const LARGEST: usize = 64 * 1024;

fn named(workspace: &str, name: &str) -> PutSecretRequest {
    put(workspace, name, "value")
}

fn put(workspace: &str, name: &str, value: impl Into<Vec<u8>>) -> PutSecretRequest {
    PutSecretRequest {
        workspace: workspace.to_owned(),
        name: name.to_owned(),
        value: Some(Value::Data(value.into())),
        upstream_origins: Vec::new(),
    }
}

fn ask<S: ToString>(workspace: &str, names: impl IntoIterator<Item = S>) -> DecryptRequest {
    DecryptRequest {
        workspace: workspace.to_owned(),
        names: names.into_iter().map(|name| name.to_string()).collect(),
        ..Default::default()
    }
}

fn create(name: &str, plan: Plan) -> CreateWorkspaceRequest {
    CreateWorkspaceRequest {
        workspace: Some(Workspace {
            name: name.to_owned(),
            plan: plan.into(),
            ..Default::default()
        }),
    }
}

fn update(workspace: Workspace, paths: &[&str]) -> UpdateWorkspaceRequest {
    let paths = paths.iter().map(|&path| path.to_owned()).collect();
    UpdateWorkspaceRequest {
        workspace: Some(workspace),
        update_mask: Some(FieldMask { paths }),
    }
}

fn delete(name: &str, force: bool) -> DeleteWorkspaceRequest {
    DeleteWorkspaceRequest {
        name: name.to_owned(),
        force,
        revision: 0,
    }
}

/// The call was refused with this code, and with this reason in its `ErrorInfo`.
fn refused<T: Debug>(answer: Result<T, Status>, code: Code, reason: &str) -> Status {
    let status = answer.expect_err(reason);
    let (found, domain) = status
        .get_details_error_info()
        .map(|info| (info.reason, info.domain))
        .unwrap_or_default();
    assert_eq!((status.code(), found.as_str()), (code, reason), "{status:?}");
    assert_eq!(domain, "aerostack");
    status
}

async fn try_put(vault: &Vault, request: PutSecretRequest) -> Result<PutSecretResponse, Status> {
    vault
        .secrets()
        .put_secret(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn list(
    vault: &Vault,
    workspace: &str,
    page_size: u32,
    page_token: &str,
) -> Result<ListSecretsResponse, Status> {
    let (workspace, page_token) = (workspace.to_owned(), page_token.to_owned());
    let request = ListSecretsRequest {
        workspace,
        page_size,
        page_token,
    };
    vault
        .secrets()
        .list_secrets(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn decrypt(vault: &Vault, request: DecryptRequest) -> Result<DecryptResponse, Status> {
    vault
        .decrypts()
        .decrypt(request)
        .await
        .map(tonic::Response::into_inner)
}

/// The one secret of an answer to one name.
async fn decrypt_one(vault: &Vault, workspace: &str, name: &str) -> DecryptedSecret {
    let mut answer = decrypt(vault, ask(workspace, [name])).await.unwrap();
    assert_eq!(answer.secrets.len(), 1);
    answer.secrets.remove(0)
}

/// Puts `count` secrets named `S0000` and on, all at once; how many were taken, and what the others were told.
async fn put_many(vault: &Vault, workspace: &str, count: usize) -> (usize, Vec<Status>) {
    let secrets = vault.secrets();
    let puts = (0..count).map(|number| {
        let (mut secrets, request) = (secrets.clone(), named(workspace, &format!("S{number:04}")));
        async move { secrets.put_secret(request).await }
    });
    let answers: Vec<_> = stream::iter(puts).buffer_unordered(128).collect().await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    (taken.len(), refused.into_iter().map(Result::unwrap_err).collect())
}

// ---------------------------------------------------------------------------------------------------------- names

#[tokio::test(flavor = "multi_thread")]
async fn workspaces_refuse_all_but_lower_case_dns_labels() {
    let vault = Vault::start().await;
    let long = "x".repeat(64);
    let huge = "x".repeat(200 * 1024);
    let names = [
        "",
        "A",
        "My-Workspace",
        "-a",
        "a-",
        "a_b",
        "a.b",
        ".",
        "..",
        "/",
        "a/b",
        "a\0",
        "a\0b",
        "a\r\nb",
        "%2e",
        "%2e%2e",
        "a\u{202e}b",
        "caf\u{e9}",
        "cafe\u{301}",
        "🔑",
        " a",
        "a ",
        "a b",
        "*",
        &long,
        &huge,
    ];
    for name in names {
        let (mut workspaces, mut secrets, mut decrypts) =
            (vault.workspaces(), vault.secrets(), vault.decrypts());
        let owned = || name.to_owned();
        let plan = Workspace {
            name: owned(),
            plan: Plan::Free.into(),
            ..Default::default()
        };
        let answers = [
            workspaces
                .create_workspace(create(name, Plan::Free))
                .await
                .map(drop),
            workspaces
                .get_workspace(GetWorkspaceRequest { name: owned() })
                .await
                .map(drop),
            workspaces
                .update_workspace(update(plan, &["plan"]))
                .await
                .map(drop),
            workspaces.delete_workspace(delete(name, true)).await.map(drop),
            secrets.put_secret(named(name, "NAME")).await.map(drop),
            secrets
                .list_secrets(ListSecretsRequest {
                    workspace: owned(),
                    ..Default::default()
                })
                .await
                .map(drop),
            secrets
                .get_secret_metadata(GetSecretMetadataRequest {
                    workspace: owned(),
                    name: "NAME".into(),
                })
                .await
                .map(drop),
            secrets
                .delete_secret(DeleteSecretRequest {
                    workspace: owned(),
                    name: "NAME".into(),
                })
                .await
                .map(drop),
            decrypts.decrypt(ask(name, ["NAME"])).await.map(drop),
        ];
        for answer in answers {
            let status = refused(answer, Code::InvalidArgument, "WORKSPACE_NAME_INVALID");
            assert!(
                status.message().len() < 400,
                "the name is echoed: {} bytes",
                status.message().len()
            );
        }
    }
    let request = ListWorkspacesRequest::default();
    assert!(
        vault
            .workspaces()
            .list_workspaces(request)
            .await
            .unwrap()
            .into_inner()
            .workspaces
            .is_empty()
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_spelling_of_a_secrets_name_is_the_same_secret() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    for (spellings, name) in [
        (["github-token", "GitHub.Token", "GITHUB_TOKEN"], "GITHUB_TOKEN"),
        (["my.api.key", "my api key", "MY/API/KEY"], "MY_API_KEY"),
        (["SlackWebhook", "slackwebhook", "SLACKWEBHOOK"], "SLACKWEBHOOK"),
        (["../a", "..\\A", "___a"], "___A"),
        (["%2e", "_2E", "\u{202e}2e"], "_2E"),
        (["a\0b", "a\nb", "A🔑B"], "A_B"),
        (["a\r\nb", "a\u{65e5}\u{672c}b", "A__B"], "A__B"),
    ] {
        let put_as = |version| format!("{name} {version}");
        for (version, spelling) in spellings.iter().enumerate() {
            let answer = try_put(&vault, put("w", spelling, put_as(version)))
                .await
                .unwrap();
            let secret = answer.secret.unwrap();
            assert_eq!(
                (secret.name.as_str(), secret.version),
                (name, version as u64 + 1),
                "{spelling:?}"
            );
            assert_eq!(answer.created, version == 0, "{spelling:?}");
        }
        for spelling in spellings {
            let request = GetSecretMetadataRequest {
                workspace: "w".into(),
                name: spelling.to_owned(),
            };
            let secret = vault
                .secrets()
                .get_secret_metadata(request)
                .await
                .unwrap()
                .into_inner()
                .secret
                .unwrap();
            assert_eq!((secret.name.as_str(), secret.version), (name, 3), "{spelling:?}");
            let secret = decrypt_one(&vault, "w", spelling).await;
            assert_eq!(
                (secret.name.as_str(), secret.value),
                (name, put_as(2).into_bytes()),
                "{spelling:?}"
            );
        }
        vault.delete("w", spellings[0]).await;
        assert_eq!(
            decrypt_one(&vault, "w", spellings[1]).await.status(),
            DecryptStatus::NotFound
        );
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn composed_and_decomposed_letters_are_different_names() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "caf\u{e9}", "composed").await;
    vault.put("w", "cafe\u{301}", "decomposed").await;
    let answer = decrypt(&vault, ask("w", ["caf\u{e9}", "cafe\u{301}"]))
        .await
        .unwrap();
    let found: Vec<_> = answer
        .secrets
        .iter()
        .map(|secret| (secret.name.as_str(), secret.value.as_slice()))
        .collect();
    assert_eq!(
        found,
        [
            ("CAF_", b"composed".as_slice()),
            ("CAFE_", b"decomposed".as_slice())
        ]
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_names_that_leave_nothing_or_too_much_are_refused() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let long = "x".repeat(129);
    let wide = "\u{e9}x".repeat(65);
    let huge = "x".repeat(200 * 1024);
    for name in [
        "", "..", "/", "___", "-", "\0", "\r\n", "🔑", "\u{202e}", "\u{e9}", &long, &wide, &huge,
    ] {
        let (mut secrets, mut decrypts) = (vault.secrets(), vault.decrypts());
        let (workspace, name) = ("w".to_owned(), name.to_owned());
        let answers = [
            secrets.put_secret(named("w", &name)).await.map(drop),
            decrypts.decrypt(ask("w", ["FINE", &name])).await.map(drop),
            secrets
                .get_secret_metadata(GetSecretMetadataRequest {
                    workspace: workspace.clone(),
                    name: name.clone(),
                })
                .await
                .map(drop),
            secrets
                .delete_secret(DeleteSecretRequest { workspace, name })
                .await
                .map(drop),
        ];
        for answer in answers {
            refused(answer, Code::InvalidArgument, "SECRET_NAME_INVALID");
        }
    }
    assert_eq!(vault.put("w", &"x".repeat(128), "v").await.name, "X".repeat(128));
    assert_eq!(
        vault.put("w", &"\u{e9}x".repeat(64), "v").await.name,
        "_X".repeat(64)
    );
    assert_eq!(list(&vault, "w", 0, "").await.unwrap().secrets.len(), 2);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_larger_than_any_real_one_is_refused_and_others_are_served() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let huge = "x".repeat(MIB);
    let answers = [
        vault
            .workspaces()
            .create_workspace(create(&huge, Plan::Free))
            .await
            .map(drop),
        vault.secrets().put_secret(named("w", &huge)).await.map(drop),
        vault
            .secrets()
            .put_secret(put("w", "NAME", huge.as_bytes()))
            .await
            .map(drop),
        vault.decrypts().decrypt(ask("w", [&huge])).await.map(drop),
    ];
    for answer in answers {
        let status = refused(answer, Code::ResourceExhausted, "LIMIT_EXCEEDED");
        assert!(!status.message().contains("xxx"), "{}", status.message());
    }
    vault.put("w", "NAME", "v").await;
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_decode_is_the_callers_mistake() {
    let vault = Vault::start().await;
    let channel = vault.channel(pki::ADMIN);
    let whole = put("w", "NAME", "canary").encode_to_vec();
    // Field 3 is text: a string that is not UTF-8.
    let not_text = b"\x0a\x01w\x12\x01N\x1a\x07canary\xff";
    for bytes in [
        &whole[..whole.len() - 3],
        &not_text[..],
        &[0xff; 40],
        &[0x0b; 4096],
    ] {
        let answer = wire::open(
            &channel,
            "/vault.v1.SecretService/PutSecret",
            Bytes::copy_from_slice(bytes),
        )
        .await;
        let status = refused(answer.map(drop), Code::InvalidArgument, "REQUEST_MALFORMED");
        assert!(!format!("{status:?}").contains("canary"), "{status:?}");
    }
    vault.workspace("w").await;
    vault.stop().await;
}

// --------------------------------------------------------------------------------------------------------- values

#[tokio::test(flavor = "multi_thread")]
async fn values_of_1_byte_to_64_kib_come_back_byte_for_byte() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    for value in [
        b"v".to_vec(),
        vec![0],
        b"a\0b\r\n".to_vec(),
        vec![0xff, 0xfe, 0x80],
        every_byte,
        vec![7; LARGEST],
    ] {
        vault.put("w", "NAME", &value).await;
        assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, value);
    }
    let text = "h\u{e9}llo 🔑\0";
    let request = PutSecretRequest {
        value: Some(Value::Text(text.to_owned())),
        ..named("w", "NAME")
    };
    try_put(&vault, request).await.unwrap();
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, text.as_bytes());
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_outside_the_limits_is_refused_with_the_limit() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "kept").await;
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    let data = |length| Some(Value::Data(vec![b'x'; length]));
    for value in [
        data(0),
        data(LARGEST + 1),
        data(2 * LARGEST),
        text(""),
        text(&"x".repeat(LARGEST + 1)),
    ] {
        let answer = try_put(
            &vault,
            PutSecretRequest {
                value,
                ..named("w", "NAME")
            },
        )
        .await;
        let status = refused(answer, Code::InvalidArgument, "SECRET_VALUE_SIZE");
        assert!(status.message().contains("65536"), "{}", status.message());
        assert!(!status.message().contains("xx"), "{}", status.message());
    }
    let answer = try_put(
        &vault,
        PutSecretRequest {
            value: None,
            ..named("w", "NAME")
        },
    )
    .await;
    refused(answer, Code::InvalidArgument, "SECRET_VALUE_SIZE");
    let kept = decrypt_one(&vault, "w", "NAME").await;
    assert_eq!((kept.value.as_slice(), kept.version), (b"kept".as_slice(), 1));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_not_the_value() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let canary = "canary-at-rest-".repeat(20);
    vault.put("w", "NAME", &canary).await;
    vault.put("w", "NAME", format!("{canary}2")).await;
    let dir = vault.dir.clone();
    vault.stop().await;
    let stored = files(dir.path());
    assert!(
        stored.iter().any(|bytes| has(bytes, b"NAME")),
        "the store was not looked into"
    );
    assert!(!stored.iter().any(|bytes| has(bytes, b"canary-at-rest")));
}

fn files(dir: &Path) -> Vec<Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![fs::read(path).unwrap()]
            }
        })
        .collect()
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

// ----------------------------------------------------------------------------------------------- versions and lists

#[tokio::test(flavor = "multi_thread")]
async fn versions_count_up_and_are_not_used_again_after_a_delete() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let first = try_put(&vault, put("w", "NAME", "1")).await.unwrap();
    let second = try_put(&vault, put("w", "NAME", "2")).await.unwrap();
    let (first, second) = (
        first.secret.filter(|_| first.created).unwrap(),
        second.secret.filter(|_| !second.created).unwrap(),
    );
    assert_eq!((first.version, second.version), (1, 2));
    assert_eq!(
        (&first.uid, &first.create_time),
        (&second.uid, &second.create_time)
    );
    assert!(second.update_time.unwrap().as_nanos() > first.update_time.unwrap().as_nanos());

    vault.delete("w", "name").await;
    let request = || DeleteSecretRequest {
        workspace: "w".into(),
        name: "NAME".into(),
    };
    refused(
        vault.secrets().delete_secret(request()).await,
        Code::NotFound,
        "SECRET_NOT_FOUND",
    );
    let request = GetSecretMetadataRequest {
        workspace: "w".into(),
        name: "NAME".into(),
    };
    refused(
        vault.secrets().get_secret_metadata(request).await,
        Code::NotFound,
        "SECRET_NOT_FOUND",
    );
    assert_eq!(
        decrypt_one(&vault, "w", "NAME").await.status(),
        DecryptStatus::NotFound
    );

    let third = try_put(&vault, put("w", "NAME", "3")).await.unwrap();
    assert!(third.created);
    let third = third.secret.unwrap();
    assert_eq!(third.version, 3);
    assert_ne!(third.uid, first.uid);
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.version, 3);
    vault.stop().await;
}

trait Nanos {
    fn as_nanos(&self) -> i128;
}

impl Nanos for prost_types::Timestamp {
    fn as_nanos(&self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_names_and_metadata_in_order_and_no_value() {
    let vault = Vault::start().await;
    let workspace = vault.workspace("w").await;
    vault.workspace("w-other").await;
    vault.put("w-other", "ELSEWHERE", "canary").await;
    vault.put("w", "b", "canary").await;
    vault
        .put_for(
            "w",
            "a",
            "canary",
            &["https://API.github.com:443", "https://*.example.com"],
        )
        .await;
    vault.put("w", "b", "canary").await;
    let channel = vault.channel(pki::ADMIN);
    let request = ListSecretsRequest {
        workspace: "w".into(),
        ..Default::default()
    }
    .encode_to_vec();
    let mut pages = wire::open(&channel, "/vault.v1.SecretService/ListSecrets", request.into())
        .await
        .unwrap()
        .into_inner();
    let page = pages.message().await.unwrap().unwrap();
    assert!(!has(&page, b"canary"));
    let ListSecretsResponse {
        secrets,
        next_page_token,
    } = ListSecretsResponse::decode(page).unwrap();
    assert_eq!(next_page_token, "");
    let [a, b] = <[Secret; 2]>::try_from(secrets).unwrap();
    assert_eq!(
        (a.name.as_str(), a.version, b.name.as_str(), b.version),
        ("A", 1, "B", 2)
    );
    assert_eq!(
        a.upstream_origins,
        ["https://api.github.com", "https://*.example.com"]
    );
    assert!(b.upstream_origins.is_empty());
    for secret in [a, b] {
        assert_eq!((secret.workspace.as_str(), secret.uid.len()), ("w", 36));
        assert!(secret.revision > 0 && secret.create_time.is_some() && secret.update_time.is_some());
    }
    let request = GetWorkspaceRequest { name: "w".into() };
    let shown = vault
        .workspaces()
        .get_workspace(request)
        .await
        .unwrap()
        .into_inner()
        .workspace
        .unwrap();
    assert_eq!((shown.secret_count, shown.uid), (2, workspace.uid));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_in_order_and_a_page_is_bounded() {
    let vault = Vault::start().await;
    vault
        .workspaces()
        .create_workspace(create("w", Plan::Enterprise))
        .await
        .unwrap();
    let (taken, _) = put_many(&vault, "w", 1003).await;
    assert_eq!(taken, 1003);
    for (asked, given) in [
        (0, 50),
        (1, 1),
        (999, 999),
        (1000, 1000),
        (1001, 1000),
        (u32::MAX, 1000),
    ] {
        let page = list(&vault, "w", asked, "").await.unwrap();
        assert_eq!(page.secrets.len(), given, "page_size {asked}");
        assert!(!page.next_page_token.is_empty());
    }
    // The size may change from page to page, and what a token stands for may be gone.
    let (mut names, mut token, mut sizes) = (Vec::new(), String::new(), [7, 400, 1, 0].into_iter().cycle());
    loop {
        let page = list(&vault, "w", sizes.next().unwrap(), &token).await.unwrap();
        names.extend(page.secrets.iter().map(|secret| secret.name.clone()));
        if names.len() == 407 {
            vault.delete("w", "S0406").await;
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let expected: Vec<_> = (0..1003).map(|number| format!("S{number:04}")).collect();
    assert_eq!(names, expected);
    let last = list(&vault, "w", 1000, "").await.unwrap();
    let rest = list(&vault, "w", 2, &last.next_page_token).await.unwrap();
    assert_eq!((rest.secrets.len(), rest.next_page_token.as_str()), (2, ""));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_belongs_to_its_request_and_caller() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.viewer = vec!["spiffe://test/viewer=*".to_owned()]
    })
    .await;
    for workspace in ["v", "w"] {
        vault.workspace(workspace).await;
        put_many(&vault, workspace, 3).await;
    }
    let token = list(&vault, "w", 1, "").await.unwrap().next_page_token;
    assert_eq!(list(&vault, "w", 2, &token).await.unwrap().secrets.len(), 2);
    refused(
        list(&vault, "v", 1, &token).await,
        Code::InvalidArgument,
        "PAGE_TOKEN_INVALID",
    );
    let garbage = [
        ".",
        "x",
        "0.",
        &token[1..],
        &format!("{token}00"),
        "\u{e9}\u{e9}.\u{e9}\u{e9}",
        &"f".repeat(10_000),
    ];
    for token in garbage {
        refused(
            list(&vault, "w", 1, token).await,
            Code::InvalidArgument,
            "PAGE_TOKEN_INVALID",
        );
    }
    let request = ListWorkspacesRequest {
        page_size: 1,
        page_token: token.clone(),
    };
    refused(
        vault.workspaces().list_workspaces(request).await,
        Code::InvalidArgument,
        "PAGE_TOKEN_INVALID",
    );
    let mut viewer = proto::vault::v1::secret_service_client::SecretServiceClient::new(
        vault.channel("spiffe://test/viewer"),
    );
    let request = ListSecretsRequest {
        workspace: "w".into(),
        page_size: 1,
        page_token: token,
    };
    refused(
        viewer.list_secrets(request).await,
        Code::InvalidArgument,
        "PAGE_TOKEN_INVALID",
    );

    let page = ListWorkspacesRequest {
        page_size: 1,
        ..Default::default()
    };
    let first = vault
        .workspaces()
        .list_workspaces(page)
        .await
        .unwrap()
        .into_inner();
    let page = ListWorkspacesRequest {
        page_size: 1000,
        page_token: first.next_page_token,
    };
    let second = vault
        .workspaces()
        .list_workspaces(page)
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = first
        .workspaces
        .iter()
        .chain(&second.workspaces)
        .map(|workspace| workspace.name.as_str())
        .collect();
    assert_eq!((names, second.next_page_token.as_str()), (vec!["v", "w"], ""));
    vault.stop().await;
}

// ----------------------------------------------------------------------------------------- workspaces and their plans

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_limits_new_names_exactly_even_when_they_come_at_once() {
    let vault = Vault::start().await;
    let plans = [
        (Plan::Unspecified, 10),
        (Plan::Free, 10),
        (Plan::Starter, 50),
        (Plan::Pro, 200),
        (Plan::Business, 1000),
    ];
    for (number, (plan, limit)) in plans.into_iter().enumerate() {
        let name = format!("w{number}");
        vault
            .workspaces()
            .create_workspace(create(&name, plan))
            .await
            .unwrap();
        let (taken, over) = put_many(&vault, &name, limit + 9).await;
        assert_eq!((taken, over.len()), (limit, 9), "{plan:?}");
        for status in over {
            let status = refused(
                Err::<(), _>(status),
                Code::ResourceExhausted,
                "PLAN_LIMIT_REACHED",
            );
            assert!(
                status.message().contains(&limit.to_string()),
                "{}",
                status.message()
            );
        }
        let request = GetWorkspaceRequest { name };
        let shown = vault
            .workspaces()
            .get_workspace(request)
            .await
            .unwrap()
            .into_inner()
            .workspace
            .unwrap();
        assert_eq!(shown.secret_count, limit as u64);
    }
    vault
        .workspaces()
        .create_workspace(create("w", Plan::Enterprise))
        .await
        .unwrap();
    assert_eq!(put_many(&vault, "w", 1010).await.0, 1010);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_lowered_plan_stops_new_names_only() {
    let vault = Vault::start().await;
    vault
        .workspaces()
        .create_workspace(create("w", Plan::Starter))
        .await
        .unwrap();
    assert_eq!(put_many(&vault, "w", 12).await.0, 12);
    let lower = Workspace {
        name: "w".into(),
        plan: Plan::Free.into(),
        ..Default::default()
    };
    vault
        .workspaces()
        .update_workspace(update(lower, &["plan"]))
        .await
        .unwrap();

    let replaced = try_put(&vault, put("w", "S0011", "new")).await.unwrap();
    assert!(!replaced.created);
    assert_eq!(decrypt_one(&vault, "w", "S0011").await.value, b"new");
    refused(
        try_put(&vault, named("w", "NEW")).await,
        Code::ResourceExhausted,
        "PLAN_LIMIT_REACHED",
    );
    for deleted in ["S0000", "S0001"] {
        vault.delete("w", deleted).await;
        refused(
            try_put(&vault, named("w", "NEW")).await,
            Code::ResourceExhausted,
            "PLAN_LIMIT_REACHED",
        );
    }
    vault.delete("w", "S0002").await;
    assert!(try_put(&vault, named("w", "NEW")).await.unwrap().created);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_its_mask_names_and_checks_the_revision() {
    let vault = Vault::start().await;
    let made = vault.workspace("w").await;
    let pro = || Workspace {
        name: "w".into(),
        plan: Plan::Pro.into(),
        ..Default::default()
    };
    let mut client = vault.workspaces();
    let unmasked = UpdateWorkspaceRequest {
        workspace: Some(pro()),
        update_mask: None,
    };
    refused(
        client.update_workspace(unmasked).await,
        Code::InvalidArgument,
        "FIELD_MASK_INVALID",
    );
    for paths in [
        &[][..],
        &[""],
        &["*"],
        &["name"],
        &["uid"],
        &["secret_count"],
        &["plan", "name"],
        &["Plan"],
        &["workspace.plan"],
    ] {
        let answer = client.update_workspace(update(pro(), paths)).await;
        refused(answer, Code::InvalidArgument, "FIELD_MASK_INVALID");
    }
    for plan in [0, 99, -1] {
        let answer = client
            .update_workspace(update(Workspace { plan, ..pro() }, &["plan"]))
            .await;
        refused(answer, Code::InvalidArgument, "REQUEST_MALFORMED");
    }
    let missing = Workspace {
        name: "gone".into(),
        ..pro()
    };
    refused(
        client.update_workspace(update(missing, &["plan"])).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    let stale = Workspace {
        revision: made.revision + 1,
        ..pro()
    };
    refused(
        client.update_workspace(update(stale, &["plan"])).await,
        Code::Aborted,
        "REVISION_MISMATCH",
    );
    let request = || GetWorkspaceRequest { name: "w".into() };
    let unchanged = client
        .get_workspace(request())
        .await
        .unwrap()
        .into_inner()
        .workspace
        .unwrap();
    assert_eq!(unchanged, made);

    let current = Workspace {
        revision: made.revision,
        uid: "ignored".into(),
        secret_count: 9,
        ..pro()
    };
    let changed = client
        .update_workspace(update(current, &["plan"]))
        .await
        .unwrap()
        .into_inner()
        .workspace
        .unwrap();
    assert_eq!(changed.plan(), Plan::Pro);
    assert!(changed.revision > made.revision);
    assert!(changed.update_time.unwrap().as_nanos() > made.update_time.unwrap().as_nanos());
    assert_eq!(
        (changed.uid, changed.create_time, changed.secret_count),
        (made.uid, made.create_time, 0)
    );
    let again = Workspace {
        revision: made.revision,
        ..pro()
    };
    refused(
        client.update_workspace(update(again, &["plan"])).await,
        Code::Aborted,
        "REVISION_MISMATCH",
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_updates_from_one_revision_one_wins() {
    let vault = Vault::start().await;
    let made = vault.workspace("w").await;
    let client = vault.workspaces();
    let updates = (0..64).map(|_| {
        let mut client = client.clone();
        let workspace = Workspace {
            name: "w".into(),
            plan: Plan::Pro.into(),
            revision: made.revision,
            ..Default::default()
        };
        async move { client.update_workspace(update(workspace, &["plan"])).await }
    });
    let answers: Vec<_> = stream::iter(updates).buffer_unordered(64).collect().await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for answer in lost {
        refused(answer, Code::Aborted, "REVISION_MISMATCH");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_with_secrets_is_deleted_by_force_only_and_one_made_anew_is_another() {
    let vault = Vault::start().await;
    let made = vault.workspace("w").await;
    let mut client = vault.workspaces();
    refused(
        client.create_workspace(create("w", Plan::Free)).await,
        Code::AlreadyExists,
        "WORKSPACE_EXISTS",
    );
    refused(
        client.delete_workspace(delete("gone", true)).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    vault.put("w", "NAME", "old").await;
    refused(
        client.delete_workspace(delete("w", false)).await,
        Code::FailedPrecondition,
        "WORKSPACE_NOT_EMPTY",
    );
    let stale = DeleteWorkspaceRequest {
        revision: made.revision + 1,
        ..delete("w", true)
    };
    refused(
        client.delete_workspace(stale).await,
        Code::Aborted,
        "REVISION_MISMATCH",
    );
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"old");

    client.delete_workspace(delete("w", true)).await.unwrap();
    refused(
        client
            .get_workspace(GetWorkspaceRequest { name: "w".into() })
            .await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    refused(
        decrypt(&vault, ask("w", ["NAME"])).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    refused(
        try_put(&vault, named("w", "NAME")).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    refused(
        client.delete_workspace(delete("w", true)).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );

    let anew = vault.workspace("w").await;
    assert_ne!(anew.uid, made.uid);
    assert_eq!(anew.secret_count, 0);
    assert_eq!(
        decrypt_one(&vault, "w", "NAME").await.status(),
        DecryptStatus::NotFound
    );
    let old = DecryptRequest {
        workspace_uid: made.uid,
        ..ask("w", ["NAME"])
    };
    refused(
        decrypt(&vault, old).await,
        Code::FailedPrecondition,
        "WORKSPACE_REPLACED",
    );

    // Emptied is as good as never filled.
    vault.put("w", "NAME", "new").await;
    vault.delete("w", "NAME").await;
    client.delete_workspace(delete("w", false)).await.unwrap();
    vault.stop().await;
}

// ------------------------------------------------------------------------------------------------------ decrypting

#[tokio::test(flavor = "multi_thread")]
async fn decrypt_answers_each_name_in_order_and_a_missing_one_does_not_fail_the_rest() {
    let vault = Vault::start().await;
    let workspace = vault.workspace("w").await;
    vault
        .put_for(
            "w",
            "BOUND",
            "bound",
            &["https://api.github.com", "https://*.example.com:8443"],
        )
        .await;
    vault.put("w", "FREE", "old").await;
    vault.put("w", "FREE", "free").await;
    let request = DecryptRequest {
        workspace_uid: workspace.uid.clone(),
        server: "s".into(),
        ..ask("w", ["free", "missing", "bound"])
    };
    let answer = decrypt(&vault, request.clone()).await.unwrap();
    assert_eq!(answer.workspace_uid, workspace.uid);
    let expected = |values: bool| {
        let value = |value: &str| {
            if values {
                value.as_bytes().to_vec()
            } else {
                Vec::new()
            }
        };
        let ok = DecryptStatus::Ok.into();
        let origins = ["https://api.github.com", "https://*.example.com:8443"]
            .map(str::to_owned)
            .to_vec();
        [
            DecryptedSecret {
                name: "FREE".into(),
                status: ok,
                version: 2,
                value: value("free"),
                upstream_origins: vec![],
            },
            DecryptedSecret {
                name: "MISSING".into(),
                status: DecryptStatus::NotFound.into(),
                ..Default::default()
            },
            DecryptedSecret {
                name: "BOUND".into(),
                status: ok,
                version: 1,
                value: value("bound"),
                upstream_origins: origins,
            },
        ]
    };
    assert_eq!(answer.secrets, expected(true));
    let checked = decrypt(
        &vault,
        DecryptRequest {
            check_only: true,
            ..request
        },
    )
    .await
    .unwrap();
    assert_eq!(checked.secrets, expected(false));
    assert!(
        decrypt(&vault, ask::<&str>("w", []))
            .await
            .unwrap()
            .secrets
            .is_empty()
    );

    // Origins are replaced with the value, and so can be lifted.
    vault.put("w", "BOUND", "bound").await;
    assert!(
        decrypt_one(&vault, "w", "BOUND")
            .await
            .upstream_origins
            .is_empty()
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decrypt_refuses_what_it_cannot_answer_whole() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "A_B", "v").await;
    let names: Vec<_> = (0..65).map(|number| format!("N{number}")).collect();
    assert_eq!(
        decrypt(&vault, ask("w", &names[..64]))
            .await
            .unwrap()
            .secrets
            .len(),
        64
    );
    refused(
        decrypt(&vault, ask("w", &names)).await,
        Code::InvalidArgument,
        "REQUEST_MALFORMED",
    );
    for twins in [["A_B", "A_B"], ["a-b", "A.B"], ["a b", "a\u{e9}b"]] {
        refused(
            decrypt(&vault, ask("w", twins)).await,
            Code::InvalidArgument,
            "SECRET_NAME_DUPLICATE",
        );
    }
    refused(
        decrypt(&vault, ask("gone", ["A"])).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    let other = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    for (uid, code, reason) in [
        (other.to_owned(), Code::FailedPrecondition, "WORKSPACE_REPLACED"),
        (other.to_uppercase(), Code::InvalidArgument, "REQUEST_MALFORMED"),
        ("x".to_owned(), Code::InvalidArgument, "REQUEST_MALFORMED"),
    ] {
        let request = DecryptRequest {
            workspace_uid: uid,
            ..ask("w", ["A_B"])
        };
        refused(decrypt(&vault, request).await, code, reason);
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_carries_at_most_1_mib_of_values() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    for number in 0..16 {
        vault
            .put("w", &format!("BIG{number}"), vec![number; LARGEST])
            .await;
    }
    vault.put("w", "LAST", "x").await;
    let mut names: Vec<_> = (0..16).map(|number| format!("BIG{number}")).collect();
    let answer = decrypt(&vault, ask("w", &names)).await.unwrap();
    assert_eq!(
        answer
            .secrets
            .iter()
            .map(|secret| secret.value.len())
            .sum::<usize>(),
        MIB
    );
    names.push("LAST".to_owned());
    refused(
        decrypt(&vault, ask("w", &names)).await,
        Code::ResourceExhausted,
        "LIMIT_EXCEEDED",
    );
    vault.stop().await;
}

struct Conversation {
    calls: mpsc::Sender<DecryptStreamRequest>,
    answers: Streaming<proto::vault::v1::DecryptStreamResponse>,
}

impl Conversation {
    async fn open(vault: &Vault, principal: &str) -> Self {
        let mut client =
            proto::vault::v1::decrypt_service_client::DecryptServiceClient::new(vault.channel(principal));
        let (calls, queue) = mpsc::channel(8);
        let answers = client
            .decrypt_stream(ReceiverStream::new(queue))
            .await
            .unwrap()
            .into_inner();
        Self { calls, answers }
    }

    async fn say(&self, calls: impl IntoIterator<Item = (u64, DecryptRequest)>) {
        let calls = calls
            .into_iter()
            .map(|(id, request)| DecryptCall {
                id,
                request: Some(request),
            })
            .collect();
        self.calls.send(DecryptStreamRequest { calls }).await.unwrap();
    }

    async fn hear(&mut self) -> Result<Option<Vec<DecryptAnswer>>, Status> {
        let message = timeout(e2e::PATIENCE, self.answers.message())
            .await
            .expect("no answer came");
        Ok(message?.map(|message| message.answers))
    }

    /// As many answers as were asked for, by their ids.
    async fn gather(&mut self, count: usize) -> Vec<(u64, Outcome)> {
        let mut answers = Vec::new();
        while answers.len() < count {
            answers.extend(self.hear().await.unwrap().expect("the stream ended"));
        }
        let mut answers: Vec<_> = answers
            .into_iter()
            .map(|answer| (answer.id, answer.outcome.unwrap()))
            .collect();
        answers.sort_by_key(|(id, _)| *id);
        answers
    }
}

fn value(outcome: &Outcome) -> &[u8] {
    match outcome {
        Outcome::Response(response) => &response.secrets[0].value,
        Outcome::Error(error) => panic!("{error:?}"),
    }
}

fn failure(outcome: &Outcome) -> (Code, &'static str) {
    match outcome {
        Outcome::Response(response) => panic!("{response:?}"),
        Outcome::Error(error) => (Code::from(error.code), error.reason().name()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_carries_many_decrypts_and_answers_match_their_ids() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    put_many(&vault, "w", 3).await;
    for number in 0..3 {
        vault
            .put("w", &format!("S{number:04}"), format!("value {number}"))
            .await;
    }
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    let ids: BTreeSet<u64> = (0..256).map(|number| u64::MAX - number * 7).collect();
    stream
        .say(ids.iter().map(|id| (*id, ask("w", [format!("S{:04}", id % 3)]))))
        .await;
    stream.say([]).await;
    stream
        .say([(1, ask("w", ["S0001"])), (2, ask("w", ["S0002"]))])
        .await;
    let answers = stream.gather(258).await;
    assert_eq!(
        answers.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        [1, 2].into_iter().chain(ids).collect::<Vec<_>>()
    );
    for (id, outcome) in &answers {
        assert_eq!(value(outcome), format!("value {}", id % 3).as_bytes());
    }
    // What is put is what the next call on the same stream receives.
    vault.put("w", "S0000", "fresh").await;
    stream.say([(9, ask("w", ["S0000"]))]).await;
    assert_eq!(value(&stream.gather(1).await[0].1), b"fresh");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_call_does_not_end_its_stream() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    let replaced = DecryptRequest {
        workspace_uid: proto::Uid::generate().to_string(),
        ..ask("w", ["NAME"])
    };
    let bad = [
        (
            ask("NOT A LABEL", ["NAME"]),
            (Code::InvalidArgument, "WORKSPACE_NAME_INVALID"),
        ),
        (ask("gone", ["NAME"]), (Code::NotFound, "WORKSPACE_NOT_FOUND")),
        (ask("w", [""]), (Code::InvalidArgument, "SECRET_NAME_INVALID")),
        (
            ask("w", ["a-b", "a.b"]),
            (Code::InvalidArgument, "SECRET_NAME_DUPLICATE"),
        ),
        (ask("w", 0..65), (Code::InvalidArgument, "REQUEST_MALFORMED")),
        (replaced, (Code::FailedPrecondition, "WORKSPACE_REPLACED")),
    ];
    let calls = bad
        .iter()
        .enumerate()
        .map(|(id, (request, _))| (id as u64, request.clone()));
    stream.say(calls.chain([(99, ask("w", ["NAME"]))])).await;
    // A call without a request is as bad as any.
    stream
        .calls
        .send(DecryptStreamRequest {
            calls: vec![DecryptCall {
                id: 100,
                request: None,
            }],
        })
        .await
        .unwrap();
    let answers = stream.gather(bad.len() + 2).await;
    for ((id, outcome), (_, expected)) in answers.iter().zip(&bad) {
        assert_eq!(failure(outcome), *expected, "call {id}");
    }
    assert_eq!(value(&answers[bad.len()].1), b"v");
    assert_eq!(failure(&answers[bad.len() + 1].1).1, "WORKSPACE_NAME_INVALID");
    stream.say([(1, ask("w", ["NAME"]))]).await;
    assert_eq!(value(&stream.gather(1).await[0].1), b"v");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_more_than_256_calls_is_refused() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    stream.say((0..257).map(|id| (id, ask("w", ["NAME"])))).await;
    refused(stream.hear().await, Code::InvalidArgument, "REQUEST_MALFORMED");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_of_a_stream_is_authorized_for_its_own_workspace() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.injector = vec![format!("{}=mine", pki::INJECTOR)]
    })
    .await;
    for workspace in ["mine", "theirs"] {
        vault.workspace(workspace).await;
        vault.put(workspace, "NAME", workspace).await;
    }
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    stream
        .say([
            (1, ask("mine", ["NAME"])),
            (2, ask("theirs", ["NAME"])),
            (3, ask("nowhere", ["NAME"])),
        ])
        .await;
    let answers = stream.gather(3).await;
    assert_eq!(value(&answers[0].1), b"mine");
    let (Outcome::Error(theirs), Outcome::Error(nowhere)) = (&answers[1].1, &answers[2].1) else {
        panic!("{answers:?}")
    };
    assert_eq!(theirs, nowhere, "what exists must not show");
    assert_eq!(
        failure(&answers[1].1),
        (Code::PermissionDenied, "PERMISSION_DENIED")
    );
    let alone = refused(
        decrypt(&vault, ask("theirs", ["NAME"])).await,
        Code::PermissionDenied,
        "PERMISSION_DENIED",
    );
    assert_eq!(alone.message(), theirs.message);
    vault.stop().await;
}

// ------------------------------------------------------------------------------------------- nothing is read back

/// How a value might show: as it is, in hexadecimal, in base64 at each of the three alignments, as Rust prints bytes.
struct Canary(Vec<Vec<u8>>);

impl Canary {
    const VALUE: &'static [u8] = b"CANARY-5up3r-s3cr3t-v4lu3";

    fn new() -> Self {
        let value = Self::VALUE;
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        let decimal = value[3..12]
            .iter()
            .map(u8::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let mut forms = vec![
            value[4..16].to_vec(),
            hex.clone().into_bytes(),
            hex.to_uppercase().into(),
            decimal.into(),
        ];
        // Three bytes are four characters; the first and last group depend on what stands beside.
        forms.extend((0..3).map(|skipped| base64(&value[skipped..skipped + 18])));
        Self(forms)
    }

    fn not_in(&self, what: &str, bytes: &[u8]) {
        for form in &self.0 {
            assert!(
                !has(bytes, form),
                "{what} shows {}: {}",
                String::from_utf8_lossy(form),
                String::from_utf8_lossy(bytes)
            );
        }
    }
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes
        .chunks_exact(3)
        .map(|group| group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)));
    groups
        .flat_map(|bits| [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift & 63) as usize]))
        .collect()
}

#[test]
fn the_canary_is_found_in_every_form() {
    let canary = Canary::new();
    let found = |bytes: &[u8]| canary.0.iter().any(|form| has(bytes, form));
    for pad in ["", "x", "xx"] {
        let around = [pad.as_bytes(), Canary::VALUE, b"yyyy"].concat();
        assert!(
            found(&around)
                && found(&base64(&around))
                && found(format!("{around:?} {around:02x?}").as_bytes())
        );
    }
    assert!(!found(b"something else"));
}

/// Every request of the two admin APIs that could have to do with a secret, right and wrong.
fn admin_requests() -> Vec<(&'static str, Vec<u8>)> {
    let canary = || String::from_utf8(Canary::VALUE.to_vec()).unwrap();
    let value = |value| PutSecretRequest {
        value: Some(value),
        ..named("w", "NAME")
    };
    let server = |secrets: &[&str]| e2e::pair::server("w", "s", "http://127.0.0.1:9", secrets);
    let big = canary().repeat(3000);
    let not_utf8 = [b"\x0a\x01w\x12\x01N\x1a\x1a".as_slice(), Canary::VALUE, b"\xff"].concat();
    let cut = &put("w", "NAME", Canary::VALUE).encode_to_vec()[..30];
    vec![
        (
            "/vault.v1.SecretService/PutSecret",
            value(Value::Data(Canary::VALUE.to_vec())).encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            value(Value::Text(canary())).encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            value(Value::Text(big.clone())).encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            value(Value::Text(big.repeat(10))).encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            PutSecretRequest {
                name: "?".into(),
                ..value(Value::Text(canary()))
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            PutSecretRequest {
                workspace: "?".into(),
                ..value(Value::Text(canary()))
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            PutSecretRequest {
                workspace: "gone".into(),
                ..value(Value::Text(canary()))
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            PutSecretRequest {
                upstream_origins: vec!["?".into()],
                ..value(Value::Text(canary()))
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            PutSecretRequest {
                name: "ELEVENTH".into(),
                ..value(Value::Text(canary()))
            }
            .encode_to_vec(),
        ),
        ("/vault.v1.SecretService/PutSecret", not_utf8),
        ("/vault.v1.SecretService/PutSecret", cut.to_vec()),
        (
            "/vault.v1.SecretService/ListSecrets",
            ListSecretsRequest {
                workspace: "w".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/ListSecrets",
            ListSecretsRequest {
                workspace: "w".into(),
                page_token: "x".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/GetSecretMetadata",
            GetSecretMetadataRequest {
                workspace: "w".into(),
                name: "NAME".into(),
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/GetSecretMetadata",
            GetSecretMetadataRequest {
                workspace: "w".into(),
                name: "MISSING".into(),
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.WorkspaceService/CreateWorkspace",
            create("w", Plan::Free).encode_to_vec(),
        ),
        (
            "/vault.v1.WorkspaceService/GetWorkspace",
            GetWorkspaceRequest { name: "w".into() }.encode_to_vec(),
        ),
        ("/vault.v1.WorkspaceService/ListWorkspaces", Vec::new()),
        (
            "/vault.v1.WorkspaceService/UpdateWorkspace",
            update(
                Workspace {
                    name: "w".into(),
                    plan: 2,
                    ..Default::default()
                },
                &["plan"],
            )
            .encode_to_vec(),
        ),
        ("/vault.v1.WorkspaceService/UpdateWorkspace", Vec::new()),
        (
            "/vault.v1.WorkspaceService/DeleteWorkspace",
            delete("w", false).encode_to_vec(),
        ),
        (
            "/vault.v1.DecryptService/Decrypt",
            ask("w", ["NAME"]).encode_to_vec(),
        ),
        ("/vault.v1.DecryptService/DecryptStream", Vec::new()),
        (
            "/injector.v1.ServerService/AddServer",
            injector_api::AddServerRequest {
                server: Some(server(&["NAME"])),
            }
            .encode_to_vec(),
        ),
        (
            "/injector.v1.ServerService/AddServer",
            injector_api::AddServerRequest {
                server: Some(server(&["NAME", "name"])),
            }
            .encode_to_vec(),
        ),
        (
            "/injector.v1.ServerService/GetServer",
            injector_api::GetServerRequest {
                workspace: "w".into(),
                name: "s".into(),
            }
            .encode_to_vec(),
        ),
        ("/injector.v1.ServerService/ListServers", Vec::new()),
        (
            "/injector.v1.ServerService/ExplainInjection",
            injector_api::ExplainInjectionRequest {
                workspace: "w".into(),
                name: "s".into(),
            }
            .encode_to_vec(),
        ),
        (
            "/injector.v1.ServerService/ExplainInjection",
            injector_api::ExplainInjectionRequest {
                workspace: "w".into(),
                name: "gone".into(),
            }
            .encode_to_vec(),
        ),
        (
            "/injector.v1.ServerService/UpdateServer",
            injector_api::UpdateServerRequest {
                server: Some(server(&["NAME", "MISSING"])),
                update_mask: Some(FieldMask {
                    paths: vec!["inject_secrets".into()],
                }),
            }
            .encode_to_vec(),
        ),
        ("/injector.v1.ServerService/UpdateServer", Vec::new()),
        (
            "/injector.v1.ServerService/RemoveServer",
            injector_api::RemoveServerRequest {
                workspace: "w".into(),
                name: "s".into(),
                revision: 0,
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/DeleteSecret",
            DeleteSecretRequest {
                workspace: "w".into(),
                name: "NAME".into(),
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/DeleteSecret",
            DeleteSecretRequest {
                workspace: "w".into(),
                name: "NAME".into(),
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.WorkspaceService/DeleteWorkspace",
            delete("w", true).encode_to_vec(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_admin_call_shows_a_value_in_any_form() {
    let pki = Pki::new();
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    let injector = Injector::start(pki, vault.address).await;
    injector.ready().await;
    vault
        .workspaces()
        .create_workspace(create("w", Plan::Free))
        .await
        .unwrap();
    for name in ["NAME", "A", "B", "C", "D", "E", "F", "G", "H", "I"] {
        vault.put("w", name, Canary::VALUE).await;
    }
    // The value is there, for who may have it.
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, Canary::VALUE);

    let canary = Canary::new();
    let (to_vault, to_injector) = (vault.channel(pki::ADMIN), injector.channel(pki::ADMIN));
    let (mut answered, mut failed) = (BTreeSet::new(), 0);
    for (path, request) in admin_requests() {
        let channel = if path.starts_with("/vault.") {
            &to_vault
        } else {
            &to_injector
        };
        match wire::open(channel, path, request.into()).await {
            Ok(answer) => {
                canary.not_in(path, format!("{:?}", answer.metadata()).as_bytes());
                let mut messages = answer.into_inner();
                while let Some(message) = messages.message().await.unwrap() {
                    canary.not_in(path, &message);
                    answered.insert(path);
                }
                canary.not_in(
                    path,
                    format!("{:?}", messages.trailers().await.unwrap()).as_bytes(),
                );
            }
            Err(status) => {
                assert!(status.source_is_absent(), "{path}: {status:?}");
                failed += 1;
                canary.not_in(
                    path,
                    format!("{status:?} {status} {}", status.message()).as_bytes(),
                );
                canary.not_in(path, status.details());
                canary.not_in(path, format!("{:?}", status.metadata()).as_bytes());
            }
        }
    }
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let admin: Vec<_> = pool
        .services()
        .filter(|service| service.name() != "DecryptService")
        .collect();
    let methods = admin.iter().flat_map(|service| service.methods());
    for method in methods {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        // CreateWorkspace was answered above, before there was a value.
        assert!(
            answered.contains(path.as_str()) || path.ends_with("/CreateWorkspace"),
            "{path} never succeeded"
        );
    }
    assert!(failed >= 14, "only {failed} calls failed");
    for metrics in [vault.metrics, injector.metrics] {
        canary.not_in(
            "metrics",
            &e2e::pair::get(&format!("http://{metrics}/metrics"))
                .await
                .into_body(),
        );
    }
    for file in files(injector.dir.path()) {
        canary.not_in("the injector's files", &file);
    }
    injector.stop().await;
    vault.stop().await;
}

trait Remote {
    fn source_is_absent(&self) -> bool;
}

impl Remote for Status {
    /// The status came over the wire: a client's own has the transport's error as its source.
    fn source_is_absent(&self) -> bool {
        std::error::Error::source(self).is_none()
    }
}

// ------------------------------------------------------------------------------------- reflection, health, probes

/// What reflection of either version lists; the messages of the two differ in their package alone.
async fn reflected(channel: &tonic::transport::Channel, version: &str) -> Result<Vec<String>, Status> {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, ServerReflectionResponse, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    };
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
    let answer = wire::open(channel, &path, list.encode_to_vec().into()).await?;
    let message = answer.into_inner().message().await?.expect("an answer");
    match ServerReflectionResponse::decode(message)
        .unwrap()
        .message_response
    {
        Some(MessageResponse::ListServicesResponse(list)) => {
            Ok(list.service.into_iter().map(|service| service.name).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_answers_who_holds_a_role_and_can_be_turned_off() {
    let services = [
        "grpc.health.v1.Health",
        "vault.v1.DecryptService",
        "vault.v1.SecretService",
        "vault.v1.WorkspaceService",
    ];
    let pki = Pki::new();
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    for version in ["v1", "v1alpha"] {
        for principal in [pki::ADMIN, pki::INJECTOR] {
            let mut listed = reflected(&vault.channel(principal), version).await.unwrap();
            listed.retain(|service| !service.starts_with("grpc.reflection."));
            listed.sort_unstable();
            assert_eq!(listed, services, "{version}");
        }
        let stranger = vault.channel("spiffe://test/stranger");
        refused(
            reflected(&stranger, version).await,
            Code::PermissionDenied,
            "PERMISSION_DENIED",
        );
        let nobody = wire::anonymous(&pki, vault.address);
        refused(
            reflected(&nobody, version).await,
            Code::Unauthenticated,
            "UNAUTHENTICATED",
        );
    }
    vault.stop().await;

    let silent = Vault::start_with(pki, |settings| settings.no_reflection = true).await;
    for version in ["v1", "v1alpha"] {
        let status = reflected(&silent.channel(pki::ADMIN), version).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    }
    silent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_anyone() {
    let pki = Pki::new();
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    for channel in [
        wire::anonymous(&pki, vault.address),
        vault.channel("spiffe://test/stranger"),
    ] {
        let mut health = HealthClient::new(channel);
        for service in ["", "vault.v1.DecryptService"] {
            let request = HealthCheckRequest {
                service: service.to_owned(),
            };
            let answer = health.check(request).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
        }
        let request = HealthCheckRequest {
            service: "unknown".to_owned(),
        };
        assert_eq!(health.check(request).await.unwrap_err().code(), Code::NotFound);
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_under_ip_addresses_and_localhost_only() {
    let vault = Vault::start().await;
    let ask = async |path: &str, hosts: &str| {
        let request = format!("GET {path} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        raw::exchange(vault.metrics, request).await
    };
    let ours = [
        "127.0.0.1",
        "localhost",
        "LocalHost:9051",
        "[::1]:9051",
        "10.1.2.3:9051",
    ];
    let foreign = [
        "evil.example",
        "evil.example:9051",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
    ];
    for path in ["/livez", "/readyz", "/metrics"] {
        for host in ours {
            assert_eq!(
                raw::status(&ask(path, &format!("Host: {host}\r\n")).await),
                200,
                "{path} {host}"
            );
        }
        for host in foreign {
            assert_eq!(
                raw::status(&ask(path, &format!("Host: {host}\r\n")).await),
                421,
                "{path} {host:?}"
            );
        }
        assert_eq!(raw::status(&ask(path, "").await), 421, "{path} without Host");
        assert_eq!(
            raw::status(&ask(path, "Host: localhost\r\nHost: evil.example\r\n").await),
            421,
            "{path} with two"
        );
    }
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    decrypt(&vault, ask_for("w", &["NAME", "MISSING"])).await.unwrap();
    refused(
        decrypt(&vault, ask_for("gone", &["NAME"])).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    let metrics = ask("/metrics", "Host: localhost\r\n").await;
    for line in [
        "aerostack_vault_decrypts_total{outcome=\"OK\"} 1",
        "aerostack_vault_decrypts_total{outcome=\"WORKSPACE_NOT_FOUND\"} 1",
        "aerostack_vault_decrypted_secrets_total{status=\"ok\"} 1",
        "aerostack_vault_decrypted_secrets_total{status=\"not_found\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    vault.stop().await;
}

fn ask_for(workspace: &str, names: &[&str]) -> DecryptRequest {
    ask(workspace, names)
}

// ------------------------------------------------------------------------------------------------ stop and restart

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let vault = Vault::start().await;
    let workspace = vault.workspace("w").await;
    vault.workspace("gone").await;
    vault.put("gone", "NAME", "gone").await;
    vault
        .put_for("w", "BOUND", "bound", &["https://api.github.com"])
        .await;
    vault.put("w", "NAME", "1").await;
    vault.put("w", "NAME", "2").await;
    vault.put("w", "DELETED", "1").await;
    vault.delete("w", "DELETED").await;
    vault
        .workspaces()
        .delete_workspace(delete("gone", true))
        .await
        .unwrap();
    let before = (
        list(&vault, "w", 0, "").await.unwrap(),
        decrypt(&vault, ask("w", ["NAME", "BOUND", "DELETED"]))
            .await
            .unwrap(),
    );
    let (pki, dir) = (vault.pki.clone(), vault.dir.clone());
    vault.stop().await;

    let vault = Vault::open(pki, dir, |_| {}).await;
    let after = (
        list(&vault, "w", 0, "").await.unwrap(),
        decrypt(&vault, ask("w", ["NAME", "BOUND", "DELETED"]))
            .await
            .unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(before.1.secrets[0].value, b"2");
    let shown = vault
        .workspaces()
        .get_workspace(GetWorkspaceRequest { name: "w".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        shown.workspace.unwrap(),
        Workspace {
            secret_count: 2,
            ..workspace
        }
    );
    refused(
        decrypt(&vault, ask("gone", ["NAME"])).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    assert_eq!(vault.put("w", "NAME", "3").await.version, 3);
    assert_eq!(vault.put("w", "DELETED", "2").await.version, 2);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_does_not_open_with_another_root_key_and_is_unharmed() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    let (pki, dir) = (vault.pki.clone(), vault.dir.clone());
    vault.stop().await;

    let other = dir.path().join("other.key");
    vault_service::crypto::root_file::write_new(&other).unwrap();
    let mut settings = e2e::pair::vault_settings(&pki, &dir);
    settings.root_key_file = Some(other);
    let config = settings.check().unwrap();
    let listeners = vault_service::Listeners::bind(&config).await.unwrap();
    let stopped = timeout(
        e2e::PATIENCE,
        vault_service::run(config, listeners, Default::default()),
    )
    .await;
    let error = stopped.expect("it served").unwrap_err().to_string();
    assert!(error.contains("root key"), "{error}");

    let vault = Vault::open(pki, dir, |_| {}).await;
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"v");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_calls_under_way_and_ends_streams() {
    let vault = Vault::start_with(Pki::new(), |settings| settings.shutdown_grace = "15s".to_owned()).await;
    vault.workspace("w").await;
    let (pki, dir, address, metrics) = (vault.pki.clone(), vault.dir.clone(), vault.address, vault.metrics);
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;

    // A put whose body is still to come; a whole call behind it on the same connection says that it has begun.
    let channel = vault.channel(pki::ADMIN);
    let (body, messages) = mpsc::channel(1);
    let mut put_late = Box::pin(wire::open_with(
        &channel,
        "/vault.v1.SecretService/PutSecret",
        ReceiverStream::new(messages),
    ));
    assert!(futures_util::poll!(&mut put_late).is_pending());
    wire::open(
        &channel,
        "/vault.v1.WorkspaceService/ListWorkspaces",
        Bytes::new(),
    )
    .await
    .unwrap();

    let stopped = tokio::spawn(vault.stop());
    eventually("the probes are closed", async || {
        tokio::net::TcpStream::connect(metrics).await.is_err()
    })
    .await;
    refused(stream.hear().await, Code::Unavailable, "SHUTTING_DOWN");
    assert!(!stopped.is_finished(), "it did not wait for the call under way");
    body.send(put("w", "LATE", "late").encode_to_vec().into())
        .await
        .unwrap();
    drop(body);
    let answer = timeout(e2e::PATIENCE, put_late)
        .await
        .expect("no answer")
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap();
    assert!(PutSecretResponse::decode(answer.unwrap()).unwrap().created);
    drop(channel);
    timeout(Duration::from_secs(10), stopped)
        .await
        .expect("it did not stop")
        .unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());

    let vault = Vault::open(pki, dir, |_| {}).await;
    assert_eq!(decrypt_one(&vault, "w", "LATE").await.value, b"late");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_ever_and_acknowledges_nothing_after_it() {
    let vault = Vault::start_with(Pki::new(), |settings| settings.shutdown_grace = "50ms".to_owned()).await;
    vault.workspace("w").await;
    let channel = vault.channel(pki::ADMIN);
    let (body, messages) = mpsc::channel(1);
    let mut late = Box::pin(wire::open_with(
        &channel,
        "/vault.v1.SecretService/PutSecret",
        ReceiverStream::new(messages),
    ));
    assert!(futures_util::poll!(&mut late).is_pending());
    wire::open(
        &channel,
        "/vault.v1.WorkspaceService/ListWorkspaces",
        Bytes::new(),
    )
    .await
    .unwrap();
    timeout(Duration::from_secs(10), vault.stop())
        .await
        .expect("it waits for a call that never ends");
    // The process would be gone by now; here the connection may still be there.
    let _ = body.send(put("w", "LATE", "late").encode_to_vec().into()).await;
    drop(body);
    let status = timeout(e2e::PATIENCE, late)
        .await
        .expect("no answer")
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}
