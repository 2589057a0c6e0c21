//! Machine code: compiled at load, mapped, and entered.
//!
//! ```text
//! decoded programs ─ harena_jit ─► CodeImage ─ ExecMemory::map ─► pages, read and execute only
//!                                     │ faults
//!                                     ▼
//!                            harena_arena::CompiledCode: what the fault handler knows
//! ```
//!
//! One image per object. It lives as long as one of its programs does, and a program lives
//! while it runs. Where no machine code can be had, programs keep running in the interpreter.

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod activation;
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod listing;
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod memory;
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod proofs;

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
pub(crate) use listing::listing;
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
pub(crate) use mapped::{Native, compile};

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
pub(super) use activation::run;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
pub(super) use refused::run;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
pub(crate) use refused::{Native, compile, listing};

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
#[expect(dead_code, reason = "each host meets one half of the variants")]
pub(crate) enum JitRefused {
    #[error("there is no compiler for this machine")]
    Machine,
    #[error(transparent)]
    Compile(#[from] harena_jit::JitError),
    #[error("{call} of {len} bytes for machine code: errno {errno}")]
    Memory {
        call: &'static str,
        len: usize,
        errno: i32,
    },
    #[error(transparent)]
    Handler(#[from] harena_arena::CodeError),
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod mapped {
    //! Programs with machine code.

    use std::sync::Arc;

    use harena_arena::{CompiledCode, ExtableEntry};
    use harena_bpf::analysis::{self, Arena};
    use harena_bpf::code::OpCode;
    use harena_jit::{
        CodeImage, Compiler, Containment, Features, ProgramCode, Proof, Source, UserCast,
    };

    use super::JitRefused;
    use super::memory::ExecMemory;
    use super::proofs::{self, ContextUse};
    use crate::listing::CodeRange;
    use crate::load::text_address;
    use crate::mem::GuestMem;
    use crate::program::Program;
    use crate::vm::Vm;

    /// The machine code of one object's programs.
    #[derive(Debug)]
    struct Image {
        /// Forgotten by the fault handler before the memory goes: fields drop in order.
        _known: Option<CompiledCode>,
        memory: ExecMemory,
    }

    /// One program's machine code.
    #[derive(Debug)]
    pub(crate) struct Native {
        image: Arc<Image>,
        code: ProgramCode,
        context: ContextUse,
    }

    /// A function of a program, to be run.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Function {
        /// Machine address of the program's entry.
        pub(in super::super) entry: usize,
        /// Machine address of the function.
        pub(in super::super) target: usize,
    }

    impl Native {
        /// The function that starts at a slot, if its code may be run with this r1: a program
        /// relies on its context being as long as it needs it.
        pub(crate) fn function(&self, mem: &GuestMem, slot: u32, r1: u64) -> Option<Function> {
            if slot == 0 && !self.context.fits(mem, r1) {
                return None;
            }
            let offset = self.code.function(slot)?;
            let start = self.image.memory.address();
            Some(Function {
                entry: start + self.code.entry as usize,
                target: start + offset as usize,
            })
        }

        /// Where the code of `program`, whose it is, lies.
        pub(crate) fn ranges(&self, program: &Program) -> Vec<CodeRange> {
            let name = program.name();
            let code = &self.code;
            let mut starts = vec![(code.entry, format!("{name}[entry]"))];
            starts.extend(code.functions.iter().map(|(slot, offset)| {
                let function = program.linked.func_at(*slot).filter(|_| *slot != 0);
                let symbol = match function {
                    Some(function) => format!("{name}_{}", function.name),
                    None => name.to_owned(),
                };
                (*offset, symbol)
            }));
            starts.push((code.rare, format!("{name}[rare]")));
            starts.push((code.shared, format!("{name}[shared]")));
            let ends = starts.iter().skip(1).map(|(start, _)| *start);
            let ends: Vec<u32> = ends.chain([code.end]).collect();
            let base = self.image.memory.address();
            let ranges = starts.into_iter().zip(ends);
            let ranges = ranges.map(|((start, symbol), end)| CodeRange {
                start: base + start as usize,
                len: (end - start) as usize,
                symbol,
            });
            ranges.filter(|range| range.len > 0).collect()
        }
    }

    /// Gives programs their machine code.
    pub(crate) fn compile(vm: &Vm, programs: &mut [Program]) -> Result<(), JitRefused> {
        let mut compiler = Compiler::new(Features::detect());
        let codes: Vec<(ProgramCode, ContextUse)> = programs
            .iter()
            .map(|program| {
                let prepared = Prepared::new(vm, program);
                (compiler.add(&prepared.source(program)), prepared.context)
            })
            .collect();
        let image = Arc::new(map(&vm.mem, &compiler.finish()?)?);
        for (program, (code, context)) in programs.iter_mut().zip(codes) {
            let image = Arc::clone(&image);
            program.executable.native = Some(Native {
                image,
                code,
                context,
            });
        }
        Ok(())
    }

    /// What the compiler is told of a program.
    #[derive(Debug)]
    pub(super) struct Prepared {
        functions: Vec<u32>,
        text: u64,
        arena: Option<UserCast>,
        proofs: Vec<Proof>,
        containment: Containment,
        context: ContextUse,
    }

    impl Prepared {
        pub(super) fn new(vm: &Vm, program: &Program) -> Self {
            let mut functions: Vec<u32> = program.linked.funcs.iter().map(|f| f.start).collect();
            functions.push(0);
            let ops = &program.executable.code.ops;
            // What type information says of functions is the file's claim.
            functions
                .retain(|start| *start < program.len && ops[*start as usize].code != OpCode::Hole);
            functions.sort_unstable();
            functions.dedup();
            let arena = program.arena.as_ref().map(|arena| {
                if arena.no_user_conv {
                    UserCast::ClearHigh
                } else {
                    UserCast::AddHigh
                }
            });
            let targets = &program.executable.jump_targets[..];
            let entries = [&functions[..], targets].concat();
            let (proofs, context) = proofs::proofs(&vm.mem, ops, &entries, has(arena));
            Self {
                functions,
                text: text_address(program.id, 0),
                arena,
                proofs,
                containment: vm.mem.containment(),
                context,
            }
        }

        pub(super) fn source<'a>(&'a self, program: &'a Program) -> Source<'a> {
            Source {
                ops: &program.executable.code.ops,
                functions: &self.functions,
                jump_targets: &program.executable.jump_targets,
                text: self.text,
                arena: self.arena,
                proofs: &self.proofs,
                containment: self.containment,
            }
        }

        /// Operations of the block that begins at each slot.
        pub(super) fn blocks(&self, program: &Program) -> Vec<u32> {
            let source = self.source(program);
            analysis::blocks(source.ops, &source.entries(), has(self.arena))
        }
    }

    fn has(arena: Option<UserCast>) -> Arena {
        arena.map_or(Arena::None, |_| Arena::Some)
    }

    fn map(mem: &GuestMem, image: &CodeImage) -> Result<Image, JitRefused> {
        let memory = ExecMemory::map(&image.bytes)?;
        let entries: Vec<ExtableEntry> = image
            .faults
            .iter()
            .map(|fault| ExtableEntry {
                fault_pc: fault.fault_pc,
                resume_pc: fault.resume_pc,
                zero_reg: fault.zero_reg,
            })
            .collect();
        let known = if entries.is_empty() {
            None
        } else {
            let code = memory.address()..memory.address() + image.bytes.len();
            // SAFETY: the compiler made the entries for this very code, and every rare path of
            // a memory operation may be reached from the operation (see harena_jit).
            Some(unsafe { CompiledCode::register(code, mem.reach(), entries) }?)
        };
        Ok(Image {
            _known: known,
            memory,
        })
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
mod refused {
    //! Hosts without machine code.

    use super::super::Ended;
    use super::JitRefused;
    use crate::error::Abort;
    use crate::host::Host;
    use crate::listing::{CodeRange, Listing};
    use crate::mem::GuestMem;
    use crate::program::Program;
    use crate::vm::Vm;

    /// Machine code, which there is none of.
    #[derive(Debug)]
    pub(crate) enum Native {}

    /// A function of it.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Function {}

    impl Native {
        pub(crate) fn function(&self, _mem: &GuestMem, _slot: u32, _r1: u64) -> Option<Function> {
            match *self {}
        }

        pub(crate) fn ranges(&self, _program: &Program) -> Vec<CodeRange> {
            match *self {}
        }
    }

    pub(crate) fn compile(_vm: &Vm, _programs: &mut [Program]) -> Result<(), JitRefused> {
        Err(JitRefused::Machine)
    }

    pub(crate) fn listing(_vm: &Vm, _program: &Program) -> Result<Listing, JitRefused> {
        Err(JitRefused::Machine)
    }

    pub(in super::super) fn run(
        _vm: &mut Vm,
        _host: &mut dyn Host,
        _program: &Program,
        function: Function,
        _args: [u64; 5],
    ) -> Result<Ended, Abort> {
        match function {}
    }
}
