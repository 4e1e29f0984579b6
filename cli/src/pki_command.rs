//! `aerostack pki`: certificates for people who have no certificate authority.

use std::{net::IpAddr, path::PathBuf, time::SystemTime};

use clap::{Args, Subcommand, ValueEnum};

use proto::{Principal, PrincipalError};

use crate::pki::{
    Leaf, PkiError, Usage,
    apart::{Authority, Owner},
};

/// What `aerostack pki` does.
#[derive(Debug, Clone, Subcommand)]
pub enum PkiCommand {
    /// Make a certificate authority in a directory; one that exists is never replaced
    Ca {
        /// The directory; whoever reads it can be anybody, so keep it where neither service can
        dir: PathBuf,
    },
    /// Issue a certificate for a year, or renew one that expires within 30 days
    ///
    /// The command writes KIND.pem, KIND-key.pem and ca.pem. A certificate that is still good is left alone, so the
    /// command may run every day.
    Issue(IssueArgs),
}

/// The certificate to issue.
#[derive(Debug, Clone, Args)]
pub struct IssueArgs {
    /// Who gets it, which decides what it may be used for
    pub kind: Holder,
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    pub ca_dir: PathBuf,
    /// Directory for the certificate, its key and the authority's certificate
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The principal, as the services' settings name it: spiffe://TRUST-DOMAIN/PATH
    #[arg(long, value_name = "PRINCIPAL", value_parser = spiffe_id, required_unless_present = "name")]
    pub id: Option<String>,
    /// A DNS name or IP address under which others reach the holder; may be repeated. `localhost` and the loopback
    /// addresses are always added for servers
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// The user and group that get the files, by number; whoever runs the command keeps them if not given
    #[arg(long, value_name = "UID:GID")]
    pub owner: Option<Owner>,
}

/// The holder of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Holder {
    /// A vault: a server
    Vault,
    /// An injector: a server, and a client of the vault
    Injector,
    /// An administrator, editor or viewer: a client
    Admin,
    /// The injector's data plane, or an upstream: a server
    Server,
}

/// Only a URI names a principal whatever DNS names there are beside it.
fn spiffe_id(text: &str) -> Result<String, PrincipalError> {
    match Principal::parse(text)? {
        Principal::Spiffe(id) => Ok(id.to_string()),
        Principal::Dns(_) => Err(PrincipalError::Spiffe),
    }
}

impl PkiCommand {
    /// Makes what is missing or stale, and returns what that was.
    ///
    /// # Errors
    /// [`PkiError`]; nothing that exists is replaced, except for a certificate that is stale.
    pub fn run(&self) -> Result<Option<String>, PkiError> {
        match self {
            Self::Ca { dir } => {
                let exists = Authority::cert_in(dir).exists();
                Authority::ensure_for_any_name(dir)?;
                Ok((!exists).then(|| format!("a certificate authority, in {}", dir.display())))
            }
            Self::Issue(args) => {
                let authority = Authority::open_for_any_name(&args.ca_dir)?;
                let made = authority.identity(&args.dir, |now| args.leaf(now), args.owner)?;
                Ok(made.then(|| format!("a certificate, in {}", args.dir.display())))
            }
        }
    }
}

impl IssueArgs {
    fn leaf(&self, now: SystemTime) -> Leaf {
        let (name, usages): (_, &[Usage]) = match self.kind {
            Holder::Vault => ("vault", &[Usage::Server]),
            Holder::Injector => ("injector", &[Usage::Server, Usage::Client]),
            Holder::Admin => ("admin", &[Usage::Client]),
            Holder::Server => ("server", &[Usage::Server]),
        };
        let mut leaf = Leaf::new(name, "", usages, now);
        if usages.contains(&Usage::Server) {
            leaf = leaf.on_loopback();
        }
        leaf.uris = self.id.iter().cloned().collect();
        for name in &self.name {
            match name.parse::<IpAddr>() {
                Ok(ip) => leaf.ips.push(ip),
                Err(_) => leaf.dns.push(name.clone()),
            }
        }
        leaf
    }
}

#[cfg(test)]
#[path = "pki_command_tests.rs"]
mod tests;
