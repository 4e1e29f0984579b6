//! Damage that comes while the vault serves.

use std::{fs, os::unix::fs::FileExt as _};

use proto::WorkspaceName;

use super::*;

/// Many more than share a page of the store.
const SECRETS: usize = 80;
const LENGTH: usize = 60_000;

/// Flips a bit wherever the log has these bytes. How often that was.
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
async fn damage_costs_the_secret_that_it_is_in_and_no_other_of_the_call() {
    let vault = Fixture::with_workspace(Plan::Enterprise).await;
    let name = |number: usize| format!("S{number:02}");
    for number in 0..SECRETS {
        vault.put(&name(number), &[b'v'; LENGTH]).await.unwrap();
    }
    // The first ones share their page with what is read when the store is opened.
    let (lost, kept) = (name(SECRETS / 2), name(0));
    let workspace = WorkspaceName::parse("w").unwrap();
    let uid = workspace::find(&vault.writer.store, &workspace).unwrap().uid;
    let key = stored::Kind::Record.key(&uid, &secret(&lost));
    let record = vault.writer.store.read(&key).unwrap().unwrap();
    // It is in no cache then.
    let vault = vault.reopen().await;
    assert!(flip_wherever(&vault, &record[record.len() / 2..][..32]) > 0);
    for _ in 0..2 {
        let both = DecryptQuery {
            names: vec![secret(&lost), secret(&kept)],
            ..wanted("w", &lost)
        };
        let answer = vault.reader.decrypt(vec![Arc::new(both)]).await.pop().unwrap();
        let [of_lost, of_kept] = answer.unwrap().1.try_into().unwrap();
        assert!(matches!(of_lost, DecryptOutcome::DataLoss), "{of_lost:?}");
        assert_eq!(value(of_kept).1.len(), LENGTH);
    }
}
