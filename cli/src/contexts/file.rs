//! The configuration file: read as a whole, and replaced atomically.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use vault_service::new_file;

use super::Contexts;
use crate::{
    failure::{Failure, FailureKind},
    small_file,
};

const DIR_MODE: u32 = 0o700;

/// The longest file that is read.
const MAX_SIZE: u64 = 1024 * 1024;

/// The most symbolic links that are followed, as in Linux.
const MAX_LINKS: usize = 40;

/// Returns the path of the configuration file: in `$XDG_CONFIG_HOME`, by default `~/.config`. A relative `XDG_CONFIG_HOME` is
/// ignored, as the XDG Base Directory Specification demands.
pub(crate) fn path(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("aerostack").join("config.yaml"))
}

/// Reads the contexts. A file that does not exist has none.
pub(crate) fn read(path: &Path) -> Result<Contexts, Failure> {
    let bytes = match small_file::read(path, MAX_SIZE) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Contexts::default());
        }
        Err(error) => return Err(Failure::file(path, &error)),
    };
    Contexts::parse(&bytes).map_err(|problem| {
        let message = format!("{}: {problem}", path.display());
        Failure::new(FailureKind::Configuration, message)
            .hint("mend the file, or move it away; --dir DIR connects without it")
    })
}

/// Changes the contexts and writes them, unless `change` fails. Only one process changes the file at a time.
pub(crate) fn change<T>(
    path: &Path,
    change: impl FnOnce(&mut Contexts) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let failed = |error: io::Error| Failure::file(path, &error);
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(directory(path))
        .map_err(failed)?;
    // Two paths may be links to one file, so the lock is on the directory of the file itself. Dropping the directory's file
    // releases the lock.
    let target = link_target(path).map_err(failed)?;
    let lock = File::open(directory(&target)).map_err(|error| Failure::file(directory(&target), &error))?;
    lock.lock().map_err(failed)?;
    let mut contexts = read(path)?;
    let changed = change(&mut contexts)?;
    new_file::replace(&target, contexts.render()?.as_bytes()).map_err(failed)?;
    Ok(changed)
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Returns the file that symbolic links at `path` lead to. A link may lead to a file that does not exist yet.
fn link_target(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            Ok(next) => target = directory(&target).join(next),
            // The path is no link (EINVAL), or does not exist.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
                return Ok(target);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("there are too many symbolic links"))
}
