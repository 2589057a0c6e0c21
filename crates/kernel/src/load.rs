//! From an object file to a scheduler that the core can attach.
//!
//! ```text
//! Object ─ fill __SCX_*, apply --set ─► link(Kernel) ─► verify ─► Vm::load ─► BpfScheduler
//! ```
//!
//! What user space of a real scheduler does between opening and loading its object is
//! done here: the kernel's constants are filled in by name, settings are applied, and one
//! struct_ops variable is chosen.

use std::collections::{BTreeMap, BTreeSet};

use harena_abi::{Errno, scx};
use harena_arena::FailedAllocs;
use harena_bpf::{
    Autoload, GlobalError, GlobalValue, LinkError, LinkedObject, Object, ProgType, StructOps,
};
use harena_scx::{Form, Image, Op, OpsConfig, Topology};
use harena_vm::{
    Containment, Engine, MapId, OutOfGuestMemory, ProgId, StructOpsId, Vm, VmConfig, VmCreateError,
    VmLoadError,
};
use thiserror::Error;

use crate::btf::Kernel;
use crate::check::{VerifyError, check, op_of};
use crate::image::KernelImage;
use crate::kfuncs::descs;
use crate::map_objects::write_map_objects;
use crate::places::Places;
use crate::scheduler::BpfScheduler;
use crate::state::State;
use crate::tracing::Tracing;
use crate::types::ctype::{Field, field};
use crate::types::ops::{OPS_NAME_LEN, sched_ext_ops};

/// What a user may say about loading.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Values for global variables and scalar members of the ops table, by path
    /// (`slice_ns`, `fifo_ops.timeout_ms`), in order.
    pub sets: Vec<(String, GlobalValue)>,
    /// Which struct_ops variable to attach, if there are several.
    pub ops: Option<String>,
    /// Programs to load and attach although their sections are marked `?`, by name.
    pub attach: Vec<String>,
    /// `CONFIG_HZ`.
    pub hz: u32,
    /// Instructions one callback may execute; `None` is the engine's default.
    pub insn_budget: Option<u64>,
    /// Bytes of its arena that the scheduler may use; `None` is all of it.
    pub arena_limit: Option<u64>,
    /// Allocations of its arena that fail on purpose.
    pub arena_fail: FailedAllocs,
    /// How programs are executed; results are the same.
    pub engine: Engine,
    /// What keeps their accesses inside.
    pub containment: Containment,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            sets: Vec::new(),
            ops: None,
            attach: Vec::new(),
            hz: 1000,
            insn_budget: None,
            arena_limit: None,
            arena_fail: FailedAllocs::None,
            engine: Engine::default(),
            containment: Containment::default(),
        }
    }
}

/// Why an object is no scheduler that can be attached, or a program of it cannot be run.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A setting cannot be applied.
    #[error("cannot set `{path}`")]
    Set {
        /// What was to be set.
        path: String,
        /// Why not.
        #[source]
        cause: GlobalError,
    },
    /// A program is to be attached that does not exist.
    #[error("cannot attach `{program}`")]
    Attach {
        /// Its name.
        program: String,
        /// Why not.
        #[source]
        cause: GlobalError,
    },
    /// A program is to be attached that something else runs.
    #[error("cannot attach `{program}`: programs of type `{kind}` are attached to nothing")]
    NotAttachable {
        /// Its name.
        program: String,
        /// Its type.
        kind: &'static str,
    },
    /// The object does not fit the kernel.
    #[error("cannot link the object")]
    Link(#[from] LinkError),
    /// No ops table.
    #[error("the object defines no `sched_ext_ops` or `sched_ext_ops_cid`")]
    NoScheduler,
    /// Several ops tables and no choice, or a choice that is none of them.
    #[error("choose one of the object's schedulers: {}", names.join(", "))]
    WhichScheduler {
        /// The variables.
        names: Vec<String>,
    },
    /// The verifier would have refused a program.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// `EINVAL` of registration.
    #[error("sched_ext: cid-form scheduler uses multiple arena maps ({first}, {second})")]
    MultipleArenas {
        /// One.
        first: String,
        /// Another.
        second: String,
    },
    /// `EINVAL` of registration.
    #[error("sched_ext: cid-form scheduler must use a BPF arena map")]
    NoArena,
    /// No program of this name.
    #[error(
        "the object has no program `{program}`; those that can be run: {}",
        list(runnable)
    )]
    NoProgram {
        /// The name.
        program: String,
        /// Its `syscall` programs.
        runnable: Vec<String>,
    },
    /// A program that something else calls.
    #[error(
        "program `{program}` is of type `{kind}`, and only `syscall` programs can be run: {}",
        list(runnable)
    )]
    NotRunnable {
        /// Its name.
        program: String,
        /// Its type.
        kind: &'static str,
        /// The object's `syscall` programs.
        runnable: Vec<String>,
    },
    /// More CPUs than a mask holds.
    #[error("{nr_cpus} CPUs, a cpumask holds {max}")]
    CpuCount {
        /// CPUs of the machine.
        nr_cpus: u32,
        /// Limit.
        max: u32,
    },
    /// The machine could not be created.
    #[error("cannot create the BPF machine")]
    Create(#[from] VmCreateError),
    /// The machine refused the object.
    #[error("cannot load the object")]
    Load(#[from] VmLoadError),
    /// Guest memory is used up.
    #[error(transparent)]
    Memory(#[from] OutOfGuestMemory),
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

impl LoadError {
    /// The error that loading or registering would have returned, where the kernel decides it.
    #[must_use]
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::MultipleArenas { .. } | Self::NoArena => Some(Errno::EINVAL),
            Self::Verify(_) => Some(Errno::EACCES),
            Self::Set { .. }
            | Self::Attach { .. }
            | Self::NotAttachable { .. }
            | Self::Link(_)
            | Self::NoScheduler
            | Self::WhichScheduler { .. }
            | Self::NoProgram { .. }
            | Self::NotRunnable { .. }
            | Self::CpuCount { .. }
            | Self::Create(_)
            | Self::Load(_)
            | Self::Memory(_) => None,
        }
    }
}

impl BpfScheduler {
    /// Makes a scheduler of an object, and the memory image for the core it will run in.
    pub fn load(
        mut object: Object,
        options: &LoadOptions,
        topology: &Topology,
    ) -> Result<(Self, Box<dyn Image>), LoadError> {
        let nr_cpus = topology.nr_cpus();
        let max = crate::types::mask::NR_CPUS;
        if nr_cpus > max {
            return Err(LoadError::CpuCount { nr_cpus, max });
        }
        prepare(&mut object, options)?;
        let linked = object.link(&Kernel::new(options.hz))?;
        let index = choose(&linked, options.ops.as_deref())?;
        let ops = &linked.struct_ops[index];
        let form = form_of(ops).ok_or(LoadError::NoScheduler)?;
        check(&linked, ops, form)?;

        let mut vm = machine(nr_cpus, options)?;
        let loaded = vm.load(&linked, &descs())?;
        write_map_objects(&vm, &loaded);
        let ops_id = loaded.struct_ops[index];
        let places = Places::new(vm.mem(), topology)?;
        let image = Box::new(KernelImage::new(vm.shared_mem(), places, topology));
        let mut tracing = Tracing::new(&linked, &loaded, form, nr_cpus)?;
        tracing.show_ops(vm.mem(), ops)?;
        let state = state(&vm, places, (ops, ops_id, form), tracing)?;
        let never_called = never_called(ops, form);
        let scheduler = Self::new(vm, state, linked, loaded, never_called);
        Ok((scheduler, image))
    }
}

/// The scheduler's state before it is attached.
fn state(
    vm: &Vm,
    places: Places,
    (ops, id, form): (&StructOps, StructOpsId, Form),
    tracing: Tracing,
) -> Result<Box<State>, LoadError> {
    let arena = match form {
        Form::Cid => Some(only_arena(vm, id)?),
        Form::Cpu => None,
    };
    let programs = programs_of(vm, id, form);
    let config = config_of(ops, form, programs.keys().copied().collect());
    let programs = (config, programs);
    let state = State::new(vm.mem(), places, programs, arena, tracing)?;
    Ok(Box::new(state))
}

/// The machine that the options ask for.
pub(crate) fn machine(nr_cpus: u32, options: &LoadOptions) -> Result<Vm, VmCreateError> {
    let mut config = VmConfig::new(nr_cpus);
    config.insn_budget = options.insn_budget.unwrap_or(config.insn_budget);
    config.arena_limit = options.arena_limit;
    config.arena_fail = options.arena_fail;
    config.engine = options.engine;
    config.containment = options.containment;
    Vm::new(config)
}

/// Fills the kernel's constants in by name, then applies the user's settings.
pub(crate) fn prepare(object: &mut Object, options: &LoadOptions) -> Result<(), LoadError> {
    let constants: BTreeMap<&str, u64> = scx::ENUMS
        .iter()
        .flat_map(|table| table.members.iter().copied())
        .collect();
    // A name that this kernel does not have stays 0, as with a real one.
    let _absent = object
        .fill_constants("__", |name| constants.get(name).copied())
        .map_err(|cause| LoadError::Set {
            path: "__SCX_*".to_owned(),
            cause,
        })?;
    for program in &options.attach {
        switch_on(object, program)?;
    }
    for (path, value) in &options.sets {
        object
            .set_global(path, value)
            .map_err(|cause| LoadError::Set {
                path: path.clone(),
                cause,
            })?;
    }
    Ok(())
}

/// Loads a program that looks on, whatever its section says.
fn switch_on(object: &mut Object, program: &str) -> Result<(), LoadError> {
    let known = object.programs().iter().find(|p| p.name == program);
    if let Some(kind @ (ProgType::StructOps | ProgType::Syscall)) =
        known.and_then(|program| program.prog_type)
    {
        return Err(LoadError::NotAttachable {
            program: program.to_owned(),
            kind: kind.name(),
        });
    }
    let attach = object.set_autoload(program, Autoload::Yes);
    attach.map_err(|cause| LoadError::Attach {
        program: program.to_owned(),
        cause,
    })
}

fn form_of(ops: &StructOps) -> Option<Form> {
    match ops.type_name.as_str() {
        "sched_ext_ops" => Some(Form::Cpu),
        "sched_ext_ops_cid" => Some(Form::Cid),
        _ => None,
    }
}

/// The ops table to attach: the only one, or the one of this name.
fn choose(object: &LinkedObject, name: Option<&str>) -> Result<usize, LoadError> {
    let all = object.struct_ops.iter().enumerate();
    let tables: Vec<_> = all.filter(|(_, ops)| form_of(ops).is_some()).collect();
    let mut chosen = tables
        .iter()
        .filter(|(_, ops)| name.is_none_or(|name| ops.name == name));
    match (chosen.next(), chosen.next()) {
        (Some((index, _)), None) => Ok(*index),
        _ if tables.is_empty() => Err(LoadError::NoScheduler),
        _ => Err(LoadError::WhichScheduler {
            names: tables.iter().map(|(_, ops)| ops.name.clone()).collect(),
        }),
    }
}

/// The arena of a cid-form scheduler: exactly one over all its programs.
fn only_arena(vm: &Vm, ops: StructOpsId) -> Result<MapId, LoadError> {
    let mut arena = None;
    let other = vm.struct_ops_for_each_prog(ops, |_, prog| {
        let used = vm.program(prog).arena()?;
        let first = *arena.get_or_insert(used);
        (first != used).then_some((first, used))
    });
    match (other, arena) {
        (Some((first, second)), _) => Err(LoadError::MultipleArenas {
            first: vm.map(first).name().to_owned(),
            second: vm.map(second).name().to_owned(),
        }),
        (None, Some(arena)) => Ok(arena),
        (None, None) => Err(LoadError::NoArena),
    }
}

fn programs_of(vm: &Vm, ops: StructOpsId, form: Form) -> BTreeMap<Op, ProgId> {
    let mut programs = BTreeMap::new();
    let _none: Option<()> = vm.struct_ops_for_each_prog(ops, |member, prog| {
        if let Some(op) = op_of(member, form) {
            programs.insert(op, prog);
        }
        None
    });
    programs
}

/// Members that are set and that this simulation never calls.
fn never_called(ops: &StructOps, form: Form) -> Vec<String> {
    let set = ops.members.iter().filter(|m| m.program.is_some());
    set.filter(|m| op_of(&m.name, form).is_none_or(|op| op == Op::CoreSchedBefore))
        .map(|m| m.name.clone())
        .collect()
}

fn config_of(ops: &StructOps, form: Form, has: BTreeSet<Op>) -> OpsConfig {
    let at = |offset: u64, len: usize| {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = ops.data.get(offset..).and_then(|rest| rest.get(..len));
        bytes.unwrap_or_default()
    };
    let number = |offset: u64, len: usize| {
        let mut word = [0; 8];
        let bytes = at(offset, len);
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let word = |f: Field<u32>| crate::reg::as_u32(number(f.offset(), 4));
    let long = |f: Field<u64>| number(f.offset(), 8);
    let name = at(field!(sched_ext_ops, name).offset(), OPS_NAME_LEN);
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    OpsConfig {
        name: String::from_utf8_lossy(name).into_owned(),
        form,
        flags: long(field!(sched_ext_ops, flags)),
        timeout_ms: word(field!(sched_ext_ops, timeout_ms)),
        dispatch_max_batch: word(field!(sched_ext_ops, dispatch_max_batch)),
        exit_dump_len: word(field!(sched_ext_ops, exit_dump_len)),
        hotplug_seq: long(field!(sched_ext_ops, hotplug_seq)),
        cid_shard_size: word(field!(sched_ext_ops, cid_shard_size)),
        has,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harena_bpf::isa::asm;
    use harena_bpf::{LinkedProgram, MapIndex};

    /// The committed scheduler `levels`, of which `ops.set_weight` uses a second arena: no
    /// object file can say that, but programs that reuse maps can.
    fn two_arenas() -> LinkedObject {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bpf/levels.bpf.o");
        let object = Object::parse("levels.bpf.o", &std::fs::read(path).unwrap()).unwrap();
        let mut linked = object.link(&Kernel::new(1000)).unwrap();
        let first = linked.arena.unwrap();
        let mut second = linked.maps[first.index()].clone();
        second.name = "second".to_owned();
        second.contents = harena_bpf::Contents::default();
        linked.maps.push(second);
        let members = &linked.struct_ops[0].members;
        let member = members.iter().find(|m| m.name == "set_weight").unwrap();
        let program = &mut linked.programs[member.program.unwrap().index()];
        let insns = asm("r0 = 0\nexit").unwrap();
        *program = LinkedProgram {
            arena: Some(MapIndex(u32::try_from(linked.maps.len() - 1).unwrap())),
            ..LinkedProgram::from_insns("levels_set_weight", ProgType::StructOps, insns)
        };
        linked
    }

    #[test]
    fn a_cid_form_scheduler_with_two_arenas_is_refused() {
        let linked = two_arenas();
        let mut vm = Vm::new(VmConfig::new(4)).unwrap();
        let loaded = vm.load(&linked, &descs()).unwrap();
        let error = only_arena(&vm, loaded.struct_ops[0]).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL));
        assert_eq!(
            error.to_string(),
            "sched_ext: cid-form scheduler uses multiple arena maps (arena, second)"
        );
    }
}
