//! Tests that no admin API returns a value.

use std::os::unix::fs::PermissionsExt as _;

use proto::vault::v1::{
    ListSecretVersionsRequest, ListWorkspaceKeysRequest, RestoreSecretVersionRequest,
    RotateWorkspaceKeyRequest,
};

use super::*;

/// The forms in which a value might appear: as it is, in hexadecimal, in base64 at each of the three alignments, and as Rust
/// prints bytes.
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
        // Three bytes are four characters. The first and the last group depend on the neighbouring bytes, and are left out.
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

/// Returns valid and invalid requests of the two admin APIs: every request that could concern a secret.
fn admin_requests() -> Vec<(&'static str, Vec<u8>)> {
    let canary = || String::from_utf8(Canary::VALUE.to_vec()).unwrap();
    let value = |value| PutSecretRequest {
        value: Some(value),
        ..named("w", "NAME")
    };
    let restore = |version| {
        let request = RestoreSecretVersionRequest {
            workspace: "w".into(),
            name: "NAME".into(),
            version,
            ..Default::default()
        };
        request.encode_to_vec()
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
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/injector.v1.ServerService/AddServer",
            injector_api::AddServerRequest {
                server: Some(server(&["NAME", "name"])),
                ..Default::default()
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
        ("/injector.v1.CatalogService/ListCatalogEntries", Vec::new()),
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
        ("/vault.v1.KeyService/GetKeyStatus", Vec::new()),
        (
            "/vault.v1.KeyService/ListWorkspaceKeys",
            ListWorkspaceKeysRequest {
                workspace: "w".into(),
            }
            .encode_to_vec(),
        ),
        ("/vault.v1.KeyService/ListWorkspaceKeys", Vec::new()),
        (
            "/vault.v1.KeyService/RotateWorkspaceKey",
            RotateWorkspaceKeyRequest {
                workspace: "w".into(),
            }
            .encode_to_vec(),
        ),
        ("/vault.v1.KeyService/RotateWorkspaceKey", Vec::new()),
        ("/vault.v1.KeyService/RotateRootKey", Vec::new()),
        ("/vault.v1.BackupService/ExportBackup", Vec::new()),
        ("/vault.v1.BackupService/RestoreBackup", Vec::new()),
        (
            "/vault.v1.SecretService/PutSecret",
            PutSecretRequest {
                labels: [("?".into(), canary())].into(),
                ..value(Value::Text(canary()))
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            PutSecretRequest {
                expected_version: Some(99),
                ..value(Value::Text(canary()))
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            PutSecretRequest {
                expires_at: Some(prost_types::Timestamp::default()),
                ..value(Value::Text(canary()))
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            PutSecretRequest {
                request_id: "id".into(),
                ..value(Value::Text(canary()))
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/PutSecret",
            PutSecretRequest {
                request_id: "id".into(),
                ..value(Value::Text(canary() + "!"))
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/ListSecretVersions",
            ListSecretVersionsRequest {
                workspace: "w".into(),
                name: "NAME".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/ListSecretVersions",
            ListSecretVersionsRequest {
                workspace: "w".into(),
                name: "MISSING".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        ("/vault.v1.SecretService/RestoreSecretVersion", restore(1)),
        ("/vault.v1.SecretService/RestoreSecretVersion", restore(2)),
        (
            "/vault.v1.SecretService/DeleteSecret",
            DeleteSecretRequest {
                workspace: "w".into(),
                name: "NAME".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.SecretService/DeleteSecret",
            DeleteSecretRequest {
                workspace: "w".into(),
                name: "NAME".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/vault.v1.WorkspaceService/DeleteWorkspace",
            delete("w", true).encode_to_vec(),
        ),
    ]
}

/// Gives the vault a root key that it can rotate.
fn with_a_passphrase(settings: &mut vault_service::config::Settings) {
    let words = settings.data_dir.as_ref().unwrap().with_file_name("words");
    fs::write(&words, "correct horse battery staple").unwrap();
    fs::set_permissions(&words, fs::Permissions::from_mode(0o600)).unwrap();
    settings.root.root_key_file.clear();
    settings.root.root_passphrase_file = Some(words);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_admin_call_returns_a_value_in_any_form() {
    let pki = Pki::new();
    let vault = Vault::start_with(pki.clone(), with_a_passphrase).await;
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
    // An injector can decrypt the value.
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, Canary::VALUE);

    let canary = Canary::new();
    let backup = backups::export(&vault).await.unwrap();
    canary.not_in("a backup", &backup);
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
    // The last request deleted the workspace.
    let restored = backups::restore(&vault, &backup).await.unwrap();
    canary.not_in("a restore's answer", &restored.encode_to_vec());
    answered.insert("/vault.v1.BackupService/RestoreBackup");
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, Canary::VALUE);
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let admin: Vec<_> = pool
        .services()
        .filter(|service| service.name() != "DecryptService")
        .collect();
    let methods = admin.iter().flat_map(|service| service.methods());
    for method in methods {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        // The answer to CreateWorkspace came earlier, before the value existed.
        assert!(
            answered.contains(path.as_str()) || path.ends_with("/CreateWorkspace"),
            "{path} never succeeded"
        );
    }
    assert!(failed >= 19, "only {failed} calls failed");
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
    /// Returns true when the status came from the service. A status of the client has the transport's error as its source.
    fn source_is_absent(&self) -> bool {
        std::error::Error::source(self).is_none()
    }
}
