//! BPF arenas in user space: memory that sandboxed programs, the host and users share.
//!
//! The host reads and writes an arena directly, through pointers that programs hand in, and
//! never crashes on it: a touch of an empty page lands on a scratch page and is reported.
//!
//! ```
//! use std::sync::Arc;
//! use harena_abi::bpf::BPF_F_MMAPABLE;
//! use harena_abi::{ArenaOffset, Cpu};
//! use harena_arena::{Arena, ArenaSpec, ProgramScope, ProgramTag};
//!
//! let spec = ArenaSpec {
//!     max_entries: 100,
//!     map_flags: BPF_F_MMAPABLE,
//!     map_extra: 0x1000_0000_0000,
//!     ..ArenaSpec::default()
//! };
//! let arena = Arc::new(Arena::create(&spec)?);
//! let scope = ProgramScope::enter(ProgramTag::new(1), Some(&arena), Cpu::new(0));
//!
//! // A program handed this to a kfunc; the page is empty.
//! let wild = arena.ptr::<u64>(ArenaOffset::new(0x7008));
//! wild.write(42);
//!
//! let report = arena.drain_reports().next().expect("the write was reported");
//! assert_eq!(report.address.raw(), 0x1000_0000_7000);
//! # drop(scope);
//! # Ok::<(), harena_arena::CreateError>(())
//! ```
//!
//! # For embedders
//!
//! **Signal handlers.** The first arena installs a SIGSEGV handler (`SA_SIGINFO | SA_ONSTACK`),
//! which stays until [`uninstall_fault_handler`]. What is not an arena's fault goes to the
//! action that was there before, with its flags and its mask; a default action gives the same
//! core dump as without us. A program with a handler of its own installs it before the first
//! arena. One that is installed later must forward to ours, by calling it with its own three
//! arguments, or by putting it back and returning; else faults on arenas are crashes. If it
//! calls ours, it is installed with all signals in its mask, as ours is: a handler that ran in
//! the midst of ours must not touch the same page. The first [`UserView`] installs a handler for
//! SIGBUS in the same way. Tested
//! with plain and `SA_SIGINFO` handlers, `SA_RESETHAND`, `SA_NODEFER`, `SIG_IGN`, Rust's own
//! and the crate `crash-handler`; not with the Go runtime (needs `SA_ONSTACK`, which is set), a
//! Java VM (let it start first, or preload its chaining library), address sanitizer and rr,
//! which cannot be had in this crate's tests.
//!
//! **Threads.** Any thread may touch an arena, also one that Rust does not know of, or a fiber,
//! while it is in a [`ProgramScope`]; a scope belongs to the thread, not to the fiber, and a
//! signal handler enters none where it may interrupt another enter or its end. A thread
//! without a signal stack runs the handler on its own one, which needs room for a signal frame
//! and a few KiB. A thread with a small signal stack, or one that may overflow its stack, gets
//! an [`AltStack`]. Handlers of other signals may touch arenas, but not while they interrupt
//! their own thread in an alloc, free or first touch.
//!
//! **Limits of the process.** Creation fails with a typed error where the process lacks
//! addresses (4 GiB an arena), memory (20 MiB of tables), two descriptors, 60 mappings, or a
//! system call. At `vm.max_map_count` alloc fails, and faults are recovered by means of a small
//! reserve, which [`Arena::is_short_of_mappings`] and [`Arena::faults_recovered_short`] show.
//! In a cgroup with a memory limit give a `byte_limit`, lest the kernel kill the process.
//! `mlockall` does not lock arenas.
//!
//! **Processes.** A child made by fork has no arena: its calls fail, and the parent's memory is
//! out of its reach. It must not touch the arena through pointers made before: they lead to
//! addresses that are free in the child, so that a touch crashes, or meets what the child has
//! mapped there since. Spawning and exec are free of side effects. Another process gets a view
//! by [`Arena::share_user`] and [`UserView::attach`].
//!
//! `unsafe` lives in `sys` (mappings, signals) and `mem` (typed access) only; [`CompiledCode`]
//! declares one `unsafe fn`, whose promises are its caller's.

#![deny(unsafe_code)]

mod alloc;
mod arena;
mod code;
mod handler;
mod inject;
mod lock;
#[expect(unsafe_code, reason = "typed access to arena memory")]
mod mem;
#[cfg(test)]
mod plain_use;
mod pool;
mod range_tree;
#[cfg(unix)]
mod remote;
mod reservation;
#[cfg(all(test, shuttle))]
mod schedules;
mod scope;
mod shared;
mod shortage;
mod slab;
mod spec;
mod sync;
#[expect(unsafe_code, reason = "the seam to the operating system")]
mod sys;
mod view;

pub use alloc::{AllocError, FreeError, ReservePagesError};
pub use arena::{ARENA_AREA, Arena, MemoryUse, Segv, UserMapError};
pub use code::{CodeError, CompiledCode};
pub use handler::{AltStack, UninstallError, uninstall_fault_handler};
pub use harena_arena_fault::{
    Access, ArenaId, EntryState, ExtableEntry, GUARD_SIZE, HALF_GUARD, KERN_VM_SIZE, PageRange,
    ProgramTag, Report, WINDOW_PAGES, WINDOW_SIZE, WindowPage,
};
pub use inject::{FailedAllocs, Injection};
pub use lock::LockError;
#[cfg(unix)]
pub use mem::UserPtr;
pub use mem::{ArenaIter, ArenaPtr, ArenaSlice, CopyError, Plain, SliceError};
pub use pool::{POOL_GRANULE, POOL_GROWTH_PAGES, Pool, PoolError, PoolFreeError};
#[cfg(unix)]
pub use remote::{
    AttachError, LinkCloser, LinkError, PEERS_MAX, PeerLink, ShareError, UserView, WireError,
};
pub use reservation::{Reservation, ReserveError};
pub use scope::{ProgramScope, ScopeError};
pub use shared::{REPORTS_MAX, SCRATCH_MAX};
pub use shortage::SCRATCH_SHORT;
pub use slab::{
    SLAB_CACHES, SLAB_SIZE_MAX, SLAB_SIZE_MIN, SlabAllocError, SlabCache, SlabCacheError,
    SlabFreeError, SlabUsage,
};
pub use spec::{ArenaSpec, CreateError};
pub use sys::{OsError, Protection};
