//! BPF's own kernel types: iterators on a program's stack, and map objects it may read.

use super::ctype::ctypes;

ctypes! {
    /// State of a numeric iterator, as the program reserves it.
    struct bpf_iter_num {
        __opaque: [u64; 1],
    }
    /// State of an iterator over bits, as the program reserves it.
    struct bpf_iter_bits {
        __opaque: [u64; 2],
    }
    /// State of a dispatch queue's iterator, as the program reserves it.
    struct bpf_iter_scx_dsq {
        __opaque: [u64; 6],
    }
    /// State of an iterator over tasks, as the program reserves it.
    struct bpf_iter_task {
        __opaque: [u64; 3],
    }
    /// State of an iterator over cgroups.
    struct bpf_iter_css {
        __opaque: [u64; 3],
    }
    /// State of an iterator over a cgroup's tasks.
    struct bpf_iter_css_task {
        __opaque: [u64; 1],
    }
    /// A timer in a map value.
    struct bpf_timer {
        __opaque: [u64; 2],
    }
    /// A spin lock in a map value.
    struct bpf_spin_lock {
        val: u32,
    }
    /// A queued, deadlock-detecting lock.
    struct bpf_res_spin_lock {
        val: u32,
    }
    /// A pointer with a length, on a program's stack.
    struct bpf_dynptr {
        __opaque: [u64; 2],
    }
    /// The root of a red-black tree of objects, in a map value or an object.
    struct bpf_rb_root {
        __opaque: [u64; 2],
    }
    /// What puts an object into a red-black tree.
    struct bpf_rb_node {
        __opaque: [u64; 4],
    }
    /// A list of objects, in a map value or an object.
    struct bpf_list_head {
        __opaque: [u64; 2],
    }
    /// What puts an object into a list.
    struct bpf_list_node {
        __opaque: [u64; 3],
    }
    /// How many own an object.
    struct bpf_refcount {
        __opaque: [u32; 1],
    }
    /// What every map has; behind an arena map's address.
    struct bpf_map {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_extra: u64,
        map_flags: u32,
        id: u32,
    }
    /// An arena map.
    struct bpf_arena {
        map: bpf_map,
        user_vm_start: u64,
        user_vm_end: u64,
    }
}
