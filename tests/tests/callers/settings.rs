//! Mistakes in the settings of callers.

use e2e::{Pki, pair::injector_settings};
use injector_service::config::Settings;
use tempfile::TempDir;

use super::{CI, Tokens};

/// Returns the mistakes in settings, or an empty text when there is none.
fn mistakes(edit: impl FnOnce(&mut Settings, &Pki)) -> String {
    let (pki, dir) = (Pki::new(), TempDir::new().unwrap());
    let vault = "127.0.0.1:7150".parse().unwrap();
    let mut settings = injector_settings(&pki, dir.path().join("servers.yaml"), vault);
    edit(&mut settings, &pki);
    settings
        .check()
        .err()
        .map(|problems| problems.to_string())
        .unwrap_or_default()
}

fn secure(settings: &mut Settings) {
    settings.data_plane_tls_cert.clone_from(&settings.tls.tls_cert);
    settings.data_plane_tls_key.clone_from(&settings.tls.tls_key);
}

#[test]
fn an_address_that_other_machines_reach_needs_tls_and_callers() {
    let tokens = Tokens::new();
    for listen in ["0.0.0.0:0", "[::]:0", "10.0.0.1:7100"] {
        let exposed = |settings: &mut Settings| settings.data_plane_listen = listen.into();
        let both = mistakes(|settings, _| exposed(settings));
        assert!(
            both.contains("would be cleartext") && both.contains("say with --caller who may call"),
            "{both}"
        );
        let no_callers = mistakes(|settings, _| {
            exposed(settings);
            secure(settings);
        });
        assert!(
            !no_callers.contains("cleartext") && no_callers.contains("say with --caller"),
            "{no_callers}"
        );
        let no_tls = mistakes(|settings, _| {
            exposed(settings);
            tokens.configure(settings);
        });
        assert!(
            no_tls.contains("would be cleartext") && !no_tls.contains("say with --caller"),
            "{no_tls}"
        );
        for accepted in [
            mistakes(|settings, _| {
                exposed(settings);
                secure(settings);
                tokens.configure(settings);
            }),
            mistakes(|settings, _| {
                exposed(settings);
                settings.data_plane_insecure_plaintext = true;
                settings.callers.data_plane_insecure_any_caller = true;
            }),
        ] {
            assert_eq!(accepted, "", "{listen}");
        }
    }
    let dedicated = mistakes(|settings, _| settings.listen_server = vec!["0.0.0.0:0=dev/api".into()]);
    assert!(dedicated.contains("say with --caller"), "{dedicated}");
    assert_eq!(mistakes(|_, _| {}), "");
}

#[test]
fn every_mistake_about_callers_is_reported_at_once() {
    let all = mistakes(|settings, pki| {
        settings.data_plane_listen = "0.0.0.0:0".into();
        settings.callers.allow_uid = vec!["1000".into(), "root".into()];
        settings.callers.caller_token_file = vec!["ci=/nowhere/token".into(), "CI=/x".into()];
        settings.callers.data_plane_client_ca = Some(pki.ca_file());
        settings.callers.caller = vec!["token:ci".into(), "nobody=*".into()];
    });
    for part in [
        "--data-plane-listen: 0.0.0.0:0 is reached from other machines and would be cleartext",
        "--allow-uid: is for --listen-unix",
        "--allow-uid: \"root\" is not a uid",
        "--caller-token-file: /nowhere/token: it cannot be read",
        "--caller-token-file: \"CI=/x\" is not ID=FILE",
        "--data-plane-client-ca: client certificates need TLS",
        "--caller: \"token:ci\" names no servers",
        "--caller: \"nobody=*\": a principal is",
    ] {
        assert!(all.contains(part), "{part:?} in {all}");
    }
}

#[test]
fn a_caller_that_could_never_prove_its_identity_is_a_mistake() {
    let tokens = Tokens::new();
    let unproven = mistakes(|settings, _| {
        tokens.configure(settings);
        settings.callers.caller = vec![
            "token:ci=*".into(),
            "token:other=*".into(),
            "spiffe://td/a=*".into(),
            "dns:program=*".into(),
            "jwt:https://issuer.example#sub=*".into(),
            "system:serviceaccount:shop:web=shop/*".into(),
        ];
    });
    assert!(
        unproven.contains("needs a --jwt-issuer with name=kubernetes"),
        "{unproven}"
    );
    let unproven = mistakes(|settings, _| {
        tokens.configure(settings);
        settings.callers.caller = vec![
            "token:ci=*".into(),
            "token:other=*".into(),
            "spiffe://td/a=*".into(),
            "dns:program=*".into(),
            "jwt:https://issuer.example#sub=*".into(),
        ];
    });
    for part in [
        "--caller: token:other needs --caller-token-file other=FILE",
        "--caller: spiffe://td/a needs --data-plane-client-ca",
        "--caller: dns:program needs --data-plane-client-ca",
        "--caller: jwt:https://issuer.example#sub needs --jwt-issuer",
        "--caller-token-file: token:web may call no server",
    ] {
        assert!(unproven.contains(part), "{part:?} in {unproven}");
    }
    assert!(!unproven.contains("token:ci"), "{unproven}");
    let unused = mistakes(|settings, pki| {
        secure(settings);
        tokens.configure(settings);
        settings.callers.caller.clear();
        settings.callers.data_plane_client_ca = Some(pki.ca_file());
    });
    for part in [
        "--data-plane-client-ca: is of no use without --caller",
        "token:ci may call no server",
    ] {
        assert!(unused.contains(part), "{part:?} in {unused}");
    }
    assert!(!unused.contains(CI), "{unused}");
}

#[test]
fn a_data_plane_without_any_listener_is_a_mistake() {
    let none = mistakes(|settings, _| settings.data_plane_listen = "none".into());
    assert!(
        none.contains("--data-plane-listen: none: no program could call"),
        "{none}"
    );
    let one = mistakes(|settings, _| {
        settings.data_plane_listen = "none".into();
        settings.listen_server = vec!["127.0.0.1:0=dev/api".into()];
    });
    assert_eq!(one, "");
}

#[test]
fn without_administration_its_settings_are_not_read_and_with_it_they_are_required() {
    let strip = |settings: &mut Settings| {
        settings.listen = "nowhere".into();
        settings.tls.tls_cert = None;
        settings.tls.tls_key = None;
        settings.tls.client_ca = None;
        settings.roles.admin = vec!["nobody".into()];
    };
    assert_eq!(
        mistakes(|settings, _| {
            strip(settings);
            settings.no_admin = true;
        }),
        ""
    );
    let required = mistakes(|settings, _| strip(settings));
    for part in [
        "--listen: ",
        "--tls-cert: is required",
        "--tls-key: is required",
        "--client-ca: is required",
        "--admin: ",
    ] {
        assert!(required.contains(part), "{part:?} in {required}");
    }
}

#[test]
fn an_empty_caller_is_a_mistake_and_opens_nothing() {
    for callers in [
        vec![String::new()],
        vec![String::new(), "jwt:https://a.example#b=*".into()],
    ] {
        let empty = mistakes(|settings, _| settings.callers.caller = callers);
        assert!(empty.contains("--caller: \"\" names no servers"), "{empty}");
    }
}

#[test]
fn an_issuer_that_nobody_needs_is_a_mistake() {
    const UNUSED: &str = "--jwt-issuer: is of no use";
    let issuer = |settings: &mut Settings| {
        settings.jwt.jwt_issuer = vec!["https://issuer.example=audience".into()];
    };
    let principal = "jwt:https://issuer.example#a".to_owned();
    for no_admin in [true, false] {
        let unused = mistakes(|settings, _| {
            issuer(settings);
            settings.no_admin = no_admin;
        });
        assert!(unused.contains(UNUSED), "{unused}");
        let of_caller = mistakes(|settings, _| {
            issuer(settings);
            settings.no_admin = no_admin;
            settings.callers.caller = vec![format!("{principal}=dev/*")];
        });
        assert_eq!(of_caller, "");
    }
    let of_viewer = mistakes(|settings, _| {
        issuer(settings);
        settings.roles.viewer = vec![format!("{principal}=dev")];
    });
    assert_eq!(of_viewer, "");
}

#[test]
fn a_role_that_no_client_could_prove_is_a_mistake() {
    let unproven = mistakes(|settings, _| {
        settings.jwt.jwt_issuer = vec!["https://issuer.example=audience".into()];
        settings.tls.client_ca = None;
        settings.roles.admin = vec!["spiffe://td/a".into(), "jwt:https://issuer.example#a=*".into()];
        settings.roles.viewer = vec!["token:ci=dev".into()];
    });
    for part in [
        "--client-ca: is needed for the role of spiffe://td/a",
        "token:ci is for callers of the data plane alone",
    ] {
        assert!(unproven.contains(part), "{part:?} in {unproven}");
    }
    assert!(!unproven.contains("role of jwt:"), "{unproven}");
}
