#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod child;
mod faults;
mod soak;

use super::*;
use std::path::PathBuf;

const LIVES: Duration = Duration::from_secs(3600);

fn start(directory: &Path) -> LocalStore {
    start_with(directory, patient())
}

/// For tests that are not about time: the machine that tests may be busy.
fn patient() -> LocalConfig {
    LocalConfig { lookup_timeout: Duration::from_secs(20), ..LocalConfig::default() }
}

fn start_with(directory: &Path, config: LocalConfig) -> LocalStore {
    LocalStore::start(directory, config, StoreTelemetry::unregistered()).unwrap()
}

fn opened(directory: &Path) -> LocalStore {
    let store = start(directory);
    wait_until("the database is open", || store.notices.standing() == Standing::Open);
    store
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    wait_at_most(Duration::from_secs(30), what, condition);
}

fn wait_at_most(limit: Duration, what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The files of the database.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join(DATABASE)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// What is kept under an id in tests.
fn value_of(id: &SessionId) -> Bytes {
    id.iter().copied().cycle().skip(5).take(300).collect()
}

fn keep_one(store: &LocalStore) -> SessionId {
    let id = store.fresh_id(&mut rand::rng());
    store.keep(id, value_of(&id), LIVES);
    id
}

#[tokio::test]
async fn a_session_is_found_at_once_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = start(directory.path());
    let early = keep_one(&store);
    assert_eq!(store.find(&early).await, Ok(value_of(&early)));
    wait_until("the database is open", || store.notices.standing() == Standing::Open);
    let late = keep_one(&store);
    assert!(store.close(Duration::from_secs(30)));

    let store = opened(directory.path());
    for id in [early, late] {
        assert_eq!(store.find(&id).await, Ok(value_of(&id)));
    }
    assert_eq!(store.telemetry.memory_hits.get(), 0);
    assert_eq!(store.find(&late).await, Ok(value_of(&late)));
    assert_eq!(store.telemetry.memory_hits.get(), 1);
    wait_until("the sessions are counted", || store.telemetry.entries.get() == 2);
}

#[tokio::test]
async fn a_session_that_was_ended_stays_ended() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    let [ended, other] = [keep_one(&store), keep_one(&store)];
    store.forget(&ended);
    assert_eq!(store.find(&ended).await, Err(Miss::Ended));
    assert!(store.close(Duration::from_secs(30)));
    let store = opened(directory.path());
    assert_eq!(store.find(&ended).await, Err(Miss::NotFound));
    assert_eq!(store.find(&other).await, Ok(value_of(&other)));
}

#[tokio::test]
async fn a_session_expires_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    let id = store.fresh_id(&mut rand::rng());
    store.keep(id, value_of(&id), Duration::ZERO);
    assert_eq!(store.find(&id).await, Err(Miss::Expired));
}

#[tokio::test]
async fn ids_that_nobody_gave_are_not_found() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    for id in [[0; 32], [255; 32], store.fresh_id(&mut rand::rng())] {
        assert_eq!(store.find(&id).await, Err(Miss::NotFound));
    }
}

#[tokio::test]
async fn what_is_too_long_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    let [longest, longer] = [LONGEST_VALUE, LONGEST_VALUE + 1].map(|length| {
        let id = store.fresh_id(&mut rand::rng());
        store.keep(id, Bytes::from(vec![7; length]), LIVES);
        id
    });
    assert_eq!(store.find(&longest).await.unwrap().len(), LONGEST_VALUE);
    assert_eq!(store.find(&longer).await, Err(Miss::NotFound));
    assert_eq!(store.telemetry.drops(Store::Local, Dropped::TooLarge), 1);
}

#[test]
fn an_id_begins_with_its_bucket_and_is_random_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    let bucket = store.notices.bucket.load(Ordering::Relaxed).to_be_bytes();
    let [one, two] = [store.fresh_id(&mut rand::rng()), store.fresh_id(&mut rand::rng())];
    assert!(one.starts_with(&bucket) && two.starts_with(&bucket));
    assert_ne!(one, two);
}

/// A store whose thread does nothing.
fn stalled(config: LocalConfig) -> (LocalStore, Questions, Sender<()>) {
    let (lookups, lookups_asked) = bounded(MOST_LOOKUPS);
    let (writes, writes_asked) = bounded(MOST_WRITES);
    let (ending, ended) = bounded(0);
    let store = LocalStore {
        memory: Memory::new(config.memory_bytes),
        lookups,
        writes,
        notices: Arc::new(Notices::new(7)),
        lookup_timeout: config.lookup_timeout,
        telemetry: StoreTelemetry::unregistered(),
        ended,
    };
    (store, Questions { lookups: lookups_asked, writes: writes_asked }, ending)
}

#[tokio::test]
async fn while_the_database_opens_memory_serves_alone() {
    let (store, _questions, _ending) = stalled(LocalConfig::default());
    let id = keep_one(&store);
    assert_eq!(store.find(&id).await, Ok(value_of(&id)));
    assert_eq!(store.find(&[1; 32]).await, Err(Miss::StoreOpening));
}

#[tokio::test]
async fn nobody_waits_for_a_database_that_is_stuck() {
    let (store, questions, _ending) = stalled(LocalConfig::default());
    store.notices.stands(Standing::Open);
    let begun = Instant::now();
    assert_eq!(store.find(&[1; 32]).await, Err(Miss::StoreSlow));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    while questions.lookups.len() < MOST_LOOKUPS {
        let (answer, _) = oneshot::channel();
        store.lookups.send(Lookup { place: Place::of(&[1; 32]), answer }).unwrap();
    }
    assert_eq!(store.find(&[1; 32]).await, Err(Miss::StoreOverloaded), "it is not waited for");
}

#[tokio::test]
async fn more_than_can_be_written_is_dropped_and_stays_in_memory() {
    let (store, questions, _ending) = stalled(LocalConfig::default());
    let ids: Vec<_> = (0..MOST_WRITES + 10).map(|_| keep_one(&store)).collect();
    assert_eq!(store.telemetry.drops(Store::Local, Dropped::QueueFull), 10);
    assert_eq!(store.find(ids.last().unwrap()).await, Ok(value_of(ids.last().unwrap())));
    // A session that is ended then must not come back either.
    store.forget(ids.first().unwrap());
    assert_eq!(store.find(ids.first().unwrap()).await, Err(Miss::Ended));

    questions.writes.try_iter().for_each(drop);
    store.notices.queued_bytes.store(0, Ordering::Relaxed);
    let most = usize::try_from(MOST_QUEUED_BYTES).unwrap() / LONGEST_VALUE;
    (0..most + 3).for_each(|_| store.keep([9; 32], Bytes::from(vec![7; LONGEST_VALUE]), LIVES));
    assert_eq!(questions.writes.len(), most);
}

#[tokio::test]
async fn a_second_process_works_without_the_database_until_the_first_ends() {
    let directory = tempfile::tempdir().unwrap();
    let first = opened(directory.path());
    let kept = keep_one(&first);
    let second = start(directory.path());
    wait_until("the second finds it taken", || second.notices.standing() == Standing::Unavailable);
    assert_eq!(second.find(&kept).await, Err(Miss::StoreUnavailable));
    let own = keep_one(&second);
    assert_eq!(second.find(&own).await, Ok(value_of(&own)));
    assert!(first.close(Duration::from_secs(30)));
    wait_until("the second takes it over", || second.notices.standing() == Standing::Open);
    assert_eq!(second.find(&kept).await, Ok(value_of(&kept)));
    assert_eq!(second.telemetry.rebuilt.get(), 0);
}
