//! The directory of `aerostack dev` or `aerostack init`, with addresses and certificates.

use std::{collections::BTreeMap, io, path::Path};

use super::settings::ConnectArgs;
use crate::{
    failure::{Failure, FailureKind},
    pki::{INJECTOR_ID, VAULT_ID},
    small_file,
};

/// The longest `ports.json` that is read.
const MAX_PORTS_SIZE: u64 = 64 * 1024;

/// Returns the settings of a directory that a person or a context names, which must have certificates.
pub(crate) fn settings_of_directory(dir: &Path) -> Result<ConnectArgs, Failure> {
    if has_certificates(dir) {
        return settings_in(dir);
    }
    let message = format!("there are no certificates in {}", dir.join("pki").display());
    Err(Failure::new(FailureKind::Configuration, message).hint(format!(
        "start the services with `aerostack dev --dir {0}`, make certificates for services that run elsewhere with \
         `aerostack init --admin-dir {0}`, or name another directory (--dir, AEROSTACK_DIR)",
        dir.display()
    )))
}

/// Returns true when a directory has certificates.
pub(super) fn has_certificates(dir: &Path) -> bool {
    dir.join("pki").is_dir()
}

/// Reads the files that `aerostack dev` or `aerostack init` made in `dir`.
fn settings_in(dir: &Path) -> Result<ConnectArgs, Failure> {
    let mut ports = read_ports(&dir.join("ports.json"))?;
    let pki = dir.join("pki");
    Ok(ConnectArgs {
        vault: ports.remove("vault"),
        injector: ports.remove("injector"),
        data_plane: ports.remove("data_plane"),
        ca: Some(pki.join("ca.pem")),
        cert: Some(pki.join("admin.pem")),
        key: Some(pki.join("admin-key.pem")),
        vault_id: Some(VAULT_ID.to_owned()),
        injector_id: Some(INJECTOR_ID.to_owned()),
        vault_metrics: ports.remove("vault_metrics"),
        injector_metrics: ports.remove("injector_metrics"),
        ..ConnectArgs::default()
    })
}

fn read_ports(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let text = match small_file::read(path, MAX_PORTS_SIZE) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Failure::file(path, &error)),
    };
    serde_json::from_slice(&text).map_err(|error| {
        let message = format!("{}: not a list of addresses: {error}", path.display());
        Failure::new(FailureKind::Configuration, message)
            .hint("`aerostack dev` and `aerostack init` write it anew; or give the addresses as flags, such as --vault")
    })
}
