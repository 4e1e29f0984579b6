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
    Ignored,
}

/// The settings that a command uses, and the context that they come from.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) settings: ConnectArgs,
    pub(super) context: Option<ContextName>,
    /// True when the context was used although the working directory has a directory of `aerostack dev`.
    pub(super) hides_directory: bool,
}

impl ConnectArgs {
    /// Merges the flags with the other sources. A context or directory that a flag names comes next, and then the environment,
    /// but for the services: the environment may name those of another installation. Without such a flag, the environment comes
    /// next, and then one of these: the context of `AEROSTACK_CONTEXT` or the directory of `AEROSTACK_DIR`, the present context,
    /// the directory `.aerostack`. None of them is read when it could only supply a timeout.
    pub(super) fn resolve(
        &self,
        working_directory: WorkingDirectory,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Resolved, Failure> {
        let flags = self.clone();
        let environment = Self::environment(&env);
        match (&self.dir, &self.context) {
            (Some(_), Some(_)) => Err(two_sources("--dir", "--context")),
            (Some(dir), None) => {
                let settings = flags.or(settings_of_directory(dir)?);
                Ok(Resolved::of(settings.or(environment.without_services())))
            }
            (None, Some(name)) => {
                let (settings, name) = named_context(name, &env)?;
                let settings = flags.or(settings).or(environment.without_services());
                Ok(Resolved {
                    context: Some(name),
                    ..Resolved::of(settings)
                })
            }
            (None, None) => {
                let given = flags.or(environment);
                if given.is_complete() {
                    return Ok(Resolved::of(given));
                }
                let default = default_source(working_directory, &env)?;
                Ok(Resolved {
                    settings: given.or(default.settings),
                    ..default
                })
            }
        }
    }
}

impl Resolved {
    fn of(settings: ConnectArgs) -> Self {
        Self {
            settings,
            context: None,
            hides_directory: false,
        }
    }
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
) -> Result<Resolved, Failure> {
    let variable = |name| env(name).filter(|set| !set.is_empty());
    match (variable("AEROSTACK_CONTEXT"), variable("AEROSTACK_DIR")) {
        (Some(_), Some(_)) => return Err(two_sources("AEROSTACK_CONTEXT", "AEROSTACK_DIR")),
        (Some(name), None) => {
            let (settings, name) = named_context(&name.to_string_lossy(), env)?;
            return Ok(Resolved {
                context: Some(name),
                ..Resolved::of(settings)
            });
        }
        (None, Some(dir)) => return Ok(Resolved::of(settings_of_directory(Path::new(&dir))?)),
        (None, None) => {}
    }
    let default_dir = Path::new(DEFAULT_DIR);
    let has_directory = working_directory == WorkingDirectory::Used && has_certificates(default_dir);
    // A person chose the present context, and `.aerostack` may come with a folder of somebody else.
    if let Some(context) = present_context(env)? {
        let name = context.name.clone();
        let is_same = context.dir.is_some() && context.dir == std::path::absolute(default_dir).ok();
        return Ok(Resolved {
            context: Some(name),
            hides_directory: has_directory && !is_same,
            ..Resolved::of(settings_of_context(context)?)
        });
    }
    match has_directory {
        true => settings_of_directory(default_dir).map(Resolved::of),
        false => Ok(Resolved::of(ConnectArgs::default())),
    }
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
