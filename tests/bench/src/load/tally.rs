//! What became of the clients.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Counts over the time that is counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// How long was counted.
    pub seconds: f64,
    /// Full handshakes that completed.
    pub full: u64,
    /// Handshakes that resumed a session.
    pub resumed: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Bytes of answers, and of what requests bring, outside TLS.
    pub bytes: u64,
    /// What failed, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// Handshakes and requests that had not ended some time after the end.
    pub unfinished: u64,
    /// Units of work that were due, and found no client free.
    pub not_begun: u64,
    /// TCP and TLS together, until the client may send.
    pub handshake: Latencies,
    /// Requests, until the last byte of the answer.
    pub request: Latencies,
    /// CPU time of the load generator itself, with its warm-up.
    pub client_cpu_seconds: f64,
}

impl Tally {
    /// Something failed.
    pub(super) fn fail(&mut self, reason: &'static str) {
        *self.failures.entry(reason).or_default() += 1;
    }

    /// Adds what another worker counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.full += other.full;
        self.resumed += other.resumed;
        self.requests += other.requests;
        self.bytes += other.bytes;
        for (reason, count) in &other.failures {
            *self.failures.entry(reason).or_default() += count;
        }
        self.unfinished += other.unfinished;
        self.not_begun += other.not_begun;
        self.handshake.add(&other.handshake);
        self.request.add(&other.request);
    }

    /// What it comes to.
    pub fn summary(&self) -> Summary {
        let per_second = |count: u64| count as f64 / self.seconds;
        Summary {
            seconds: self.seconds,
            full_handshakes: self.full,
            resumed_handshakes: self.resumed,
            handshakes_per_second: per_second(self.full + self.resumed),
            requests: self.requests,
            requests_per_second: per_second(self.requests),
            bytes: self.bytes,
            bytes_per_second: per_second(self.bytes),
            failures: self.failures.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            unfinished: self.unfinished,
            not_begun: self.not_begun,
            handshake_milliseconds: self.handshake.quantiles(),
            request_milliseconds: self.request.quantiles(),
            client_cpu_seconds: self.client_cpu_seconds,
        }
    }
}

/// Latencies, to a microsecond and three digits.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    #[expect(clippy::expect_used, reason = "three digits are among those that the histogram allows")]
    fn default() -> Self {
        Self(Histogram::new(3).expect("three digits"))
    }
}

impl Latencies {
    /// One more.
    pub fn record(&mut self, latency: Duration) {
        // It grows as far as it has to.
        let _ = self.0.record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds those of another worker.
    pub fn add(&mut self, other: &Self) {
        let _ = self.0.add(&other.0);
    }

    /// What shares of them did not exceed; `None` where there is none.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        let max = self.0.max() as f64 / 1e3;
        (!self.0.is_empty()).then(|| Quantiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max })
    }
}

/// A tally, for programs and people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// How long was counted.
    pub seconds: f64,
    /// Full handshakes that completed.
    pub full_handshakes: u64,
    /// Handshakes that resumed a session.
    pub resumed_handshakes: u64,
    /// Both kinds.
    pub handshakes_per_second: f64,
    /// Requests that were answered.
    pub requests: u64,
    /// Of them.
    pub requests_per_second: f64,
    /// Bytes of answers, and of what requests bring, outside TLS.
    pub bytes: u64,
    /// Of them.
    pub bytes_per_second: f64,
    /// What failed, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Handshakes and requests that had not ended some time after the end.
    pub unfinished: u64,
    /// Units of work that were due, and found no client free.
    pub not_begun: u64,
    /// TCP and TLS together; with a rate, from when the client was due. `None` where there was none.
    pub handshake_milliseconds: Option<Quantiles>,
    /// Requests until the last byte of the answer; with a rate and kept connections, from when one was due.
    pub request_milliseconds: Option<Quantiles>,
    /// CPU time of the load generator itself, with its warm-up.
    pub client_cpu_seconds: f64,
}

/// What shares of the latencies did not exceed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half.
    pub p50: f64,
    /// 9 in 10.
    pub p90: f64,
    /// 99 in 100.
    pub p99: f64,
    /// 999 in 1000.
    pub p999: f64,
    /// All.
    pub max: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { full_handshakes, resumed_handshakes, handshakes_per_second, .. } = self;
        let megabytes = self.bytes_per_second / 1e6;
        writeln!(f, "handshakes  {full_handshakes} full, {resumed_handshakes} resumed, {handshakes_per_second:.1}/s")?;
        writeln!(f, "requests    {}, {:.1}/s, {megabytes:.1} MB/s", self.requests, self.requests_per_second)?;
        for (what, quantiles) in [("handshake", self.handshake_milliseconds), ("request", self.request_milliseconds)] {
            if let Some(Quantiles { p50, p90, p99, p999, max }) = quantiles {
                writeln!(f, "{what:<10}  p50 {p50:.3} ms, p90 {p90:.3}, p99 {p99:.3}, p99.9 {p999:.3}, max {max:.3}")?;
            }
        }
        for (reason, count) in &self.failures {
            writeln!(f, "failed      {count} {reason}")?;
        }
        for (what, count) in [("unfinished", self.unfinished), ("not begun", self.not_begun)] {
            if count > 0 {
                writeln!(f, "{what:<10}  {count}")?;
            }
        }
        write!(f, "own CPU     {:.2} s", self.client_cpu_seconds)
    }
}
