//! The settings of the data plane: its listeners, its callers, its TLS and its host names.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use chassis::{
    jwt::Issuers,
    settings::{Problems, path},
    tls::{Authorities, Reloading, ServerTls},
};
use proto::{Principal, ServerName, WorkspaceName};

use super::callers::{CallerArgs, CheckedCallers};
use crate::{
    callers::Callers,
    proxy::{Hosts, ListenerRoute},
};

/// The settings of the data plane after the check.
pub struct DataPlaneConfig {
    /// `None` when the data plane has no listener that leads to every server but the Unix socket.
    pub listen: Option<SocketAddr>,
    /// Path of the Unix socket.
    pub listen_unix: Option<PathBuf>,
    /// Listeners that lead to one server each.
    pub listen_server: Vec<(SocketAddr, ListenerRoute)>,
    pub callers: Callers,
    /// `None` for cleartext.
    pub tls: Option<ServerTls>,
    pub hosts: Hosts,
}

/// The settings of the data plane as text, each named as its flag.
pub(super) struct DataPlaneSettings<'s> {
    pub(super) data_plane_listen: &'s str,
    pub(super) listen_server: &'s [String],
    pub(super) data_plane_tls_cert: Option<&'s Path>,
    pub(super) data_plane_tls_key: Option<&'s Path>,
    pub(super) data_plane_insecure_plaintext: bool,
    pub(super) callers: &'s CallerArgs,
    pub(super) host: &'s [String],
    pub(super) host_suffix: &'s str,
}

impl DataPlaneSettings<'_> {
    /// Parses and checks all settings. `check_callers` compares the callers with settings of other parts.
    pub(super) fn check(
        &self,
        problems: &mut Problems,
        issuers: &Issuers,
        check_callers: impl FnOnce(&mut Problems, &Callers),
    ) -> Option<DataPlaneConfig> {
        let listen = self.listen(problems);
        let listen_server = self.listen_server(problems);
        let exposed = exposed(listen.flatten(), &listen_server);
        let checked = self.callers.check(problems, issuers, exposed, self.has_tls());
        let (callers, authorities) = match checked {
            Some(CheckedCallers {
                callers,
                listen_unix,
                authorities,
            }) => (Some((callers, listen_unix)), authorities),
            None => (None, None),
        };
        if let Some((callers, _)) = &callers {
            check_callers(problems, callers);
        }
        let tls = self.tls(problems, exposed, authorities);
        let hosts = self.hosts(problems);
        let (callers, listen_unix) = callers?;
        Some(DataPlaneConfig {
            listen: listen?,
            listen_unix,
            listen_server,
            callers,
            tls: tls?,
            hosts: hosts?,
        })
    }

    #[expect(
        clippy::option_option,
        reason = "the outer option is None for a mistake in the settings, the inner one without a listener"
    )]
    fn listen(&self, problems: &mut Problems) -> Option<Option<SocketAddr>> {
        const SETTING: &str = "--data-plane-listen";
        if self.data_plane_listen != "none" {
            return problems.address(SETTING, self.data_plane_listen).map(Some);
        }
        let is_reachable = path(&self.callers.listen_unix).is_some() || !self.listen_server.is_empty();
        if !is_reachable {
            problems.add(
                SETTING,
                "none: no program could call; give --listen-unix or --listen-server",
            );
            return None;
        }
        Some(None)
    }

    fn listen_server(&self, problems: &mut Problems) -> Vec<(SocketAddr, ListenerRoute)> {
        let parse = |text: &String| {
            let (address, server) = text.split_once('=')?;
            let (workspace, server) = server.split_once('/')?;
            let route = ListenerRoute::Only(
                WorkspaceName::parse(workspace).ok()?,
                ServerName::parse(server).ok()?,
            );
            Some((address.parse().ok()?, route))
        };
        let invalid = |text: &String| {
            format!("{text:?} is not ADDRESS=WORKSPACE/SERVER, such as 127.0.0.1:7101=dev/github")
        };
        let listeners = self.listen_server.iter();
        listeners
            .filter_map(|text| problems.take("--listen-server", parse(text).ok_or_else(|| invalid(text))))
            .collect()
    }

    /// Returns the TLS of the data plane. Cleartext is refused for addresses that other machines can reach, unless
    /// `--data-plane-insecure-plaintext` allows it.
    #[expect(
        clippy::option_option,
        reason = "the outer option is None for a mistake in the settings, the inner one without TLS"
    )]
    fn tls(
        &self,
        problems: &mut Problems,
        exposed: Option<SocketAddr>,
        callers: Option<Reloading<Authorities>>,
    ) -> Option<Option<ServerTls>> {
        if self.has_tls() {
            let identity = problems.identity(
                ("--data-plane-tls-cert", self.data_plane_tls_cert),
                ("--data-plane-tls-key", self.data_plane_tls_key),
            )?;
            let tls = ServerTls::http(identity, callers);
            problems.take("--data-plane-tls-cert", tls.config())?;
            return Some(Some(tls));
        }
        if let (Some(address), false) = (exposed, self.data_plane_insecure_plaintext) {
            problems.add(
                "--data-plane-listen",
                format!(
                    "{address} is reached from other machines and would be cleartext; give --data-plane-tls-cert and \
                     --data-plane-tls-key, or accept it with --data-plane-insecure-plaintext"
                ),
            );
            return None;
        }
        Some(None)
    }

    fn has_tls(&self) -> bool {
        self.data_plane_tls_cert.is_some() || self.data_plane_tls_key.is_some()
    }

    fn hosts(&self, problems: &mut Problems) -> Option<Hosts> {
        let read = |problems: &mut Problems, setting: &str, text: &str| {
            let lower = text.to_ascii_lowercase();
            let named = Principal::parse(&format!("dns:{lower}")).map(|_| lower);
            problems.take(setting, named.map_err(|_| format!("{text:?} is not a host name")))
        };
        let names = self
            .host
            .iter()
            .filter_map(|name| read(problems, "--host", name))
            .collect();
        let suffix = read(problems, "--host-suffix", self.host_suffix)?;
        Some(Hosts { names, suffix })
    }
}

/// Returns an address of the data plane that other machines reach.
fn exposed(shared: Option<SocketAddr>, dedicated: &[(SocketAddr, ListenerRoute)]) -> Option<SocketAddr> {
    let mut addresses = shared
        .into_iter()
        .chain(dedicated.iter().map(|(address, _)| *address));
    addresses.find(|address| !address.ip().is_loopback())
}
