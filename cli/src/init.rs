//! `aerostack init`: the root key and the certificates of a pair whose parts run apart, each part with no more than it
//! needs. Run again it changes nothing but what is about to expire.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Args;
use serde_json::json;
use vault_service::{crypto::root_key_file, new_file};

use crate::pki::{
    ADMIN_ID, DEMO_ID, Leaf, PkiError, Usage,
    apart::{Authority, Owner},
};

/// What `aerostack init` is told.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Where the certificate authority is kept; whoever reads it can be anybody
    #[arg(long, value_name = "DIR")]
    pub ca_dir: PathBuf,
    /// The vault's root key; one that exists is never replaced
    #[arg(long, value_name = "FILE")]
    pub root_key_file: PathBuf,
    /// Where the vault's certificate and key go, as vault.pem and vault-key.pem, with ca.pem
    #[arg(long, value_name = "DIR")]
    pub vault_dir: PathBuf,
    /// Where the injector's go
    #[arg(long, value_name = "DIR")]
    pub injector_dir: PathBuf,
    /// Where those of a demo upstream go
    #[arg(long, value_name = "DIR")]
    pub upstream_dir: Option<PathBuf>,
    /// Where those of `aerostack demo` go
    #[arg(long, value_name = "DIR")]
    pub demo_dir: Option<PathBuf>,
    /// A directory to administer the pair from, as `aerostack --dir DIR` expects it; what is put there belongs to
    /// the directory's owner
    #[arg(long, value_name = "DIR")]
    pub admin_dir: Option<PathBuf>,
    /// Who the parts run as: all else that is made is theirs
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
    /// Where the administrator reaches the vault's gRPC
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7150")]
    pub vault_addr: String,
    /// Where the administrator reaches the injector's gRPC
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7151")]
    pub injector_addr: String,
    /// Where the administrator reaches the vault's probes
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9051")]
    pub vault_metrics_addr: String,
    /// Where the administrator reaches the injector's probes
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9052")]
    pub injector_metrics_addr: String,
}

/// Why something was not made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The root key.
    #[error(transparent)]
    RootKey(#[from] root_key_file::RootKeyFileError),
    /// There was one: a certificate authority is made after its root key.
    #[error(
        "{} is gone, and nothing that the vault stored can be read without it: put its copy back, or remove {} and the \
         vault's data too to begin anew", root_key.display(), ca.display()
    )]
    RootKeyLost {
        /// Where it was.
        root_key: PathBuf,
        /// What tells that it was.
        ca: PathBuf,
    },
    /// Another file.
    #[error("cannot write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes what is missing or stale, and answers what that was.
///
/// # Errors
/// [`InitError`]; what was made until then stays, and the next run goes on from there.
pub fn run(args: &InitArgs) -> Result<Vec<String>, InitError> {
    let mut made = Vec::new();
    if root_key(args)? {
        let path = args.root_key_file.display();
        made.push(format!(
            "the root key, {path}: keep a copy where copies of the data are not"
        ));
    }
    if !Authority::cert_in(&args.ca_dir).exists() {
        made.push(format!("a certificate authority, in {}", args.ca_dir.display()));
    }
    let names = [&args.vault_name, &args.injector_name, &args.upstream_name];
    let authority = Authority::ensure(&args.ca_dir, names.map(Clone::clone).to_vec())?;
    for (dir, leaf) in parts(args) {
        if authority.identity(dir, leaf, args.owner)? {
            made.push(format!("a certificate, in {}", dir.display()));
        }
    }
    if let Some(dir) = &args.admin_dir
        && admin(args, &authority, dir)?
    {
        made.push(format!("a certificate to administer with, in {}", dir.display()));
    }
    Ok(made)
}

type MakeLeaf<'a> = Box<dyn FnOnce(SystemTime) -> Leaf + 'a>;

/// Each part, by its folder, with who it is.
fn parts(args: &InitArgs) -> Vec<(&Path, MakeLeaf<'_>)> {
    let mut parts: Vec<(&Path, MakeLeaf<'_>)> = vec![
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
        parts.push((dir, Box::new(leaf)));
    }
    if let Some(dir) = &args.demo_dir {
        parts.push((
            dir,
            Box::new(|now| Leaf::new("demo", DEMO_ID, &[Usage::Client], now)),
        ));
    }
    parts
}

/// Makes the root key unless there is one, or was: without it the store cannot be opened, and a new one would hide that.
fn root_key(args: &InitArgs) -> Result<bool, InitError> {
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

/// What `aerostack --dir` and grpcurl take to administer the pair.
fn admin(args: &InitArgs, authority: &Authority, dir: &Path) -> Result<bool, InitError> {
    let owner = Owner::of(dir)?;
    let leaf = |now| Leaf::new("admin", ADMIN_ID, &[Usage::Client], now);
    let made = authority.identity(&dir.join("pki"), leaf, Some(owner))?;
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
#[path = "init_tests.rs"]
mod tests;
