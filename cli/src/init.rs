//! `aerostack init`: the root key, and the certificates of services that run in separate containers or on separate
//! machines. Each service gets a folder with only the files that it needs. A second run only renews certificates that
//! expire soon.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Args;
use serde_json::json;
use vault_service::{crypto::root_key_file, new_file};

use crate::{
    failure::FailureKind,
    pki::{ADMIN_ID, Authority, DEMO_ID, Leaf, Owner, PkiError, Usage},
};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack init --ca-dir ca --root-key-file root.key --vault-dir vault --injector-dir injector")]
pub struct InitArgs {
    /// The directory of the certificate authority. Its key can issue any identity
    #[arg(long, value_name = "DIR")]
    pub ca_dir: PathBuf,
    /// The vault's root key; an existing key is never replaced
    #[arg(long, value_name = "FILE")]
    pub root_key_file: PathBuf,
    /// The directory for the vault's vault.pem, vault-key.pem and ca.pem
    #[arg(long, value_name = "DIR")]
    pub vault_dir: PathBuf,
    /// The directory for the injector's injector.pem, injector-key.pem and ca.pem
    #[arg(long, value_name = "DIR")]
    pub injector_dir: PathBuf,
    /// The directory for the certificate of a demo upstream
    #[arg(long, value_name = "DIR")]
    pub upstream_dir: Option<PathBuf>,
    /// The directory for the certificate of `aerostack demo`
    #[arg(long, value_name = "DIR")]
    pub demo_dir: Option<PathBuf>,
    /// The administrator's directory, as `aerostack --dir DIR` expects it; the new files belong to the owner of the
    /// directory
    #[arg(long, value_name = "DIR")]
    pub admin_dir: Option<PathBuf>,
    /// The user and group that the services run as, which get all files except those of --admin-dir
    #[arg(long, value_name = "UID:GID")]
    pub owner: Option<Owner>,
    /// The host name under which others reach the vault
    #[arg(long, value_name = "NAME", default_value = "vault")]
    pub vault_name: String,
    /// The host name under which others reach the injector
    #[arg(long, value_name = "NAME", default_value = "injector")]
    pub injector_name: String,
    /// The host name of the demo upstream
    #[arg(long, value_name = "NAME", default_value = "upstream")]
    pub upstream_name: String,
    /// The address of the vault's gRPC for the administrator
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7150")]
    pub vault_addr: String,
    /// The address of the injector's gRPC for the administrator
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7151")]
    pub injector_addr: String,
    /// The address of the vault's probes for the administrator
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9051")]
    pub vault_metrics_addr: String,
    /// The address of the injector's probes for the administrator
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9052")]
    pub injector_metrics_addr: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    RootKey(#[from] root_key_file::RootKeyFileError),
    /// The root key is missing although it existed: a run makes the root key before the certificate authority, and there is
    /// a certificate authority.
    #[error(
        "{} is gone, and nothing that the vault stored can be read without it: put its copy back, or remove {} and the \
         vault's data too to begin anew", root_key.display(), ca.display()
    )]
    RootKeyLost { root_key: PathBuf, ca: PathBuf },
    #[error("cannot write {}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The directory decides who owns the administrator's files, so `init` does not make it.
    #[error("there is no directory {} for --admin-dir: make it first, as the user who will own its files", .0.display())]
    NoAdminDir(PathBuf),
}

impl InitError {
    /// Returns the kind of the failure, which has the exit code.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Pki(error) => error.kind(),
            Self::RootKey(_) | Self::File { .. } | Self::NoAdminDir(_) => FailureKind::File,
            Self::RootKeyLost { .. } => FailureKind::Refused,
        }
    }
}

/// Makes the files that are missing or stale, and returns a description of each. After an error, the files that were made
/// stay, and the next run makes the others.
pub(crate) fn run(args: &InitArgs) -> Result<Vec<String>, InitError> {
    let mut made = Vec::new();
    if ensure_root_key(args)? {
        let path = args.root_key_file.display();
        made.push(format!(
            "the root key, {path}: keep a copy of it apart from the copies of the data"
        ));
    }
    if !Authority::cert_in(&args.ca_dir).exists() {
        made.push(format!("a certificate authority, in {}", args.ca_dir.display()));
    }
    let names = [&args.vault_name, &args.injector_name, &args.upstream_name];
    let authority = Authority::ensure(&args.ca_dir, names.map(Clone::clone).to_vec())?;
    for (dir, leaf) in service_leaves(args) {
        if authority.ensure_leaf(dir, leaf, args.owner)? {
            made.push(format!("a certificate, in {}", dir.display()));
        }
    }
    if let Some(dir) = &args.admin_dir
        && ensure_admin_files(args, &authority, dir)?
    {
        made.push(format!("a certificate to administer with, in {}", dir.display()));
    }
    Ok(made)
}

type MakeLeaf<'a> = Box<dyn FnOnce(SystemTime) -> Leaf + 'a>;

/// Returns the folder and the leaf of each service and of the demo.
fn service_leaves(args: &InitArgs) -> Vec<(&Path, MakeLeaf<'_>)> {
    let mut leaves: Vec<(&Path, MakeLeaf<'_>)> = vec![
        (
            &args.vault_dir,
            Box::new(|now| Leaf::vault(now).also_named(&args.vault_name)),
        ),
        (
            &args.injector_dir,
            Box::new(|now| Leaf::injector(now).also_named(&args.injector_name)),
        ),
    ];
    if let Some(dir) = &args.upstream_dir {
        let leaf = |now| Leaf::server("upstream", now).also_named(&args.upstream_name);
        leaves.push((dir, Box::new(leaf)));
    }
    if let Some(dir) = &args.demo_dir {
        leaves.push((
            dir,
            Box::new(|now| Leaf::new("demo", DEMO_ID, &[Usage::Client], now)),
        ));
    }
    leaves
}

/// Makes the root key on the first run. A root key that was lost later is an error: a new one could not open the store,
/// and would hide the loss. Returns true when the key was made.
fn ensure_root_key(args: &InitArgs) -> Result<bool, InitError> {
    let path = &args.root_key_file;
    let missing = !path.exists();
    if missing && Authority::cert_in(&args.ca_dir).exists() {
        return Err(InitError::RootKeyLost {
            root_key: path.clone(),
            ca: args.ca_dir.clone(),
        });
    }
    if missing {
        root_key_file::write_new(path)?;
    }
    if let Some(owner) = args.owner {
        owner.own(path)?;
    }
    Ok(missing)
}

/// Makes the administrator's certificate and `ports.json`, for `aerostack --dir` and grpcurl. Returns true when the
/// certificate was made.
fn ensure_admin_files(args: &InitArgs, authority: &Authority, dir: &Path) -> Result<bool, InitError> {
    if !dir.is_dir() {
        return Err(InitError::NoAdminDir(dir.to_owned()));
    }
    let owner = Owner::of(dir)?;
    let leaf = |now| Leaf::new("admin", ADMIN_ID, &[Usage::Client], now);
    let made = authority.ensure_leaf(&dir.join("pki"), leaf, Some(owner))?;
    let addresses = json!({
        "vault": args.vault_addr,
        "injector": args.injector_addr,
        "vault_metrics": args.vault_metrics_addr,
        "injector_metrics": args.injector_metrics_addr,
    });
    let ports = dir.join("ports.json");
    new_file::replace(&ports, format!("{addresses:#}\n").as_bytes()).map_err(|source| InitError::File {
        path: ports.clone(),
        source,
    })?;
    owner.own(&ports)?;
    Ok(made)
}

#[cfg(test)]
mod tests;
