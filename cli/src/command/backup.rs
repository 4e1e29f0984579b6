//! `aerostack backup` and `aerostack restore`

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use proto::vault::v1::RestoreBackupRequest;
use vault_service::new_file::NewFile;

use crate::{
    backup::{self, BackupStream, CHUNK, KEEP_THE_ROOT_KEY},
    connect::{Connection, Remote},
    failure::{Failure, FailureKind},
    model::RestoredBackup,
    output::{OutputArgs, Report, fields},
};

/// The file name that means standard input or standard output.
const STANDARD: &str = "-";

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack backup --output vault.backup")]
pub struct BackupArgs {
    /// The file to make, which only its owner can read; an existing file is never overwritten. `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack restore vault.backup")]
pub struct RestoreBackupArgs {
    /// The backup file; `-` is standard input
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

impl BackupArgs {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let Self { output: path } = self;
        let vault = connection.vault()?;
        let report = if path == Path::new(STANDARD) {
            if io::stdout().is_terminal() {
                let message = "a terminal is no place for a backup";
                return Err(Failure::new(FailureKind::Usage, message).hint("name a file with --output"));
            }
            let bytes = export(&vault, &mut io::stdout(), Path::new("standard output")).await?;
            Report::default().note(format!("{bytes} bytes"))
        } else {
            let mut file = NewFile::create(&path).map_err(|error| write_failure(&path, &error))?;
            let bytes = export(&vault, &mut file, &path).await?;
            file.publish().map_err(|error| write_failure(&path, &error))?;
            Report {
                result: format!("{}: {bytes} bytes\n", path.display()),
                ..Report::default()
            }
        };
        Ok(report.note(KEEP_THE_ROOT_KEY))
    }
}

/// Writes a backup, and returns its size in bytes. After an error the caller must discard the file, which is incomplete.
async fn export(vault: &Remote, to: &mut impl Write, path: &Path) -> Result<u64, Failure> {
    let mut backup = BackupStream::begin(vault).await?;
    let mut bytes = 0;
    while let Some(chunk) = backup.next().await? {
        to.write_all(&chunk)
            .map_err(|error| Failure::file(path, &error))?;
        bytes += chunk.len() as u64;
    }
    to.flush().map_err(|error| Failure::file(path, &error))?;
    Ok(bytes)
}

impl RestoreBackupArgs {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let Self { file: path, output } = self;
        let vault = connection.vault()?;
        let (file, path): (Box<dyn Read + Send>, _) = if path == Path::new(STANDARD) {
            (Box::new(io::stdin()), PathBuf::from("standard input"))
        } else {
            let file = File::open(&path).map_err(|error| Failure::file(&path, &error))?;
            (Box::new(file), path)
        };
        let chunks = FileChunks {
            file,
            error: Arc::default(),
        };
        let read_error = chunks.error.clone();
        let restored = backup::restore(&vault, tokio_stream::iter(chunks)).await;
        // The vault's answer to a file that could not be read says only that the backup is incomplete.
        if let Some(error) = read_error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(Failure::file(&path, &error));
        }
        Report::new(output, &restored?, text)
    }
}

fn write_failure(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::new(
            FailureKind::AlreadyExists,
            format_args!("{} is there already", path.display()),
        )
        .hint("give another name: a backup overwrites nothing"),
        _ => Failure::file(path, error),
    }
}

fn text(restored: &RestoredBackup) -> String {
    let RestoredBackup {
        vault_uid,
        replaced_vault_uid: _,
        backup_time,
        workspaces,
        secrets,
        versions,
        deleted_secrets,
    } = restored;
    fields([
        ("Backup of", backup_time.clone()),
        ("Workspaces", workspaces.to_string()),
        ("Secrets", format!("{secrets}, in {versions} versions")),
        (
            "Deleted secrets",
            format!("{deleted_secrets}, whose version numbers are not used again"),
        ),
        ("Vault uid", format!("{vault_uid}, taken over from the backup")),
    ])
}

/// The messages of a restore. The iterator ends at the end of the file, or at an error, which it stores in `error`.
struct FileChunks {
    file: Box<dyn Read + Send>,
    error: Arc<Mutex<Option<io::Error>>>,
}

impl Iterator for FileChunks {
    type Item = RestoreBackupRequest;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = Vec::with_capacity(CHUNK);
        match (&mut self.file).take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => None,
            Ok(_) => Some(RestoreBackupRequest { chunk }),
            Err(error) => {
                *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                None
            }
        }
    }
}
