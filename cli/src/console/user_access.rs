//! A console for users who sign in with client certificates, on any address.

use std::{net::SocketAddr, path::PathBuf};

use chassis::{
    expiry::OwnCertificates,
    settings::Problems,
    tls::{Reloader, ServerTls},
};
use clap::Args;
use http::uri::Authority;
use proto::Principal;

/// Flags of a console that other machines reach.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Users with certificates")]
pub(super) struct UserAccessArgs {
    /// The console's certificate chain, PEM: users reach the console over TLS, and sign in with a client certificate
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// The authorities that issue the users' certificates, PEM
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// A user who may use the console, with all rights of the console's own identity: spiffe://… or dns:…, as the certificate
    /// names it; may be repeated
    #[arg(long, value_name = "PRINCIPAL")]
    allow_user: Vec<String>,
    /// A host name under which browsers reach the console; the port is that of --listen unless given; may be repeated; by
    /// default the hosts in the certificate
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Vec<String>,
    /// Let every user try calls: they go from the console to the data plane, which uses the secrets of all servers for whoever reaches
    /// it
    #[arg(long)]
    allow_calls: bool,
}

/// The checked flags.
pub(super) struct UserAccess {
    pub(super) tls: ServerTls,
    pub(super) users: Vec<Principal>,
    pub(super) hosts: Vec<String>,
    pub(super) allows_calls: bool,
    /// The console's own certificate, whose expiry is logged.
    pub(super) certificates: OwnCertificates,
    /// Reads the files of the certificate and of the CAs again when they change.
    pub(super) reloader: Reloader,
}

impl UserAccessArgs {
    /// Returns true when one of the flags was given. Then all that have no default are required.
    pub(super) fn is_given(&self) -> bool {
        let Self {
            tls_cert,
            tls_key,
            client_ca,
            allow_user,
            host,
            allow_calls,
        } = self;
        let files = [tls_cert, tls_key, client_ca];
        files.iter().any(|file| file.is_some()) || !allow_user.is_empty() || !host.is_empty() || *allow_calls
    }

    pub(super) fn check(self, listen: SocketAddr, problems: &mut Problems) -> Option<UserAccess> {
        if !self.is_given() {
            return None;
        }
        let Self {
            tls_cert,
            tls_key,
            client_ca,
            allow_user,
            host,
            allow_calls,
        } = self;
        let identity = problems.identity(
            ("--tls-cert", tls_cert.as_deref()),
            ("--tls-key", tls_key.as_deref()),
        );
        let clients = problems.authorities("--client-ca", client_ca.as_deref(), Some(listen));
        // An empty list means nobody, and a console for nobody is a mistake.
        problems.required("--allow-user", allow_user.first());
        let users = allow_user.iter();
        let users: Vec<_> = users
            .filter_map(|user| problems.take("--allow-user", Principal::parse(user)))
            .collect();
        let identity = identity?;
        let hosts = hosts(&host, identity.current()?.hosts(), problems);
        let tls = ServerTls::browser(identity, clients?);
        problems.take("--tls-cert", tls.config())?;
        Some(UserAccess {
            tls,
            users,
            hosts,
            allows_calls: allow_calls,
            certificates: problems.own_certificates(),
            reloader: problems.take_reloader(),
        })
    }
}

/// Returns the given hosts, or without any those of the certificate. The first one is printed as the address, so those of this machine
/// alone come last.
fn hosts(given: &[String], mut of_certificate: Vec<String>, problems: &mut Problems) -> Vec<String> {
    if given.is_empty() {
        if of_certificate.is_empty() {
            problems.add(
                "--host",
                "is required, because the certificate of --tls-cert names no host",
            );
        }
        of_certificate.sort_by_key(|host| is_loopback(host));
        return of_certificate;
    }
    let read = |host: &String| {
        let authority = host.parse::<Authority>().ok();
        let is_host = authority.is_some_and(|authority| !authority.as_str().contains('@'));
        problems.take(
            "--host",
            is_host
                .then(|| host.clone())
                .ok_or("this is no HOST or HOST:PORT"),
        )
    };
    given.iter().filter_map(read).collect()
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host == "[::1]" || host.starts_with("127.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_those_of_the_certificate_unless_they_are_given() {
        let of = |given: &[&str], certificate: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            let mut problems = Problems::default();
            let hosts = hosts(&owned(given), owned(certificate), &mut problems);
            problems.finish(Some(hosts)).ok()
        };
        let some = |host: &str| Some(vec![host.to_owned()]);
        assert_eq!(of(&[], &["a.example"]), some("a.example"));
        let first = |hosts: Option<Vec<String>>| hosts.and_then(|hosts| hosts.into_iter().next());
        let of_pki = ["localhost", "a.example", "127.0.0.1", "[::1]"];
        assert_eq!(first(of(&[], &of_pki)).as_deref(), Some("a.example"));
        assert_eq!(of(&["b.example:8443"], &["a.example"]), some("b.example:8443"));
        assert_eq!(of(&["[2001:db8::1]"], &[]), some("[2001:db8::1]"));
        for wrong in ["", "https://a.example", "a.example/x", "user@a.example"] {
            assert_eq!(of(&[wrong], &[]), None, "{wrong}");
        }
        assert_eq!(of(&[], &[]), None);
    }

    #[test]
    fn every_flag_that_is_missing_is_named() {
        let args = UserAccessArgs {
            host: vec!["a.example".to_owned()],
            ..UserAccessArgs::default()
        };
        let mut problems = Problems::default();
        assert!(args.check(([0, 0, 0, 0], 1).into(), &mut problems).is_none());
        let message = problems
            .finish::<()>(None)
            .err()
            .map(|problems| problems.to_string());
        let message = message.unwrap_or_default();
        for flag in ["--tls-cert", "--tls-key", "--client-ca", "--allow-user"] {
            assert!(message.contains(flag), "{flag}: {message}");
        }
    }
}
