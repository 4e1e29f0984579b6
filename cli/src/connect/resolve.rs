//! The order of the sources of a connection's settings: flags, the environment, a context, a directory.

use std::{ffi::OsString, path::Path};

use super::{
    directory::{has_certificates, settings_of_directory},
    settings::{ConnectArgs, DEFAULT_DIR},
};
use crate::{
    contexts::{self, Context, ContextName},
    failure::{Failure, FailureKind},
};

/// The directory `.aerostack` in the working directory, which may have come with a folder of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkingDirectory {
    Used,
    /// Used if the services that it names are on this machine.
    OnLoopback,
}

/// The settings that a command uses, and the context that they come from.
#[derive(Debug)]
pub(super) struct ResolvedSettings {
    pub(super) settings: ConnectArgs,
    pub(super) context: Option<ContextName>,
    /// True when the context was used although the working directory has a directory of `aerostack dev`.
    pub(super) hides_directory: bool,
    pub(super) untrusted: UntrustedServices,
}

/// The services whose address or CA comes from the directory `.aerostack` of the working directory. A project of somebody else may
/// have brought the directory, so the client sends no token to these services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct UntrustedServices {
    pub(super) vault: bool,
    pub(super) injector: bool,
}

impl UntrustedServices {
    /// Returns the services of which `given`, which comes before the directory, does not name both the address and the CA.
    fn beside(given: &ConnectArgs) -> Self {
        let is_untrusted = |address: &Option<String>| address.is_none() || given.ca.is_none();
        Self {
            vault: is_untrusted(&given.vault),
            injector: is_untrusted(&given.injector),
        }
    }
}

impl ConnectArgs {
    /// Merges the flags with the other sources.
    ///
    /// When a flag names a context or a directory, this source comes second. The environment comes third, without its addresses,
    /// principals and probes of services, because these may belong to another installation.
    ///
    /// Without such a flag, the environment comes second. The third source is the first of these that exists: the context of
    /// `AEROSTACK_CONTEXT` or the directory of `AEROSTACK_DIR`, the present context, the directory `.aerostack`. The third source is
    /// not read when it could only supply a timeout.
    pub(super) fn resolve(
        &self,
        working_directory: WorkingDirectory,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<ResolvedSettings, Failure> {
        let flags = self.clone();
        let environment = Self::environment(&env);
        match (&self.dir, &self.context) {
            (Some(_), Some(_)) => Err(two_sources("--dir", "--context")),
            (Some(dir), None) => {
                let settings = flags.or(settings_of_directory(dir)?);
                Ok(ResolvedSettings::of(settings.or(environment.without_services())))
            }
            (None, Some(name)) => {
                let (settings, name) = named_context(name, &env)?;
                let settings = flags.or(settings).or(environment.without_services());
                Ok(ResolvedSettings {
                    context: Some(name),
                    ..ResolvedSettings::of(settings)
                })
            }
            (None, None) => {
                let given = flags.or(environment);
                if given.is_complete() {
                    return Ok(ResolvedSettings::of(given));
                }
                match default_source(working_directory, &env)? {
                    DefaultSource::Chosen(chosen) => Ok(ResolvedSettings {
                        settings: given.or(chosen.settings),
                        ..chosen
                    }),
                    DefaultSource::WorkingDirectory(settings) => Ok(ResolvedSettings {
                        untrusted: UntrustedServices::beside(&given),
                        ..ResolvedSettings::of(given.or(settings))
                    }),
                }
            }
        }
    }
}

impl ResolvedSettings {
    fn of(settings: ConnectArgs) -> Self {
        Self {
            settings,
            context: None,
            hides_directory: false,
            untrusted: UntrustedServices::default(),
        }
    }
}

/// The source of the settings when no flag names a context or a directory.
enum DefaultSource {
    /// The variables or the present context, which the user chose. Without these the settings are empty.
    Chosen(ResolvedSettings),
    /// The directory `.aerostack`, which exists.
    WorkingDirectory(ConnectArgs),
}

fn named_context(
    name: &str,
    env: &impl Fn(&str) -> Option<OsString>,
) -> Result<(ConnectArgs, ContextName), Failure> {
    let contexts = match contexts::path(env) {
        Some(path) => contexts::read(&path)?,
        None => contexts::Contexts::default(),
    };
    let context = contexts.get(name)?.clone();
    let name = context.name.clone();
    Ok((settings_of_context(context)?, name))
}

/// Returns the settings of a context, with those of its directory.
fn settings_of_context(context: Context) -> Result<ConnectArgs, Failure> {
    let settings = ConnectArgs::of_context(context);
    match &settings.dir {
        Some(dir) => {
            let of_directory = settings_of_directory(dir)?;
            Ok(settings.or(of_directory))
        }
        None => Ok(settings),
    }
}

/// Returns the settings that are used when no flag names a context or a directory.
fn default_source(
    working_directory: WorkingDirectory,
    env: &impl Fn(&str) -> Option<OsString>,
) -> Result<DefaultSource, Failure> {
    let variable = |name| env(name).filter(|set| !set.is_empty());
    match (variable("AEROSTACK_CONTEXT"), variable("AEROSTACK_DIR")) {
        (Some(_), Some(_)) => return Err(two_sources("AEROSTACK_CONTEXT", "AEROSTACK_DIR")),
        (Some(name), None) => {
            let (settings, name) = named_context(&name.to_string_lossy(), env)?;
            return Ok(DefaultSource::Chosen(ResolvedSettings {
                context: Some(name),
                ..ResolvedSettings::of(settings)
            }));
        }
        (None, Some(dir)) => {
            let settings = settings_of_directory(Path::new(&dir))?;
            return Ok(DefaultSource::Chosen(ResolvedSettings::of(settings)));
        }
        (None, None) => {}
    }
    let default_dir = Path::new(DEFAULT_DIR);
    let has_directory = has_certificates(default_dir);
    // A person chose the present context, and `.aerostack` may come with a folder of somebody else.
    if let Some(context) = present_context(env)? {
        let name = context.name.clone();
        let is_same = context.dir.is_some() && context.dir == std::path::absolute(default_dir).ok();
        return Ok(DefaultSource::Chosen(ResolvedSettings {
            context: Some(name),
            hides_directory: has_directory && !is_same,
            ..ResolvedSettings::of(settings_of_context(context)?)
        }));
    }
    let nothing = DefaultSource::Chosen(ResolvedSettings::of(ConnectArgs::default()));
    if !has_directory {
        return Ok(nothing);
    }
    let settings = settings_of_directory(default_dir)?;
    Ok(match working_directory {
        WorkingDirectory::OnLoopback if !settings.is_on_loopback() => nothing,
        WorkingDirectory::Used | WorkingDirectory::OnLoopback => DefaultSource::WorkingDirectory(settings),
    })
}

fn present_context(env: &impl Fn(&str) -> Option<OsString>) -> Result<Option<Context>, Failure> {
    let Some(path) = contexts::path(env) else {
        return Ok(None);
    };
    let contexts = contexts::read(&path)?;
    let present = contexts.present();
    present
        .map(|name| contexts.get(name.as_str()).cloned())
        .transpose()
}

/// Returns true when commands without flags use a context, and not the directory `.aerostack`.
pub(crate) fn has_present_context(env: impl Fn(&str) -> Option<OsString>) -> bool {
    let variable = env("AEROSTACK_CONTEXT").filter(|set| !set.is_empty());
    variable.is_some() || present_context(&env).is_ok_and(|context| context.is_some())
}

fn two_sources(one: &str, other: &str) -> Failure {
    let message = format!("{one} and {other} each name a connection");
    Failure::new(FailureKind::Usage, message).hint("give one of them")
}
