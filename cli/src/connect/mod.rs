//! Connections to the services. Flags, the environment, a context or a directory name the addresses and the client's
//! certificate.

mod directory;
mod environment;
mod metrics_url;
mod remote;
mod resolve;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chassis::{
    channel::channel,
    jwt::{BearerToken, ClaimedIdentity},
    service_channel::ServiceChannel,
    tls::{self, Authorities, Identity, TlsError},
};
use http::Uri;
use proto::Principal;
use rustls::ClientConfig;

use self::resolve::{ResolvedSettings, UntrustedServices, WorkingDirectory};
pub(crate) use self::{
    directory::settings_of_directory, resolve::has_present_context, settings::HELP_HEADING,
};
pub use self::{
    environment::warn_of_unknown_variables,
    remote::Remote,
    settings::{ConnectArgs, DEFAULT_DIR},
};
use crate::{
    contexts::ContextName,
    failure::{Failure, FailureKind},
};

#[derive(Debug)]
pub struct Connection {
    settings: ConnectArgs,
    /// The context that the settings come from.
    context: Option<ContextName>,
    hides_directory: bool,
    untrusted: UntrustedServices,
    timeout: Duration,
}

impl Connection {
    /// Collects the settings of a connection. Certificates are read, and addresses dialled, only when a command uses them.
    pub fn find(args: &ConnectArgs, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        Self::of(args.resolve(WorkingDirectory::Used, env)?)
    }

    /// Does the same for a person who only presses the tab key, and did not choose the directory `.aerostack`: the services that it
    /// names are asked only on a loopback address, unless a flag, the environment or a context names the directory.
    pub(crate) fn find_for_completion(
        args: &ConnectArgs,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Failure> {
        Self::of(args.resolve(WorkingDirectory::OnLoopback, env)?)
    }

    fn of(resolved: ResolvedSettings) -> Result<Self, Failure> {
        let ResolvedSettings {
            settings,
            context,
            hides_directory,
            untrusted,
        } = resolved;
        let timeout = parse_timeout(settings.timeout.as_deref())?;
        Ok(Self {
            settings,
            context,
            hides_directory,
            untrusted,
            timeout,
        })
    }

    /// Returns the name of the context that the settings come from.
    pub(crate) fn context(&self) -> Option<&ContextName> {
        self.context.as_ref()
    }

    /// Returns a remark for a user who may expect another connection than this one.
    pub(crate) fn remark(&self) -> Option<String> {
        let context = self.context.as_ref().filter(|_| self.hides_directory)?;
        Some(format!(
            "the context {context} is used, and not the directory {DEFAULT_DIR}, which --dir {DEFAULT_DIR} would name"
        ))
    }

    pub fn vault(&self) -> Result<Remote, Failure> {
        let ConnectArgs {
            vault,
            vault_id,
            token_file,
            ..
        } = &self.settings;
        self.service(&ServiceSettings {
            flags: VAULT,
            address: vault.as_deref(),
            id: vault_id.as_deref(),
            token_file: token_file.as_deref(),
            is_untrusted: self.untrusted.vault,
        })
    }

    pub fn injector(&self) -> Result<Remote, Failure> {
        let ConnectArgs {
            injector,
            injector_id,
            injector_token_file,
            ..
        } = &self.settings;
        self.service(&ServiceSettings {
            flags: INJECTOR,
            address: injector.as_deref(),
            id: injector_id.as_deref(),
            token_file: injector_token_file.as_deref(),
            is_untrusted: self.untrusted.injector,
        })
    }

    /// Returns the address of a service. The default is for the services of this machine, and a context names others.
    fn address<'a>(&self, settings: &ServiceSettings<'a>) -> Result<&'a str, Failure> {
        let ServiceFlags {
            name, flag, default, ..
        } = settings.flags;
        match (settings.address, &self.context) {
            (Some(address), _) => Ok(address),
            (None, None) => Ok(default),
            (None, Some(context)) => {
                let message = format!("the context {context} does not say where {name} is");
                Err(Failure::new(FailureKind::Configuration, message).hint(format!(
                    "give {flag}, or make the context again with {flag} and `aerostack context add {context} --replace`"
                )))
            }
        }
    }

    /// Returns the base URL of the data plane.
    pub fn data_plane(&self) -> String {
        match self.settings.data_plane.as_deref() {
            None => "http://127.0.0.1:7100".to_owned(),
            Some(url) if url.contains("://") => url.trim_end_matches('/').to_owned(),
            Some(address) => format!("http://{address}"),
        }
    }

    /// Returns false when the URL of the data plane is only the default.
    pub fn has_data_plane(&self) -> bool {
        self.settings.data_plane.is_some()
    }

    /// Returns the addresses of the probes of the vault and of the injector, if they are known.
    pub fn probes(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let read = |url: &Option<String>| {
            metrics_url::parse(url.as_deref()?)?
                .authority()?
                .as_str()
                .parse()
                .ok()
        };
        (
            read(&self.settings.vault_metrics),
            read(&self.settings.injector_metrics),
        )
    }

    /// Returns the URLs of the metrics of the vault and of the injector. A URL is `None` when only the address of the service
    /// itself is known.
    pub(crate) fn metrics(&self) -> Result<(Option<Uri>, Option<Uri>), Failure> {
        let ConnectArgs {
            vault,
            injector,
            vault_metrics,
            injector_metrics,
            ..
        } = &self.settings;
        Ok((
            metrics_url::find(
                "--vault-metrics",
                vault_metrics.as_deref(),
                vault.as_deref(),
                "127.0.0.1:9051",
            )?,
            metrics_url::find(
                "--injector-metrics",
                injector_metrics.as_deref(),
                injector.as_deref(),
                "127.0.0.1:9052",
            )?,
        ))
    }

    /// Returns the file of the authorities that issued the services' certificates.
    pub fn ca(&self) -> Option<&Path> {
        self.settings.ca.as_deref()
    }

    pub fn cert(&self) -> Option<&Path> {
        self.settings.cert.as_deref()
    }

    /// Returns the longest time that a service may take to answer.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns a client of one service. The client sends only the token of this service, because whoever receives a token can use it.
    fn service(&self, settings: &ServiceSettings<'_>) -> Result<Remote, Failure> {
        let address = self.address(settings)?;
        let name = match &self.context {
            Some(context) => format!("{} (context {context})", settings.flags.name),
            None => settings.flags.name.to_owned(),
        };
        settings.check_token()?;
        let tls = self.tls(settings)?;
        let wrong = |what: &dyn std::fmt::Display| {
            Failure::new(
                FailureKind::Configuration,
                format_args!("{name} on {address:?}: {what}"),
            )
            .hint("addresses are HOST:PORT, such as 127.0.0.1:7150")
        };
        let target = address
            .parse()
            .map_err(|_| wrong(&"this is no address of a service"))?;
        let channel = channel(&target, tls.clone()).map_err(|error| wrong(&error))?;
        Ok(Remote {
            name,
            address: address.to_owned(),
            tls,
            channel: ServiceChannel::new(channel, settings.token_file.map(Path::to_owned)),
            timeout: self.timeout,
        })
    }

    /// Returns the identity that the token of `--token-file` claims; `None` without such a flag, or when the file is no token.
    pub(crate) fn token_identity(&self) -> Option<ClaimedIdentity> {
        let path = self.settings.token_file.as_ref()?;
        BearerToken::read(path).ok()?.claimed_identity()
    }

    /// Returns the first file of `--token-file` and `--injector-token-file` that every user of this machine may read.
    pub(crate) fn exposed_token_file(&self) -> Option<&Path> {
        let files = [&self.settings.token_file, &self.settings.injector_token_file];
        let is_exposed = |path: &&Path| {
            path.metadata()
                .is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
        };
        files.into_iter().flatten().map(PathBuf::as_path).find(is_exposed)
    }

    fn tls(&self, settings: &ServiceSettings<'_>) -> Result<Arc<ClientConfig>, Failure> {
        let ConnectArgs {
            ca,
            cert,
            key,
            token_file,
            injector_token_file,
            ..
        } = &self.settings;
        let has_token = token_file.is_some() || injector_token_file.is_some();
        let (ca, identity) = match (ca, cert, key, settings.token_file) {
            (Some(ca), _, _, Some(_)) => (ca, None),
            (Some(ca), Some(cert), Some(key), None) => {
                (ca, Some(Identity::load(cert, key).map_err(unusable)?))
            }
            // The client has a token for the other service alone. This service refuses what needs an identity.
            (Some(ca), None, None, None) if has_token => (ca, None),
            _ => return Err(self.not_configured()),
        };
        let authorities = Authorities::load(ca).map_err(unusable)?;
        let tls = match settings.id {
            None => tls::grpc_client_by_host(identity, &authorities),
            Some(id) => {
                let id = Principal::parse(id).map_err(|error| {
                    Failure::new(FailureKind::Configuration, format_args!("{id:?}: {error}"))
                })?;
                tls::grpc_client(identity, &authorities, id)
            }
        };
        tls.map_err(unusable)
    }

    fn not_configured(&self) -> Failure {
        let ConnectArgs { ca, cert, key, .. } = &self.settings;
        let missing = [("--ca", ca), ("--cert", cert), ("--key", key)];
        let missing = missing.into_iter().filter(|(_, set)| set.is_none());
        let missing: Vec<&str> = missing.map(|(flag, _)| flag).collect();
        let connection = match &self.context {
            Some(context) => format!("the connection of the context {context}"),
            None => "the connection".to_owned(),
        };
        let message = format!("{connection} is not configured: {} missing", missing.join(", "));
        Failure::new(FailureKind::Configuration, message).hint(
            "run this where `aerostack dev` runs, or give --dir, --context, or these flags (environment: AEROSTACK_CA, \
             AEROSTACK_CERT, AEROSTACK_KEY); --token-file (vault) and --injector-token-file can take the place of --cert and --key",
        )
    }
}

/// The name of a service, its flags, and its default address.
#[derive(Debug, Clone, Copy)]
struct ServiceFlags {
    name: &'static str,
    flag: &'static str,
    default: &'static str,
    token_flag: &'static str,
}

const VAULT: ServiceFlags = ServiceFlags {
    name: "the vault",
    flag: "--vault",
    default: "127.0.0.1:7150",
    token_flag: "--token-file",
};

const INJECTOR: ServiceFlags = ServiceFlags {
    name: "the injector",
    flag: "--injector",
    default: "127.0.0.1:7151",
    token_flag: "--injector-token-file",
};

/// The settings of one service.
struct ServiceSettings<'c> {
    flags: ServiceFlags,
    address: Option<&'c str>,
    id: Option<&'c str>,
    token_file: Option<&'c Path>,
    /// True when the address or the CA comes from the directory `.aerostack` of the working directory.
    is_untrusted: bool,
}

impl ServiceSettings<'_> {
    /// Checks that the service may get the token, and that the file of the token holds one.
    fn check_token(&self) -> Result<(), Failure> {
        let Some(file) = self.token_file else {
            return Ok(());
        };
        let ServiceFlags {
            name,
            flag,
            default: _,
            token_flag,
        } = self.flags;
        if self.is_untrusted {
            let message = format!(
                "the token in {} is not sent to {name} that the directory {DEFAULT_DIR} names",
                file.display()
            );
            return Err(Failure::new(FailureKind::Configuration, message).hint(format!(
                "{DEFAULT_DIR} may come with a project of somebody else. To use its services with its certificate, give --dir \
                 {DEFAULT_DIR}; to send them the token, give {token_flag} too; for another service give {flag} and --ca"
            )));
        }
        let read = BearerToken::read(file).map_err(|error| {
            Failure::new(FailureKind::Configuration, error).hint(format!(
                "{token_flag} names a file with a token, such as `kubectl create token` prints"
            ))
        });
        read.map(drop)
    }
}

fn unusable(error: TlsError) -> Failure {
    Failure::new(FailureKind::Configuration, error)
        .hint("--ca, --cert and --key name the files; `aerostack dev` and `aerostack init` make some")
}

fn parse_timeout(text: Option<&str>) -> Result<Duration, Failure> {
    let text = text.unwrap_or("10");
    text.trim_end_matches('s')
        .parse::<f64>()
        .ok()
        .filter(|seconds| (0.001..=86_400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| {
            Failure::new(
                FailureKind::Usage,
                format_args!("--timeout {text:?}: a number of seconds up to 86400 is needed"),
            )
        })
}
