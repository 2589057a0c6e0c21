//! The atomic operations that both kinds of pointer into an arena have.

/// Gives a pointer type atomic operations on the integers that processors have them for. Its
/// `host()` must name a place that stays mapped as long as the pointer lives.
macro_rules! operations {
    ($pointer:ident) => {
        $crate::mem::atomic::operations!($pointer, u8, AtomicU8);
        $crate::mem::atomic::operations!($pointer, u16, AtomicU16);
        $crate::mem::atomic::operations!($pointer, u32, AtomicU32);
        $crate::mem::atomic::operations!($pointer, u64, AtomicU64);
    };
    ($pointer:ident, $int:ty, $atomic:ident) => {
        /// Atomic operations; `None` if the place is not aligned for them.
        impl $pointer<'_, $int> {
            fn atomic<R>(
                self,
                operation: impl FnOnce(&std::sync::atomic::$atomic) -> R,
            ) -> Option<R> {
                let host = self.host();
                if !host.is_aligned() {
                    return None;
                }
                // SAFETY: aligned, and in the arena (as in `read`), which outlives the operation;
                // all concurrent accesses are atomic or volatile ones.
                let place = unsafe { std::sync::atomic::$atomic::from_ptr(host) };
                Some(operation(place))
            }

            /// Atomic load. As in the standard library, it panics for `Release` and `AcqRel`.
            #[must_use]
            pub fn load(self, order: std::sync::atomic::Ordering) -> Option<$int> {
                self.atomic(|place| place.load(order))
            }

            /// Atomic store. As in the standard library, it panics for `Acquire` and `AcqRel`.
            #[must_use]
            pub fn store(self, value: $int, order: std::sync::atomic::Ordering) -> Option<()> {
                self.atomic(|place| place.store(value, order))
            }

            /// Atomic exchange; gives the old value.
            #[must_use]
            pub fn swap(self, value: $int, order: std::sync::atomic::Ordering) -> Option<$int> {
                self.atomic(|place| place.swap(value, order))
            }

            /// Atomic addition; gives the old value.
            #[must_use]
            pub fn fetch_add(
                self,
                value: $int,
                order: std::sync::atomic::Ordering,
            ) -> Option<$int> {
                self.atomic(|place| place.fetch_add(value, order))
            }

            /// Atomic and; gives the old value.
            #[must_use]
            pub fn fetch_and(
                self,
                value: $int,
                order: std::sync::atomic::Ordering,
            ) -> Option<$int> {
                self.atomic(|place| place.fetch_and(value, order))
            }

            /// Atomic or; gives the old value.
            #[must_use]
            pub fn fetch_or(self, value: $int, order: std::sync::atomic::Ordering) -> Option<$int> {
                self.atomic(|place| place.fetch_or(value, order))
            }

            /// Atomic compare and exchange; gives the old value, which tells of success.
            #[must_use]
            pub fn compare_exchange(self, old: $int, new: $int) -> Option<$int> {
                use std::sync::atomic::Ordering;
                self.atomic(|place| {
                    // AcqRel: a full exchange, as the programs' own atomics are.
                    place
                        .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
                        .unwrap_or_else(|seen| seen)
                })
            }
        }
    };
}
pub(super) use operations;
