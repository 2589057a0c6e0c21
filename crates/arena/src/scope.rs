//! Marking a thread as running a program, so that faults of host code can be attributed.
//!
//! The innermost program counts: while a program without an arena runs inside one with an
//! arena, faults are not recovered, as in a kernel.

use core::marker::PhantomData;

use harena_abi::Cpu;
use harena_arena_fault::{
    DEPTH_MAX, Depth, EnterError, ProgramTag, REGISTRY, Running, THREADS_MAX, ThreadKey,
};

use crate::arena::Arena;
use crate::sys::thread_key;

/// While this lives, its program runs on this thread.
///
/// A signal handler may enter one, unless it interrupts its thread as that enters or ends one:
/// block the signal around those, or let the handler enter none.
///
/// Scopes nest and end in the reverse order. One that ends before a scope inside it takes
/// nothing from that. One that is leaked stays as long as its thread; it keeps no arena alive
/// and does no harm but wrong reports, and one place fewer of [`ScopeError::TooDeep`].
#[must_use = "the program runs only while the scope lives"]
#[derive(Debug)]
pub struct ProgramScope<'a> {
    key: ThreadKey,
    depth: Depth,
    arena: PhantomData<&'a Arena>,
    /// A scope belongs to its thread.
    not_send: PhantomData<*mut ()>,
}

/// Why a program cannot run on this thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScopeError {
    /// Too many threads run programs at once.
    #[error("{THREADS_MAX} threads run programs already")]
    TooManyThreads,
    /// Too many programs are nested on this thread.
    #[error("{DEPTH_MAX} programs are nested already")]
    TooDeep,
}

impl<'a> ProgramScope<'a> {
    /// Marks `program` as running on this thread and on the simulated `cpu`, with `arena` as
    /// the arena that its maps reference. Reports carry the tag: use that of the main program
    /// for its subprograms and callbacks.
    #[inline]
    pub fn enter(
        program: ProgramTag,
        arena: Option<&'a Arena>,
        cpu: Cpu,
    ) -> Result<Self, ScopeError> {
        let key = thread_key();
        let running = Running {
            program,
            arena: arena.map(Arena::id),
            cpu,
        };
        let depth = REGISTRY.enter(key, running).map_err(|error| match error {
            EnterError::TooManyThreads => ScopeError::TooManyThreads,
            EnterError::TooDeep => ScopeError::TooDeep,
        })?;
        Ok(Self {
            key,
            depth,
            arena: PhantomData,
            not_send: PhantomData,
        })
    }
}

impl Drop for ProgramScope<'_> {
    fn drop(&mut self) {
        REGISTRY.leave(self.key, self.depth);
    }
}
