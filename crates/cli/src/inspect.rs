//! `harena inspect`: what an object holds, and what of it would not work here.
//!
//! The object is linked and loaded as a run would do it, into the same simulated kernel. If
//! that fails the list still shows all that the file itself says.

use std::cell::LazyCell;

use harena_bpf::btf::Value;
use harena_bpf::{ExternKind, KernelSymbols, LinkError, LinkedObject, MapType, Object, ProgType};
use harena_kernel::{Attachment, BpfScheduler, Kernel, LoadError, LoadOptions, LoadedObject};
use harena_report::{
    ArenaInfo, ExternInfo, Inspection, MapInfo, OpInfo, OpsInfo, ProgramInfo, Unsupported,
};

use harena_scx::Form;

use crate::args::Format;
use crate::disasm::disassemble;
use crate::plan::InspectPlan;
use crate::status::Status;
use crate::{Failure, object, output};

/// Ticks per second of the kernel to link against; nothing that is listed depends on it.
const HZ: u32 = 1000;

/// Lists what the object holds.
pub(crate) fn inspect(plan: &InspectPlan) -> Result<Status, Failure> {
    let object = object::parse(&plan.object)?;
    let kernel = Kernel::new(HZ);
    let linked = object.link(&kernel);
    let mut inspection = list(&object, &kernel, &linked);
    if let Some(how) = plan.disasm {
        inspection.code = Some(disassemble(&object, how, plan.containment)?);
    }
    match plan.format {
        Format::Text => output::print(&inspection.to_text())?,
        Format::Json => output::print(&inspection.to_json())?,
    }
    Ok(Status::Fine)
}

fn list(object: &Object, kernel: &Kernel, linked: &Result<LinkedObject, LinkError>) -> Inspection {
    let linked = linked.as_ref();
    let traps = traps(object, linked.ok()).into_iter();
    let (traps, absent): (Vec<_>, Vec<_>) = traps.partition(|trap| trap.is_reached);
    let externs = |is_kfunc: bool| {
        let of_kind = object
            .externs()
            .iter()
            .filter(|e| matches!(e.kind, ExternKind::Kfunc { .. }) == is_kfunc);
        of_kind.map(|e| extern_info(kernel, e)).collect()
    };
    Inspection {
        object: object.file().to_owned(),
        license: object.license().to_owned(),
        ops: ops(object, linked.ok()),
        programs: programs(object, linked.ok()),
        maps: object.maps().iter().map(map_info).collect(),
        arenas: arenas(object),
        kfuncs: externs(true),
        externs: externs(false),
        unsupported: unsupported(object, &traps, load(object)),
        absent: absent.into_iter().map(Trap::absent).collect(),
        code: None,
    }
}

fn programs(object: &Object, linked: Option<&LinkedObject>) -> Vec<ProgramInfo> {
    let form = form(object);
    let info = |p: &harena_bpf::Program| ProgramInfo {
        fires: match Attachment::of(p, form) {
            Attachment::Fires(at) => Some(at),
            Attachment::Never(_) | Attachment::NotTracing => None,
        },
        never_fires: never_fires(p, form),
        name: p.name.clone(),
        section: p.section.clone(),
        kind: p.prog_type.map_or("unknown", ProgType::name).to_owned(),
        insns: linked
            .and_then(|linked| linked.program(&p.name))
            .map(|program| program.insns.len() as u64),
        autoload: p.autoload,
    };
    object.programs().iter().map(info).collect()
}

/// The form of the object's only scheduler.
fn form(object: &Object) -> Option<Form> {
    let mut forms = object.struct_ops().filter_map(|(_, kind)| match kind {
        "sched_ext_ops" => Some(Form::Cpu),
        "sched_ext_ops_cid" => Some(Form::Cid),
        _ => None,
    });
    forms.next().filter(|_| forms.next().is_none())
}

fn never_fires(program: &harena_bpf::Program, form: Option<Form>) -> Option<String> {
    match Attachment::of(program, form) {
        Attachment::Never(why) => Some(why),
        Attachment::Fires(_) | Attachment::NotTracing => None,
    }
}

fn map_info(map: &harena_bpf::LinkedMap) -> MapInfo {
    MapInfo {
        name: map.name.clone(),
        kind: map.map_type.to_string(),
        key_size: map.key_size.into(),
        value_size: map.value_size.into(),
        max_entries: map.max_entries.into(),
        flags: map.map_flags.into(),
    }
}

fn arenas(object: &Object) -> Vec<ArenaInfo> {
    let arenas = object
        .maps()
        .iter()
        .filter(|m| m.map_type == MapType::ARENA);
    let info = |m: &harena_bpf::LinkedMap| ArenaInfo {
        map: m.name.clone(),
        pages: m.max_entries.into(),
        user_vm_start: m.map_extra,
        globals_size: m.contents.len,
    };
    arenas.map(info).collect()
}

fn extern_info(kernel: &Kernel, e: &harena_bpf::Extern) -> ExternInfo {
    let name = harena_bpf::btf::strip_flavor(&e.name);
    let resolved = match e.kind {
        ExternKind::Kfunc { .. } => kernel.kfunc(name).is_some(),
        ExternKind::Ksym { .. } => kernel.ksym(name).is_some(),
        ExternKind::Kconfig { .. } => kernel.kconfig(name).is_some(),
    };
    ExternInfo {
        name: e.name.clone(),
        weak: e.weak,
        resolved,
    }
}

fn ops(object: &Object, linked: Option<&LinkedObject>) -> Vec<OpsInfo> {
    let info = |(variable, type_name): (&str, &str)| OpsInfo {
        variable: variable.to_owned(),
        type_name: type_name.to_owned(),
        scalars: scalars(object, variable),
        members: linked.map_or_else(Vec::new, |linked| members(linked, variable)),
    };
    object.struct_ops().map(info).collect()
}

/// Members that are set and no programs.
fn scalars(object: &Object, variable: &str) -> Vec<OpInfo> {
    let Ok(Value::Struct(members)) = object.global_value(variable) else {
        return Vec::new();
    };
    let is_set = |value: &Value| match value {
        Value::Int(number) | Value::Enum(number, _) => *number != 0,
        Value::Bool(set) => *set,
        Value::Text(text) => !text.is_empty(),
        Value::Array(_) | Value::Struct(_) | Value::Float(_) => true,
        Value::Pointer(_) | Value::Missing => false,
    };
    let info = |(member, value): (String, Value)| OpInfo {
        member,
        value: value.to_string(),
    };
    let set = members.into_iter().filter(|(_, value)| is_set(value));
    set.map(info).collect()
}

/// Members that are programs.
fn members(linked: &LinkedObject, variable: &str) -> Vec<OpInfo> {
    let table = linked.struct_ops.iter().find(|ops| ops.name == variable);
    let members = table.iter().flat_map(|ops| &ops.members);
    let info = |member: &harena_bpf::StructOpsMember| {
        let program = linked.programs.get(member.program?.index())?;
        Some(OpInfo {
            member: member.name.clone(),
            value: program.name.clone(),
        })
    };
    members.filter_map(info).collect()
}

/// Loads the scheduler in the object, if there is one; gives the callbacks that are set and
/// never called.
fn load(object: &Object) -> anyhow::Result<Vec<String>> {
    let topology = harena_sim::default_topology();
    match BpfScheduler::load(object.clone(), &LoadOptions::default(), &topology) {
        Ok((scheduler, _image)) => Ok(scheduler.never_called().to_vec()),
        Err(LoadError::NoScheduler) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Everything that fails to link or load, traps when reached, or is never run.
fn unsupported(
    object: &Object,
    traps: &[Trap],
    loaded: anyhow::Result<Vec<String>>,
) -> Vec<Unsupported> {
    let mut list = Vec::new();
    match loaded {
        Err(error) => list.push(Unsupported {
            what: "the object".to_owned(),
            why: format!("{error:#}"),
        }),
        Ok(never_called) => list.extend(never_called.into_iter().map(|member| Unsupported {
            what: format!("callback `{member}`"),
            why: "it is never called here".to_owned(),
        })),
    }
    list.extend(traps.iter().map(|trap| Unsupported {
        what: trap.place.clone(),
        why: format!("{}; the program may load, but not reach this", trap.why),
    }));
    for program in object.programs().iter().filter(|p| p.autoload) {
        let why = match (program.prog_type, never_fires(program, form(object))) {
            (Some(ProgType::Syscall), _) => {
                "`harena run` calls no programs of type `syscall`; `harena prog run` does"
                    .to_owned()
            }
            (_, Some(why)) => format!("it never fires: {why}"),
            (_, None) => continue,
        };
        list.push(Unsupported {
            what: format!("program `{}`", program.name),
            why,
        });
    }
    list
}

/// An instruction that must not be executed.
#[derive(Debug)]
struct Trap {
    place: String,
    why: String,
    /// Whether it may be, as far as one can tell.
    is_reached: bool,
}

impl Trap {
    fn absent(self) -> Unsupported {
        Unsupported {
            what: self.place,
            why: self.why,
        }
    }
}

/// All traps in an object's programs. Where there is no compiler to ask, each may be reached.
fn traps(object: &Object, linked: Option<&LinkedObject>) -> Vec<Trap> {
    let loaded = LazyCell::new(|| LoadedObject::load(object.clone(), &LoadOptions::default()).ok());
    let listing = |program: &str| {
        let loaded = loaded.as_ref()?;
        let (_, id) = loaded
            .programs()
            .find(|(linked, _)| linked.name == program)?;
        loaded.vm().listing(id).ok()
    };
    let mut traps = Vec::new();
    for program in linked.iter().flat_map(|linked| &linked.programs) {
        if program.poisoned.is_empty() {
            continue;
        }
        let listing = listing(&program.name);
        let slots = listing.map_or_else(Vec::new, |listing| listing.slots);
        traps.extend(program.poisoned.iter().map(|(insn, why)| Trap {
            place: place(program, *insn),
            why: why.to_string(),
            is_reached: slots.get(*insn as usize).is_none_or(|slot| slot.is_reached),
        }));
    }
    traps
}

fn place(program: &harena_bpf::LinkedProgram, insn: u32) -> String {
    let name = &program.name;
    match program.lines.at(insn) {
        Some(line) => format!(
            "program `{name}`, insn {insn} ({}:{})",
            line.file, line.line
        ),
        None => format!("program `{name}`, insn {insn}"),
    }
}
