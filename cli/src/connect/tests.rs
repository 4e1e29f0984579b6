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
    read.borrow_mut().retain(|name| name.starts_with("AEROSTACK_"));
    assert!(
        read.borrow().iter().eq(settings::VARIABLES
            .iter()
            .collect::<std::collections::BTreeSet<_>>())
    );
}

#[test]
fn a_context_keeps_every_setting_of_the_services() {
    let given = ConnectArgs {
        vault: Some("vault.example:7150".into()),
        injector: Some("injector.example:7151".into()),
        vault_metrics: Some("http://vault.example:9051".into()),
        injector_metrics: Some("http://injector.example:9052".into()),
        ..Default::default()
    };
    let name = crate::contexts::ContextName::parse("prod").unwrap();
    let context = given.clone().into_context(name).unwrap();
    assert_eq!(ConnectArgs::of_context(context), given);
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
fn the_first_source_with_a_certificate_or_a_token_for_a_service_decides() {
    let (dir, args) = directory();
    let with_token = ConnectArgs {
        token_file: Some("/token".into()),
        ..args.clone()
    };
    let connection = Connection::find(&with_token, empty_environment).unwrap();
    let ConnectArgs { ca, cert, .. } = &connection.settings;
    assert_eq!(ca.as_deref(), Some(dir.path().join("pki/ca.pem").as_path()));
    // The certificate is for the injector, which has no token.
    assert_eq!(cert.as_deref(), Some(dir.path().join("pki/admin.pem").as_path()));
    let with_certificate = ConnectArgs {
        cert: Some("/cert.pem".into()),
        key: Some("/key.pem".into()),
        ..args.clone()
    };
    let env = |name: &str| name.ends_with("_TOKEN_FILE").then(|| "/token".into());
    let settings = Connection::find(&with_certificate, env).unwrap().settings;
    assert_eq!((settings.token_file, settings.injector_token_file), (None, None));
    // The directory that a flag names comes before the environment.
    let env = |name: &str| (name == "AEROSTACK_TOKEN_FILE").then(|| "/token".into());
    let connection = Connection::find(&args, env).unwrap();
    assert!(connection.cert().is_some());
    assert_eq!(connection.settings.token_file, None);
    let alone = Connection::find_for_completion(&ConnectArgs::default(), env).unwrap();
    assert_eq!(alone.settings.token_file, Some("/token".into()));
}

#[tokio::test]
async fn a_token_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let ca = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
    fs::write(dir.path().join("ca.pem"), ca.cert.pem()).unwrap();
    let token = dir.path().join("token");
    let args = ConnectArgs {
        vault: Some("127.0.0.1:1".to_owned()),
        ca: Some(dir.path().join("ca.pem")),
        token_file: Some(token.clone()),
        ..Default::default()
    };
    let connection = Connection::find_for_completion(&args, empty_environment).unwrap();
    let missing = connection.vault().unwrap_err();
    assert!(missing.message.contains(&*token.to_string_lossy()), "{missing:?}");
    fs::write(&token, "two words").unwrap();
    let wrong = connection.vault().unwrap_err();
    assert!(wrong.message.contains("one token"), "{wrong:?}");
    fs::write(&token, "a.b.c\n").unwrap();
    assert!(connection.vault().is_ok());
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

/// Makes a configuration file with the contexts `one` and `two`, of which `one` is present.
fn configuration() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("aerostack/config.yaml");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let contexts = "version: 1\npresent: one\ncontexts:\n- name: one\n  vault: one:1\n  vault_id: dns:one\n\
                    - name: two\n  vault: two:1\n  ca: /ca.pem\n  timeout: '3'\n";
    fs::write(path, contexts).unwrap();
    home
}

/// Returns the vault's address and the context of a connection.
fn vault_and_context(
    args: &ConnectArgs,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<(Option<String>, Option<String>), Failure> {
    let connection = Connection::find(args, env)?;
    let context = connection.context().map(ToString::to_string);
    Ok((connection.settings.vault, context))
}

#[test]
fn a_context_is_used_in_the_documented_order() {
    let home = configuration();
    let (_dir, in_directory) = directory();
    let of_context = ConnectArgs {
        context: Some("two".to_owned()),
        ..Default::default()
    };
    let with_vault = ConnectArgs {
        vault: Some("flag:1".to_owned()),
        ..of_context.clone()
    };
    let nothing = ConnectArgs::default();
    for (args, variables, vault, context) in [
        (&nothing, &[][..], "one:1", Some("one")),
        (&nothing, &[("AEROSTACK_CONTEXT", "two")], "two:1", Some("two")),
        (
            &nothing,
            &[("AEROSTACK_CONTEXT", "two"), ("AEROSTACK_VAULT", "env:1")],
            "env:1",
            Some("two"),
        ),
        (&of_context, &[("AEROSTACK_VAULT", "env:1")], "two:1", Some("two")),
        (&of_context, &[("AEROSTACK_CONTEXT", "one")], "two:1", Some("two")),
        (
            &with_vault,
            &[("AEROSTACK_VAULT", "env:1")],
            "flag:1",
            Some("two"),
        ),
        (
            &in_directory,
            &[("AEROSTACK_CONTEXT", "two")],
            "127.0.0.1:1",
            None,
        ),
    ] {
        let env = |name: &str| {
            let set = variables.iter().find(|(variable, _)| *variable == name);
            match set {
                Some((_, value)) => Some(OsString::from(value)),
                None => (name == "XDG_CONFIG_HOME").then(|| home.path().into()),
            }
        };
        let found = vault_and_context(args, env).unwrap();
        let expected = (Some(vault.to_owned()), context.map(str::to_owned));
        assert_eq!(found, expected, "{args:?} {variables:?}");
    }
}

#[test]
fn a_directory_of_the_environment_takes_precedence_over_the_present_context() {
    let home = configuration();
    let (dir, _) = directory();
    let env = |name: &str| match name {
        "XDG_CONFIG_HOME" => Some(home.path().into()),
        "AEROSTACK_DIR" => Some(dir.path().into()),
        _ => None,
    };
    let found = vault_and_context(&ConnectArgs::default(), env).unwrap();
    assert_eq!(found, (Some("127.0.0.1:1".to_owned()), None));
}

#[test]
fn a_context_and_a_directory_at_once_are_refused() {
    let home = configuration();
    let (dir, args) = directory();
    let env = |name: &str| (name == "XDG_CONFIG_HOME").then(|| home.path().into());
    let both = ConnectArgs {
        context: Some("two".to_owned()),
        ..args
    };
    let failure = vault_and_context(&both, env).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Usage);
    let env = |name: &str| match name {
        "AEROSTACK_DIR" => Some(dir.path().into()),
        "AEROSTACK_CONTEXT" => Some("two".into()),
        _ => env(name),
    };
    let failure = vault_and_context(&ConnectArgs::default(), env).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Usage);
}

#[test]
fn the_principal_of_a_context_belongs_to_its_address() {
    let home = configuration();
    let env = |name: &str| (name == "XDG_CONFIG_HOME").then(|| home.path().into());
    let find = |args: &ConnectArgs| Connection::find(args, env).unwrap().settings.vault_id;
    assert_eq!(find(&ConnectArgs::default()).as_deref(), Some("dns:one"));
    let elsewhere = ConnectArgs {
        vault: Some("flag:1".to_owned()),
        ..Default::default()
    };
    assert_eq!(find(&elsewhere), None);
}

#[test]
fn an_unknown_context_and_a_damaged_file_are_errors() {
    let home = configuration();
    let env = |name: &str| (name == "XDG_CONFIG_HOME").then(|| home.path().into());
    let unknown = ConnectArgs {
        context: Some("three".to_owned()),
        ..Default::default()
    };
    let failure = vault_and_context(&unknown, env).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(failure.hint.unwrap().contains("context list"));
    fs::write(home.path().join("aerostack/config.yaml"), "version: 1\nsecret").unwrap();
    let failure = vault_and_context(&ConnectArgs::default(), env).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Configuration);
    assert!(failure.message.contains("config.yaml"));
    // A directory that a flag names needs no file.
    let (_dir, args) = directory();
    assert!(vault_and_context(&args, env).is_ok());
}

#[test]
fn the_environment_names_no_service_of_a_context_or_directory_that_a_flag_names() {
    let home = configuration();
    let (dir, in_directory) = directory();
    // As `aerostack init` leaves it when only the vault is known.
    fs::write(dir.path().join("ports.json"), r#"{"vault": "127.0.0.1:1"}"#).unwrap();
    let env = |name: &str| match name {
        "XDG_CONFIG_HOME" => Some(home.path().into()),
        "AEROSTACK_INJECTOR" => Some("left-over:2".into()),
        "AEROSTACK_DATA_PLANE" => Some("http://left-over:3".into()),
        "AEROSTACK_INJECTOR_ID" => Some("dns:left-over".into()),
        "AEROSTACK_CERT" => Some("/cert.pem".into()),
        _ => None,
    };
    let of_context = ConnectArgs {
        context: Some("two".to_owned()),
        ..Default::default()
    };
    for args in [&of_context, &in_directory] {
        let settings = Connection::find(args, env).unwrap().settings;
        assert_eq!((settings.injector, settings.data_plane), (None, None));
        assert!(settings.injector_id.is_none_or(|id| id != "dns:left-over"));
        assert!(settings.cert.is_some());
    }
    let connection = Connection::find(&of_context, env).unwrap();
    let failure = connection.injector().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Configuration);
    assert_eq!(
        failure.message,
        "the context two does not say where the injector is"
    );
}

#[test]
fn a_damaged_file_of_contexts_does_not_matter_to_a_command_that_needs_nothing_of_it() {
    let home = configuration();
    fs::write(home.path().join("aerostack/config.yaml"), "version: 1\nsecret").unwrap();
    let env = |name: &str| (name == "XDG_CONFIG_HOME").then(|| home.path().into());
    let address = || Some("flag:1".to_owned());
    let file = || Some(PathBuf::from("/file.pem"));
    let full = ConnectArgs {
        vault: address(),
        injector: address(),
        data_plane: address(),
        ca: file(),
        cert: file(),
        key: file(),
        ..Default::default()
    };
    assert!(Connection::find(&full, env).is_ok());
    let partial = ConnectArgs { key: None, ..full };
    let failure = Connection::find(&partial, env).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Configuration);
}

#[test]
fn a_token_file_that_everybody_may_read_is_reported() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    fs::write(&path, "a.b.c").unwrap();
    let args = ConnectArgs {
        token_file: Some(path.clone()),
        ..Default::default()
    };
    let connection = Connection::find_for_completion(&args, empty_environment).unwrap();
    for (mode, exposed) in [(0o644, true), (0o604, true), (0o640, false), (0o600, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let reported = connection.exposed_token_file();
        assert_eq!(reported, exposed.then_some(path.as_path()), "{mode:o}");
    }
    let none = Connection::find_for_completion(&ConnectArgs::default(), empty_environment).unwrap();
    assert_eq!(none.exposed_token_file(), None);
}
