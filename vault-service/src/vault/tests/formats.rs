//! Tests of stores from other releases.

use super::*;

#[tokio::test]
async fn a_store_of_another_format_is_refused_and_stays_unchanged() {
    for format in [0, 1, 2, FORMAT + 1, u32::MAX] {
        let vault = Fixture::new().await;
        let store = vault.writer.store.clone();
        let meta: Meta = stored::decode(&store.read(stored::META).unwrap().unwrap()).unwrap();
        let bytes = stored::encode(&Meta { format, ..meta });
        store
            .commit(Batch::new().put(stored::META, bytes.clone()))
            .await
            .unwrap();
        drop(store);
        let (dir, root) = vault.closed().await;
        let refused = open(&dir, root).await.err().unwrap();
        assert!(matches!(refused, OpenError::Format { found, supported: 3 } if found == format));
        let left = open_store(&dir).await.read(stored::META).unwrap();
        assert_eq!(left, Some(bytes));
    }
}
