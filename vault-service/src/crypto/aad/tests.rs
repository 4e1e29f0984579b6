use std::collections::HashSet;

use super::*;
use proto::SecretName;

use crate::crypto::WorkspaceKek;

#[test]
fn each_field_of_a_record_id_and_each_key_id_changes_every_aad_that_contains_it() {
    let uids = [Uid::from_bytes([1; 16]), Uid::from_bytes([2; 16])];
    let names = ["A", "B"].map(|name| SecretName::parse(name).expect("a name"));
    let keys = [(); 2].map(|()| WorkspaceKek::generate().expect("randomness").id());
    let mut records = Vec::new();
    for workspace_uid in &uids {
        for name in &names {
            records.extend([1, 2].map(|version| RecordId {
                workspace_uid,
                name,
                version,
            }));
        }
    }

    let expiries = [0_u64, 1, 2].map(u64::to_be_bytes);
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    for id in &records {
        for key in keys {
            assert!(seen.insert(wrapped_dek(key, id).0), "{id:?} {key}");
        }
        let lists: [&[&[u8]]; 5] = [&[], &[b"x"], &[b"x", b"y"], &[b"y", b"x"], &[b"xy"]];
        for origins in lists {
            for expiry in expiries {
                assert!(seen.insert(record(id, expiry, origins).0), "{id:?} {origins:?}");
            }
        }
    }
    for uid in &uids {
        for store_key in keys {
            for kek in keys {
                assert!(seen.insert(wrapped_kek(store_key, uid, kek).0));
            }
        }
    }
    for root in keys {
        for store_key in keys {
            assert!(seen.insert(wrapped_store_key(root, store_key).0));
        }
    }
    assert_eq!(seen.len(), 8 * (2 + 3 * 5) + 2 * 4 + 4);
}

#[test]
fn each_field_follows_its_length() {
    let aad = Aad(Vec::new()).field(b"ab").field(b"");
    assert_eq!(aad.0, b"\0\0\0\0\0\0\0\x02ab\0\0\0\0\0\0\0\0");
}

proptest::proptest! {
    #[test]
    fn the_same_bytes_split_elsewhere_make_another_aad(
        bytes in proptest::collection::vec(0..2_u8, 0..24),
        a in 0..24_usize,
        b in 0..24_usize,
    ) {
        let (a, b) = (a.min(bytes.len()), b.min(bytes.len()));
        let split = |at| {
            let (head, tail) = bytes.split_at(at);
            Aad(Vec::new()).field(head).field(tail).0
        };
        proptest::prop_assert_eq!(a == b, split(a) == split(b));
        proptest::prop_assert_ne!(Aad(Vec::new()).field(&bytes).0, split(a));
    }
}
