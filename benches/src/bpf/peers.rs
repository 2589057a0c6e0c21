//! Other engines, which have a buffer of their own each.

use rbpf::EbpfVmRaw;

use super::machine::words;
use super::native::Native;
use crate::harness::{BenchError, Contender, Turn, timed};

/// How a peer executes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Interpreter,
    Jit,
    #[cfg(feature = "cranelift")]
    Cranelift,
}

pub(super) fn buffer() -> Vec<u8> {
    words().into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Native code.
pub(super) fn native(name: &str, program: Native) -> Contender<'static> {
    let mut words = words();
    Contender::timed(name, move |ops| {
        let mut result = 0;
        for _ in 0..ops {
            let memory = core::hint::black_box(words.as_mut_ptr().cast());
            // SAFETY: the programs use BUFFER bytes at most, which this has, aligned for words.
            result = unsafe { program(memory) };
        }
        result
    })
}

fn compiled(program: &[u8], how: How) -> Result<EbpfVmRaw<'_>, BenchError> {
    let mut vm = EbpfVmRaw::new(Some(program)).map_err(BenchError::setup("rbpf"))?;
    match how {
        How::Interpreter => {}
        How::Jit => vm.jit_compile().map_err(BenchError::setup("rbpf's code"))?,
        #[cfg(feature = "cranelift")]
        How::Cranelift => {
            let compiled = vm.cranelift_compile();
            compiled.map_err(BenchError::setup("rbpf's code"))?;
        }
    }
    Ok(vm)
}

/// Time that rbpf takes to compile programs.
pub(super) fn rbpf_compiles(ops: u64, programs: &[Vec<u8>], how: How) -> Result<Turn, BenchError> {
    let mut failed = None;
    let turn = timed(|| {
        for _ in 0..ops {
            for program in programs {
                failed = failed.take().or(compiled(program, how).err());
            }
        }
        0
    });
    match failed {
        None => Ok(turn),
        Some(error) => Err(error),
    }
}

/// rbpf. It has no containment: addresses are the host's.
pub(super) fn rbpf(
    name: &str,
    how: How,
    program: Vec<u8>,
) -> Result<Contender<'static>, BenchError> {
    // A contender cannot borrow what it holds, and there are a few dozen.
    let program: &'static [u8] = program.leak();
    let vm = compiled(program, how)?;
    let mut buffer = buffer();
    Ok(Contender::new(name, move |ops| {
        let mut failed = None;
        let turn = timed(|| {
            let mut result = 0;
            for _ in 0..ops {
                let memory = &mut buffer;
                let ran = match how {
                    How::Interpreter => vm.execute_program(memory),
                    // SAFETY: rbpf translates what it verified, and the programs stay in the
                    // buffer.
                    How::Jit => unsafe { vm.execute_program_jit(memory) },
                    #[cfg(feature = "cranelift")]
                    How::Cranelift => vm.execute_program_cranelift(memory),
                };
                match ran {
                    Ok(value) => result = value,
                    Err(error) => failed = Some(error),
                }
            }
            result
        });
        match failed {
            None => Ok(turn),
            Some(error) => Err(BenchError::setup("rbpf")(error)),
        }
    }))
}
