//! The one place that names atomics, so that model checkers can take their place.
//!
//! | `--cfg` | atomics | explores |
//! |---|---|---|
//! | none | `core`'s | nothing |
//! | `loom` | loom's, which cannot be built in a `const`, hence [`const_unless_loom!`] | every interleaving and memory ordering, of few threads |
//! | `shuttle` | shuttle's | random schedules of many threads; every ordering is `SeqCst` |

#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

/// Tells the processor (or the model's scheduler) that this thread waits for another.
pub(crate) fn spin_hint() {
    #[cfg(not(any(loom, shuttle)))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(shuttle)]
    shuttle::hint::spin_loop();
}

/// Declares a function that is `const` except under loom.
macro_rules! const_unless_loom {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty $body:block) => {
        #[cfg(not(loom))]
        $(#[$doc])*
        $vis const fn $name($($arg: $ty),*) -> $ret $body
        #[cfg(loom)]
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) -> $ret $body
    };
}
pub(crate) use const_unless_loom;
