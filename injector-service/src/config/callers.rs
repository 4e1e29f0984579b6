//! The settings of the callers of the data plane.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use chassis::{
    jwt::Issuers,
    settings::{Problems, path},
    tls::{Authorities, Reloading},
};
use clap::Args;
use proto::Principal;

use crate::callers::{CallerPolicy, Callers, StaticTokens};

/// The settings of callers as text.
#[derive(Debug, Clone, Default, Args)]
pub struct CallerArgs {
    /// Path of a Unix socket on which the data plane listens as well, for the users of --allow-uid
    #[arg(long, value_name = "PATH")]
    pub listen_unix: Option<PathBuf>,
    /// A uid whose processes may call through the Unix socket. Without this setting, that is the uid of the injector
    #[arg(long, value_delimiter = ';', value_name = "UID")]
    pub allow_uid: Vec<String>,
    /// A caller of the data plane: PRINCIPAL=WORKSPACE/SERVER,WORKSPACE/* or PRINCIPAL=*
    ///
    /// With at least one caller, every call over TCP needs an identity: a token in the header x-aerostack-token, or a client
    /// certificate. Without one, whoever reaches a listener may call every server.
    #[arg(long, value_delimiter = ';', value_name = "PRINCIPAL=SERVERS")]
    pub caller: Vec<String>,
    /// File with a token that identifies the caller token:ID, and that others may not read: ID=FILE. Read again when it
    /// changes
    #[arg(long, value_delimiter = ';', value_name = "ID=FILE")]
    pub caller_token_file: Vec<String>,
    /// CAs that issue the client certificates of callers, PEM
    #[arg(long, value_name = "FILE")]
    pub data_plane_client_ca: Option<PathBuf>,
    /// Let everyone who reaches the data plane use every server, on an address that other machines reach
    #[arg(long)]
    pub data_plane_insecure_any_caller: bool,
}

/// The settings of callers after the check.
pub(super) struct CheckedCallers {
    pub(super) callers: Callers,
    pub(super) listen_unix: Option<PathBuf>,
    /// The CAs of client certificates.
    pub(super) authorities: Option<Reloading<Authorities>>,
}

impl CallerArgs {
    /// Parses and checks all settings. `exposed` is an address of the data plane that other machines reach, and `has_tls`
    /// is true when the data plane has a certificate.
    pub(super) fn check(
        &self,
        problems: &mut Problems,
        issuers: &Issuers,
        exposed: Option<SocketAddr>,
        has_tls: bool,
    ) -> Option<CheckedCallers> {
        self.check_exposure(problems, exposed);
        let listen_unix = path(&self.listen_unix).map(PathBuf::from);
        let local_users = self.local_users(problems, listen_unix.is_some());
        let tokens = self.tokens(problems);
        let authorities = self.authorities(problems, exposed, has_tls);
        let (policy, tokens) = (self.policy(problems, issuers)?, tokens?);
        self.check_use(problems, policy.as_ref(), &tokens, issuers);
        Some(CheckedCallers {
            callers: Callers {
                policy,
                tokens,
                issuers: issuers.clone(),
                local_users: local_users?,
            },
            listen_unix,
            authorities: authorities?,
        })
    }

    fn local_users(&self, problems: &mut Problems, has_socket: bool) -> Option<BTreeSet<u32>> {
        if self.allow_uid.is_empty() {
            return Some([rustix::process::getuid().as_raw()].into());
        }
        if !has_socket {
            problems.add("--allow-uid", "is for --listen-unix, which is not given");
        }
        let read = |text: &String| {
            let uid = text
                .parse()
                .map_err(|_| format!("{text:?} is not a uid, such as 1000"));
            problems.take("--allow-uid", uid)
        };
        self.allow_uid.iter().map(read).collect()
    }

    fn tokens(&self, problems: &mut Problems) -> Option<StaticTokens> {
        let mistakes = match StaticTokens::load(self.caller_token_file.iter()) {
            Ok(tokens) => return Some(tokens),
            Err(mistakes) => mistakes,
        };
        for mistake in mistakes {
            problems.add("--caller-token-file", mistake);
        }
        None
    }

    #[expect(
        clippy::option_option,
        reason = "the outer option is None for a mistake in the settings, the inner one without client certificates"
    )]
    fn authorities(
        &self,
        problems: &mut Problems,
        exposed: Option<SocketAddr>,
        has_tls: bool,
    ) -> Option<Option<Reloading<Authorities>>> {
        const SETTING: &str = "--data-plane-client-ca";
        let Some(path) = path(&self.data_plane_client_ca) else {
            return Some(None);
        };
        if !has_tls {
            problems.add(
                SETTING,
                "client certificates need TLS; give --data-plane-tls-cert and --data-plane-tls-key",
            );
        }
        problems.authorities(SETTING, Some(path), exposed).map(Some)
    }

    #[expect(
        clippy::option_option,
        reason = "the outer option is None for a mistake in the settings, the inner one without --caller"
    )]
    fn policy(&self, problems: &mut Problems, issuers: &Issuers) -> Option<Option<CallerPolicy>> {
        let mut policy = CallerPolicy::default();
        // An empty text is a mistake like any other: if it were passed over, everyone could call every server, as without the
        // setting.
        let texts = self.caller.iter();
        let added: Vec<_> = texts
            .map(|text| problems.take("--caller", policy.add(text, issuers)))
            .collect();
        let is_given = !added.is_empty();
        added.into_iter().collect::<Option<()>>()?;
        Some(is_given.then_some(policy))
    }

    /// Refuses an address that other machines reach when nobody asks their programs who they are.
    fn check_exposure(&self, problems: &mut Problems, exposed: Option<SocketAddr>) {
        if let Some(address) = exposed
            && self.caller.is_empty()
            && !self.data_plane_insecure_any_caller
        {
            problems.add(
                "--data-plane-listen",
                format!(
                    "{address} is reached from other machines, whose programs could use every server; say with --caller \
                     who may call, or accept it with --data-plane-insecure-any-caller"
                ),
            );
        }
    }

    /// Refuses callers that could never prove their identity, and identities that no caller has: a call would be refused
    /// although the settings look right.
    fn check_use(
        &self,
        problems: &mut Problems,
        policy: Option<&CallerPolicy>,
        tokens: &StaticTokens,
        issuers: &Issuers,
    ) {
        let has_authorities = path(&self.data_plane_client_ca).is_some();
        if policy.is_none() && has_authorities {
            problems.add("--data-plane-client-ca", "is of no use without --caller");
        }
        let callers: Vec<_> = policy.into_iter().flat_map(CallerPolicy::principals).collect();
        for principal in callers.iter().copied() {
            let lacking = match principal {
                Principal::Spiffe(_) | Principal::Dns(_) if !has_authorities => "--data-plane-client-ca",
                Principal::Jwt(_) if issuers.is_empty() => "--jwt-issuer",
                Principal::Token(id) if !tokens.principals().any(|known| known == principal) => {
                    problems.add(
                        "--caller",
                        format!("{principal} needs --caller-token-file {id}=FILE"),
                    );
                    continue;
                }
                Principal::Spiffe(_) | Principal::Dns(_) | Principal::Jwt(_) | Principal::Token(_) => {
                    continue;
                }
            };
            problems.add("--caller", format!("{principal} needs {lacking}"));
        }
        for token in tokens.principals() {
            if !callers.contains(&token) {
                problems.add(
                    "--caller-token-file",
                    format!("{token} may call no server; say which with --caller {token}=WORKSPACE/SERVER"),
                );
            }
        }
    }
}
