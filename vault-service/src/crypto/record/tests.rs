use std::thread;

use proptest::prelude::*;

use super::*;

const WRAP: usize = 18;
const EXPIRY: usize = WRAPPED_DEK.end + 8;
const BODY: usize = EXPIRY + 8 + 1;

fn kek() -> WorkspaceKek {
    WorkspaceKek::generate().expect("randomness")
}

fn name(name: &str) -> SecretName {
    SecretName::parse(name).expect("a name")
}

fn value(bytes: &[u8]) -> SecretValue {
    SecretValue::parse(Zeroizing::new(bytes.to_vec())).expect("a value")
}

fn origins(list: &[&str]) -> Vec<OriginPattern> {
    let parse = |origin: &&str| OriginPattern::parse(origin).expect("an origin");
    list.iter().map(parse).collect()
}

/// A workspace with its KEK, and one secret in it.
struct WorkspaceFixture {
    kek: WorkspaceKek,
    uid: Uid,
    name: SecretName,
}

impl WorkspaceFixture {
    fn new() -> WorkspaceFixture {
        WorkspaceFixture {
            kek: kek(),
            uid: Uid::generate(),
            name: name("GITHUB_TOKEN"),
        }
    }

    fn record_id(&self, version: u64) -> RecordId<'_> {
        RecordId {
            workspace_uid: &self.uid,
            name: &self.name,
            version,
        }
    }

    fn encrypt(&self, version: u64, list: &[&str], bytes: &[u8]) -> Vec<u8> {
        self.encrypt_with_expiry(None, version, list, bytes)
    }

    fn encrypt_with_expiry(
        &self,
        expiry: Option<Expiry>,
        version: u64,
        list: &[&str],
        bytes: &[u8],
    ) -> Vec<u8> {
        let origins = origins(list);
        let terms = Terms {
            origins: &origins,
            expiry,
        };
        encrypt(&self.kek, &self.record_id(version), &terms, &value(bytes)).expect("encrypts")
    }

    fn decrypt(&self, bytes: &[u8]) -> Result<DecryptedRecord, DecryptionError> {
        decrypt(&self.kek, &self.uid, &self.name, bytes)
    }

    fn refused(&self, bytes: &[u8]) -> DecryptionError {
        self.decrypt(bytes).expect_err("must not decrypt")
    }
}

const NO_TERMS: Terms<'static> = Terms {
    origins: &[],
    expiry: None,
};

const DOES_NOT_AUTHENTICATE: DecryptionError = DecryptionError::Corrupt(Corruption::DoesNotAuthenticate);

#[test]
fn a_decrypted_record_has_the_encrypted_value_and_terms() {
    let workspace = WorkspaceFixture::new();
    let two = ["https://api.github.com", "https://*.example.com"];
    let long = vec![0xa5; 65_536];
    for (list, bytes) in [(&[][..], &b"x"[..]), (&two[..], b"a value"), (&[], &long)] {
        for until in [0, 1, u64::MAX].map(Expiry::from_seconds) {
            let record = workspace.encrypt_with_expiry(until, 7, list, bytes);
            let DecryptedRecord {
                version,
                expiry,
                origins: got,
                value,
            } = workspace.decrypt(&record).expect("decrypts");
            assert_eq!((version, expiry), (7, until));
            assert_eq!(got, origins(list));
            assert!(value.expose() == bytes);
        }
    }
}

#[test]
fn a_record_with_a_changed_or_removed_expiry_does_not_decrypt() {
    let workspace = WorkspaceFixture::new();
    let record = workspace.encrypt_with_expiry(Expiry::from_seconds(1000), 1, &[], b"a value");
    for seconds in [0, 1, 999, 1001, u64::MAX] {
        let mut changed = record.clone();
        changed.splice(EXPIRY..EXPIRY + 8, seconds.to_be_bytes());
        assert_eq!(workspace.refused(&changed), DOES_NOT_AUTHENTICATE, "{seconds}");
    }
}

#[test]
fn a_reencrypted_record_has_the_same_value_under_a_new_dek_and_nonce() {
    let (workspace, new) = (WorkspaceFixture::new(), kek());
    let (had, given) = (Expiry::from_seconds(1000), Expiry::from_seconds(2000));
    let old = workspace.encrypt_with_expiry(had, 3, &["https://a.example"], b"a value");
    for (kept, expected) in [(true, had), (false, given)] {
        let terms = |had: OwnedTerms| {
            let expiry = if kept { had.expiry } else { given };
            Ok::<_, ReencryptError>(OwnedTerms { expiry, ..had })
        };
        let reencrypted =
            reencrypt(&old, &workspace.kek, &new, &workspace.record_id(9), terms).expect("encrypts again");
        let decrypted =
            decrypt(&new, &workspace.uid, &workspace.name, &reencrypted.record).expect("decrypts");
        assert!(decrypted.value.expose() == b"a value");
        assert_eq!((decrypted.version, decrypted.expiry), (9, expected));
        assert_eq!(decrypted.origins, origins(&["https://a.example"]));
        let OwnedTerms { origins, expiry } = reencrypted.terms;
        assert_eq!((expiry, origins), (expected, decrypted.origins));
        let body = |record: &[u8]| record.get(record.len() - 35..).map(<[u8]>::to_vec);
        assert_ne!(body(&old), body(&reencrypted.record));
    }
    let other_id = RecordId {
        name: &name("OTHER"),
        ..workspace.record_id(9)
    };
    let moved = reencrypt(&old, &workspace.kek, &new, &other_id, Ok);
    assert!(matches!(
        moved,
        Err(ReencryptError::Decrypt(DOES_NOT_AUTHENTICATE))
    ));
}

#[test]
fn a_record_has_exactly_the_length_that_was_reserved() {
    let workspace = WorkspaceFixture::new();
    for list in [&[][..], &["https://a.example", "https://b.example"]] {
        let record = workspace.encrypt(1, list, b"value");
        assert_eq!(record.len(), record.capacity());
        assert_eq!(record.len(), BODY + list.len() * (2 + 17) + 12 + 5 + 16);
    }
}

#[test]
fn a_record_with_any_flipped_bit_is_refused_with_one_message() {
    let workspace = WorkspaceFixture::new();
    let record = workspace.encrypt(3, &["https://api.github.com", "https://b.example"], b"a value");
    for at in 0..record.len() {
        for bit in 0..8 {
            let mut flipped = record.clone();
            *flipped.get_mut(at).expect("in range") ^= 1 << bit;
            match workspace.refused(&flipped) {
                DecryptionError::UnknownKey(_) => assert!((2..WRAP).contains(&at), "{at}"),
                corrupt @ DecryptionError::Corrupt(_) => {
                    assert!(!(2..WRAP).contains(&at), "{at}");
                    assert_eq!(corrupt.to_string(), "stored bytes are corrupt");
                }
            }
        }
    }
}

#[test]
fn a_truncated_or_extended_record_is_refused() {
    let workspace = WorkspaceFixture::new();
    let mut record = workspace.encrypt(3, &["https://api.github.com"], b"a value");
    for len in 0..record.len() {
        match workspace.refused(record.get(..len).expect("shorter")) {
            DecryptionError::Corrupt(_) => {}
            DecryptionError::UnknownKey(id) => panic!("{id} at {len}"),
        }
    }
    record.push(0);
    assert_eq!(workspace.refused(&record), DOES_NOT_AUTHENTICATE);
    record.resize(BODY + 70_000, 0);
    assert_eq!(workspace.refused(&record), Corruption::ValueLength.into());
}

#[test]
fn a_record_moved_to_another_workspace_or_name_does_not_decrypt() {
    let workspace = WorkspaceFixture::new();
    let record = workspace.encrypt(1, &[], b"a value");
    for (uid, name) in [
        (&Uid::generate(), &workspace.name),
        (&workspace.uid, &name("OTHER")),
    ] {
        let error = decrypt(&workspace.kek, uid, name, &record).expect_err("moved");
        assert_eq!(error, DOES_NOT_AUTHENTICATE);
    }
}

#[test]
fn records_with_swapped_deks_do_not_decrypt() {
    let workspace = WorkspaceFixture::new();
    let (mut a, mut b) = (
        workspace.encrypt(1, &[], b"a value"),
        workspace.encrypt(2, &[], b"a value"),
    );
    let wrapped =
        |record: &mut Vec<u8>, with: Vec<u8>| -> Vec<u8> { record.splice(WRAPPED_DEK, with).collect() };
    let of_a = wrapped(&mut a, vec![0; KeyWrap::LEN]);
    let of_b = wrapped(&mut b, of_a.clone());
    wrapped(&mut a, of_b);
    assert_eq!(workspace.refused(&a), DOES_NOT_AUTHENTICATE);
    assert_eq!(workspace.refused(&b), DOES_NOT_AUTHENTICATE);
}

/// Returns `id` with each of its fields changed alone.
fn with_each_field_changed<'a>(id: RecordId<'a>, uid: &'a Uid, name: &'a SecretName) -> [RecordId<'a>; 3] {
    [
        RecordId {
            workspace_uid: uid,
            ..id
        },
        RecordId { name, ..id },
        RecordId {
            version: id.version + 1,
            ..id
        },
    ]
}

#[test]
fn a_wrapped_dek_unwraps_only_under_its_record_id() {
    let workspace = WorkspaceFixture::new();
    let id = workspace.record_id(1);
    let wrap = workspace.kek.wrap_dek(&Dek::generate().expect("randomness"), &id);
    let wrap = wrap.expect("randomness");
    assert!(workspace.kek.unwrap_dek(&wrap, &id).is_ok());
    for other in with_each_field_changed(id, &Uid::generate(), &name("OTHER")) {
        let error = workspace.kek.unwrap_dek(&wrap, &other).err();
        assert_eq!(error, Some(Corruption::DoesNotAuthenticate), "{other:?}");
    }
}

#[test]
fn a_value_decrypts_only_under_its_record_id_even_if_its_dek_is_wrapped_for_another() {
    let workspace = WorkspaceFixture::new();
    let id = workspace.record_id(1);
    let record = workspace.encrypt(1, &[], b"a value");
    let parsed = Record::parse(&record).expect("well formed");
    let dek = workspace.kek.unwrap_dek(&parsed.dek, &id).expect("unwraps");
    for other in with_each_field_changed(id, &Uid::generate(), &name("OTHER")) {
        let wrapped = workspace.kek.rewrap_dek(&dek, &other).expect("randomness");
        let mut moved = record.clone();
        let mut bytes = Vec::new();
        wrapped.write(&mut bytes);
        bytes.extend_from_slice(&other.version.to_be_bytes());
        moved.splice(WRAPPED_DEK.start..WRAPPED_DEK.end + 8, bytes);
        let error = decrypt(&workspace.kek, other.workspace_uid, other.name, &moved).err();
        assert_eq!(error, Some(DOES_NOT_AUTHENTICATE), "{other:?}");
    }
}

#[test]
fn a_record_with_added_removed_or_reordered_origins_does_not_decrypt() {
    let workspace = WorkspaceFixture::new();
    let record = workspace.encrypt(1, &["https://a.example", "https://b.example"], b"a value");
    let a = b"\x00\x11https://a.example";
    let b = b"\x00\x11https://b.example";
    let lists = [
        [&[0][..]].concat(),
        [&[1][..], a].concat(),
        [&[2][..], b, a].concat(),
        [&[3][..], a, b, b].concat(),
    ];
    for list in lists {
        let mut changed = record.clone();
        changed.splice(BODY - 1..BODY + 2 * a.len(), list);
        assert_eq!(workspace.refused(&changed), DOES_NOT_AUTHENTICATE);
    }
}

#[test]
fn a_record_of_an_unknown_format_or_algorithm_is_refused() {
    let workspace = WorkspaceFixture::new();
    let record = workspace.encrypt(1, &[], b"a value");
    for byte in (0..=255).filter(|byte| *byte != format::RECORD) {
        let mut changed = record.clone();
        changed.splice(..1, [byte]);
        assert_eq!(
            workspace.refused(&changed),
            Corruption::UnknownFormat(byte).into()
        );
    }
    for byte in (0..=255).filter(|byte| *byte != ALGORITHM) {
        let mut changed = record.clone();
        changed.splice(1..2, [byte]);
        assert_eq!(
            workspace.refused(&changed),
            Corruption::UnknownAlgorithm(byte).into()
        );
    }
}

#[test]
fn a_record_of_another_kek_is_refused_with_the_id_of_that_kek() {
    let (workspace, other) = (WorkspaceFixture::new(), kek());
    let record = workspace.encrypt(1, &[], b"a value");
    let error = decrypt(&other, &workspace.uid, &workspace.name, &record).expect_err("another key");
    assert_eq!(error, DecryptionError::UnknownKey(workspace.kek.id()));
    assert_eq!(kek_id(&record), Ok(workspace.kek.id()));
}

#[test]
fn a_record_of_another_kek_with_the_same_id_is_corrupt() {
    let (workspace, other) = (WorkspaceFixture::new(), kek());
    let mut record = workspace.encrypt(1, &[], b"a value");
    record.splice(2..WRAP, *other.id().as_bytes());
    let error = decrypt(&other, &workspace.uid, &workspace.name, &record).expect_err("another key");
    assert_eq!(error, Corruption::Commitment.into());
}

#[test]
fn a_rewrapped_record_decrypts_only_with_the_new_kek_and_its_encrypted_value_is_unchanged() {
    let (workspace, new) = (WorkspaceFixture::new(), kek());
    let record = workspace.encrypt(1, &["https://a.example"], b"a value");
    let rewrapped = rewrap(&record, &workspace.uid, &workspace.name, &workspace.kek, &new).expect("rewraps");
    assert_eq!(
        workspace.refused(&rewrapped),
        DecryptionError::UnknownKey(new.id())
    );
    let decrypted = decrypt(&new, &workspace.uid, &workspace.name, &rewrapped).expect("decrypts");
    assert!(decrypted.value.expose() == b"a value");
    assert_eq!(rewrapped.get(WRAPPED_DEK.end..), record.get(WRAPPED_DEK.end..));
    let moved = rewrap(&record, &workspace.uid, &name("OTHER"), &workspace.kek, &new);
    assert!(matches!(moved, Err(RewrapError::Decrypt(DOES_NOT_AUTHENTICATE))));
    let again = rewrap(&rewrapped, &workspace.uid, &workspace.name, &workspace.kek, &new);
    assert!(matches!(
        again,
        Err(RewrapError::Decrypt(DecryptionError::UnknownKey(_)))
    ));
}

#[test]
fn more_than_255_origins_are_refused() {
    let workspace = WorkspaceFixture::new();
    let encrypt = |list: Vec<OriginPattern>| {
        let terms = Terms {
            origins: &list,
            expiry: None,
        };
        encrypt(&workspace.kek, &workspace.record_id(1), &terms, &value(b"x"))
    };
    let many = |count| origins(&vec!["https://a.example"; count]);
    assert!(encrypt(many(255)).is_ok());
    assert!(matches!(encrypt(many(256)), Err(EncryptError::Origins)));
}

#[test]
fn the_debug_output_of_a_decrypted_record_has_no_value() {
    let workspace = WorkspaceFixture::new();
    let decrypted = workspace
        .decrypt(&workspace.encrypt(1, &[], b"hunter2hunter2"))
        .expect("decrypts");
    assert_eq!(
        format!("{decrypted:?}"),
        "DecryptedRecord { version: 1, expiry: None, origins: [], value: SecretValue(..) }"
    );
}

/// Among 2,000,000 random 96-bit nonces, two are equal with a probability of 2.5e-17; for salts and DEKs the probability is far lower.
#[test]
fn a_million_encryptions_of_one_value_share_no_nonce_salt_or_dek() {
    const EACH: usize = 500_000;
    let prefix = |bytes: &[u8]| {
        let mut wide = [0; 16];
        wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        u128::from_be_bytes(wide)
    };
    let work = || {
        let (workspace, value) = (WorkspaceFixture::new(), value(b"one value"));
        let (mut nonces, mut salts, mut deks) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..EACH {
            let dek = Dek::generate().expect("randomness");
            deks.push(prefix(dek.expose()));
            let record = encrypt_with(dek, &workspace.kek, &workspace.record_id(1), &NO_TERMS, &value)
                .expect("encrypts");
            salts.push(prefix(record.get(WRAP..WRAP + 32).expect("the salt")));
            nonces.push(prefix(
                record.get(WRAP + 64..WRAP + 76).expect("the wrap's nonce"),
            ));
            nonces.push(prefix(record.get(BODY..BODY + 12).expect("the body's nonce")));
        }
        [nonces, salts, deks]
    };
    let [a, b] = thread::scope(|scope| {
        [scope.spawn(work), scope.spawn(work)].map(|thread| thread.join().expect("no panic"))
    });
    for ((mut all, b), expected) in a.into_iter().zip(b).zip([4, 2, 2]) {
        all.extend(b);
        assert_eq!(all.len(), expected * EACH);
        all.sort_unstable();
        assert!(all.is_sorted_by(|a, b| a < b), "two are the same");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_neither_decrypt_nor_panic(
        bytes: Vec<u8>,
        head in prop::collection::vec(any::<u8>(), EXPIRY + 8 - WRAP),
        tail in prop::collection::vec(any::<u8>(), 0..300),
        count in 0..4_u8,
    ) {
        let workspace = WorkspaceFixture::new();
        prop_assert!(workspace.decrypt(&bytes).is_err());
        let id = workspace.kek.id();
        let framed = [&[format::RECORD, ALGORITHM], &id.as_bytes()[..], &head, &[count], &tail].concat();
        prop_assert!(matches!(workspace.decrypt(&framed), Err(DecryptionError::Corrupt(_))));
        let _ = kek_id(&framed);
    }

    #[test]
    fn a_record_with_any_edit_is_refused(
        at in 0..300_usize,
        cut in 0..40_usize,
        with in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let workspace = WorkspaceFixture::new();
        let record = workspace.encrypt(1, &["https://a.example", "https://b.example"], b"a value");
        let start = at.min(record.len());
        let mut edited = record.clone();
        edited.splice(start..(start + cut).min(record.len()), with);
        prop_assert_eq!(workspace.decrypt(&edited).is_ok(), edited == record);
    }
}
