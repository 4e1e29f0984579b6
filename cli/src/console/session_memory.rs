//! The state that a session keeps between two requests: an import that waits for its confirmation, the results of the last imports, and
//! the states of the last backups.
//!
//! The page that shows the plan of an import must not contain the values, and works without JavaScript. So the values wait
//! here, in buffers that are wiped, until the person confirms the plan. They are forgotten when they were put, after
//! [`KEPT`], when the session reads another file, and when the person discards them or signs out.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::view::now;
use crate::secret_import::{ImportPlan, Imported, LeftOut};

/// Time for which the values of an import wait for their confirmation.
pub(super) const KEPT: Duration = Duration::from_secs(10 * 60);

/// Number of imports whose results a session keeps.
const MAX_CONFIRMED: usize = 5;
/// Number of backups whose state a session keeps.
const MAX_BACKUPS: usize = 5;
/// Number of rotations that a session remembers.
const MAX_ROTATIONS: usize = 50;

#[derive(Default)]
pub(super) struct SessionMemory {
    imports: Mutex<Imports>,
    backups: Mutex<Backups>,
    /// Workspaces whose keys the session has rotated last, each with the id of its new key.
    rotations: Mutex<VecDeque<(String, String)>>,
}

#[derive(Default)]
struct Imports {
    /// The number of the last import. A number is used once.
    last: u64,
    waiting: Option<WaitingImport>,
    /// The imports that were confirmed last, the oldest first.
    confirmed: VecDeque<ConfirmedImport>,
}

#[derive(Default)]
struct Backups {
    /// The number of the last backup. A number is used once.
    last: u64,
    /// The backups that were begun last, the newest first.
    made: VecDeque<MadeBackup>,
}

/// An import that was confirmed.
struct ConfirmedImport {
    number: u64,
    workspace: String,
    state: ImportState,
}

pub(super) enum ImportState {
    Running { done: usize, all: usize },
    Ended(ImportResults),
    BrokenOff,
}

/// An import that waits for its confirmation.
pub(super) struct WaitingImport {
    pub(super) number: u64,
    pub(super) workspace: String,
    pub(super) plan: ImportPlan,
    /// The time at which the values are forgotten, in seconds since 1970.
    pub(super) kept_until: i64,
}

pub(super) struct ImportResults {
    pub(super) secrets: Vec<Imported>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) notes: Vec<String>,
}

/// A backup that the session has begun.
#[derive(Clone)]
pub(super) struct MadeBackup {
    /// Tells this backup from others of the session, which may run at the same time.
    pub(super) number: u64,
    pub(super) file_name: String,
    pub(super) state: BackupState,
}

#[derive(Clone)]
pub(super) enum BackupState {
    Running { bytes: u64 },
    Complete { bytes: u64, sha256: String },
    Failed { why: String },
}

impl SessionMemory {
    /// Keeps the plan of an import instead of the one before, and returns its number.
    pub(super) fn wait_for_confirmation(&self, workspace: String, plan: ImportPlan) -> u64 {
        let mut imports = locked(&self.imports);
        imports.last += 1;
        let number = imports.last;
        imports.waiting = Some(WaitingImport {
            number,
            workspace,
            plan,
            kept_until: now().saturating_add(i64::try_from(KEPT.as_secs()).unwrap_or(i64::MAX)),
        });
        number
    }

    /// Shows the import of a workspace that waits for its confirmation.
    pub(super) fn waiting<T>(&self, workspace: &str, show: impl FnOnce(&WaitingImport) -> T) -> Option<T> {
        let imports = locked(&self.imports);
        let waiting = imports.waiting.as_ref();
        waiting.filter(|import| import.workspace == workspace).map(show)
    }

    /// Takes an import out, so that it is put once, and keeps its state from then on.
    pub(super) fn confirm(&self, workspace: &str, number: u64) -> Option<ImportPlan> {
        let mut imports = locked(&self.imports);
        let is_it = |import: &mut WaitingImport| import.number == number && import.workspace == workspace;
        let plan = imports.waiting.take_if(is_it)?.plan;
        imports.confirmed.push_back(ConfirmedImport {
            number,
            workspace: workspace.to_owned(),
            state: ImportState::Running {
                done: 0,
                all: plan.puts.len(),
            },
        });
        let surplus = imports.confirmed.len().saturating_sub(MAX_CONFIRMED);
        imports.confirmed.drain(..surplus);
        Some(plan)
    }

    /// Forgets the values of one import.
    pub(super) fn forget(&self, number: u64) {
        locked(&self.imports)
            .waiting
            .take_if(|import| import.number == number);
    }

    /// Forgets the values of every import.
    pub(super) fn forget_values(&self) {
        locked(&self.imports).waiting = None;
    }

    /// Keeps the state of an import that was confirmed.
    pub(super) fn keep_import(&self, number: u64, state: ImportState) {
        let mut imports = locked(&self.imports);
        let mut confirmed = imports.confirmed.iter_mut();
        if let Some(import) = confirmed.find(|import| import.number == number) {
            import.state = state;
        }
    }

    /// Shows the state of an import into a workspace that was confirmed.
    pub(super) fn confirmed<T>(
        &self,
        workspace: &str,
        number: u64,
        show: impl FnOnce(&ImportState) -> T,
    ) -> Option<T> {
        let imports = locked(&self.imports);
        let mut confirmed = imports.confirmed.iter();
        let import = confirmed.find(|import| import.number == number && import.workspace == workspace);
        import.map(|import| show(&import.state))
    }

    /// Keeps the id of the new key of a workspace.
    pub(super) fn keep_rotation(&self, workspace: &str, key: &str) {
        let mut rotations = locked(&self.rotations);
        rotations.retain(|(rotated, _)| rotated != workspace);
        rotations.push_back((workspace.to_owned(), key.to_owned()));
        let surplus = rotations.len().saturating_sub(MAX_ROTATIONS);
        rotations.drain(..surplus);
    }

    /// Returns the id of the key that the session has made for a workspace last.
    pub(super) fn rotated_to(&self, workspace: &str) -> Option<String> {
        let rotations = locked(&self.rotations);
        let rotation = rotations.iter().find(|(rotated, _)| rotated == workspace);
        rotation.map(|(_, key)| key.clone())
    }

    /// Returns the backups that the session has begun last, the newest first.
    pub(super) fn backups(&self) -> Vec<MadeBackup> {
        locked(&self.backups).made.iter().cloned().collect()
    }

    /// Keeps a backup that begins now, and returns it. Its file name is `stem` with an ending, and a number if a kept backup has
    /// that name already.
    pub(super) fn begin_backup(&self, stem: &str) -> MadeBackup {
        let mut backups = locked(&self.backups);
        backups.last += 1;
        let number = backups.last;
        let name = format!("{stem}.backup");
        let is_taken = backups.made.iter().any(|backup| backup.file_name == name);
        let backup = MadeBackup {
            number,
            file_name: match is_taken {
                true => format!("{stem}-{number}.backup"),
                false => name,
            },
            state: BackupState::Running { bytes: 0 },
        };
        backups.made.push_front(backup.clone());
        backups.made.truncate(MAX_BACKUPS);
        backup
    }

    /// Keeps the state of a backup that was begun.
    pub(super) fn keep_backup(&self, number: u64, state: BackupState) {
        let mut backups = locked(&self.backups);
        let mut made = backups.made.iter_mut();
        if let Some(backup) = made.find(|backup| backup.number == number) {
            backup.state = state;
        }
    }
}

/// A panic while the lock is held leaves no state that a later request must not see.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::value::{Edits, import};

    fn plan() -> ImportPlan {
        let file = import::parse("A=1\n", None).unwrap();
        ImportPlan::of(file, Vec::new(), Edits::default())
    }

    #[test]
    fn an_import_is_confirmed_once_and_only_for_its_workspace() {
        let memory = SessionMemory::default();
        let number = memory.wait_for_confirmation("w".to_owned(), plan());
        assert!(memory.waiting("other", |_| ()).is_none());
        assert!(memory.confirm("other", number).is_none());
        assert!(memory.confirm("w", number + 1).is_none());
        assert_eq!(memory.confirm("w", number).unwrap().puts.len(), 1);
        assert!(memory.confirm("w", number).is_none());
    }

    #[test]
    fn each_import_has_its_own_results() {
        let memory = SessionMemory::default();
        let confirmed = || {
            let number = memory.wait_for_confirmation("w".to_owned(), plan());
            memory.confirm("w", number).unwrap();
            number
        };
        let (first, second) = (confirmed(), confirmed());
        memory.keep_import(first, ImportState::BrokenOff);
        let is_running = |state: &ImportState| matches!(state, ImportState::Running { done: 0, all: 1 });
        assert!(!memory.confirmed("w", first, is_running).unwrap());
        assert!(memory.confirmed("w", second, is_running).unwrap());
        assert!(memory.confirmed("other", second, is_running).is_none());
        for _ in 0..MAX_CONFIRMED {
            confirmed();
        }
        assert!(memory.confirmed("w", second, is_running).is_none());
    }

    #[test]
    fn each_backup_has_its_own_state_and_file_name() {
        let memory = SessionMemory::default();
        let [first, second] = [memory.begin_backup("vault"), memory.begin_backup("vault")];
        memory.keep_backup(first.number, BackupState::Running { bytes: 1 });
        memory.keep_backup(second.number, BackupState::Running { bytes: 2 });
        let kept: Vec<_> = memory
            .backups()
            .into_iter()
            .map(|backup| (backup.file_name, backup.state))
            .collect();
        assert!(
            matches!(
                kept.as_slice(),
                [
                    (newer, BackupState::Running { bytes: 2 }),
                    (older, BackupState::Running { bytes: 1 })
                ] if newer == "vault-2.backup" && older == "vault.backup"
            ),
            "{:?}",
            kept.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
        for _ in 0..MAX_BACKUPS {
            memory.begin_backup("vault");
        }
        memory.keep_backup(first.number, BackupState::Running { bytes: 3 });
        assert_eq!(memory.backups().len(), MAX_BACKUPS);
    }

    #[test]
    fn a_new_import_replaces_the_one_before() {
        let memory = SessionMemory::default();
        let old = memory.wait_for_confirmation("w".to_owned(), plan());
        let new = memory.wait_for_confirmation("w".to_owned(), plan());
        assert!(memory.confirm("w", old).is_none());
        // The time of the old import has passed.
        memory.forget(old);
        assert!(memory.waiting("w", |import| import.number == new).unwrap());
        memory.forget(new);
        assert!(memory.waiting("w", |_| ()).is_none());
    }
}
