//! What compiled code and its host share while it runs.
//!
//! Code holds the context's address in one register for the whole run. Fields are read and
//! written by offset, so their order is free but their types are not.

/// Frames of one run, callbacks included.
pub const FRAMES_MAX: usize = 8;

/// How a run of compiled code ended, in [`Context::status`].
pub mod status {
    /// The program returned; r0 is the entry's result.
    pub const RETURNED: u32 = 0;
    /// A call said stop.
    pub const STOPPED: u32 = 1;
    /// Go on in the interpreter at [`super::Context::pc`] with [`super::Context::regs`]: the
    /// budget ends in this block, or the operation ends the run.
    pub const INTERPRET: u32 = 2;
}

/// What a call of the host tells the code.
pub mod reply {
    /// Go on behind the call.
    pub const GO_ON: u64 = 0;
    /// End the run.
    pub const STOP: u64 = 1;
    /// Return from the function: a tail call was made. Only looked at behind a call of helper
    /// [`harena_bpf::code::TAIL_CALL`].
    pub const RETURN: u64 = 2;
}

/// The state of one activation of compiled code.
///
/// Machine calls to the host: `call(r1, r2, r3, r4, r5, context)` for helpers and kfuncs,
/// which gives r0 and a [`reply`] in two registers, and `access(context, base, value, r0)` for
/// what a memory operation cannot do itself, which gives the new value of the register that the
/// operation writes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Context {
    /// Instructions the run may still execute.
    pub left: u64,
    /// The slot that is being executed, whenever the host is called.
    pub pc: u32,
    /// Functions called on top of the first one.
    pub depth: u32,
    /// The highest `depth` that is allowed.
    pub depth_max: u32,
    /// How the run ended: see [`status`].
    pub status: u32,
    /// Host address of the guest's first byte.
    pub guest: u64,
    /// Guest address of that byte.
    pub guest_start: u64,
    /// Host minus guest address of everything.
    pub delta: u64,
    /// Host address that r10 stands for.
    pub frame: u64,
    /// Host address of the arena's 32-bit offset 0.
    pub arena: u64,
    /// High half of arena pointers as users see them.
    pub user_high: u64,
    /// Where the machine's stack stood at the entry.
    pub stack: u64,
    /// Function for helpers and kfuncs.
    pub call: u64,
    /// Function for memory operations.
    pub access: u64,
    /// Machine address of the function to run.
    pub target: u64,
    /// Registers: r1 to r5 at the entry; all but r10 with [`status::INTERPRET`].
    pub regs: [u64; 11],
    /// The call that each frame below the innermost is at.
    pub pcs: [u32; FRAMES_MAX],
    /// `may_goto`s that each frame may still fall through.
    pub may_goto_left: [u32; FRAMES_MAX],
    /// The same at a frame's start.
    pub may_goto_max: u32,
    /// What the register of a `callx` holds, while its call is made.
    pub callee: u64,
}

/// Bits of a guest address that masked accesses keep.
pub const GUEST_BITS: u32 = 36;

/// Bits of an index that may be added to a guest address which was cut before: so much host memory
/// behind the guest, and 64 KiB more for an offset, faults.
pub const INDEX_BITS: u8 = 36;

/// Guest bytes that share one bound, as a power of two.
pub const UNIT_SHIFT: u32 = 29;
/// Units that may have bounds.
const UNITS: usize = 64;
/// Bytes of all bounds: for loads and stores of 1, 2, 4 and 8 bytes.
pub const BOUNDS_SIZE: usize = 8 * UNITS * 8;
/// How far before the guest's first byte the bounds begin: out of reach.
pub const BOUNDS_DISTANCE: usize = 1 << 20;

/// Which accesses a bound is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BoundOf {
    /// Loads.
    Loads,
    /// Stores and atomics.
    Stores,
}

/// Where the bound of a unit lies in memory, relative to the guest's first byte. The bound is
/// an offset from there: an access of `1 << size_log2` bytes that begins in the unit is good if
/// it begins below. The unit's number counts from 0, each of 512 MiB.
#[must_use]
pub const fn bounds_offset(unit: usize, size_log2: usize, access: BoundOf) -> isize {
    assert!(unit < UNITS);
    assert!(size_log2 < 4);
    let table = match access {
        BoundOf::Loads => size_log2,
        BoundOf::Stores => 4 + size_log2,
    };
    ((table * UNITS + unit) * 8).cast_signed() - BOUNDS_DISTANCE.cast_signed()
}
