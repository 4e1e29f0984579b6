//! Comparison of the store with a `BTreeMap`, by random batches and reopens.

use std::collections::BTreeMap;

use super::*;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

pub(in crate::store) struct Random(pub(in crate::store) u64);

impl Random {
    /// Returns a number below `bound`, by the generator xorshift64*.
    pub(in crate::store) fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        u32::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32).unwrap() % bound
    }

    fn key(&mut self) -> Vec<u8> {
        format!("{}/{}", self.below(3), self.below(100)).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        let length = if self.below(200) == 0 { 60_000 } else { 200 };
        let seed = self.below(256).to_be_bytes()[3];
        vec![seed; usize::try_from(self.below(length)).unwrap()]
    }
}

/// Opens a store that does not sync, because the comparison is about content and not about durability.
fn open(dir: &Path) -> Store {
    let mut opened = open_files(dir, 1 << 20).unwrap();
    opened.fdatasync = Box::new(|| Ok(()));
    Store::start(opened, Watchdog::default()).unwrap()
}

/// Returns a random batch, and whether its preconditions hold. Applies the batch to the model if they do.
fn step(random: &mut Random, model: &mut Model) -> (Batch, bool) {
    let (mut batch, mut next, mut holds) = (Batch::new(), model.clone(), true);
    if random.below(3) == 0 {
        let key = random.key();
        (batch, holds) = match (model.get(&key), random.below(4)) {
            (Some(value), 1..) => (batch.expect_value(key, value.clone()), true),
            (None, 1..) => (batch.expect_absent(key), true),
            (Some(_), 0) => (batch.expect_absent(key), false),
            (None, 0) => (batch.expect_value(key, "x"), false),
        };
    }
    let keys: std::collections::BTreeSet<_> = (0..=random.below(3)).map(|_| random.key()).collect();
    for key in keys {
        batch = if random.below(3) == 0 {
            next.remove(&key);
            batch.delete(key)
        } else {
            let value = random.value();
            next.insert(key.clone(), value.clone());
            batch.put(key, value)
        };
    }
    if holds {
        *model = next;
    }
    (batch, holds)
}

fn assert_same(store: &Store, model: &Model) {
    for prefix in ["", "1/", "2/9"] {
        let mut after = None::<Vec<u8>>;
        let mut expected = model.iter().filter(|(key, _)| key.starts_with(prefix.as_bytes()));
        loop {
            let page = store.scan(prefix.as_bytes(), after.as_deref(), 7).unwrap();
            for Entry { key, value } in &page {
                assert_eq!(expected.next(), Some((key, value)));
            }
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
        }
        assert_eq!(expected.next(), None);
    }
}

#[tokio::test]
async fn the_store_has_the_content_of_a_map_with_the_same_changes() {
    for seed in [1, 0xC0FFEE] {
        // The output is shown only when the test fails.
        println!("seed {seed:#x}");
        let (_parent, dir) = dir();
        let (mut random, mut model) = (Random(seed), Model::new());
        let mut store = open(&dir);
        for op in 0..5_000 {
            let (batch, holds) = step(&mut random, &mut model);
            match store.commit(batch).await {
                Ok(()) => assert!(holds),
                Err(error) => assert!(!holds && matches!(error, CommitError::Conflict), "{error:?}"),
            }
            let key = random.key();
            assert_eq!(store.read(&key).unwrap().as_ref(), model.get(&key));
            if op % 700 == 699 {
                assert_same(&store, &model);
                store.close().await.unwrap();
                store = open(&dir);
                assert_same(&store, &model);
            }
        }
    }
}
