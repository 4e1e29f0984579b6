//! Metrics of the process, under the names that all Prometheus client libraries use, and of its build.

use std::fmt;

use procfs::{
    CurrentSI as _, KernelStats, ProcResult,
    process::{LimitValue, Process},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

/// Registers the metrics of this process, which runs `service` of this `version`.
pub fn register(registry: &mut Registry, service: &'static str, version: &'static str) {
    registry.register(
        "aerostack_build",
        "The service and its version",
        Info::new([("service", service), ("version", version)]),
    );
    registry.register_collector(Box::new(ProcessMetrics {
        booted: KernelStats::current().ok().map(|stats| stats.btime),
    }));
}

/// Reads the values from `/proc` at each scrape.
#[derive(Debug)]
struct ProcessMetrics {
    /// Start of the system in seconds since 1970; `None` where `/proc/stat` is hidden.
    booted: Option<u64>,
}

/// The values of one scrape.
struct Values {
    cpu_seconds: f64,
    /// Seconds from the start of the system to the start of the process.
    started: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: i64,
    open_fds: u64,
    max_fds: u64,
}

impl Values {
    fn read() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        // The numbers of ticks are far below 2^53, so that `f64` holds them exactly.
        let ticks = procfs::ticks_per_second() as f64;
        Ok(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            started: stat.starttime as f64 / ticks,
            resident_bytes: stat.rss * procfs::page_size(),
            virtual_bytes: stat.vsize,
            threads: stat.num_threads,
            open_fds: u64::try_from(process.fd_count()?).unwrap_or(u64::MAX),
            max_fds: match process.limits()?.max_open_files.soft_limit {
                LimitValue::Value(files) => files,
                LimitValue::Unlimited => u64::MAX,
            },
        })
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let values = match Values::read() {
            Ok(values) => values,
            Err(error) => {
                tracing::debug!(%error, "metrics of the process could not be read");
                return Ok(());
            }
        };
        let cpu = ConstCounter::new(values.cpu_seconds);
        let of_cpu = encoder.encode_descriptor(
            "process_cpu_seconds",
            "User and system CPU time, in seconds",
            None,
            cpu.metric_type(),
        )?;
        cpu.encode(of_cpu)?;
        if let Some(booted) = self.booted {
            let start_time = ConstGauge::new(booted as f64 + values.started);
            let of_start = encoder.encode_descriptor(
                "process_start_time_seconds",
                "Start of the process, in seconds since 1970",
                None,
                start_time.metric_type(),
            )?;
            start_time.encode(of_start)?;
        }
        let threads = u64::try_from(values.threads).unwrap_or_default();
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory, in bytes",
                values.resident_bytes,
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory, in bytes",
                values.virtual_bytes,
            ),
            ("process_threads", "Threads", threads),
            ("process_open_fds", "Open file descriptors", values.open_fds),
            (
                "process_max_fds",
                "Maximum number of open file descriptors",
                values.max_fds,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
