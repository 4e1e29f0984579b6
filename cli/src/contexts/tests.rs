#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;

fn context(name: &str) -> Context {
    Context {
        name: ContextName::parse(name).unwrap(),
        dir: None,
        vault: Some("vault.example:7150".to_owned()),
        injector: None,
        data_plane: None,
        ca: None,
        cert: None,
        key: Some("/keys/admin-key.pem".into()),
        token_file: None,
        injector_token_file: None,
        vault_id: None,
        injector_id: None,
        timeout: Some("5".to_owned()),
        vault_metrics: None,
        injector_metrics: None,
    }
}

#[test]
fn the_name_of_a_context_is_safe_in_a_terminal_and_in_a_shell() {
    for (name, legal) in [
        ("prod", true),
        ("Prod-1.eu_west", true),
        ("", false),
        ("-prod", false),
        (".prod", false),
        ("a b", false),
        ("a/b", false),
        ("a\u{1b}[2J", false),
        ("ä", false),
    ] {
        assert_eq!(ContextName::parse(name).is_ok(), legal, "{name:?}");
    }
    assert!(ContextName::parse(&"a".repeat(64)).is_ok());
    assert!(ContextName::parse(&"a".repeat(65)).is_err());
}

#[test]
fn contexts_are_kept_in_a_private_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config/aerostack/config.yaml");
    assert_eq!(read(&path).unwrap(), Contexts::default());
    change(&path, |contexts| contexts.add(context("prod"), false)).unwrap();
    change(&path, |contexts| contexts.use_context(Some("prod"))).unwrap();
    let contexts = read(&path).unwrap();
    assert_eq!(contexts.get("prod").unwrap(), &context("prod"));
    assert_eq!(contexts.present().unwrap().as_str(), "prod");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[test]
fn a_change_that_fails_leaves_the_file_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    change(&path, |contexts| contexts.add(context("prod"), false)).unwrap();
    let before = fs::read(&path).unwrap();
    let again = change(&path, |contexts| contexts.add(context("prod"), false)).unwrap_err();
    assert_eq!(again.kind, FailureKind::AlreadyExists);
    let unknown = change(&path, |contexts| contexts.use_context(Some("test"))).unwrap_err();
    assert_eq!(unknown.kind, FailureKind::NotFound);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_symbolic_link_to_the_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (path, target) = (dir.path().join("config.yaml"), dir.path().join("dotfiles.yaml"));
    fs::write(&target, "version: 1\ncontexts: []\n").unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    change(&path, |contexts| contexts.add(context("prod"), false)).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains("prod"));
}

#[test]
fn a_symbolic_link_to_a_file_that_does_not_exist_yet_stays() {
    let dir = tempfile::tempdir().unwrap();
    let dotfiles = dir.path().join("dotfiles");
    fs::create_dir(&dotfiles).unwrap();
    let path = dir.path().join("config.yaml");
    std::os::unix::fs::symlink("dotfiles/aerostack.yaml", &path).unwrap();
    // A file of somebody else with a likely name of a temporary file.
    let foreign = dotfiles.join("aerostack.yaml.tmp");
    fs::write(&foreign, "x").unwrap();
    change(&path, |contexts| contexts.add(context("prod"), false)).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    let written = fs::read_to_string(dotfiles.join("aerostack.yaml")).unwrap();
    assert!(written.contains("prod"));
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "x");
}

#[test]
fn the_present_context_goes_with_its_removal() {
    let mut contexts = Contexts::default();
    contexts.add(context("a"), false).unwrap();
    contexts.add(context("b"), false).unwrap();
    contexts.use_context(Some("a")).unwrap();
    assert!(!contexts.remove("b").unwrap());
    assert!(contexts.remove("a").unwrap());
    assert_eq!(contexts, Contexts::default());
}

#[test]
fn a_mistake_in_the_file_is_named_with_its_line() {
    let entry = "- name: prod\n  vault: a:1\n";
    for (text, says) in [
        (format!("version: 2\ncontexts:\n{entry}"), "it is 2"),
        (
            format!("version: 1\ncontexts:\n{entry}  password: x\n"),
            "line 5, column 3: field password is not one of the fields",
        ),
        (
            format!("version: 1\ncontexts:\n{entry}{entry}"),
            "two contexts prod",
        ),
        (
            format!("version: 1\npresent: test\ncontexts:\n{entry}"),
            "there is no context test",
        ),
    ] {
        let problem = Contexts::parse(text.as_bytes()).unwrap_err();
        assert!(problem.contains(says), "{problem}");
    }
}

#[test]
fn the_file_is_in_the_configuration_directory_of_the_user() {
    let with = |xdg: Option<&str>, home: Option<&str>| {
        path(|name| match name {
            "XDG_CONFIG_HOME" => xdg.map(Into::into),
            _ => home.map(Into::into),
        })
    };
    let found = with(Some("/config"), Some("/home/a")).unwrap();
    assert_eq!(found, Path::new("/config/aerostack/config.yaml"));
    for xdg in [None, Some(""), Some("relative")] {
        let found = with(xdg, Some("/home/a")).unwrap();
        assert_eq!(found, Path::new("/home/a/.config/aerostack/config.yaml"));
    }
    assert_eq!(with(None, None), None);
}
