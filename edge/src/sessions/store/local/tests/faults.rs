use super::*;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write as _};

/// Sessions whose ids a child tells its test.
const TOLD: usize = 100;
const IDS: &str = "ids";

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

#[test]
#[ignore = "the child of another test"]
fn writes_until_it_is_killed() {
    let Some(directory) = child::directory() else { return };
    let store = opened(&directory);
    assert_eq!(store.telemetry.rebuilt.get(), 0);
    let told: Vec<u8> = (0..TOLD).flat_map(|_| keep_one(&store)).collect();
    fs::write(directory.join(IDS), told).unwrap();
    loop {
        if store.writes.is_full() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let id = keep_one(&store);
        if id[31] < 16 {
            store.forget(&id);
        }
        assert_eq!(store.notices.standing(), Standing::Open);
    }
}

#[test]
fn a_kill_at_any_moment_loses_sessions_at_most() {
    let directory = tempfile::tempdir().unwrap();
    let start = || child::Running::start(child::command("faults::writes_until_it_is_killed", directory.path()));
    for round in 0..24_u64 {
        let mut writer = start();
        // While it starts, opens, and writes.
        std::thread::sleep(Duration::from_millis(10 + round * 25 + u64::from(rand::random::<u8>()) / 4));
        assert!(writer.runs(), "round {round}: it ended by itself");
        writer.kill();
    }
    let _ = fs::remove_file(directory.path().join(IDS));
    let mut writer = start();
    wait_until("the last one writes", || directory.path().join(IDS).exists());
    // Longer than until the next flush.
    std::thread::sleep(FLUSH * 3);
    assert!(writer.runs());
    writer.kill();

    let store = opened(directory.path());
    assert_eq!(store.telemetry.rebuilt.get(), 0);
    let told = fs::read(directory.path().join(IDS)).unwrap();
    assert_eq!(told.len(), TOLD * 32);
    for id in told.chunks_exact(32) {
        let id = id.try_into().unwrap();
        assert_eq!(block_on(store.find(&id)), Ok(value_of(&id)));
    }
}

/// A database with some thousand sessions, closed.
fn database() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    for _ in 0..4000 {
        keep_one(&store);
    }
    assert!(store.close(Duration::from_secs(30)));
    directory
}

fn damage(file: &Path, place: f64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(file).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start((length as f64 * place) as u64)).unwrap();
    file.write_all(bytes).unwrap();
}

fn truncate(file: &Path, part: f64) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len((length as f64 * part) as u64).unwrap();
}

/// A store on what is there opens, keeps and finds.
fn works(directory: &Path, what: &str) {
    let store = start(directory);
    wait_until(what, || store.notices.standing() == Standing::Open);
    let id = keep_one(&store);
    assert!(store.close(Duration::from_secs(30)), "{what}");
    let store = opened(directory);
    assert_eq!(block_on(store.find(&id)), Ok(value_of(&id)), "{what}");
}

#[test]
fn damaged_and_truncated_files_cost_sessions_at_most() {
    let good = database();
    for (number, name) in files(good.path()).into_iter().enumerate() {
        for step in 0..4 {
            let place = f64::from(step) / 4.0 + 0.01;
            for is_cut in [true, false] {
                let directory = tempfile::tempdir().unwrap();
                fs::create_dir(directory.path().join(DATABASE)).unwrap();
                for file in files(good.path()) {
                    let copy = directory.path().join(DATABASE).join(file.file_name().unwrap());
                    fs::copy(file, copy).unwrap();
                }
                let file = files(directory.path()).remove(number);
                assert_eq!(file.file_name(), name.file_name());
                if is_cut {
                    truncate(&file, place);
                } else {
                    damage(&file, place, &[0xff; 200]);
                }
                works(directory.path(), &format!("{}, cut: {is_cut}, at {place}", file.display()));
            }
        }
    }
}

#[test]
fn files_of_something_else_are_set_aside() {
    let directory = database();
    files(directory.path()).iter().for_each(|file| fs::write(file, b"not what sled wrote").unwrap());
    let store = opened(directory.path());
    assert_eq!(store.telemetry.rebuilt.get(), 1);
    let id = keep_one(&store);
    assert_eq!(block_on(store.find(&id)), Ok(value_of(&id)));
}

#[test]
fn files_that_vanish_while_they_are_in_use_cost_sessions_at_most() {
    let directory = tempfile::tempdir().unwrap();
    // Little memory, so that lookups reach the files.
    let config = LocalConfig { memory_bytes: 1 << 20, ..patient() };
    let store = start_with(directory.path(), config);
    wait_until("the database is open", || store.notices.standing() == Standing::Open);
    let keep = || {
        wait_until("room in the queue", || !store.writes.is_full());
        keep_one(&store)
    };
    let ids: Vec<_> = (0..100_000).map(|_| keep()).collect();
    wait_until("all is written", || store.writes.is_empty());
    files(directory.path()).iter().for_each(|file| drop(File::create(file).unwrap()));
    let answers: Vec<_> = ids.iter().step_by(97).map(|id| block_on(store.find(id))).collect();
    assert!(answers.iter().any(Result::is_err));
    wait_until("a database works", || {
        let id = keep_one(&store);
        block_on(store.find(&id)) == Ok(value_of(&id)) && store.notices.standing() == Standing::Open
    });
    assert!(store.telemetry.rebuilt.get() >= 1);
    assert!(store.telemetry.failed_writes(Store::Local) >= 1);
}

#[test]
#[ignore = "the child of another test"]
fn goes_on_in_memory_where_it_may_not_write() {
    let Some(directory) = child::directory() else { return };
    assert!(File::create(directory.join("probe")).is_err(), "the directory is to be read-only");
    let store = start(&directory);
    wait_until("it finds no place", || store.notices.standing() == Standing::Unavailable);
    let id = keep_one(&store);
    assert_eq!(block_on(store.find(&id)), Ok(value_of(&id)));
    assert_eq!(block_on(store.find(&[1; 32])), Err(Miss::StoreUnavailable));
    wait_until("it says what it dropped", || store.telemetry.drops(Store::Local, Dropped::Unavailable) == 1);
    assert_eq!(store.telemetry.rebuilt.get(), 0);
}

#[test]
fn a_read_only_directory_leaves_memory() {
    for directory in [tempfile::tempdir().unwrap(), database()] {
        let script = "mount --bind \"$1\" \"$1\"; mount -o remount,ro,bind \"$1\"";
        let role = "faults::goes_on_in_memory_where_it_may_not_write";
        let command = child::mounting(script, role, directory.path()).unwrap_or_else(|| {
            assert!(!rustix::process::geteuid().is_root(), "root that may not mount writes everywhere");
            let everything = "chmod -R a-w \"$1\"; trap 'chmod -R u+w \"$1\"' EXIT";
            child::limited(everything, role, directory.path())
        });
        child::succeed(command);
        // It was read-only, and nothing else was wrong with it.
        works(directory.path(), "writable again");
    }
}

const FILLER: &str = "filler";

#[test]
#[ignore = "the child of another test"]
fn goes_on_in_memory_until_there_is_room() {
    let Some(directory) = child::directory() else { return };
    let store = opened(&directory);
    let filler = directory.join(FILLER);
    let is_room_to_make = filler.exists();
    wait_until("the disk is full", || {
        let id = store.fresh_id(&mut rand::rng());
        store.keep(id, Bytes::from(vec![7; LONGEST_VALUE]), LIVES);
        assert!(block_on(store.find(&id)).is_ok());
        store.telemetry.failed_writes(Store::Local) > 0
    });
    wait_until("it works without", || store.notices.standing() == Standing::Unavailable);
    let id = keep_one(&store);
    assert_eq!(block_on(store.find(&id)), Ok(value_of(&id)));
    if !is_room_to_make {
        return;
    }
    fs::remove_file(filler).unwrap();
    // With pauses in between, for as long as it fails.
    wait_at_most(Duration::from_secs(60), "the database works again", || {
        keep_one(&store);
        store.notices.standing() == Standing::Open && store.telemetry.entries.get() > 0
    });
    let id = keep_one(&store);
    assert!(store.close(Duration::from_secs(30)));
    assert_eq!(block_on(opened(&directory).find(&id)), Ok(value_of(&id)));
}

#[test]
fn a_full_disk_leaves_memory_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let role = "faults::goes_on_in_memory_until_there_is_room";
    let script = format!(
        "mount -t tmpfs -o size=24m none \"$1\"; dd if=/dev/zero of=\"$1/{FILLER}\" bs=1M count=12 2>/dev/null"
    );
    let mounted = child::mounting(&script, role, directory.path());
    // Without the right to mount, a limit on each file. It does not go away.
    let limit = "trap '' XFSZ; ulimit -f 16384";
    child::succeed(mounted.unwrap_or_else(|| child::limited(limit, role, directory.path())));
}

#[test]
fn a_limit_on_files_leaves_memory() {
    let directory = tempfile::tempdir().unwrap();
    let role = "faults::goes_on_in_memory_until_there_is_room";
    child::succeed(child::limited("trap '' XFSZ; ulimit -f 16384", role, directory.path()));
}
