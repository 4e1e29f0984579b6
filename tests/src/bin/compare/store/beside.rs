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
    decrypts::{Decrypts, How},
    measure::Window,
    report,
    run::{Who, say},
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
pub(crate) enum Work {
    None,
    Puts,
    Rotation,
    Backup,
}

/// The measured combinations of calls and work.
pub(crate) const ROWS: [(Calls, Work); 7] = [
    (Calls::Decrypts, Work::None),
    (Calls::Decrypts, Work::Puts),
    (Calls::Decrypts, Work::Rotation),
    (Calls::Decrypts, Work::Backup),
    (Calls::Puts, Work::None),
    (Calls::Puts, Work::Rotation),
    (Calls::Puts, Work::Backup),
];

/// The amount of background work and its duration.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    /// Records that a rotation moved to the new key, or secrets in a backup.
    pub(crate) items: u64,
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

impl Done {
    pub(crate) fn items_per_second(self) -> f64 {
        per_second(self.items, self.took)
    }

    pub(crate) fn mb_per_second(self) -> f64 {
        per_second(self.bytes, self.took) / 1e6
    }

    fn and(self, more: Self) -> Self {
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
pub(crate) struct Beside {
    pub(crate) calls: Calls,
    pub(crate) work: Work,
    pub(crate) windows: Vec<Window>,
    pub(crate) done: Vec<Done>,
}

pub(crate) async fn measure(common: &Common, vault: &Vault, secrets: u32) -> Result<Vec<Beside>, Failure> {
    let (rounds, seconds) = common.windows();
    say("\nBeside other work\n")?;
    let mut rows: Vec<Beside> = ROWS
        .into_iter()
        .map(|(calls, work)| Beside {
            calls,
            work,
            windows: Vec::new(),
            done: Vec::new(),
        })
        .collect();
    for round in 1..=rounds {
        for row in &mut rows {
            let stop = CancellationToken::new();
            let until_stopped = tokio::spawn(again_and_again(
                row.work,
                vault.channel(ADMIN),
                secrets,
                seconds,
                Puts::new(WRITERS, vault),
                stop.clone(),
            ));
            let who = row.calls.who();
            let window = match row.calls {
                Calls::Decrypts => {
                    let decrypts = Decrypts::new(How::Paced { per_second: RATE }, vault, secrets);
                    decrypts.measure(seconds).await?
                }
                Calls::Puts => Puts::new(WRITERS, vault).measure(seconds).await?,
            };
            stop.cancel();
            let done = until_stopped.await??;
            say(&format!(
                "  meanwhile {:?}: {} records\n{}",
                row.work,
                done.items,
                report::progress(round, who, &window)
            ))?;
            row.windows.push(window);
            row.done.push(done);
        }
    }
    Ok(rows)
}

impl Calls {
    pub(crate) fn who(self) -> Who {
        match self {
            Self::Decrypts => Who::Vault(How::Paced { per_second: RATE }),
            Self::Puts => Who::Puts { writers: WRITERS },
        }
    }
}

/// Repeats the work until `stop` is cancelled. The last repetition is completed.
async fn again_and_again(
    work: Work,
    channel: Channel,
    secrets: u32,
    seconds: u32,
    puts: Puts,
    stop: CancellationToken,
) -> Result<Done, Failure> {
    let mut done = Done::default();
    while !stop.is_cancelled() {
        match work {
            Work::None => stop.cancelled().await,
            Work::Puts => drop(puts.measure(seconds).await?),
            Work::Rotation => done = done.and(rotate(channel.clone(), secrets).await?),
            Work::Backup => done = done.and(export(channel.clone(), secrets).await?.0),
        }
    }
    Ok(done)
}

/// Rotates the workspace's key and waits until every record is encrypted under the new key.
async fn rotate(channel: Channel, secrets: u32) -> Result<Done, Failure> {
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
    Ok(Done {
        items,
        bytes: 0,
        took: began.elapsed(),
    })
}

/// Exports a backup, and returns its chunks.
pub(super) async fn export(channel: Channel, secrets: u32) -> Result<(Done, Vec<Vec<u8>>), Failure> {
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
    let done = Done {
        items: secrets.into(),
        bytes,
        took: began.elapsed(),
    };
    Ok((done, backup))
}
