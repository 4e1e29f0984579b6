//! The counters of a page of metrics, since its service started.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    counts::Counts,
    exposition::{Sample, samples},
    histogram::Histogram,
};

/// Largest number of servers of one workspace whose counters are kept.
pub(crate) const MAX_SERVERS: usize = 250;
/// Longest name of a server and of a reason, in bytes.
const MAX_NAME: usize = 128;

/// The counters of a service.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Totals {
    /// Start of the service in seconds since 1970. A later start means that all counters began anew.
    pub(super) started: f64,
    /// By workspace, then by server. The counters of the vault are those of the workspace and the server without a name.
    pub(super) counts: BTreeMap<String, BTreeMap<String, Counts>>,
}

/// The page is not that of the service that it should be of.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the program there is not {0}")]
pub(super) struct ForeignPage(&'static str);

/// Reads the counters of the servers of `workspaces` from a page of the injector.
pub(super) fn of_injector(page: &str, workspaces: &BTreeSet<String>) -> Result<Totals, ForeignPage> {
    let mut totals = Totals::begin(page, "injector-service", "an injector")?;
    let mut buckets = BTreeMap::<_, Vec<_>>::new();
    for sample in samples(page, "aerostack_injector_") {
        let (workspace, server) = (sample.label("workspace"), sample.label("server"));
        if !workspaces.contains(workspace) || !is_name(server) {
            continue;
        }
        let servers = totals.counts.entry(workspace.to_owned()).or_default();
        if servers.len() >= MAX_SERVERS && !servers.contains_key(server) {
            continue;
        }
        let counts = servers.entry(server.to_owned()).or_default();
        let number = sample.count();
        match sample.name {
            "aerostack_injector_calls_total" => count_calls(counts, &sample, number),
            "aerostack_injector_broken_off_calls_total" => {
                counts.errors = counts.errors.saturating_add(number)
            }
            "aerostack_injector_missed_secrets_total" => counts.missed = counts.missed.saturating_add(number),
            "aerostack_injector_call_duration_seconds_bucket" => {
                let place = (workspace.to_owned(), server.to_owned());
                buckets.entry(place).or_default().extend(bucket(&sample));
            }
            _ => {}
        }
    }
    for ((workspace, server), buckets) in buckets {
        let servers = totals.counts.get_mut(&workspace);
        if let Some(counts) = servers.and_then(|servers| servers.get_mut(&server)) {
            counts.seconds = Histogram::of_cumulative(buckets);
        }
    }
    Ok(totals)
}

fn count_calls(counts: &mut Counts, sample: &Sample<'_>, number: u64) {
    counts.calls = counts.calls.saturating_add(number);
    match (sample.label("outcome"), sample.label("status_class")) {
        ("FORWARDED", "5xx") => counts.errors = counts.errors.saturating_add(number),
        ("FORWARDED", _) => {}
        (reason, _) if is_name(reason) => counts.refuse(reason, number),
        _ => counts.refused = counts.refused.saturating_add(number),
    }
}

/// Reads the counters of decrypts from a page of the vault.
pub(super) fn of_vault(page: &str) -> Result<Totals, ForeignPage> {
    let mut totals = Totals::begin(page, "vault-service", "a vault")?;
    let (mut counts, mut buckets) = (Counts::default(), Vec::new());
    for sample in samples(page, "aerostack_vault_decrypt") {
        let number = sample.count();
        match (sample.name, sample.label("outcome"), sample.label("status")) {
            ("aerostack_vault_decrypts_total", outcome, _) => {
                counts.calls = counts.calls.saturating_add(number);
                if outcome != "OK" && is_name(outcome) {
                    counts.refuse(outcome, number);
                }
            }
            ("aerostack_vault_decrypted_secrets_total", _, "not_found" | "expired") => {
                counts.missed = counts.missed.saturating_add(number)
            }
            ("aerostack_vault_decrypted_secrets_total", _, "data_loss" | "key_not_loaded") => {
                counts.errors = counts.errors.saturating_add(number)
            }
            ("aerostack_vault_decrypt_duration_seconds_bucket", _, _) => buckets.extend(bucket(&sample)),
            _ => {}
        }
    }
    counts.seconds = Histogram::of_cumulative(buckets);
    let servers = BTreeMap::from([(String::new(), counts)]);
    totals.counts.insert(String::new(), servers);
    Ok(totals)
}

impl Totals {
    fn begin(page: &str, service: &str, described: &'static str) -> Result<Self, ForeignPage> {
        let mut infos = samples(page, "aerostack_build_info");
        if !infos.any(|info| info.label("service") == service) {
            return Err(ForeignPage(described));
        }
        let started = samples(page, "process_start_time_seconds")
            .next()
            .map(|sample| sample.value);
        Ok(Self {
            started: started.unwrap_or_default(),
            counts: BTreeMap::new(),
        })
    }
}

fn bucket(sample: &Sample<'_>) -> Option<(f64, u64)> {
    Some((sample.label("le").parse().ok()?, sample.count()))
}

/// Returns true for the names that the services write. Other texts may be hostile, and no page shows them.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]
mod tests {
    use super::*;

    const INJECTOR: &str = "aerostack_build_info{service=\"injector-service\",version=\"0\"} 1\n\
        process_start_time_seconds 17.5\n\
        aerostack_injector_calls_total{workspace=\"dev\",server=\"api\",outcome=\"FORWARDED\",status_class=\"2xx\"} 10\n\
        aerostack_injector_calls_total{workspace=\"dev\",server=\"api\",outcome=\"FORWARDED\",status_class=\"5xx\"} 2\n\
        aerostack_injector_calls_total{workspace=\"dev\",server=\"api\",outcome=\"SECRET_MISSING\",status_class=\"5xx\"} 3\n\
        aerostack_injector_broken_off_calls_total{workspace=\"dev\",server=\"api\",reason=\"BODY_INVALID\"} 1\n\
        aerostack_injector_missed_secrets_total{workspace=\"dev\",server=\"api\"} 4\n\
        aerostack_injector_call_duration_seconds_bucket{le=\"0.1\",workspace=\"dev\",server=\"api\"} 14\n\
        aerostack_injector_call_duration_seconds_bucket{le=\"+Inf\",workspace=\"dev\",server=\"api\"} 15\n\
        aerostack_injector_calls_total{workspace=\"other\",server=\"api\",outcome=\"FORWARDED\",status_class=\"2xx\"} 99\n";

    fn wanted() -> BTreeSet<String> {
        [String::new(), "dev".to_owned()].into()
    }

    #[test]
    fn calls_are_counted_by_server_of_the_wanted_workspaces() {
        let totals = of_injector(INJECTOR, &wanted()).unwrap();
        assert_eq!(totals.started, 17.5);
        assert_eq!(totals.counts.keys().collect::<Vec<_>>(), ["dev"]);
        let counts = &totals.counts["dev"]["api"];
        assert_eq!(
            (counts.calls, counts.errors, counts.refused, counts.missed),
            (15, 3, 3, 4)
        );
        assert_eq!(
            counts.refusals,
            BTreeMap::from([("SECRET_MISSING".to_owned(), 3)])
        );
        assert!(counts.seconds.quantile(0.5).is_some());
    }

    #[test]
    fn decrypts_are_counted_for_the_whole_vault() {
        let page = "aerostack_build_info{service=\"vault-service\",version=\"0\"} 1\n\
            aerostack_vault_decrypts_total{outcome=\"OK\"} 5\n\
            aerostack_vault_decrypts_total{outcome=\"PERMISSION_DENIED\"} 1\n\
            aerostack_vault_decrypted_secrets_total{status=\"ok\"} 9\n\
            aerostack_vault_decrypted_secrets_total{status=\"expired\"} 2\n";
        let totals = of_vault(page).unwrap();
        let counts = &totals.counts[""][""];
        assert_eq!((counts.calls, counts.refused, counts.missed), (6, 1, 2));
    }

    #[test]
    fn numbers_that_are_too_large_do_not_overflow() {
        let page = INJECTOR
            .replace("} 10\n", "} 1e30\n")
            .replace("} 1\n", "} 1e30\n");
        let page = format!("aerostack_build_info{{service=\"injector-service\"}} 1\n{page}");
        let totals = of_injector(&page, &wanted()).unwrap();
        let counts = &totals.counts["dev"]["api"];
        assert_eq!((counts.calls, counts.errors), (u64::MAX, u64::MAX));
        let mut sum = counts.clone();
        sum.add(counts);
        assert_eq!(sum.calls, u64::MAX);
    }

    #[test]
    fn a_page_of_another_program_is_refused() {
        assert!(of_vault(INJECTOR).is_err());
        assert!(of_injector("", &wanted()).is_err());
        assert_eq!(
            of_injector("<html>", &wanted()).unwrap_err().to_string(),
            "the program there is not an injector"
        );
    }

    #[test]
    fn a_page_with_endless_or_hostile_series_is_cut() {
        let mut page = INJECTOR.to_owned();
        for number in 0..10_000 {
            page.push_str(&format!(
                "aerostack_injector_calls_total{{workspace=\"dev\",server=\"s{number}\",outcome=\"FORWARDED\"}} 1\n"
            ));
        }
        for hostile in ["<script>", "a b", "a\\nb", &"x".repeat(200)] {
            page.push_str(&format!(
                "aerostack_injector_calls_total{{workspace=\"\",server=\"{hostile}\"}} 1\n"
            ));
        }
        let totals = of_injector(&page, &wanted()).unwrap();
        assert_eq!(totals.counts["dev"].len(), MAX_SERVERS);
        assert!(!totals.counts.contains_key(""));
    }
}
