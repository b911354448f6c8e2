#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
use super::*;

const NOW: u64 = 1_000_000;
const HOUR: u64 = 3600;

fn config() -> LocalConfig {
    LocalConfig { max_entries: 1600, ..LocalConfig::default() }
}

fn database() -> sled::Db {
    sled::Config::new().temporary(true).flush_every_ms(None).open().unwrap()
}

fn load(database: &sled::Db, now: u64) -> Disk {
    Disk::load(database.clone(), &config(), bucket_of(now), now).unwrap()
}

fn place(bucket: u32, number: u32) -> Place {
    let mut id = [0; 32];
    let (head, tail) = id.split_at_mut(4);
    head.copy_from_slice(&bucket.to_be_bytes());
    tail[..4].copy_from_slice(&number.to_be_bytes());
    Place::of(&id)
}

fn session(expires: u64) -> Session {
    Session { value: Bytes::from_static(b"sealed"), expires }
}

/// Writes that many into the current bucket, one after the other, as far as it goes.
fn fill(disk: &mut Disk, numbers: std::ops::Range<u32>, now: u64) -> Vec<Place> {
    let write = |number| {
        let place = place(disk.current(), number);
        disk.write(&[Entry { place, session: Some(session(now + HOUR)) }], now).unwrap();
        place
    };
    numbers.map(write).collect()
}

fn trees(database: &sled::Db) -> usize {
    database.tree_names().len() - 1
}

#[test]
fn what_is_written_is_found_until_it_expires() {
    let mut disk = load(&database(), NOW);
    let place = place(disk.current(), 1);
    assert_eq!(disk.find(&place, NOW).unwrap(), Err(Miss::NotFound));
    disk.write(&[Entry { place, session: Some(session(NOW + 10)) }], NOW).unwrap();
    assert_eq!(disk.find(&place, NOW + 9).unwrap(), Ok(session(NOW + 10)));
    assert_eq!(disk.find(&place, NOW + 10).unwrap(), Err(Miss::Expired));
}

#[test]
fn what_is_removed_is_gone_also_within_one_write() {
    let mut disk = load(&database(), NOW);
    let [first, second] = [1, 2].map(|number| place(disk.current(), number));
    let put = |place| Entry { place, session: Some(session(NOW + HOUR)) };
    let remove = |place| Entry { place, session: None };
    disk.write(&[put(first), put(second), remove(second)], NOW).unwrap();
    assert_eq!(disk.find(&second, NOW).unwrap(), Err(Miss::NotFound));
    disk.write(&[remove(first)], NOW).unwrap();
    assert_eq!(disk.find(&first, NOW).unwrap(), Err(Miss::NotFound));
}

#[test]
fn a_full_bucket_closes_and_still_takes_what_has_its_number() {
    let mut disk = load(&database(), NOW);
    let first = disk.current();
    fill(&mut disk, 0..99, NOW);
    assert_eq!(disk.current(), first);
    fill(&mut disk, 99..100, NOW);
    assert!(disk.current() > first);
    let late = place(first, 1000);
    let written = disk.write(&[Entry { place: late, session: Some(session(NOW + HOUR)) }], NOW).unwrap();
    assert_eq!(written, Written::default());
    assert!(disk.find(&late, NOW).unwrap().is_ok());
}

#[test]
fn an_old_bucket_closes() {
    let mut disk = load(&database(), NOW);
    let period = config().bucket_period.as_secs();
    fill(&mut disk, 0..1, NOW);
    disk.tidy(NOW + period - 1).unwrap();
    assert_eq!(disk.current(), bucket_of(NOW));
    disk.tidy(NOW + period).unwrap();
    assert_eq!(disk.current(), bucket_of(NOW + period));
}

#[test]
fn numbers_of_an_idle_store_go_on_and_the_one_left_last_is_still_taken() {
    let database = database();
    let mut disk = load(&database, NOW);
    let period = config().bucket_period.as_secs();
    let numbers: Vec<_> = (0..3)
        .map(|periods| {
            disk.tidy(NOW + periods * period).unwrap();
            disk.current()
        })
        .collect();
    assert_eq!(numbers, [0, 1, 2].map(|periods| bucket_of(NOW + periods * period)));
    assert_eq!(trees(&database), 0);
    let now = NOW + 2 * period;
    let late = |bucket| Entry { place: place(bucket, 1), session: Some(session(now + HOUR)) };
    assert_eq!(disk.write(&[late(numbers[0])], now).unwrap(), Written { bucket_gone: 1, evicted: 0 });
    assert_eq!(disk.write(&[late(numbers[1])], now).unwrap(), Written::default());
    assert!(disk.find(&place(numbers[1], 1), now).unwrap().is_ok());
}

#[test]
fn a_bucket_that_was_empty_for_a_while_is_not_open_for_longer() {
    let mut disk = load(&database(), NOW);
    let period = config().bucket_period.as_secs();
    disk.tidy(NOW + period / 2).unwrap();
    fill(&mut disk, 0..1, NOW + period / 2);
    disk.tidy(NOW + period).unwrap();
    assert_eq!(disk.current(), bucket_of(NOW + period));
}

#[test]
fn buckets_of_a_clock_that_was_ahead_are_dropped() {
    let database = database();
    fill(&mut load(&database, NOW), 0..1, NOW);
    let kept = fill(&mut load(&database, NOW + HOUR), 0..1, NOW + HOUR);
    fill(&mut load(&database, NOW + 2 * HOUR + 1), 0..1, NOW + 2 * HOUR + 1);
    assert_eq!(trees(&database), 3);
    let disk = load(&database, NOW + HOUR);
    assert_eq!((disk.current(), trees(&database)), (bucket_of(NOW + HOUR) + 1, 2));
    assert!(disk.find(&kept[0], NOW + HOUR).unwrap().is_ok());
    drop(disk);
    // Far behind, and with a number that ids were given while the clock was ahead.
    let disk = Disk::load(database.clone(), &config(), bucket_of(NOW), NOW - 2 * HOUR).unwrap();
    assert_eq!((disk.current(), trees(&database)), (bucket_of(NOW - 2 * HOUR), 0));
}

#[test]
fn the_oldest_bucket_makes_room_whole() {
    let database = database();
    let mut disk = load(&database, NOW);
    let places = fill(&mut disk, 0..1600, NOW);
    assert_eq!((disk.size().entries, trees(&database)), (1600, 16));
    fill(&mut disk, 1600..1601, NOW);
    assert_eq!((disk.size().entries, trees(&database)), (1501, 16));
    let found = places.iter().filter(|place| disk.find(place, NOW).unwrap().is_ok());
    assert_eq!(found.count(), 1500);
    assert_eq!(disk.find(places.first().unwrap(), NOW).unwrap(), Err(Miss::NotFound));
    let late = Entry { place: *places.first().unwrap(), session: Some(session(NOW + HOUR)) };
    assert_eq!(disk.write(&[late], NOW).unwrap(), Written { bucket_gone: 1, evicted: 0 });
}

#[test]
fn bytes_are_bounded_as_entries_are() {
    let config = LocalConfig { max_bytes: 160_000, ..config() };
    let mut disk = Disk::load(database(), &config, bucket_of(NOW), NOW).unwrap();
    for number in 0..1000 {
        let session = Session { value: Bytes::from(vec![7; 1000]), expires: NOW + HOUR };
        disk.write(&[Entry { place: place(disk.current(), number), session: Some(session) }], NOW).unwrap();
        assert!(disk.size().bytes <= 160_000);
    }
    assert!(disk.size().bytes > 140_000, "{:?}", disk.size());
}

#[test]
fn a_bucket_goes_when_its_last_session_is_over() {
    let database = database();
    let mut disk = load(&database, NOW);
    fill(&mut disk, 0..100, NOW);
    fill(&mut disk, 100..101, NOW + 60);
    disk.tidy(NOW + HOUR - 1).unwrap();
    assert_eq!(disk.size().entries, 101);
    disk.tidy(NOW + HOUR).unwrap();
    assert_eq!((disk.size().entries, trees(&database)), (1, 1));
    disk.tidy(NOW + HOUR + 60).unwrap();
    assert_eq!((disk.size().entries, trees(&database)), (0, 0));
}

#[test]
fn a_restart_keeps_and_counts_what_there_was_and_numbers_go_on() {
    let database = database();
    let mut disk = load(&database, NOW);
    let places = fill(&mut disk, 0..1550, NOW);
    let (size, newest) = (disk.size(), disk.current());
    drop(disk);

    // The buckets ran ahead of the clock.
    let mut disk = load(&database, NOW + 1);
    assert!(disk.current() > newest);
    assert_eq!(disk.size(), Size::default());
    // Uncounted buckets are not taken for ones that are over.
    disk.tidy(NOW + 2 * HOUR).unwrap();
    while disk.is_counting() {
        disk.recount().unwrap();
    }
    assert_eq!(disk.size(), size);
    assert!(places.iter().all(|place| disk.find(place, NOW + 2).unwrap().is_ok()));
    assert_eq!(disk.tidy(NOW + HOUR).unwrap(), 0);
    assert_eq!((disk.size().entries, trees(&database)), (0, 0));
}

#[test]
fn what_was_begun_while_the_database_opened_finds_its_place() {
    let database = database();
    let mut disk = load(&database, NOW);
    fill(&mut disk, 0..450, NOW);
    assert!(disk.current() > bucket_of(NOW + 1));
    let begun = bucket_of(NOW + 1);
    let mut disk = Disk::load(database, &config(), begun, NOW + 1).unwrap();
    let place = place(begun, 9999);
    disk.write(&[Entry { place, session: Some(session(NOW + HOUR)) }], NOW + 1).unwrap();
    assert!(disk.find(&place, NOW + 1).unwrap().is_ok());
}

#[test]
fn fewer_sessions_than_there_were_may_be_configured() {
    let database = database();
    fill(&mut load(&database, NOW), 0..1600, NOW);
    let config = LocalConfig { max_entries: 800, ..config() };
    let mut disk = Disk::load(database, &config, bucket_of(NOW + HOUR / 2), NOW).unwrap();
    while disk.is_counting() {
        disk.recount().unwrap();
    }
    assert_eq!(disk.tidy(NOW).unwrap(), 800);
    assert_eq!(disk.size().entries, 800);
}

#[test]
fn a_stored_key_tells_nothing_of_the_id() {
    let id = *b"\0\0\0\x01the rest of a session identi";
    let Place { bucket, key } = Place::of(&id);
    assert_eq!(bucket, 1);
    assert!(!id.windows(4).any(|part| key.windows(4).any(|other| other == part)));
}
