//! Tickets as the edge makes them: the sealing is its own code.

use std::sync::Arc;
use std::time::SystemTime;

use keystead_edge::sessions::TicketKeys;
use keystead_edge::sessions::record::{Head, Record, unix_seconds};
use keystead_edge::sessions::seal::{self, Purpose};
use keystead_edge::telemetry::Telemetry;
use keystead_proto::v1;
use keystead_tests::sessions::Sealing;
use keystead_tests::signer::SERVER_NAME;
use keystead_tls::Session;
use prometheus_client::registry::Registry;
use rand::Rng;
use tokio::time::Instant;

/// Seals and opens under one ticket key.
pub(super) struct Tickets(TicketKeys);

const PURPOSE: Purpose<'static> = Purpose { host: SERVER_NAME, session_id: None };

/// Longer than any benchmark.
const DAY: u64 = 24 * 3_600_000;

impl Default for Tickets {
    fn default() -> Self {
        let keys = TicketKeys::new(Arc::new(Telemetry::register(&mut Registry::default())));
        let mut key = vec![0; 32];
        rand::rng().fill_bytes(&mut key);
        let key = v1::TicketKey { generation: 1, name: vec![1; 16], key, seal_for_ms: DAY, open_for_ms: DAY };
        keys.tell(v1::TicketKeys { keys: vec![key] }, Instant::now());
        Self(keys)
    }
}

impl Sealing for Tickets {
    fn seal(&self, session: &Session) -> Vec<u8> {
        let head = Head { began: unix_seconds(SystemTime::now()), serial: rand::random(), policy: [0; 32] };
        let generations = self.0.load();
        let generation = generations.sealing(Instant::now()).expect("a key for the day");
        seal::seal(generation, PURPOSE, &head.with(session), &mut rand::rng()).expect("lengths that are allowed")
    }

    fn open(&self, ticket: &[u8]) -> Option<Session> {
        let generations = self.0.load();
        let (bytes, _) = seal::open(&generations, PURPOSE, ticket, Instant::now()).ok()?;
        Record::read(&bytes).map(|record| record.session)
    }
}
