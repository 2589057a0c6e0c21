//! What the slab allocator knows of each page: words in host memory.
//!
//! A page's tag is read by every free, from any thread. It is written under the arena's lock,
//! but for the edges marked *, which only the owner of the pages takes:
//!
//! ```text
//! None ──► Slab ──*──► Dying ──*──► Released ──► None
//!   └────► Large ──*────┘   ▲
//!   └────► LargeRest ──*────┘
//! ```
//!
//! `Dying`: a remote free that saw `Slab` may still be at work. `Released`: it may be freed.

use harena_abi::{ArenaOffset, PAGE_SIZE, PageIndex};

use super::{SLAB_CACHES, SLAB_SIZE_MAX, SLAB_SIZE_MIN};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Size classes: powers of two.
pub(super) const CLASSES: usize = 10;
/// Words of 64 objects in a page of the smallest ones.
const WORDS: usize = 8;
const WORD_BITS: u32 = 64;
/// Pages that a bin grows by at most, and the objects that it wants to grow by.
const GROWTH_MAX: u32 = 16;
const GROWTH_OBJECTS: u32 = 64;
const PAGE_BYTES: u32 = 1 << PAGE_SIZE.trailing_zeros();
const MIN_SHIFT: u32 = SLAB_SIZE_MIN.trailing_zeros();

const _: () = assert!(SLAB_SIZE_MIN << (CLASSES - 1) == SLAB_SIZE_MAX);
const _: () = assert!(SLAB_SIZE_MAX == PAGE_BYTES);
const _: () = assert!((PAGE_BYTES / SLAB_SIZE_MIN) as usize == WORDS * WORD_BITS as usize);

/// A size class: objects of `8 << index` bytes. Any index; bins exist for the first
/// [`CLASSES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Class(u32);

impl Class {
    /// The smallest class that fits. For 0 bytes, and for more than a page, one without a bin.
    #[inline]
    pub(super) const fn of(size: u32) -> Self {
        // The bits of `size - 1`, less the three that the smallest class has.
        let last = size.wrapping_sub(1) | (SLAB_SIZE_MIN - 1);
        Self(last.ilog2().wrapping_sub(MIN_SHIFT - 1))
    }

    /// No class: no object has it, and no request.
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..).take(CLASSES).map(Self)
    }

    #[inline]
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }

    /// Bytes of an object.
    pub(super) const fn size(self) -> u32 {
        SLAB_SIZE_MIN << self.0
    }

    /// Objects of a page.
    pub(super) const fn objects(self) -> u32 {
        PAGE_BYTES >> (self.0 + MIN_SHIFT)
    }

    /// The number in its page of the object that begins at `at`, if one does.
    pub(super) const fn object(self, at: ArenaOffset) -> Option<u32> {
        let bytes = at.raw() % PAGE_BYTES;
        if bytes.is_multiple_of(self.size()) {
            Some(bytes / self.size())
        } else {
            None
        }
    }

    /// Pages for 64 objects, but not more than 16.
    pub(super) fn growth_max(self) -> u32 {
        let pages = (GROWTH_OBJECTS * self.size()).div_ceil(PAGE_BYTES);
        pages.clamp(1, GROWTH_MAX)
    }
}

/// What a page belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tag {
    /// Not to the slab allocator.
    None,
    /// To a slab that is being given back.
    Dying,
    /// To nobody: whoever has the arena's lock next frees it.
    Released,
    /// To the large object that began so many pages earlier.
    LargeRest(u32),
    /// A large object of this many pages begins here.
    Large(u32),
    /// It is a slab of this slot.
    Slab(SlotIndex, Class),
}

/// Which CPU's cache owns a slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotIndex(u32);

impl SlotIndex {
    pub(super) const fn of(cpu: u32) -> Self {
        Self(cpu % SLAB_CACHES)
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

const LARGE: u32 = 1 << 30;
const LARGE_REST: u32 = 1 << 29;
/// Counts of pages lie below both.
const COUNT_MASK: u32 = LARGE_REST - 1;
const _: () = assert!(PageIndex::COUNT <= COUNT_MASK);
/// A slab's tag is this, its slot, and the low bits that its objects' offsets have not.
const SLAB: u32 = 1 << 31;
const LOW_BITS: u32 = SLAB_SIZE_MAX.trailing_zeros();
const LOW_MASK: u32 = SLAB_SIZE_MAX - 1;
const _: () = assert!((SLAB_CACHES - 1) << LOW_BITS < SLAB);

impl Tag {
    const fn encode(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Dying => 1,
            Self::Released => 2,
            Self::LargeRest(before) => LARGE_REST | before,
            Self::Large(pages) => LARGE | pages,
            Self::Slab(slot, class) => SLAB | (slot.0 << LOW_BITS) | (class.size() - 1),
        }
    }

    const fn decode(word: u32) -> Self {
        match word {
            _ if word & SLAB != 0 => {
                let slot = SlotIndex((word & !SLAB) >> LOW_BITS);
                Self::Slab(slot, Class::of((word & LOW_MASK) + 1))
            }
            _ if word & LARGE != 0 => Self::Large(word & COUNT_MASK),
            _ if word & LARGE_REST != 0 => Self::LargeRest(word & COUNT_MASK),
            1 => Self::Dying,
            2 => Self::Released,
            _ => Self::None,
        }
    }
}

/// A page's tag. All-zero bytes are [`Tag::None`].
#[derive(Debug)]
#[cfg_attr(shuttle, derive(Default))]
#[repr(transparent)]
pub(crate) struct PageTag(AtomicU32);

impl PageTag {
    /// The class of the slab, if it is one of this slot and an object begins at `at`.
    #[inline]
    pub(super) fn class_of_mine(&self, slot: SlotIndex, at: ArenaOffset) -> Option<Class> {
        // Relaxed: if the tag names this slot, its owner wrote it; the cache's lock orders owners.
        let low = self.0.load(Ordering::Relaxed) ^ (SLAB | (slot.0 << LOW_BITS));
        (low <= LOW_MASK && at.raw() & low == 0).then(|| Class::of(low.wrapping_add(1)))
    }

    pub(super) fn load(&self) -> Tag {
        // SeqCst: a visitor announces itself, then looks here; who gives a slab back writes here,
        // then looks for visitors. One of the two must see the other. It also pairs with the
        // store that published the slab.
        Tag::decode(self.0.load(Ordering::SeqCst))
    }

    pub(super) fn store(&self, tag: Tag) {
        // SeqCst: see `load`.
        self.0.store(tag.encode(), Ordering::SeqCst);
    }

    /// Changes the tag iff it is `old`; true for the one who did.
    pub(super) fn exchange(&self, old: Tag, new: Tag) -> bool {
        let (old, new) = (old.encode(), new.encode());
        self.0
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

/// 64 objects of a page, a bit each.
#[derive(Debug)]
#[cfg_attr(shuttle, derive(Default))]
#[repr(C)]
struct Word {
    /// Free objects that are in no magazine. Only the owner uses it.
    stock: AtomicU64,
    /// Objects that other CPUs freed and that were not collected.
    remote: AtomicU64,
}

/// What is known of a page beyond its tag. All-zero bytes are a page without slab.
///
/// The owner of the slab writes plainly (relaxed): it runs on one thread at a time, and when
/// its cache changes hands the cache's lock orders the two threads.
#[derive(Debug)]
#[cfg_attr(shuttle, derive(Default))]
#[repr(C, align(64))]
pub(crate) struct PageInfo {
    /// Neighbours in the bin's list of pages with stock, or among dying ones.
    next: AtomicU32,
    prev: AtomicU32,
    /// Objects in stock.
    in_stock: AtomicU32,
    /// Next page with remote frees; written by who puts this one on that list.
    remote_next: AtomicU32,
    /// 1 while it is on that list.
    remote_listed: AtomicU32,
    words: [Word; WORDS],
}

/// A page in a list, or the end of the list: the page's number plus one. Zero is the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct PageLink(u32);

impl PageLink {
    pub(super) const END: Self = Self(0);

    pub(super) const fn to(page: SlabPage) -> Self {
        Self(page.0.wrapping_add(1))
    }

    pub(super) const fn page(self) -> Option<SlabPage> {
        match self.0.checked_sub(1) {
            Some(number) => Some(SlabPage(number)),
            None => None,
        }
    }
}

/// A page by its place in the user window, which is its place in the tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SlabPage(u32);

/// The tables: on every page of the user window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages<'a> {
    tags: &'a [PageTag],
    infos: &'a [PageInfo],
    /// Offset of the window's first page.
    base: u32,
}

impl<'a> Pages<'a> {
    pub(super) fn new(tags: &'a [PageTag], infos: &'a [PageInfo], first: PageIndex) -> Self {
        assert_eq!(tags.len(), infos.len(), "one of each for every page");
        Self {
            tags,
            infos,
            base: first.offset().raw(),
        }
    }

    /// The tag of the page that holds `at`, if it is one of the window.
    #[inline]
    pub(super) fn tag(self, at: ArenaOffset) -> Option<&'a PageTag> {
        let page = at.raw().wrapping_sub(self.base) / PAGE_BYTES;
        self.tags.get(page as usize)
    }

    /// The number of a page of the window.
    pub(super) fn number(self, page: PageIndex) -> SlabPage {
        SlabPage(page.offset().raw().wrapping_sub(self.base) / PAGE_BYTES)
    }

    pub(super) fn index(self, page: SlabPage) -> PageIndex {
        self.offset(page).page()
    }

    /// Where a page begins.
    pub(super) fn offset(self, page: SlabPage) -> ArenaOffset {
        ArenaOffset::new(self.base).wrapping_add(page.0.wrapping_mul(PAGE_BYTES))
    }

    pub(super) fn tag_of(self, page: SlabPage) -> &'a PageTag {
        // In range here and below: such numbers are those of pages of the window.
        &self.tags[page.0 as usize]
    }

    pub(super) fn info(self, page: SlabPage) -> &'a PageInfo {
        &self.infos[page.0 as usize]
    }

    /// What is known of all pages, with their tags.
    pub(super) fn all(self) -> impl Iterator<Item = (Tag, &'a PageInfo)> {
        self.tags.iter().map(PageTag::load).zip(self.infos)
    }
}

impl PageInfo {
    /// Makes its page a slab with all objects in stock. The tag is set afterwards.
    pub(super) fn install(&self, class: Class) {
        let objects = class.objects();
        self.in_stock.store(objects, Ordering::Relaxed);
        for (index, word) in (0..).zip(&self.words) {
            let bits = objects.saturating_sub(index * WORD_BITS).min(WORD_BITS);
            let stock = u64::MAX.checked_shr(WORD_BITS - bits).unwrap_or(0);
            word.stock.store(stock, Ordering::Relaxed);
            word.remote.store(0, Ordering::Relaxed);
        }
    }

    fn word(&self, object: u32) -> (&Word, u64) {
        let index = (object / WORD_BITS) as usize % WORDS;
        (&self.words[index], 1 << (object % WORD_BITS))
    }

    /// Takes the first object out of stock; its number in the page.
    pub(super) fn take_stock(&self) -> Option<u32> {
        let mut words = (0u32..).zip(&self.words);
        words.find_map(|(index, word)| {
            let stock = word.stock.load(Ordering::Relaxed);
            let object = stock.trailing_zeros();
            if object == WORD_BITS {
                return None;
            }
            word.stock.store(stock & (stock - 1), Ordering::Relaxed);
            self.set_stock(self.in_stock() - 1);
            Some(index * WORD_BITS + object)
        })
    }

    /// Puts an object in stock; false if it is there.
    pub(super) fn put_stock(&self, object: u32) -> bool {
        let (word, bit) = self.word(object);
        let stock = word.stock.load(Ordering::Relaxed);
        if stock & bit != 0 {
            return false;
        }
        word.stock.store(stock | bit, Ordering::Relaxed);
        self.set_stock(self.in_stock() + 1);
        true
    }

    /// Another CPU than the owner frees an object; false if another one has, too. The caller
    /// is a visitor.
    pub(super) fn give_back(&self, object: u32) -> bool {
        let (word, bit) = self.word(object);
        // AcqRel: the object's last contents come before its next owner's; pairs with `collect`.
        word.remote.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// Puts what others freed in stock; the number of objects that were there.
    pub(super) fn collect(&self) -> u32 {
        let mut twice = 0;
        for word in &self.words {
            if word.remote.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // AcqRel: pairs with `give_back`.
            let remote = word.remote.swap(0, Ordering::AcqRel);
            let stock = word.stock.load(Ordering::Relaxed);
            word.stock.store(stock | remote, Ordering::Relaxed);
            self.set_stock(self.in_stock() + (remote & !stock).count_ones());
            twice += (remote & stock).count_ones();
        }
        twice
    }

    /// Whether the object is in stock, or freed by another CPU.
    pub(super) fn is_free(&self, object: u32) -> bool {
        let (word, bit) = self.word(object);
        (word.stock.load(Ordering::Relaxed) | word.remote.load(Ordering::Relaxed)) & bit != 0
    }

    /// Objects in stock.
    pub(super) fn in_stock(&self) -> u32 {
        self.in_stock.load(Ordering::Relaxed)
    }

    fn set_stock(&self, objects: u32) {
        self.in_stock.store(objects, Ordering::Relaxed);
    }

    /// Objects that are in stock, or freed by others.
    pub(super) fn free(&self) -> u32 {
        let free = self.words.iter().map(|word| {
            let both = word.stock.load(Ordering::Relaxed) | word.remote.load(Ordering::Relaxed);
            both.count_ones()
        });
        free.sum()
    }

    pub(super) fn next(&self) -> PageLink {
        PageLink(self.next.load(Ordering::Relaxed))
    }

    pub(super) fn set_next(&self, link: PageLink) {
        self.next.store(link.0, Ordering::Relaxed);
    }

    pub(super) fn prev(&self) -> PageLink {
        PageLink(self.prev.load(Ordering::Relaxed))
    }

    pub(super) fn set_prev(&self, link: PageLink) {
        self.prev.store(link.0, Ordering::Relaxed);
    }
}

/// Pages of one owner in which others freed objects: pushed by anybody, taken as a whole.
#[derive(Debug)]
pub(super) struct RemoteList(AtomicU32);

impl RemoteList {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// A hint while others push.
    pub(super) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Adds a page, unless it is listed, after an object of it was given back.
    pub(super) fn push(&self, pages: Pages<'_>, page: SlabPage) {
        let info = pages.info(page);
        // AcqRel: if it is listed, the exchange in `take` comes later and, reading what this one
        // wrote, sees the object that was given back before.
        if info.remote_listed.swap(1, Ordering::AcqRel) == 1 {
            return;
        }
        let mut first = self.0.load(Ordering::Relaxed);
        loop {
            info.remote_next.store(first, Ordering::Relaxed);
            let new = PageLink::to(page).0;
            // Release: publishes the link; pairs with the Acquire in `take`.
            match self
                .0
                .compare_exchange_weak(first, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// Takes all pages; the caller collects each. To drop the iterator early loses the rest.
    pub(super) fn take<'a>(&self, pages: Pages<'a>) -> impl Iterator<Item = SlabPage> + use<'a> {
        // Acquire: pairs with the Release in `push`.
        let mut at = PageLink(self.0.swap(0, Ordering::Acquire));
        std::iter::from_fn(move || {
            let page = at.page()?;
            let info = pages.info(page);
            at = PageLink(info.remote_next.load(Ordering::Relaxed));
            // AcqRel: pairs with `push`.
            info.remote_listed.swap(0, Ordering::AcqRel);
            Some(page)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_the_powers_of_two_from_8_to_4096() {
        for (size, shift) in [
            (1, 3),
            (8, 3),
            (9, 4),
            (16, 4),
            (17, 5),
            (4095, 12),
            (4096, 12),
        ] {
            assert_eq!(Class::of(size).size(), 1 << shift, "{size}");
        }
        for size in [0, 4097, 1 << 31, u32::MAX] {
            assert!(Class::of(size).index() >= CLASSES, "{size}");
        }
        let pages: Vec<u32> = Class::all().map(Class::growth_max).collect();
        assert_eq!(pages, [1, 1, 1, 1, 2, 4, 8, 16, 16, 16]);
    }

    #[test]
    fn tags_come_back_as_they_were_stored() {
        let last = SlotIndex::of(SLAB_CACHES - 1);
        for tag in [
            Tag::Slab(SlotIndex::of(0), Class::of(8)),
            Tag::Slab(last, Class::of(4096)),
            Tag::Large(1),
            Tag::Large(PageIndex::COUNT),
            Tag::LargeRest(1),
            Tag::LargeRest(PageIndex::COUNT - 1),
            Tag::Released,
            Tag::Dying,
            Tag::None,
        ] {
            assert_eq!(Tag::decode(tag.encode()), tag);
        }
    }
}
