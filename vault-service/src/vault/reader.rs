//! Decrypting, for who holds a permit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use proto::{OriginPattern, SecretName, SecretValue, Uid};
use tokio::sync::{mpsc, oneshot};

use super::{VaultError, keyring::Keyring, stored::Kind, workspaces};
use crate::{
    authz::DecryptPermit,
    crypto::{OpenError, WorkspaceKek, record},
    store::Store,
};

/// The most names in one decrypt.
pub const MAX_NAMES: usize = 64;
/// The most bytes of values in one answer.
pub const MAX_ANSWER: usize = 1024 * 1024;
/// Threads that read the store and decrypt. A hop to a thread of the runtime's blocking pool costs more than a decrypt.
const THREADS: usize = 2;
/// Jobs that may wait for a thread.
const QUEUE: usize = 1024;

/// What is to be decrypted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The workspace that the caller knows; another one of its name does not count.
    pub workspace_uid: Option<Uid>,
    /// The secrets; no two the same, at most [`MAX_NAMES`].
    pub names: Vec<SecretName>,
    /// Whether the values themselves are not wanted, so that there may be any number of bytes of them.
    pub check_only: bool,
}

/// What became of one name.
#[derive(Debug)]
pub enum Decrypted {
    /// Here it is.
    Value {
        /// The version that it is.
        version: u64,
        /// Where it may be sent; empty means anywhere.
        origins: Vec<OriginPattern>,
        /// The value.
        value: SecretValue,
    },
    /// There is no such secret.
    NotFound,
    /// The record is damaged, or not where it belongs.
    DataLoss,
    /// The record names a key that is not loaded.
    KeyNotLoaded,
}

/// Work for a reading thread.
type Job = Box<dyn FnOnce(&Shelf) + Send>;

/// Decrypts. Clones share the threads.
#[derive(Clone)]
pub struct Reader {
    threads: Arc<[mpsc::Sender<Job>]>,
    next: Arc<AtomicUsize>,
}

struct Shelf {
    store: Store,
    keyring: Arc<Keyring>,
}

impl Reader {
    pub(super) fn new(store: Store, keyring: Arc<Keyring>) -> Self {
        let shelf = Arc::new(Shelf { store, keyring });
        let start = |number| {
            let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
            let shelf = shelf.clone();
            let work = move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&shelf);
                }
            };
            if let Err(error) = thread::Builder::new()
                .name(format!("reader-{number}"))
                .spawn(work)
            {
                // The queue went with the closure: whoever asks this thread gets no answer and is refused.
                tracing::error!(%error, "a reading thread did not start");
            }
            jobs
        };
        Self {
            threads: (0..THREADS).map(start).collect(),
            next: Arc::default(),
        }
    }

    /// Decrypts for one permit or several, with one hop to a reading thread. Answers come in the order asked.
    pub async fn decrypt(
        &self,
        wanted: Vec<(DecryptPermit, Wanted)>,
    ) -> Vec<Result<(Uid, Vec<Decrypted>), VaultError>> {
        let count = wanted.len();
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |shelf| {
            let decrypted = wanted
                .iter()
                .map(|(permit, wanted)| shelf.decrypt(permit, wanted))
                .collect();
            // Nobody waits any more when the call was cancelled; the values are wiped here.
            drop(answer.send(decrypted));
        });
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % THREADS;
        let gone = || (0..count).map(|_| Err(VaultError::Stopped)).collect();
        let Some(thread) = self.threads.get(turn) else {
            return gone();
        };
        if thread.send(job).await.is_err() {
            return gone();
        }
        answered.await.unwrap_or_else(|_| gone())
    }
}

impl Shelf {
    fn decrypt(&self, permit: &DecryptPermit, wanted: &Wanted) -> Result<(Uid, Vec<Decrypted>), VaultError> {
        let found = workspaces::find(&self.store, permit.workspace())?;
        if wanted.workspace_uid.is_some_and(|uid| uid != found.uid) {
            return Err(VaultError::WorkspaceReplaced(found.name));
        }
        if wanted.names.is_empty() {
            return Ok((found.uid, Vec::new()));
        }
        let kek = self.keyring.open(&found.uid, &found.record.wrapped_kek)?;
        let mut size = 0;
        let mut decrypted = Vec::with_capacity(wanted.names.len());
        for name in &wanted.names {
            let one = self.one(&kek, &found.uid, name)?;
            if let (Decrypted::Value { value, .. }, false) = (&one, wanted.check_only) {
                size += value.expose().len();
            }
            if size > MAX_ANSWER {
                return Err(VaultError::AnswerTooLarge);
            }
            decrypted.push(one);
        }
        Ok((found.uid, decrypted))
    }

    fn one(&self, kek: &WorkspaceKek, workspace: &Uid, name: &SecretName) -> Result<Decrypted, VaultError> {
        let Some(bytes) = self.store.read(&Kind::Record.key(workspace, name))? else {
            return Ok(Decrypted::NotFound);
        };
        Ok(match record::decrypt(kek, workspace, name, &bytes) {
            Ok(record::Decrypted {
                version,
                origins,
                value,
            }) => Decrypted::Value {
                version,
                origins,
                value,
            },
            Err(OpenError::UnknownKey(_)) => Decrypted::KeyNotLoaded,
            Err(OpenError::Corrupt(cause)) => {
                tracing::error!(%cause, secret = %name, "a stored record is damaged");
                Decrypted::DataLoss
            }
        })
    }
}
