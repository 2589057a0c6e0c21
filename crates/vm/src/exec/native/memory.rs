//! Pages of machine code: written once, then never again.
//!
//! Memory is never writable and executable at the same time. A host may refuse to make it
//! executable at all (MDWE, seccomp, SELinux): that is an error, not an end.

use core::ptr::NonNull;

use harena_abi::PAGE_SIZE;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::JitRefused;

/// Executable memory.
#[derive(Debug)]
pub(super) struct ExecMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: nobody writes to the pages, and they belong to no thread.
unsafe impl Send for ExecMemory {}
// SAFETY: as above.
unsafe impl Sync for ExecMemory {}

#[expect(clippy::cast_possible_truncation, reason = "4096 fits any usize")]
const PAGE: usize = PAGE_SIZE as usize;

/// An instruction that traps: what lies behind the code.
const INT3: u8 = 0xcc;

impl ExecMemory {
    /// Copies code into fresh pages and makes them executable.
    pub(super) fn map(code: &[u8]) -> Result<Self, JitRefused> {
        let len = code.len().max(1).next_multiple_of(PAGE);
        let refused = |call| {
            move |error: rustix::io::Errno| JitRefused::Memory {
                call,
                len,
                errno: error.raw_os_error(),
            }
        };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED the kernel picks unused addresses.
        let base = unsafe { mmap_anonymous(core::ptr::null_mut(), len, prot, MapFlags::PRIVATE) };
        let base = NonNull::new(base.map_err(refused("mmap"))?.cast::<u8>());
        let memory = Self {
            base: base.expect("mmap gives no page at NULL"),
            len,
        };
        // SAFETY: the pages are ours, writable, and `len` bytes long.
        unsafe { memory.base.write_bytes(INT3, len) };
        let from = NonNull::from(code).cast::<u8>();
        // SAFETY: `code` is elsewhere and not longer than the pages.
        unsafe { memory.base.copy_from_nonoverlapping(from, code.len()) };
        let flags = MprotectFlags::READ | MprotectFlags::EXEC;
        // SAFETY: the pages are ours, and no reference into them exists.
        let made = unsafe { mprotect(memory.base.as_ptr().cast(), len, flags) };
        made.map_err(refused("mprotect"))?;
        Ok(memory)
    }

    /// Address of the first byte.
    pub(super) fn address(&self) -> usize {
        self.base.as_ptr().expose_provenance()
    }
}

impl Drop for ExecMemory {
    fn drop(&mut self) {
        // SAFETY: the pages are ours as a whole; whoever runs the code keeps `self` alive.
        let done = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(done.is_ok(), "munmap of what mmap gave: {done:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_read_and_executable_but_not_writable() {
        let memory = ExecMemory::map(&[0xc3; 10]).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let start = format!("{:x}-", memory.address());
        let line = maps.lines().find(|line| line.contains(&start));
        // Neighbouring mappings of the same kind are shown as one.
        assert!(line.is_none_or(|line| line.contains(" r-xp ")), "{line:?}");
        let writable = maps.lines().filter(|line| line.contains("rwx"));
        assert_eq!(writable.count(), 0);
    }
}
