//! Expiry of the certificates that a service presents.
//!
//! A service does not notice that its own certificate has expired: its peers refuse the certificate, and their errors do
//! not tell the reason. The service therefore logs a warning before a certificate expires, is not ready afterwards, and
//! reports the time in its metrics.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::time;

/// Remaining validity at which a warning is logged, from the longest to the shortest.
const WARNINGS: [Duration; 2] = [Duration::from_secs(7 * 24 * 3600), Duration::from_secs(24 * 3600)];
/// Interval between two checks of the clock.
const INTERVAL: Duration = Duration::from_secs(60);

/// A certificate chain that this process presents.
#[derive(Debug, Clone)]
struct Certificate {
    /// The setting that names its file, without the dashes before it.
    setting: String,
    /// Time at which the first certificate of the chain expires.
    not_after: SystemTime,
}

/// The certificate chains that this process presents. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct OwnCertificates(Arc<[Certificate]>);

impl OwnCertificates {
    /// Adds the certificate chain of `setting`, which is valid until `not_after`.
    #[must_use]
    pub fn with(self, setting: &str, not_after: SystemTime) -> Self {
        let certificate = Certificate {
            setting: setting.trim_start_matches('-').to_owned(),
            not_after,
        };
        Self(self.0.iter().cloned().chain([certificate]).collect())
    }

    /// Returns an error that names a certificate that has expired at `now`.
    pub fn check(&self, now: SystemTime) -> Result<(), String> {
        match self.0.iter().find(|certificate| certificate.not_after < now) {
            Some(Certificate { setting, not_after }) => Err(format!(
                "the certificate of --{setting} expired at {}; replace it and restart the service",
                text(*not_after)
            )),
            None => Ok(()),
        }
    }

    /// Logs a warning when a certificate is about to expire, once 7 days and once 1 day before, and an error when it has
    /// expired. Does not return.
    pub async fn watch(self) {
        let mut said = vec![0; self.0.len()];
        loop {
            let now = SystemTime::now();
            for (certificate, said) in self.0.iter().zip(&mut said) {
                let stage = certificate.stage(now);
                if stage > *said {
                    *said = stage;
                    certificate.log(stage);
                }
            }
            time::sleep(INTERVAL).await;
        }
    }
}

impl Certificate {
    /// Returns the number of thresholds that have passed at `now`: one for each warning, and one for the expiry.
    fn stage(&self, now: SystemTime) -> usize {
        let left = self.not_after.duration_since(now).ok();
        let passed = |threshold: &&Duration| left.is_none_or(|left| left <= **threshold);
        WARNINGS.iter().filter(passed).count() + usize::from(left.is_none())
    }

    fn log(&self, stage: usize) {
        let (setting, expires) = (format!("--{}", self.setting), text(self.not_after));
        if stage > WARNINGS.len() {
            tracing::error!(
                setting,
                expires,
                "the certificate has expired; replace it and restart the service"
            );
        } else {
            tracing::warn!(
                setting,
                expires,
                "the certificate expires soon; replace it and restart the service"
            );
        }
    }
}

impl Collector for OwnCertificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut expiry = encoder.encode_descriptor(
            "aerostack_certificate_expiration_timestamp_seconds",
            "Unix time at which a certificate expires that the service presents, by the setting that names its file",
            None,
            MetricType::Gauge,
        )?;
        for Certificate { setting, not_after } in self.0.iter() {
            let gauge = ConstGauge::new(seconds(*not_after));
            gauge.encode(expiry.encode_family(&[("certificate", setting.as_str())])?)?;
        }
        Ok(())
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}

fn text(time: SystemTime) -> String {
    Timestamp::from_second(seconds(time))
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn certificates(not_after: SystemTime) -> OwnCertificates {
        let far = not_after + 1_000 * DAY;
        OwnCertificates::default()
            .with("--tls-cert", far)
            .with("--vault-cert", not_after)
    }

    #[test]
    fn each_threshold_is_passed_once() {
        let not_after = SystemTime::UNIX_EPOCH + 10_000 * DAY;
        let certificate = certificates(not_after).0[1].clone();
        for (before, stage) in [(8 * DAY, 0), (7 * DAY, 1), (2 * DAY, 1), (DAY, 2), (DAY / 2, 2)] {
            assert_eq!(certificate.stage(not_after - before), stage, "{before:?}");
        }
        assert_eq!(certificate.stage(not_after + DAY / 1_000), 3);
    }

    #[test]
    fn an_expired_certificate_is_named_with_its_setting() {
        let not_after = SystemTime::UNIX_EPOCH + 10_000 * DAY;
        let certificates = certificates(not_after);
        assert_eq!(certificates.check(not_after), Ok(()));
        let expired = certificates
            .check(not_after + Duration::from_secs(1))
            .unwrap_err();
        assert_eq!(
            expired,
            "the certificate of --vault-cert expired at 1997-05-19T00:00:00Z; replace it and restart the service"
        );
    }

    #[test]
    fn the_metrics_show_when_each_certificate_expires() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(certificates(SystemTime::UNIX_EPOCH + DAY)));
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        let line = "aerostack_certificate_expiration_timestamp_seconds{certificate=\"vault-cert\"} 86400\n";
        assert!(page.contains(line), "{page}");
    }
}
