use super::*;

fn root() -> RootKey {
    RootKey::generate().expect("randomness")
}

fn info() -> BackupInfo {
    BackupInfo {
        vault_uid: Uid::generate(),
        created: 1_795_464_000,
        further_keys: Vec::new(),
        root_keys: Vec::new(),
    }
}

/// Returns bytes of which no two frames are equal.
fn content(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at / 7 + at / FRAME).to_le_bytes()[0])
        .collect()
}

fn encrypt(root: &RootKey, info: &BackupInfo, content: &[u8]) -> Vec<u8> {
    let (mut out, mut encryptor) = BackupEncryptor::begin(root, info).expect("randomness");
    let mut rest = content;
    while rest.len() > FRAME {
        let (frame, more) = rest.split_at(FRAME);
        encryptor.encrypt(frame, &mut out);
        rest = more;
    }
    encryptor.encrypt_last(rest, &mut out);
    out
}

fn decrypt(root: &RootKey, mut encrypted: &[u8]) -> Result<(BackupInfo, Vec<u8>), BackupError> {
    let header = BackupHeader::read(&mut encrypted)?;
    let mut decryptor = BackupDecryptor::new(&header, root, encrypted)?;
    let mut all = Vec::new();
    while let Some(frame) = decryptor.next_frame()? {
        all.extend_from_slice(&frame);
    }
    Ok((header.info, all))
}

fn damaged(decrypted: Result<(BackupInfo, Vec<u8>), BackupError>) -> bool {
    match decrypted {
        Err(error @ BackupError::Damaged(_)) => error.to_string() == "the backup is damaged, or not whole",
        Ok(_) | Err(_) => false,
    }
}

const HEADER: usize = FIXED + KeyWrap::LEN;

#[test]
fn a_decrypted_backup_has_the_encrypted_content() {
    let root = root();
    for len in [1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 3 * FRAME + 5] {
        let (info, content) = (info(), content(len));
        let encrypted = encrypt(&root, &info, &content);
        let frames = len.div_ceil(FRAME);
        assert_eq!(encrypted.len(), HEADER + len + frames * TAG_LEN);
        let (found, decrypted) = decrypt(&root, &encrypted).expect("decrypts");
        assert!(found == info && decrypted == content, "{len}");
    }
}

#[test]
fn a_backup_of_another_root_key_is_refused_with_the_id_of_that_key() {
    let (ours, theirs) = (root(), root());
    let encrypted = encrypt(&theirs, &info(), b"x");
    match decrypt(&ours, &encrypted) {
        Err(BackupError::OtherRootKey(id)) => assert_eq!(id, theirs.id()),
        other => panic!("{:?}", other.map(drop)),
    }
}

#[test]
fn further_keys_are_read_and_authenticated() {
    let root = root();
    let info = BackupInfo {
        further_keys: vec![self::root().id(), self::root().id()],
        ..info()
    };
    let encrypted = encrypt(&root, &info, b"x");
    assert_eq!(decrypt(&root, &encrypted).expect("decrypts").0, info);
    for at in FIXED - 1..FIXED + 32 {
        let mut changed = encrypted.clone();
        changed[at] ^= 1;
        assert!(damaged(decrypt(&root, &changed)), "{at}");
    }
}

#[test]
fn wrapped_root_keys_are_read_and_authenticated() {
    let root = root();
    let info = BackupInfo {
        further_keys: vec![self::root().id()],
        root_keys: vec![7; 300],
        ..info()
    };
    let encrypted = encrypt(&root, &info, b"x");
    assert_eq!(encrypted[16], 18);
    assert_eq!(decrypt(&root, &encrypted).expect("decrypts").0, info);
    let from = FIXED + 16;
    for at in from..from + 4 + 300 {
        let mut changed = encrypted.clone();
        changed[at] ^= 1;
        assert!(damaged(decrypt(&root, &changed)), "{at}");
    }
    for cut in from..from + 4 + 300 {
        assert!(damaged(decrypt(&root, &encrypted[..cut])), "{cut}");
    }
}

#[test]
fn another_kind_of_file_is_told_from_a_truncated_backup() {
    for other in [
        "x",
        "aerostack backuP",
        "aerostack",
        "some text that is longer than that",
    ] {
        let is_beginning = MAGIC.starts_with(other.as_bytes());
        match decrypt(&root(), other.as_bytes()) {
            Err(BackupError::NotABackup) => assert!(!is_beginning, "{other}"),
            Err(BackupError::Damaged(_)) => assert!(is_beginning, "{other}"),
            other => panic!("{:?}", other.map(drop)),
        }
    }
}

#[test]
fn a_header_with_any_flipped_bit_is_refused() {
    let root = root();
    let encrypted = encrypt(&root, &info(), &content(100));
    for at in 0..HEADER {
        for bit in 0..8 {
            let mut changed = encrypted.clone();
            changed[at] ^= 1 << bit;
            let refused = decrypt(&root, &changed).expect_err("must not decrypt");
            let as_expected = matches!(
                (at, &refused),
                (0..16, BackupError::NotABackup)
                    // One flip makes format 18, which is known.
                    | (16, BackupError::Unsupported(_) | BackupError::Damaged(_))
                    | (42..58, BackupError::OtherRootKey(_))
                    | (17..42 | 58.., BackupError::Damaged(_))
            );
            assert!(as_expected, "{at} {bit}: {refused}");
        }
    }
}

#[test]
fn a_frame_with_a_changed_byte_is_refused() {
    let root = root();
    let encrypted = encrypt(&root, &info(), &content(2 * FRAME + 100));
    for at in (HEADER..encrypted.len())
        .step_by(1009)
        .chain(encrypted.len() - 20..encrypted.len())
    {
        let mut changed = encrypted.clone();
        changed[at] ^= 0x10;
        assert!(damaged(decrypt(&root, &changed)), "{at}");
    }
}

#[test]
fn a_truncated_backup_is_refused() {
    let root = root();
    for len in [100, FRAME, 3 * FRAME, 3 * FRAME + 100] {
        let encrypted = encrypt(&root, &info(), &content(len));
        let boundaries = (0..4).map(|frames| HEADER + frames * ENCRYPTED_FRAME);
        let near = boundaries.flat_map(|at| at.saturating_sub(17)..at + 18);
        for cut in near.chain((0..encrypted.len()).step_by(4099)).chain(0..HEADER) {
            let Some(cut_off) = encrypted.get(..cut) else {
                continue;
            };
            assert!(
                cut == encrypted.len() || damaged(decrypt(&root, cut_off)),
                "{cut} of {}",
                encrypted.len()
            );
        }
    }
}

#[test]
fn moved_repeated_missing_and_foreign_frames_are_refused() {
    let root = root();
    let (info, content) = (info(), content(4 * FRAME));
    let encrypted = encrypt(&root, &info, &content);
    let other = encrypt(&root, &info, &content);
    let (header, frames) = encrypted.split_at(HEADER);
    let frames: Vec<&[u8]> = frames.chunks(ENCRYPTED_FRAME).collect();
    let others: Vec<&[u8]> = other[HEADER..].chunks(ENCRYPTED_FRAME).collect();
    let made_of = |frames: &[&[u8]]| decrypt(&root, &[header, &frames.concat()].concat());
    let [a, b, c, d] = frames[..] else {
        panic!("four frames")
    };
    assert!(made_of(&[a, b, c, d]).is_ok());
    let wrong: [&[&[u8]]; 8] = [
        &[b, a, c, d],
        &[a, b, b, d],
        &[a, c, d],
        &[a, b, d],
        &[a, b, c],
        &[a, b, c, d, d],
        &[a, b, d, c],
        &[a, others[1], c, d],
    ];
    for frames in wrong {
        assert!(damaged(made_of(frames)));
    }
    assert!(damaged(decrypt(&root, &[header, &other[HEADER..]].concat())));
    assert!(damaged(decrypt(&root, &[&encrypted, &b"x"[..]].concat())));
}

#[test]
fn no_two_backups_have_the_same_key() {
    let root = root();
    let (info, content) = (info(), content(100));
    let one = encrypt(&root, &info, &content);
    let other = encrypt(&root, &info, &content);
    assert_eq!(one[..FIXED], other[..FIXED]);
    assert_ne!(one[HEADER..], other[HEADER..]);
}
