//! `BPF_*` constants that more than one crate needs.

/// Map type of an arena (`BPF_MAP_TYPE_ARENA`).
pub const BPF_MAP_TYPE_ARENA: u32 = 33;
/// Map flag: user space may map the memory.
pub const BPF_F_MMAPABLE: u32 = 1 << 10;
/// Arena flag: a user's touch of an empty page is a SIGSEGV, not an allocation.
pub const BPF_F_SEGV_ON_FAULT: u32 = 1 << 17;
/// Arena flag: casts to user addresses do nothing.
pub const BPF_F_NO_USER_CONV: u32 = 1 << 18;
