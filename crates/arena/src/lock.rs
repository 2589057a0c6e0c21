//! The arena's lock: fails rather than deadlocks.
//!
//! While a thread holds it, a tracing hook may run a program that allocates from the same
//! arena: that attempt fails at once, since waiting for oneself is for ever. Waiting for
//! another thread is bounded too: with two arenas, two threads can hold what the other wants.

use std::ops::{Deref, DerefMut};

use harena_arena_fault::ThreadKey;

use crate::sync::{AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError, TryLockError, yield_now};

/// How often a waiter looks, giving its time slice away after each look. The longest
/// legitimate hold (free of 4 GiB) takes a fraction of that.
const ATTEMPTS_MAX: u32 = 2_000_000;

/// A lock around `T` that knows its owner.
#[derive(Debug)]
pub(crate) struct OwnedLock<T> {
    /// The owner's thread key; 0 while free. Only its owner finds its own key here.
    owner: AtomicUsize,
    inner: Mutex<T>,
}

/// Why the lock was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LockError {
    /// This thread holds it: a program runs inside an operation on its own arena.
    #[error("this thread is inside another operation on the arena")]
    Reentered,
    /// Another thread held it for too long.
    #[error("another thread holds the arena's lock for too long")]
    TimedOut,
}

/// The lock is held while this lives.
#[derive(Debug)]
pub(crate) struct OwnedGuard<'a, T> {
    owner: &'a AtomicUsize,
    inner: MutexGuard<'a, T>,
}

impl<T> OwnedLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            owner: AtomicUsize::new(0),
            inner: Mutex::new(value),
        }
    }

    pub(crate) fn lock(&self, me: ThreadKey) -> Result<OwnedGuard<'_, T>, LockError> {
        // Relaxed: only this thread ever stores this thread's key.
        if self.owner.load(Ordering::Relaxed) == me.raw() {
            return Err(LockError::Reentered);
        }
        for _ in 0..ATTEMPTS_MAX {
            let inner = match self.inner.try_lock() {
                Ok(inner) => inner,
                // A panic under the lock leaves a tree whose ranges are still disjoint.
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    yield_now();
                    continue;
                }
            };
            self.owner.store(me.raw(), Ordering::Relaxed);
            return Ok(OwnedGuard {
                owner: &self.owner,
                inner,
            });
        }
        Err(LockError::TimedOut)
    }
}

impl<T> Deref for OwnedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for OwnedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> Drop for OwnedGuard<'_, T> {
    fn drop(&mut self) {
        // Before the mutex opens (fields drop after this): the next owner's store comes later.
        self.owner.store(0, Ordering::Relaxed);
    }
}

/// Takes a mutex whose data a panic cannot have left half changed.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::thread_key;

    #[test]
    fn the_owner_is_refused_and_may_lock_again_afterwards() {
        let lock = OwnedLock::new(1);
        let guard = lock.lock(thread_key()).unwrap();
        assert_eq!(lock.lock(thread_key()).unwrap_err(), LockError::Reentered);
        drop(guard);
        assert_eq!(*lock.lock(thread_key()).unwrap(), 1);
    }
}
