//! Commands on a store that no vault serves: a backup of it, a store from a backup, and compacting it.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use chassis::settings::Problems;
use tokio::runtime::Runtime;

use crate::{
    config::StoreArgs,
    new_file::NewFile,
    root::Providers,
    store::{self, CompactionReport, Store},
    vault::{self, Archive, RestoreSummary, UnlockError, Vault, VaultError, Writer},
};

/// Memory that the store may use as its cache.
const CACHE: u64 = 64 * 1024 * 1024;
/// What stands for standard input and output.
const STANDARD: &str = "-";

/// Why a command did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The root keys.
    #[error("{0}")]
    Settings(Problems),
    /// Nothing to back up.
    #[error("there is no store in {}", .0.display())]
    NoStore(PathBuf),
    /// A vault has it open.
    #[error(
        "{0}; ask the vault that serves it for a backup: `aerostack backup`, or BackupService/ExportBackup"
    )]
    InUse(store::StoreOpenError),
    /// The store did not open, or is not this vault's.
    #[error(transparent)]
    Vault(vault::OpenError),
    /// The root key is not to be had.
    #[error(transparent)]
    Sealed(#[from] UnlockError),
    /// The vault refused.
    #[error(transparent)]
    Refused(#[from] VaultError),
    /// The store was not compacted.
    #[error(transparent)]
    Compact(#[from] store::CompactError),
    /// A file, or a standard stream.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// A backup is no text.
    #[error("a terminal is no place for a backup: name a file with {0}")]
    Terminal(&'static str),
    /// What was written last may not be durable.
    #[error("the store did not close cleanly")]
    Close(#[source] store::CommitError),
    /// No thread to work on.
    #[error("the command could not start")]
    Start(#[source] io::Error),
}

impl From<Problems> for Failed {
    fn from(problems: Problems) -> Self {
        Self::Settings(problems)
    }
}

impl From<vault::OpenError> for Failed {
    fn from(error: vault::OpenError) -> Self {
        match error {
            vault::OpenError::Store(in_use @ store::StoreOpenError::InUse(_)) => Self::InUse(in_use),
            error => Self::Vault(error),
        }
    }
}

/// Backs up the store into a new file, or to standard output. What was done, in words.
pub fn back_up(from: &StoreArgs, output: &Path) -> Result<String, Failed> {
    let root = from.providers()?;
    if !Store::exists(&from.data_dir) {
        return Err(Failed::NoStore(from.data_dir.clone()));
    }
    let failed = |error| Failed::File(output.to_owned(), error);
    let bytes = if output == Path::new(STANDARD) {
        if io::stdout().is_terminal() {
            return Err(Failed::Terminal("--output"));
        }
        let mut to = io::stdout().lock();
        let bytes = write_backup(from, root, &mut to, output)?;
        to.flush().map_err(failed)?;
        bytes
    } else {
        let mut to = NewFile::create(output).map_err(failed)?;
        let bytes = write_backup(from, root, &mut to, output)?;
        to.publish().map_err(failed)?;
        bytes
    };
    Ok(format!("backed up {}: {bytes} bytes\n", from.data_dir.display()))
}

/// Copies the store into a fresh one, which replaces it. Returns a summary for the operator.
pub fn compact(dir: &Path) -> Result<String, Failed> {
    if !Store::exists(dir) {
        return Err(Failed::NoStore(dir.to_owned()));
    }
    let CompactionReport {
        entries,
        before,
        after,
    } = runtime()?.block_on(vault::compact(dir, CACHE))?;
    Ok(format!(
        "compacted {}: {entries} entries; {before} bytes before, {after} bytes now\n",
        dir.display()
    ))
}

fn write_backup(
    from: &StoreArgs,
    root: Providers,
    to: &mut impl Write,
    output: &Path,
) -> Result<u64, Failed> {
    with_vault(&from.data_dir, root, async |writer| {
        let mut bytes = 0;
        let mut rest = Some(writer.back_up(&writer.operator_permit()?).await?);
        while let Some(backup) = rest {
            let (part, more) = backup.part().await?;
            to.write_all(&part)
                .map_err(|error| Failed::File(output.to_owned(), error))?;
            bytes += part.len() as u64;
            rest = more;
        }
        Ok(bytes)
    })
}

/// Restores a backup into a store that it makes. What came in, in words.
pub fn restore(into: &StoreArgs, input: &Path) -> Result<String, Failed> {
    let root = into.providers()?;
    if input == Path::new(STANDARD) && io::stdin().is_terminal() {
        return Err(Failed::Terminal("--input"));
    }
    let file = seekable(input, &into.data_dir).map_err(|error| Failed::File(input.to_owned(), error))?;
    let file = Arc::new(file);
    let open = || Archive::open(file.clone()).map_err(VaultError::from);
    // Before there is a store, so that none is left behind by a backup that is refused.
    runtime()?.block_on(open()?.verify(&root))?;
    let restored = with_vault(&into.data_dir, root, async |writer| {
        let restored = writer.restore_from(&writer.operator_permit()?, open()?).await?;
        Ok(restored)
    })?;
    Ok(report(&restored))
}

/// A backup is read more than once. What comes through a pipe is copied first, to the disk of the store to be made.
fn seekable(input: &Path, data_dir: &Path) -> io::Result<File> {
    if input == Path::new(STANDARD) {
        return copied(&mut io::stdin().lock(), data_dir);
    }
    let mut file = File::open(input)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => copied(&mut file, data_dir),
    }
}

/// In a file without a name.
fn copied(from: &mut impl Read, data_dir: &Path) -> io::Result<File> {
    let path = data_dir.with_extension(format!("restore-{}", std::process::id()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    io::copy(from, &mut file)?;
    Ok(file)
}

/// Opens the vault in `dir`, has `work` done, and closes it, whatever came of that.
fn with_vault<T>(
    dir: &Path,
    root: Providers,
    work: impl AsyncFnOnce(&Writer) -> Result<T, Failed>,
) -> Result<T, Failed> {
    runtime()?.block_on(async {
        let vault = Vault::open_in(dir.to_owned(), CACHE, root).await?;
        let (writer, reader) = vault.split();
        drop(reader);
        let done = unsealed(&writer, work).await;
        let closed = writer.close().await.map_err(Failed::Close);
        let done = done?;
        closed.map(|()| done)
    })
}

/// Has `work` done once the root key is there. Who does not answer now is not waited for.
async fn unsealed<T>(
    writer: &Writer,
    work: impl AsyncFnOnce(&Writer) -> Result<T, Failed>,
) -> Result<T, Failed> {
    if writer.is_locked() {
        writer.unlock().await?;
    }
    work(writer).await
}

fn runtime() -> Result<Runtime, Failed> {
    // A KMS is asked through a socket, and given a time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failed::Start)
}

/// What came in, and what differs.
fn report(restored: &RestoreSummary) -> String {
    let RestoreSummary {
        vault_uid,
        replaced_vault_uid: _,
        backup_time,
        workspaces,
        secrets,
        versions,
        deleted_secrets,
    } = restored;
    format!(
        "restored the backup of {backup_time} of the vault {vault_uid}\n\
         workspaces: {workspaces}, with the uids that they had\n\
         secrets: {secrets}, in {versions} versions\n\
         deleted secrets whose version numbers are not used again: {deleted_secrets}\n\
         what was changed after that time is not in it; the store has the uid of that vault from now on\n"
    )
}
