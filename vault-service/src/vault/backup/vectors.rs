//! Test vectors of the backup format. The meaning of the files in `testdata/backup` must never change. Each file is a test.

use std::{fs, path::PathBuf};

use zeroize::Zeroizing;

use super::item::{ItemReader, ItemWriter};
use crate::{
    crypto::{
        RootKey,
        backup::{BackupDecryptor, BackupEncryptor, BackupError, BackupHeader},
    },
    store::{Change, Entry, MAX_ENTRY},
};

macro_rules! vectors {
    ($($name:ident,)*) => {
        $(#[test] fn $name() { BackupVector::read(stringify!($name)).check(); })*
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

vectors! {
    algorithm_unknown,
    an_entry_given_again_and_one_gone,
    count_wrong,
    created_flipped,
    digest_wrong,
    end_cut_off,
    end_missing,
    first_frame_left_out,
    format_unknown,
    frame_flipped,
    frame_of_another_backup,
    further_keys_too_many,
    item_of_unknown_kind,
    length_beyond_the_frames,
    length_too_large,
    magic_flipped,
    root_key_id_flipped,
    root_key_is_another,
    root_key_is_another_under_this_id,
    something_behind_the_end,
    tag_flipped,
    three_entries,
    trailing_byte,
    truncated,
    truncated_in_the_header,
    two_frames,
    two_further_keys,
    vault_uid_flipped,
    without_frames,
    without_items,
    wrap_ciphertext_flipped,
    wrap_commitment_flipped,
    wrap_nonce_flipped,
    wrap_salt_flipped,
    wrap_tag_flipped,
    wrapped_root_keys,
    wrapped_root_keys_cut_off,
    wrapped_root_keys_flipped,
    wrapped_root_keys_none,
    wrapped_root_keys_of_format_16,
    wrapped_root_keys_too_long,
}

#[test]
fn every_vector_file_has_a_test() {
    let mut files: Vec<_> = fs::read_dir(dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, NAMES);
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/backup")
}

/// Lines `field: text`, with the fields of docs/backup-format.md.
struct BackupVector(Vec<(String, String)>);

/// The header data of a backup, and its items.
type Read = (crate::crypto::backup::BackupInfo, Vec<Change>);

impl BackupVector {
    fn read(name: &str) -> Self {
        let text = fs::read_to_string(dir().join(name)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let field = |line: &str| {
            let (field, text) = line.split_once(": ").unwrap();
            (field.to_owned(), text.to_owned())
        };
        Self(lines.map(field).collect())
    }

    fn one(&self, field: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| name == field);
        &found.unwrap_or_else(|| panic!("no {field}")).1
    }

    fn check(&self) {
        let read = self.open();
        let outcome = match &read {
            Ok(_) => "items".to_owned(),
            Err(BackupError::NotABackup) => "no backup".to_owned(),
            Err(BackupError::Unsupported(format)) => format!("unknown format {format}"),
            Err(BackupError::OtherRootKey(_)) => "other root key".to_owned(),
            Err(BackupError::Damaged(_)) => "damaged".to_owned(),
            Err(BackupError::Read(error)) => error.to_string(),
        };
        assert_eq!(outcome, self.one("expect"));
        if let Ok(read) = read {
            self.check_items(&read);
            assert_eq!(again(&read, &self.root()).1, read.1);
        }
    }

    fn root(&self) -> RootKey {
        let bytes = hex(self.one("root-key")).try_into().unwrap();
        RootKey::from_bytes(Zeroizing::new(bytes)).unwrap()
    }

    fn open(&self) -> Result<Read, BackupError> {
        read(&hex(self.one("backup")), &self.root())
    }

    fn check_items(&self, (info, changes): &Read) {
        assert_eq!(info.vault_uid.as_bytes().as_slice(), hex(self.one("vault-uid")));
        assert_eq!(info.created.to_string(), self.one("created"));
        let further: Vec<_> = info.further_keys.iter().map(ToString::to_string).collect();
        let named = self.0.iter().filter(|(field, _)| field == "further-key");
        assert_eq!(further, named.map(|(_, id)| id.clone()).collect::<Vec<_>>());
        let root_keys = self.0.iter().find(|(field, _)| field == "root-keys");
        assert_eq!(info.root_keys, hex(root_keys.map_or("", |(_, bytes)| bytes)));
        let items = self.0.iter().filter_map(|(field, text)| match field.as_str() {
            "put" => {
                let (key, value) = text.split_once(' ').unwrap();
                let (key, value) = (hex(key), hex(value));
                Some(Change::Put(Entry { key, value }))
            }
            "delete" => Some(Change::Delete(hex(text))),
            _ => None,
        });
        assert_eq!(changes, &items.collect::<Vec<_>>());
    }
}

fn read(mut bytes: &[u8], root: &RootKey) -> Result<Read, BackupError> {
    let header = BackupHeader::read(&mut bytes)?;
    let mut items = ItemReader::new(BackupDecryptor::new(&header, root, bytes)?);
    let mut changes = Vec::new();
    while let Some(change) = items.next()? {
        changes.push(change);
    }
    Ok((header.info, changes))
}

/// Encrypts the items again with this release, and returns the result of reading them.
fn again((info, changes): &Read, root: &RootKey) -> Read {
    let (mut sealed, mut encryptor) = BackupEncryptor::begin(root, info).unwrap();
    let (mut encoder, mut plain) = (ItemWriter::default(), Vec::new());
    for change in changes {
        encoder.item(change, &mut plain);
    }
    encoder.end(&mut plain);
    let mut frames = plain.chunks(crate::crypto::backup::FRAME).peekable();
    while let Some(frame) = frames.next() {
        if frames.peek().is_some() {
            encryptor.encrypt(frame, &mut sealed);
        } else {
            encryptor.encrypt_last(frame, &mut sealed);
            break;
        }
    }
    read(&sealed, root).unwrap()
}

#[test]
fn an_entry_larger_than_a_store_allows_is_refused_as_damage() {
    let root = RootKey::generate().unwrap();
    let info = crate::crypto::backup::BackupInfo {
        vault_uid: proto::Uid::generate(),
        created: 0,
        further_keys: Vec::new(),
        root_keys: Vec::new(),
    };
    let opened = |key, value| {
        let (mut sealed, mut encryptor) = BackupEncryptor::begin(&root, &info).unwrap();
        let (mut encoder, mut plain) = (ItemWriter::default(), Vec::new());
        let (key, value) = (vec![1; key], vec![2; value]);
        encoder.item(&Change::Put(Entry { key, value }), &mut plain);
        encoder.end(&mut plain);
        let (first, last) = plain.split_at(crate::crypto::backup::FRAME);
        encryptor.encrypt(first, &mut sealed);
        encryptor.encrypt_last(last, &mut sealed);
        read(&sealed, &root)
    };
    assert_eq!(opened(48_000, MAX_ENTRY - 48_000).unwrap().1.len(), 1);
    let refused = opened(48_000, MAX_ENTRY - 47_999);
    assert!(matches!(refused, Err(BackupError::Damaged(_))), "{refused:?}");
}

fn hex(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}
