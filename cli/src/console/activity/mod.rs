//! What the services' metrics say about the last half hour.
//!
//! One sampler serves all pages. It reads the metrics of both services every two seconds while a live page is open, and once
//! for every page that is loaded. It keeps the calls of the workspaces that were looked at last.

mod counts;
mod exposition;
mod histogram;
mod history;
mod scrape;
mod source;
mod totals;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chassis::telemetry::chain;
use http::Uri;
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

pub(super) use self::{
    counts::Counts,
    history::{History, INTERVAL, Interval, WINDOW},
    source::{Source, SourceState},
    totals::MAX_SERVERS,
};
use self::{scrape::Scraper, totals::Totals};

/// Time between two samples.
const PERIOD: Duration = Duration::from_secs(2);
/// A sample that is younger is not taken anew for a page that is loaded.
const MIN_AGE: Duration = Duration::from_millis(500);
/// A sample takes at most this share of the time, also when a page of metrics is large.
const MAX_SHARE: u32 = 10;
/// Largest number of workspaces whose calls are kept. One takes at most some 12 MB: 250 servers that all have calls in each of
/// 120 intervals, with 400 bytes each.
const MAX_WORKSPACES: usize = 6;

/// The sampler.
pub(super) struct Activity {
    scraper: Scraper,
    /// Times in histories count from here.
    started: time::Instant,
    state: Mutex<SamplerState>,
    /// Held by the task that takes a sample.
    turn: tokio::sync::Mutex<()>,
    /// Number of live pages.
    viewers: watch::Sender<usize>,
    /// Changes with every sample.
    samples: watch::Sender<u64>,
}

struct SamplerState {
    injector: Source,
    vault: Source,
    sampled_at: Option<Duration>,
    /// By name, with the time at which a page looked at the workspace last.
    workspaces: BTreeMap<String, (Duration, History)>,
    /// Calls that name no known server, of all workspaces.
    unknown: History,
    decrypts: History,
}

/// What a page of one workspace shows.
pub(super) struct View<'a> {
    pub(super) injector: &'a Source,
    pub(super) vault: &'a Source,
    pub(super) now: Duration,
    pub(super) calls: &'a History,
    pub(super) unknown: &'a History,
    pub(super) decrypts: &'a History,
}

/// A live page. The sampler runs while there is one.
pub(super) struct Viewer {
    activity: Arc<Activity>,
    samples: watch::Receiver<u64>,
}

impl Activity {
    pub(super) fn of(injector: Option<Uri>, vault: Option<Uri>) -> Self {
        let state = SamplerState {
            injector: Source::at(injector),
            vault: Source::at(vault),
            sampled_at: None,
            workspaces: BTreeMap::new(),
            unknown: History::default(),
            decrypts: History::default(),
        };
        Self {
            scraper: Scraper::default(),
            started: time::Instant::now(),
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::default(),
            viewers: watch::Sender::new(0),
            samples: watch::Sender::new(0),
        }
    }

    /// Takes samples while a live page is open, until `shutdown`.
    pub(super) async fn run(&self, shutdown: CancellationToken) {
        let samples = async {
            let mut viewers = self.viewers.subscribe();
            // The sender is a field of `self`, so waiting for it does not fail.
            while viewers.wait_for(|number| *number > 0).await.is_ok() {
                let began = time::Instant::now();
                self.sample().await;
                time::sleep(PERIOD.max(began.elapsed() * MAX_SHARE)).await;
            }
        };
        tokio::select! {
            () = samples => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Registers a live page of a workspace.
    pub(super) fn watch(self: &Arc<Self>, workspace: &str) -> Viewer {
        self.look_at(workspace);
        let samples = self.samples.subscribe();
        self.viewers.send_modify(|number| *number += 1);
        Viewer {
            activity: self.clone(),
            samples,
        }
    }

    /// Takes a sample that has the calls of a workspace, unless there is one from just now.
    pub(super) async fn sample_for(&self, workspace: &str) {
        self.look_at(workspace);
        self.sample().await;
    }

    /// Begins to keep the calls of a workspace. The one that no page has looked at for the longest time gives way.
    fn look_at(&self, workspace: &str) {
        let now = self.started.elapsed();
        let mut state = self.state();
        let is_new = !state.workspaces.contains_key(workspace);
        let entry = state.workspaces.entry(workspace.to_owned());
        entry.or_insert_with(|| (now, History::default())).0 = now;
        if is_new {
            state.sampled_at = None;
        }
        if state.workspaces.len() > MAX_WORKSPACES {
            let oldest = state
                .workspaces
                .iter()
                .min_by_key(|(_, (looked_at, _))| *looked_at);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                state.workspaces.remove(&oldest);
            }
        }
    }

    async fn sample(&self) {
        let _turn = self.turn.lock().await;
        let now = self.started.elapsed();
        let (injector, vault, workspaces) = {
            let state = self.state();
            if state
                .sampled_at
                .is_some_and(|at| now.saturating_sub(at) < MIN_AGE)
            {
                return;
            }
            let names = state.workspaces.keys().cloned().chain([String::new()]);
            (
                state.injector.url.clone(),
                state.vault.url.clone(),
                names.collect::<BTreeSet<_>>(),
            )
        };
        let (injector, vault) = tokio::join!(
            self.totals(injector, |page| totals::of_injector(page, &workspaces)),
            self.totals(vault, totals::of_vault),
        );
        let mut state = self.state();
        state.sampled_at = Some(now);
        state.injector.state = state_of(&injector);
        state.vault.state = state_of(&vault);
        if let Some(Ok(totals)) = injector {
            state.record_calls(now, totals, &workspaces);
        }
        if let Some(Ok(mut totals)) = vault {
            let counts = totals.counts.remove("").unwrap_or_default();
            state.decrypts.record(now, totals.started, counts);
        }
        drop(state);
        self.samples
            .send_modify(|number| *number = number.wrapping_add(1));
    }

    /// Returns the counters of a service, or the end of a sentence that says why there are none. Returns `None` when the address
    /// of the service is not known.
    async fn totals(
        &self,
        url: Option<Uri>,
        read: impl Fn(&str) -> Result<Totals, totals::ForeignPage>,
    ) -> Option<Result<Totals, String>> {
        Some(match self.scraper.page(&url?).await {
            Ok(page) => read(&page).map_err(|error| error.to_string()),
            Err(error) => {
                tracing::debug!(error = chain(&error), "no metrics");
                Err(error.to_string())
            }
        })
    }

    /// Calls `show` with what a page of a workspace shows.
    pub(super) fn show<T>(&self, workspace: &str, show: impl FnOnce(&View<'_>) -> T) -> T {
        let state = self.state();
        let none = History::default();
        show(&View {
            injector: &state.injector,
            vault: &state.vault,
            now: self.started.elapsed(),
            calls: state
                .workspaces
                .get(workspace)
                .map_or(&none, |(_, history)| history),
            unknown: &state.unknown,
            decrypts: &state.decrypts,
        })
    }

    /// A panic while the lock is held leaves no state that a later sample must not see.
    fn state(&self) -> MutexGuard<'_, SamplerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SamplerState {
    /// `sampled` are the workspaces that the totals were read for. One that a page began to look at since then is not.
    fn record_calls(&mut self, now: Duration, totals: Totals, sampled: &BTreeSet<String>) {
        let Totals { started, mut counts } = totals;
        self.unknown
            .record(now, started, counts.remove("").unwrap_or_default());
        for (name, (_, history)) in &mut self.workspaces {
            if sampled.contains(name) {
                history.record(now, started, counts.remove(name).unwrap_or_default());
            }
        }
    }
}

fn state_of(totals: &Option<Result<Totals, String>>) -> SourceState {
    match totals {
        None => SourceState::NotAsked,
        Some(Ok(_)) => SourceState::Answered,
        Some(Err(why)) => SourceState::Failed(why.clone()),
    }
}

impl Viewer {
    /// Waits for the next sample. Keeps the workspace among those that were looked at last.
    pub(super) async fn next_sample(&mut self, workspace: &str) {
        // The sender is a field of `activity`, so waiting for it does not fail.
        drop(self.samples.changed().await);
        self.activity.look_at(workspace);
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.activity.viewers.send_modify(|number| *number -= 1);
    }
}
