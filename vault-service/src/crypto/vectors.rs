//! Decrypt vectors: each file of `testdata/record` is one test, and must give the same result for ever.

use std::{fs, path::PathBuf};

use zeroize::Zeroizing;

use super::{Corruption, DecryptionError, RootKey, WorkspaceKek, record};
use proto::{SecretName, Uid};

macro_rules! vectors {
    ($($name:ident,)*) => {
        $(#[test] fn $name() { Vector::read(stringify!($name)).check(); })*
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

vectors! {
    algorithm_unknown,
    ciphertext_flipped,
    empty,
    expiry_changed,
    expiry_removed,
    format_of_a_wrapped_kek,
    format_unknown,
    kek_id_flipped,
    kek_is_another,
    kek_is_another_under_this_id,
    moved_to_another_name,
    moved_to_another_workspace,
    nonce_flipped,
    origins_changed,
    origins_count_too_high,
    origins_count_zero,
    origins_one_removed,
    origins_swapped,
    tag_flipped,
    trailing_byte,
    truncated,
    truncated_before_the_body,
    truncated_before_the_count,
    truncated_before_the_expiry,
    truncated_to_an_empty_value,
    value_before_the_mistakes,
    value_of_4096_bytes,
    value_of_one_byte,
    value_of_the_last_version,
    value_that_expired_at_once,
    value_that_is_not_text,
    value_that_never_expires,
    value_with_two_origins,
    value_without_origins,
    version_changed,
    wrap_ciphertext_flipped,
    wrap_commitment_flipped,
    wrap_nonce_flipped,
    wrap_of_another_version,
    wrap_salt_flipped,
    wrap_tag_flipped,
    wrapped_kek_algorithm_unknown,
    wrapped_kek_ciphertext_flipped,
    wrapped_kek_commitment_flipped,
    wrapped_kek_format_of_a_record,
    wrapped_kek_format_unknown,
    wrapped_kek_id_flipped,
    wrapped_kek_moved_to_another_workspace,
    wrapped_kek_nonce_flipped,
    wrapped_kek_salt_flipped,
    wrapped_kek_store_key_id_flipped,
    wrapped_kek_tag_flipped,
    wrapped_kek_trailing_byte,
    wrapped_kek_truncated,
    wrapped_store_key_algorithm_unknown,
    wrapped_store_key_ciphertext_flipped,
    wrapped_store_key_commitment_flipped,
    wrapped_store_key_format_of_a_wrapped_kek,
    wrapped_store_key_id_flipped,
    wrapped_store_key_nonce_flipped,
    wrapped_store_key_root_key_id_flipped,
    wrapped_store_key_salt_flipped,
    wrapped_store_key_tag_flipped,
    wrapped_store_key_trailing_byte,
    wrapped_store_key_truncated,
}

#[test]
fn every_vector_file_has_a_test() {
    let mut files: Vec<_> = fs::read_dir(dir())
        .expect("testdata")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    files.sort();
    assert_eq!(files, NAMES);
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/record")
}

/// Lines of the form `field: text`, with the field names of `docs/record-format.md`.
struct Vector(Vec<(String, String)>);

impl Vector {
    fn read(name: &str) -> Self {
        let text = fs::read_to_string(dir().join(name)).expect("the vector");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let field = |line: &str| {
            let (field, text) = line.split_once(':').expect("field: text");
            (field.to_owned(), text.trim_start().to_owned())
        };
        Self(lines.map(field).collect())
    }

    fn values(&self, field: &str) -> Vec<&str> {
        let fields = self.0.iter().filter(|(name, _)| name == field);
        fields.map(|(_, text)| text.as_str()).collect()
    }

    fn optional(&self, field: &str) -> Option<&str> {
        self.values(field).first().copied()
    }

    fn required(&self, field: &str) -> &str {
        self.optional(field).unwrap_or_else(|| panic!("no {field}"))
    }

    fn hex(&self, field: &str) -> Vec<u8> {
        let digits = self.required(field);
        let byte = |at| u8::from_str_radix(digits.get(at..at + 2).expect("a pair"), 16);
        (0..digits.len())
            .step_by(2)
            .map(|at| byte(at).expect("hex"))
            .collect()
    }

    fn array<const N: usize>(&self, field: &str) -> [u8; N] {
        self.hex(field).try_into().expect("the length of this field")
    }

    fn check(&self) {
        let outcome = match self.decrypt() {
            Ok(()) => "value".to_owned(),
            Err(DecryptionError::UnknownKey(_)) => "unknown key".to_owned(),
            Err(DecryptionError::Corrupt(cause)) => format!("corrupt: {cause}"),
        };
        assert_eq!(outcome, self.required("expect"));
    }

    fn decrypt(&self) -> Result<(), DecryptionError> {
        let root = RootKey::from_bytes(Zeroizing::new(self.array("root-key"))).expect("a key");
        let store_key = root.unwrap(&self.hex("wrapped-store-key"))?;
        let uid = Uid::from_bytes(self.array("workspace-uid"));
        let kek = store_key.unwrap(&self.hex("wrapped-kek"), &uid)?;
        let Some(name) = self.optional("name") else {
            return Ok(());
        };
        let name = SecretName::parse(name).expect("a name");
        let decrypted = record::decrypt(&kek, &uid, &name, &self.hex("record"))?;
        let origins: Vec<_> = decrypted.origins.iter().map(|origin| origin.as_str()).collect();
        assert_eq!(decrypted.version.to_string(), self.required("version"));
        let expiry = decrypted.expiry.map(|expiry| expiry.seconds().to_string());
        assert_eq!(expiry.as_deref(), self.optional("expires"));
        assert_eq!(origins, self.values("origin"));
        assert!(decrypted.value.expose() == self.hex("value"));
        self.check_rewrapped(&kek, &uid, &name);
        Ok(())
    }

    fn check_rewrapped(&self, kek: &WorkspaceKek, uid: &Uid, name: &SecretName) {
        let (record, new) = (self.hex("record"), WorkspaceKek::generate().expect("randomness"));
        let rewrapped = record::rewrap(&record, uid, name, kek, &new).expect("rewraps");
        let decrypted = record::decrypt(&new, uid, name, &rewrapped).expect("decrypts");
        assert!(decrypted.value.expose() == self.hex("value"));
    }
}

#[test]
fn every_corruption_that_an_edit_can_cause_has_a_vector() {
    let expected: Vec<String> = NAMES
        .iter()
        .map(|name| Vector::read(name).required("expect").to_owned())
        .collect();
    let has_a_vector = |cause: Corruption| expected.contains(&format!("corrupt: {cause}"));
    for cause in [
        Corruption::UnknownFormat(255),
        Corruption::UnknownAlgorithm(2),
        Corruption::Truncated,
        Corruption::TrailingBytes,
        Corruption::ValueLength,
        Corruption::Commitment,
        Corruption::DoesNotAuthenticate,
    ] {
        assert!(has_a_vector(cause), "{cause}");
    }
}
