//! A `syscall` program: run once with a context, as `BPF_PROG_RUN` does it.
//!
//! No task, no time and no scheduler are behind it ([`NoKernel`]): kfuncs that need one end
//! the run. All else is as for a scheduler: types, settings, maps, the object's other programs.

use harena_abi::KernAddr;
use harena_bpf::{Autoload, GlobalError, Object, ProgType};
use harena_vm::{Abort, NoKernel, OutOfGuestMemory, ProgId, Region, RunArgs, RunResult};
use thiserror::Error;

use crate::load::{LoadError, LoadOptions};
use crate::loaded::LoadedObject;
use crate::reach::context_needed;

/// Bytes a context may have, as in the kernel.
pub const CONTEXT_SIZE_MAX: usize = 0xffff;

/// A loaded `syscall` program with the machine that runs it.
#[derive(Debug)]
pub struct SyscallProgram {
    object: LoadedObject,
    program: ProgId,
    context_needed: u64,
}

/// Why a program cannot be run with a context.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ContextError {
    /// It is larger than the kernel takes.
    #[error("a context of {size} bytes, allowed are {CONTEXT_SIZE_MAX}")]
    TooLarge {
        /// Its bytes.
        size: usize,
    },
    /// It is smaller than what the program touches (`EINVAL`, `bpf_prog_test_run_syscall()`).
    #[error("a context of {size} bytes, the program needs {needed}")]
    TooSmall {
        /// Its bytes.
        size: usize,
        /// Up to where the program loads from or stores to its context.
        needed: u64,
    },
    /// Guest memory is used up.
    #[error(transparent)]
    Memory(#[from] OutOfGuestMemory),
}

impl SyscallProgram {
    /// Loads the program of this name, and of the object's others its `syscall` programs and
    /// those of its struct_ops.
    pub fn load(mut object: Object, name: &str, options: &LoadOptions) -> Result<Self, LoadError> {
        choose(&mut object, name)?;
        let object = LoadedObject::load(object, options)?;
        let program = object.programs().find(|(linked, _)| linked.name == name);
        let (linked, program) = program.expect("it was switched on");
        let context_needed = context_needed(object.linked(), linked);
        Ok(Self {
            object,
            program,
            context_needed,
        })
    }

    /// Runs it with a context, and leaves in it what the program made of it, also if it was
    /// stopped. One of no bytes is NULL.
    pub fn run(&mut self, context: &mut [u8]) -> Result<Result<RunResult, Abort>, ContextError> {
        let size = context.len();
        if size > CONTEXT_SIZE_MAX {
            return Err(ContextError::TooLarge { size });
        }
        let needed = self.context_needed;
        if (size as u64) < needed {
            return Err(ContextError::TooSmall { size, needed });
        }
        if size == 0 {
            return Ok(self.enter(KernAddr::NULL));
        }
        let mem = self.object.vm.shared_mem();
        let at = mem.alloc(Region::Contexts, size as u64, 8)?;
        let fits = "the context was allocated with this size";
        mem.write_bytes(at, context).expect(fits);
        let ran = self.enter(at);
        mem.read_bytes(at, context).expect(fits);
        mem.free(Region::Contexts, at, size as u64, 8);
        Ok(ran)
    }

    fn enter(&mut self, context: KernAddr) -> Result<RunResult, Abort> {
        self.object
            .vm
            .run(self.program, &RunArgs::new(context), &mut NoKernel)
    }

    /// The object that the program is in.
    #[must_use]
    pub const fn object(&self) -> &LoadedObject {
        &self.object
    }

    /// The same, to take what was printed.
    pub const fn object_mut(&mut self) -> &mut LoadedObject {
        &mut self.object
    }
}

/// Switches the program on, and off what neither it nor a struct_ops could call.
fn choose(object: &mut Object, name: &str) -> Result<(), LoadError> {
    let is_syscall = |kind: Option<ProgType>| kind == Some(ProgType::Syscall);
    let programs = object.programs().iter();
    let kinds: Vec<_> = programs.map(|p| (p.name.clone(), p.prog_type)).collect();
    let runnable = || {
        let syscalls = kinds.iter().filter(|(_, kind)| is_syscall(*kind));
        syscalls.map(|(name, _)| name.clone()).collect()
    };
    let program = name.to_owned();
    match kinds.iter().find(|(known, _)| known == name) {
        Some((_, kind)) if is_syscall(*kind) => {}
        Some((_, kind)) => {
            return Err(LoadError::NotRunnable {
                program,
                kind: kind.map_or("unknown", ProgType::name),
                runnable: runnable(),
            });
        }
        None => {
            return Err(LoadError::NoProgram {
                program,
                runnable: runnable(),
            });
        }
    }
    for (other, kind) in &kinds {
        let switched = match kind {
            _ if other == name => Some(Autoload::Yes),
            Some(ProgType::Syscall | ProgType::StructOps) => None,
            _ => Some(Autoload::No),
        };
        if let Some(load) = switched {
            object
                .set_autoload(other, load)
                .map_err(|cause: GlobalError| LoadError::Set {
                    path: other.clone(),
                    cause,
                })?;
        }
    }
    Ok(())
}
