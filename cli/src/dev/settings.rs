//! Settings of both services under `aerostack dev`.

use std::net::SocketAddr;

use chassis::{
    args::{JwtArgs, ProcessArgs, RoleArgs, TlsArgs, defaults},
    telemetry::LogFormat,
};

use super::{args::DevArgs, directory::DevDirectory};
use crate::pki::{ADMIN_ID, DevPki, INJECTOR_ID, LeafFiles, VAULT_ID};

pub(super) fn of_vault(args: &DevArgs, directory: &DevDirectory) -> vault_service::config::Settings {
    let pki = &directory.pki;
    vault_service::config::Settings {
        listen: args.vault_addr.to_string(),
        metrics_listen: probe_address(args.vault_addr, 9051),
        data_dir: Some(directory.store.clone()),
        cache_mib: "64".to_owned(),
        root: vault_service::config::RootArgs {
            root_key_file: vec![directory.root_key.clone()],
            root_passphrase_file: None,
            root_kms_socket: None,
            root_active: None,
        },
        tls: tls_args(&pki.vault, pki),
        jwt: JwtArgs::default(),
        roles: role_args(),
        injector: vec![format!("{INJECTOR_ID}=*")],
        keepalive: defaults(),
        audit: vault_service::config::AuditArgs::default(),
        require_sealed: false,
        default_plan: vault_service::vault::Plan::Free,
        no_reflection: false,
        process: process_args(args),
        erase_after: "1h".to_owned(),
    }
}

/// `vault` is the address that the vault listens on.
pub(super) fn of_injector(
    args: &DevArgs,
    directory: &DevDirectory,
    vault: SocketAddr,
) -> injector_service::config::Settings {
    let pki = &directory.pki;
    injector_service::config::Settings {
        listen: args.injector_addr.to_string(),
        no_admin: false,
        data_plane_listen: args.data_plane_addr.to_string(),
        listen_server: Vec::new(),
        metrics_listen: probe_address(args.injector_addr, 9052),
        servers: Some(directory.servers.clone()),
        catalog: Some(directory.catalog.clone()),
        vault: vault.to_string(),
        vault_ca: Some(pki.ca.clone()),
        vault_id: Some(VAULT_ID.to_owned()),
        vault_cert: Some(pki.injector.cert.clone()),
        vault_key: Some(pki.injector.key.clone()),
        vault_token_file: None,
        tls: tls_args(&pki.injector, pki),
        jwt: JwtArgs::default(),
        roles: role_args(),
        data_plane_tls_cert: None,
        data_plane_tls_key: None,
        data_plane_insecure_plaintext: false,
        callers: injector_service::config::CallerArgs::default(),
        host: Vec::new(),
        host_suffix: "localhost".to_owned(),
        upstream_ca: Vec::new(),
        limits: injector_service::limits::LimitSettings::default(),
        require_all_secrets: false,
        no_reflection: false,
        process: process_args(args),
    }
}

fn tls_args(leaf: &LeafFiles, pki: &DevPki) -> TlsArgs {
    TlsArgs {
        tls_cert: Some(leaf.cert.clone()),
        tls_key: Some(leaf.key.clone()),
        client_ca: Some(pki.ca.clone()),
    }
}

fn role_args() -> RoleArgs {
    RoleArgs {
        admin: vec![ADMIN_ID.to_owned()],
        ..RoleArgs::default()
    }
}

fn process_args(args: &DevArgs) -> ProcessArgs {
    ProcessArgs {
        allow_debugging: false,
        shutdown_grace: "5s".to_owned(),
        log: args.log.clone(),
        log_filter_file: None,
        log_format: LogFormat::Text,
    }
}

/// Returns the address of a service's probes: with the default port, or with port 0 when the service has port 0.
fn probe_address(service: SocketAddr, port: u16) -> String {
    SocketAddr::new(service.ip(), if service.port() == 0 { 0 } else { port }).to_string()
}
