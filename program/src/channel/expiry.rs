//! How long this side's certificate is good, for metrics and warnings.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The time that a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// A certificate that lives for long is to be renewed this long before its end; a shorter one in its last tenth.
const LONGEST_NOTICE: i64 = 7 * 86_400;

impl Validity {
    /// That of a DER certificate; `None` for what is none.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let validity = certificate.validity();
        Some(Self { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() })
    }

    /// Time until the end, whose last second counts (RFC 5280 §4.1.2.5); none once it is over.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        Duration::from_secs((self.not_after + 1 - seconds(now)).try_into().unwrap_or(0))
    }

    /// What to tell the operator when the end is near, or past.
    pub fn warning(&self, now: SystemTime) -> Option<EndsSoon> {
        let notice = ((self.not_after - self.not_before) / 10).min(LONGEST_NOTICE);
        (self.not_after - seconds(now) < notice).then(|| EndsSoon(self.remaining(now)))
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// A certificate of the channel that is to be renewed, with the time it has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndsSoon(Duration);

impl fmt::Display for EndsSoon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.0.as_secs() / 3600;
        match (self.0.is_zero(), hours) {
            (true, _) => f.write_str("the channel's certificate has expired: renew it"),
            (false, 0..48) => write!(f, "the channel's certificate expires in {hours} hours: renew it"),
            (false, _) => write!(f, "the channel's certificate expires in {} days: renew it", hours / 24),
        }
    }
}

/// Shows and watches the validity of the certificate in use. Clones share it.
#[derive(Clone, Debug)]
pub struct Expiry {
    current: Arc<watch::Sender<Option<Validity>>>,
    not_after: Gauge,
}

/// How often the clock is looked at. A machine may have slept, or its clock been set.
const INTERVAL: Duration = Duration::from_secs(60);
/// Warnings are said again after this many looks: a day.
const REPEATED: u32 = 24 * 60;

impl Expiry {
    pub(super) fn new(validity: Option<Validity>) -> Self {
        let expiry = Self { current: Arc::new(watch::Sender::new(None)), not_after: Gauge::default() };
        expiry.replace(validity);
        expiry
    }

    pub(super) fn replace(&self, validity: Option<Validity>) {
        self.not_after.set(validity.map_or(0, |validity| validity.not_after));
        self.current.send_replace(validity);
    }

    /// Adds the metric to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "When this side's certificate of the channel expires, in Unix time";
        registry.register_with_unit(
            "channel_certificate_not_after_timestamp",
            help,
            Unit::Seconds,
            self.not_after.clone(),
        );
    }

    /// Warns when the certificate in use is to be renewed, and each day until it is. It goes on for as long as the process.
    pub async fn follow(self) -> Infallible {
        let mut current = self.current.subscribe();
        let mut looks = 0;
        loop {
            let validity = *current.borrow_and_update();
            match validity.and_then(|validity| validity.warning(SystemTime::now())) {
                Some(warning) if looks % REPEATED == 0 => {
                    tracing::warn!("{warning}");
                    looks += 1;
                }
                Some(_) => looks += 1,
                None => looks = 0,
            }
            // `self` holds a sender: it cannot be gone.
            if tokio::time::timeout(INTERVAL, current.changed()).await.is_ok() {
                looks = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_certificate_is_to_be_renewed_in_its_last_tenth_or_week() {
        const DAY: u64 = 86_400;
        let validity = |days: u64| Validity { not_before: 0, not_after: (days * DAY).cast_signed() };
        for (days, notice) in [(1, DAY / 10), (30, 3 * DAY), (90, 7 * DAY), (3650, 7 * DAY)] {
            assert_eq!(validity(days).warning(at(days * DAY - notice)), None, "{days}");
            assert_eq!(
                validity(days).warning(at(days * DAY - notice + 1)),
                Some(EndsSoon(Duration::from_secs(notice))),
                "{days}"
            );
        }
        let expired = validity(1).warning(at(2 * DAY));
        assert_eq!(
            expired.map(|warning| warning.to_string()).as_deref(),
            Some("the channel's certificate has expired: renew it")
        );
    }
}
