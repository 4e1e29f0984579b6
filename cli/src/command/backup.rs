//! `aerostack backup` and `aerostack restore`

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use proto::vault::v1::{
    ExportBackupRequest, ExportBackupResponse, RestoreBackupRequest,
    backup_service_client::BackupServiceClient,
};
use tonic::transport::Channel;
use vault_service::new_file::NewFile;

use crate::{
    connect::{Connection, Remote},
    failure::{Failure, FailureKind},
    model::Restored,
    output::{OutputArgs, Report, fields},
};

/// Bytes that are sent at once.
const CHUNK: usize = 128 * 1024;

/// What stands for standard input and output.
const STANDARD: &str = "-";

/// `aerostack backup`
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to make, readable by its owner only; an existing one is never overwritten. `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// `aerostack restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup; `-` is standard input
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

fn client(vault: &Remote) -> BackupServiceClient<Channel> {
    BackupServiceClient::new(vault.channel.clone())
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
            // In one write for each piece, as it comes.
            let bytes = export(&vault, &mut io::stdout(), Path::new("standard output")).await?;
            Report::default().note(format!("{bytes} bytes"))
        } else {
            let mut file = NewFile::create(&path).map_err(|error| not_made(&path, &error))?;
            let bytes = export(&vault, &mut file, &path).await?;
            file.publish().map_err(|error| not_made(&path, &error))?;
            Report {
                result: format!("{}: {bytes} bytes\n", path.display()),
                ..Report::default()
            }
        };
        Ok(report
            .note("It is of use with the vault's root key only: keep a copy of that key, in another place"))
    }
}

/// Writes a backup, and returns its size. It is whole when the stream ends with OK; on an error the caller drops it.
async fn export(vault: &Remote, to: &mut impl Write, path: &Path) -> Result<u64, Failure> {
    let mut chunks = vault
        .answer(client(vault).export_backup(ExportBackupRequest {}))
        .await?;
    let mut bytes = 0;
    while let Some(ExportBackupResponse { chunk }) = vault.next(&mut chunks).await? {
        to.write_all(&chunk)
            .map_err(|error| Failure::file(path, &error))?;
        bytes += chunk.len() as u64;
    }
    to.flush().map_err(|error| Failure::file(path, &error))?;
    Ok(bytes)
}

impl RestoreArgs {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let Self { file: path, output } = self;
        let vault = connection.vault()?;
        let (file, path): (Box<dyn Read + Send>, _) = if path == Path::new(STANDARD) {
            (Box::new(io::stdin()), PathBuf::from("standard input"))
        } else {
            let file = File::open(&path).map_err(|error| Failure::file(&path, &error))?;
            (Box::new(file), path)
        };
        let chunks = Chunks {
            file,
            failed: Arc::default(),
        };
        let failed = chunks.failed.clone();
        let sent = client(&vault).restore_backup(tokio_stream::iter(chunks)).await;
        // The vault only saw that something is missing.
        if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(Failure::file(&path, &error));
        }
        let restored = match sent {
            Ok(answer) => Restored::of(answer.into_inner()),
            Err(status) => return Err(vault.failed(&status).await),
        };
        Report::new(output, &restored, text)
    }
}

fn not_made(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::new(
            FailureKind::AlreadyExists,
            format_args!("{} is there already", path.display()),
        )
        .hint("give another name: a backup overwrites nothing"),
        _ => Failure::file(path, error),
    }
}

fn text(restored: &Restored) -> String {
    let Restored {
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
        ("Vault uid", format!("{vault_uid}, as that vault had")),
    ])
}

/// A file, piece by piece. It ends where reading fails, and then says why.
struct Chunks {
    file: Box<dyn Read + Send>,
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl Iterator for Chunks {
    type Item = RestoreBackupRequest;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = Vec::with_capacity(CHUNK);
        match (&mut self.file).take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => None,
            Ok(_) => Some(RestoreBackupRequest { chunk }),
            Err(error) => {
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                None
            }
        }
    }
}
