//! The arena's lock: fails rather than deadlocks.
//!
//! While a thread holds it, a tracing hook may run a program that allocates from the same
//! arena: that attempt fails at once, since waiting for oneself is for ever. Waiting for
//! another thread is bounded too: with two arenas, two threads can hold what the other wants.
//! The bound is not on the length of a hold, which depends on the machine and its load, but on
//! how long the holder shows no progress: it notes each step of a long operation.

use std::ops::{Deref, DerefMut};

use harena_arena_fault::ThreadKey;

use crate::sync::{
    AtomicU32, AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError, TryLockError, yield_now,
};

/// How often a waiter looks, giving its time slice away after each look, before it takes a
/// holder that shows no progress for stuck: 0.4 s on an idle core. A step (see
/// [`OwnedGuard::progressed`]) takes some milliseconds.
const ATTEMPTS_MAX: u32 = 2_000_000;

/// A lock around `T` that knows its owner.
#[derive(Debug)]
pub(crate) struct OwnedLock<T> {
    /// The owner's thread key; 0 while free. Only its owner finds its own key here.
    owner: AtomicUsize,
    /// Holds begun and steps done; wraps.
    steps: AtomicU32,
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
    lock: &'a OwnedLock<T>,
    inner: MutexGuard<'a, T>,
}

impl<T> OwnedLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            owner: AtomicUsize::new(0),
            steps: AtomicU32::new(0),
            inner: Mutex::new(value),
        }
    }

    pub(crate) fn lock(&self, me: ThreadKey) -> Result<OwnedGuard<'_, T>, LockError> {
        // Relaxed: only this thread ever stores this thread's key.
        if self.owner.load(Ordering::Relaxed) == me.raw() {
            return Err(LockError::Reentered);
        }
        self.lock_waiting(me, yield_now)
    }

    /// Calls `wait` after each look at a lock that another thread holds.
    fn lock_waiting(
        &self,
        me: ThreadKey,
        mut wait: impl FnMut(),
    ) -> Result<OwnedGuard<'_, T>, LockError> {
        let mut steps = self.steps.load(Ordering::Relaxed);
        let mut attempts = 0;
        while attempts < ATTEMPTS_MAX {
            let inner = match self.inner.try_lock() {
                Ok(inner) => inner,
                // A panic under the lock leaves a tree whose ranges are still disjoint.
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    wait();
                    // Relaxed: a sign of life, which publishes nothing.
                    let now = self.steps.load(Ordering::Relaxed);
                    attempts = if now == steps { attempts + 1 } else { 0 };
                    steps = now;
                    continue;
                }
            };
            self.owner.store(me.raw(), Ordering::Relaxed);
            let guard = OwnedGuard { lock: self, inner };
            guard.progressed();
            return Ok(guard);
        }
        Err(LockError::TimedOut)
    }
}

impl<T> OwnedGuard<'_, T> {
    /// Notes that a step of a long operation is done, so that waiters go on waiting.
    pub(crate) fn progressed(&self) {
        // Relaxed: see `lock_waiting`.
        self.lock.steps.fetch_add(1, Ordering::Relaxed);
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
        self.lock.owner.store(0, Ordering::Relaxed);
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

    /// Stands for another thread, which waits on this one.
    fn other() -> ThreadKey {
        ThreadKey::new(std::num::NonZeroUsize::MAX)
    }

    #[test]
    fn a_waiter_gives_up_on_a_holder_that_gets_nowhere() {
        let lock = OwnedLock::new(1);
        let guard = lock.lock(thread_key()).unwrap();
        let mut looks = 0;
        let refused = lock.lock_waiting(other(), || looks += 1).unwrap_err();
        assert_eq!((refused, looks), (LockError::TimedOut, ATTEMPTS_MAX));
        drop(guard);
        assert!(lock.lock(other()).is_ok());
    }

    #[test]
    fn a_waiter_waits_as_long_as_the_holder_gets_on() {
        let lock = OwnedLock::new(1);
        let mut guard = Some(lock.lock(thread_key()).unwrap());
        let mut looks = 0;
        let wait = || {
            looks += 1;
            if looks == 3 * ATTEMPTS_MAX {
                guard = None;
            } else if let Some(guard) = guard.as_ref().filter(|_| looks % 1_000_000 == 0) {
                guard.progressed();
            }
        };
        assert_eq!(*lock.lock_waiting(other(), wait).unwrap(), 1);
        assert_eq!(looks, 3 * ATTEMPTS_MAX);
    }
}
