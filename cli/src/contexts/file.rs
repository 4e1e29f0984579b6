//! The configuration file: read as a whole, and replaced atomically.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::Contexts;
use crate::failure::{Failure, FailureKind};

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Returns the path of the configuration file: in `$XDG_CONFIG_HOME`, by default `~/.config`. A relative `XDG_CONFIG_HOME` is
/// ignored, as the XDG Base Directory Specification demands.
pub(crate) fn path(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("aerostack").join("config.yaml"))
}

/// Reads the contexts. A file that does not exist has none.
pub(crate) fn read(path: &Path) -> Result<Contexts, Failure> {
    let bytes = match fs::read(path) {
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
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(dir)
        .map_err(failed)?;
    // Dropping the directory's file releases the lock.
    let lock = File::open(dir).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut contexts = read(path)?;
    let changed = change(&mut contexts)?;
    replace(path, &contexts.render()?).map_err(failed)?;
    Ok(changed)
}

/// Replaces the file by renaming, so that a reader sees either the whole old or the whole new file. A symbolic link stays, and
/// its target is replaced.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let temporary = target.with_extension("yaml.tmp");
    // The lock is held, so a temporary file was left by a process that was killed.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&temporary)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, &target));
    if written.is_err() {
        // The error of the write is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}
