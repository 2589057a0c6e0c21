//! An alternate signal stack, so that the handler runs even where a thread's stack ended.
//!
//! Rust gives its own threads a small one; threads of other languages may have none. A
//! stack that is big enough already is left alone.

use core::cell::RefCell;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr;
use std::rc::{Rc, Weak};

use crate::sys::linux::last_errno;
use crate::sys::linux::memory::AddressRange;
use crate::sys::{OsError, PAGE, Protection, Span};

/// Room for the handler, and for one that it forwards to.
const STACK_SIZE_MIN: usize = 64 * 1024;

/// Keeps the thread's alternate stack. The last one of a thread restores the former stack when
/// it is dropped, on the same thread.
#[derive(Clone, Debug)]
#[must_use]
pub(crate) struct AltStack {
    _stack: Rc<Stack>,
}

#[derive(Debug)]
struct Stack {
    /// Unmapped only when the kernel no longer knows it.
    ours: ManuallyDrop<AddressRange>,
    former: libc::stack_t,
}

thread_local! {
    /// The stack that this thread has from us, for further guards to share.
    static OURS: RefCell<Weak<Stack>> = const { RefCell::new(Weak::new()) };
}

/// Gives the calling thread an alternate stack, unless it has a foreign one that is big enough.
pub(crate) fn on_alt_stack() -> Result<Option<AltStack>, OsError> {
    if let Some(stack) = OURS.with_borrow(Weak::upgrade) {
        return Ok(Some(AltStack { _stack: stack }));
    }
    let stack = new_stack()?.map(Rc::new);
    OURS.with_borrow_mut(|ours| *ours = stack.as_ref().map_or_else(Weak::new, Rc::downgrade));
    Ok(stack.map(|stack| AltStack { _stack: stack }))
}

fn new_stack() -> Result<Option<Stack>, OsError> {
    let size = stack_size();
    let mut former = MaybeUninit::<libc::stack_t>::uninit();
    // SAFETY: a null first argument only asks; the second is valid for a write.
    let asked = unsafe { libc::sigaltstack(ptr::null(), former.as_mut_ptr()) };
    if asked != 0 {
        return Err(OsError {
            call: "sigaltstack",
            len: size,
            errno: last_errno(),
        });
    }
    // SAFETY: the call above succeeded, so it has filled the structure.
    let former = unsafe { former.assume_init() };
    if former.ss_flags & libc::SS_DISABLE == 0 && former.ss_size >= size {
        return Ok(None);
    }
    // The lowest page stays inaccessible: an overflow faults instead of writing on.
    let ours = AddressRange::reserve(size + PAGE)?;
    ours.map_anonymous(
        Span {
            offset: PAGE,
            len: size,
        },
        Protection::ReadWrite,
    )?;
    let stack = libc::stack_t {
        ss_sp: ours.base().wrapping_add(PAGE).cast(),
        ss_flags: 0,
        ss_size: size,
    };
    // SAFETY: the stack is mapped, and stays so until `Drop` has restored the former one.
    let set = unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
    if set != 0 {
        return Err(OsError {
            call: "sigaltstack",
            len: size,
            errno: last_errno(),
        });
    }
    Ok(Some(Stack {
        ours: ManuallyDrop::new(ours),
        former,
    }))
}

/// Wide vector state makes signal frames large; the kernel says how large.
fn stack_size() -> usize {
    // SAFETY: the function has no preconditions; 0 means that the kernel does not say.
    let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) };
    let frame = usize::try_from(frame).unwrap_or(0);
    STACK_SIZE_MIN.max(frame.saturating_mul(2).next_multiple_of(PAGE))
}

impl Drop for Stack {
    fn drop(&mut self) {
        let mut current = MaybeUninit::<libc::stack_t>::uninit();
        // SAFETY: a null first argument only asks; the second is valid for a write.
        let asked = unsafe { libc::sigaltstack(ptr::null(), current.as_mut_ptr()) };
        if asked != 0 {
            return;
        }
        // SAFETY: the call above succeeded, so it has filled the structure.
        let current = unsafe { current.assume_init() };
        if current.ss_sp.addr() != self.ours.base().addr() + PAGE {
            // Somebody put another stack in place since. They may put ours back when they undo
            // that, so it stays mapped.
            return;
        }
        // SAFETY: the former stack was valid when ours replaced it, and its owner, on this
        // thread, has not seen it in use since.
        let restored = unsafe { libc::sigaltstack(&raw const self.former, ptr::null_mut()) };
        if restored == 0 {
            // SAFETY: dropped here only, and never used again: the kernel has let go of it.
            unsafe { ManuallyDrop::drop(&mut self.ours) };
        }
    }
}
