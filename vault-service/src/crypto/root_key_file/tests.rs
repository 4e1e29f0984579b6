use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::*;

const KEY: [u8; 32] = *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
                         \xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff";
const BASE64: &str = "AAECAwQFBgcICQoLDA0OD/Dx8vP09fb3+Pn6+/z9/v8=";

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("root.key")
    }

    fn write(&self, bytes: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path();
        fs::write(&path, bytes).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("changed");
        path
    }

    /// Returns the error of `read` for a file of mode 0600, without the path in front.
    fn refused(&self, bytes: impl AsRef<[u8]>) -> String {
        let path = self.write(bytes, 0o600);
        let error = read(&path).err().expect("must be refused").to_string();
        let prefix = format!("root key file {path:?}: ");
        error.strip_prefix(&prefix).expect("names the path").to_owned()
    }
}

#[test]
fn raw_bytes_and_base64_with_or_without_a_newline_give_the_same_key() {
    let dir = Dir::new();
    let forms = [
        KEY.to_vec(),
        BASE64.into(),
        format!("{BASE64}\n").into(),
        format!("{BASE64}\r\n").into(),
    ];
    for form in forms {
        let root = read(&dir.write(form, 0o600)).expect("a key");
        assert!(root.expose() == &KEY);
    }
}

#[test]
fn a_file_in_any_other_form_is_refused_with_the_reason() {
    let hex: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
    let newline = |bytes: &[u8], end: &[u8]| [bytes, end].concat();
    let not_base64 = "not base64 of 32 bytes (standard alphabet, with padding)";
    let table: &[(&str, Vec<u8>, &str)] = &[
        ("empty", vec![], "empty: it needs"),
        ("a newline alone", b"\n".into(), "1 bytes: it needs"),
        ("31 bytes", vec![1; 31], "31 bytes: it needs"),
        ("33 bytes", vec![1; 33], "33 bytes: it needs"),
        ("raw and LF", newline(&KEY, b"\n"), "32 bytes and a newline"),
        ("raw and CRLF", newline(&KEY, b"\r\n"), "32 bytes and a newline"),
        ("hex", hex.clone().into(), "hex is not accepted, use base64"),
        (
            "hex and LF",
            newline(hex.as_bytes(), b"\n"),
            "hex is not accepted",
        ),
        (
            "half hex",
            hex.get(..32).expect("32").into(),
            "the key is 32 characters of text",
        ),
        (
            "base64 of text",
            b"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".into(),
            "the key is 32",
        ),
        ("zeros", vec![0; 32], "all its bytes are the same"),
        (
            "zeros in base64",
            newline(&[b'A'; 43], b"="),
            "all its bytes are the same",
        ),
        (
            "two newlines",
            newline(BASE64.as_bytes(), b"\n\n"),
            "46 bytes: it needs",
        ),
        (
            "a lone CR",
            newline(BASE64.as_bytes(), b"\r"),
            "45 bytes: it needs",
        ),
        (
            "a space in front",
            newline(b" ", BASE64.as_bytes()),
            "45 bytes: it needs",
        ),
        ("URL alphabet", BASE64.replace('/', "_").into(), not_base64),
        (
            "no padding",
            BASE64.trim_end_matches('=').into(),
            "43 bytes: it needs",
        ),
        (
            "bits behind the key",
            BASE64.replace("v8=", "v9=").into(),
            not_base64,
        ),
        ("33 bytes in base64", vec![b'A'; 44], not_base64),
        ("80 bytes", vec![1; 80], "80 bytes: it needs"),
        ("81 bytes", vec![1; 81], "more than 80 bytes: it needs"),
        ("a megabyte", vec![1; 1 << 20], "more than 80 bytes: it needs"),
    ];
    let dir = Dir::new();
    for (case, bytes, expected) in table {
        let message = dir.refused(bytes);
        assert!(message.starts_with(expected), "{case}: {message}");
    }
}

#[test]
fn a_file_that_others_may_read_or_that_the_group_may_write_is_refused() {
    let dir = Dir::new();
    for mode in 0..=0o777 {
        // The owner may always read, because the test may run as root, who can open a file of any mode.
        let mode = mode | 0o400;
        let path = dir.write(BASE64, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("changed");
        let fine = mode & 0o077 == 0 || mode & 0o077 == 0o040;
        match read(&path) {
            Ok(_) => assert!(fine, "{mode:o}"),
            Err(error) => {
                assert!(!fine, "{mode:o}: {error}");
                let expected = format!("its mode {mode:04o} lets others read or change it: chmod 600");
                assert!(error.to_string().contains(&expected), "{error}");
            }
        }
    }
}

#[test]
fn the_mode_of_a_symlinks_target_counts() {
    let dir = Dir::new();
    let link = dir.0.path().join("link");
    symlink(dir.write(BASE64, 0o440), &link).expect("linked");
    assert!(read(&link).is_ok());
    dir.write(BASE64, 0o644);
    assert!(matches!(
        read(&link).err().map(|e| e.problem),
        Some(KeyFileProblem::TooOpen(0o644))
    ));
}

#[test]
fn a_pipe_or_directory_is_refused_without_waiting() {
    let dir = Dir::new();
    let pipe = dir.path();
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    for path in [pipe.as_path(), dir.0.path()] {
        assert!(matches!(
            read(path).err().map(|e| e.problem),
            Some(KeyFileProblem::NotAFile)
        ));
    }
}

#[test]
fn the_error_of_a_missing_file_has_the_path() {
    let path = Dir::new().path();
    let error = read(&path).err().expect("missing").to_string();
    assert_eq!(
        error,
        format!("root key file {path:?}: No such file or directory (os error 2)")
    );
}

#[test]
fn a_new_key_file_has_one_line_of_base64_and_is_readable() {
    let dir = Dir::new();
    let made = write_new(&dir.path()).expect("made");
    let text = fs::read_to_string(dir.path()).expect("text");
    assert_eq!(text.len(), 45);
    assert!(text.ends_with("=\n"));
    let mode = fs::metadata(dir.path()).expect("exists").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(read(&dir.path()).expect("a key").id(), made.id());
}

#[test]
fn a_new_key_file_replaces_no_file_and_no_symlink() {
    let dir = Dir::new();
    let exists = |path: &Path| match write_new(path).err().map(|e| e.problem) {
        Some(KeyFileProblem::Io(error)) => error.kind() == io::ErrorKind::AlreadyExists,
        _ => false,
    };
    let path = dir.write("something", 0o600);
    assert!(exists(&path));
    assert_eq!(fs::read(&path).expect("still there"), b"something");
    let (link, target) = (dir.0.path().join("link"), dir.0.path().join("target"));
    symlink(&target, &link).expect("linked");
    assert!(exists(&link));
    assert!(!target.exists());
}

#[test]
fn a_partial_key_file_of_a_killed_process_is_replaced() {
    let dir = Dir::new();
    let partial = crate::new_file::partial(&dir.path()).expect("a name");
    fs::write(&partial, "half of a k").expect("written");
    let made = write_new(&dir.path()).expect("made");
    assert_eq!(read(&dir.path()).expect("a key").id(), made.id());
    assert!(!partial.exists());
}

#[test]
fn a_passphrase_is_the_content_of_its_file_without_one_newline() {
    const WORDS: &str = "correct horse battery staple";
    let dir = Dir::new();
    let wrapped = crate::crypto::passphrase::wrap(
        &RootKey::generate().expect("randomness"),
        &read_passphrase(&dir.write(WORDS, 0o600)).expect("a passphrase"),
    )
    .expect("randomness");
    for (text, same) in [
        (format!("{WORDS}\n"), true),
        (format!("{WORDS}\r\n"), true),
        (format!("{WORDS}\n\n"), false),
        (format!(" {WORDS}"), false),
    ] {
        let passphrase = read_passphrase(&dir.write(&text, 0o440)).expect("a passphrase");
        let unwraps = crate::crypto::passphrase::unwrap(&wrapped, &passphrase).is_ok();
        assert_eq!(unwraps, same, "{text:?}");
    }
}

#[test]
fn a_passphrase_file_that_others_may_read_or_of_a_wrong_length_is_refused_with_the_reason() {
    let dir = Dir::new();
    let message = |text: &str, mode| {
        let error = read_passphrase(&dir.write(text, mode)).err().expect("refused");
        error.to_string()
    };
    assert!(message("correct horse battery staple", 0o644).ends_with(
        "its mode 0644 lets others read or change it: chmod 600, and make a new key if it was exposed"
    ));
    for short in ["", "\n", "fifteen letters", &"x".repeat(1025), &"x".repeat(5000)] {
        let message = message(short, 0o600);
        assert!(message.contains("16 to 1024 bytes"), "{message}");
        assert!(
            short.len() < 3 || !message.contains(short),
            "the passphrase is printed"
        );
    }
}
