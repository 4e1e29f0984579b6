//! `aerostack backup` and `aerostack restore`, against real processes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use proto::vault::v1::{
    DecryptRequest, DecryptStatus, PutSecretRequest, decrypt_service_client::DecryptServiceClient,
    put_secret_request::Value, secret_service_client::SecretServiceClient,
};
use rustix::process::{Signal, kill_process};
use tokio::task::JoinSet;

use crate::shell::TestServices;

/// Number of concurrent writers.
const WRITERS: usize = 64;

/// Starts second services with the same root key, in another directory.
async fn start_second(services: &TestServices) -> TestServices {
    let root = fs::read(services.dev.dir.join("root.key")).unwrap();
    TestServices::start_on(|dir| {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
        let path = dir.join("root.key");
        fs::write(&path, root).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    })
    .await
}

fn put(name: String, value: String) -> PutSecretRequest {
    PutSecretRequest {
        workspace: "w".to_owned(),
        name,
        value: Some(Value::Text(value)),
        ..Default::default()
    }
}

/// Decrypts up to 64 secrets as the injector, and returns their statuses, versions and values.
async fn decrypt(services: &TestServices, names: Vec<String>) -> Vec<(DecryptStatus, u64, String)> {
    let request = DecryptRequest {
        workspace: "w".to_owned(),
        names,
        ..Default::default()
    };
    let mut client = DecryptServiceClient::new(services.dev.injector());
    let answer = client.decrypt(request).await.unwrap().into_inner();
    let secrets = answer.secrets.into_iter();
    secrets
        .map(|secret| {
            let value = String::from_utf8(secret.value.clone()).unwrap();
            (secret.status(), secret.version, value)
        })
        .collect()
}

fn value(writer: usize, version: u64) -> String {
    format!("{writer}:{version}:").repeat(1 + (writer * 7 + usize::try_from(version).unwrap() * 13) % 90)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyphen_means_standard_output_or_input() {
    let services = TestServices::with_workspace().await;
    services.ok(&["workspace", "secret", "set", "w", "A", "1"]).await;
    let message = services.sh("aerostack backup --output - > copy").await;
    assert!(
        message.contains("bytes") && message.contains("root key"),
        "{message}"
    );
    assert!(!services.home().join("-").exists());
    let other = start_second(&services).await;
    let copy = fs::read(services.home().join("copy")).unwrap();
    let restored = other
        .aerostack_with_input(&["restore", "-", "-o", "json"], &copy)
        .await;
    assert_eq!(restored.code, 0, "{}", restored.err);
    let restored: serde_json::Value = serde_json::from_str(&restored.out).unwrap();
    assert_eq!(restored["secrets"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_full_load_has_every_put_that_was_acknowledged_before_it() {
    let services = TestServices::start().await;
    services
        .ok(&["workspace", "create", "w", "--plan", "enterprise"])
        .await;
    let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
    let enough = Arc::new(AtomicBool::new(false));
    let channel = services.dev.admin();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (mut client, acknowledged, enough) = (
            SecretServiceClient::new(channel.clone()),
            acknowledged.clone(),
            enough.clone(),
        );
        writers.spawn(async move {
            for version in 1.. {
                if enough.load(Ordering::Relaxed) {
                    return;
                }
                // A writer puts one name repeatedly, and one new name for each version.
                let request = put(format!("CURRENT_{writer}"), value(writer, version));
                let put_version = client
                    .put_secret(request)
                    .await
                    .unwrap()
                    .into_inner()
                    .secret
                    .unwrap()
                    .version;
                assert_eq!(put_version, version);
                let request = put(format!("OWN_{writer}_{version}"), value(writer, version));
                client.put_secret(request).await.unwrap();
                acknowledged[writer].store(version, Ordering::SeqCst);
            }
        });
    }
    let so_far = || -> Vec<u64> {
        acknowledged
            .iter()
            .map(|version| version.load(Ordering::SeqCst))
            .collect()
    };
    let mut backups = Vec::new();
    for number in 0..3 {
        while so_far().iter().min() < Some(&(3 * number + 3)) {
            tokio::task::yield_now().await;
        }
        let before = so_far();
        let name = format!("backup-{number}");
        services.ok(&["backup", "--output", &name]).await;
        assert_ne!(so_far(), before, "there was no load");
        backups.push((name, before));
    }
    enough.store(true, Ordering::Relaxed);
    while let Some(output) = writers.join_next().await {
        output.unwrap();
    }

    for (name, before) in backups {
        let elsewhere = start_second(&services).await;
        let path = services.home().join(name);
        let restored = elsewhere.json(&["restore", path.to_str().unwrap()]).await;
        assert_eq!(restored["workspaces"], 1);
        for (writer, acknowledged) in before.into_iter().enumerate() {
            let current = decrypt(&elsewhere, vec![format!("CURRENT_{writer}")]).await;
            let (status, version, found) = &current[0];
            assert_eq!(*status, DecryptStatus::Ok);
            assert!(*version >= acknowledged, "{writer}: {version} of {acknowledged}");
            assert_eq!(*found, value(writer, *version));
            let versions: Vec<u64> = (1..=acknowledged).collect();
            for versions in versions.chunks(64) {
                let names = versions.iter().map(|version| format!("OWN_{writer}_{version}"));
                let found = decrypt(&elsewhere, names.collect()).await;
                for (version, found) in versions.iter().zip(found) {
                    assert_eq!(found, (DecryptStatus::Ok, 1, value(writer, *version)));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_readable_only_by_its_owner_and_overwrites_no_file() {
    let services = TestServices::with_workspace().await;
    let message = services.ok(&["backup", "--output", "b"]).await;
    assert!(
        message.out.starts_with("b: ") && message.err.contains("root key"),
        "{message:?}"
    );
    let path = services.home().join("b");
    let made = fs::read(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let message = services.fails(73, &["backup", "--output", "b"]).await;
    assert!(message.contains("there already"), "{message}");
    assert_eq!(fs::read(&path).unwrap(), made);
    services.fails(64, &["backup"]).await;
    services.fails(74, &["backup", "--output", "no/such/b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_cannot_be_restored_is_refused_with_a_hint() {
    let services = TestServices::with_workspace().await;
    services.ok(&["workspace", "secret", "set", "w", "A", "1"]).await;
    services.ok(&["backup", "--output", "b"]).await;
    let message = services.fails(65, &["restore", "b"]).await;
    assert!(
        message.contains("has workspaces") && message.contains("new vault"),
        "{message}"
    );

    let path = services.home().join("b");
    let path = path.to_str().unwrap();
    let stranger = TestServices::start().await;
    let message = stranger.fails(65, &["restore", path]).await;
    assert!(message.contains("needs the root key"), "{message}");

    let elsewhere = start_second(&services).await;
    let mut cut_off = fs::read(path).unwrap();
    cut_off.pop();
    let cut_off_path = elsewhere.home().join("cut-off");
    fs::write(&cut_off_path, cut_off).unwrap();
    let message = elsewhere
        .fails(70, &["restore", cut_off_path.to_str().unwrap()])
        .await;
    assert!(
        message.contains("damaged") && message.contains("nothing was changed"),
        "{message}"
    );
    elsewhere.fails(64, &["restore", ".aerostack/root.key"]).await;
    elsewhere.fails(74, &["restore", "missing"]).await;
    let listed = elsewhere.json(&["workspace", "list"]).await;
    assert_eq!(listed["workspaces"], serde_json::json!([]));

    let restored = elsewhere.json(&["restore", path]).await;
    let members: Vec<&str> = restored.as_object().unwrap().keys().map(String::as_str).collect();
    let documented = [
        "backup_time",
        "deleted_secrets",
        "replaced_vault_uid",
        "secrets",
        "vault_uid",
        "versions",
        "workspaces",
    ];
    assert_eq!(members, documented);
    assert_eq!(
        (&restored["secrets"], &restored["versions"]),
        (&1.into(), &1.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_killed_while_a_backup_is_restored_is_empty_or_whole() {
    let services = TestServices::start().await;
    services
        .ok(&["workspace", "create", "w", "--plan", "enterprise"])
        .await;
    let secrets = 3000;
    crate::secrets::put_many(&services, "w", secrets).await;
    services.ok(&["backup", "--output", "b"]).await;
    let path = services.home().join("b").display().to_string();
    let mut elsewhere = start_second(&services).await;
    let (mut empty, mut whole) = (0, 0);
    for round in 0..8u64 {
        let args = ["restore", path.as_str()];
        let restore = elsewhere.aerostack(&args);
        let kill = async {
            tokio::time::sleep(std::time::Duration::from_millis(4 + 9 * round)).await;
            kill_process(elsewhere.dev.id(), Signal::KILL).unwrap();
        };
        let _ = tokio::join!(restore, kill);
        elsewhere = elsewhere.restarted().await;
        let listed = elsewhere.json(&["workspace", "list"]).await;
        match listed["workspaces"].as_array().unwrap().as_slice() {
            [] => empty += 1,
            [workspace] => {
                assert_eq!(workspace["secret_count"], secrets);
                let listed = elsewhere.json(&["workspace", "secret", "list", "w"]).await;
                assert_eq!(listed["secrets"].as_array().unwrap().len(), secrets);
                whole += 1;
                elsewhere.ok(&["workspace", "delete", "w", "--yes"]).await;
            }
            more => panic!("{more:?}"),
        }
    }
    assert!(empty > 0, "never killed in time: {whole} whole");
    elsewhere.ok(&["restore", &path]).await;
    let shown = elsewhere.json(&["workspace", "show", "w"]).await;
    assert_eq!(shown["secret_count"], secrets);
}
