//! Tests of the use counts of secrets.

use super::*;

impl Fixture {
    async fn give(&self, names: &[&str], server: &str, check_only: bool) {
        let query = DecryptQuery {
            names: names.iter().map(|name| secret(name)).collect(),
            server: Some(ServerName::parse(server).unwrap()),
            check_only,
            ..query("w", "T")
        };
        let answer = self.reader.decrypt(vec![Arc::new(query)]).await.pop().unwrap();
        answer.unwrap();
    }

    /// Returns the count, the server, and the time of the last use in seconds.
    async fn used(&self, name: &str) -> Option<(u64, String, u64)> {
        let LastUse { time, server, count } = self.shown(name).await.unwrap().last_use?;
        Some((count, server, u64::try_from(time.seconds).unwrap()))
    }
}

#[tokio::test]
async fn metadata_show_the_time_the_server_and_the_number_of_decrypts() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    for name in ["T", "U"] {
        vault.put(name, b"v").await.unwrap();
    }
    assert_eq!(vault.used("T").await, None);
    vault.give(&["T", "MISSING"], "one", false).await;
    vault.give(&["T"], "two", false).await;
    // A check without values does not count.
    vault.give(&["T", "U"], "three", true).await;
    let (count, server, time) = vault.used("T").await.unwrap();
    assert_eq!((count, server.as_str()), (2, "two"));
    assert!(time.abs_diff(vault.now()) <= 1);
    assert_eq!(vault.used("U").await, None);
    assert!(vault.keys("u/").is_empty());

    // The metadata combine the counts in the store and in memory.
    vault.writer.flush_uses().await.unwrap();
    assert_eq!(vault.keys("u/").len(), 1);
    assert_eq!(vault.used("T").await, Some((2, "two".to_owned(), time)));
    vault.forward(Duration::from_secs(100));
    vault.give(&["T"], "four", false).await;
    assert_eq!(vault.used("T").await.map(|(count, ..)| count), Some(3));
    let page = Page::parse(10, "", "").unwrap();
    let (listed, _) = vault.writer.secrets(&admin("w"), page).await.unwrap();
    assert_eq!(listed[0].last_use.as_ref().unwrap().count, 3);
    assert_eq!(listed[1].last_use, None);

    // A new version keeps the counts of its secret, and closing the vault writes the counts in memory.
    vault.put("T", b"2").await.unwrap();
    let vault = vault.reopen().await;
    let (count, server, at) = vault.used("T").await.unwrap();
    assert_eq!((count, server.as_str()), (3, "four"));
    assert!(at.abs_diff(time + 100) <= 1);
}

#[tokio::test]
async fn a_secret_created_again_has_no_uses() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"v").await.unwrap();
    vault.give(&["T"], "s", false).await;
    vault.writer.flush_uses().await.unwrap();
    vault.give(&["T"], "s", false).await;
    vault.delete("T").await.unwrap();
    vault.put("T", b"v").await.unwrap();
    assert_eq!(vault.used("T").await, None);
    vault.writer.flush_uses().await.unwrap();
    assert!(vault.keys("u/").is_empty());
}

#[tokio::test]
async fn use_counts_that_could_not_be_written_are_written_later() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"v").await.unwrap();
    vault.give(&["T"], "s", false).await;
    let held = Batch::new()
        .expect_absent(EXCLUSIVE_WRITER)
        .put(EXCLUSIVE_WRITER, "mine");
    vault.writer.store.commit(held).await.unwrap();
    let refused = vault.writer.flush_uses().await;
    assert!(matches!(refused, Err(VaultError::Restoring)), "{refused:?}");
    let released = Batch::new()
        .expect_value(EXCLUSIVE_WRITER, "mine")
        .delete(EXCLUSIVE_WRITER);
    vault.writer.store.commit(released).await.unwrap();
    vault.writer.flush_uses().await.unwrap();
    assert_eq!(vault.keys("u/").len(), 1);
    assert_eq!(vault.used("T").await.map(|(count, ..)| count), Some(1));
}

#[tokio::test]
async fn use_counts_of_missing_secrets_are_not_written() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.writer.use_counters.count(b"none", "s", SystemTime::now());
    vault.writer.flush_uses().await.unwrap();
    assert!(vault.keys("u/").is_empty());
}

#[tokio::test]
async fn a_damaged_use_count_counts_as_none() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("T", b"v").await.unwrap();
    let uid = vault.writer.workspace(&admin("w")).await.unwrap().uid;
    let key = stored::Kind::Use.key(&uid, &secret("T"));
    vault
        .writer
        .store
        .commit(Batch::new().put(key, b"\xff"))
        .await
        .unwrap();
    assert_eq!(vault.used("T").await, None);
    vault.give(&["T"], "s", false).await;
    vault.writer.flush_uses().await.unwrap();
    assert_eq!(vault.used("T").await.map(|(count, ..)| count), Some(1));
}
