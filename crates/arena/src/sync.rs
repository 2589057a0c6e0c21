//! The one place that names what threads share, so that shuttle can explore their schedules.
//!
//! With `--cfg shuttle` the lock, the atomics and the waiting are shuttle's, and each use of
//! one is a point at which another thread may run. What is set once, under the lock, needs no
//! such point: `OnceLock` is always `std`'s.

#[cfg(not(shuttle))]
pub(crate) use std::hint::spin_loop;
#[cfg(not(shuttle))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::thread::yield_now;

#[cfg(shuttle)]
pub(crate) use shuttle::hint::spin_loop;
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(shuttle)]
pub(crate) use shuttle::thread::yield_now;

pub(crate) use std::sync::atomic::{Ordering, fence};
pub(crate) use std::sync::{Arc, OnceLock, PoisonError, TryLockError};
