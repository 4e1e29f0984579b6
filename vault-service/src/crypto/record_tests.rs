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

/// One workspace with one name, and all that is needed to encrypt there.
struct Home {
    kek: WorkspaceKek,
    uid: Uid,
    name: SecretName,
}

impl Home {
    fn new() -> Home {
        Home {
            kek: kek(),
            uid: Uid::generate(),
            name: name("GITHUB_TOKEN"),
        }
    }

    fn place(&self, version: u64) -> RecordId<'_> {
        RecordId {
            workspace_uid: &self.uid,
            name: &self.name,
            version,
        }
    }

    fn encrypt(&self, version: u64, list: &[&str], bytes: &[u8]) -> Vec<u8> {
        self.encrypt_until(None, version, list, bytes)
    }

    fn encrypt_until(&self, expiry: Option<Expiry>, version: u64, list: &[&str], bytes: &[u8]) -> Vec<u8> {
        let origins = origins(list);
        let terms = Terms {
            origins: &origins,
            expiry,
        };
        encrypt(&self.kek, &self.place(version), &terms, &value(bytes)).expect("encrypts")
    }

    fn decrypt(&self, bytes: &[u8]) -> Result<Decrypted, DecryptionError> {
        decrypt(&self.kek, &self.uid, &self.name, bytes)
    }

    fn refused(&self, bytes: &[u8]) -> DecryptionError {
        self.decrypt(bytes).expect_err("must not open")
    }
}

const NO_TERMS: Terms<'static> = Terms {
    origins: &[],
    expiry: None,
};

const DOES_NOT_AUTHENTICATE: DecryptionError = DecryptionError::Corrupt(Corruption::DoesNotAuthenticate);

#[test]
fn a_record_gives_back_what_was_encrypted() {
    let home = Home::new();
    let two = ["https://api.github.com", "https://*.example.com"];
    let long = vec![0xa5; 65_536];
    for (list, bytes) in [(&[][..], &b"x"[..]), (&two[..], b"a value"), (&[], &long)] {
        for until in [0, 1, u64::MAX].map(Expiry::from_seconds) {
            let record = home.encrypt_until(until, 7, list, bytes);
            let Decrypted {
                version,
                expiry,
                origins: got,
                value,
            } = home.decrypt(&record).expect("opens");
            assert_eq!((version, expiry), (7, until));
            assert_eq!(got, origins(list));
            assert!(value.expose() == bytes);
        }
    }
}

#[test]
fn an_expiry_put_off_brought_forward_or_removed_does_not_decrypt() {
    let home = Home::new();
    let record = home.encrypt_until(Expiry::from_seconds(1000), 1, &[], b"a value");
    for seconds in [0, 1, 999, 1001, u64::MAX] {
        let mut changed = record.clone();
        changed.splice(EXPIRY..EXPIRY + 8, seconds.to_be_bytes());
        assert_eq!(home.refused(&changed), DOES_NOT_AUTHENTICATE, "{seconds}");
    }
}

#[test]
fn a_restored_record_has_the_same_value_and_origins_and_nothing_else_in_common() {
    let (home, new) = (Home::new(), kek());
    let (had, given) = (Expiry::from_seconds(1000), Expiry::from_seconds(2000));
    let old = home.encrypt_until(had, 3, &["https://a.example"], b"a value");
    for (kept, expected) in [(true, had), (false, given)] {
        let terms = |had: OwnedTerms| {
            let expiry = if kept { had.expiry } else { given };
            Ok::<_, ReencryptError>(OwnedTerms { expiry, ..had })
        };
        let restored = reencrypt(&old, &home.kek, &new, &home.place(9), terms).expect("restores");
        let opened = decrypt(&new, &home.uid, &home.name, &restored.record).expect("opens");
        assert!(opened.value.expose() == b"a value");
        assert_eq!((opened.version, opened.expiry), (9, expected));
        assert_eq!(opened.origins, origins(&["https://a.example"]));
        let OwnedTerms { origins, expiry } = restored.terms;
        assert_eq!((expiry, origins), (expected, opened.origins));
        let body = |record: &[u8]| record.get(record.len() - 35..).map(<[u8]>::to_vec);
        assert_ne!(body(&old), body(&restored.record));
    }
    let elsewhere = RecordId {
        name: &name("OTHER"),
        ..home.place(9)
    };
    let moved = reencrypt(&old, &home.kek, &new, &elsewhere, Ok);
    assert!(matches!(moved, Err(ReencryptError::Open(DOES_NOT_AUTHENTICATE))));
}

#[test]
fn a_record_is_as_long_as_was_reserved_for_it() {
    let home = Home::new();
    for list in [&[][..], &["https://a.example", "https://b.example"]] {
        let record = home.encrypt(1, list, b"value");
        assert_eq!(record.len(), record.capacity());
        assert_eq!(record.len(), BODY + list.len() * (2 + 17) + 12 + 5 + 16);
    }
}

#[test]
fn a_flip_of_any_bit_of_a_record_is_refused_in_the_same_words() {
    let home = Home::new();
    let record = home.encrypt(3, &["https://api.github.com", "https://b.example"], b"a value");
    for at in 0..record.len() {
        for bit in 0..8 {
            let mut flipped = record.clone();
            *flipped.get_mut(at).expect("in range") ^= 1 << bit;
            match home.refused(&flipped) {
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
fn a_record_cut_or_grown_anywhere_is_refused() {
    let home = Home::new();
    let mut record = home.encrypt(3, &["https://api.github.com"], b"a value");
    for len in 0..record.len() {
        match home.refused(record.get(..len).expect("shorter")) {
            DecryptionError::Corrupt(_) => {}
            DecryptionError::UnknownKey(id) => panic!("{id} at {len}"),
        }
    }
    record.push(0);
    assert_eq!(home.refused(&record), DOES_NOT_AUTHENTICATE);
    record.resize(BODY + 70_000, 0);
    assert_eq!(home.refused(&record), Corruption::ValueLength.into());
}

#[test]
fn a_record_moved_to_another_workspace_or_name_does_not_decrypt() {
    let home = Home::new();
    let record = home.encrypt(1, &[], b"a value");
    for (uid, name) in [(&Uid::generate(), &home.name), (&home.uid, &name("OTHER"))] {
        let error = decrypt(&home.kek, uid, name, &record).expect_err("moved");
        assert_eq!(error, DOES_NOT_AUTHENTICATE);
    }
}

#[test]
fn swapped_wrapped_deks_do_not_open() {
    let home = Home::new();
    let (mut a, mut b) = (home.encrypt(1, &[], b"a value"), home.encrypt(2, &[], b"a value"));
    let wrapped =
        |record: &mut Vec<u8>, with: Vec<u8>| -> Vec<u8> { record.splice(WRAPPED_DEK, with).collect() };
    let of_a = wrapped(&mut a, vec![0; Wrapped::LEN]);
    let of_b = wrapped(&mut b, of_a.clone());
    wrapped(&mut a, of_b);
    assert_eq!(home.refused(&a), DOES_NOT_AUTHENTICATE);
    assert_eq!(home.refused(&b), DOES_NOT_AUTHENTICATE);
}

/// Every field of a place, changed alone.
fn elsewhere<'a>(place: RecordId<'a>, uid: &'a Uid, name: &'a SecretName) -> [RecordId<'a>; 3] {
    [
        RecordId {
            workspace_uid: uid,
            ..place
        },
        RecordId { name, ..place },
        RecordId {
            version: place.version + 1,
            ..place
        },
    ]
}

#[test]
fn a_wrapped_dek_opens_in_its_place_alone() {
    let home = Home::new();
    let place = home.place(1);
    let wrapped = home.kek.wrap_dek(&Dek::generate().expect("randomness"), &place);
    let wrapped = wrapped.expect("randomness");
    assert!(home.kek.unwrap_dek(&wrapped, &place).is_ok());
    for other in elsewhere(place, &Uid::generate(), &name("OTHER")) {
        let error = home.kek.unwrap_dek(&wrapped, &other).err();
        assert_eq!(error, Some(Corruption::DoesNotAuthenticate), "{other:?}");
    }
}

#[test]
fn a_body_opens_in_its_place_alone_even_if_its_dek_was_wrapped_for_another() {
    let home = Home::new();
    let place = home.place(1);
    let record = home.encrypt(1, &[], b"a value");
    let parsed = Record::parse(&record).expect("well formed");
    let dek = home.kek.unwrap_dek(&parsed.dek, &place).expect("its own");
    for other in elsewhere(place, &Uid::generate(), &name("OTHER")) {
        let wrapped = home.kek.rewrap_dek(&dek, &other).expect("randomness");
        let mut moved = record.clone();
        let mut bytes = Vec::new();
        wrapped.write(&mut bytes);
        bytes.extend_from_slice(&other.version.to_be_bytes());
        moved.splice(WRAPPED_DEK.start..WRAPPED_DEK.end + 8, bytes);
        let error = decrypt(&home.kek, other.workspace_uid, other.name, &moved).err();
        assert_eq!(error, Some(DOES_NOT_AUTHENTICATE), "{other:?}");
    }
}

#[test]
fn origins_added_removed_or_reordered_do_not_decrypt() {
    let home = Home::new();
    let record = home.encrypt(1, &["https://a.example", "https://b.example"], b"a value");
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
        assert_eq!(home.refused(&changed), DOES_NOT_AUTHENTICATE);
    }
}

#[test]
fn an_unknown_format_or_algorithm_is_refused() {
    let home = Home::new();
    let record = home.encrypt(1, &[], b"a value");
    for byte in (0..=255).filter(|byte| *byte != format::RECORD) {
        let mut changed = record.clone();
        changed.splice(..1, [byte]);
        assert_eq!(home.refused(&changed), Corruption::UnknownFormat(byte).into());
    }
    for byte in (0..=255).filter(|byte| *byte != ALGORITHM) {
        let mut changed = record.clone();
        changed.splice(1..2, [byte]);
        assert_eq!(home.refused(&changed), Corruption::UnknownAlgorithm(byte).into());
    }
}

#[test]
fn another_kek_is_named_and_not_tried() {
    let (home, other) = (Home::new(), kek());
    let record = home.encrypt(1, &[], b"a value");
    let error = decrypt(&other, &home.uid, &home.name, &record).expect_err("another key");
    assert_eq!(error, DecryptionError::UnknownKey(home.kek.id()));
    assert_eq!(kek_id(&record), Ok(home.kek.id()));
}

#[test]
fn another_kek_under_the_stored_id_is_corrupt() {
    let (home, other) = (Home::new(), kek());
    let mut record = home.encrypt(1, &[], b"a value");
    record.splice(2..WRAP, *other.id().as_bytes());
    let error = decrypt(&other, &home.uid, &home.name, &record).expect_err("another key");
    assert_eq!(error, Corruption::Commitment.into());
}

#[test]
fn a_rewrapped_record_opens_under_the_new_kek_alone_and_its_body_is_untouched() {
    let (home, new) = (Home::new(), kek());
    let record = home.encrypt(1, &["https://a.example"], b"a value");
    let rewrapped = rewrap(&record, &home.uid, &home.name, &home.kek, &new).expect("rewraps");
    assert_eq!(home.refused(&rewrapped), DecryptionError::UnknownKey(new.id()));
    let opened = decrypt(&new, &home.uid, &home.name, &rewrapped).expect("opens");
    assert!(opened.value.expose() == b"a value");
    assert_eq!(rewrapped.get(WRAPPED_DEK.end..), record.get(WRAPPED_DEK.end..));
    let moved = rewrap(&record, &home.uid, &name("OTHER"), &home.kek, &new);
    assert!(matches!(moved, Err(RewrapError::Open(DOES_NOT_AUTHENTICATE))));
    let again = rewrap(&rewrapped, &home.uid, &home.name, &home.kek, &new);
    assert!(matches!(
        again,
        Err(RewrapError::Open(DecryptionError::UnknownKey(_)))
    ));
}

#[test]
fn more_origins_than_a_record_holds_are_refused() {
    let home = Home::new();
    let encrypt = |list: Vec<OriginPattern>| {
        let terms = Terms {
            origins: &list,
            expiry: None,
        };
        encrypt(&home.kek, &home.place(1), &terms, &value(b"x"))
    };
    let many = |count| origins(&vec!["https://a.example"; count]);
    assert!(encrypt(many(255)).is_ok());
    assert!(matches!(encrypt(many(256)), Err(EncryptError::Origins)));
}

#[test]
fn a_decrypted_record_prints_no_value() {
    let home = Home::new();
    let opened = home
        .decrypt(&home.encrypt(1, &[], b"hunter2hunter2"))
        .expect("opens");
    assert_eq!(
        format!("{opened:?}"),
        "Decrypted { version: 1, expiry: None, origins: [], value: SecretValue(..) }"
    );
}

/// 2,000,000 random 96-bit nonces hold a pair with probability 2.5e-17, the rest with far less.
#[test]
fn a_million_encryptions_of_one_value_share_no_nonce_salt_or_dek() {
    const EACH: usize = 500_000;
    let prefix = |bytes: &[u8]| {
        let mut wide = [0; 16];
        wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        u128::from_be_bytes(wide)
    };
    let work = || {
        let (home, value) = (Home::new(), value(b"one value"));
        let (mut nonces, mut salts, mut deks) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..EACH {
            let dek = Dek::generate().expect("randomness");
            deks.push(prefix(dek.expose()));
            let record = encrypt_with(dek, &home.kek, &home.place(1), &NO_TERMS, &value).expect("encrypts");
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
    fn arbitrary_bytes_never_open_and_never_panic(
        bytes: Vec<u8>,
        head in prop::collection::vec(any::<u8>(), EXPIRY + 8 - WRAP),
        tail in prop::collection::vec(any::<u8>(), 0..300),
        count in 0..4_u8,
    ) {
        let home = Home::new();
        prop_assert!(home.decrypt(&bytes).is_err());
        let id = home.kek.id();
        let framed = [&[format::RECORD, ALGORITHM], &id.as_bytes()[..], &head, &[count], &tail].concat();
        prop_assert!(matches!(home.decrypt(&framed), Err(DecryptionError::Corrupt(_))));
        let _ = kek_id(&framed);
    }

    #[test]
    fn any_edit_of_a_record_is_refused(
        at in 0..300_usize,
        cut in 0..40_usize,
        with in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let home = Home::new();
        let record = home.encrypt(1, &["https://a.example", "https://b.example"], b"a value");
        let start = at.min(record.len());
        let mut edited = record.clone();
        edited.splice(start..(start + cut).min(record.len()), with);
        prop_assert_eq!(home.decrypt(&edited).is_ok(), edited == record);
    }
}
