//! Measures the vault's store beside OpenBao with raft storage: the cost of durable puts, and the effect of the store's
//! size on everything else.

pub(crate) mod beside;
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
    decrypts::{Decrypts, How},
    measure::{peak_mib, resident_mib},
    openbao::OpenBao,
    report::{About, Peer},
    run::{Contest, Kind, Means, Who, bin_dir, contest, say},
    services::{Ending, Vault},
    vaults::STREAMED,
};
use beside::{Beside, Done, export};
use puts::{NAMES, Puts, WRITERS};

/// Largest number of secrets for which OpenBao is measured, too.
const OPENBAO_MOST: u32 = 100_000;
/// Largest number of secrets with which backups and background work are measured.
const BESIDE_MOST: u32 = 100_000;
/// Secrets per workspace in the measurement of many workspaces.
const EACH: u32 = 10;
/// Workspaces per page of a listing.
const PAGE: u32 = 1000;
/// Restarts of the vault for each way to stop it.
const OPENS: u32 = 3;

struct Measured {
    puts: Contest,
    sizes: Vec<Size>,
    /// The number of secrets, and the rows that were measured with it.
    beside: (u32, Vec<Beside>),
    backups: Backups,
    /// Measurements with the largest number of secrets, spread over many workspaces.
    spread: Spread,
}

struct Spread {
    workspaces: u32,
    size: Size,
    /// Seconds for listing all workspaces in pages of [`PAGE`].
    listed: f64,
}

/// Measurements with one number of secrets.
struct Size {
    secrets: u32,
    decrypts: Contest,
    vault: Held,
    openbao: Option<Held>,
    /// For each restart: the way to stop the vault, the seconds until it was ready, and its peak memory in MiB.
    opens: Vec<(Ending, f64, f64)>,
}

struct Held {
    resident_mib: f64,
    disk_bytes: u64,
}

/// Backups and restores without other load, of the same secrets as in [`StoreResults::background`].
#[derive(Default)]
struct Backups {
    exports: Vec<Done>,
    restores: Vec<Done>,
}

/// Measures the store and writes the page.
pub(crate) async fn all(common: &Common) -> Result<(), Failure> {
    let mut about = About::new(common, &[Peer::OpenBao, Peer::H2load])?;
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
    let most_beside = counts.iter().rfind(|&&count| count <= BESIDE_MOST);
    let most_beside = *most_beside.or(counts.first()).ok_or("no number of secrets")?;
    let mut sizes = Vec::new();
    let mut beside = (most_beside, Vec::new());
    let mut backups = Backups::default();
    for secrets in counts {
        sizes.push(measure_size(common, scratch, &mut vault, &mut openbao, secrets).await?);
        if secrets == most_beside {
            backups = measure_backups(common, &bin_dir, scratch, &vault, secrets).await?;
            beside.1 = beside::measure(common, &vault, secrets).await?;
        }
    }
    drop(vault);
    let most = sizes.last().map_or(NAMES, |size| size.secrets);
    let spread = measure_spread(common, &bin_dir, scratch, most.div_ceil(EACH)).await?;
    about.finished()?;
    let measured = Measured {
        puts,
        sizes,
        beside,
        backups,
        spread,
    };
    say(&page::write(&common.out(true), &about, &measured)?)
}

async fn measure_puts(
    common: &Common,
    scratch: &Path,
    vault: &Vault,
    openbao: &OpenBao,
) -> Result<Contest, Failure> {
    let mut entries = vec![(Who::Disk, Means::Syncs(scratch.to_owned()))];
    for writers in [1, WRITERS] {
        let ours = Means::Puts(Puts::new(writers, vault));
        let (load, target) = openbao.puts(NAMES, writers);
        entries.push((Who::Puts { writers }, ours));
        entries.push((Who::OpenBaoPuts { writers }, Means::Calls(load, target)));
    }
    contest(common, scratch, Kind::Puts, entries).await
}

async fn measure_size(
    common: &Common,
    scratch: &Path,
    vault: &mut Vault,
    openbao: &mut OpenBao,
    secrets: u32,
) -> Result<Size, Failure> {
    vault.fill(secrets).await?;
    let mut entries: Vec<(Who, Means)> = [STREAMED, How::Unary { sealed: false }]
        .into_iter()
        .map(|how| {
            (
                Who::Vault(how),
                Means::Decrypts(Decrypts::new(how, vault, secrets)),
            )
        })
        .collect();
    let beside_openbao = secrets <= OPENBAO_MOST;
    if beside_openbao {
        openbao.fill(secrets).await?;
        let (load, target) = openbao.reads(secrets.min(NAMES));
        entries.push((Who::OpenBaoRead, Means::Calls(load, target)));
    }
    let decrypts = contest(common, scratch, Kind::Vault { secrets }, entries).await?;
    let held = Held::of_vault(vault)?;
    let openbao = beside_openbao
        .then(|| Held::of(openbao.process.id(), &openbao.dir.join("raft")))
        .transpose()?;
    Ok(Size {
        secrets,
        decrypts,
        vault: held,
        openbao,
        opens: measure_opens(common, vault).await?,
    })
}

async fn measure_opens(common: &Common, vault: &mut Vault) -> Result<Vec<(Ending, f64, f64)>, Failure> {
    let mut opens = Vec::new();
    for ending in [Ending::Closed, Ending::Killed] {
        for _ in 0..OPENS.min(common.windows().0) {
            // The puts ensure that the vault stops after recent writes.
            Puts::new(WRITERS, vault).measure(1).await?;
            let took = vault.restart(ending).await?.as_secs_f64();
            let peak = peak_mib(vault.process.id())?;
            say(&format!("  {ending:?}: ready after {took:.2} s, {peak:.0} MiB\n"))?;
            opens.push((ending, took, peak));
        }
    }
    Ok(opens)
}

async fn measure_spread(
    common: &Common,
    bin_dir: &Path,
    scratch: &Path,
    workspaces: u32,
) -> Result<Spread, Failure> {
    let mut vault = Vault::start(bin_dir, scratch, "vault-spread").await?;
    vault.fill_workspaces(workspaces, EACH).await?;
    let secrets = workspaces * EACH;
    let entries = [STREAMED, How::Unary { sealed: false }].map(|how| {
        let decrypts = Decrypts::new(how, &vault, secrets).with_each(EACH);
        (Who::Vault(how), Means::Decrypts(decrypts))
    });
    let kind = Kind::Workspaces { workspaces, secrets };
    let decrypts = contest(common, scratch, kind, entries.into()).await?;
    let began = Instant::now();
    // Every vault of the benchmark also has the workspace `WORKSPACE`.
    let listed = count_workspaces(&vault).await?;
    if listed != workspaces + 1 {
        return Err(format!("{listed} workspaces were listed, of {workspaces}").into());
    }
    let listed = began.elapsed().as_secs_f64();
    let held = Held::of_vault(&vault)?;
    let size = Size {
        secrets,
        decrypts,
        vault: held,
        openbao: None,
        opens: measure_opens(common, &mut vault).await?,
    };
    Ok(Spread {
        workspaces,
        size,
        listed,
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

impl Held {
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
    for round in 1..=common.windows().0 {
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
        let restored = Done {
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
