//! One CPU's slab cache: allocation and free, and what happens when a bin runs dry or over.
//!
//! The common paths are a handful of plain loads and stores on memory that only this CPU
//! writes. When a magazine is empty, in this order: stock of the bin's pages, what other CPUs
//! freed, new pages, and at last slabs of other bins and CPUs.

use harena_abi::{ArenaOffset, PAGE_SIZE, PageIndex, UserAddr};
use harena_arena_fault::PageRange;

use super::bins::{Bins, MAGAZINE};
use super::table::{CLASSES, Class, PageLink, PageTag, Pages, SlabPage, SlotIndex, Tag};
use super::{Slab, SlabAllocError, SlabFreeError};
use crate::alloc::AllocError;
use crate::arena::Arena;
use crate::mem::ArenaPtr;
use crate::sync::{MutexGuard, Ordering, TryLockError};

/// Objects that move at a time between a magazine and the stock.
const BATCH: usize = MAGAZINE / 2;
/// The mark of a free object, but for its offset.
const MARK: u64 = 0xf7ee_0b1e_c700_0000;
/// Pages without an allocated object that a bin keeps, besides a quarter of all its pages.
const UNUSED_KEPT: u32 = 16;

/// Exclusive use of one CPU's slab cache; see [`Arena::slab_cache`].
///
/// It belongs to the thread that took it. Memory that it gives is not zeroed: it holds what
/// its last owner left. All of it goes with the arena, freed or not.
#[derive(Debug)]
pub struct SlabCache<'a> {
    arena: &'a Arena,
    slab: &'a Slab,
    pages: Pages<'a>,
    memory: ArenaPtr<'a, u64>,
    slot: SlotIndex,
    bins: MutexGuard<'a, Bins>,
}

impl<'a> SlabCache<'a> {
    pub(super) fn take(arena: &'a Arena, slab: &'a Slab, slot: SlotIndex) -> Option<Self> {
        let bins = match slab.slots.get(slot.index())?.bins.try_lock() {
            Ok(bins) => bins,
            // A panic elsewhere in its user's code; the bins themselves change in small steps.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Self {
            arena,
            slab,
            pages: slab.pages(),
            memory: arena.ptr(ArenaOffset::new(0)),
            slot,
            bins,
        })
    }

    /// Allocates `size` bytes, aligned to the power of two that holds them (at most a page).
    #[inline]
    pub fn alloc(&mut self, size: u32) -> Result<ArenaOffset, SlabAllocError> {
        let class = Class::of(size);
        match self.pop(class) {
            Some(at) => Ok(at),
            None => self.alloc_slow(class, size),
        }
    }

    /// Frees what [`SlabCache::alloc`] of any cache of this arena gave.
    #[inline]
    pub fn free(&mut self, at: ArenaOffset) -> Result<(), SlabFreeError> {
        if self.push(at).is_some() {
            Ok(())
        } else {
            self.free_slow(at)
        }
    }

    /// As [`SlabCache::free`], of an address as programs hold it: what lies in the window of
    /// another arena is refused. An address below 4 GiB is taken for an offset, as a cast to
    /// the host's form makes it.
    pub fn free_at(&mut self, address: UserAddr) -> Result<(), SlabFreeError> {
        let at = ArenaOffset::of(address);
        let is_offset = address.raw() == u64::from(at.raw());
        if is_offset || address == self.arena.user_addr(at) {
            self.free(at)
        } else {
            Err(SlabFreeError::Foreign { address })
        }
    }

    /// The latest object of the magazine.
    #[inline]
    fn pop(&mut self, class: Class) -> Option<ArenaOffset> {
        let at = self.bins.pop(class)?;
        self.memory.at(at).aligned().store(0, Ordering::Relaxed);
        Some(at)
    }

    /// Puts an object of this CPU in its magazine; `None` if no object begins there, if there
    /// is no room, or if the object is marked as free.
    #[inline]
    fn push(&mut self, at: ArenaOffset) -> Option<()> {
        let class = self.pages.tag(at)?.class_of_mine(self.slot, at)?;
        let word = self.memory.at(at).aligned();
        if word.load(Ordering::Relaxed) == mark(at) {
            return None;
        }
        self.bins.push(class, at)?;
        word.store(mark(at), Ordering::Relaxed);
        Some(())
    }

    // ---- a magazine runs dry ------------------------------------------------------------

    #[cold]
    fn alloc_slow(&mut self, class: Class, size: u32) -> Result<ArenaOffset, SlabAllocError> {
        if class.index() >= CLASSES {
            return self.alloc_large(size);
        }
        if let Some(at) = self.refill(class) {
            return Ok(at);
        }
        self.settle_dying();
        let source = match self.grow(class) {
            Ok(at) => return Ok(at),
            Err(source) => source,
        };
        // Slabs of other classes may lie idle, here and at CPUs that are not in use.
        if self.give_all_back() > 0
            && let Ok(at) = self.grow(class)
        {
            return Ok(at);
        }
        let spare = self.idle().find_map(|mut other| other.refill(class));
        spare.ok_or(SlabAllocError::Pages { size, source })
    }

    /// Fills the magazine from the bin's stock and gives an object.
    fn refill(&mut self, class: Class) -> Option<ArenaOffset> {
        if self.bins.of[class.index()].listed == PageLink::END {
            self.collect();
        }
        while (self.bins.of[class.index()].count as usize) < BATCH
            && let Some(page) = self.bins.of[class.index()].listed.page()
        {
            self.take_stock(class, page);
        }
        let bin = &mut self.bins.of[class.index()];
        // The lowest address first: they were taken in that order.
        bin.magazine[..bin.count as usize].reverse();
        self.pop(class)
    }

    /// Moves objects of a listed page to the magazine: a batch, or all that it has in stock.
    fn take_stock(&mut self, class: Class, page: SlabPage) {
        let info = self.pages.info(page);
        let base = self.pages.offset(page);
        let bin = &mut self.bins.of[class.index()];
        if info.in_stock() == class.objects() {
            bin.unused -= 1;
        }
        while (bin.count as usize) < BATCH
            && let Some(object) = info.take_stock()
        {
            let at = base.wrapping_add(object * class.size());
            bin.push(at).expect("a batch fits in a magazine");
        }
        if info.in_stock() == 0 {
            self.unlist(class, page);
        }
    }

    /// Takes new pages: few for a bin's first slabs, fewer if there are no more.
    fn grow(&mut self, class: Class) -> Result<ArenaOffset, AllocError> {
        let mut count = class
            .growth_max()
            .min(self.bins.of[class.index()].pages.max(1));
        let range = loop {
            let own = |range: PageRange| {
                for page in range.pages() {
                    self.install(page, class);
                }
            };
            match self.arena.alloc_for_slab(count, own) {
                Ok(range) => break range,
                Err(AllocError::NoSpace { .. } | AllocError::Limit { .. }) if count > 1 => {
                    count /= 2;
                }
                Err(error) => return Err(error),
            }
        };
        // Listed last to first: the first is used first.
        for page in range.pages().rev() {
            self.list(class, self.pages.number(page));
        }
        let bin = &mut self.bins.of[class.index()];
        bin.pages += count;
        bin.unused += count;
        let slot = &self.slab.slots[self.slot.index()];
        // Relaxed: who finds the flag set takes the cache's lock before it looks further.
        slot.has_slabs.store(true, Ordering::Relaxed);
        Ok(self
            .refill(class)
            .expect("all objects of the new pages are in stock"))
    }

    /// Makes a new page a slab in which every object is free, marked, and in stock.
    fn install(&self, page: PageIndex, class: Class) {
        let number = self.pages.number(page);
        for object in 0..class.objects() {
            let at = page.offset().wrapping_add(object * class.size());
            self.memory
                .at(at)
                .aligned()
                .store(mark(at), Ordering::Relaxed);
        }
        self.pages.info(number).install(class);
        self.pages.tag_of(number).store(Tag::Slab(self.slot, class));
    }

    // ---- a magazine runs over -----------------------------------------------------------

    /// Puts the oldest `count` objects of a magazine in stock.
    fn put_stock(&mut self, class: Class, count: usize) {
        let objects = self.bins.of[class.index()].magazine;
        for at in &objects[..count] {
            let page = self.pages.number(at.page());
            self.put_one(class, page, *at);
        }
        let bin = &mut self.bins.of[class.index()];
        bin.magazine.rotate_left(count);
        bin.count -= u32::try_from(count).expect("not more than a magazine holds");
    }

    fn put_latest_in_stock(&mut self) {
        let (at, class) = (self.bins.latest, self.bins.latest_class);
        if class != Class::NONE {
            self.bins.latest_class = Class::NONE;
            self.put_one(class, self.pages.number(at.page()), at);
        }
    }

    fn put_one(&mut self, class: Class, page: SlabPage, at: ArenaOffset) {
        let info = self.pages.info(page);
        let object = class
            .object(at)
            .expect("what is in a magazine is an object");
        if !info.put_stock(object) {
            // Its mark was overwritten, so that it could be freed twice.
            self.late_violations(1);
            return;
        }
        self.stocked(class, page, info.in_stock());
        if info.in_stock() == class.objects() && self.has_enough(class) {
            self.retire(class, page);
        }
    }

    /// A page has one object more in stock, `in_stock` now: lists and counts it.
    fn stocked(&mut self, class: Class, page: SlabPage, in_stock: u32) {
        if in_stock == 1 {
            self.list(class, page);
        }
        if in_stock == class.objects() {
            self.bins.of[class.index()].unused += 1;
        }
    }

    fn has_enough(&self, class: Class) -> bool {
        let bin = &self.bins.of[class.index()];
        bin.unused > UNUSED_KEPT + bin.pages / 4
    }

    // ---- lists ------------------------------------------------------------------------

    fn list(&mut self, class: Class, page: SlabPage) {
        let bin = &mut self.bins.of[class.index()];
        let info = self.pages.info(page);
        info.set_prev(PageLink::END);
        info.set_next(bin.listed);
        if let Some(second) = bin.listed.page() {
            self.pages.info(second).set_prev(PageLink::to(page));
        }
        bin.listed = PageLink::to(page);
    }

    fn unlist(&mut self, class: Class, page: SlabPage) {
        let info = self.pages.info(page);
        let (prev, next) = (info.prev(), info.next());
        match prev.page() {
            Some(prev) => self.pages.info(prev).set_next(next),
            None => self.bins.of[class.index()].listed = next,
        }
        if let Some(next) = next.page() {
            self.pages.info(next).set_prev(prev);
        }
    }

    // ---- giving pages back ------------------------------------------------------------

    /// Takes an unused page out of use.
    fn retire(&mut self, class: Class, page: SlabPage) {
        self.unlist(class, page);
        let bin = &mut self.bins.of[class.index()];
        bin.pages -= 1;
        bin.unused -= 1;
        self.pages.tag_of(page).store(Tag::Dying);
        let info = self.pages.info(page);
        info.set_next(self.bins.dying);
        self.bins.dying = PageLink::to(page);
    }

    /// Frees retired pages, unless a remote free may be at work on one of them.
    fn settle_dying(&mut self) {
        // SeqCst: pairs with the announcement in `Visit::begin` (see `PageTag::load`): a visitor
        // that is not seen here sees that the pages are dying.
        if self.bins.dying == PageLink::END || self.slab.visitors.load(Ordering::SeqCst) != 0 {
            return;
        }
        let mut at = std::mem::take(&mut self.bins.dying);
        // None of them may stay on the list of remote frees: soon it may be another's page. And
        // an object that was freed twice may be in stock and at hand.
        self.collect();
        self.forget_dying();
        let mut dead = Vec::new();
        while let Some(page) = at.page() {
            at = self.pages.info(page).next();
            dead.push(page);
        }
        dead.sort_unstable();
        let mut run: Option<PageRange> = None;
        for page in dead {
            let page = PageRange::from(self.pages.index(page));
            let both = run.and_then(|run| run.joined(page));
            if both.is_none() {
                self.release(run);
            }
            run = both.or(Some(page));
        }
        self.release(run);
    }

    /// Drops objects at hand that lie on dying pages: frees that were double ones.
    fn forget_dying(&mut self) {
        let pages = self.pages;
        let is_dying = |at| pages.tag(at).is_some_and(|tag| tag.load() == Tag::Dying);
        let dropped = self.bins.forget(is_dying);
        self.late_violations(dropped);
    }

    fn release(&self, run: Option<PageRange>) {
        let Some(range) = run else {
            return;
        };
        for page in range.pages() {
            self.slab.page_tag(page).store(Tag::Released);
        }
        self.arena.free_for_slab(range);
    }

    /// Gives the unused pages of this cache and of those that nobody uses back; how many.
    fn give_all_back(&mut self) -> u32 {
        let others = self.idle().map(|mut other| other.give_back());
        others.sum::<u32>() + self.give_back()
    }

    fn give_back(&mut self) -> u32 {
        self.collect();
        self.put_latest_in_stock();
        let mut retired = 0;
        for class in Class::all() {
            self.put_stock(class, self.bins.of[class.index()].count as usize);
            let mut at = self.bins.of[class.index()].listed;
            while let Some(page) = at.page() {
                let info = self.pages.info(page);
                at = info.next();
                if info.in_stock() == class.objects() {
                    self.retire(class, page);
                    retired += 1;
                }
            }
        }
        self.settle_dying();
        retired
    }

    /// The caches that hold slabs and that nobody uses, one at a time.
    fn idle(&self) -> impl Iterator<Item = SlabCache<'a>> + use<'a> {
        let (arena, slab, mine) = (self.arena, self.slab, self.slot);
        let slots = (0u32..).zip(&slab.slots);
        let others = slots.filter(move |(number, slot)| {
            SlotIndex::of(*number) != mine && slot.has_slabs.load(Ordering::Relaxed)
        });
        others.filter_map(move |(number, _)| Self::take(arena, slab, SlotIndex::of(number)))
    }

    // ---- other CPUs' objects ----------------------------------------------------------

    #[cold]
    fn free_slow(&mut self, at: ArenaOffset) -> Result<(), SlabFreeError> {
        let missing = SlabFreeError::NotAllocated { at };
        let tag = self.pages.tag(at).ok_or(missing)?;
        match tag.load() {
            Tag::Slab(owner, class) if owner == self.slot => self.free_mine(class, at),
            Tag::Slab(..) => self.free_remote(tag, at),
            Tag::Large(count) => self.free_large(tag, count, at),
            Tag::LargeRest(before) => Err(self.inside_large(at, before)),
            Tag::None | Tag::Dying | Tag::Released => Err(missing),
        }
    }

    /// A free on a page of this CPU that was not done at once: no object begins there, it is
    /// marked as free, or the magazine is full.
    fn free_mine(&mut self, class: Class, at: ArenaOffset) -> Result<(), SlabFreeError> {
        let object = class.object(at).ok_or(inside(at, class))?;
        let info = self.pages.info(self.pages.number(at.page()));
        if info.is_free(object) || self.bins.has(class, at) {
            return Err(SlabFreeError::DoubleFree { at });
        }
        if self.bins.push(class, at).is_none() {
            let full = self.bins.latest_class;
            self.put_stock(full, BATCH);
            let pushed = self.bins.push(class, at);
            pushed.expect("there is room");
            self.settle_dying();
        }
        self.memory
            .at(at)
            .aligned()
            .store(mark(at), Ordering::Relaxed);
        Ok(())
    }

    fn free_remote(&self, tag: &PageTag, at: ArenaOffset) -> Result<(), SlabFreeError> {
        let _visit = Visit::begin(self.slab);
        // Looked at again: before the visit was announced, the slab may have been given back.
        let Tag::Slab(owner, class) = tag.load() else {
            return Err(SlabFreeError::NotAllocated { at });
        };
        let object = class.object(at).ok_or(inside(at, class))?;
        let page = self.pages.number(at.page());
        let info = self.pages.info(page);
        // The owner's magazine cannot be looked at from here, so a mark counts as such: a
        // program that writes one into an object of its own loses it to other CPUs' frees.
        let word = self.memory.at(at).aligned();
        if word.load(Ordering::Relaxed) == mark(at) {
            return Err(SlabFreeError::DoubleFree { at });
        }
        // Before it is given back: from then on the owner may hand it out, and a mark would look
        // like a free of what is somebody else's.
        word.store(mark(at), Ordering::Relaxed);
        if !info.give_back(object) {
            return Err(SlabFreeError::DoubleFree { at });
        }
        self.slab.slots[owner.index()].remote.push(self.pages, page);
        Ok(())
    }

    /// Takes back what other CPUs freed.
    fn collect(&mut self) {
        let remote = &self.slab.slots[self.slot.index()].remote;
        if remote.is_empty() {
            return;
        }
        for page in remote.take(self.pages) {
            // A dying page has nothing to collect.
            let Tag::Slab(_, class) = self.pages.tag_of(page).load() else {
                continue;
            };
            let info = self.pages.info(page);
            let before = info.in_stock();
            self.late_violations(info.collect());
            let now = info.in_stock();
            if now > 0 && before == 0 {
                self.list(class, page);
            }
            if now == class.objects() && before < now {
                self.bins.of[class.index()].unused += 1;
            }
        }
    }

    fn late_violations(&self, count: u32) {
        let total = &self.slab.late_violations;
        total.fetch_add(u64::from(count), Ordering::Relaxed);
    }

    // ---- objects of more than a page --------------------------------------------------

    fn alloc_large(&mut self, size: u32) -> Result<ArenaOffset, SlabAllocError> {
        if size == 0 {
            return Err(SlabAllocError::Empty);
        }
        let count = u64::from(size).div_ceil(PAGE_SIZE);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let slab = self.slab;
        let own = |pages| slab.install_large(pages);
        let mut pages = self.arena.alloc_for_slab(count, own);
        if pages.is_err() && self.give_all_back() > 0 {
            pages = self.arena.alloc_for_slab(count, own);
        }
        match pages {
            Ok(pages) => Ok(pages.first().offset()),
            Err(source) => Err(SlabAllocError::Pages { size, source }),
        }
    }

    fn free_large(&self, tag: &PageTag, count: u32, at: ArenaOffset) -> Result<(), SlabFreeError> {
        if at != at.page().offset() {
            return Err(self.inside_large(at, 0));
        }
        // One of two threads that free it at the same time. Not `Released` yet: whoever has the
        // arena's lock could free the page, and `release` would then mark another's.
        if !tag.exchange(Tag::Large(count), Tag::Dying) {
            return Err(SlabFreeError::DoubleFree { at });
        }
        self.release(PageRange::new(at.page(), count));
        Ok(())
    }

    /// A place in a large object that began `before` pages earlier.
    fn inside_large(&self, at: ArenaOffset, before: u32) -> SlabFreeError {
        let head = at.page().raw().checked_sub(before).and_then(PageIndex::new);
        let tag = head.and_then(|head| self.pages.tag(head.offset()));
        let size = match tag.map(PageTag::load) {
            Some(Tag::Large(count)) => u64::from(count) * PAGE_SIZE,
            // Somebody frees it at this moment.
            _ => PAGE_SIZE,
        };
        SlabFreeError::Inside { at, size }
    }
}

#[inline]
fn mark(at: ArenaOffset) -> u64 {
    MARK ^ u64::from(at.raw())
}

fn inside(at: ArenaOffset, class: Class) -> SlabFreeError {
    let size = u64::from(class.size());
    SlabFreeError::Inside { at, size }
}

/// A remote free at work: pages that were slabs when it began are not given back.
struct Visit<'a>(&'a Slab);

impl<'a> Visit<'a> {
    fn begin(slab: &'a Slab) -> Self {
        // SeqCst: pairs with the look in `settle_dying`.
        slab.visitors.fetch_add(1, Ordering::SeqCst);
        Self(slab)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        // Release: what the visitor did comes before the pages are freed.
        self.0.visitors.fetch_sub(1, Ordering::Release);
    }
}
