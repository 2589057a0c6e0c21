//! The slab allocator: small objects for programs and host, from any context.
//!
//! ```text
//!  SlabCache (one CPU's, used by one thread at a time)
//!    bin of 8 bytes ── magazine: offsets of free objects, last in first out
//!    bin of 16 bytes    │  ▲
//!    ...           refill  flush
//!    bin of 4096 bytes  ▼  │
//!                  listed pages with objects in stock ◄── collect ── freed by other CPUs
//!  host memory: a tag a page (owner and class), two bits an object (stock, remote)
//! ```
//!
//! **Nothing that a program can write is trusted.** Magazines, tags and bits lie in host
//! memory; there are no free-list links in the arena. A program can lose its own objects; it
//! cannot make the allocator reach outside its slabs. Every free finds the page's tag by the
//! address and is refused if no object begins there.
//!
//! | an object is | when |
//! |---|---|
//! | in stock | its `stock` bit is set |
//! | in a magazine | its offset is there: the next allocations take it |
//! | the latest freed on its CPU | its offset is kept apart: the next allocation of its class takes it |
//! | freed by another CPU | its `remote` bit is set, until the owner collects |
//! | allocated | else |
//!
//! A free object's first word is a *mark*, which allocation clears. A free that meets a mark
//! looks closer, and is refused as a double free if the object is free indeed. A program that
//! writes to freed memory can hide a double free from this; then the object is allocated twice,
//! as it would be if the program had freed it while in use, or it is noticed when it gets into
//! stock, or when its page goes back ([`SlabUsage::late_violations`]).
//!
//! A slab is one page and stays with the CPU that made it. When all its objects are in stock
//! and its bin has enough others, its page goes back: first its tag says so, then it waits
//! until no CPU is inside a remote free that may have seen the old tag, then it is freed. Page
//! free by programs leaves tagged pages alone, and a user's touch finds them mapped.
//!
//! Nobody waits here: a CPU's cache that is in use elsewhere is an error, and where the page
//! allocator cannot be entered (its lock is held by this very thread) the objects at hand are
//! used and then there are none.

mod bins;
mod cache;
mod table;

use harena_abi::{ArenaOffset, Cpu, PAGE_SIZE, PageIndex, UserAddr};
use harena_arena_fault::PageRange;

use crate::alloc::AllocError;
use crate::arena::Arena;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering};
use crate::sys::{OsError, Table};

use bins::Bins;
pub use cache::SlabCache;
pub(crate) use table::{PageInfo, PageTag, Tag};
use table::{Pages, RemoteList, SlotIndex};

/// Bytes of the smallest size class.
pub const SLAB_SIZE_MIN: u32 = 8;
/// Bytes of the largest size class; what is larger gets pages of its own.
pub const SLAB_SIZE_MAX: u32 = 4096;
/// Caches of an arena; CPU `n` uses cache `n % SLAB_CACHES`.
pub const SLAB_CACHES: u32 = 256;

/// Why a CPU's cache was not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SlabCacheError {
    /// Somebody uses this cache: another thread, or an outer caller on this one.
    #[error("the slab cache of CPU {cpu} is in use", cpu = cpu.raw())]
    Busy {
        /// As given.
        cpu: Cpu,
    },
    /// The arena has no user window yet.
    #[error("the arena has no user window")]
    NoWindow,
    /// A child made by fork has no arena.
    #[error("the arena belongs to another process")]
    Forked,
    /// The system refused memory for the allocator's tables.
    #[error("slab tables")]
    Os(#[source] OsError),
}

/// Why no object was allocated; a program gets NULL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SlabAllocError {
    /// Nothing was asked for.
    #[error("an allocation of 0 bytes")]
    Empty,
    /// There is no free object, and the arena gave no pages.
    #[error("no slab object of {size} bytes")]
    Pages {
        /// As given.
        size: u32,
        /// What the page allocator said.
        #[source]
        source: AllocError,
    },
}

/// A free that was refused: a violation of the program that asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SlabFreeError {
    /// The address is not one of this arena's window.
    #[error("slab free of {address}, which is not in the arena's window")]
    Foreign {
        /// As given.
        address: UserAddr,
    },
    /// The page is not the slab allocator's.
    #[error("slab free at offset {offset:#x}, where nothing was allocated", offset = at.raw())]
    NotAllocated {
        /// As given.
        at: ArenaOffset,
    },
    /// The place lies inside an object.
    #[error(
        "slab free at offset {offset:#x}, inside an object of {size} bytes",
        offset = at.raw()
    )]
    Inside {
        /// As given.
        at: ArenaOffset,
        /// Bytes of the object.
        size: u64,
    },
    /// The object is free already.
    #[error("slab free at offset {offset:#x}, which is free already", offset = at.raw())]
    DoubleFree {
        /// As given.
        at: ArenaOffset,
    },
}

/// What the slab allocator holds. While caches are in use, free objects in their magazines
/// count as allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlabUsage {
    /// Objects that were allocated and not freed, those of more than 4096 bytes included.
    pub objects: u64,
    /// Pages that slabs and large objects lie in.
    pub pages: u64,
    /// Double frees that were noticed only after they had returned.
    pub late_violations: u64,
}

/// One arena's slab allocator; made when it is first used.
#[derive(Debug)]
pub(crate) struct Slab {
    tags: Table<PageTag>,
    infos: Table<PageInfo>,
    first: PageIndex,
    slots: Box<[Slot]>,
    /// CPUs that are inside a remote free.
    visitors: AtomicU32,
    late_violations: AtomicU64,
}

/// One CPU's part.
#[derive(Debug)]
#[repr(align(128))]
struct Slot {
    bins: Mutex<Bins>,
    remote: RemoteList,
    /// Whether there was ever a slab here.
    has_slabs: AtomicBool,
}

impl Slab {
    fn new(window: PageRange) -> Result<Self, OsError> {
        let slot = || Slot {
            bins: Mutex::new(Bins::default()),
            remote: RemoteList::new(),
            has_slabs: AtomicBool::new(false),
        };
        Ok(Self {
            tags: Table::zeroed(window.len() as usize)?,
            infos: Table::zeroed(window.len() as usize)?,
            first: window.first(),
            slots: (0..SLAB_CACHES).map(|_| slot()).collect(),
            visitors: AtomicU32::new(0),
            late_violations: AtomicU64::new(0),
        })
    }

    fn pages(&self) -> Pages<'_> {
        Pages::new(self.tags.as_ref(), self.infos.as_ref(), self.first)
    }

    fn page_tag(&self, page: PageIndex) -> &PageTag {
        let pages = self.pages();
        pages.tag_of(pages.number(page))
    }

    /// What a page of the window belongs to.
    pub(crate) fn tag(&self, page: PageIndex) -> Tag {
        self.page_tag(page).load()
    }

    /// Called under the arena's lock: forgets a page that is about to be freed.
    pub(crate) fn untag(&self, page: PageIndex) {
        self.page_tag(page).store(Tag::None);
    }

    /// Called under the arena's lock: makes new pages one large object.
    fn install_large(&self, range: PageRange) {
        for (page, before) in range.pages().zip(0u32..).skip(1) {
            self.page_tag(page).store(Tag::LargeRest(before));
        }
        self.page_tag(range.first()).store(Tag::Large(range.len()));
    }

    fn usage(&self) -> SlabUsage {
        let mut usage = SlabUsage {
            late_violations: self.late_violations.load(Ordering::Relaxed),
            ..SlabUsage::default()
        };
        for (tag, info) in self.pages().all() {
            match tag {
                Tag::None => continue,
                Tag::Dying | Tag::Released | Tag::LargeRest(_) => {}
                Tag::Large(_) => usage.objects += 1,
                // The page may pass to another class between the two looks.
                Tag::Slab(_, class) => {
                    let allocated = class.objects().saturating_sub(info.free());
                    usage.objects += u64::from(allocated);
                }
            }
            usage.pages += 1;
        }
        for bins in self
            .slots
            .iter()
            .filter_map(|slot| slot.bins.try_lock().ok())
        {
            // What is taken out of stock meanwhile may be counted here and not above.
            usage.objects = usage.objects.saturating_sub(bins.held());
        }
        usage
    }
}

impl Arena {
    /// Takes the slab cache of a CPU for as long as the value lives. What it allocates may be
    /// freed through any other cache of this arena.
    ///
    /// ```
    /// # use harena_abi::{Cpu, bpf::BPF_F_MMAPABLE};
    /// # use harena_arena::{Arena, ArenaSpec};
    /// # let arena = Arena::create(&ArenaSpec {
    /// #     max_entries: 64,
    /// #     map_flags: BPF_F_MMAPABLE,
    /// #     map_extra: 0x1000_0000_0000,
    /// #     ..ArenaSpec::default()
    /// # })?;
    /// let mut cache = arena.slab_cache(Cpu::new(0)).expect("nobody uses it");
    /// let node = cache.alloc(48).expect("64 pages are free");
    /// arena.ptr::<u64>(node).write(7);
    /// cache.free(node).expect("it was allocated");
    /// assert!(cache.free(node).is_err(), "and is free now");
    /// # Ok::<(), harena_arena::CreateError>(())
    /// ```
    pub fn slab_cache(&self, cpu: Cpu) -> Result<SlabCache<'_>, SlabCacheError> {
        if !self.shared.is_owner() {
            return Err(SlabCacheError::Forked);
        }
        SlabCache::take(self, self.slab()?, SlotIndex::of(cpu.raw()))
            .ok_or(SlabCacheError::Busy { cpu })
    }

    /// As [`Arena::slab_cache`], of the first CPU that nobody uses: for threads of the host
    /// that are no CPU's. The caches of the highest CPUs are tried first.
    pub fn any_slab_cache(&self) -> Result<SlabCache<'_>, SlabCacheError> {
        let mut cpus = (0..SLAB_CACHES).rev().map(Cpu::new);
        cpus.find_map(|cpu| match self.slab_cache(cpu) {
            Err(SlabCacheError::Busy { .. }) => None,
            done => Some(done),
        })
        .unwrap_or(Err(SlabCacheError::Busy { cpu: Cpu::new(0) }))
    }

    /// What the slab allocator holds. Looks at every page: for tests and statistics.
    #[must_use]
    pub fn slab_usage(&self) -> SlabUsage {
        self.slab.get().map_or_else(SlabUsage::default, Slab::usage)
    }

    fn slab(&self) -> Result<&Slab, SlabCacheError> {
        if let Some(slab) = self.slab.get() {
            return Ok(slab);
        }
        let placed = self.shared.placed.get();
        let window = placed.ok_or(SlabCacheError::NoWindow)?.window;
        let new = Slab::new(window).map_err(SlabCacheError::Os)?;
        // Another thread may have been faster; then its tables are the ones.
        Ok(self.slab.get_or_init(|| new))
    }
}

const _: () = assert!(SLAB_SIZE_MAX as u64 == PAGE_SIZE);
