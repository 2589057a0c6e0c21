//! The few `bpf(2)` calls that are needed, and the arena's user mapping.
//!
//! Attributes are laid out by hand, as bytes at the offsets that the kernel's interface fixes:
//! each command reads the length it is given and takes the rest as zero.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_MAP_DELETE_ELEM: i32 = 3;
const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_TEST_RUN: i32 = 10;
const BPF_BTF_LOAD: i32 = 18;
const BPF_PROG_TYPE_SYSCALL: u32 = 31;
const BPF_F_SLEEPABLE: u32 = 1 << 4;
const LOG_BYTES: usize = 1 << 16;
/// The kernel's `BPF_LOG_LEVEL1`.
const LOG_LEVEL: u32 = 1;

/// `union bpf_attr`, long enough for the commands used here.
#[derive(Clone)]
struct Attr([u8; 120]);

impl Attr {
    fn new() -> Self {
        Self([0; 120])
    }

    fn u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(mut self, offset: usize, value: u64) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    /// The address of `bytes`, which must outlive the call.
    fn pointer<T>(self, offset: usize, bytes: *const T) -> Self {
        self.u64(
            offset,
            u64::try_from(bytes.addr()).expect("addresses have 64 bits"),
        )
    }

    fn call(&mut self, command: i32) -> io::Result<i32> {
        // SAFETY: the kernel reads and writes `len` bytes, which is the array's length, and what
        // the pointers in it point to; each caller keeps those alive across the call.
        let ret =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(i32::try_from(ret).expect("a descriptor or 0"))
    }

    fn call_fd(&mut self, command: i32) -> io::Result<OwnedFd> {
        let fd = self.call(command)?;
        // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// Creates an arena of `pages` pages whose window begins at `user_vm_start`.
pub(super) fn create_arena(pages: u32, map_flags: u32, user_vm_start: u64) -> io::Result<OwnedFd> {
    const BPF_MAP_TYPE_ARENA: u32 = 33;
    Attr::new()
        .u32(0, BPF_MAP_TYPE_ARENA)
        .u32(12, pages)
        .u32(16, map_flags)
        .u64(64, user_vm_start)
        .call_fd(BPF_MAP_CREATE)
}

fn create_map(map_type: u32, value_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    Attr::new()
        .u32(0, map_type)
        .u32(4, 4)
        .u32(8, value_bytes)
        .u32(12, entries)
        .call_fd(BPF_MAP_CREATE)
}

/// Creates an array with one value.
pub(super) fn create_array(value_bytes: u32) -> io::Result<OwnedFd> {
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    create_map(BPF_MAP_TYPE_ARRAY, value_bytes, 1)
}

/// Creates a hash map with keys of four bytes.
pub(super) fn create_hash(value_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    const BPF_MAP_TYPE_HASH: u32 = 1;
    create_map(BPF_MAP_TYPE_HASH, value_bytes, entries)
}

fn element(map: &OwnedFd, key: &u32) -> Attr {
    let fd = u32::try_from(map.as_raw_fd()).expect("descriptors are not negative");
    Attr::new().u32(0, fd).pointer(8, ptr::from_ref(key))
}

/// The value of a key, of the map's `value_bytes`.
pub(super) fn lookup(map: &OwnedFd, key: u32, value_bytes: u32) -> Option<Vec<u8>> {
    // The kernel rounds values of arrays up to words.
    let bytes = usize::try_from(value_bytes).expect("values are small");
    let mut value = vec![0u8; bytes.next_multiple_of(8)];
    let mut attr = element(map, &key).pointer(16, value.as_mut_ptr().cast_const());
    attr.call(BPF_MAP_LOOKUP_ELEM).ok()?;
    value.truncate(bytes);
    Some(value)
}

/// Sets the value of a key.
pub(super) fn update(map: &OwnedFd, key: u32, value: &[u8]) -> io::Result<()> {
    let mut padded = value.to_vec();
    padded.resize(value.len().next_multiple_of(8), 0);
    let mut attr = element(map, &key).pointer(16, padded.as_ptr());
    attr.call(BPF_MAP_UPDATE_ELEM).map(|_zero| ())
}

/// Deletes a key, if it is there.
pub(super) fn delete(map: &OwnedFd, key: u32) {
    // The one error that there can be is that it is not there.
    drop(element(map, &key).call(BPF_MAP_DELETE_ELEM));
}

/// Loads the types of a program.
pub(super) fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    Attr::new()
        .pointer(0, btf.as_ptr())
        .u32(16, u32::try_from(btf.len()).expect("types are few"))
        .call_fd(BPF_BTF_LOAD)
}

/// Where a function begins, and its type: the kernel's `struct bpf_func_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct FuncInfo {
    pub(super) insn_off: u32,
    pub(super) type_id: u32,
}

/// Loads a `syscall` program, with the types of its functions if there are any; the verifier's
/// last words on failure.
pub(super) fn load_syscall_program(
    code: &[u8],
    types: Option<(&OwnedFd, &[FuncInfo])>,
) -> Result<OwnedFd, String> {
    let mut attr = Attr::new()
        .u32(0, BPF_PROG_TYPE_SYSCALL)
        .u32(
            4,
            u32::try_from(code.len() / 8).expect("programs are short"),
        )
        .pointer(8, code.as_ptr())
        .pointer(16, c"GPL".as_ptr())
        .u32(44, BPF_F_SLEEPABLE);
    if let Some((btf, functions)) = types {
        let fd = u32::try_from(btf.as_raw_fd()).expect("descriptors are not negative");
        let bytes = size_of::<FuncInfo>();
        attr = attr
            .u32(72, fd)
            .u32(76, u32::try_from(bytes).expect("eight"))
            .pointer(80, functions.as_ptr())
            .u32(88, u32::try_from(functions.len()).expect("a few functions"));
    }
    // A log that does not fit would be an error of its own, so it is asked for afterwards.
    attr.clone().call_fd(BPF_PROG_LOAD).map_err(|error| {
        let mut log = vec![0u8; LOG_BYTES];
        let again = attr
            .u32(24, LOG_LEVEL)
            .u32(
                28,
                u32::try_from(LOG_BYTES).expect("it is a small constant"),
            )
            .pointer(32, log.as_mut_ptr().cast_const())
            .call_fd(BPF_PROG_LOAD);
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        format!(
            "{error}: {} {again:?}",
            String::from_utf8_lossy(&log[..end])
        )
    })
}

/// Runs a `syscall` program; the kernel writes the context back in place.
pub(super) fn run(program: &OwnedFd, context: &mut [u8]) -> io::Result<u32> {
    let fd = u32::try_from(program.as_raw_fd()).expect("descriptors are not negative");
    let mut attr = Attr::new()
        .u32(0, fd)
        .u32(
            40,
            u32::try_from(context.len()).expect("contexts are short"),
        )
        .pointer(48, context.as_mut_ptr().cast_const());
    attr.call(BPF_PROG_TEST_RUN)?;
    let ret = attr.0[4..8].try_into().expect("four bytes");
    Ok(u32::from_ne_bytes(ret))
}

/// The user side of a kernel's arena, at its fixed address.
#[derive(Debug)]
pub(super) struct UserMapping {
    base: *mut u64,
    bytes: usize,
}

impl UserMapping {
    pub(super) fn new(arena: &OwnedFd, user_vm_start: u64, bytes: usize) -> io::Result<Self> {
        let address = usize::try_from(user_vm_start).expect("addresses have 64 bits");
        // SAFETY: MAP_FIXED_NOREPLACE takes no address that is in use, so nothing that Rust knows
        // of is touched.
        let base = unsafe {
            libc::mmap(
                ptr::with_exposed_provenance_mut::<c_void>(address),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
                arena.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base: base.cast(),
            bytes,
        })
    }

    /// The word at `offset`; the kernel may change it, so it is only ever used atomically.
    fn word(&self, offset: u64) -> &AtomicU64 {
        let offset = usize::try_from(offset).expect("offsets are small");
        assert!(offset.is_multiple_of(8));
        assert!(offset < self.bytes);
        // SAFETY: the offset lies in the mapping (asserted above), which lives as long as `self`.
        let word = unsafe { self.base.add(offset / 8) };
        // SAFETY: aligned, mapped for reading and writing, and never accessed non-atomically.
        unsafe { AtomicU64::from_ptr(word) }
    }

    pub(super) fn read(&self, offset: u64) -> u64 {
        // Relaxed: programs run on this thread, inside a system call.
        self.word(offset).load(Ordering::Relaxed)
    }

    pub(super) fn write(&self, offset: u64, value: u64) {
        // Relaxed: as in `read`.
        self.word(offset).store(value, Ordering::Relaxed);
    }
}

impl Drop for UserMapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}
