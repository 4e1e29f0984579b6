use proptest::prelude::*;

use super::*;

fn root() -> RootKey {
    RootKey::generate().expect("randomness")
}

fn store_key() -> StoreKey {
    StoreKey::generate().expect("randomness")
}

fn kek() -> WorkspaceKek {
    WorkspaceKek::generate().expect("randomness")
}

fn root_from(byte: impl Fn(usize) -> u8) -> Result<RootKey, WeakKey> {
    RootKey::from_bytes(Zeroizing::new(std::array::from_fn(byte)))
}

#[test]
fn a_wrapped_store_key_unwraps_to_the_same_key() {
    let (root, store_key) = (root(), store_key());
    let bytes = root.wrap(&store_key).expect("randomness");
    assert_eq!(bytes.len(), 158);
    let unwrapped = root.unwrap(&bytes).expect("unwraps");
    assert!(unwrapped.key.expose() == store_key.key.expose());
    assert_eq!(unwrapped.id(), store_key.id());
    assert_eq!(root_key_id(&bytes), Ok(root.id()));
    assert_eq!(wrapped_store_key_id(&bytes), Ok(store_key.id()));
}

#[test]
fn a_store_key_unwraps_only_with_its_root_key_and_under_its_own_id() {
    let (mine, mut other, mut store_key) = (root(), root(), store_key());
    let bytes = other.wrap(&store_key).expect("randomness");
    let refused = |root: &RootKey, bytes: &[u8]| root.unwrap(bytes).err();
    assert_eq!(
        refused(&mine, &bytes),
        Some(DecryptionError::UnknownKey(other.id()))
    );
    let id = other.id;
    other = root();
    other.id = id;
    assert_eq!(refused(&other, &bytes), Some(Corruption::Commitment.into()));
    store_key.id = self::store_key().id;
    let renamed = mine.wrap(&store_key).expect("randomness");
    assert_eq!(refused(&mine, &renamed), Some(Corruption::KeyIdMismatch.into()));
}

#[test]
fn a_wrapped_kek_unwraps_to_the_same_key() {
    let (store_key, kek, uid) = (store_key(), kek(), Uid::generate());
    let bytes = store_key.wrap(&kek, &uid).expect("randomness");
    assert_eq!(bytes.len(), 158);
    let unwrapped = store_key.unwrap(&bytes, &uid).expect("unwraps");
    assert!(unwrapped.key.expose() == kek.key.expose());
    assert_eq!(unwrapped.id(), kek.id());
    assert_eq!(store_key_id(&bytes), Ok(store_key.id()));
}

#[test]
fn a_wrapped_kek_unwraps_only_for_its_workspace() {
    let (store_key, uid) = (store_key(), Uid::generate());
    let bytes = store_key.wrap(&kek(), &uid).expect("randomness");
    let moved = store_key.unwrap(&bytes, &Uid::generate()).err();
    assert_eq!(moved, Some(Corruption::DoesNotAuthenticate.into()));
}

#[test]
fn a_kek_wrapped_by_another_store_key_is_refused_with_that_keys_id() {
    let (mine, other, uid) = (store_key(), store_key(), Uid::generate());
    let bytes = other.wrap(&kek(), &uid).expect("randomness");
    let error = mine.unwrap(&bytes, &uid).err();
    assert_eq!(error, Some(DecryptionError::UnknownKey(other.id())));
}

#[test]
fn a_kek_wrapped_by_another_store_key_with_the_same_id_is_corrupt() {
    let (mut mine, other, uid) = (store_key(), store_key(), Uid::generate());
    mine.id = other.id;
    let bytes = other.wrap(&kek(), &uid).expect("randomness");
    assert_eq!(
        mine.unwrap(&bytes, &uid).err(),
        Some(Corruption::Commitment.into())
    );
}

#[test]
fn a_kek_wrapped_under_the_id_of_another_kek_is_corrupt() {
    let (store_key, mut kek, uid) = (store_key(), kek(), Uid::generate());
    kek.id = self::kek().id;
    let bytes = store_key.wrap(&kek, &uid).expect("randomness");
    assert_eq!(
        store_key.unwrap(&bytes, &uid).err(),
        Some(Corruption::KeyIdMismatch.into())
    );
}

#[test]
fn a_wrapped_kek_with_any_flipped_bit_is_refused() {
    let (store_key, uid) = (store_key(), Uid::generate());
    let bytes = store_key.wrap(&kek(), &uid).expect("randomness");
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            *flipped.get_mut(at).expect("in range") ^= 1 << bit;
            match store_key.unwrap(&flipped, &uid).err().expect("flipped") {
                DecryptionError::UnknownKey(_) => assert!((2..18).contains(&at), "{at}"),
                corrupt @ DecryptionError::Corrupt(_) => {
                    assert!(!(2..18).contains(&at), "{at}");
                    assert_eq!(corrupt.to_string(), "stored bytes are corrupt");
                }
            }
        }
    }
}

#[test]
fn a_wrapped_kek_of_another_length_is_refused() {
    let (store_key, uid) = (store_key(), Uid::generate());
    let mut bytes = store_key.wrap(&kek(), &uid).expect("randomness");
    for len in 0..bytes.len() {
        let error = store_key.unwrap(bytes.get(..len).expect("shorter"), &uid).err();
        assert_eq!(error, Some(Corruption::Truncated.into()));
    }
    bytes.push(0);
    assert_eq!(
        store_key.unwrap(&bytes, &uid).err(),
        Some(Corruption::TrailingBytes.into())
    );
}

#[test]
fn a_root_key_whose_bytes_are_all_equal_is_weak() {
    for byte in [0, 7, 255] {
        assert_eq!(root_from(|_| byte).err(), Some(WeakKey));
    }
    assert!(root_from(|i| u8::from(i == 31)).is_ok());
}

#[test]
fn an_id_depends_on_the_key_and_its_kind() {
    let bytes = |i| u8::try_from(i).expect("an index below 32");
    let a = root_from(bytes).expect("a key");
    let b = root_from(bytes).expect("a key");
    let c = root_from(|i| u8::try_from(i).expect("an index below 32") ^ 1).expect("a key");
    let kek = WorkspaceKek::new(Key::init(|key| *key = std::array::from_fn(bytes)));
    assert_eq!(a.id(), b.id());
    assert_ne!(a.id(), c.id());
    assert_ne!(a.id(), kek.id());
    let store_key = StoreKey::new(Key::init(|key| *key = std::array::from_fn(bytes)));
    assert!(![a.id(), kek.id()].contains(&store_key.id()));
    // Stored bytes contain these ids, so the derivation must never change.
    assert_eq!(a.id().to_string(), "130da4e6a0f093e8054fdc0071e4f7da");
    assert_eq!(kek.id().to_string(), "e42758ead470345be4c80800549fe923");
    assert_eq!(format!("{:?}", a.id()), format!("KeyId({})", a.id()));
}

proptest! {
    #[test]
    fn arbitrary_bytes_neither_unwrap_to_a_kek_nor_panic(bytes: Vec<u8>, well_formed: [u8; 156]) {
        let fill = |i| u8::try_from(i).expect("an index below 32");
        let store_key = StoreKey::new(Key::init(|key| *key = std::array::from_fn(fill)));
        let uid = Uid::from_bytes([1; 16]);
        prop_assert!(store_key.unwrap(&bytes, &uid).is_err());
        let mut framed = vec![format::WRAPPED_KEK, ALGORITHM];
        framed.extend_from_slice(&well_formed);
        let named = store_key.unwrap(&framed, &uid).err().map(|error| error.to_string());
        prop_assert!(named.is_some_and(|error| error.starts_with("stored bytes name the key")));
        framed.splice(2..18, store_key.id().as_bytes().iter().copied());
        prop_assert_eq!(store_key.unwrap(&framed, &uid).err(), Some(Corruption::Commitment.into()));
    }
}
