//! Goal: our loader makes of an object what libbpf makes of it, and our static linker of several
//! what libbpf's makes of them.
//!
//! Method: libbpf (a dev-dependency behind the feature `libbpf`) gets the same objects and the
//! same kernel's types. Instructions of all programs are compared one by one; what has a number of
//! its own on each side (maps, kfuncs, addresses) is compared by what it stands for.

mod compare;
mod core;
mod kernel;
mod linking;
mod relocation;
