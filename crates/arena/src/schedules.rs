//! Goal: in schedules of eight threads, allocation, frees, faults and users' touches keep entry
//! and mapping in step, lose no page, and give none out twice.
//!
//! Method: shuttle, random and PCT, over the model of `sys/model.rs`, which panics on every
//! illegal change of a mapping. A load or store that meets a hidden page calls what the signal
//! handler calls, and runs again. Run with
//! `RUSTFLAGS="--cfg shuttle" cargo test --release --package harena-arena --lib schedules`.
//! A failure prints the seed of its schedule; with it in `SHUTTLE_RANDOM_SEED` the first
//! schedule is the failing one. What this does not show: weak memory (all atomics are `SeqCst`
//! here; see the loom models), and that Linux does what the model does (see the soak).

use harena_abi::bpf::BPF_F_MMAPABLE;
use harena_abi::{ArenaOffset, Cpu, PageIndex, UserAddr};
use harena_arena_fault::{Access, EntryState, PageRange, ProgramTag};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, Runner, thread};

use crate::alloc::AllocError;
use crate::arena::Arena;
use crate::scope::ProgramScope;
use crate::shared::{REPORTS_MAX, SCRATCH_MAX};
use crate::spec::ArenaSpec;
use crate::sync::{Arc, AtomicBool, AtomicU32, Ordering};
use crate::sys::{HAS_GUARD_MARKERS, Seen, access};

const THREADS: u32 = 8;
/// Two regions and a half (of four pages, in a model).
const PAGES: u32 = 10;
const START: u64 = 0x1000_0000_0000;
const SEED: u64 = 0x5eed_a4e4_a000_0003;
const SCHEDULES: usize = 3000;
/// Words of a page: one that only its owner writes, and one that anybody does.
const OWNED: usize = 0;
const ANYBODYS: usize = 2048;

/// An arena, and what a sequential mind knows of it.
struct Watched {
    arena: Arena,
    user: bool,
    /// Number of the thread that a page was given to, plus one.
    owners: Vec<AtomicU32>,
    /// Whether a user touched a page, which may have allocated it.
    touched: Vec<AtomicBool>,
}

impl Watched {
    fn new(byte_limit: Option<u64>) -> Arc<Self> {
        let arena = arena(byte_limit);
        let user = thread_rng().gen_bool(0.5);
        if user {
            arena.map_user().expect("the model has room for a view");
        }
        let owners = (0..PAGES).map(|_| AtomicU32::new(0)).collect();
        let touched = (0..PAGES).map(|_| AtomicBool::new(false)).collect();
        Arc::new(Self {
            arena,
            user,
            owners,
            touched,
        })
    }

    /// Host code on this thread touches a word; it must be in a scope.
    fn host<R>(&self, page: u32, byte: usize, how: Access, touch: impl Fn(&mut u64) -> R) -> R {
        let shared = &self.arena.shared;
        let in_window = page as usize * 4096 + byte;
        let address = shared.host_start().addr() + in_window;
        let place = (shared.window_offset() + in_window, address);
        access(shared.reservation.range(), place, how, touch).expect("a host never crashes")
    }

    fn write(&self, page: u32, byte: usize, value: u64) {
        self.host(page, byte, Access::Write, |word| *word = value);
    }

    fn read(&self, page: u32, byte: usize) -> u64 {
        self.host(page, byte, Access::Read, |word| *word)
    }

    /// The user's thread touches a word; `None` is its SIGSEGV.
    fn user(&self, page: u32, byte: usize) -> Option<u64> {
        self.touched[page as usize].store(true, Ordering::Relaxed);
        if !self.user {
            return self.arena.touch_user(user(page)).ok().map(|()| 0);
        }
        let view = self.arena.shared.user.get()?;
        let (range, offset) = view.place(index(page));
        let address = usize::try_from(user(page).raw()).expect("64 bits") + byte;
        access(range, (offset + byte, address), Access::Read, |word| *word)
    }

    fn random_host_write(&self) {
        // The page behind the window has an entry, but no page.
        let page = thread_rng().gen_range(0..=PAGES);
        self.write(page, ANYBODYS, u64::MAX);
    }

    /// Pages came to this thread: nobody else has them, and nobody has used them.
    fn own(&self, me: u32, first: u32, count: u32) {
        for page in first..first + count {
            let owner = self.owners[page as usize].swap(me, Ordering::Relaxed);
            assert_eq!(owner, 0, "page {page} was handed to {me} too");
            assert_eq!(
                self.read(page, OWNED),
                0,
                "page {page} is zeroed, and not scratch"
            );
            self.write(page, OWNED, u64::from(me));
        }
    }

    fn disown(&self, me: u32, first: u32, count: u32) {
        for page in first..first + count {
            assert_eq!(
                self.read(page, OWNED),
                u64::from(me),
                "page {page} is {me}'s alone"
            );
            let owner = self.owners[page as usize].swap(0, Ordering::Relaxed);
            assert_eq!(owner, me);
        }
    }

    /// All threads are gone: the arena as a whole.
    fn check(&self) {
        self.arena.drain_deferred().expect("nobody holds the lock");
        let shared = &self.arena.shared;
        let (mut in_use, mut scratch) = (0, 0);
        let placed = shared.placed.get().expect("it has a window");
        for number in 0..PAGES {
            let page = index(number);
            let state = shared.entry(page.into()).state();
            let (range, offset) = placed.host.place(page);
            let seen = range.seen(offset);
            match state {
                EntryState::Busy => panic!("page {number} was left busy"),
                EntryState::Empty => assert_eq!(seen, Seen::Hidden, "page {number}"),
                EntryState::Page => assert_eq!(seen, Seen::Page, "page {number}"),
                // A marker may hide it until its next touch.
                EntryState::Scratch => assert_ne!(seen, Seen::Page, "page {number}"),
            }
            if let Some(view) = shared.user.get() {
                let (range, offset) = view.place(page);
                let shown = range.seen(offset) == Seen::Page;
                assert_eq!(shown, state == EntryState::Page, "the user's page {number}");
            }
            in_use += u32::from(state == EntryState::Page);
            scratch += usize::from(state == EntryState::Scratch);
        }
        assert_eq!(self.arena.pages_in_use(), in_use);
        assert!(scratch <= SCRATCH_MAX, "{scratch} pages hold scratch");
        let reports = self.arena.drain_reports().count();
        assert!(reports <= REPORTS_MAX);
        let told = reports as u64 + self.arena.reports_dropped();
        assert_eq!(
            told,
            self.arena.faults_recovered(),
            "each fault is told or counted"
        );
        self.check_all_pages();
    }

    /// Everything can be freed, and all that the limit allows allocated at once wherever it
    /// fits, and is zeroed.
    fn check_all_pages(&self) {
        self.free_all();
        let most = self.arena.spec().page_limit();
        let _scope = self.scope(0);
        for first in (0..PAGES).step_by(most as usize) {
            let first = first.min(PAGES - most);
            let given = self.arena.alloc_pages(Some(user(first)), most, 0);
            assert_eq!(given, Ok(user(first)), "no page is lost");
            let given = first..first + most;
            assert!(given.clone().all(|page| self.read(page, OWNED) == 0));
            assert!(given.clone().all(|page| self.read(page, ANYBODYS) == 0));
            let more = self.arena.alloc_pages(None, 1, 0);
            let refused = if most < PAGES {
                AllocError::Limit { page_cnt: 1 }
            } else {
                AllocError::NoSpace { page_cnt: 1 }
            };
            assert_eq!(more, Err(refused), "{most} pages are in use");
            self.free_all();
        }
    }

    fn free_all(&self) {
        let freed = self.arena.free_pages(user(0), PAGES);
        freed.expect("nobody holds the lock");
        assert_eq!(self.arena.pages_in_use(), 0);
    }

    /// Owners are gone, and have freed all that they had: only users have pages.
    fn check_owners_left_nothing(&self) {
        self.arena.drain_deferred().expect("nobody holds the lock");
        for page in 0..PAGES {
            let used = self.arena.entry_state(index(page)) == EntryState::Page;
            let touched = self.touched[page as usize].load(Ordering::Relaxed);
            assert!(touched || !used, "page {page} was left by its owner");
        }
    }

    fn scope(&self, me: u32) -> ProgramScope<'_> {
        let tag = ProgramTag::new(me);
        ProgramScope::enter(tag, Some(&self.arena), Cpu::new(me)).expect("there is room")
    }
}

fn arena(byte_limit: Option<u64>) -> Arena {
    let arena = Arena::create(&ArenaSpec {
        max_entries: PAGES,
        map_flags: BPF_F_MMAPABLE,
        map_extra: START,
        byte_limit,
        ..ArenaSpec::default()
    });
    arena.expect("a valid arena")
}

fn index(page: u32) -> PageIndex {
    PageIndex::new(page).expect("in the window")
}

fn user(page: u32) -> UserAddr {
    UserAddr::new(START + u64::from(page) * 4096)
}

fn page_of(address: UserAddr) -> u32 {
    ArenaOffset::of(address).page().raw()
}

/// Runs `each` on eight threads over one arena.
fn together(byte_limit: Option<u64>, each: fn(&Watched, u32)) -> Arc<Watched> {
    let watched = Watched::new(byte_limit);
    let threads = (1..=THREADS).map(|me| {
        let watched = Arc::clone(&watched);
        thread::spawn(move || {
            let _scope = watched.scope(me);
            each(&watched, me);
        })
    });
    let threads: Vec<_> = threads.collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    watched
}

fn owners_together(byte_limit: Option<u64>) {
    let watched = together(byte_limit, owners);
    watched.check_owners_left_nothing();
    watched.check();
}

/// What a well-behaved program does: it uses what it was given, and frees that. Around it hosts
/// follow wild pointers, and users touch.
fn owners(watched: &Watched, me: u32) {
    for _ in 0..3 {
        let count = thread_rng().gen_range(1..=3);
        let at = thread_rng().gen_range(0..PAGES);
        let arena = &watched.arena;
        let (count, given) = match thread_rng().gen_range(0..7) {
            0 | 1 => (count, arena.alloc_pages(None, count, 0)),
            2 => (count, arena.alloc_pages_non_sleepable(None, count, 0)),
            3 => (1, arena.alloc_pages(Some(user(at)), 1, 0)),
            4 => {
                let given = arena.alloc_pages_traced(Some(user(at)), 1, || {
                    // A second program on this thread, under the lock, touches that very page.
                    let _inner = watched.scope(me + 100);
                    watched.write(at, ANYBODYS, u64::MAX);
                });
                (1, given)
            }
            5 => {
                let _ = watched.user(at, ANYBODYS);
                continue;
            }
            _ => {
                watched.random_host_write();
                continue;
            }
        };
        let Ok(given) = given else { continue };
        let first = page_of(given);
        watched.own(me, first, count);
        watched.random_host_write();
        watched.disown(me, first, count);
        if thread_rng().gen_bool(0.5) {
            watched
                .arena
                .free_pages(given, count)
                .expect("the lock is free soon");
        } else {
            watched.arena.free_pages_deferred(given, count);
        }
    }
}

/// What a hostile program does: it frees what is not its own, and all at once.
fn vandals(watched: &Watched, _me: u32) {
    let arena = &watched.arena;
    for _ in 0..4 {
        let count = thread_rng().gen_range(1..=PAGES);
        let at = thread_rng().gen_range(0..PAGES);
        match thread_rng().gen_range(0..8) {
            0 => drop(arena.alloc_pages(None, count, 0)),
            1 => drop(arena.alloc_pages(Some(user(at)), 1, 0)),
            2 => arena
                .free_pages(user(at), count)
                .expect("the lock is free soon"),
            3 => arena.free_pages_deferred(user(at), count),
            4 => drop(arena.reserve_pages(user(at), count)),
            5 => drop(watched.user(at, ANYBODYS)),
            _ => watched.random_host_write(),
        }
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config.silence_warnings = true;
    // The registry is built on a thread's stack.
    config.stack_size = 1 << 18;
    config
}

/// Markers or protection, by turns.
fn under_both_schemes(name: &str, check: fn()) {
    println!("{name}: seed {SEED:#x}, {SCHEDULES} schedules, four times");
    for markers in [true, false] {
        let run = move || {
            HAS_GUARD_MARKERS.set(markers);
            check();
        };
        Runner::new(RandomScheduler::new_from_seed(SEED, SCHEDULES), config()).run(run);
        Runner::new(PctScheduler::new_from_seed(SEED, 5, SCHEDULES), config()).run(run);
    }
}

#[test]
fn pages_have_one_owner_whatever_faults_around_them() {
    under_both_schemes("owners", || owners_together(None));
}

#[test]
fn pages_have_one_owner_at_the_limit() {
    under_both_schemes("owners at the limit", || owners_together(Some(4 * 4096)));
}

#[test]
fn wild_frees_leave_entries_and_mappings_in_step() {
    under_both_schemes("vandals", || together(None, vandals).check());
}

/// The canary: an allocator that looks and then stores, as the review's race has it.
fn blind_allocator() {
    HAS_GUARD_MARKERS.set(true);
    let watched = Watched::new(None);
    // Opens the region.
    watched
        .arena
        .alloc_pages(Some(user(0)), 1, 0)
        .expect("pages are free");
    let other = Arc::clone(&watched);
    let faulting = thread::spawn(move || {
        let _scope = other.scope(1);
        other.write(1, ANYBODYS, 1);
    });
    let shared = &watched.arena.shared;
    let placed = shared.placed.get().expect("it has a window");
    if shared.entry(index(1).into()).state() == EntryState::Empty {
        // Not claimed: a fault may install scratch between the look and this.
        let shown = placed.host.expose(PageRange::from(index(1)));
        shown.expect("the model has mappings enough");
    }
    faulting.join().expect("no panic");
}

#[test]
#[should_panic(expected = "page 9: ")]
fn canary_an_allocator_that_stores_blindly_is_caught() {
    let scheduler = RandomScheduler::new_from_seed(SEED, 1000);
    Runner::new(scheduler, config()).run(blind_allocator);
}

#[test]
fn a_failing_seed_fails_again() {
    let panic_of = |seed| {
        let mut config = config();
        config.failure_persistence = FailurePersistence::None;
        let run = move || {
            Runner::new(RandomScheduler::new_from_seed(seed, 1), config).run(blind_allocator);
        };
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).err()?;
        panic.downcast_ref::<String>().cloned()
    };
    let seeds = (0..1000).find_map(|seed| Some((seed, panic_of(seed)?)));
    let (seed, message) = seeds.expect("the canary fails in some schedule");
    println!("seed {seed}: {message}");
    for _ in 0..3 {
        assert_eq!(panic_of(seed).as_ref(), Some(&message));
    }
}
