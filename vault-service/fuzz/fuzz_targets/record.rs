//! Fuzzes the parsers of stored bytes: they must return, must not panic, and must decrypt no forged record or key.
//!
//! The keys are fixed, so that the fuzzer can find their ids and reach the check of the commitment.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use proto::{SecretName, Uid};
use vault_service::crypto::{RootKey, StoreKey, WorkspaceKek, record, root_key_id, store_key_id};
use zeroize::Zeroizing;

/// The keys of `testdata/record/value_without_origins`.
const ROOT: [u8; 32] = *include_bytes!("root_key.bin");
const WRAPPED_STORE_KEY: &[u8] = include_bytes!("wrapped_store_key.bin");
const WRAPPED_KEK: &[u8] = include_bytes!("wrapped_kek.bin");
const UID: [u8; 16] = *include_bytes!("uid.bin");

static KEYS: LazyLock<(RootKey, StoreKey, WorkspaceKek, Uid, SecretName)> = LazyLock::new(|| {
    let root = RootKey::from_bytes(Zeroizing::new(ROOT)).expect("the vector's key");
    let uid = Uid::from_bytes(UID);
    let store_key = root.unwrap(WRAPPED_STORE_KEY).expect("the vector's store key");
    let kek = store_key.unwrap(WRAPPED_KEK, &uid).expect("the vector's KEK");
    (root, store_key, kek, uid, SecretName::parse("GITHUB_TOKEN").expect("a name"))
});

fuzz_target!(|bytes: &[u8]| {
    let (root, store_key, kek, uid, name) = &*KEYS;
    let _ = record::kek_id(bytes);
    let _ = root_key_id(bytes);
    let _ = store_key_id(bytes);
    // The corpus may contain vectors, which decrypt; their versions are known.
    if let Ok(found) = record::decrypt(kek, uid, name, bytes) {
        assert!((1..=7).contains(&found.version) || found.version == u64::MAX);
    }
    if let Ok(found) = root.unwrap(bytes) {
        assert_eq!(found.id(), store_key.id());
    }
    if let Ok(found) = store_key.unwrap(bytes, uid) {
        assert_eq!(found.id(), kek.id());
    }
});
