//! Damage at random places of a log with a history, and the promises of a repair for each.
//!
//! `.ci/soak` tries more places than a test run does.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::File,
    ops::Range,
    os::unix::fs::FileExt as _,
};

use super::*;
use crate::{
    crypto::{WorkspaceKek, record},
    vault::stored::{StoredMetadata, WorkspaceRecord},
};

const WORKSPACES: u32 = 30;
const SECRETS: u32 = 10;
/// Number of places that the test tries for each kind of damage.
const PLACES: u32 = 40;

/// The names of a workspace and of a secret in it.
type Place = (String, String);

/// The acknowledged state of the store.
#[derive(Default)]
struct Acknowledged {
    /// The current version of each secret.
    alive: BTreeMap<Place, u64>,
    /// The last version of each deleted secret.
    deleted: BTreeMap<Place, u64>,
    deleted_workspaces: BTreeSet<String>,
}

/// A xorshift64* random number generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % bound
    }
}

/// A store of many workspaces whose secrets were put, replaced, deleted and put again.
struct Churned {
    parent: TempDir,
    acknowledged: Acknowledged,
    written: Range<u64>,
}

impl Churned {
    async fn new() -> Self {
        let parent = TempDir::new().unwrap();
        let dir = parent.path().join("store");
        let mut acknowledged = Acknowledged::default();
        let store = Store::open(&dir, CACHE).unwrap();
        let (writer, reader) = Vault::open(store, root(1)).await.unwrap().split();
        drop(reader);
        let mut random = Random(17);
        for workspace in 0..WORKSPACES + 1 {
            let permit = admin_permit(&format!("w{workspace}"));
            writer.create_workspace(&permit, Plan::Pro).await.unwrap();
        }
        for secret in 0..WORKSPACES * SECRETS {
            acknowledged
                .put(&writer, secret % WORKSPACES, secret / WORKSPACES)
                .await;
        }
        acknowledged.put(&writer, WORKSPACES, 0).await;
        for change in 0..500 {
            let (workspace, secret) = (random.below(WORKSPACES.into()), random.below(SECRETS.into()));
            let (workspace, secret) = (u32::try_from(workspace).unwrap(), u32::try_from(secret).unwrap());
            let place = Acknowledged::place(workspace, secret);
            if random.below(4) == 0 && acknowledged.alive.contains_key(&place) {
                acknowledged.delete(&writer, place).await;
            } else {
                acknowledged.put(&writer, workspace, secret).await;
            }
            if change == 250 {
                acknowledged.delete_workspace(&writer, WORKSPACES).await;
            }
        }
        writer.sweep_all().await.unwrap();
        writer.close().await.unwrap();
        let db = std::fs::read(dir.join("db")).unwrap();
        let end = db.iter().rposition(|byte| *byte != 0).unwrap();
        Self {
            parent,
            acknowledged,
            written: 20..end as u64,
        }
    }

    fn dir(&self) -> PathBuf {
        self.parent.path().join("store")
    }

    fn open_check(&self) -> IntegrityCheck {
        let open = || IntegrityCheck::open(&self.dir(), &root(1).into(), &runtime());
        std::thread::scope(|scope| scope.spawn(open).join().unwrap()).unwrap()
    }

    /// Repairs the store with changed bytes at a place, and checks the promises of a repair. Returns the number of
    /// intact secrets, without and with `--include-deleted`.
    fn recovered(&self, at: u64, change: impl FnOnce(&mut [u8]), length: usize) -> [usize; 2] {
        let db = File::options()
            .read(true)
            .write(true)
            .open(self.dir().join("db"))
            .unwrap();
        let mut before = vec![0; length];
        db.read_exact_at(&mut before, at).unwrap();
        let mut damaged = before.clone();
        change(&mut damaged);
        db.write_all_at(&damaged, at).unwrap();
        let (check, damage) = (self.open_check(), format!("{length} bytes at {at}"));
        let recovered = [DoubtfulSecrets::LeaveOut, DoubtfulSecrets::Keep]
            .map(|doubtful| self.acknowledged.check(&check, doubtful, &damage));
        db.write_all_at(&before, at).unwrap();
        recovered
    }
}

impl Acknowledged {
    fn place(workspace: u32, secret: u32) -> Place {
        (format!("w{workspace}"), format!("S{secret}"))
    }

    async fn put(&mut self, writer: &Writer, workspace: u32, secret: u32) {
        let place = Self::place(workspace, secret);
        let permit = admin_permit(&place.0);
        let put = writer
            .put_secret(&permit, new(&place.1, place.1.clone().into_bytes()))
            .await;
        self.deleted.remove(&place);
        self.alive.insert(place, put.unwrap().secret.version);
    }

    async fn delete(&mut self, writer: &Writer, place: Place) {
        let permit = admin_permit(&place.0);
        writer
            .delete_secret(&permit, &name(&place.1), None)
            .await
            .unwrap();
        let last = self.alive.remove(&place).unwrap();
        self.deleted.insert(place, last);
    }

    async fn delete_workspace(&mut self, writer: &Writer, workspace: u32) {
        let workspace = format!("w{workspace}");
        let permit = admin_permit(&workspace);
        writer.delete_workspace(&permit, 0, true).await.unwrap();
        self.alive.retain(|(of, _), _| *of != workspace);
        self.deleted.retain(|(of, _), _| *of != workspace);
        self.deleted_workspaces.insert(workspace);
    }

    /// Checks that the content a repair would write keeps every promise. Returns the number of secrets with their
    /// current versions.
    fn check(&self, check: &IntegrityCheck, doubtful: DoubtfulSecrets, damage: &str) -> usize {
        let (mut entries, mut lines) = (BTreeMap::new(), Vec::new());
        let mut keep = |Entry { key, value }: Entry| drop(entries.insert(key, value));
        let mut damaged = |line: &Damage| lines.push(line.clone());
        let report = StoreWalk::run(check, doubtful, &mut damaged, &mut keep);
        let output = RepairOutput { lines, report };
        let found = RepairedEntries { check, entries };
        for workspace in &self.deleted_workspaces {
            let is_requested = doubtful == DoubtfulSecrets::Keep && output.is_doubtful(workspace, "");
            let is_back = found.workspace(workspace).is_some();
            assert!(!is_back || is_requested, "{damage}: {workspace} came back");
        }
        for ((workspace, secret), last) in &self.deleted {
            let is_back = found.version(workspace, secret).is_some();
            let is_requested = doubtful == DoubtfulSecrets::Keep && output.is_doubtful(workspace, secret);
            assert!(
                !is_back || is_requested,
                "{damage}: {workspace}/{secret} came back"
            );
            assert!(
                found.last_version(workspace, secret) >= *last,
                "{damage}: a version of {secret} is used again"
            );
        }
        let mut recovered = 0;
        for ((workspace, secret), version) in &self.alive {
            let secret_version = format!("{damage}: {workspace}/{secret} version {version}");
            match found.version(workspace, secret) {
                Some(there) if there == *version => recovered += 1,
                Some(there) => {
                    assert!(there < *version, "{secret_version} is {there}");
                    assert!(
                        output.is_older(workspace, secret),
                        "{secret_version} is {there}, and no line names it: {output:?}"
                    );
                }
                None => assert!(
                    output.is_gone(workspace, secret),
                    "{secret_version} is gone, and no line names it: {output:?}"
                ),
            }
            assert!(
                found.last_version(workspace, secret) >= *version,
                "{secret_version} is used again"
            );
        }
        recovered
    }
}

/// The entries that a repair would write.
struct RepairedEntries<'a> {
    check: &'a IntegrityCheck,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl RepairedEntries<'_> {
    fn workspace(&self, workspace: &str) -> Option<(Uid, WorkspaceRecord, Arc<WorkspaceKek>)> {
        let key = stored::workspace(&WorkspaceName::parse(workspace).unwrap());
        let record: WorkspaceRecord = stored::decode(self.entries.get(&key)?).unwrap();
        let uid = stored::uid(&record.uid).unwrap();
        let kek = self.check.keyring.open(&uid, &record.wrapped_kek).unwrap();
        Some((uid, record, kek))
    }

    /// Returns the version of the secret's record, which must decrypt.
    fn version(&self, workspace: &str, secret: &str) -> Option<u64> {
        let ((uid, _, kek), name) = (self.workspace(workspace)?, name(secret));
        let record = self.entries.get(&Kind::Record.key(&uid, &name))?;
        let version = record::decrypt(&kek, &uid, &name, record).unwrap().version;
        assert_eq!(self.description(&uid, &name).unwrap().version, version);
        Some(version)
    }

    fn description(&self, uid: &Uid, name: &SecretName) -> Option<StoredMetadata> {
        let metadata = self.entries.get(&Kind::Metadata.key(uid, name))?;
        Some(stored::decode(metadata).unwrap())
    }

    /// Returns the number after which the numbers of new versions of this secret continue.
    fn last_version(&self, workspace: &str, secret: &str) -> u64 {
        let Some((uid, _, _)) = self.workspace(workspace) else {
            // A workspace that is created again has another uid, and the numbers of its secrets start at 1.
            return u64::MAX;
        };
        let name = name(secret);
        let number = |key| {
            let bytes = self.entries.get(&key)?.as_slice();
            Some(u64::from_be_bytes(bytes.try_into().unwrap()))
        };
        let tombstone = number(Kind::LastVersion.key(&uid, &name));
        match self.description(&uid, &name) {
            Some(described) => described.last_version(),
            None => tombstone
                .or_else(|| number(Kind::VersionFloor.of(&uid)))
                .unwrap_or(0),
        }
    }
}

/// The output of a repair.
#[derive(Debug)]
struct RepairOutput {
    lines: Vec<Damage>,
    report: IntegrityReport,
}

impl RepairOutput {
    fn of<'a>(&'a self, workspace: &'a str, secret: &'a str) -> impl Iterator<Item = DamageKind> + 'a {
        let lines = self.lines.iter().filter(move |line| {
            line.workspace == workspace && line.name.as_ref().is_none_or(|name| name.as_str() == secret)
        });
        lines.map(|line| line.kind)
    }

    fn is_older(&self, workspace: &str, secret: &str) -> bool {
        let mut lines = self.of(workspace, secret);
        lines.any(|kind| matches!(kind, DamageKind::Older(_) | DamageKind::MaybeOlder))
    }

    fn is_doubtful(&self, workspace: &str, secret: &str) -> bool {
        self.of(workspace, secret)
            .any(|kind| kind == DamageKind::MaybeDeleted)
    }

    /// Returns true when the output names the secret as gone, or says that names may be lost.
    fn is_gone(&self, workspace: &str, secret: &str) -> bool {
        let lost = |kind: DamageKind| matches!(kind.outcome(), RepairOutcome::Lost | RepairOutcome::Doubtful);
        self.of(workspace, secret).any(lost) || !self.report.log_damage.lost_nothing()
    }
}

fn places() -> u32 {
    env::var("FLIPS").map_or(PLACES, |places| places.parse().unwrap())
}

#[tokio::test]
async fn everything_is_recovered_from_a_log_with_one_flipped_bit() {
    let store = Churned::new().await;
    let (all, mut random, mut recovered) = (store.acknowledged.alive.len(), Random(23), 0);
    for _ in 0..places() {
        let at = store.written.start + random.below(store.written.end - store.written.start);
        let bit = random.below(8);
        let flipped = store.recovered(at, |bytes| bytes[0] ^= 1 << bit, 1);
        assert_eq!(flipped, [all, all], "bit {bit} of byte {at}");
        recovered += flipped[0];
    }
    let share = percent(recovered, all * places() as usize);
    println!("{} flipped bits: {share} % of {all} secrets recovered", places());
}

#[tokio::test]
async fn everything_outside_a_damaged_part_of_the_log_is_recovered_and_losses_are_named() {
    let store = Churned::new().await;
    let (all, mut random) = (store.acknowledged.alive.len(), Random(29));
    for length in [2, 16, 64, 512, 4096] {
        let (places, mut recovered, mut with_doubtful) = (places() / 4, 0, 0);
        for place in 0..places {
            let at =
                store.written.start + random.below(store.written.end - store.written.start - length as u64);
            let damage = |bytes: &mut [u8]| match place % 3 {
                0 => bytes.fill(0),
                1 => bytes.fill(0xA5),
                _ => bytes
                    .iter_mut()
                    .for_each(|byte| *byte = random.below(256).to_be_bytes()[7]),
            };
            let [sure, all] = store.recovered(at, damage, length);
            (recovered, with_doubtful) = (recovered + sure, with_doubtful + all);
        }
        let of_all = all * places as usize;
        println!(
            "{places} times {length} damaged bytes: {} % of {all} secrets recovered, {} % with --include-deleted",
            percent(recovered, of_all),
            percent(with_doubtful, of_all)
        );
    }
}

fn percent(part: usize, all: usize) -> String {
    let hundredths = part * 10_000 / all;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}
