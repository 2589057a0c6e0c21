//! CPU masks as memory.

use super::ctype::ctypes;

/// `CONFIG_NR_CPUS`: the bits of a `struct cpumask`.
pub const NR_CPUS: u32 = 1024;

/// Words of a `struct cpumask`.
pub const CPUMASK_WORDS: usize = NR_CPUS as usize / 64;

ctypes! {
    /// A set of CPUs.
    struct cpumask {
        bits: [u64; CPUMASK_WORDS],
    }
    /// A counter of references.
    struct refcount_t {
        refs: i32,
    }
    /// A mask that a program owns. The mask comes first: casts to `struct cpumask` are legal.
    struct bpf_cpumask {
        cpumask: cpumask,
        usage: refcount_t,
    }
}

const _: () = assert!(core::mem::offset_of!(bpf_cpumask, cpumask) == 0);
