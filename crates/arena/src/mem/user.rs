//! Access to the view of an arena that lives in another process.
//!
//! As [`crate::ArenaPtr`], with one difference: a view has no guards, so every place is checked
//! against its bounds when it is made, and none leads out of it.

use core::fmt;
use core::marker::PhantomData;

use harena_abi::UserAddr;

use crate::mem::{Plain, Unaligned};
use crate::remote::UserView;

/// A typed place in another process's arena. Holding one proves nothing about what lies there.
pub struct UserPtr<'a, T> {
    /// Invariant: the whole value lies in the view.
    place: *mut T,
    view: PhantomData<&'a UserView>,
}

impl<T> Clone for UserPtr<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for UserPtr<'_, T> {}

impl<T> fmt::Debug for UserPtr<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserPtr({:#x})", self.place.addr())
    }
}

impl UserView {
    /// The value at a user address, as pointers in the arena name it; `None` if not all of it
    /// lies in the window.
    #[must_use]
    pub fn ptr<T: Plain>(&self, address: UserAddr) -> Option<UserPtr<'_, T>> {
        let offset = address.offset_from(self.user_vm_start())?;
        let end = offset.checked_add(size_of::<T>() as u64)?;
        let offset = usize::try_from(offset).ok()?;
        (end <= self.byte_size()).then(|| UserPtr {
            place: self.base().wrapping_add(offset).cast(),
            view: PhantomData,
        })
    }
}

impl<T: Plain> UserPtr<'_, T> {
    /// Where it is.
    #[must_use]
    pub fn address(self) -> UserAddr {
        UserAddr::new(self.place.addr() as u64)
    }

    fn host(self) -> *mut T {
        self.place
    }

    /// Reads the value with one volatile load (of any alignment).
    #[must_use]
    pub fn read(self) -> T {
        let place = self.place.cast::<Unaligned<T>>();
        // SAFETY: the value lies in the view (invariant), which outlives this pointer and stays
        // mapped as long as it lives (but for a child made by fork, see `read` of `ArenaPtr`); any
        // bytes are a `T`; `Unaligned` has alignment 1. A page
        // that the arena refuses ends the process.
        unsafe { place.read_volatile() }.0
    }

    /// Writes the value with one volatile store (of any alignment).
    pub fn write(self, value: T) {
        let place = self.place.cast::<Unaligned<T>>();
        // SAFETY: as in `read`; and no reference exists that the store could invalidate.
        unsafe { place.write_volatile(Unaligned(value)) }
    }
}

super::atomic::operations!(UserPtr);
