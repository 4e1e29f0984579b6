use super::*;

fn root() -> RootKey {
    RootKey::generate().expect("randomness")
}

fn about() -> BackupInfo {
    BackupInfo {
        vault_uid: Uid::generate(),
        created: 1_795_464_000,
        further_keys: Vec::new(),
        root_keys: Vec::new(),
    }
}

/// Bytes of which no two frames are the same.
fn contents(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at / 7 + at / FRAME).to_le_bytes()[0])
        .collect()
}

fn seal(root: &RootKey, about: &BackupInfo, contents: &[u8]) -> Vec<u8> {
    let (mut out, mut encryptor) = BackupEncryptor::begin(root, about).expect("randomness");
    let mut rest = contents;
    while rest.len() > FRAME {
        let (frame, more) = rest.split_at(FRAME);
        encryptor.encrypt(frame, &mut out);
        rest = more;
    }
    encryptor.encrypt_last(rest, &mut out);
    out
}

fn open(root: &RootKey, mut sealed: &[u8]) -> Result<(BackupInfo, Vec<u8>), BackupError> {
    let header = BackupHeader::read(&mut sealed)?;
    let mut opener = BackupDecryptor::new(&header, root, sealed)?;
    let mut all = Vec::new();
    while let Some(frame) = opener.next_frame()? {
        all.extend_from_slice(&frame);
    }
    Ok((header.about, all))
}

fn damaged(opened: Result<(BackupInfo, Vec<u8>), BackupError>) -> bool {
    match opened {
        Err(error @ BackupError::Damaged(_)) => error.to_string() == "the backup is damaged, or not whole",
        Ok(_) | Err(_) => false,
    }
}

const HEADER: usize = FIXED + Wrapped::LEN;

#[test]
fn a_backup_gives_back_what_was_sealed() {
    let root = root();
    for len in [1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 3 * FRAME + 5] {
        let (about, contents) = (about(), contents(len));
        let sealed = seal(&root, &about, &contents);
        let frames = len.div_ceil(FRAME);
        assert_eq!(sealed.len(), HEADER + len + frames * TAG_LEN);
        let (found, opened) = open(&root, &sealed).expect("opens");
        assert!(found == about && opened == contents, "{len}");
    }
}

#[test]
fn it_names_the_root_key_that_it_needs_and_tries_no_other() {
    let (ours, theirs) = (root(), root());
    let sealed = seal(&theirs, &about(), b"x");
    match open(&ours, &sealed) {
        Err(BackupError::OtherRootKey(id)) => assert_eq!(id, theirs.id()),
        other => panic!("{:?}", other.map(drop)),
    }
}

#[test]
fn further_keys_are_named_and_authenticated() {
    let root = root();
    let about = BackupInfo {
        further_keys: vec![self::root().id(), self::root().id()],
        ..about()
    };
    let sealed = seal(&root, &about, b"x");
    assert_eq!(open(&root, &sealed).expect("opens").0, about);
    for at in FIXED - 1..FIXED + 32 {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(damaged(open(&root, &changed)), "{at}");
    }
}

#[test]
fn wrapped_root_keys_are_given_back_and_authenticated() {
    let root = root();
    let about = BackupInfo {
        further_keys: vec![self::root().id()],
        root_keys: vec![7; 300],
        ..about()
    };
    let sealed = seal(&root, &about, b"x");
    assert_eq!(sealed[16], 18);
    assert_eq!(open(&root, &sealed).expect("opens").0, about);
    let from = FIXED + 16;
    for at in from..from + 4 + 300 {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(damaged(open(&root, &changed)), "{at}");
    }
    for cut in from..from + 4 + 300 {
        assert!(damaged(open(&root, &sealed[..cut])), "{cut}");
    }
}

#[test]
fn another_kind_of_file_is_told_from_a_backup_that_was_cut_off() {
    for other in [
        "x",
        "aerostack backuP",
        "aerostack",
        "some text that is longer than that",
    ] {
        let is_beginning = MAGIC.starts_with(other.as_bytes());
        match open(&root(), other.as_bytes()) {
            Err(BackupError::NotABackup) => assert!(!is_beginning, "{other}"),
            Err(BackupError::Damaged(_)) => assert!(is_beginning, "{other}"),
            other => panic!("{:?}", other.map(drop)),
        }
    }
}

#[test]
fn a_flip_of_any_bit_of_the_header_is_refused() {
    let root = root();
    let sealed = seal(&root, &about(), &contents(100));
    for at in 0..HEADER {
        for bit in 0..8 {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            let refused = open(&root, &changed).expect_err("must not open");
            let as_expected = matches!(
                (at, &refused),
                (0..16, BackupError::NotABackup)
                    // Format 18 is known.
                    | (16, BackupError::Unsupported(_) | BackupError::Damaged(_))
                    | (42..58, BackupError::OtherRootKey(_))
                    | (17..42 | 58.., BackupError::Damaged(_))
            );
            assert!(as_expected, "{at} {bit}: {refused}");
        }
    }
}

#[test]
fn a_changed_byte_in_any_frame_is_refused() {
    let root = root();
    let sealed = seal(&root, &about(), &contents(2 * FRAME + 100));
    for at in (HEADER..sealed.len())
        .step_by(1009)
        .chain(sealed.len() - 20..sealed.len())
    {
        let mut changed = sealed.clone();
        changed[at] ^= 0x10;
        assert!(damaged(open(&root, &changed)), "{at}");
    }
}

#[test]
fn one_that_is_cut_off_anywhere_is_refused() {
    let root = root();
    for len in [100, FRAME, 3 * FRAME, 3 * FRAME + 100] {
        let sealed = seal(&root, &about(), &contents(len));
        let boundaries = (0..4).map(|frames| HEADER + frames * SEALED_FRAME);
        let near = boundaries.flat_map(|at| at.saturating_sub(17)..at + 18);
        for cut in near.chain((0..sealed.len()).step_by(4099)).chain(0..HEADER) {
            let Some(cut_off) = sealed.get(..cut) else {
                continue;
            };
            assert!(
                cut == sealed.len() || damaged(open(&root, cut_off)),
                "{cut} of {}",
                sealed.len()
            );
        }
    }
}

#[test]
fn frames_that_are_moved_repeated_left_out_or_of_another_backup_are_refused() {
    let root = root();
    let (about, contents) = (about(), contents(4 * FRAME));
    let sealed = seal(&root, &about, &contents);
    let other = seal(&root, &about, &contents);
    let (header, frames) = sealed.split_at(HEADER);
    let frames: Vec<&[u8]> = frames.chunks(SEALED_FRAME).collect();
    let others: Vec<&[u8]> = other[HEADER..].chunks(SEALED_FRAME).collect();
    let made_of = |frames: &[&[u8]]| open(&root, &[header, &frames.concat()].concat());
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
    assert!(damaged(open(&root, &[header, &other[HEADER..]].concat())));
    assert!(damaged(open(&root, &[&sealed, &b"x"[..]].concat())));
}

#[test]
fn no_two_backups_have_a_key_in_common() {
    let root = root();
    let (about, contents) = (about(), contents(100));
    let one = seal(&root, &about, &contents);
    let other = seal(&root, &about, &contents);
    assert_eq!(one[..FIXED], other[..FIXED]);
    assert_ne!(one[HEADER..], other[HEADER..]);
}
