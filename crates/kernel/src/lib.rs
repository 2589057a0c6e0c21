//! The simulated kernel that BPF sees: types, kfuncs, and schedulers as the core calls them.
//!
//! ```text
//!   bpf::Object ──BpfScheduler::load──► BpfScheduler (SchedOps) + KernelImage (Image)
//!                                            │                        ▲
//!   scx::Core ──callback──► u64[] ctx ──► vm::Vm ──kfunc──► Core::kf_*┘
//! ```
//!
//! One table of types gives the layout of `task_struct` and its kin, the BTF that
//! programs are linked against, and `vmlinux.h`; one table of kfuncs gives their
//! prototypes, the contexts they are legal in, and what they do; two tables, of tracepoints and
//! functions, say where programs can look on.
#![forbid(unsafe_code)]

mod access;
mod btf;
mod cgroups;
mod check;
mod cmasks;
mod exit_info;
mod header;
mod host;
mod image;
mod kfuncs;
mod load;
mod loaded;
mod map_objects;
mod places;
mod reach;
mod reg;
mod sched;
mod scheduler;
mod state;
mod syscall;
mod tracing;
pub mod types;

pub use btf::{KERNEL_VERSION, Kernel};
pub use check::VerifyError;
pub use header::vmlinux_h;
pub use load::{LoadError, LoadOptions};
pub use loaded::LoadedObject;
pub use map_objects::write_map_objects;
pub use scheduler::{ArenaUse, BpfScheduler, GlobalReadError};
pub use syscall::{CONTEXT_SIZE_MAX, ContextError, SyscallProgram};
pub use tracing::{Attachment, NeverFires, TracingUse};
