//! What `/metrics` shows of the injector.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
    },
    registry::Registry,
};
use proto::Reason;

use crate::registry::{Registry as Servers, Status};

/// How the registry does, asked when it is shown.
pub(crate) struct OfRegistry(pub(crate) Servers);

impl std::fmt::Debug for OfRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OfRegistry")
    }
}

impl Collector for OfRegistry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Status { servers, problem } = self.0.status();
        let gauges = [
            (
                "aerostack_injector_servers",
                "Servers that are served",
                i64::try_from(servers).unwrap_or(i64::MAX),
            ),
            (
                "aerostack_injector_servers_file_invalid",
                "1 while the servers file is not valid and the servers are those of before",
                i64::from(problem.is_some()),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        // The registry keeps each server's count with the server, so removing a server removes its count.
        let mut missed = encoder.encode_descriptor(
            "aerostack_injector_missed_secrets",
            "Secrets that a server names and a call went without",
            None,
            MetricType::Counter,
        )?;
        for entry in self.0.entries().iter().filter(|entry| entry.missed() > 0) {
            let labels = [
                ("workspace", entry.server.workspace.as_str()),
                ("server", entry.server.name.as_str()),
            ];
            ConstCounter::new(entry.missed()).encode(missed.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Counters; clones count together.
#[derive(Clone, Default)]
pub struct Metrics {
    calls: Family<Outcome, Counter>,
    injected: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Metrics {
    /// Counters that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "aerostack_injector_calls",
            "Calls, by FORWARDED or the reason of the refusal",
            metrics.calls.clone(),
        );
        registry.register(
            "aerostack_injector_injected_secrets",
            "Values put into requests",
            metrics.injected.clone(),
        );
        metrics
    }

    pub(crate) fn forwarded(&self, injected: usize) {
        self.calls.get_or_create(&Outcome { outcome: "FORWARDED" }).inc();
        self.injected(injected);
    }

    pub(crate) fn injected(&self, injected: usize) {
        self.injected.inc_by(u64::try_from(injected).unwrap_or(u64::MAX));
    }

    pub(crate) fn refused(&self, reason: Reason) {
        self.calls
            .get_or_create(&Outcome {
                outcome: reason.name(),
            })
            .inc();
    }
}
