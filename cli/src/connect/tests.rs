#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::*;

fn empty_environment(_: &str) -> Option<OsString> {
    None
}

/// Makes the files of `aerostack dev` that a connection reads.
fn directory() -> (TempDir, ConnectArgs) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("pki")).unwrap();
    fs::write(
        dir.path().join("ports.json"),
        r#"{"vault": "127.0.0.1:1", "injector": "127.0.0.1:2", "data_plane": "127.0.0.1:3", "vault_metrics": "127.0.0.1:4"}"#,
    )
    .unwrap();
    let args = ConnectArgs {
        dir: Some(dir.path().to_owned()),
        ..Default::default()
    };
    (dir, args)
}

#[test]
fn a_directory_is_enough() {
    let (dir, args) = directory();
    let connection = Connection::find(&args, empty_environment).unwrap();
    assert_eq!(connection.settings.vault.as_deref(), Some("127.0.0.1:1"));
    assert_eq!(connection.settings.injector.as_deref(), Some("127.0.0.1:2"));
    assert_eq!(connection.data_plane(), "http://127.0.0.1:3");
    assert_eq!(
        connection.cert(),
        Some(dir.path().join("pki/admin.pem").as_path())
    );
    assert_eq!(
        connection.settings.vault_id.as_deref(),
        Some("spiffe://aerostack.localhost/vault")
    );
}

#[test]
fn flags_take_precedence_over_a_named_directory_and_that_over_the_environment() {
    let (_dir, args) = directory();
    let args = ConnectArgs {
        injector: Some("flag:2".to_owned()),
        ..args
    };
    let env = |name: &str| match name {
        "AEROSTACK_VAULT" => Some("env:1".into()),
        "AEROSTACK_TIMEOUT" => Some("3".into()),
        _ => None,
    };
    let connection = Connection::find(&args, env).unwrap();
    assert_eq!(connection.settings.vault.as_deref(), Some("127.0.0.1:1"));
    assert_eq!(connection.settings.injector.as_deref(), Some("flag:2"));
    assert_eq!(connection.timeout(), Duration::from_secs(3));
}

#[test]
fn the_environment_takes_precedence_over_a_directory_that_it_names() {
    let (dir, _) = directory();
    let dir = dir.path().to_owned();
    let env = |name: &str| match name {
        "AEROSTACK_DIR" => Some(dir.clone().into()),
        "AEROSTACK_VAULT" => Some("env:1".into()),
        "AEROSTACK_CA" => Some("/ca.pem".into()),
        // An empty variable is the same as an unset one.
        "AEROSTACK_CERT" => Some("".into()),
        _ => None,
    };
    let connection = Connection::find(&ConnectArgs::default(), env).unwrap();
    assert_eq!(connection.settings.vault.as_deref(), Some("env:1"));
    assert_eq!(connection.ca(), Some(PathBuf::from("/ca.pem").as_path()));
    assert_eq!(connection.cert(), Some(dir.join("pki/admin.pem").as_path()));
    // The directory's vault has another address, so its principal is not used.
    assert_eq!(connection.settings.vault_id, None);
    assert!(connection.settings.injector_id.is_some());
}

#[test]
fn a_named_directory_without_certificates_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    let args = ConnectArgs {
        dir: Some(empty.path().to_owned()),
        ..Default::default()
    };
    let failure = Connection::find(&args, empty_environment).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Configuration);
    assert!(failure.hint.unwrap().contains("aerostack dev --dir"));
}

#[test]
fn every_variable_that_is_read_is_known() {
    let read = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let env = |name: &str| {
        read.borrow_mut().insert(name.to_owned());
        None
    };
    Connection::find(&ConnectArgs::default(), env).unwrap();
    assert!(
        read.borrow().iter().eq(settings::VARIABLES
            .iter()
            .collect::<std::collections::BTreeSet<_>>())
    );
}

#[test]
fn missing_flags_are_named() {
    let args = ConnectArgs {
        ca: Some("/ca.pem".into()),
        ..Default::default()
    };
    let env = |name: &str| (name == "AEROSTACK_DIR").then(|| "".into());
    let failure = Connection::find(&args, env).unwrap().vault().unwrap_err();
    assert_eq!(
        failure.message,
        "the connection is not configured: --cert, --key missing"
    );
}

#[test]
fn a_damaged_ports_file_is_an_error() {
    let (dir, args) = directory();
    fs::write(dir.path().join("ports.json"), "{").unwrap();
    let failure = Connection::find(&args, empty_environment).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Configuration);
    assert!(failure.message.contains("ports.json"));
}

#[test]
fn a_timeout_is_a_number_of_seconds() {
    for (text, parsed) in [("10", Some(10.0)), ("2.5", Some(2.5)), ("3s", Some(3.0))] {
        assert_eq!(
            parse_timeout(Some(text)).ok(),
            parsed.map(Duration::from_secs_f64),
            "{text}"
        );
    }
    for text in ["", "0", "-1", "ten", "nan", "inf", "1e99"] {
        assert_eq!(
            parse_timeout(Some(text)).unwrap_err().kind,
            FailureKind::Usage,
            "{text}"
        );
    }
}
