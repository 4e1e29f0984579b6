//! The figures of the last half hour, from the services' metrics.
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
    source::{MetricsSource, SourceState},
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
    injector: MetricsSource,
    vault: MetricsSource,
    sampled_at: Option<Duration>,
    workspaces: BTreeMap<String, KeptWorkspace>,
    /// Calls that name no known server, of all workspaces.
    unknown: History,
    decrypts: History,
}

/// A workspace whose calls are kept.
#[derive(Default)]
struct KeptWorkspace {
    /// The time at which a page looked at the workspace last.
    looked_at: Duration,
    /// Number of live pages.
    viewers: usize,
    history: History,
}

/// Every workspace whose calls are kept has a live page.
#[derive(Debug)]
pub(super) struct TooManyWorkspaces;

/// The content of the page of one workspace.
pub(super) struct View<'a> {
    pub(super) injector: &'a MetricsSource,
    pub(super) vault: &'a MetricsSource,
    pub(super) now: Duration,
    pub(super) calls: &'a History,
    pub(super) unknown: &'a History,
    pub(super) decrypts: &'a History,
}

/// A live page. The sampler runs while there is one.
pub(super) struct Viewer {
    activity: Arc<Activity>,
    workspace: String,
    samples: watch::Receiver<u64>,
}

impl Activity {
    pub(super) fn of(injector: Option<Uri>, vault: Option<Uri>) -> Self {
        let state = SamplerState {
            injector: MetricsSource::at(injector),
            vault: MetricsSource::at(vault),
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

    /// Registers a live page of a workspace, whose calls are kept until the page ends.
    pub(super) fn watch(self: &Arc<Self>, workspace: &str) -> Result<Viewer, TooManyWorkspaces> {
        let now = self.started.elapsed();
        self.state().look_at(workspace, now)?.viewers += 1;
        let samples = self.samples.subscribe();
        self.viewers.send_modify(|number| *number += 1);
        Ok(Viewer {
            activity: self.clone(),
            workspace: workspace.to_owned(),
            samples,
        })
    }

    /// Takes a sample that has the calls of a workspace, unless there is one from just now.
    pub(super) async fn sample_for(&self, workspace: &str) {
        let now = self.started.elapsed();
        // The page says that its calls are not kept.
        drop(self.state().look_at(workspace, now).map(drop));
        self.sample().await;
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
        let now = self.started.elapsed();
        let mut state = self.state();
        state.forget_old(now);
        let none = History::default();
        show(&View {
            injector: &state.injector,
            vault: &state.vault,
            now,
            calls: state
                .workspaces
                .get(workspace)
                .map_or(&none, |kept| &kept.history),
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
    /// Begins to keep the calls of a workspace, or goes on. The one without a live page that no page has looked at for the longest
    /// time gives way.
    fn look_at(&mut self, workspace: &str, now: Duration) -> Result<&mut KeptWorkspace, TooManyWorkspaces> {
        if !self.workspaces.contains_key(workspace) {
            self.make_room()?;
            self.sampled_at = None;
        }
        let kept = self.workspaces.entry(workspace.to_owned()).or_default();
        kept.looked_at = now;
        Ok(kept)
    }

    fn make_room(&mut self) -> Result<(), TooManyWorkspaces> {
        if self.workspaces.len() < MAX_WORKSPACES {
            return Ok(());
        }
        let unwatched = self.workspaces.iter().filter(|(_, kept)| kept.viewers == 0);
        let oldest = unwatched.min_by_key(|(_, kept)| kept.looked_at);
        let oldest = oldest.map(|(name, _)| name.clone()).ok_or(TooManyWorkspaces)?;
        self.workspaces.remove(&oldest);
        Ok(())
    }

    /// Forgets what is older than the window. No sample does so while the services do not answer.
    fn forget_old(&mut self, now: Duration) {
        self.unknown.forget_old(now);
        self.decrypts.forget_old(now);
        for kept in self.workspaces.values_mut() {
            kept.history.forget_old(now);
        }
    }

    /// `sampled` are the workspaces that the totals were read for. One that a page began to look at since then is not.
    fn record_calls(&mut self, now: Duration, totals: Totals, sampled: &BTreeSet<String>) {
        let Totals { started, mut counts } = totals;
        self.unknown
            .record(now, started, counts.remove("").unwrap_or_default());
        for (name, kept) in &mut self.workspaces {
            if sampled.contains(name) {
                kept.history
                    .record(now, started, counts.remove(name).unwrap_or_default());
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
    /// Waits for the next sample.
    pub(super) async fn next_sample(&mut self) {
        // The sender is a field of `activity`, so waiting for it does not fail.
        drop(self.samples.changed().await);
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.activity.viewers.send_modify(|number| *number -= 1);
        let now = self.activity.started.elapsed();
        if let Some(kept) = self.activity.state().workspaces.get_mut(&self.workspace) {
            kept.viewers -= 1;
            kept.looked_at = now;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_with_a_live_page_never_gives_way() {
        let activity = Arc::new(Activity::of(None, None));
        let mut viewers: Vec<_> = (0..MAX_WORKSPACES)
            .map(|number| activity.watch(&format!("w{number}")).unwrap())
            .collect();
        assert!(activity.watch("further").is_err());
        // A second page of a workspace needs no room.
        drop(activity.watch("w0").unwrap());
        assert!(activity.watch("further").is_err());
        drop(viewers.remove(0));
        let further = activity.watch("further").unwrap();
        assert!(activity.watch("w0").is_err());
        drop((further, viewers));
        assert!(activity.watch("w0").is_ok());
    }
}
