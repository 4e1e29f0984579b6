//! `aerostack pki`: certificates for operators who have no certificate authority.

use std::{net::IpAddr, path::PathBuf, time::SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use proto::{Principal, PrincipalError};

use crate::pki::{Authority, Leaf, Owner, PkiError, Usage};

#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "\
Example:\n\
\x20 aerostack pki ca /etc/aerostack/ca")]
pub enum PkiCommand {
    /// Make a certificate authority in a directory; an existing one is never replaced
    #[command(after_help = "\
Example:\n\
     \x20 aerostack pki ca /etc/aerostack/ca")]
    Ca {
        /// The directory. Its key can issue any identity, so keep the directory where neither service can read it
        dir: PathBuf,
    },
    /// Issue a certificate for a year, or renew one that expires within 30 days
    ///
    /// The command writes KIND.pem, KIND-key.pem and ca.pem. A certificate that is valid for more than 30 days stays as it is
    /// as long as it fits the authority, --id and --name, so the command may run every day.
    Issue(IssueArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack pki issue vault --ca-dir ca --dir vault --id spiffe://example.org/vault\n\
\x20 aerostack pki issue server --ca-dir ca --dir upstream --name api.example.org")]
pub struct IssueArgs {
    /// The holder of the certificate, which decides the usages in the certificate
    pub kind: Holder,
    /// The directory of the certificate authority
    #[arg(long, value_name = "DIR")]
    pub ca_dir: PathBuf,
    /// The directory for the certificate, its key and the authority's certificate
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The principal, as the settings of the services name it: spiffe://TRUST-DOMAIN/PATH
    #[arg(long, value_name = "PRINCIPAL", value_parser = spiffe_id, required_unless_present = "name")]
    pub id: Option<String>,
    /// A DNS name or IP address under which others reach the holder; may be repeated. `localhost` and the loopback
    /// addresses are always added for servers
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// The user and group that own the files, by number; without this flag the user who runs the command owns them
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

/// Accepts only SPIFFE IDs: a URI names the principal whatever DNS names the certificate has. A `dns:` principal would
/// depend on them.
pub(crate) fn spiffe_id(text: &str) -> Result<String, PrincipalError> {
    match Principal::parse(text)? {
        Principal::Spiffe(id) => Ok(id.to_string()),
        Principal::Dns(_) | Principal::Jwt(_) | Principal::Token(_) => Err(PrincipalError::Spiffe),
    }
}

impl PkiCommand {
    /// Makes the authority or the certificate when it is missing or stale, and returns a description of what was made.
    pub fn run(&self) -> Result<Option<String>, PkiError> {
        match self {
            Self::Ca { dir } => {
                let exists = Authority::cert_in(dir).exists();
                Authority::ensure_for_any_name(dir)?;
                Ok((!exists).then(|| format!("a certificate authority, in {}", dir.display())))
            }
            Self::Issue(args) => {
                let authority = Authority::open_for_any_name(&args.ca_dir)?;
                let made = authority.ensure_leaf(&args.dir, |now| args.leaf(now), args.owner)?;
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
mod tests;
