//! One round: an arena, the shadow tables that say who owns what, and the comparison when all
//! threads have stopped.
//!
//! A page's words: `OWNED` belong to who was given the page, `ANYBODYS` is written by whoever
//! likes. Host code never touches a page of the user's zone that it does not own: a user's
//! touch of a page that holds scratch is a SIGSEGV, by the specification.

use core::fmt;
use core::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use harena_abi::bpf::BPF_F_MMAPABLE;
use harena_abi::{ArenaOffset, Cpu, PageIndex, UserAddr};
use harena_arena::{
    AllocError, Arena, ArenaSpec, EntryState, FailedAllocs, Injection, Pool, ProgramScope,
    ProgramTag, SCRATCH_MAX, WINDOW_SIZE,
};

use super::worker::{Object, Worker};
use super::{Random, Settings};

pub(crate) const PAGES: u32 = 4096;
/// Pages from here on are the user's to touch; host code follows wild pointers below only.
pub(crate) const USERS: u32 = 3072;
pub(crate) const OWNED: [u32; 3] = [0, 1024, 4088];
pub(crate) const ANYBODYS: u32 = 3072;
const GRANULES: u32 = PAGES * 512;
const OPERATIONS: u32 = 4000;
const VIOLATIONS_TOLD: u64 = 20;
/// Fewer pages than the threads ask for.
const LIMIT_PAGES: u32 = 700;

/// What the arena of a round has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A user's view in this process.
    View,
    /// A byte limit.
    Limit,
    /// Page allocations that fail on purpose. Not with a view: a user's touch that fails is a
    /// SIGSEGV.
    Failures,
}

/// What happened, of one round or of all.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) rounds: u64,
    pub(crate) operations: u64,
    pub(crate) faults: u64,
    /// Page allocations that failed on purpose.
    pub(crate) failures: u64,
    pub(crate) violations: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.operations += other.operations;
        self.faults += other.faults;
        self.failures += other.failures;
        self.violations += other.violations;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rounds,
            operations,
            faults,
            failures,
            violations,
        } = self;
        write!(
            f,
            "{rounds} rounds, {operations} operations, {faults} faults recovered, \
             {failures} allocations failed on purpose, {violations} violations"
        )
    }
}

/// An arena, and what the model knows of it.
pub(crate) struct Round {
    pub(crate) settings: Settings,
    number: u64,
    pub(crate) arena: Arc<Arena>,
    /// For nested programs that use another arena.
    pub(crate) side: Arena,
    pub(crate) pool: Pool,
    /// The user's view of the arena, as an address; 0 without one.
    pub(crate) view: usize,
    /// Number of the thread that has a page, plus one; and the same for each 8 bytes that the
    /// pool or the slab allocator gave.
    pub(crate) pages: Vec<AtomicU32>,
    pub(crate) granules: Vec<AtomicU32>,
    /// Objects on their way from one thread to another.
    pub(crate) mail: Mutex<Vec<Object>>,
    violations: AtomicU64,
    told: AtomicU64,
    reports: AtomicU64,
    /// Failures on purpose that threads were told of.
    failures_seen: AtomicU64,
    /// And all of them, as the arena counts, once the threads have stopped.
    failures: AtomicU64,
}

impl Round {
    pub(crate) fn new(settings: Settings, number: u64) -> Result<Self, String> {
        let mut random = Random::new(settings.seed, number);
        let kind = match random.below(4) {
            0 | 1 => Kind::View,
            2 => Kind::Limit,
            _ => Kind::Failures,
        };
        // Its low half is not 0, lest an offset and a page agree by chance; and two soaks of one
        // process have views elsewhere.
        let (high, low) = (u64::from(random.below(4096)), u64::from(random.below(64)));
        let start = 0x3000_0000_0000 + (high << 32) + (low << 24);
        let spec = ArenaSpec {
            max_entries: PAGES,
            map_flags: BPF_F_MMAPABLE,
            map_extra: start,
            byte_limit: (kind == Kind::Limit).then_some(u64::from(LIMIT_PAGES) * 4096),
            ..ArenaSpec::default()
        };
        let arena = Arena::create(&spec).map_err(|error| format!("create: {error:?}"))?;
        let side = Arena::create(&ArenaSpec {
            max_entries: 64,
            byte_limit: None,
            ..spec
        });
        let view = if kind == Kind::View {
            arena
                .map_user()
                .map_err(|error| format!("view: {error:?}"))?
                .expose_provenance()
        } else {
            0
        };
        if kind == Kind::Failures {
            let count = NonZeroU32::MIN.saturating_add(1 + random.below(30));
            let seed = random.next();
            arena.inject(&Injection {
                allocs: FailedAllocs::OneIn { count, seed },
                ..Injection::default()
            });
        }
        let arena = Arc::new(arena);
        Ok(Self {
            settings,
            number,
            pool: Pool::new(Arc::clone(&arena)),
            arena,
            side: side.map_err(|error| format!("create: {error:?}"))?,
            view,
            pages: (0..PAGES).map(|_| AtomicU32::new(0)).collect(),
            granules: (0..GRANULES).map(|_| AtomicU32::new(0)).collect(),
            mail: Mutex::new(Vec::new()),
            violations: AtomicU64::new(0),
            told: AtomicU64::new(0),
            reports: AtomicU64::new(0),
            failures_seen: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// All threads work, all stop, all is compared.
    pub(crate) fn run(&self) -> Tally {
        let workers = std::thread::scope(|threads| {
            let spawned = (1..=self.settings.threads).map(|me| {
                let random = Random::new(self.settings.seed, self.number << 8 | u64::from(me));
                threads.spawn(move || {
                    let mut worker = Worker::new(self, me, random);
                    worker.work(OPERATIONS);
                    worker
                })
            });
            let spawned: Vec<_> = spawned.collect();
            let ends = spawned.into_iter().map(|thread| thread.join());
            ends.filter_map(|end| end.inspect_err(|_| self.violation("a panic", 0)).ok())
                .collect::<Vec<_>>()
        });
        self.compare(workers);
        Tally {
            rounds: 1,
            operations: u64::from(OPERATIONS) * u64::from(self.settings.threads),
            faults: self.arena.faults_recovered() + self.side.faults_recovered(),
            failures: self.failures.load(Ordering::Relaxed),
            violations: self.violations.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn violation(&self, what: &str, detail: u64) {
        self.violations.fetch_add(1, Ordering::Relaxed);
        if self.told.fetch_add(1, Ordering::Relaxed) < VIOLATIONS_TOLD {
            println!("violation in round {}: {what} ({detail:#x})", self.number);
        }
    }

    pub(crate) fn ensure(&self, holds: bool, what: &str, detail: u64) {
        if !holds {
            self.violation(what, detail);
        }
    }

    /// A thread was told of a failure on purpose.
    pub(crate) fn saw_failure(&self) {
        self.failures_seen.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn drain_reports(&self) {
        let drained = self.arena.drain_reports().count();
        self.reports.fetch_add(drained as u64, Ordering::Relaxed);
    }

    /// User address of a page of the window.
    pub(crate) fn user(&self, page: u32) -> UserAddr {
        UserAddr::new(self.arena.spec().map_extra + u64::from(page) * 4096)
    }

    pub(crate) fn place(&self, page: u32, byte: u32) -> ArenaOffset {
        ArenaOffset::of(self.user(page)).wrapping_add(byte)
    }

    /// Number in the window of the page that an offset lies in.
    pub(crate) fn byte_of(&self, at: ArenaOffset) -> u32 {
        at.raw().wrapping_sub(self.place(0, 0).raw())
    }

    pub(crate) fn scope(&self, me: u32) -> ProgramScope<'_> {
        let scope = ProgramScope::enter(ProgramTag::new(me), Some(&self.arena), Cpu::new(me));
        scope.expect("few threads, and few programs nested")
    }

    /// Nobody else is at work.
    fn compare(&self, workers: Vec<Worker<'_>>) {
        let _scope = self.scope(0);
        let arena = &self.arena;
        let (failures, seen) = (arena.injected_failures(), &self.failures_seen);
        let seen = seen.load(Ordering::Relaxed);
        self.ensure(seen <= failures, "failures that nobody wanted", seen);
        self.failures.store(failures, Ordering::Relaxed);
        arena.inject(&Injection::default());
        self.ensure(arena.drain_deferred().is_ok(), "drain", 0);
        self.compare_counts();
        for worker in workers {
            worker.finish();
        }
        let mail = std::mem::take(&mut *self.mail.lock().unwrap_or_else(|p| p.into_inner()));
        let mut heir = Worker::new(self, 99, Random::new(0, 0));
        mail.into_iter().for_each(|object| heir.free_object(object));
        heir.finish();
        self.ensure(
            self.pool.outstanding() == 0,
            "pool outstanding",
            self.pool.outstanding(),
        );
        let objects = arena.slab_usage().objects;
        self.ensure(objects == 0, "slab objects left", objects);
        let owned = self.pages.iter().chain(&self.granules);
        let owned = owned
            .filter(|owner| owner.load(Ordering::Relaxed) != 0)
            .count();
        self.ensure(owned == 0, "the model lost count", owned as u64);
        self.take_everything();
    }

    /// Entries, counters, reports and mappings agree.
    fn compare_counts(&self) {
        let arena = &self.arena;
        let mut in_use = 0;
        for number in 0..PAGES {
            let page = self.place(number, 0).page();
            match arena.entry_state(page) {
                EntryState::Page => in_use += 1,
                EntryState::Busy => self.violation("an entry was left busy", number.into()),
                EntryState::Empty | EntryState::Scratch => {}
            }
        }
        let counted = arena.pages_in_use();
        self.ensure(
            in_use == counted,
            "pages in use",
            u64::from(counted) << 32 | u64::from(in_use),
        );
        let scratch = arena.scratch_count();
        self.ensure(
            scratch <= SCRATCH_MAX,
            "too many scratch pages",
            scratch as u64,
        );
        self.drain_reports();
        let told = self.reports.load(Ordering::Relaxed) + arena.reports_dropped();
        let faults = arena.faults_recovered();
        self.ensure(
            told == faults,
            "reports and faults differ",
            told.abs_diff(faults),
        );
        let side = self.side.drain_reports().count() as u64 + self.side.reports_dropped();
        self.ensure(
            side == self.side.faults_recovered(),
            "reports of the other arena",
            side,
        );
        if arena.has_guard_markers() {
            let mappings = self.mapping_count();
            // Each scratch page splits one; each region that is open may border on one that
            // is not.
            let bound = 2 * SCRATCH_MAX + PAGES as usize / 512 + 8;
            self.ensure(mappings <= bound, "too many mappings", mappings as u64);
        }
    }

    /// Frees what users touched, then takes every page that is left, one by one.
    fn take_everything(&self) {
        let arena = &self.arena;
        let freed = arena.free_pages(self.user(0), PAGES);
        self.ensure(freed.is_ok(), "the last free", 0);
        let kept = arena.pages_in_use();
        let mut taken = 0;
        let end = loop {
            match arena.alloc_pages(None, 1, 0) {
                Ok(at) => {
                    let first = ArenaOffset::of(at);
                    // Nobody is left to write there: all of it must be zero.
                    let words = [OWNED[0], OWNED[1], OWNED[2], ANYBODYS];
                    let words = words.map(|byte| first.wrapping_add(byte));
                    let zero = words.map(|at| arena.ptr::<u64>(at).read()) == [0; 4];
                    self.ensure(zero, "a page is not zeroed", first.raw().into());
                    taken += 1;
                }
                Err(error) => break error,
            }
        };
        let limit = arena.spec().byte_limit.map_or(PAGES, |_| LIMIT_PAGES);
        let right = matches!(end, AllocError::NoSpace { .. } | AllocError::Limit { .. });
        self.ensure(
            right && kept + taken == limit,
            "pages were lost",
            u64::from(kept + taken),
        );
    }

    fn mapping_count(&self) -> usize {
        let start = self.arena.host_ptr(ArenaOffset::new(0)).addr() as u64;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let begins = maps.lines().filter_map(|line| line.split('-').next());
        let begins = begins.filter_map(|begin| u64::from_str_radix(begin, 16).ok());
        begins
            .filter(|begin| (start..start + WINDOW_SIZE).contains(begin))
            .count()
    }

    pub(crate) fn state(&self, page: u32) -> EntryState {
        let index: PageIndex = self.place(page, 0).page();
        self.arena.entry_state(index)
    }
}
