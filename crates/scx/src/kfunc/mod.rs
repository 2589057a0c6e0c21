//! The `scx_bpf_*` kfuncs, called from inside callbacks.
//!
//! CPU and cid parameters are the raw numbers the program gave, as CPUs in `*_cpu` and as
//! cids in `*_cid` kfuncs; a bad one raises the kernel's error with that number. Queue
//! ids are raw too: `SCX_DSQ_LOCAL_ON | cpu` or `| cid` by the scheduler's form. Tasks are
//! numbers that the adapter resolved; a number without a task is refused, never a panic.
//!
//! Which kfunc is legal in which callback is the adapter's to check when a program is
//! loaded; what would corrupt the core if it were wrong is checked here again.

mod cpu;
mod dsq;
mod idle;
mod info;
