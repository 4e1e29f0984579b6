//! What a session keeps between two requests: an import that waits for its confirmation, the results of the last import, and
//! the state of the last backup.
//!
//! The page that shows the plan of an import must not contain the values, and works without JavaScript. So the values wait
//! here, in buffers that are wiped, until the person confirms the plan. They are forgotten when they were put, after
//! [`KEPT`], when the session reads another file, and when the person discards them or signs out.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::secret_import::{ImportPlan, Imported, LeftOut};

/// Time for which the values of an import wait for their confirmation.
pub(super) const KEPT: Duration = Duration::from_secs(120);

#[derive(Default)]
pub(super) struct SessionMemory {
    imports: Mutex<Imports>,
    backup: Mutex<Option<MadeBackup>>,
}

#[derive(Default)]
struct Imports {
    /// The number of the last import. A number is used once.
    last: u64,
    waiting: Option<WaitingImport>,
    results: Option<ImportResults>,
}

/// An import that waits for its confirmation.
pub(super) struct WaitingImport {
    pub(super) number: u64,
    pub(super) workspace: String,
    pub(super) plan: ImportPlan,
}

pub(super) struct ImportResults {
    pub(super) workspace: String,
    pub(super) secrets: Vec<Imported>,
    pub(super) left_out: Vec<LeftOut>,
}

/// The last backup that the session made.
#[derive(Clone)]
pub(super) struct MadeBackup {
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
        });
        number
    }

    /// Shows the import of a workspace that waits for its confirmation.
    pub(super) fn waiting<T>(&self, workspace: &str, show: impl FnOnce(&WaitingImport) -> T) -> Option<T> {
        let imports = locked(&self.imports);
        let waiting = imports.waiting.as_ref();
        waiting.filter(|import| import.workspace == workspace).map(show)
    }

    /// Takes an import out, so that it is put once.
    pub(super) fn confirm(&self, workspace: &str, number: u64) -> Option<ImportPlan> {
        let mut imports = locked(&self.imports);
        let is_it = |import: &mut WaitingImport| import.number == number && import.workspace == workspace;
        imports.waiting.take_if(is_it).map(|import| import.plan)
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

    pub(super) fn keep_results(&self, results: ImportResults) {
        locked(&self.imports).results = Some(results);
    }

    /// Shows the results of the last import, if it was into this workspace.
    pub(super) fn results<T>(&self, workspace: &str, show: impl FnOnce(&ImportResults) -> T) -> Option<T> {
        let imports = locked(&self.imports);
        let results = imports.results.as_ref();
        results.filter(|results| results.workspace == workspace).map(show)
    }

    pub(super) fn backup(&self) -> Option<MadeBackup> {
        locked(&self.backup).clone()
    }

    pub(super) fn keep_backup(&self, file_name: &str, state: BackupState) {
        *locked(&self.backup) = Some(MadeBackup {
            file_name: file_name.to_owned(),
            state,
        });
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
