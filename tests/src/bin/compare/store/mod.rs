//! Measures the vault's store beside OpenBao with raft storage: the cost of durable puts, and the effect of the store's
//! size on everything else.

pub(crate) mod background;
mod page;
pub(crate) mod puts;

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use e2e::pki::ADMIN;
use proto::vault::v1::{
    ListWorkspacesRequest, RestoreBackupRequest, backup_service_client::BackupServiceClient,
    workspace_service_client::WorkspaceServiceClient,
};
use tokio::time::Instant;

use crate::{
    Common, Failure,
    decrypts::{DecryptMode, Decrypts},
    measure::{peak_mib, resident_mib},
    openbao::OpenBao,
    report::{Peer, RunConditions},
    run::{Contest, ContestKind, Participant, Workload, bin_dir, contest, say},
    services::{StopMethod, Vault},
    vaults::STREAMED,
};
use background::{BackgroundRow, Throughput, export};
use puts::{NAMES, Puts, WRITERS};

/// Largest number of secrets for which OpenBao is measured, too.
const MAX_OPENBAO_SECRETS: u32 = 100_000;
/// Largest number of secrets with which backups and background work are measured.
const MAX_BACKGROUND_SECRETS: u32 = 100_000;
/// Secrets per workspace in the measurement of many workspaces.
const EACH: u32 = 10;
/// Workspaces per page of a listing.
const PAGE: u32 = 1000;
/// Restarts of the vault for each way to stop it.
const OPENS: u32 = 3;

struct StoreResults {
    puts: Contest,
    sizes: Vec<SizeResults>,
    /// The number of secrets, and the rows that were measured with it.
    background: (u32, Vec<BackgroundRow>),
    backups: Backups,
    /// Measurements with the largest number of secrets, spread over many workspaces.
    many_workspaces: ManyWorkspaces,
}

struct ManyWorkspaces {
    workspaces: u32,
    size: SizeResults,
    /// Seconds for listing all workspaces in pages of [`PAGE`].
    listing_seconds: f64,
}

/// Measurements with one number of secrets.
struct SizeResults {
    secrets: u32,
    decrypts: Contest,
    vault: Footprint,
    openbao: Option<Footprint>,
    /// For each restart: the way to stop the vault, the seconds until it was ready, and its peak memory in MiB.
    opens: Vec<(StopMethod, f64, f64)>,
}

struct Footprint {
    resident_mib: f64,
    disk_bytes: u64,
}

/// Backups and restores without other load, of the same secrets as in [`StoreResults::background`].
#[derive(Default)]
struct Backups {
    exports: Vec<Throughput>,
    restores: Vec<Throughput>,
}

/// Measures the store and writes the page.
pub(crate) async fn all(common: &Common) -> Result<(), Failure> {
    let mut conditions = RunConditions::new(common, &[Peer::OpenBao, Peer::H2load])?;
    let bin_dir = bin_dir(common)?;
    // The store goes beside the build directory, because the system's temporary directory may be in memory.
    let parent = bin_dir.parent().unwrap_or(&bin_dir);
    let scratch = tempfile::tempdir_in(parent)?;
    let scratch = scratch.path();
    let mut openbao = OpenBao::start(&common.peers, scratch, NAMES).await?;
    let mut vault = Vault::start(&bin_dir, scratch, "vault").await?;
    vault.fill(NAMES).await?;
    let puts = measure_puts(common, scratch, &vault, &openbao).await?;

    let counts = common.counts();
    let background_secrets = counts.iter().rfind(|&&count| count <= MAX_BACKGROUND_SECRETS);
    let background_secrets = *background_secrets
        .or(counts.first())
        .ok_or("no number of secrets")?;
    let mut sizes = Vec::new();
    let mut background = (background_secrets, Vec::new());
    let mut backups = Backups::default();
    for secrets in counts {
        sizes.push(measure_size(common, scratch, &mut vault, &mut openbao, secrets).await?);
        if secrets == background_secrets {
            backups = measure_backups(common, &bin_dir, scratch, &vault, secrets).await?;
            background.1 = background::measure(common, &vault, secrets).await?;
        }
    }
    drop(vault);
    let most = sizes.last().map_or(NAMES, |size| size.secrets);
    let many_workspaces = measure_many_workspaces(common, &bin_dir, scratch, most.div_ceil(EACH)).await?;
    conditions.record_load_after()?;
    let results = StoreResults {
        puts,
        sizes,
        background,
        backups,
        many_workspaces,
    };
    say(&page::write(&common.out(true), &conditions, &results)?)
}

async fn measure_puts(
    common: &Common,
    scratch: &Path,
    vault: &Vault,
    openbao: &OpenBao,
) -> Result<Contest, Failure> {
    let mut entries = vec![(Participant::Disk, Workload::Syncs(scratch.to_owned()))];
    for writers in [1, WRITERS] {
        let ours = Workload::Puts(Puts::new(writers, vault));
        let (load, target) = openbao.puts(NAMES, writers);
        entries.push((Participant::Puts { writers }, ours));
        entries.push((
            Participant::OpenBaoPuts { writers },
            Workload::Calls(load, target),
        ));
    }
    contest(common, scratch, ContestKind::Puts, entries).await
}

async fn measure_size(
    common: &Common,
    scratch: &Path,
    vault: &mut Vault,
    openbao: &mut OpenBao,
    secrets: u32,
) -> Result<SizeResults, Failure> {
    vault.fill(secrets).await?;
    let mut entries: Vec<(Participant, Workload)> = [STREAMED, DecryptMode::Unary { sealed: false }]
        .into_iter()
        .map(|mode| {
            (
                Participant::Vault(mode),
                Workload::Decrypts(Decrypts::new(mode, vault, secrets)),
            )
        })
        .collect();
    let with_openbao = secrets <= MAX_OPENBAO_SECRETS;
    if with_openbao {
        openbao.fill(secrets).await?;
        let (load, target) = openbao.reads(secrets.min(NAMES));
        entries.push((Participant::OpenBaoRead, Workload::Calls(load, target)));
    }
    let decrypts = contest(common, scratch, ContestKind::Vault { secrets }, entries).await?;
    let footprint = Footprint::of_vault(vault)?;
    let openbao = with_openbao
        .then(|| Footprint::of(openbao.process.id(), &openbao.dir.join("raft")))
        .transpose()?;
    Ok(SizeResults {
        secrets,
        decrypts,
        vault: footprint,
        openbao,
        opens: measure_opens(common, vault).await?,
    })
}

async fn measure_opens(common: &Common, vault: &mut Vault) -> Result<Vec<(StopMethod, f64, f64)>, Failure> {
    let mut opens = Vec::new();
    for stop in [StopMethod::Closed, StopMethod::Killed] {
        for _ in 0..OPENS.min(common.rounds_and_seconds().0) {
            // The puts ensure that the vault stops after recent writes.
            Puts::new(WRITERS, vault).measure(1).await?;
            let took = vault.restart(stop).await?.as_secs_f64();
            let peak = peak_mib(vault.process.id())?;
            say(&format!("  {stop:?}: ready after {took:.2} s, {peak:.0} MiB\n"))?;
            opens.push((stop, took, peak));
        }
    }
    Ok(opens)
}

async fn measure_many_workspaces(
    common: &Common,
    bin_dir: &Path,
    scratch: &Path,
    workspaces: u32,
) -> Result<ManyWorkspaces, Failure> {
    let mut vault = Vault::start(bin_dir, scratch, "vault-spread").await?;
    vault.fill_workspaces(workspaces, EACH).await?;
    let secrets = workspaces * EACH;
    let entries = [STREAMED, DecryptMode::Unary { sealed: false }].map(|mode| {
        let decrypts = Decrypts::new(mode, &vault, secrets).spread_over_workspaces(EACH);
        (Participant::Vault(mode), Workload::Decrypts(decrypts))
    });
    let kind = ContestKind::Workspaces { workspaces, secrets };
    let decrypts = contest(common, scratch, kind, entries.into()).await?;
    let began = Instant::now();
    // Every vault of the benchmark also has the workspace `WORKSPACE`.
    let listed = count_workspaces(&vault).await?;
    if listed != workspaces + 1 {
        return Err(format!("{listed} workspaces were listed, of {workspaces}").into());
    }
    let listing_seconds = began.elapsed().as_secs_f64();
    let footprint = Footprint::of_vault(&vault)?;
    let size = SizeResults {
        secrets,
        decrypts,
        vault: footprint,
        openbao: None,
        opens: measure_opens(common, &mut vault).await?,
    };
    Ok(ManyWorkspaces {
        workspaces,
        size,
        listing_seconds,
    })
}

/// Counts the workspaces by listing them page by page.
async fn count_workspaces(vault: &Vault) -> Result<u32, Failure> {
    let mut client = WorkspaceServiceClient::new(vault.channel(ADMIN));
    let (mut count, mut page_token) = (0, String::new());
    loop {
        let request = ListWorkspacesRequest {
            page_size: PAGE,
            page_token,
        };
        let page = client.list_workspaces(request).await?.into_inner();
        count += u32::try_from(page.workspaces.len())?;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(count);
        }
    }
}

impl Footprint {
    fn of_vault(vault: &Vault) -> Result<Self, Failure> {
        Self::of(vault.process.id(), &vault.dir.join("store"))
    }

    fn of(process: u32, dir: &Path) -> Result<Self, Failure> {
        Ok(Self {
            resident_mib: resident_mib(process)?,
            disk_bytes: on_disk(dir)?,
        })
    }
}

/// Returns the disk space that a directory's files occupy, in bytes.
fn on_disk(dir: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += match entry.metadata()? {
            inner if inner.is_dir() => on_disk(&entry.path())?,
            file => file.blocks() * 512,
        };
    }
    Ok(bytes)
}

/// Exports a backup and restores it into a new vault, once per round.
async fn measure_backups(
    common: &Common,
    bin_dir: &Path,
    scratch: &Path,
    vault: &Vault,
    secrets: u32,
) -> Result<Backups, Failure> {
    let mut backups = Backups::default();
    for round in 1..=common.rounds_and_seconds().0 {
        let (exported, backup) = export(vault.channel(ADMIN), secrets).await?;
        let dir = scratch.join(format!("restored-{round}"));
        fs::create_dir(&dir)?;
        fs::copy(vault.dir.join("root.key"), dir.join("root.key"))?;
        let restored = Vault::start_empty(bin_dir, dir).await?;
        let chunks = backup.into_iter().map(|chunk| RestoreBackupRequest { chunk });
        let began = Instant::now();
        let answer = BackupServiceClient::new(restored.channel(ADMIN))
            .restore_backup(tokio_stream::iter(chunks))
            .await?
            .into_inner();
        let restored = Throughput {
            items: answer.secrets,
            took: began.elapsed(),
            ..exported
        };
        say(&format!(
            "  round {round}  backup {:.0} secrets/s, {:.1} MB/s; restore {:.0} secrets/s, {:.1} MB/s\n",
            exported.items_per_second(),
            exported.mb_per_second(),
            restored.items_per_second(),
            restored.mb_per_second(),
        ))?;
        backups.exports.push(exported);
        backups.restores.push(restored);
    }
    Ok(backups)
}
