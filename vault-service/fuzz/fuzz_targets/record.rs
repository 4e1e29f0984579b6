//! Stored bytes from an attacker: parsing must answer, never panic, and nothing may open.
//!
//! The keys are fixed so that the fuzzer can learn their ids and get as far as the commitment.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use proto::{SecretName, Uid};
use vault_service::crypto::{RootKey, WorkspaceKek, record, root_key_id};
use zeroize::Zeroizing;

/// From `testdata/record/value_without_origins`.
const ROOT: [u8; 32] = *include_bytes!("root_key.bin");
const WRAPPED_KEK: &[u8] = include_bytes!("wrapped_kek.bin");
const UID: [u8; 16] = *include_bytes!("uid.bin");

static KEYS: LazyLock<(RootKey, WorkspaceKek, Uid, SecretName)> = LazyLock::new(|| {
    let root = RootKey::from_bytes(Zeroizing::new(ROOT)).expect("the vector's key");
    let uid = Uid::from_bytes(UID);
    let kek = root.unwrap(WRAPPED_KEK, &uid).expect("the vector's KEK");
    (root, kek, uid, SecretName::parse("GITHUB_TOKEN").expect("a name"))
});

fuzz_target!(|bytes: &[u8]| {
    let (root, kek, uid, name) = &*KEYS;
    let _ = record::kek_id(bytes);
    let _ = root_key_id(bytes);
    // What the fuzzer finds from the corpus may be the vector itself, and nothing else.
    if let Ok(opened) = record::decrypt(kek, uid, name, bytes) {
        assert!((1..=7).contains(&opened.version) || opened.version == u64::MAX);
    }
    if let Ok(opened) = root.unwrap(bytes, uid) {
        assert_eq!(opened.id(), kek.id());
    }
});
