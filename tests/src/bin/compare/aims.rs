//! Compares the measurements with the aims of this project.

use crate::{
    contenders::{Contender, Payload},
    decrypts::DecryptMode,
    memory::{ResidentMemory, Subject},
    run::{Contest, ContestKind, Participant, Row},
    services::Placement,
    vaults::STREAMED,
};

pub(crate) struct Aim {
    pub(crate) what: String,
    pub(crate) aim: String,
    pub(crate) measured: String,
    pub(crate) met: bool,
}

impl Aim {
    pub(crate) fn at_most(what: impl Into<String>, unit: &str, limit: f64, measured: f64) -> Self {
        Self {
            what: what.into(),
            aim: format!("≤ {limit}{unit}"),
            measured: format!("{measured:.2}{unit}"),
            met: measured <= limit,
        }
    }

    pub(crate) fn at_least(what: impl Into<String>, unit: &str, limit: f64, measured: f64) -> Self {
        Self {
            what: what.into(),
            aim: format!("≥ {limit}{unit}"),
            measured: format!("{measured:.2}{unit}"),
            met: measured >= limit,
        }
    }
}

/// Returns the aims for which the run has measurements.
pub(crate) fn all(contests: &[Contest], memory: &[ResidentMemory]) -> Vec<Aim> {
    let mut aims: Vec<Aim> = contests.iter().flat_map(proxy).collect();
    aims.extend(contests.iter().flat_map(vault));
    aims.extend(growth_with_secrets(contests));
    aims.extend(memory.iter().filter_map(resident));
    aims
}

fn proxy(contest: &Contest) -> Vec<Aim> {
    let ContestKind::Proxy {
        payload: Payload::Small,
        downstream,
        upstream,
        rate,
    } = contest.kind
    else {
        return Vec::new();
    };
    let row = |contender| contest.row(Participant::Proxy(contender));
    let (Some(ours), Some(envoy), Some(forwarder)) = (
        row(Contender::Ours(Placement::Bearer)),
        row(Contender::Envoy),
        row(Contender::Forwarder),
    ) else {
        return Vec::new();
    };
    let what = |what: &str| format!("{what}, {} → {}", downstream.name(), upstream.name());
    let mut aims = Vec::new();
    if let Some(rate) = rate {
        let later = ours.with(envoy, |ours, envoy| Some(ours.p99_ms - envoy.p99_ms));
        let what = what(&format!("p99 above Envoy's at {rate} calls/s"));
        aims.extend(later.map(|later| Aim::at_most(what, " ms", 0.3, later.median)));
    } else {
        let of = |ratio: Option<crate::measure::Spread>| ratio.map(|ratio| ratio.median);
        let cpu = of(ours.cpu_ratio(envoy));
        aims.extend(cpu.map(|cpu| Aim::at_most(what("CPU per call to Envoy's"), " ×", 0.7, cpu)));
        let rate = of(ours.rate_ratio(envoy));
        aims.extend(rate.map(|rate| Aim::at_least(what("requests/s to Envoy's"), " ×", 1.2, rate)));
        let bare = of(ours.cpu_ratio(forwarder));
        aims.extend(
            bare.map(|bare| Aim::at_most(what("CPU per call to the bare forwarder's"), " ×", 1.6, bare)),
        );
        let unscrubbed = row(Contender::Ours(Placement::Unscrubbed));
        let scrubbing = of(unscrubbed.and_then(|unscrubbed| ours.cpu_ratio(unscrubbed)));
        let what = what("CPU per call to that without scrubbing");
        aims.extend(scrubbing.map(|ratio| Aim::at_most(what, " ×", 1.02, ratio)));
    }
    aims
}

const UNARY: Participant = Participant::Vault(DecryptMode::Unary { sealed: false });

fn vault(contest: &Contest) -> Vec<Aim> {
    let ContestKind::Vault { secrets } = contest.kind else {
        return Vec::new();
    };
    let aim = |participant, what: &str, limit| {
        let cpu = contest.row(participant).and_then(cpu_us)?;
        let what = format!("{what}, of {secrets} secrets, CPU");
        Some(Aim::at_most(what, " µs", limit, cpu))
    };
    [
        aim(UNARY, "unary Decrypt in clear", 30.0),
        aim(Participant::Vault(STREAMED), "streamed Decrypt", 8.0),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn cpu_us(row: &Row) -> Option<f64> {
    Some(row.spread(|window| window.cpu_us)?.median)
}

/// Returns the aim for the growth of CPU time per call from the smallest to the largest number of secrets.
fn growth_with_secrets(contests: &[Contest]) -> Option<Aim> {
    let mut vaults = contests.iter().filter_map(|contest| match contest.kind {
        ContestKind::Vault { secrets } => {
            Some((secrets, cpu_us(contest.row(Participant::Vault(STREAMED))?)?))
        }
        ContestKind::Proxy { .. } | ContestKind::Workspaces { .. } | ContestKind::Puts => None,
    });
    let (few, least) = vaults.next()?;
    let (many, most) = vaults.next_back()?;
    let what = format!("streamed Decrypt, of {many} secrets to of {few}, CPU");
    Some(Aim::at_most(what, " ×", 1.25, most / least))
}

fn resident(resident: &ResidentMemory) -> Option<Aim> {
    let limit = match resident.what {
        Subject::Injector => 20.0,
        Subject::InjectorWith(10_000) => 200.0,
        _ => return None,
    };
    let what = crate::memory::what_is(resident.what);
    Some(Aim::at_most(what, " MiB", limit, resident.mib))
}
