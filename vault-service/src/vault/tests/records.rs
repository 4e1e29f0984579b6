//! Tests of records that were moved or changed, and of the size of answers.

use super::*;

#[tokio::test]
async fn a_moved_or_changed_record_does_not_decrypt() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    for name in ["A", "B", "C"] {
        vault.put(name, name.as_bytes()).await.unwrap();
    }
    let store = vault.writer.store.clone();
    let uid = vault.writer.workspace(&admin("w")).await.unwrap().uid;
    let key = |name| stored::Kind::Record.key(&uid, &secret(name));
    swap(&store, key("A"), key("B")).await;
    for name in ["A", "B"] {
        assert!(matches!(
            vault.decrypt(name).await.unwrap(),
            DecryptOutcome::DataLoss
        ));
    }
    let mut bytes = store.read(&key("C")).unwrap().unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    store.commit(Batch::new().put(key("C"), bytes)).await.unwrap();
    assert!(matches!(
        vault.decrypt("C").await.unwrap(),
        DecryptOutcome::DataLoss
    ));
    // A put repairs the secret, because a put does not decrypt the version that it replaces.
    vault.put("C", b"new").await.unwrap();
    assert_eq!(value(vault.decrypt("C").await.unwrap()), (2, b"new".to_vec()));
}

#[tokio::test]
async fn a_record_does_not_decrypt_in_another_workspace() {
    let vault = Fixture::with_workspace(Plan::Free).await;
    vault.put("A", b"secret of w").await.unwrap();
    vault
        .writer
        .create_workspace(&admin("v"), Plan::Free)
        .await
        .unwrap();
    let store = vault.writer.store.clone();
    let name = secret("A");
    let from = vault.writer.workspace(&admin("w")).await.unwrap().uid;
    let to = vault.writer.workspace(&admin("v")).await.unwrap().uid;
    let record = store
        .read(&stored::Kind::Record.key(&from, &name))
        .unwrap()
        .unwrap();
    store
        .commit(Batch::new().put(stored::Kind::Record.key(&to, &name), record))
        .await
        .unwrap();
    let query = query("v", "A");
    let answer = vault.reader.decrypt(vec![Arc::new(query)]).await.pop().unwrap();
    assert!(matches!(
        answer.unwrap().1[0],
        DecryptOutcome::KeyNotLoaded | DecryptOutcome::DataLoss
    ));
}

#[tokio::test]
async fn only_values_in_the_answer_count_towards_its_size() {
    let vault = Fixture::with_workspace(Plan::Starter).await;
    let names: Vec<_> = (0..17).map(|number| secret(&format!("N{number}"))).collect();
    for name in &names {
        vault.put(name.as_str(), &vec![b'x'; 64 * 1024]).await.unwrap();
    }
    for (check_only, count, answered) in [(true, 17, true), (false, 17, false), (false, 16, true)] {
        let query = DecryptQuery {
            names: names[..count].to_vec(),
            check_only,
            ..query("w", "N0")
        };
        let answer = vault.reader.decrypt(vec![Arc::new(query)]).await.pop().unwrap();
        match answer {
            Ok((_, secrets)) => assert!(answered && secrets.len() == count),
            Err(VaultError::AnswerTooLarge) => assert!(!answered),
            Err(other) => panic!("{other:?}"),
        }
    }
}
