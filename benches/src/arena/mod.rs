//! The suite `arena`: what direct access, recovery, pages and allocation cost.
//!
//! | module | races |
//! |---|---|
//! | `access` | pointers into an arena against plain ones; a cmask in place against copies |
//! | `recovery` | faults of host code and of programs, users' first touches, against bare handlers |
//! | `mechanisms` | the system calls of which a mapping scheme can be made |
//! | `pages` | page alloc and free against the kernel's own arenas |
//! | `slab` | small objects against general allocators |
//! | `budget` | memory and mappings of 100,000 pages |
//! | `scope` | entering and leaving programs, draining reports |

mod access;
mod bare;
mod budget;
mod common;
mod compiled;
mod heaps;
mod mechanisms;
mod pages;
mod recovery;
mod scope;
mod slab;
mod uffd;

use crate::harness::{BenchError, Suite};

/// Runs every case that the suite wants.
pub fn run(suite: &mut Suite) -> Result<(), BenchError> {
    access::run(suite)?;
    scope::run(suite)?;
    recovery::run(suite)?;
    mechanisms::run(suite)?;
    pages::run(suite)?;
    slab::run(suite)?;
    budget::run(suite)
}
