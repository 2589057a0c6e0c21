//! One thread of the soak: operations at random, each checked against what the thread knows.

mod copies;

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use harena_abi::bpf::BPF_F_MMAPABLE;
use harena_abi::{ArenaOffset, Cpu, UserAddr};
use harena_arena::{
    AllocError, Arena, ArenaSpec, EntryState, LockError, ProgramScope, ProgramTag, SlabFreeError,
};

use super::round::{ANYBODYS, OWNED, PAGES, Round, USERS};
use super::{Hosts, Random};

const HELD_MAX: usize = 40;

/// Pages that this thread was given.
struct Pages {
    first: u32,
    count: u32,
    stamp: u64,
    /// Whether there is memory behind them.
    filled: bool,
}

/// Memory of the pool or of the slab allocator.
#[derive(Clone, Copy)]
pub(crate) struct Object {
    at: ArenaOffset,
    size: u32,
    stamp: u64,
    owner: u32,
    pool: bool,
}

pub(crate) struct Worker<'a> {
    round: &'a Round,
    me: u32,
    random: Random,
    pages: Vec<Pages>,
    objects: Vec<Object>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(round: &'a Round, me: u32, random: Random) -> Self {
        let (pages, objects) = (Vec::new(), Vec::new());
        Self {
            round,
            me,
            random,
            pages,
            objects,
        }
    }

    pub(crate) fn work(&mut self, operations: u32) {
        let _scope = self.round.scope(self.me);
        for _ in 0..operations {
            match self.random.below(33) {
                0..6 => self.alloc_pages(),
                6..10 => self.free_some_pages(),
                10..14 => self.wild(),
                14..16 => self.user_touch(),
                16 => self.reserve(),
                17 => self.drain(),
                18 => self.nested(),
                19 => self.alloc_traced(),
                20..24 => self.alloc_object(),
                24..27 => self.free_some_object(),
                27 => self.bad_free(),
                28 => self.mail(),
                29 => self.check_some(),
                30 => self.wild_free(),
                31 => self.copies(),
                _ => self.short_lived_arena(),
            }
        }
    }

    /// Gives everything back.
    pub(crate) fn finish(mut self) {
        while let Some(pages) = self.pages.pop() {
            self.free_pages(pages);
        }
        while let Some(object) = self.objects.pop() {
            self.free_object(object);
        }
    }

    // ---- pages ---------------------------------------------------------------------------

    fn alloc_pages(&mut self) {
        let arena = &self.round.arena;
        let count = 1 + self.random.below(8) * self.random.below(8) / 4;
        let given = match self.random.below(3) {
            0 => arena.alloc_pages(None, count, 0),
            1 => arena.alloc_pages_non_sleepable(None, count, 0),
            _ => {
                let at = self.round.user(self.random.below(PAGES));
                arena.alloc_pages(Some(at), count, 0)
            }
        };
        self.take(given, count);
    }

    fn alloc_traced(&mut self) {
        let round = self.round;
        let at = self.random.below(USERS);
        let given = round.arena.alloc_pages_traced(Some(round.user(at)), 1, || {
            // A second program, under the lock, gets a pointer to that very page.
            let _inner = round.scope(self.me);
            let word = round.arena.ptr::<u64>(round.place(at, ANYBODYS));
            word.write(self.me.into());
            let again = round.arena.alloc_pages(None, 1, 0);
            let refused = match again {
                Err(AllocError::Injected { .. }) => {
                    round.saw_failure();
                    true
                }
                other => other == Err(AllocError::Lock(LockError::Reentered)),
            };
            round.ensure(refused, "the lock let its owner in again", at.into());
        });
        self.take(given, 1);
    }

    fn take(&mut self, given: Result<UserAddr, AllocError>, count: u32) {
        let round = self.round;
        let at = match given {
            Ok(at) => at,
            Err(
                AllocError::NoSpace { .. } | AllocError::Limit { .. } | AllocError::Address { .. },
            ) => {
                return;
            }
            Err(AllocError::Injected { .. }) => return round.saw_failure(),
            Err(_) => return round.violation("alloc failed oddly", count.into()),
        };
        let first = round.byte_of(ArenaOffset::of(at)) / 4096;
        let stamp = self.random.next() | 1;
        for page in first..first + count {
            let owner = round.pages[page as usize].swap(self.me, Ordering::Relaxed);
            round.ensure(owner == 0, "a page was handed out twice", page.into());
            for byte in OWNED {
                let word = round.arena.ptr::<u64>(round.place(page, byte));
                round.ensure(word.read() == 0, "a page is not zeroed", page.into());
                word.write(stamp ^ u64::from(page));
            }
        }
        self.pages.push(Pages {
            first,
            count,
            stamp,
            filled: true,
        });
        if self.pages.len() > HELD_MAX {
            self.free_some_pages();
        }
    }

    fn reserve(&mut self) {
        let round = self.round;
        let first = self.random.below(PAGES - 4);
        if round.arena.reserve_pages(round.user(first), 3).is_ok() {
            for page in first..first + 3 {
                let owner = round.pages[page as usize].swap(self.me, Ordering::Relaxed);
                round.ensure(owner == 0, "a page was reserved twice", page.into());
            }
            self.pages.push(Pages {
                first,
                count: 3,
                stamp: 0,
                filled: false,
            });
        }
    }

    fn free_some_pages(&mut self) {
        if self.pages.is_empty() {
            return;
        }
        let pick = self
            .random
            .below(u32::try_from(self.pages.len()).unwrap_or(1));
        let pages = self.pages.swap_remove(pick as usize);
        self.free_pages(pages);
    }

    fn free_pages(&mut self, pages: Pages) {
        let round = self.round;
        self.check_pages(&pages);
        for page in pages.first..pages.first + pages.count {
            let owner = round.pages[page as usize].swap(0, Ordering::Relaxed);
            round.ensure(owner == self.me, "somebody else had a page", page.into());
        }
        // The high half and the low 12 bits of the pointer do not count.
        let at = UserAddr::new(u64::from(round.place(pages.first, 0x123).raw()));
        if self.random.one_in(2) {
            round.arena.free_pages_deferred(at, pages.count);
        } else {
            let freed = round.arena.free_pages(at, pages.count);
            round.ensure(freed.is_ok(), "a free failed", pages.first.into());
        }
    }

    fn check_pages(&self, pages: &Pages) {
        let round = self.round;
        if !pages.filled {
            return;
        }
        for page in pages.first..pages.first + pages.count {
            let here = round.state(page) == EntryState::Page;
            round.ensure(here, "an allocated page is gone", page.into());
            for byte in OWNED {
                let word = round.arena.ptr::<u64>(round.place(page, byte)).read();
                let right = word == pages.stamp ^ u64::from(page);
                round.ensure(
                    right,
                    "somebody wrote to a page that is not his",
                    page.into(),
                );
            }
        }
    }

    /// Frees that must do nothing: outside the window, and of slab pages.
    fn wild_free(&mut self) {
        let round = self.round;
        let outside =
            UserAddr::new(round.user(PAGES).raw() + u64::from(self.random.below(9)) * 4096);
        let freed = round.arena.free_pages(outside, 3);
        round.ensure(freed.is_ok(), "a free of nothing failed", outside.raw());
        if let Some(object) = self.objects.iter().find(|object| !object.pool) {
            let at = round.arena.user_addr(object.at);
            let freed = round.arena.free_pages(at, 1);
            round.ensure(freed.is_ok(), "page free of a slab page failed", at.raw());
            self.check_object(object);
        }
    }

    fn drain(&mut self) {
        let drained = self.round.arena.drain_deferred();
        self.round.ensure(drained.is_ok(), "drain", 0);
        self.round.drain_reports();
    }

    // ---- touches -------------------------------------------------------------------------

    /// Host code follows a wild pointer: below the user's zone, far outside the window, into
    /// the upper guard.
    fn wild(&mut self) {
        let round = self.round;
        let at = match self.random.below(16) {
            0 => round
                .place(PAGES, 0)
                .wrapping_add(self.random.below(1 << 30)),
            1 => ArenaOffset::new(u32::MAX - self.random.below(16)),
            _ if round.settings.hosts == Hosts::Unfair => {
                round.place(self.random.below(USERS), OWNED[0])
            }
            _ => round.place(self.random.below(USERS), ANYBODYS),
        };
        let word = round.arena.ptr::<u64>(at);
        if round.byte_of(at) / 4096 < PAGES && self.random.one_in(2) {
            word.write(self.random.next());
        } else {
            let _ = word.read();
        }
    }

    /// A user thread's touch, through its own view where there is one.
    fn user_touch(&mut self) {
        let round = self.round;
        let page = USERS + self.random.below(PAGES - USERS);
        if round.view == 0 {
            // Refused at the limit, or over scratch.
            let _ = round.arena.touch_user(round.user(page));
            return;
        }
        let at = round.view + page as usize * 4096 + ANYBODYS as usize;
        let word = core::ptr::with_exposed_provenance_mut::<u64>(at);
        if self.random.one_in(2) {
            // SAFETY: inside the view, which lives as long as the round's arena; nobody makes
            // references into it.
            unsafe { word.write_volatile(at as u64) };
        } else {
            // SAFETY: as above.
            let _ = unsafe { word.read_volatile() };
        }
    }

    /// A nested program with another arena, and one with none around it.
    fn nested(&mut self) {
        let round = self.round;
        let tag = ProgramTag::new(self.me + 1000);
        let inner = ProgramScope::enter(tag, Some(&round.side), Cpu::new(self.me));
        let Ok(_inner) = inner else {
            return round.violation("a program could not be nested", self.me.into());
        };
        let page = self.random.below(64) * 4096;
        round.side.ptr::<u64>(ArenaOffset::new(page)).write(1);
        if self.random.one_in(4) {
            let _ = round
                .side
                .free_pages(round.side.user_addr(ArenaOffset::new(page)), 1);
        }
    }

    fn short_lived_arena(&mut self) {
        if !self.random.one_in(16) {
            return;
        }
        let spec = ArenaSpec {
            max_entries: 16,
            map_flags: BPF_F_MMAPABLE,
            map_extra: 0x1000_0000_0000,
            ..ArenaSpec::default()
        };
        let Ok(arena) = Arena::create(&spec) else {
            return self.round.violation("an arena could not be created", 0);
        };
        let tag = ProgramTag::new(self.me);
        let scope = ProgramScope::enter(tag, Some(&arena), Cpu::new(0));
        let word = arena.ptr::<u64>(ArenaOffset::new(5 * 4096));
        word.write(7);
        let faults = arena.faults_recovered();
        self.round
            .ensure(faults == 1, "faults of a young arena", faults);
        let given = arena.alloc_pages(None, 16, 0).is_ok() && word.read() == 0;
        self.round.ensure(given, "pages of a young arena", 0);
        drop(scope);
    }

    // ---- pool and slab -------------------------------------------------------------------

    /// A cache: mostly this thread's CPU's, which others may use too.
    fn cpu(&mut self) -> Cpu {
        let other = self.random.one_in(4);
        Cpu::new(if other {
            self.random.below(64)
        } else {
            self.me
        })
    }

    fn alloc_object(&mut self) {
        let round = self.round;
        let pool = self.random.one_in(3);
        let size_max = 8 << self.random.below(8);
        let size = 1 + self.random.below(size_max);
        let at = if pool {
            let given = round.pool.alloc(size.into()).ok();
            given.and_then(|address| round.arena.offset_of(address))
        } else {
            let size = if self.random.one_in(50) {
                size * 16
            } else {
                size
            };
            let cpu = self.cpu();
            round
                .arena
                .slab_cache(cpu)
                .ok()
                .and_then(|mut cache| cache.alloc(size).ok())
        };
        let Some(at) = at else { return };
        let (stamp, owner) = (self.random.next() | 1, self.me);
        let object = Object {
            at,
            size,
            stamp,
            owner,
            pool,
        };
        for granule in self.granules(&object) {
            let owner = round.granules[granule as usize].swap(self.me, Ordering::Relaxed);
            round.ensure(owner == 0, "memory was handed out twice", at.raw().into());
        }
        for byte in self.words(&object) {
            round.arena.ptr::<u64>(at.wrapping_add(byte)).write(stamp);
        }
        self.objects.push(object);
        if self.objects.len() > HELD_MAX {
            self.free_some_object();
        }
    }

    fn granules(&self, object: &Object) -> core::ops::Range<u32> {
        let first = self.round.byte_of(object.at) / 8;
        first..first + object.size.div_ceil(8)
    }

    /// The words of an object that its owner checks: its whole first and last, unless anybody
    /// may write there.
    fn words(&self, object: &Object) -> impl Iterator<Item = u32> + use<> {
        let last = (object.size / 8).saturating_sub(1) * 8;
        let whole = object.size >= 8;
        let at = self.round.byte_of(object.at);
        let owned = move |byte: &u32| whole && (at + byte) % 4096 != ANYBODYS;
        [0, last].into_iter().filter(owned)
    }

    fn check_object(&self, object: &Object) {
        for byte in self.words(object) {
            let word = self
                .round
                .arena
                .ptr::<u64>(object.at.wrapping_add(byte))
                .read();
            if word != object.stamp {
                let Object { at, size, pool, .. } = *object;
                let state = self.round.state(self.round.byte_of(at) / 4096);
                let what = format!(
                    "an object of {size} bytes (pool: {pool}) on a {state:?} holds {word:#x} at {byte}"
                );
                self.round.violation(&what, at.raw().into());
            }
        }
    }

    fn free_some_object(&mut self) {
        if self.objects.is_empty() {
            return;
        }
        let pick = self
            .random
            .below(u32::try_from(self.objects.len()).unwrap_or(1));
        let object = self.objects.swap_remove(pick as usize);
        self.free_object(object);
    }

    pub(crate) fn free_object(&mut self, object: Object) {
        let round = self.round;
        self.check_object(&object);
        for granule in self.granules(&object) {
            let owner = round.granules[granule as usize].swap(0, Ordering::Relaxed);
            let right = owner == object.owner;
            round.ensure(right, "somebody else had an object", object.at.raw().into());
        }
        let refused = if object.pool {
            let address = round.arena.kern_addr(object.at);
            let freed = round.pool.free(address, object.size.into());
            freed.err().map(|error| error.to_string())
        } else {
            let mut cache = loop {
                let cpu = self.cpu();
                match round.arena.slab_cache(cpu) {
                    Ok(cache) => break cache,
                    Err(_busy) => std::thread::yield_now(),
                }
            };
            cache.free(object.at).err().map(|error| error.to_string())
        };
        if let Some(error) = refused {
            let Object { at, size, .. } = object;
            let state = round.state(round.byte_of(at) / 4096);
            let what = format!("an object of {size} bytes on a {state:?}: {error}");
            round.violation(&what, at.raw().into());
        }
    }

    /// Frees that must be refused.
    fn bad_free(&mut self) {
        let round = self.round;
        let cpu = self.cpu();
        let Ok(mut cache) = round.arena.slab_cache(cpu) else {
            return;
        };
        let foreign = cache.free_at(UserAddr::new(0x1234_5678_9abc_def0));
        let right = matches!(foreign, Err(SlabFreeError::Foreign { .. }));
        round.ensure(right, "a foreign address was freed", 0);
        if let Some(pages) = self.pages.first() {
            let refused = cache.free(round.place(pages.first, 64)).is_err();
            round.ensure(
                refused,
                "a page that is no slab was freed",
                pages.first.into(),
            );
        }
        if let Some(object) = self
            .objects
            .iter()
            .find(|object| !object.pool && object.size >= 16)
        {
            let refused = cache.free(object.at.wrapping_add(4)).is_err();
            round.ensure(
                refused,
                "the inside of an object was freed",
                object.at.raw().into(),
            );
        }
        if let Some(object) = self.objects.iter().find(|object| object.pool) {
            let address = round.arena.kern_addr(object.at.wrapping_add(4));
            let refused = round.pool.free(address, 8).is_err();
            round.ensure(
                refused,
                "the pool freed a misaligned address",
                object.at.raw().into(),
            );
        }
    }

    /// Hands an object to another thread, and takes one.
    fn mail(&mut self) {
        let mut mail = self
            .round
            .mail
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let theirs = if mail.len() > 8 { mail.pop() } else { None };
        mail.extend(self.objects.pop());
        drop(mail);
        self.objects.extend(theirs);
    }

    fn check_some(&mut self) {
        self.pages
            .iter()
            .take(8)
            .for_each(|pages| self.check_pages(pages));
        self.objects
            .iter()
            .take(8)
            .for_each(|object| self.check_object(object));
    }
}
