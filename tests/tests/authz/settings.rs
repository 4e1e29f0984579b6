//! Settings that are refused.

use super::*;

#[test]
fn settings_that_let_one_principal_administer_and_decrypt_are_refused() {
    let (pki, dir) = (Pki::new(), TempDir::new().unwrap());
    let base = vault_settings(&pki, &dir);
    assert!(base.clone().check().is_ok());
    let both = |edit: &dyn Fn(&mut vault_service::config::Settings)| {
        let mut settings = base.clone();
        edit(&mut settings);
        let report = settings.check().map(drop).unwrap_err().to_string();
        assert!(
            report.contains("no principal may both administer and decrypt"),
            "{report}"
        );
    };
    both(&|settings| settings.injector = vec![format!("{}=*", pki::ADMIN)]);
    both(&|settings| settings.injector.push(format!("{}=other", pki::ADMIN)));
    both(&|settings| settings.roles.editor = vec![format!("{}=w", pki::INJECTOR)]);
    both(&|settings| settings.roles.viewer = vec![format!("{}=w", pki::INJECTOR)]);
}

#[test]
fn every_mistake_in_the_vaults_settings_is_reported_at_once() {
    let (pki, dir) = (Pki::new(), TempDir::new().unwrap());
    let mut settings = vault_settings(&pki, &dir);
    settings.listen = "nowhere".to_owned();
    settings.metrics_listen = "127.0.0.1".to_owned();
    settings.data_dir = None;
    settings.cache_mib = "lots".to_owned();
    settings.root.root_key_file = vec![dir.path().join("missing.key")];
    settings.tls.tls_cert = Some("/dev/null".into());
    settings.tls.client_ca = Some(dir.path().join("missing.pem"));
    settings.roles.admin = vec!["admin".to_owned(), "spiffe://test/x=NOT-A-LABEL".to_owned()];
    settings.roles.editor = vec!["spiffe://test/x".to_owned()];
    settings.process.shutdown_grace = "soon".to_owned();
    let report = settings.check().map(drop).unwrap_err().to_string();
    for part in [
        "--listen: ",
        "--metrics-listen: ",
        "--data-dir: is required",
        "--cache-mib: ",
        "--root-key-file: ",
        "--tls-cert: ",
        "--client-ca: ",
        "--admin: \"admin\"",
        "--admin: \"spiffe://test/x=NOT-A-LABEL\"",
        "--editor: ",
        "--shutdown-grace: ",
    ] {
        assert!(report.contains(part), "{part:?} in {report}");
    }
}

#[test]
fn every_mistake_in_the_injectors_settings_is_reported_at_once() {
    let (pki, dir) = (Pki::new(), TempDir::new().unwrap());
    let mut settings = injector_settings(
        &pki,
        dir.path().join("servers.yaml"),
        "127.0.0.1:1".parse().unwrap(),
    );
    settings.listen = "nowhere".to_owned();
    settings.data_plane_listen = "0.0.0.0:0".to_owned();
    settings.listen_server = vec!["127.0.0.1:0".to_owned()];
    settings.servers = None;
    let catalog = dir.path().join("catalog.yaml");
    let entries = "[{name: one, url: 'ftp://a.example'}, {name: '@a/two', url: 'http://a.example'}]";
    fs::write(&catalog, format!("version: 1\nservers: {entries}\n")).unwrap();
    settings.catalog = Some(catalog);
    settings.vault = "https://vault".to_owned();
    settings.vault_id = Some("vault".to_owned());
    settings.limits.vault_timeout = "2".to_owned();
    settings.tls.tls_key = None;
    settings.roles.viewer = vec!["dns:x".to_owned()];
    settings.host = vec!["not a name".to_owned()];
    settings.limits.max_connections = "many".to_owned();
    let report = settings.check().map(drop).unwrap_err().to_string();
    for part in [
        "--listen: ",
        "--data-plane-listen: ",
        "--listen-server: ",
        "--servers: is required",
        "--catalog: ",
        "line 2, entry 1: name: ",
        "line 2, entry 1: url: ",
        "line 2, @a/two: url: ",
        "--vault: ",
        "--vault-id: ",
        "--vault-timeout: ",
        "--tls-key: is required",
        "--viewer: ",
        "--host: ",
        "--max-connections: ",
    ] {
        assert!(report.contains(part), "{part:?} in {report}");
    }
}

#[test]
fn a_development_ca_is_refused_on_an_address_that_is_not_loopback() {
    let (pki, dir) = (Pki::new(), TempDir::new().unwrap());
    let development = DevPki::ensure(dir.path()).unwrap();
    for (listen, taken) in [
        ("127.0.0.1:0", true),
        ("[::1]:0", true),
        ("0.0.0.0:0", false),
        ("[::]:0", false),
        ("192.0.2.1:0", false),
    ] {
        let mut vault = vault_settings(&pki, &dir);
        (vault.listen, vault.tls.client_ca) = (listen.to_owned(), Some(development.ca.clone()));
        let mut injector = injector_settings(
            &pki,
            dir.path().join("servers.yaml"),
            "127.0.0.1:1".parse().unwrap(),
        );
        (injector.listen, injector.tls.client_ca) = (listen.to_owned(), Some(development.ca.clone()));
        for report in [vault.check().map(drop).err(), injector.check().map(drop).err()] {
            assert_eq!(report.is_none(), taken, "{listen}: {report:?}");
            assert!(
                report.is_none_or(|report| report.to_string().contains("development CA")),
                "{listen}"
            );
        }
    }
}
