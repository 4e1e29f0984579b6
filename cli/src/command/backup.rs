//! `aerostack backup` and `aerostack restore`

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
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
    failure::{Failure, Kind},
    model::Restored,
    output::{OutputArgs, Report, fields},
};

/// Bytes that are sent at once.
const CHUNK: usize = 128 * 1024;

/// `aerostack backup`
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to make, readable by its owner only; an existing one is never overwritten
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// `aerostack restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
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
        let mut file = NewFile::create(&path).map_err(|error| not_made(&path, &error))?;
        let mut chunks = vault
            .answer(client(&vault).export_backup(ExportBackupRequest {}))
            .await?;
        let mut bytes = 0;
        // It is whole when it ends with OK; else what there is of it goes.
        while let Some(ExportBackupResponse { chunk }) = vault.next(&mut chunks).await? {
            file.write_all(&chunk)
                .map_err(|error| Failure::file(&path, &error))?;
            bytes += chunk.len() as u64;
        }
        file.publish().map_err(|error| not_made(&path, &error))?;
        let result = format!("{}: {bytes} bytes\n", path.display());
        let report = Report {
            result,
            ..Report::default()
        };
        Ok(report
            .note("It is of use with the vault's root key only: keep a copy of that key, in another place"))
    }
}

impl RestoreArgs {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let Self { file: path, output } = self;
        let vault = connection.vault()?;
        let file = File::open(&path).map_err(|error| Failure::file(&path, &error))?;
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
        io::ErrorKind::AlreadyExists => {
            Failure::new(Kind::Exists, format_args!("{} is there already", path.display()))
                .next("give another name: a backup overwrites nothing")
        }
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
    file: File,
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl Iterator for Chunks {
    type Item = RestoreBackupRequest;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = Vec::with_capacity(CHUNK);
        match (&self.file).take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => None,
            Ok(_) => Some(RestoreBackupRequest { chunk }),
            Err(error) => {
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                None
            }
        }
    }
}
