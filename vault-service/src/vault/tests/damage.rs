//! Tests of damage that happens while the vault serves.

use std::{fs, os::unix::fs::FileExt as _};

use proto::WorkspaceName;

use super::*;

/// Number of secrets, which is far more than fit on one page of the store.
const SECRETS: usize = 80;
const LENGTH: usize = 60_000;

/// Flips a bit at each place where the log has these bytes. Returns the number of places.
fn flip_wherever(vault: &Fixture, bytes: &[u8]) -> usize {
    let path = vault.dir.path().join("store").join("db");
    let log = fs::read(&path).unwrap();
    let places = memchr::memmem::find_iter(&log, bytes);
    let file = fs::File::options().write(true).open(&path).unwrap();
    places
        .map(|place| file.write_all_at(&[log[place] ^ 1], place as u64).unwrap())
        .count()
}

#[tokio::test]
async fn a_damaged_record_fails_only_its_own_secret_of_a_decrypt() {
    let vault = Fixture::with_workspace(Plan::Enterprise).await;
    let name = |number: usize| format!("S{number:02}");
    for number in 0..SECRETS {
        vault.put(&name(number), &[b'v'; LENGTH]).await.unwrap();
    }
    // The first secrets share a page with entries that the vault reads when it opens the store, so another secret is damaged.
    let (lost, kept) = (name(SECRETS / 2), name(0));
    let workspace = WorkspaceName::parse("w").unwrap();
    let uid = workspace::find(&vault.writer.store, &workspace).unwrap().uid;
    let key = stored::Kind::Record.key(&uid, &secret(&lost));
    let record = vault.writer.store.read(&key).unwrap().unwrap();
    // After a restart no cache has the record.
    let vault = vault.reopen().await;
    assert!(flip_wherever(&vault, &record[record.len() / 2..][..32]) > 0);
    for _ in 0..2 {
        let both = DecryptQuery {
            names: vec![secret(&lost), secret(&kept)],
            ..query("w", &lost)
        };
        let answer = vault.reader.decrypt(vec![Arc::new(both)]).await.pop().unwrap();
        let [of_lost, of_kept] = answer.unwrap().1.try_into().unwrap();
        assert!(matches!(of_lost, DecryptOutcome::DataLoss), "{of_lost:?}");
        assert_eq!(value(of_kept).1.len(), LENGTH);
    }
}
