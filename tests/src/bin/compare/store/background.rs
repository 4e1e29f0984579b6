//! Measures calls while the vault does other work in the background.

use std::time::{Duration, Instant};

use e2e::pki::ADMIN;
use proto::vault::v1::{
    ExportBackupRequest, GetKeyStatusRequest, RotateWorkspaceKeyRequest,
    backup_service_client::BackupServiceClient, key_service_client::KeyServiceClient,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

use super::puts::{Puts, WRITERS};
use crate::{
    Common, Failure,
    decrypts::{DecryptMode, Decrypts},
    measure::Window,
    report,
    run::{Participant, say},
    services::{Vault, WORKSPACE},
};

/// Decrypts per second while the vault does other work.
pub(crate) const RATE: u32 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// [`RATE`] decrypts per second.
    Decrypts,
    /// As many puts as [`WRITERS`] writers can make.
    Puts,
}

/// Work that the vault repeats during the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackgroundWork {
    None,
    Puts,
    Rotation,
    Backup,
}

/// The measured combinations of calls and work.
pub(crate) const ROWS: [(Calls, BackgroundWork); 7] = [
    (Calls::Decrypts, BackgroundWork::None),
    (Calls::Decrypts, BackgroundWork::Puts),
    (Calls::Decrypts, BackgroundWork::Rotation),
    (Calls::Decrypts, BackgroundWork::Backup),
    (Calls::Puts, BackgroundWork::None),
    (Calls::Puts, BackgroundWork::Rotation),
    (Calls::Puts, BackgroundWork::Backup),
];

/// The amount of background work and its duration.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Throughput {
    /// Records that a rotation moved to the new key, or secrets in a backup.
    pub(crate) items: u64,
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

impl Throughput {
    pub(crate) fn items_per_second(self) -> f64 {
        per_second(self.items, self.took)
    }

    pub(crate) fn mb_per_second(self) -> f64 {
        per_second(self.bytes, self.took) / 1e6
    }

    fn plus(self, more: Self) -> Self {
        Self {
            items: self.items + more.items,
            bytes: self.bytes + more.bytes,
            took: self.took + more.took,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of things that were done within minutes"
)]
fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// The measurements of one combination of [`ROWS`], with one element per round.
pub(crate) struct BackgroundRow {
    pub(crate) calls: Calls,
    pub(crate) work: BackgroundWork,
    pub(crate) windows: Vec<Window>,
    pub(crate) throughputs: Vec<Throughput>,
}

pub(crate) async fn measure(
    common: &Common,
    vault: &Vault,
    secrets: u32,
) -> Result<Vec<BackgroundRow>, Failure> {
    let (rounds, seconds) = common.rounds_and_seconds();
    say("\nBeside other work\n")?;
    let mut rows: Vec<BackgroundRow> = ROWS
        .into_iter()
        .map(|(calls, work)| BackgroundRow {
            calls,
            work,
            windows: Vec::new(),
            throughputs: Vec::new(),
        })
        .collect();
    for round in 1..=rounds {
        for row in &mut rows {
            let stop = CancellationToken::new();
            let worker = tokio::spawn(repeat_until_stopped(
                row.work,
                vault.channel(ADMIN),
                secrets,
                seconds,
                Puts::new(WRITERS, vault),
                stop.clone(),
            ));
            let participant = row.calls.participant();
            let window = match row.calls {
                Calls::Decrypts => {
                    let decrypts = Decrypts::new(DecryptMode::Paced { per_second: RATE }, vault, secrets);
                    decrypts.measure(seconds).await?
                }
                Calls::Puts => Puts::new(WRITERS, vault).measure(seconds).await?,
            };
            stop.cancel();
            let throughput = worker.await??;
            say(&format!(
                "  meanwhile {:?}: {} records\n{}",
                row.work,
                throughput.items,
                report::progress(round, participant, &window)
            ))?;
            row.windows.push(window);
            row.throughputs.push(throughput);
        }
    }
    Ok(rows)
}

impl Calls {
    pub(crate) fn participant(self) -> Participant {
        match self {
            Self::Decrypts => Participant::Vault(DecryptMode::Paced { per_second: RATE }),
            Self::Puts => Participant::Puts { writers: WRITERS },
        }
    }
}

/// Repeats the work until `stop` is cancelled. The last repetition is completed.
async fn repeat_until_stopped(
    work: BackgroundWork,
    channel: Channel,
    secrets: u32,
    seconds: u32,
    puts: Puts,
    stop: CancellationToken,
) -> Result<Throughput, Failure> {
    let mut total = Throughput::default();
    while !stop.is_cancelled() {
        match work {
            BackgroundWork::None => stop.cancelled().await,
            BackgroundWork::Puts => drop(puts.measure(seconds).await?),
            BackgroundWork::Rotation => total = total.plus(rotate(channel.clone(), secrets).await?),
            BackgroundWork::Backup => total = total.plus(export(channel.clone(), secrets).await?.0),
        }
    }
    Ok(total)
}

/// Rotates the workspace's key and waits until every record is encrypted under the new key.
async fn rotate(channel: Channel, secrets: u32) -> Result<Throughput, Failure> {
    let mut keys = KeyServiceClient::new(channel);
    let request = || RotateWorkspaceKeyRequest {
        workspace: WORKSPACE.to_owned(),
    };
    let began = Instant::now();
    // The vault refuses a rotation while the one before has not ended, which is a little later than its last record.
    while let Err(status) = keys.rotate_workspace_key(request()).await {
        if status.code() != Code::FailedPrecondition || began.elapsed() > Duration::from_secs(10) {
            return Err(status.into());
        }
        sleep(Duration::from_millis(5)).await;
    }
    let (began, mut items) = (Instant::now(), u64::from(secrets));
    loop {
        let status = keys.get_key_status(GetKeyStatusRequest {}).await?.into_inner();
        let Some(rotation) = status.rotations.first() else {
            break;
        };
        items = items.max(rotation.total_count);
        sleep(Duration::from_millis(20)).await;
    }
    Ok(Throughput {
        items,
        bytes: 0,
        took: began.elapsed(),
    })
}

/// Exports a backup, and returns its chunks.
pub(super) async fn export(channel: Channel, secrets: u32) -> Result<(Throughput, Vec<Vec<u8>>), Failure> {
    let began = Instant::now();
    let mut chunks = BackupServiceClient::new(channel)
        .export_backup(ExportBackupRequest {})
        .await?
        .into_inner();
    let (mut backup, mut bytes) = (Vec::new(), 0);
    while let Some(message) = chunks.message().await? {
        bytes += u64::try_from(message.chunk.len())?;
        backup.push(message.chunk);
    }
    let throughput = Throughput {
        items: secrets.into(),
        bytes,
        took: began.elapsed(),
    };
    Ok((throughput, backup))
}
