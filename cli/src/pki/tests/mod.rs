//! Tests of the files on disk: after a first run, a second run, a crash, and a year. `handshake` tests the certificates.

mod handshake;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const FILES: [&str; 8] = [
    "admin-key.pem",
    "admin.pem",
    "ca-key.pem",
    "ca.pem",
    "injector-key.pem",
    "injector.pem",
    "vault-key.pem",
    "vault.pem",
];

type FileContents = BTreeMap<String, String>;

fn new_pki() -> (TempDir, FileContents) {
    let dir = tempfile::tempdir().unwrap();
    DevPki::ensure(dir.path()).unwrap();
    let contents = contents(dir.path());
    (dir, contents)
}

fn contents(dir: &Path) -> FileContents {
    let entries = fs::read_dir(dir.join("pki")).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn changed(before: &FileContents, after: &FileContents) -> Vec<String> {
    assert!(after.keys().eq(FILES), "{:?}", after.keys());
    after
        .iter()
        .filter(|(name, text)| before.get(*name) != Some(text))
        .map(|(n, _)| n.clone())
        .collect()
}

/// Damages the files of a first run with `harm`, and returns the names of the files that a second run changes.
fn files_remade_after(harm: impl FnOnce(&Path)) -> Vec<String> {
    let (dir, before) = new_pki();
    harm(&dir.path().join("pki"));
    DevPki::ensure(dir.path()).unwrap();
    changed(&before, &contents(dir.path()))
}

fn error_after(harm: impl FnOnce(&Path)) -> PkiError {
    let (dir, _) = new_pki();
    harm(&dir.path().join("pki"));
    let before = contents(dir.path());
    let error = DevPki::ensure(dir.path()).unwrap_err();
    assert_eq!(contents(dir.path()), before, "a failed run changes no file");
    error
}

#[test]
fn a_second_run_changes_nothing() {
    assert!(files_remade_after(|_| {}).is_empty());
}

#[test]
fn every_returned_path_exists() {
    let dir = tempfile::tempdir().unwrap();
    let DevPki {
        ca,
        vault,
        injector,
        admin,
    } = DevPki::ensure(dir.path()).unwrap();
    for path in [
        ca,
        vault.cert,
        vault.key,
        injector.cert,
        injector.key,
        admin.cert,
        admin.key,
    ] {
        assert!(path.is_file(), "{}", path.display());
    }
}

#[test]
fn only_the_owner_can_read_folders_and_keys() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new");
    DevPki::ensure(&dir).unwrap();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("pki")), 0o700);
    for name in FILES {
        let mode = mode(&dir.join("pki").join(name));
        match name.ends_with("-key.pem") {
            true => assert_eq!(mode, 0o600, "{name}"),
            // The umask may remove bits from the mode of a certificate.
            false => assert_eq!(mode & !0o644, 0, "{name}"),
        }
    }
}

#[test]
fn a_second_run_removes_the_access_of_others() {
    let (dir, _) = new_pki();
    let pki = dir.path().join("pki");
    for (path, open) in [(pki.clone(), 0o755), (pki.join("vault-key.pem"), 0o644)] {
        fs::set_permissions(path, fs::Permissions::from_mode(open)).unwrap();
    }
    DevPki::ensure(dir.path()).unwrap();
    assert_eq!((mode(&pki), mode(&pki.join("vault-key.pem"))), (0o700, 0o600));
}

#[test]
fn a_leaf_without_its_key_is_made_again() {
    let changed = files_remade_after(|pki| fs::remove_file(pki.join("vault-key.pem")).unwrap());
    assert_eq!(changed, ["vault-key.pem", "vault.pem"]);
}

#[test]
fn a_leaf_with_another_key_is_made_again() {
    let changed = files_remade_after(|pki| {
        fs::copy(pki.join("admin-key.pem"), pki.join("vault-key.pem")).unwrap();
    });
    assert_eq!(changed, ["vault-key.pem", "vault.pem"]);
}

#[test]
fn a_leaf_of_another_principal_is_made_again() {
    let changed = files_remade_after(|pki| {
        for (from, to) in [("admin.pem", "vault.pem"), ("admin-key.pem", "vault-key.pem")] {
            fs::copy(pki.join(from), pki.join(to)).unwrap();
        }
    });
    assert_eq!(changed, ["vault-key.pem", "vault.pem"]);
}

#[test]
fn a_leaf_of_another_authority_is_made_again() {
    let changed = files_remade_after(|pki| {
        let now = SystemTime::now();
        let ca = Ca::generate(&CaSpec::development(now)).unwrap();
        let issued = issue(&ca, &Leaf::vault(now)).unwrap();
        LeafFiles::at(pki, "vault")
            .write(&issued.cert_pem, &issued.key_pem)
            .unwrap();
    });
    assert_eq!(changed, ["vault-key.pem", "vault.pem"]);
}

#[test]
fn a_new_authority_issues_new_leaves() {
    let changed = files_remade_after(|pki| {
        fs::remove_file(pki.join("ca.pem")).unwrap();
        fs::remove_file(pki.join("ca-key.pem")).unwrap();
    });
    assert_eq!(changed, FILES);
}

#[test]
fn an_authority_that_a_crash_left_half_made_is_made_again() {
    let changed = files_remade_after(|pki| {
        for name in FILES.into_iter().filter(|name| *name != "ca-key.pem") {
            fs::remove_file(pki.join(name)).unwrap();
        }
        fs::write(pki.join("ca.pem.tmp"), "-----BEGIN CERT").unwrap();
    });
    assert_eq!(changed, FILES);
}

#[test]
fn a_damaged_leaf_is_made_again() {
    let changed = files_remade_after(|pki| fs::write(pki.join("injector.pem"), [0xff, 0x00]).unwrap());
    assert_eq!(changed, ["injector-key.pem", "injector.pem"]);
}

#[test]
fn leaves_are_made_again_thirty_days_before_they_expire() {
    let (dir, before) = new_pki();
    let now = SystemTime::now();
    DevPki::ensure_at(dir.path(), now + DAY * 334).unwrap();
    assert!(changed(&before, &contents(dir.path())).is_empty());
    DevPki::ensure_at(dir.path(), now + DAY * 336).unwrap();
    let after = contents(dir.path());
    let leaves = FILES.into_iter().filter(|name| !name.starts_with("ca"));
    assert!(changed(&before, &after).iter().eq(leaves));
}

#[test]
fn an_authority_without_its_key_is_refused() {
    let error = error_after(|pki| fs::remove_file(pki.join("ca-key.pem")).unwrap());
    assert!(
        matches!(&error, PkiError::CaWithoutKey(dir) if dir.ends_with("pki")),
        "{error}"
    );
}

#[test]
fn an_authority_with_another_key_is_refused() {
    let error = error_after(|pki| {
        fs::copy(pki.join("vault-key.pem"), pki.join("ca-key.pem")).unwrap();
    });
    assert!(matches!(error, PkiError::CaForeign(_)), "{error}");
}

#[test]
fn an_authority_without_the_constraints_is_refused() {
    let error = error_after(|pki| {
        let spec = CaSpec {
            permitted_names: None,
            ..CaSpec::development(SystemTime::now())
        };
        let ca = Ca::generate(&spec).unwrap();
        LeafFiles::at(pki, "ca")
            .write(&ca.cert_pem(), &ca.key_pem())
            .unwrap();
    });
    assert!(matches!(error, PkiError::CaForeign(_)), "{error}");
}

#[test]
fn an_authority_of_an_earlier_release_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    fs::create_dir(&pki).unwrap();
    let spec = CaSpec {
        only_loopback_addresses: true,
        ..CaSpec::development(SystemTime::now())
    };
    let ca = Ca::generate(&spec).unwrap();
    LeafFiles::at(&pki, "ca")
        .write(&ca.cert_pem(), &ca.key_pem())
        .unwrap();
    DevPki::ensure(dir.path()).unwrap();
    assert_eq!(fs::read_to_string(pki.join("ca.pem")).unwrap(), ca.cert_pem());
}

#[test]
fn a_damaged_authority_is_refused() {
    for name in ["ca.pem", "ca-key.pem"] {
        let error = error_after(|pki| fs::write(pki.join(name), "garbage").unwrap());
        assert!(matches!(error, PkiError::CaForeign(_)), "{error}");
    }
}

#[test]
fn an_authority_that_expires_soon_or_is_not_valid_yet_is_refused() {
    let (dir, _) = new_pki();
    let now = SystemTime::now();
    for then in [now + DAY * 3621, now - DAY] {
        let error = DevPki::ensure_at(dir.path(), then).unwrap_err();
        assert!(matches!(error, PkiError::CaOutOfDate(_)), "{error}");
    }
    DevPki::ensure_at(dir.path(), now + DAY * 3619).unwrap();
}

#[test]
fn two_runs_at_once_agree() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| DevPki::ensure(dir.path()).unwrap());
        }
    });
    let before = contents(dir.path());
    DevPki::ensure(dir.path()).unwrap();
    assert!(changed(&before, &contents(dir.path())).is_empty());
}

#[test]
fn a_leaf_of_an_authority_is_renewed_thirty_days_before_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, vault) = (dir.path().join("ca"), dir.path().join("vault"));
    let now = SystemTime::now();
    let ensure = |then| {
        let authority = Authority::ensure_at(&ca, vec!["vault".to_owned()], then)?;
        authority.ensure_leaf(&vault, |now| Leaf::vault(now).also_named("vault"), None)
    };
    let trusted = || fs::read(vault.join("ca.pem")).unwrap();
    assert!(ensure(now).unwrap());
    let first = trusted();
    assert!(!ensure(now + DAY * 334).unwrap());
    assert!(ensure(now + DAY * 336).unwrap());
    assert_eq!(trusted(), first);
    assert!(matches!(ensure(now + DAY * 3621), Err(PkiError::CaOutOfDate(_))));
}
