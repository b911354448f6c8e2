#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;
use crate::identity::IdentitySet;
use crate::virtual_host::Table;
use crate::virtual_host::tests::template;
use prometheus_client::registry::Registry;
use record::tests::session;
use ticket_keys::tests::message;

const PATIENCE: Duration = Duration::from_secs(10);

fn host(name: &str) -> Arc<VirtualHost> {
    let table = Table::build(&[template(&[name], false, &["key"])], &IdentitySet::default());
    table.find(Some(name)).unwrap().clone()
}

/// Sessions in this directory, under the generations around `current`.
fn sessions(directory: &Path, table: SessionTable, current: u8) -> Sessions {
    let telemetry = Arc::new(Telemetry::register(&mut Registry::default()));
    let ticket_keys = Arc::new(TicketKeys::new(telemetry.clone()));
    ticket_keys.tell(message(current), Instant::now());
    Sessions::start(table.check(directory).unwrap(), directory, ticket_keys, telemetry).unwrap()
}

async fn find(sessions: &Sessions, host: &VirtualHost, id: SessionId) -> Result<Found, Miss> {
    // It is not open at once, or for a while in use by a process that another test forked.
    let opening = [store::Miss::StoreOpening, store::Miss::StoreUnavailable].map(Miss::from);
    let begun = Instant::now();
    loop {
        match sessions.of_id(host, id).await {
            Err(miss) if opening.contains(&miss) && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            found => return found,
        }
    }
}

#[tokio::test]
async fn a_stored_session_outlives_a_restart_and_is_nothing_without_the_keys_of_its_day() {
    let directory = tempfile::tempdir().unwrap();
    let (host, other) = (host("a.example"), host("b.example"));
    let edge = sessions(directory.path(), SessionTable::default(), 5);
    let id = edge.keeping().session_id.unwrap();
    edge.keep(&host, KeptBy::Id(id), &session());
    edge.close(PATIENCE);

    for entry in std::fs::read_dir(directory.path().join("sessions")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = if path.is_file() { std::fs::read(path).unwrap() } else { continue };
        for secret in [&[9; 48][..], &id.0] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "in the clear on disk");
        }
    }

    let edge = sessions(directory.path(), SessionTable::default(), 6);
    let found = find(&edge, &host, id).await.unwrap();
    assert_eq!(found.record.session.to_bytes(), session().to_bytes());
    assert_eq!(find(&edge, &other, id).await.unwrap_err(), NoSession::Unreadable.into());
    edge.close(PATIENCE);

    // Whoever steals the directory and has the keys of a later day, and what is more the session's id.
    let thief = sessions(directory.path(), SessionTable::default(), 30);
    assert_eq!(find(&thief, &host, id).await.unwrap_err(), NoSession::ForeignId.into());
    let store = &thief.stores.as_ref().unwrap().local;
    let begun = Instant::now();
    let stored = loop {
        match store.find(&id.0).await {
            Err(store::Miss::StoreOpening | store::Miss::StoreUnavailable) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            found => break found.unwrap(),
        }
    };
    let opened = thief.open(&host, Some(id), &stored, By::Id);
    assert_eq!(opened.unwrap_err(), NoSession::UnknownGeneration.into());
}

#[tokio::test]
async fn sessions_are_bound_to_their_hosts_policy_and_age() {
    let directory = tempfile::tempdir().unwrap();
    let table = SessionTable { lifetime: Duration::from_secs(2), ..SessionTable::default() };
    let edge = sessions(directory.path(), table, 5);
    let host = host("a.example");
    let ticket = edge.keep(&host, KeptBy::Ticket, &session()).1.unwrap();
    assert!((1..=2).contains(&ticket.lifetime_hint));
    assert!(edge.of_ticket(&host, &ticket.ticket).is_ok());
    let mut changed = Arc::into_inner(host).unwrap();
    changed.policy = [1; 32];
    assert_eq!(edge.of_ticket(&changed, &ticket.ticket).unwrap_err(), NoSession::OtherPolicy.into());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(edge.of_ticket(&changed, &ticket.ticket).unwrap_err(), NoSession::TooOld.into());
}

#[tokio::test]
async fn what_is_off_is_neither_offered_nor_taken() {
    let directory = tempfile::tempdir().unwrap();
    let host = host("a.example");
    let on = sessions(directory.path(), SessionTable::default(), 5);
    let ticket = on.keep(&host, KeptBy::Ticket, &session()).1.unwrap();
    let id = on.keeping().session_id.unwrap();
    let table = SessionTable { tickets: false, ids: false, ..SessionTable::default() };
    let off = sessions(directory.path(), table, 5);
    assert_eq!(off.keeping(), Keeping::default());
    assert_eq!(off.of_ticket(&host, &ticket.ticket).unwrap_err(), NoSession::Off.into());
    assert_eq!(off.of_id(&host, id).await.unwrap_err(), NoSession::Off.into());
}

#[tokio::test]
async fn sessions_too_large_for_a_client_hello_are_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let edge = sessions(directory.path(), SessionTable::default(), 5);
    let large = Session { client_chain: vec![vec![0; store::LONGEST_VALUE]], ..session() };
    assert!(edge.keep(&host("a.example"), KeptBy::Ticket, &large).1.is_none());
    assert_eq!(edge.telemetry.sessions_too_large.get(), 1);
}
