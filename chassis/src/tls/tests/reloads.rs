//! Files that change while they are watched.

use super::{issued::write_key, *};

#[test]
fn a_renewed_certificate_takes_the_place_of_the_old_one() {
    let ca = TestCa::new();
    let mut files = Files::of(&ca);
    let before = files.identity.current().unwrap();
    let (cert, key, _) = files.paths();
    ca.issue(SERVER, Days::Valid).write(&cert, &key);
    files.reloader.read_changed();
    assert!(files.identity.current().unwrap() != before);
    assert_eq!(files.failures("tls-cert"), "0");
}

#[test]
fn files_with_the_same_content_replace_nothing() {
    let mut files = Files::of(&TestCa::new());
    let before = files.identity.current().unwrap();
    let (cert, ..) = files.paths();
    fs::write(&cert, fs::read(&cert).unwrap()).unwrap();
    files.reloader.read_changed();
    files.reloader.read_all();
    assert!(Arc::ptr_eq(&files.identity.current().unwrap(), &before));
}

/// Kubernetes mounts a Secret as links into the directory `..data`, which is itself a link, and replaces that one link.
#[test]
fn a_replaced_link_to_the_directory_of_the_files_is_noticed() {
    let ca = TestCa::new();
    let dir = tempfile::tempdir().unwrap();
    let version = |name: &str| {
        let directory = dir.path().join(name);
        fs::create_dir(&directory).unwrap();
        let (cert, key, clients) = paths(&directory);
        ca.issue(SERVER, Days::Valid).write(&cert, &key);
        fs::write(&clients, ca.pem()).unwrap();
    };
    version("..2026_01");
    symlink("..2026_01", dir.path().join("..data")).unwrap();
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(Path::new("..data").join(file), dir.path().join(file)).unwrap();
    }
    let mut files = Files::read(dir);
    let before = files.identity.current().unwrap();
    let dir = files.dir.path();
    let directory = dir.join("..2026_02");
    fs::create_dir(&directory).unwrap();
    let (cert, key, clients) = paths(&directory);
    ca.issue(SERVER, Days::Valid).write(&cert, &key);
    fs::write(&clients, ca.pem()).unwrap();
    symlink("..2026_02", dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    files.reloader.read_changed();
    assert!(files.identity.current().unwrap() != before);
}

#[test]
fn a_certificate_with_the_key_of_another_keeps_the_last_good_pair_and_is_counted_once() {
    let ca = TestCa::new();
    let mut files = Files::of(&ca);
    let before = files.identity.current().unwrap();
    let (cert, key, _) = files.paths();
    let renewed = ca.issue(SERVER, Days::Valid);
    fs::write(&cert, &renewed.cert).unwrap();
    for _ in 0..3 {
        files.reloader.read_changed();
        assert!(files.identity.current().unwrap() == before);
        assert_eq!(files.failures("tls-cert"), "1");
    }
    write_key(&key, &renewed.key);
    files.reloader.read_changed();
    assert!(files.identity.current().unwrap() != before);
    assert_eq!(files.failures("tls-cert"), "1");
}

#[test]
fn files_that_cannot_be_used_keep_the_last_good_ones() {
    let ca = TestCa::new();
    let mut files = Files::of(&ca);
    let before = files.identity.current().unwrap();
    let (cert, key, clients) = files.paths();
    let refused = |files: &mut Files, what: &str| {
        let counted: u32 = files.failures("tls-cert").parse().unwrap();
        files.reloader.read_changed();
        assert!(files.identity.current().unwrap() == before, "{what}");
        assert_eq!(files.failures("tls-cert"), (counted + 1).to_string(), "{what}");
    };
    let whole = fs::read_to_string(&cert).unwrap();
    fs::write(&cert, &whole[..whole.len() / 2]).unwrap();
    refused(&mut files, "a certificate that is written only in part");
    fs::remove_file(&cert).unwrap();
    refused(&mut files, "no certificate");
    ca.issue(SERVER, Days::Expired).write(&cert, &key);
    refused(&mut files, "an expired certificate");
    ca.issue(SERVER, Days::Future).write(&cert, &key);
    refused(&mut files, "a certificate that is not valid yet");
    ca.issue(CLIENT, Days::Valid).write(&cert, &key);
    refused(&mut files, "a certificate of another principal");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&mut files, "a key that everybody can read");
    fs::write(&clients, "-----BEGIN CERTIFICATE-----\n").unwrap();
    files.reloader.read_changed();
    assert_eq!(files.failures("client-ca"), "1");
    assert!(*files.clients.current().unwrap() == ca.authorities());
}

#[test]
fn the_error_for_a_file_that_is_written_only_in_part_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key, _) = paths(dir.path());
    let ca = TestCa::new();
    let half = |file: &Path| {
        let whole = fs::read_to_string(file).unwrap();
        fs::write(file, &whole[..whole.len() / 2]).unwrap();
        Identity::load(&cert, &key).unwrap_err().to_string()
    };
    for file in [&cert, &key] {
        ca.issue(SERVER, Days::Valid).write(&cert, &key);
        assert_eq!(
            half(file),
            format!(
                "{}: its PEM text is broken or not complete; is the file still being written?",
                file.display()
            )
        );
    }
}
