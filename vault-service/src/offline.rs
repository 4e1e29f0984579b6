//! The commands `backup`, `restore` and `compact`, on a store that no vault serves.

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

/// Cache size of the store, in bytes.
const CACHE: u64 = 64 * 1024 * 1024;
/// Path that stands for standard input or output.
const STANDARD: &str = "-";

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{0}")]
    Settings(Problems),
    #[error("there is no store in {}", .0.display())]
    NoStore(PathBuf),
    /// A vault has the store open.
    #[error(
        "{0}; ask the vault that serves it for a backup: `aerostack backup`, or BackupService/ExportBackup"
    )]
    InUse(store::StoreOpenError),
    #[error(transparent)]
    Vault(vault::OpenError),
    #[error(transparent)]
    Locked(#[from] UnlockError),
    #[error(transparent)]
    Refused(#[from] VaultError),
    #[error(transparent)]
    Compact(#[from] store::CompactError),
    /// A file or a standard stream could not be read or written.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// A backup would go to or come from a terminal.
    #[error("a terminal is no place for a backup: name a file with {0}")]
    Terminal(&'static str),
    /// The last writes may not be durable.
    #[error("the store did not close cleanly")]
    Close(#[source] store::CommitError),
    #[error("the command could not start")]
    Start(#[source] io::Error),
}

impl From<Problems> for CommandError {
    fn from(problems: Problems) -> Self {
        Self::Settings(problems)
    }
}

impl From<vault::OpenError> for CommandError {
    fn from(error: vault::OpenError) -> Self {
        match error {
            vault::OpenError::Store(in_use @ store::StoreOpenError::InUse(_)) => Self::InUse(in_use),
            error => Self::Vault(error),
        }
    }
}

/// Backs up the store into a new file, or to standard output. Returns a report for the operator.
pub fn back_up(from: &StoreArgs, output: &Path) -> Result<String, CommandError> {
    let root = from.providers()?;
    if !Store::exists(&from.data_dir) {
        return Err(CommandError::NoStore(from.data_dir.clone()));
    }
    let failed = |error| CommandError::File(output.to_owned(), error);
    let bytes = if output == Path::new(STANDARD) {
        if io::stdout().is_terminal() {
            return Err(CommandError::Terminal("--output"));
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

/// Copies the store into a new one, which replaces it. Returns a report for the operator.
pub fn compact(dir: &Path) -> Result<String, CommandError> {
    if !Store::exists(dir) {
        return Err(CommandError::NoStore(dir.to_owned()));
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
) -> Result<u64, CommandError> {
    with_vault(&from.data_dir, root, async |writer| {
        let mut bytes = 0;
        let mut rest = Some(writer.back_up(&writer.operator_permit()?).await?);
        while let Some(backup) = rest {
            let (part, more) = backup.part().await?;
            to.write_all(&part)
                .map_err(|error| CommandError::File(output.to_owned(), error))?;
            bytes += part.len() as u64;
            rest = more;
        }
        Ok(bytes)
    })
}

/// Restores a backup into a new store. Returns a report for the operator.
pub fn restore(into: &StoreArgs, input: &Path) -> Result<String, CommandError> {
    let root = into.providers()?;
    if input == Path::new(STANDARD) && io::stdin().is_terminal() {
        return Err(CommandError::Terminal("--input"));
    }
    let file =
        seekable(input, &into.data_dir).map_err(|error| CommandError::File(input.to_owned(), error))?;
    let file = Arc::new(file);
    let open = || Archive::open(file.clone()).map_err(VaultError::from);
    // The backup is verified before the store is created, so that a refused backup leaves no store behind.
    runtime()?.block_on(open()?.verify(&root))?;
    let restored = with_vault(&into.data_dir, root, async |writer| {
        let restored = writer.restore_from(&writer.operator_permit()?, open()?).await?;
        Ok(restored)
    })?;
    Ok(report(&restored))
}

/// Opens a backup for reading more than once. A backup from a pipe is first copied to the disk of the new store.
fn seekable(input: &Path, data_dir: &Path) -> io::Result<File> {
    if input == Path::new(STANDARD) {
        return copy_to_unnamed_file(&mut io::stdin().lock(), data_dir);
    }
    let mut file = File::open(input)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => copy_to_unnamed_file(&mut file, data_dir),
    }
}

/// Copies the bytes into a file that has no name, so that the file is gone when the process ends.
fn copy_to_unnamed_file(from: &mut impl Read, data_dir: &Path) -> io::Result<File> {
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

/// Opens the vault in `dir`, runs `work`, and closes the vault whether or not `work` failed.
fn with_vault<T>(
    dir: &Path,
    root: Providers,
    work: impl AsyncFnOnce(&Writer) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    runtime()?.block_on(async {
        let vault = Vault::open_in(dir.to_owned(), CACHE, root).await?;
        let (writer, reader) = vault.split();
        drop(reader);
        let done = unlocked(&writer, work).await;
        let closed = writer.close().await.map_err(CommandError::Close);
        let done = done?;
        closed.map(|()| done)
    })
}

/// Unlocks the vault if necessary, and runs `work`. Fails when the provider of the root key does not answer at once.
async fn unlocked<T>(
    writer: &Writer,
    work: impl AsyncFnOnce(&Writer) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    if writer.is_locked() {
        writer.unlock().await?;
    }
    work(writer).await
}

fn runtime() -> Result<Runtime, CommandError> {
    // A request to a KMS needs the runtime's I/O driver and, for its timeout, the timer.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(CommandError::Start)
}

/// Returns the report of a restore.
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
