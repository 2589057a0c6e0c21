//! solana-sbpf, whose dialect is near: its version 3 knows all instructions of cpu v3.
//!
//! Two things differ. Memory has regions, each at a multiple of 4 GiB, through which it translates
//! every address: the buffer is its input region. And sums, differences and products of 32 bits are
//! extended by their sign, where BPF's have a high half of 0: behind each stands a move that clears
//! it, which is what its own compiler does where it must.
//!
//! What hardens its machine code against programs that choose their constants (no-ops at random,
//! masked immediates) is off, as nobody else here does it; counting instructions is on, as here.

use std::sync::Arc;

use harena_bpf::isa::{Insn, encode};
use harena_vm::Engine;
use solana_sbpf::ebpf::{MM_INPUT_START, MM_STACK_START};
use solana_sbpf::elf::Executable;
use solana_sbpf::error::StableResult;
use solana_sbpf::memory_region::{MemoryMapping, MemoryRegion};
use solana_sbpf::program::{BuiltinProgram, FunctionRegistry, SBPFVersion};
use solana_sbpf::verifier::RequisiteVerifier;
use solana_sbpf::vm::{CallFrame, Config, ContextObject, EbpfVm, ExecutionMode};

use super::peers::buffer;
use crate::harness::{BenchError, Contender, Turn, timed};

const VERSION: SBPFVersion = SBPFVersion::V3;
/// Instructions that a call may execute.
const BUDGET: u64 = 1 << 40;

/// What a run counts in, and its memory.
struct Context {
    remaining: u64,
    memory: MemoryMapping,
}

impl ContextObject for Context {
    fn consume(&mut self, amount: u64) {
        self.remaining = self.remaining.saturating_sub(amount);
    }

    fn get_remaining(&self) -> u64 {
        self.remaining
    }

    fn active_mapping_ptr(&mut self) -> std::ptr::NonNull<MemoryMapping> {
        std::ptr::NonNull::from_mut(&mut self.memory)
    }
}

fn config() -> Config {
    Config {
        noop_instruction_rate: 0,
        sanitize_user_provided_values: false,
        aligned_memory_mapping: true,
        ..Config::default()
    }
}

/// A program in its dialect: sums, differences and products of 32 bits get a high half of 0.
pub(super) fn translated(insns: &[Insn]) -> Vec<u8> {
    let extends = |insn: &Insn| insn.class() == 0x04 && matches!(insn.code & 0xf0, 0 | 0x10 | 0x20);
    let mut starts = Vec::with_capacity(insns.len() + 1);
    let mut slot = 0i64;
    let mut is_second = false;
    for insn in insns {
        starts.push(slot);
        slot += if !is_second && extends(insn) { 2 } else { 1 };
        is_second = !is_second && insn.is_ldimm64();
    }
    starts.push(slot);
    let mut all = Vec::new();
    is_second = false;
    for (at, insn) in insns.iter().enumerate() {
        let mut insn = *insn;
        let jumps = matches!(insn.class(), 0x05 | 0x06) && !matches!(insn.code & 0xf0, 0x80 | 0x90);
        if is_second || !jumps {
            all.push(insn);
        } else {
            let to = at.checked_add_signed(isize::from(insn.off) + 1);
            let to = to
                .and_then(|to| starts.get(to))
                .expect("jumps lead into the program");
            insn.off = i16::try_from(to - starts[at] - 1).expect("the programs are short");
            all.push(insn);
        }
        if !is_second && extends(&insn) {
            all.push(Insn::new(0xbc, insn.dst, insn.dst, 0, 0));
        }
        is_second = !is_second && insn.is_ldimm64();
    }
    encode(&all)
}

fn compiled(
    program: &[u8],
    engine: Engine,
) -> Result<Executable<Context>, Box<dyn std::error::Error>> {
    let loader = Arc::new(BuiltinProgram::new_loader(config()));
    let registry = FunctionRegistry::default();
    let executable = Executable::new_from_text_bytes(program, loader, VERSION, registry)?;
    executable.verify::<RequisiteVerifier>()?;
    if engine == Engine::Jit {
        executable.jit_compile()?;
    }
    Ok(executable)
}

/// Time that it takes to verify and compile programs.
pub(super) fn compiles(ops: u64, programs: &[Vec<u8>]) -> Result<Turn, BenchError> {
    let mut failed = None;
    let turn = timed(|| {
        for _ in 0..ops {
            for program in programs {
                failed = failed.take().or(compiled(program, Engine::Jit).err());
            }
        }
        0
    });
    match failed {
        None => Ok(turn),
        Some(error) => Err(BenchError::setup("solana-sbpf's code")(error.to_string())),
    }
}

/// It at a program; what its verifier says if that is not in its dialect.
pub(super) fn sbpf(
    name: &str,
    engine: Engine,
    insns: &[Insn],
) -> Result<Contender<'static>, String> {
    let executable = compiled(&translated(insns), engine).map_err(|error| error.to_string())?;
    let config = config();
    let regions = [
        (vec![0u8; config.stack_size()], MM_STACK_START),
        (buffer(), MM_INPUT_START),
    ];
    // A contender cannot borrow what it holds, and there are a few dozen.
    let regions = regions.map(|(bytes, at)| MemoryRegion::new(&raw mut *bytes.leak(), at));
    // SAFETY: the regions are leaked above, hold plain bytes, and nobody else uses them.
    let memory = unsafe { MemoryMapping::new(regions.to_vec(), &config, VERSION) };
    let context = Context {
        remaining: 0,
        memory: memory.map_err(|error| error.to_string())?,
    };
    let context = Box::leak(Box::new(context));
    let loader = Arc::clone(executable.get_loader());
    let mut vm = EbpfVm::new(loader, VERSION, context, config.stack_size());
    let mut registers = vm.registers;
    registers[1] = MM_INPUT_START;
    let mut frames = vec![CallFrame::default(); config.max_call_depth];
    Ok(Contender::new(name, move |ops| {
        let mut failed = None;
        let turn = timed(|| {
            let mut result = 0;
            for _ in 0..ops {
                vm.registers = registers;
                vm.context().remaining = BUDGET;
                let mut mode = if engine == Engine::Jit {
                    ExecutionMode::Jit
                } else {
                    ExecutionMode::Interpreted
                };
                let (_count, ran) = vm.execute_program(&executable, &mut mode, &mut frames);
                match ran {
                    StableResult::Ok(value) => result = value,
                    StableResult::Err(error) => failed = Some(error),
                }
            }
            result
        });
        match failed {
            None => Ok(turn),
            Some(error) => Err(BenchError::setup("solana-sbpf")(error.to_string())),
        }
    }))
}

#[test]
fn jumps_pass_over_what_was_put_in() {
    use harena_bpf::isa::{asm, decode, disasm};

    let text = "r1 = 5 ll; again: w1 -= 1; w2 *= w1; if w1 != 0 goto again; goto +1; w2 += 1; exit";
    let insns = asm(text).expect("it assembles");
    let translated = decode(&translated(&insns)).expect("whole instructions");
    let expected = "r1 = 5 ll; again: w1 -= 1; w1 = w1; w2 *= w1; w2 = w2
        if w1 != 0 goto again; goto +2; w2 += 1; w2 = w2; exit";
    assert_eq!(
        disasm(&translated),
        disasm(&asm(expected).expect("it assembles"))
    );
}
