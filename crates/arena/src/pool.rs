//! A pool of small host-owned structures over pages of an arena.
//!
//! The host keeps per-CPU and per-task structures where programs can read them. Its
//! bookkeeping lies outside the arena, where no program can scribble over it. In the
//! likeness of the kernel's `gen_pool`: 8-byte granules, grown when a request does not fit,
//! never shrunk; alloc and free by address and size. What programs free with page free is
//! their own loss: the pool goes on handing out addresses there, and the host's accesses are
//! recovered like any other.

use harena_abi::{ArenaOffset, KernAddr, PAGE_SIZE, UserAddr};

use crate::alloc::AllocError;
use crate::arena::Arena;
use crate::lock::locked;
use crate::range_tree::RangeTree;
use crate::sync::{Arc, Mutex};

/// Bytes of the unit that sizes are rounded up to.
pub const POOL_GRANULE: u64 = 8;
/// Pages that a pool grows by, if the request does not need more.
pub const POOL_GROWTH_PAGES: u32 = 4;

const GRANULES_PER_PAGE: u32 = 512;
const _: () = assert!(GRANULES_PER_PAGE as u64 * POOL_GRANULE == PAGE_SIZE);

/// A sub-allocator over pages that it claims from its arena.
#[derive(Debug)]
pub struct Pool {
    arena: Arc<Arena>,
    state: Mutex<State>,
}

/// In granules from `kern_vm_start`: 2^29 of them, so that they fit the tree.
#[derive(Debug, Default)]
struct State {
    free: RangeTree,
    owned: RangeTree,
    outstanding: u64,
}

/// Why the pool gave no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PoolError {
    /// Nothing was asked for, or more than an arena can hold.
    #[error("a pool cannot give {size} bytes")]
    Size {
        /// As given.
        size: u64,
    },
    /// The arena gave no pages.
    #[error("pool growth")]
    Grow(#[source] AllocError),
}

/// Memory given back that is not the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{size} bytes at {address} are not allocated from this pool")]
pub struct PoolFreeError {
    /// As given.
    pub address: KernAddr,
    /// As given.
    pub size: u64,
}

impl Pool {
    /// An empty pool; it claims pages when it is first asked.
    #[must_use]
    pub fn new(arena: Arc<Arena>) -> Self {
        Self {
            arena,
            state: Mutex::new(State::default()),
        }
    }

    /// The arena that the pool lies in.
    #[must_use]
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Gives `size` bytes, aligned to 8, with what their last owner left in them. The user
    /// address is `arena.user_addr(arena.offset_of(address))`. May wait.
    pub fn alloc(&self, size: u64) -> Result<KernAddr, PoolError> {
        let granules = size.div_ceil(POOL_GRANULE);
        let granules = u32::try_from(granules).ok().filter(|count| *count > 0);
        let granules = granules.ok_or(PoolError::Size { size })?;
        let mut state = locked(&self.state);
        let start = match state.free.find(granules) {
            Some(start) => start,
            None => loop {
                let grown = self.grow(granules)?;
                // A program freed pages of the pool, and the arena gave them out again: they
                // are backed once more, and who has memory there keeps it. Each round takes
                // pages, so this ends.
                if state.add(grown) {
                    break grown.0;
                }
            },
        };
        state.free.clear(start, granules);
        state.outstanding += u64::from(granules) * POOL_GRANULE;
        Ok(self.arena.kern_addr(ArenaOffset::new(start * 8)))
    }

    /// Takes back what `alloc` gave for `size`.
    pub fn free(&self, address: KernAddr, size: u64) -> Result<(), PoolFreeError> {
        let error = PoolFreeError { address, size };
        let offset = self.arena.offset_of(address).ok_or(error)?;
        let granules = u32::try_from(size.div_ceil(POOL_GRANULE)).map_err(|_too_big| error)?;
        let start = offset.raw() / 8;
        let aligned = offset.raw().is_multiple_of(8);
        let mut state = locked(&self.state);
        let owned = granules > 0 && state.owned.is_set(start, granules);
        if !aligned || !owned || state.free.intersects(start, granules) {
            return Err(error);
        }
        state.free.set(start, granules);
        state.outstanding -= u64::from(granules) * POOL_GRANULE;
        Ok(())
    }

    /// Takes back all that is outstanding, and says how many bytes that was. The pages stay
    /// the pool's; they go with the arena.
    pub fn destroy(self) -> u64 {
        locked(&self.state).outstanding
    }

    /// Bytes that were allocated and not freed.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        locked(&self.state).outstanding
    }

    /// Claims pages; gives their granules.
    fn grow(&self, granules: u32) -> Result<(u32, u32), PoolError> {
        let pages = granules.div_ceil(GRANULES_PER_PAGE).max(POOL_GROWTH_PAGES);
        let user: UserAddr = self
            .arena
            .alloc_pages(None, pages, 0)
            .map_err(PoolError::Grow)?;
        Ok((ArenaOffset::of(user).raw() / 8, pages * GRANULES_PER_PAGE))
    }
}

impl State {
    /// Makes new pages the pool's; false if some of them are already.
    fn add(&mut self, (start, granules): (u32, u32)) -> bool {
        if self.owned.intersects(start, granules) {
            return false;
        }
        self.owned.set(start, granules);
        // Not merged with free space before it: `alloc` takes from the start of the new part.
        self.free.set(start, granules);
        true
    }
}
