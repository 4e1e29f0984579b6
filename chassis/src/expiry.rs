//! Expiry of the certificates that a service presents.
//!
//! A service does not notice that its own certificate has expired: its peers refuse the certificate, and their errors do
//! not tell the reason. The service therefore logs a warning before a certificate expires, is not ready afterwards, and
//! reports the time in its metrics.

use std::{
    fmt,
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

use crate::readiness::ReadinessProblem;

/// Remaining validity at which a warning is logged, from the longest to the shortest.
const WARNINGS: [Duration; 2] = [Duration::from_secs(7 * 24 * 3600), Duration::from_secs(24 * 3600)];
/// Interval between two checks of the clock.
const INTERVAL: Duration = Duration::from_secs(60);

/// A certificate chain that this process presents.
#[derive(Clone)]
struct Certificate {
    /// The setting that names its file, without the dashes before it.
    setting: String,
    /// Returns the time at which the first certificate of the chain in use expires.
    not_after: Arc<dyn Fn() -> Option<SystemTime> + Send + Sync>,
}

/// The certificate chains that this process presents. Every method reads the chains that are in use at that time. Clones share
/// them.
#[derive(Clone, Default)]
pub struct OwnCertificates(Arc<[Certificate]>);

impl fmt::Debug for OwnCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.0.iter().map(|certificate| &certificate.setting);
        f.debug_set().entries(settings).finish()
    }
}

/// The warnings about one certificate so far.
#[derive(Clone, Default, PartialEq)]
struct Warned {
    not_after: Option<SystemTime>,
    stage: usize,
}

impl OwnCertificates {
    /// Adds the certificate chain of `setting`. `not_after` returns the time at which the chain in use expires, or `None` while
    /// there is no chain.
    #[must_use]
    pub fn with(
        self,
        setting: &str,
        not_after: impl Fn() -> Option<SystemTime> + Send + Sync + 'static,
    ) -> Self {
        let certificate = Certificate {
            setting: setting.trim_start_matches('-').to_owned(),
            not_after: Arc::new(not_after),
        };
        Self(self.0.iter().cloned().chain([certificate]).collect())
    }

    /// Returns an error that names a certificate that has expired at `now` or has not arrived yet.
    pub fn check(&self, now: SystemTime) -> Result<(), ReadinessProblem> {
        let checked = self.0.iter().try_for_each(|certificate| certificate.check(now));
        checked.map_err(|detail| ReadinessProblem {
            cause: "a certificate or token of this service cannot be used",
            detail: Some(detail),
        })
    }

    /// Logs a warning when a certificate is about to expire, once 7 days and once 1 day before, and an error when it has
    /// expired. Does not return.
    pub async fn watch(self) {
        let mut warned = vec![Warned::default(); self.0.len()];
        loop {
            let now = SystemTime::now();
            for (certificate, warned) in self.0.iter().zip(&mut warned) {
                certificate.warn(warned, now);
            }
            time::sleep(INTERVAL).await;
        }
    }
}

impl Certificate {
    fn check(&self, now: SystemTime) -> Result<(), String> {
        let Self { setting, not_after } = self;
        match not_after() {
            None => Err(format!("no certificate has come from --{setting} yet")),
            Some(expired) if expired < now => Err(format!(
                "the certificate of --{setting} expired at {}; renew it",
                text(expired)
            )),
            Some(_) => Ok(()),
        }
    }

    /// Logs a threshold that has passed since the earlier warnings. After a renewal, every threshold counts again.
    fn warn(&self, warned: &mut Warned, now: SystemTime) {
        let Some(not_after) = (self.not_after)() else {
            return;
        };
        if warned.not_after != Some(not_after) {
            *warned = Warned {
                not_after: Some(not_after),
                stage: 0,
            };
        }
        let stage = stage(not_after, now);
        if stage > warned.stage {
            warned.stage = stage;
            self.log(stage, not_after);
        }
    }

    fn log(&self, stage: usize, not_after: SystemTime) {
        let (setting, expires) = (format!("--{}", self.setting), text(not_after));
        if stage > WARNINGS.len() {
            tracing::error!(setting, expires, "the certificate has expired; renew it");
        } else {
            tracing::warn!(setting, expires, "the certificate expires soon; renew it");
        }
    }
}

/// Returns the number of thresholds that have passed at `now`: one for each warning, and one for the expiry.
fn stage(not_after: SystemTime, now: SystemTime) -> usize {
    let left = not_after.duration_since(now).ok();
    let passed = |threshold: &&Duration| left.is_none_or(|left| left <= **threshold);
    WARNINGS.iter().filter(passed).count() + usize::from(left.is_none())
}

impl Collector for OwnCertificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut expiry = encoder.encode_descriptor(
            "aerostack_certificate_expiration_timestamp_seconds",
            "Unix time at which a certificate of the service expires, by the setting that names the certificate's file",
            None,
            MetricType::Gauge,
        )?;
        for Certificate { setting, not_after } in self.0.iter() {
            if let Some(not_after) = not_after() {
                let gauge = ConstGauge::new(unix_seconds(not_after));
                gauge.encode(expiry.encode_family(&[("certificate", setting.as_str())])?)?;
            }
        }
        Ok(())
    }
}

/// Returns a time in seconds since 1970, and 0 for an earlier time.
pub fn unix_seconds(time: SystemTime) -> i64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}

/// Returns a time as text, in UTC.
pub fn text(time: SystemTime) -> String {
    Timestamp::from_second(unix_seconds(time))
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn certificates(not_after: SystemTime) -> OwnCertificates {
        let far = not_after + 1_000 * DAY;
        OwnCertificates::default()
            .with("--tls-cert", move || Some(far))
            .with("--vault-cert", move || Some(not_after))
    }

    #[test]
    fn each_threshold_is_passed_once() {
        let not_after = SystemTime::UNIX_EPOCH + 10_000 * DAY;
        for (before, expected) in [(8 * DAY, 0), (7 * DAY, 1), (2 * DAY, 1), (DAY, 2), (DAY / 2, 2)] {
            assert_eq!(stage(not_after, not_after - before), expected, "{before:?}");
        }
        assert_eq!(stage(not_after, not_after + DAY / 1_000), 3);
    }

    #[test]
    fn a_renewed_certificate_is_warned_of_anew() {
        let not_after = SystemTime::UNIX_EPOCH + 10_000 * DAY;
        let in_use = Arc::new(Mutex::new(not_after));
        let asked = in_use.clone();
        let certificates =
            OwnCertificates::default().with("--tls-cert", move || Some(*asked.lock().unwrap()));
        let mut warned = Warned::default();
        certificates.0[0].warn(&mut warned, not_after + DAY);
        assert_eq!(warned.stage, 3);
        *in_use.lock().unwrap() = not_after + 100 * DAY;
        certificates.0[0].warn(&mut warned, not_after + DAY);
        assert_eq!(warned.stage, 0);
        certificates.0[0].warn(&mut warned, not_after + 95 * DAY);
        assert_eq!(warned.stage, 1);
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
            expired.detail.as_deref(),
            Some("the certificate of --vault-cert expired at 1997-05-19T00:00:00Z; renew it")
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
