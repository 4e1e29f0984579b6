use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use chassis::tls::{self, Authorities, Identity, Reloading, ServerTls};
use clap::Parser;

use super::*;

#[derive(Parser)]
struct TestCli {
    #[command(subcommand)]
    command: PkiCommand,
}

fn parse(words: &[&str]) -> Result<PkiCommand, clap::Error> {
    let words = std::iter::once("pki").chain(words.iter().copied());
    TestCli::try_parse_from(words).map(|line| line.command)
}

fn run(words: &[&str]) -> Result<Option<String>, PkiError> {
    parse(words).unwrap().run()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_services_accept_what_the_authority_issues() {
    let dir = tempfile::tempdir().unwrap();
    let [ca, vault, injector] = ["ca", "vault", "injector"].map(|name| dir.path().join(name));
    assert!(run(&["ca", text(&ca)]).unwrap().is_some());
    let id = "spiffe://example.org/vault";
    let at_ca = ["--ca-dir", text(&ca), "--dir"];
    let issue_vault = [
        &["issue", "vault"],
        &at_ca[..],
        &[text(&vault), "--id", id, "--name", "vault.example.org"],
    ];
    assert!(run(&issue_vault.concat()).unwrap().is_some());
    let issue_injector = ["--id", "spiffe://example.org/injector", "--name", "10.0.0.7"];
    let issue_injector = [
        &["issue", "injector"],
        &at_ca[..],
        &[text(&injector)],
        &issue_injector,
    ];
    assert!(run(&issue_injector.concat()).unwrap().is_some());

    let load = |dir: &Path, name: &str| {
        Identity::load(
            &dir.join(format!("{name}.pem")),
            &dir.join(format!("{name}-key.pem")),
        )
        .unwrap()
    };
    let authorities = Authorities::load(&vault.join("ca.pem")).unwrap();
    // The services refuse a development CA on addresses that other machines can reach.
    assert!(!authorities.has_development_ca());
    assert_eq!(
        load(&vault, "vault").principal(),
        Some(Principal::parse(id).unwrap())
    );
    let identity = Reloading::fixed(load(&vault, "vault"));
    ServerTls::grpc(identity, Some(Reloading::fixed(authorities)))
        .config()
        .unwrap();
    let authorities = Authorities::load(&injector.join("ca.pem")).unwrap();
    tls::grpc_client(
        Some(load(&injector, "injector")),
        &authorities,
        Principal::parse(id).unwrap(),
    )
    .unwrap();

    for private in [
        ca.join("ca-key.pem"),
        vault.join("vault-key.pem"),
        injector.join("injector-key.pem"),
    ] {
        assert_eq!(
            fs::metadata(&private).unwrap().permissions().mode() & 0o777,
            0o600,
            "{private:?}"
        );
    }
    assert!(!vault.join("ca-key.pem").exists());
}

#[test]
fn a_valid_certificate_stays_and_one_of_another_principal_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let [ca, admin] = ["ca", "admin"].map(|name| dir.path().join(name));
    let issue = |id| {
        let words = [
            "issue",
            "admin",
            "--ca-dir",
            text(&ca),
            "--dir",
            text(&admin),
            "--id",
            id,
        ];
        run(&words).map(|made| made.is_some())
    };
    run(&["ca", text(&ca)]).unwrap();
    let authority = fs::read(ca.join("ca.pem")).unwrap();
    assert!(issue("spiffe://example.org/ops").unwrap());
    let certificate = fs::read(admin.join("admin.pem")).unwrap();
    assert!(!issue("spiffe://example.org/ops").unwrap());
    assert_eq!(fs::read(admin.join("admin.pem")).unwrap(), certificate);
    assert!(issue("spiffe://example.org/other").unwrap());
    assert!(run(&["ca", text(&ca)]).unwrap().is_none());
    assert_eq!(fs::read(ca.join("ca.pem")).unwrap(), authority);
}

#[test]
fn a_mistyped_directory_makes_no_second_authority() {
    let dir = tempfile::tempdir().unwrap();
    let [typo, out] = ["typo", "out"].map(|name| dir.path().join(name));
    let words = [
        "issue",
        "server",
        "--ca-dir",
        text(&typo),
        "--dir",
        text(&out),
        "--name",
        "a.example",
    ];
    let refused = run(&words).unwrap_err();
    assert!(matches!(refused, PkiError::NoCa(_)), "{refused}");
    assert!(!typo.exists() && !out.exists());
}

#[test]
fn a_certificate_has_a_principal_or_a_name() {
    for more in [
        &[][..],
        &["--id", "dns:vault.example.org"],
        &["--id", "https://example.org/vault"],
        &["--id", "spiffe://Example.org/vault"],
    ] {
        let words = [&["issue", "vault", "--ca-dir", "ca", "--dir", "d"], more].concat();
        assert!(parse(&words).is_err(), "{more:?}");
    }
}
