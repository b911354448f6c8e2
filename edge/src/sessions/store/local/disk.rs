//! The sessions in the database. They lie in buckets, one sled tree each, in the order in which they were begun: a full
//! or old bucket closes, and a bucket whose sessions are over, or that makes room, is dropped whole. sled does that many
//! times faster than removing single entries, and its files stay as large as what is in them asks for.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use super::super::{LocalConfig, Miss, SessionId, digest};

/// Into how many buckets a full database is divided, so that room is made by a sixteenth of it.
const BUCKETS: u64 = 16;
/// Entries that are counted again in one go.
const RECOUNT_STEP: usize = 512;
/// Before the value: when it expires, in seconds since 1970.
const HEADER: usize = 8;
/// How many seconds a bucket's number may be ahead of the clock, for buckets that fill up faster than one a second.
const AHEAD: u32 = 3600;
/// What a tree is named with its bucket's number in hexadecimal behind it.
const TREE: &str = "bucket-";

/// Where in the database a session is: a part of its id, and a part of its id's digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: u32,
    key: [u8; 16],
}

impl Place {
    pub(super) fn of(id: &SessionId) -> Self {
        let [a, b, c, d, ..] = *id;
        let digest = digest(id);
        let key = std::array::from_fn(|index| digest.get(index).copied().unwrap_or_default());
        Self { bucket: u32::from_be_bytes([a, b, c, d]), key }
    }
}

/// A session to write.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    /// `None` removes what is there.
    pub(super) session: Option<Session>,
}

/// A sealed session, and when it expires, in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) value: Bytes,
    pub(super) expires: u64,
}

impl Session {
    fn encode(&self) -> Vec<u8> {
        [self.expires.to_be_bytes().as_slice(), &self.value].concat()
    }

    fn decode(stored: &[u8]) -> Option<Self> {
        let (expires, value) = stored.split_first_chunk::<HEADER>()?;
        Some(Self { expires: u64::from_be_bytes(*expires), value: Bytes::copy_from_slice(value) })
    }
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) entries: u64,
    /// Of keys and what is stored under them.
    pub(super) bytes: u64,
}

impl Size {
    fn of(key: &[u8], stored: &[u8]) -> Self {
        Self { entries: 1, bytes: (key.len() + stored.len()) as u64 }
    }

    fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
    }

    // What is removed may not have been counted yet.
    fn subtract(&mut self, other: Self) {
        self.entries = self.entries.saturating_sub(other.entries);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }

    fn exceeds(self, bounds: Self) -> bool {
        self.entries > bounds.entries || self.bytes > bounds.bytes
    }
}

/// What became of entries that were to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Those whose bucket is gone.
    pub(super) bucket_gone: u64,
    /// Others that went to make room for them.
    pub(super) evicted: u64,
}

/// An open database with its buckets.
#[derive(Debug)]
pub(super) struct Disk {
    database: sled::Db,
    bounds: Size,
    period: Duration,
    buckets: BTreeMap<u32, Bucket>,
    /// The number that ids are given; its bucket is made with its first entry.
    current: u32,
    /// When the current number was first given, in seconds since 1970.
    since: u64,
    /// The number before the current one, if it has no bucket: handshakes that are under way may have it.
    left_empty: Option<u32>,
    uncounted: VecDeque<Uncounted>,
}

#[derive(Debug)]
struct Bucket {
    tree: sled::Tree,
    size: Size,
    /// When the last of its sessions is over, in seconds since 1970.
    expires: u64,
    /// Whether `size` and `expires` are of all that is in it.
    is_counted: bool,
}

impl Bucket {
    fn put(&mut self, place: &Place, session: &Session) -> sled::Result<()> {
        let stored = session.encode();
        self.expires = self.expires.max(session.expires);
        self.size.add(Size::of(&place.key, &stored));
        let before = self.tree.insert(place.key, stored)?;
        self.forget(place, before);
        Ok(())
    }

    fn remove(&mut self, place: &Place) -> sled::Result<()> {
        let before = self.tree.remove(place.key)?;
        self.forget(place, before);
        Ok(())
    }

    fn forget(&mut self, place: &Place, before: Option<sled::IVec>) {
        if let Some(stored) = before {
            self.size.subtract(Size::of(&place.key, &stored));
        }
    }
}

/// A bucket of an earlier process that was not counted to its end.
#[derive(Debug)]
struct Uncounted {
    bucket: u32,
    /// Where counting goes on.
    behind: Bound<sled::IVec>,
}

impl Disk {
    /// Finds the buckets of `database`, and drops those of a clock that was ahead: ids would be numbered behind them
    /// until the clock is there. `begun` is the number that ids were given while it was being opened.
    pub(super) fn load(database: sled::Db, config: &LocalConfig, begun: u32, now: u64) -> sled::Result<Self> {
        let bounds = Size { entries: config.max_entries, bytes: config.max_bytes };
        let period = config.bucket_period;
        let mut buckets = BTreeMap::new();
        let mut uncounted = VecDeque::new();
        let last = bucket_of(now).saturating_add(AHEAD);
        let begun = if begun > last { bucket_of(now) } else { begun };
        for bucket in database.tree_names().iter().filter_map(|name| number_of(name)) {
            if bucket > last {
                tracing::warn!(bucket, now, "sessions of a clock that was ahead dropped");
                database.drop_tree(name_of(bucket))?;
                continue;
            }
            let tree = database.open_tree(name_of(bucket))?;
            buckets.insert(bucket, Bucket { tree, size: Size::default(), expires: 0, is_counted: false });
            uncounted.push_back(Uncounted { bucket, behind: Bound::Unbounded });
        }
        let newest = buckets.keys().next_back().copied();
        let (current, since, left_empty) = (begun, now, None);
        let mut disk = Self { database, bounds, period, buckets, current, since, left_empty, uncounted };
        if newest.is_some_and(|newest| newest >= begun) {
            // The clock was set back, or buckets filled faster than one a second. What has an id already may stay.
            disk.bucket(begun, now)?;
            disk.current = newest.unwrap_or(begun).saturating_add(1);
        }
        Ok(disk)
    }

    /// The number that fresh ids begin with.
    pub(super) fn current(&self) -> u32 {
        self.current
    }

    pub(super) fn size(&self) -> Size {
        let mut size = Size::default();
        self.buckets.values().for_each(|bucket| size.add(bucket.size));
        size
    }

    pub(super) fn size_on_disk(&self) -> sled::Result<u64> {
        self.database.size_on_disk()
    }

    pub(super) fn flush(&self) -> sled::Result<()> {
        self.database.flush().map(|_| ())
    }

    pub(super) fn find(&self, place: &Place, now: u64) -> sled::Result<Result<Session, Miss>> {
        let Some(bucket) = self.buckets.get(&place.bucket) else {
            return Ok(Err(Miss::NotFound));
        };
        let session = bucket.tree.get(place.key)?.and_then(|stored| Session::decode(&stored));
        Ok(match session {
            None => Err(Miss::NotFound),
            Some(session) if session.expires <= now => Err(Miss::Expired),
            Some(session) => Ok(session),
        })
    }

    /// Whether what an earlier process left is still being counted.
    pub(super) fn is_counting(&self) -> bool {
        !self.uncounted.is_empty()
    }

    /// Writes all of it, and makes room.
    pub(super) fn write(&mut self, entries: &[Entry], now: u64) -> sled::Result<Written> {
        let mut written = Written::default();
        // One by one: a batch takes a lock of sled's that all databases of the process share, and another database that
        // failed may hold it forever. Batches are no faster.
        for Entry { place, session } in entries {
            if !self.takes(place.bucket) {
                written.bucket_gone += u64::from(session.is_some());
                continue;
            }
            let bucket = self.bucket(place.bucket, now)?;
            match session {
                Some(session) => bucket.put(place, session)?,
                None => bucket.remove(place)?,
            }
        }
        self.advance(now);
        written.evicted = self.make_room(now)?;
        Ok(written)
    }

    fn takes(&self, bucket: u32) -> bool {
        bucket == self.current || self.left_empty == Some(bucket) || self.buckets.contains_key(&bucket)
    }

    /// Drops the buckets whose time is over, and those beyond the bounds. Returns how many entries made room.
    pub(super) fn tidy(&mut self, now: u64) -> sled::Result<u64> {
        self.advance(now);
        let over = |(number, bucket): (&u32, &Bucket)| {
            (*number != self.current && bucket.is_counted && bucket.expires <= now).then_some(*number)
        };
        let over: Vec<u32> = self.buckets.iter().filter_map(over).collect();
        for number in over {
            self.drop_bucket(number)?;
        }
        self.make_room(now)
    }

    /// Counts some of what an earlier process left. Room is made when it is next tidied.
    pub(super) fn recount(&mut self) -> sled::Result<()> {
        let Some(mut uncounted) = self.uncounted.pop_front() else { return Ok(()) };
        let Some(bucket) = self.buckets.get_mut(&uncounted.bucket) else { return Ok(()) };
        let mut counted = 0;
        for entry in bucket.tree.range((uncounted.behind.clone(), Bound::Unbounded)).take(RECOUNT_STEP) {
            let (key, stored) = entry?;
            bucket.size.add(Size::of(&key, &stored));
            let expires = Session::decode(&stored).map_or(0, |session| session.expires);
            bucket.expires = bucket.expires.max(expires);
            uncounted.behind = Bound::Excluded(key);
            counted += 1;
        }
        if counted == RECOUNT_STEP {
            self.uncounted.push_front(uncounted);
        } else {
            bucket.is_counted = true;
        }
        Ok(())
    }

    fn bucket(&mut self, number: u32, now: u64) -> sled::Result<&mut Bucket> {
        use std::collections::btree_map::Entry;
        match self.buckets.entry(number) {
            Entry::Occupied(bucket) => Ok(bucket.into_mut()),
            Entry::Vacant(place) => {
                let tree = self.database.open_tree(name_of(number))?;
                let expires = now.saturating_add(self.period.as_secs());
                Ok(place.insert(Bucket { tree, size: Size::default(), expires, is_counted: true }))
            }
        }
    }

    /// Gives ids the next number when the current bucket is full or old, also if it is empty. Numbers follow the clock,
    /// so that an edge that starts knows one before its database is open, and ids of an idle edge are not taken for old.
    fn advance(&mut self, now: u64) {
        let Size { entries, bytes } = self.bounds;
        let is_full = self
            .buckets
            .get(&self.current)
            .is_some_and(|bucket| bucket.size.entries >= entries / BUCKETS || bucket.size.bytes >= bytes / BUCKETS);
        if is_full || now.saturating_sub(self.since) >= self.period.as_secs() {
            self.leave_current(now);
        }
    }

    fn leave_current(&mut self, now: u64) {
        self.left_empty = (!self.buckets.contains_key(&self.current)).then_some(self.current);
        self.current = bucket_of(now).max(self.current.saturating_add(1));
        self.since = now;
    }

    /// Drops the oldest buckets until what is left is within bounds. Returns how many entries went.
    fn make_room(&mut self, now: u64) -> sled::Result<u64> {
        let mut evicted = 0;
        while self.size().exceeds(self.bounds) {
            let Some((&oldest, _)) = self.buckets.first_key_value() else { break };
            if oldest == self.current {
                self.leave_current(now);
            }
            evicted += self.drop_bucket(oldest)?;
        }
        Ok(evicted)
    }

    fn drop_bucket(&mut self, number: u32) -> sled::Result<u64> {
        let Some(bucket) = self.buckets.remove(&number) else { return Ok(0) };
        drop(bucket.tree);
        self.database.drop_tree(name_of(number))?;
        Ok(bucket.size.entries)
    }
}

/// The bucket number that the clock gives.
pub(super) fn bucket_of(now: u64) -> u32 {
    u32::try_from(now).unwrap_or(u32::MAX)
}

fn name_of(bucket: u32) -> String {
    format!("{TREE}{bucket:08x}")
}

fn number_of(name: &[u8]) -> Option<u32> {
    let number = std::str::from_utf8(name).ok()?.strip_prefix(TREE)?;
    u32::from_str_radix(number, 16).ok()
}

#[cfg(test)]
mod tests;
