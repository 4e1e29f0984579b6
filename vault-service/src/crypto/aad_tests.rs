use std::collections::HashSet;

use super::*;
use proto::SecretName;

use crate::crypto::WorkspaceKek;

#[test]
fn every_field_of_a_place_and_every_key_id_changes_every_aad_that_has_it() {
    let uids = [Uid::from_bytes([1; 16]), Uid::from_bytes([2; 16])];
    let names = ["A", "B"].map(|name| SecretName::parse(name).expect("a name"));
    let ids = [(); 2].map(|()| WorkspaceKek::generate().expect("randomness").id());
    let mut places = Vec::new();
    for workspace_uid in &uids {
        for name in &names {
            places.extend([1, 2].map(|version| RecordId {
                workspace_uid,
                name,
                version,
            }));
        }
    }

    let expiries = [0, 1, 2].map(Expiry::from_seconds);
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    for place in &places {
        for id in ids {
            assert!(seen.insert(wrapped_dek(id, place).0), "{place:?} {id}");
        }
        let lists: [&[&[u8]]; 5] = [&[], &[b"x"], &[b"x", b"y"], &[b"y", b"x"], &[b"xy"]];
        for origins in lists {
            for expiry in expiries {
                assert!(
                    seen.insert(record(place, expiry, origins).0),
                    "{place:?} {origins:?}"
                );
            }
        }
    }
    for uid in &uids {
        for store_key in ids {
            for kek in ids {
                assert!(seen.insert(wrapped_kek(store_key, uid, kek).0));
            }
        }
    }
    for root in ids {
        for store_key in ids {
            assert!(seen.insert(wrapped_store_key(root, store_key).0));
        }
    }
    assert_eq!(seen.len(), 8 * (2 + 3 * 5) + 2 * 4 + 4);
}

#[test]
fn fields_carry_their_length_in_front() {
    let aad = Aad(Vec::new()).field(b"ab").field(b"");
    assert_eq!(aad.0, b"\0\0\0\0\0\0\0\x02ab\0\0\0\0\0\0\0\0");
}

proptest::proptest! {
    #[test]
    fn the_same_bytes_cut_elsewhere_are_other_fields(
        bytes in proptest::collection::vec(0..2_u8, 0..24),
        a in 0..24_usize,
        b in 0..24_usize,
    ) {
        let (a, b) = (a.min(bytes.len()), b.min(bytes.len()));
        let cut = |at| {
            let (head, tail) = bytes.split_at(at);
            Aad(Vec::new()).field(head).field(tail).0
        };
        proptest::prop_assert_eq!(a == b, cut(a) == cut(b));
        proptest::prop_assert_ne!(Aad(Vec::new()).field(&bytes).0, cut(a));
    }
}
