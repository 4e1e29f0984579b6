//! Tests of expiries, labels and use counts.

use proto::vault::v1::{RestoreSecretVersionRequest, restore_secret_version_request::Expiry};

use super::{
    older_versions::{restore, versions},
    *,
};

fn in_seconds(seconds: i64) -> Option<prost_types::Timestamp> {
    let now = prost_types::Timestamp::from(std::time::SystemTime::now());
    Some(prost_types::Timestamp {
        seconds: now.seconds + seconds,
        nanos: 0,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_secret_is_not_decrypted_and_is_listed_as_expired() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    for wrong in [
        in_seconds(-1),
        in_seconds(0),
        Some(prost_types::Timestamp {
            seconds: 253_402_300_800,
            nanos: 0,
        }),
        Some(prost_types::Timestamp {
            seconds: -1,
            nanos: 0,
        }),
    ] {
        let request = PutSecretRequest {
            expires_at: wrong,
            ..named("w", "NAME")
        };
        refused(
            try_put(&vault, request).await,
            Code::InvalidArgument,
            "REQUEST_MALFORMED",
        );
    }
    let request = PutSecretRequest {
        expires_at: in_seconds(2),
        ..named("w", "NAME")
    };
    let put = try_put(&vault, request.clone()).await.unwrap().secret.unwrap();
    assert_eq!((put.expires_at, put.expired), (request.expires_at, false));
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;
    // The first decrypt reads the store, the second one its cache.
    eventually("it expired", async || {
        let one = decrypt_one(&vault, "w", "NAME").await;
        one.status() == DecryptStatus::Expired && one.value.is_empty()
    })
    .await;
    stream.say([(1, ask("w", ["NAME"]))]).await;
    let (_, outcome) = stream.gather(1).await.remove(0);
    let Outcome::Response(answer) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(answer.secrets[0].status(), DecryptStatus::Expired);
    let listed = list(&vault, "w", 0, "").await.unwrap().secrets;
    assert!(listed[0].expired && listed[0].version == 1, "{listed:?}");
    assert!(versions(&vault, "NAME").await[0].expired);

    let answer = vault.secrets().restore_secret_version(restore("NAME", 1)).await;
    refused(answer, Code::FailedPrecondition, "RESTORE_EXTENDS_EXPIRY");
    for (expiry, shown) in [
        (Expiry::ExpiresAt(in_seconds(60).unwrap()), true),
        (Expiry::NeverExpires(true), false),
    ] {
        let request = RestoreSecretVersionRequest {
            expiry: Some(expiry),
            ..restore("NAME", 1)
        };
        let answer = vault.secrets().restore_secret_version(request.clone()).await;
        refused(answer, Code::FailedPrecondition, "RESTORE_EXTENDS_EXPIRY");
        let request = RestoreSecretVersionRequest {
            allow_later_expiry: true,
            ..request
        };
        let answer = vault.secrets().restore_secret_version(request).await.unwrap();
        let secret = answer.into_inner().secret.unwrap();
        assert_eq!((secret.expires_at.is_some(), secret.expired), (shown, false));
        assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"value");
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_shown_and_kept_with_each_version() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let labelled = |key: &str, value: &str| PutSecretRequest {
        labels: [(key.to_owned(), value.to_owned())].into(),
        ..named("w", "NAME")
    };
    for (key, value) in [("", "v"), ("-k", "v"), ("k", "a b"), ("k", &"v".repeat(64))] {
        let answer = try_put(&vault, labelled(key, value)).await;
        let status = refused(answer, Code::InvalidArgument, "REQUEST_MALFORMED");
        assert!(status.message().starts_with("labels: "), "{}", status.message());
    }
    try_put(&vault, labelled("example.com/team", "a")).await.unwrap();
    try_put(&vault, labelled("example.com/team", "b")).await.unwrap();
    let shown = metadata(&vault, "NAME").await;
    assert_eq!(shown.labels["example.com/team"], "b");
    let versions = versions(&vault, "NAME").await;
    let labels: Vec<_> = versions
        .iter()
        .map(|version| version.labels["example.com/team"].as_str())
        .collect();
    assert_eq!(labels, ["b", "a"]);
    vault.put("w", "NAME", "v").await;
    assert!(metadata(&vault, "NAME").await.labels.is_empty());
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_the_time_and_the_server_of_the_last_decrypt_also_after_a_restart() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    for name in ["A", "B"] {
        vault.put("w", name, "v").await;
    }
    let asked = |server: &str, check_only| DecryptRequest {
        server: server.into(),
        check_only,
        ..ask("w", ["A"])
    };
    for (server, check_only) in [("one", false), ("two", false), ("three", true)] {
        decrypt(&vault, asked(server, check_only)).await.unwrap();
    }
    let used = async |vault: &Vault| {
        let [a, b] = <[Secret; 2]>::try_from(list(vault, "w", 0, "").await.unwrap().secrets).unwrap();
        assert!(b.last_decrypt_time.is_none() && b.decrypt_count == 0, "{b:?}");
        (
            a.decrypt_count,
            a.last_decrypt_server,
            a.last_decrypt_time.unwrap(),
        )
    };
    let before = used(&vault).await;
    assert_eq!((before.0, before.1.as_str()), (2, "two"));
    let (pki, dir) = (vault.pki.clone(), vault.dir.clone());
    vault.stop().await;
    let vault = Vault::open(pki, dir, |_| {}).await;
    assert_eq!(used(&vault).await, before);
    decrypt(&vault, asked("four", false)).await.unwrap();
    assert_eq!(used(&vault).await.0, 3);
    vault.stop().await;
}
