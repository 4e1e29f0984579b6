//! Tests of requests that are repeated.

use proto::{WorkspaceName, vault::v1::ValueFacts};

use super::*;
use crate::vault::secrets::requests::{PART_REQUESTS, REMEMBERED, RequestDigest};

fn with_id(id: &str, new: NewSecret) -> NewSecret {
    NewSecret {
        request_id: Some(RequestId::parse(id).unwrap()),
        ..new
    }
}

impl Fixture {
    /// Returns all remembered requests.
    fn remembered(&self) -> Vec<stored::RequestRecord> {
        let parts = self.writer.store.scan(stored::REQUESTS, None, 100_000).unwrap();
        parts
            .iter()
            .flat_map(|part| {
                stored::decode::<stored::RequestRecords>(&part.value)
                    .unwrap()
                    .requests
            })
            .collect()
    }
}

#[tokio::test]
async fn a_retry_gets_the_same_answer_and_makes_no_second_version() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let put = || with_id("id", new("T", b"1"));
    let first = vault.put_new(put()).await.unwrap();
    assert!(first.created);
    assert_eq!(vault.put_new(put()).await.unwrap(), first);
    // The answer is the same after another put, after a restart, and after a deletion of the secret.
    assert_eq!(vault.put("T", b"2").await.unwrap().secret.version, 2);
    let vault = vault.reopen().await;
    assert_eq!(vault.put_new(put()).await.unwrap(), first);
    assert_eq!(value(vault.decrypt("T").await.unwrap()), (2, b"2".to_vec()));
    vault.delete("T").await.unwrap();
    assert_eq!(vault.put_new(put()).await.unwrap(), first);
    assert!(matches!(
        vault.decrypt("T").await.unwrap(),
        DecryptOutcome::NotFound
    ));
}

#[tokio::test]
async fn a_retry_is_not_refused_because_of_its_expected_version() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let put = || NewSecret {
        expected_version: Some(0),
        ..with_id("id", new("T", b"1"))
    };
    let first = vault.put_new(put()).await.unwrap();
    assert_eq!(vault.put_new(put()).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_of_many_concurrent_retries_makes_a_version() {
    let vault = Arc::new(Fixture::with_workspace(Plan::Free).await);
    let tries: Vec<_> = (0..32)
        .map(|_| {
            let vault = vault.clone();
            tokio::spawn(async move { vault.put_new(with_id("id", new("T", b"1"))).await.unwrap() })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in tries {
        answers.push(answer.await.unwrap());
    }
    assert!(answers.iter().all(|answer| answer == &answers[0]));
    assert_eq!(vault.shown("T").await.unwrap().version, 1);
}

#[tokio::test]
async fn the_id_of_a_different_request_is_refused() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let labels = || {
        let labels = [("a".to_owned(), "b".to_owned())];
        Labels::parse(labels.into()).unwrap()
    };
    let origin = || vec![OriginPattern::parse("https://a.example").unwrap()];
    let put = || with_id("id", new("T", b"1"));
    vault.put_new(put()).await.unwrap();
    for other in [
        with_id("id", new("T", b"2")),
        with_id("id", new("U", b"1")),
        NewSecret {
            labels: labels(),
            ..put()
        },
        NewSecret {
            upstream_origins: origin(),
            ..put()
        },
        NewSecret {
            expiry: Expiry::from_seconds(vault.now() + 60),
            ..put()
        },
        NewSecret {
            expected_version: Some(1),
            ..put()
        },
    ] {
        let refused = vault.put_new(other).await;
        assert!(matches!(refused, Err(VaultError::RequestIdReused)), "{refused:?}");
    }
    let restore = VersionRestore {
        name: secret("T"),
        version: 1,
        expiry: RestoredExpiry::Kept,
        overrides: RestoreOverrides::default(),
        expected_version: None,
        request_id: Some(RequestId::parse("id").unwrap()),
    };
    let refused = vault.writer.restore_version(&admin("w"), restore).await;
    assert!(matches!(refused, Err(VaultError::RequestIdReused)));
    assert_eq!(vault.shown("T").await.unwrap().version, 1);
    // A request id is unique per workspace, so a put in another workspace may use the id `id` again.
    vault
        .writer
        .create_workspace(&admin("v"), Plan::Free)
        .await
        .unwrap();
    vault
        .writer
        .put_secret(&admin("v"), with_id("id", new("T", b"2")))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_retried_restore_makes_no_second_version() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"1").await.unwrap();
    vault.put("T", b"2").await.unwrap();
    let restore = || VersionRestore {
        name: secret("T"),
        version: 1,
        expiry: RestoredExpiry::Kept,
        overrides: RestoreOverrides::default(),
        expected_version: Some(2),
        request_id: Some(RequestId::parse("id").unwrap()),
    };
    let first = vault
        .writer
        .restore_version(&admin("w"), restore())
        .await
        .unwrap();
    assert_eq!(first.secret.version, 3);
    let again = vault
        .writer
        .restore_version(&admin("w"), restore())
        .await
        .unwrap();
    assert_eq!(again, first);
    let other = VersionRestore {
        version: 2,
        ..restore()
    };
    let refused = vault.writer.restore_version(&admin("w"), other).await;
    assert!(matches!(refused, Err(VaultError::RequestIdReused)));
}

#[tokio::test]
async fn a_retried_restore_is_answered_when_its_value_cannot_be_decrypted_any_more() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"1").await.unwrap();
    vault.put("T", b"2").await.unwrap();
    let restore = || VersionRestore {
        name: secret("T"),
        version: 1,
        expiry: RestoredExpiry::Kept,
        overrides: RestoreOverrides::default(),
        expected_version: None,
        request_id: Some(RequestId::parse("id").unwrap()),
    };
    let permit = admin("w");
    let first = vault.writer.restore_version(&permit, restore()).await.unwrap();
    let workspace = WorkspaceName::parse("w").unwrap();
    let uid = workspace::find(&vault.writer.store, &workspace).unwrap().uid;
    let key = stored::Kind::Record.key(&uid, &secret("T"));
    let mut flipped = vault.writer.store.read(&key).unwrap().unwrap();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [flipped, b"no record".to_vec()] {
        let damage = Batch::new().put(key.clone(), damaged);
        vault.writer.store.commit(damage).await.unwrap();
        let again = vault.writer.restore_version(&permit, restore()).await.unwrap();
        assert_eq!(again.secret, first.secret);
        assert_eq!(again.facts, ValueFacts::default());
    }
}

#[tokio::test]
async fn a_request_is_forgotten_after_a_day_and_swept() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put_new(with_id("first", new("T", b"1"))).await.unwrap();
    vault.forward(REMEMBERED - Duration::from_secs(60));
    vault.put_new(with_id("second", new("T", b"2"))).await.unwrap();
    let again = vault.put_new(with_id("first", new("T", b"1"))).await.unwrap();
    assert_eq!(again.secret.version, 1);
    vault.writer.sweep_requests().await.unwrap();
    assert_eq!(vault.remembered().len(), 2);

    vault.forward(Duration::from_secs(60));
    let again = vault.put_new(with_id("first", new("T", b"1"))).await.unwrap();
    assert_eq!(again.secret.version, 3);
    vault.forward(REMEMBERED - Duration::from_secs(60));
    vault.writer.sweep_requests().await.unwrap();
    let left: Vec<u64> = vault.remembered().iter().map(|request| request.version).collect();
    assert_eq!(left, [3]);
}

#[tokio::test]
async fn the_maintenance_task_sweeps_requests_and_writes_use_counts_until_it_is_stopped() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put_new(with_id("id", new("T", b"1"))).await.unwrap();
    vault.decrypt("T").await.unwrap();
    vault.forward(REMEMBERED);
    let stop = CancellationToken::new();
    let house = tokio::spawn(vault.writer.clone().run_maintenance(stop.clone()));
    let kept = async {
        while vault.keys("u/").is_empty() || !vault.keys("q/").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let kept = time::timeout(Duration::from_secs(10), kept).await;
    assert!(kept.is_ok(), "{:?} {:?}", vault.keys("u/"), vault.keys("q/"));
    stop.cancel();
    house.await.unwrap();
}

#[tokio::test]
async fn a_stored_fingerprint_does_not_confirm_a_guessed_value() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault
        .writer
        .create_workspace(&admin("v"), Plan::Free)
        .await
        .unwrap();
    for workspace in ["v", "w"] {
        let put = with_id("id", new("T", b"1"));
        vault.writer.put_secret(&admin(workspace), put).await.unwrap();
    }
    // Fingerprints depend on the workspace's KEK, so equal requests in two workspaces have different fingerprints.
    let kept: HashSet<Vec<u8>> = vault
        .remembered()
        .into_iter()
        .map(|request| request.fingerprint)
        .collect();
    assert_eq!(kept.len(), 2);
}

#[tokio::test]
async fn a_remembered_request_takes_little_space_whatever_its_size() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    let prefix = ["p".repeat(62).as_str(); 4].join(".");
    let labels = (10..42).map(|number| (format!("{prefix}/{number}"), "v".repeat(63)));
    let host = ["h".repeat(59).as_str(); 4].join(".");
    let origins = (10_000..10_000 + MAX_ORIGINS).map(|port| format!("https://{host}:{port}"));
    let put = || NewSecret {
        labels: Labels::parse(labels.clone().collect()).unwrap(),
        upstream_origins: origins
            .clone()
            .map(|origin| OriginPattern::parse(&origin).unwrap())
            .collect(),
        expiry: Expiry::from_seconds(vault.now() + 60),
        ..with_id(&"i".repeat(128), new(&"N".repeat(128), b"1"))
    };
    let first = vault.put_new(put()).await.unwrap();
    assert_eq!(vault.put_new(put()).await.unwrap(), first);
    let parts = vault.writer.store.scan(stored::REQUESTS, None, 10).unwrap();
    let bytes: usize = parts.iter().map(|part| part.key.len() + part.value.len()).sum();
    assert!(bytes < 160, "{bytes}");
}

#[tokio::test]
async fn a_part_remembers_a_bounded_number_of_requests_and_forgets_the_oldest() {
    const MORE: usize = PART_REQUESTS + 3;
    let vault = Fixture::with_workspace(Plan::Free).await;
    let principal = admin("w").principal().clone();
    let part_of = |id: &str| RequestDigest::of(&principal, &RequestId::parse(id).unwrap()).part();
    let part = part_of("0");
    let ids = (0..).map(|number: u32| number.to_string());
    let ids: Vec<String> = ids.filter(|id| part_of(id) == part).take(MORE).collect();
    for id in &ids {
        vault.put_new(with_id(id, new("T", b"v"))).await.unwrap();
    }
    assert_eq!(vault.remembered().len(), PART_REQUESTS);
    let (forgotten, remembered) = ids.split_at(MORE - PART_REQUESTS);
    for (id, version) in remembered.iter().zip(1 + forgotten.len() as u64..) {
        let again = vault.put_new(with_id(id, new("T", b"v"))).await.unwrap();
        assert_eq!(again.secret.version, version);
    }
    let again = vault
        .put_new(with_id(&forgotten[0], new("T", b"v")))
        .await
        .unwrap();
    assert_eq!(again.secret.version, MORE as u64 + 1);
}

#[tokio::test]
async fn a_retried_restore_whose_version_is_gone_is_refused_and_not_done_again() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"1").await.unwrap();
    let restore = || VersionRestore {
        name: secret("T"),
        version: 1,
        expiry: RestoredExpiry::Kept,
        overrides: RestoreOverrides::default(),
        expected_version: None,
        request_id: Some(RequestId::parse("id").unwrap()),
    };
    let again = async || vault.writer.restore_version(&admin("w"), restore()).await;
    assert_eq!(again().await.unwrap().secret.version, 2);
    for _ in 0..2 {
        vault.put("T", b"2").await.unwrap();
        assert_eq!(again().await.unwrap().secret.version, 2);
    }
    vault.put("T", b"2").await.unwrap();
    let gone = again().await;
    assert!(
        matches!(gone, Err(VaultError::NoVersion { version: 2, .. })),
        "{gone:?}"
    );
    vault.delete("T").await.unwrap();
    assert!(matches!(again().await, Err(VaultError::NoSecret(..))));
}
