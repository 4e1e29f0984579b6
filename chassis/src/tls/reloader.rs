//! Reading of the files of TLS again when they change.

use std::{
    fmt,
    path::PathBuf,
    thread,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{
    sync::watch,
    time::{self, MissedTickBehavior},
};

use super::{
    authorities::Authorities,
    identity::Identity,
    reloading::{Reloading, ReloadingSender},
    spiffe::{SpiffeSocket, WorkloadApi},
};
use crate::{blocking::blocking, file_stamp::FileStamp};

/// The label of the Workload API in metrics: the setting that names its socket.
const SPIFFE: &str = "spiffe-socket";

/// Interval between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time for which files must stay the same before they are read, so that a file is rarely read while it is written.
const SETTLING: Duration = Duration::from_millis(100);

/// Reads the files of TLS again when they change, or receives certificates from a Workload API, and replaces the contents in use
/// by the new ones. Contents that cannot be used change nothing.
#[derive(Default)]
pub struct Reloader {
    sources: Vec<Box<dyn FileSource>>,
    /// The source of what the settings name no file for.
    workload_api: Option<WorkloadApi>,
    failures: Family<CertificateLabel, Counter>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reloader").field(&self.sources.len()).finish()
    }
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct CertificateLabel {
    certificate: String,
}

impl Reloader {
    /// Registers the counter of files that could not be used.
    pub fn register(&self, registry: &mut Registry) {
        let labels = self.sources.iter().map(|source| source.label());
        for label in labels.chain(self.workload_api.as_ref().map(|_| SPIFFE)) {
            let certificate = label.to_owned();
            drop(self.failures.get_or_create(&CertificateLabel { certificate }));
        }
        registry.register(
            "aerostack_certificate_reload_failures",
            "Changes of certificates, keys or CAs that could not be used, by the setting that names the file",
            self.failures.clone(),
        );
    }

    /// Reads files that have changed, and all files at each `reload`, and listens to the Workload API. Does not return.
    pub async fn run(mut self, reload: watch::Receiver<()>) {
        let (workload_api, failures) = (self.workload_api.take(), self.failures.clone());
        let receiving = async {
            if let Some(workload_api) = workload_api {
                let certificate = SPIFFE.to_owned();
                let label = CertificateLabel { certificate };
                let refused = || {
                    failures.get_or_create(&label).inc();
                };
                workload_api.run(refused).await;
            }
        };
        tokio::join!(self.run_files(reload), receiving);
    }

    async fn run_files(mut self, mut reload: watch::Receiver<()>) {
        let mut ticks = time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Without a sender of `reload`, only changes count.
        let mut is_asked = async || {
            if reload.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => false,
                () = is_asked() => true,
            };
            self = blocking(move || {
                match asked {
                    true => self.read_all(),
                    false => self.read_changed(),
                }
                self
            })
            .await;
        }
    }

    /// Listens to the Workload API at `socket` as well. Returns the certificate and the CAs that it gives.
    pub(crate) fn listen_to(
        &mut self,
        socket: SpiffeSocket,
    ) -> (Reloading<Identity>, Reloading<Authorities>) {
        let workload_api = self.workload_api.insert(WorkloadApi::new(socket));
        (workload_api.identity(), workload_api.authorities())
    }

    pub(crate) fn add(&mut self, source: impl FileSource + 'static) {
        self.sources.push(Box::new(source));
    }

    pub(super) fn read_all(&mut self) {
        for source in &mut self.sources {
            source.read(&self.failures);
        }
        tracing::info!("SIGHUP: certificates, keys and CAs were read again");
    }

    pub(super) fn read_changed(&mut self) {
        let may_have_changed = |stamps: &Stamps, source: &dyn FileSource| source.may_differ(stamps);
        let stamps: Vec<_> = self.sources.iter().map(|source| source.stamps()).collect();
        let mut sources = stamps.iter().zip(&self.sources);
        if !sources.any(|(stamps, source)| may_have_changed(stamps, &**source)) {
            return;
        }
        thread::sleep(SETTLING);
        for (stamps, source) in stamps.iter().zip(&mut self.sources) {
            if may_have_changed(stamps, &**source) && source.stamps() == *stamps {
                source.read(&self.failures);
            }
        }
    }
}

/// The stamps of the files of one source; `None` for a file that cannot be found.
type Stamps = Vec<Option<FileStamp>>;

/// The files behind one [`Reloading`].
pub(crate) trait FileSource: Send + Sync {
    /// Returns the setting that names the files, without the dashes before it.
    fn label(&self) -> &str;
    fn stamps(&self) -> Stamps;
    /// Returns true when files with these stamps may hold something else than what was read last.
    fn may_differ(&self, stamps: &Stamps) -> bool;
    /// Reads the files, and uses their contents if they are good.
    fn read(&mut self, failures: &Family<CertificateLabel, Counter>);
}

/// Decides whether the second content may take the place of the first one, which is in use.
pub(crate) type ReplacementCheck<T> = Box<dyn Fn(&T, &T) -> Result<(), String> + Send + Sync>;

/// The rules for one kind of content.
pub(crate) struct ContentRules<T> {
    /// Reads the files.
    pub(crate) load: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    /// Decides whether a new content may take the place of the one in use.
    pub(crate) check: ReplacementCheck<T>,
    /// Describes a content for the log.
    pub(crate) describe: fn(&T) -> String,
}

/// Files whose contents together are one value of type `T`.
pub(crate) struct WatchedFiles<T> {
    label: String,
    files: Vec<PathBuf>,
    content: ContentRules<T>,
    sender: ReloadingSender<T>,
    /// The stamps right before the last read.
    stamps: Stamps,
    /// False when the files may have changed without a change of their stamps.
    stamps_are_conclusive: bool,
    /// The reason why the files were not used when they were read last.
    problem: Option<String>,
}

impl<T: PartialEq + Send + Sync> WatchedFiles<T> {
    /// Watches `files`, which `setting` names. `value` is their content, read after `stamps` were.
    pub(crate) fn new(
        setting: &str,
        files: Vec<PathBuf>,
        value: T,
        content: ContentRules<T>,
    ) -> (Self, Reloading<T>) {
        let (sender, reloading) = ReloadingSender::new(Some(value));
        let watched = Self {
            label: setting.trim_start_matches('-').to_owned(),
            files,
            content,
            sender,
            // No stamps yet, so that the first look at the files reads them again: they may have changed since `value`.
            stamps: Vec::new(),
            stamps_are_conclusive: false,
            problem: None,
        };
        (watched, reloading)
    }

    fn load(&self) -> Result<T, String> {
        let loaded = (self.content.load)()?;
        if let Some(current) = self.sender.current().filter(|current| **current != loaded) {
            (self.content.check)(&current, &loaded)?;
        }
        Ok(loaded)
    }

    fn replace(&self, loaded: T) {
        if self.sender.current().is_some_and(|current| *current == loaded) {
            return;
        }
        tracing::info!(
            setting = self.label,
            content = (self.content.describe)(&loaded),
            "file read again: new connections use it"
        );
        self.sender.replace(loaded);
    }
}

impl<T: PartialEq + Send + Sync> FileSource for WatchedFiles<T> {
    fn label(&self) -> &str {
        &self.label
    }

    fn stamps(&self) -> Stamps {
        self.files.iter().map(|file| FileStamp::of(file).ok()).collect()
    }

    fn may_differ(&self, stamps: &Stamps) -> bool {
        self.problem.is_some() || !self.stamps_are_conclusive || self.stamps != *stamps
    }

    fn read(&mut self, failures: &Family<CertificateLabel, Counter>) {
        let (now, stamps) = (SystemTime::now(), self.stamps());
        self.stamps_are_conclusive = stamps.iter().flatten().all(|stamp| stamp.is_settled(now));
        self.stamps = stamps;
        let problem = match self.load() {
            Ok(loaded) => {
                self.replace(loaded);
                None
            }
            Err(problem) => Some(problem),
        };
        if let Some(error) = problem
            .as_ref()
            .filter(|problem| self.problem.as_ref() != Some(problem))
        {
            let certificate = self.label.clone();
            failures.get_or_create(&CertificateLabel { certificate }).inc();
            tracing::warn!(
                setting = self.label,
                error,
                "the file cannot be used; the previous content stays in use"
            );
        }
        self.problem = problem;
    }
}
