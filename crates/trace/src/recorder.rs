//! Where records go: digest, counts, and a sink if there is one.
//!
//! The digest hashes a stream of items: the schema version, then records, and between them
//! texts (task names, exit messages). A text begins with a header of a record's size that
//! says how long it is, so that no two different streams hash the same bytes.

use std::fmt;

use harena_abi::Tid;
use twox_hash::xxhash3_128::Hasher;

use crate::record::{RECORD_SIZE, Record, SCHEMA_VERSION, What};
use crate::sink::Sink;

/// Bytes hashed at once: 64 records.
const BATCH_SIZE: usize = 64 * RECORD_SIZE;

/// Place of the byte that is zero in a record and tells what other items are.
const ITEM_AT: usize = 14;
const ITEM_TASK: u8 = 1;
const ITEM_TEXT: u8 = 2;

/// XXH3-128 over a whole run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// How many records of each kind were seen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    by_kind: [u64; What::KINDS],
}

impl Counts {
    /// All records.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_kind.iter().sum()
    }

    /// Name and count of each kind.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        What::NAMES.into_iter().zip(self.by_kind.iter().copied())
    }
}

/// Takes every record of one run.
pub struct Recorder {
    hasher: Hasher,
    batch: Box<[u8; BATCH_SIZE]>,
    batched: usize,
    counts: Counts,
    sink: Option<Box<dyn Sink + Send>>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("counts", &self.counts)
            .field("sink", &self.sink.is_some())
            .finish_non_exhaustive()
    }
}

impl Recorder {
    /// A recorder that also passes everything on to `sink`.
    #[must_use]
    pub fn new(sink: Option<Box<dyn Sink + Send>>) -> Self {
        let mut hasher = Hasher::new();
        hasher.write(&SCHEMA_VERSION.to_le_bytes());
        Self {
            hasher,
            batch: Box::new([0; BATCH_SIZE]),
            batched: 0,
            counts: Counts::default(),
            sink,
        }
    }

    /// Names a task; comes before the first record that mentions it.
    pub fn task(&mut self, task: Tid, comm: &str, group: &str) {
        self.hash_text(ITEM_TASK, task.raw(), comm);
        self.hash_text(ITEM_TASK, task.raw(), group);
        if let Some(sink) = &mut self.sink {
            sink.task(task, comm, group);
        }
    }

    /// A text that belongs to the record before it, such as an exit message.
    pub fn text(&mut self, text: &str) {
        self.hash_text(ITEM_TEXT, 0, text);
        if let Some(sink) = &mut self.sink {
            sink.text(text);
        }
    }

    /// Takes one record.
    pub fn record(&mut self, record: &Record) {
        self.counts.by_kind[usize::from(record.what.kind())] += 1;
        self.batch[self.batched..][..RECORD_SIZE].copy_from_slice(&record.encode());
        self.batched += RECORD_SIZE;
        if self.batched == BATCH_SIZE {
            self.flush();
        }
        if let Some(sink) = &mut self.sink {
            sink.record(record);
        }
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The digest over everything so far.
    #[must_use]
    pub fn digest(&mut self) -> Digest {
        self.flush();
        Digest(self.hasher.finish_128())
    }

    /// Gives the sink back.
    pub fn take_sink(&mut self) -> Option<Box<dyn Sink + Send>> {
        self.sink.take()
    }

    fn flush(&mut self) {
        self.hasher.write(&self.batch[..self.batched]);
        self.batched = 0;
    }

    fn hash_text(&mut self, item: u8, task: u32, text: &str) {
        self.flush();
        let mut header = [0; RECORD_SIZE];
        header[ITEM_AT] = item;
        header[16..20].copy_from_slice(&task.to_le_bytes());
        header[24..32].copy_from_slice(&(text.len() as u64).to_le_bytes());
        self.hasher.write(&header);
        self.hasher.write(text.as_bytes());
    }
}

/// A 64-bit hash of `bytes` by the digest's algorithm, to derive seeds from names.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half of XXH3-128 is a good 64-bit hash"
)]
pub fn hash(bytes: &[u8]) -> u64 {
    Hasher::oneshot(bytes) as u64
}

#[cfg(test)]
mod tests {
    use harena_abi::{Cpu, SimTime};

    use super::*;
    use crate::sink::MemorySink;

    fn tick(ns: u64) -> Record {
        Record {
            time: SimTime::from_ns(ns),
            cpu: Cpu::new(0),
            what: What::Tick,
        }
    }

    #[test]
    fn the_digest_depends_on_content_and_order_but_not_on_sink_or_reading() {
        let digest = |records: &[u64], peek: bool, sink: bool| {
            let sink: Option<Box<dyn Sink + Send>> =
                sink.then(|| Box::new(MemorySink::default()) as Box<dyn Sink + Send>);
            let mut r = Recorder::new(sink);
            for &ns in records {
                r.record(&tick(ns));
                if peek {
                    let _seen = r.digest();
                }
            }
            r.digest()
        };
        let many: Vec<u64> = (0..200).collect();
        assert_eq!(digest(&many, false, false), digest(&many, true, true));
        assert_ne!(digest(&[1, 2], false, false), digest(&[2, 1], false, false));
        assert_ne!(digest(&[1], false, false), digest(&[1, 1], false, false));
    }

    #[test]
    fn names_and_texts_are_part_of_the_digest() {
        let digest = |comm: &str, group: &str, text: &str| {
            let mut r = Recorder::new(None);
            r.task(Tid::new(1), comm, group);
            r.text(text);
            r.digest()
        };
        assert_ne!(digest("ab", "c", "x"), digest("a", "bc", "x"));
        assert_ne!(digest("a", "b", "x"), digest("a", "b", "y"));
    }

    #[test]
    fn the_hash_is_xxh3_128_of_the_documented_stream() {
        let mut r = Recorder::new(None);
        r.record(&tick(7));
        let mut stream = SCHEMA_VERSION.to_le_bytes().to_vec();
        stream.extend_from_slice(&tick(7).encode());
        assert_eq!(r.digest(), Digest(Hasher::oneshot(&stream)));
    }
}
