//! Tests of compare-and-set and of repeated requests.

use proto::vault::v1::{RestoreSecretVersionRequest, secret_service_client::SecretServiceClient};
use tonic::transport::Channel;

use super::{older_versions::restore, *};

/// Puts the version after the current one repeatedly, up to `last`. Returns the versions that this client made, and the number
/// of its refused puts.
async fn compare_and_set(mut client: SecretServiceClient<Channel>, last: u64) -> (Vec<u64>, usize) {
    let (mut won, mut lost, mut current) = (Vec::new(), 0, 0);
    while current < last {
        let request = PutSecretRequest {
            expected_version: Some(current),
            ..named("w", "NAME")
        };
        match client.put_secret(request).await {
            Ok(answer) => {
                let version = answer.into_inner().secret.unwrap().version;
                assert_eq!(version, current + 1);
                won.push(version);
                current = version;
            }
            Err(status) => {
                refused(Err::<(), _>(status), Code::Aborted, "VERSION_MISMATCH");
                lost += 1;
                let request = GetSecretMetadataRequest {
                    workspace: "w".into(),
                    name: "NAME".into(),
                };
                let shown = client.get_secret_metadata(request).await.unwrap().into_inner();
                current = shown.secret.unwrap().version;
            }
        }
    }
    (won, lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_of_64_concurrent_clients_makes_each_version() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let channels: Vec<_> = (0..4).map(|_| vault.channel(pki::ADMIN)).collect();
    let clients: Vec<_> = (0..64)
        .map(|number: usize| SecretServiceClient::new(channels[number % channels.len()].clone()))
        .map(|client| tokio::spawn(compare_and_set(client, 100)))
        .collect();
    let (mut won, mut lost) = (Vec::new(), 0);
    for client in clients {
        let (versions, losses) = client.await.unwrap();
        won.extend(versions);
        lost += losses;
    }
    won.sort_unstable();
    assert_eq!(won, (1..=won.len() as u64).collect::<Vec<_>>());
    assert!(won.len() >= 100 && lost >= 64, "{} won, {lost} lost", won.len());
    let shown = metadata(&vault, "NAME").await;
    assert_eq!(shown.version, won.len() as u64);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_a_restore_and_a_delete_with_an_outdated_version_are_refused() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let expecting = |expected_version| PutSecretRequest {
        expected_version,
        ..named("w", "NAME")
    };
    for wrong in [1, u64::MAX] {
        let answer = try_put(&vault, expecting(Some(wrong))).await;
        refused(answer, Code::Aborted, "VERSION_MISMATCH");
    }
    assert!(try_put(&vault, expecting(Some(0))).await.unwrap().created);
    let answer = try_put(&vault, expecting(Some(0))).await;
    let status = refused(answer, Code::Aborted, "VERSION_MISMATCH");
    assert!(status.message().contains('1'), "{}", status.message());
    assert!(!try_put(&vault, expecting(Some(1))).await.unwrap().created);
    let stale = RestoreSecretVersionRequest {
        expected_version: Some(1),
        ..restore("NAME", 1)
    };
    refused(
        vault.secrets().restore_secret_version(stale).await,
        Code::Aborted,
        "VERSION_MISMATCH",
    );
    let delete = |expected_version| DeleteSecretRequest {
        workspace: "w".into(),
        name: "NAME".into(),
        expected_version,
    };
    for wrong in [0, 1, 3] {
        let answer = vault.secrets().delete_secret(delete(Some(wrong))).await;
        refused(answer, Code::Aborted, "VERSION_MISMATCH");
    }
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.version, 2);
    vault.secrets().delete_secret(delete(Some(2))).await.unwrap();
    let answer = vault.secrets().delete_secret(delete(Some(2))).await;
    refused(answer, Code::NotFound, "SECRET_NOT_FOUND");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_answer_was_lost_can_be_retried_and_makes_one_version() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let request = || PutSecretRequest {
        request_id: "0a4f7c1e".into(),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        ..put("w", "name", "value")
    };
    // The client gives up at different moments while the vault works. Its connection exists before.
    let client = vault.secrets();
    let listed = ListSecretsRequest {
        workspace: "w".into(),
        ..Default::default()
    };
    client.clone().list_secrets(listed).await.unwrap();
    for micros in [0, 50, 100, 200, 400, 800, 1600, 3200] {
        let mut client = client.clone();
        let waiting = timeout(Duration::from_micros(micros), client.put_secret(request()));
        drop(waiting.await);
    }
    let first = try_put(&vault, request()).await.unwrap();
    assert!(
        first.created && first.secret.as_ref().unwrap().version == 1,
        "{first:?}"
    );
    assert_eq!(try_put(&vault, request()).await.unwrap(), first);
    // Another spelling of the same name is the same request.
    let spelled = PutSecretRequest {
        name: "NAME".into(),
        ..request()
    };
    assert_eq!(try_put(&vault, spelled).await.unwrap(), first);
    let other = PutSecretRequest {
        request_id: "0a4f7c1e".into(),
        ..put("w", "name", "valuf")
    };
    refused(
        try_put(&vault, other).await,
        Code::AlreadyExists,
        "REQUEST_ID_REUSED",
    );
    let (pki, dir) = (vault.pki.clone(), vault.dir.clone());
    vault.stop().await;
    let vault = Vault::open(pki, dir, |_| {}).await;
    assert_eq!(try_put(&vault, request()).await.unwrap(), first);
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.version, 1);
    let long = PutSecretRequest {
        request_id: "x".repeat(129),
        ..request()
    };
    refused(
        try_put(&vault, long).await,
        Code::InvalidArgument,
        "REQUEST_MALFORMED",
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_principal_cannot_confirm_a_guessed_value_with_a_request_id() {
    const EDITOR: &str = "spiffe://test/editor";
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.roles.editor = vec![format!("{EDITOR}=*")]
    })
    .await;
    vault.workspace("w").await;
    let request = |value: &str| PutSecretRequest {
        request_id: "id".into(),
        ..put("w", "NAME", value)
    };
    try_put(&vault, request("value")).await.unwrap();
    let mut editor = SecretServiceClient::new(vault.channel(EDITOR));
    // A right guess and a wrong guess both make a new version, so they do not differ.
    let right = editor.put_secret(request("value")).await.unwrap().into_inner();
    assert_eq!(right.secret.unwrap().version, 2);
    vault.stop().await;
}
