//! sched_ext constants (`SCX_*`), with the kernel's names and values.

/// Default slice in nanoseconds.
pub const SCX_SLICE_DFL: u64 = 20_000_000;
