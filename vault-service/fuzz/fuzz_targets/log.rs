//! A log from an attacker: reading must end, never panic, and give only values that are in the log.
#![no_main]

use std::{fs, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use vault_service::store::SalvageReader;

static DIR: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder for temporary files"));

fuzz_target!(|bytes: &[u8]| {
    fs::write(DIR.path().join("db"), bytes).expect("a file of this size");
    let Ok(salvage) = SalvageReader::open(DIR.path()) else {
        return;
    };
    for key in salvage.keys(b"") {
        let values = salvage.history(key).expect("it is one of the keys").values();
        for value in values {
            assert!(bytes.len() > value.len());
        }
    }
});
