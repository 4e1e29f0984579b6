//! The metrics of the injector. `docs/metrics.md` describes them for operators.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, histogram::Histogram},
    registry::Registry,
};

use crate::registry::{CallCounts, EchoPart, Entry, Registry as Servers, RegistryStatus};

/// Upper bounds of the buckets for the duration of a decrypt, in seconds. A decrypt takes 0.1 ms from a vault on the
/// same machine, and 2 s at most unless `--vault-timeout` says otherwise.
const DECRYPT_SECONDS: [f64; 13] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5,
];

/// Metrics that do not belong to one server. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Calls that name no known server. They have the labels `workspace=""` and `server=""`, so that a client that makes
    /// names up adds no series.
    pub(crate) unknown: Arc<CallCounts>,
    /// Duration of each decrypt that a call waits for.
    pub(crate) decrypt_seconds: Histogram,
}

impl Metrics {
    /// Registers these metrics, and those of all servers in `servers`.
    pub(crate) fn register(registry: &mut Registry, servers: Servers) -> Self {
        let metrics = Self {
            unknown: Arc::default(),
            decrypt_seconds: Histogram::new(DECRYPT_SECONDS),
        };
        registry.register(
            "aerostack_injector_decrypt_duration_seconds",
            "Time that a call waited for the vault, by decrypt",
            metrics.decrypt_seconds.clone(),
        );
        registry.register_collector(Box::new(ServerMetrics {
            servers,
            unknown: metrics.unknown.clone(),
        }));
        metrics
    }
}

/// Reads the metrics of the servers at each scrape. Each server keeps its own [`CallCounts`], so a server that is removed
/// takes its series along, and the number of series is bounded by the number of servers.
struct ServerMetrics {
    servers: Servers,
    unknown: Arc<CallCounts>,
}

impl fmt::Debug for ServerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerMetrics")
    }
}

impl Collector for ServerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_registry(&mut encoder)?;
        let entries = self.servers.entries();
        let mut counted: Vec<_> = entries.iter().map(labelled).collect();
        counted.push((["", ""], &*self.unknown));
        encode_calls(&mut encoder, &counted)?;
        encode_broken_off(&mut encoder, &counted)?;
        encode_echoes(&mut encoder, &counted)?;
        encode_durations(&mut encoder, &counted)?;
        encode_secrets(
            &mut encoder,
            "aerostack_injector_injected_secrets",
            "Values put into requests",
            counted.iter().map(|(of, counts)| (of, counts.injected())),
        )?;
        encode_secrets(
            &mut encoder,
            "aerostack_injector_missed_secrets",
            "Secrets that a server names and that a request went without",
            counted.iter().map(|(of, counts)| (of, counts.missed())),
        )
    }
}

impl ServerMetrics {
    fn encode_registry(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let RegistryStatus {
            servers,
            revision,
            rejections,
            problem,
        } = self.servers.status();
        let gauges = [
            (
                "aerostack_injector_servers",
                "Servers that the injector knows",
                i64::try_from(servers).unwrap_or(i64::MAX),
            ),
            (
                "aerostack_injector_servers_file_invalid",
                "1 while the servers file is invalid and the injector uses the last valid one",
                i64::from(problem.is_some()),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let rejections = ConstCounter::new(rejections);
        rejections.encode(encoder.encode_descriptor(
            "aerostack_injector_servers_file_rejections",
            "Contents of the servers file that were not used, because they were not valid",
            None,
            rejections.metric_type(),
        )?)?;
        let mut family = encoder.encode_descriptor(
            "aerostack_injector_servers_file_revision",
            "Always 1; the label names the content of the servers file that is in use",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(1).encode(family.encode_family(&[("revision", revision.as_str())])?)
    }
}

/// The names of a workspace and a server, and the server's counts.
type Labelled<'a> = ([&'a str; 2], &'a CallCounts);

fn labelled(entry: &Arc<Entry>) -> Labelled<'_> {
    let server = &entry.server;
    (
        [server.workspace.as_str(), server.name.as_str()],
        entry.call_counts(),
    )
}

fn encode_calls(encoder: &mut DescriptorEncoder<'_>, counted: &[Labelled<'_>]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "aerostack_injector_calls",
        "Calls, by server, by FORWARDED or the reason of the refusal, and by the class of the HTTP status",
        None,
        MetricType::Counter,
    )?;
    for ([workspace, server], counts) in counted {
        for (outcome, count) in counts.outcomes() {
            let labels = [
                ("workspace", *workspace),
                ("server", *server),
                ("outcome", outcome.outcome),
                ("status_class", outcome.status_class),
            ];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_broken_off(encoder: &mut DescriptorEncoder<'_>, counted: &[Labelled<'_>]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "aerostack_injector_broken_off_calls",
        "Forwarded calls that the injector ended before their end, by server and reason",
        None,
        MetricType::Counter,
    )?;
    for ([workspace, server], counts) in counted {
        for (reason, count) in counts.broken_off_by_reason() {
            let labels = [("workspace", *workspace), ("server", *server), ("reason", reason)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_echoes(encoder: &mut DescriptorEncoder<'_>, counted: &[Labelled<'_>]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "aerostack_injector_echoes",
        "Answers of upstreams in which the value of a secret was found, by server and part of the answer",
        None,
        MetricType::Counter,
    )?;
    for ([workspace, server], counts) in counted {
        for part in EchoPart::ALL {
            let count = counts.echoes(part);
            if count > 0 {
                let labels = [
                    ("workspace", *workspace),
                    ("server", *server),
                    ("part", part.name()),
                ];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

fn encode_durations(encoder: &mut DescriptorEncoder<'_>, counted: &[Labelled<'_>]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "aerostack_injector_call_duration_seconds",
        "Time from the head of a call to the head of its answer, by server",
        None,
        MetricType::Histogram,
    )?;
    for ([workspace, server], counts) in counted {
        if !counts.is_empty() {
            let labels = [("workspace", *workspace), ("server", *server)];
            counts.seconds().encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_secrets<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: impl Iterator<Item = (&'a [&'a str; 2], u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for ([workspace, server], count) in counts.filter(|(_, count)| *count > 0) {
        let labels = [("workspace", *workspace), ("server", *server)];
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
