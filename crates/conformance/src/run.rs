//! A machine for one run.

use std::collections::BTreeMap;
use std::sync::Arc;

use harena_abi::KernAddr;
use harena_bpf::btf::Btf;
use harena_bpf::isa::{self, Insn};
use harena_bpf::{LinkedObject, LinkedProgram, Object, ProgType};
use harena_vm::{Containment, Engine, NoKernel, Region, RunArgs, Vm, VmConfig};

use crate::RunError;

/// The function of an object that is run, and what messages call a program.
const MAIN: &str = "main";

/// What the bytes of a program are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Instructions, 8 bytes each.
    Slots,
    /// An ELF object, whose function `main` is to be run.
    Elf,
}

/// A program and all that decides what it does.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The program.
    pub program: &'a [u8],
    /// What its bytes are.
    pub format: Format,
    /// What r1 points to.
    pub memory: &'a [u8],
    /// What executes it.
    pub engine: Engine,
    /// What keeps it inside.
    pub containment: Containment,
}

/// Runs a program to its end: r0.
pub fn run(request: &Request<'_>) -> Result<u64, RunError> {
    let insns = insns(request)?;
    let mut vm = Vm::new(VmConfig {
        engine: request.engine,
        containment: request.containment,
        callx: true,
        ..VmConfig::new(1)
    })?;
    let args = memory(&vm, request.memory)?;
    let loaded = vm.load(&object(insns), &[])?;
    if let Some(why) = vm.jit_refused() {
        let why = why.to_owned();
        return Err(RunError::Interpreted { why });
    }
    let mut ret = 0;
    for program in loaded.programs {
        ret = vm.run(program, &args, &mut NoKernel)?.ret;
    }
    match vm.violations().first() {
        Some(violation) => Err(RunError::Violation(Box::new(violation.clone()))),
        None => Ok(ret),
    }
}

fn insns(request: &Request<'_>) -> Result<Vec<Insn>, RunError> {
    match request.format {
        Format::Slots => Ok(isa::decode(request.program)?),
        Format::Elf => {
            let object = Object::parse("the object", request.program)?;
            Ok(object.plain_function(MAIN)?.to_vec())
        }
    }
}

/// Makes the program's memory; r1 and r2 say where it is.
fn memory(vm: &Vm, bytes: &[u8]) -> Result<RunArgs, RunError> {
    let len = bytes.len() as u64;
    if len == 0 {
        return Ok(RunArgs::new(KernAddr::NULL));
    }
    let at = vm.mem().alloc(Region::Contexts, len, 8)?;
    vm.mem().write_bytes(at, bytes)?;
    Ok(RunArgs::new(at).with_rest([len, 0, 0, 0]))
}

/// An object with this program and nothing else.
fn object(insns: Vec<Insn>) -> LinkedObject {
    LinkedObject {
        file: String::new(),
        license: "GPL".to_owned(),
        btf: Arc::new(Btf::empty()),
        programs: vec![LinkedProgram::from_insns(MAIN, ProgType::Syscall, insns)],
        maps: Vec::new(),
        struct_ops: Vec::new(),
        arena: None,
        globals: BTreeMap::new(),
    }
}
