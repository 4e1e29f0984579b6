//! Stored bytes from an attacker: parsing must answer, never panic, and nothing may open.
//!
//! The keys are fixed so that the fuzzer can learn their ids and get as far as the commitment.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use proto::{SecretName, Uid};
use vault_service::crypto::{RootKey, StoreKey, WorkspaceKek, record, root_key_id, store_key_id};
use zeroize::Zeroizing;

/// From `testdata/record/value_without_origins`.
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
    // What the fuzzer finds from the corpus may be the vector itself, and nothing else.
    if let Ok(opened) = record::decrypt(kek, uid, name, bytes) {
        assert!((1..=7).contains(&opened.version) || opened.version == u64::MAX);
    }
    if let Ok(opened) = root.unwrap(bytes) {
        assert_eq!(opened.id(), store_key.id());
    }
    if let Ok(opened) = store_key.unwrap(bytes, uid) {
        assert_eq!(opened.id(), kek.id());
    }
});
