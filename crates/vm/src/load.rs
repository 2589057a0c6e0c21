//! From a linked object to maps and executable programs.
//!
//! All or nothing would be the kernel's way; here an object that fails to load leaves
//! its maps behind in a VM that the caller throws away.

use std::collections::BTreeMap;
use std::sync::Arc;

use harena_abi::Errno;
use harena_abi::bpf::BPF_F_NO_USER_CONV;
use harena_bpf::btf::TypeId;
use harena_bpf::isa::op::{PseudoCall, PseudoLoad};
use harena_bpf::isa::{Insn, ldimm64_value};
use harena_bpf::{InitialSlot, LinkedObject, LinkedProgram, StructOpsMember};

use crate::error::{Place, VmLoadError};
use crate::exec;
use crate::host::{KfuncArg, KfuncDesc};
use crate::layout::{MAP_OBJECT_STRIDE, Region, TEXT_BASE, TEXT_SHIFT};
use crate::maps::{self, Map, MapId, MapKind, Storage, UpdateFlags};
use crate::mem::GuestMem;
use crate::owned::BtfId;
use crate::program::{Engine, Executable, ProgArena, ProgId, Program, line_text};
use crate::struct_ops::{StructOpsId, StructOpsMap};
use crate::vm::{Loaded, Streams, Vm};
use harena_bpf::analysis::{self, Space};
use harena_bpf::code::{self, Op, OpCode};

/// Slots a program may have: `BPF_COMPLEXITY_LIMIT_INSNS`.
const PROGRAM_SLOTS_MAX: usize = 1_000_000;
/// Programs a VM may hold, so that text addresses stay apart.
const PROGRAMS_MAX: usize = 1 << 16;

const _: () = assert!(PROGRAM_SLOTS_MAX < 1 << (TEXT_SHIFT - 3));

pub(crate) fn load(
    vm: &mut Vm,
    object: &LinkedObject,
    kfuncs: &[KfuncDesc],
) -> Result<Loaded, VmLoadError> {
    let mut loaded = Loaded::default();
    let btf = vm.types.add(&object.btf);
    for spec in &object.maps {
        let id = MapId(u32::try_from(vm.maps.len()).expect("bounded by guest memory"));
        let map = maps::create(&vm.mem, (id, btf), spec, &vm.config)?;
        // Last, as an object without its map would shift those of all later maps.
        let object = vm
            .mem
            .alloc(Region::MapObjects, MAP_OBJECT_STRIDE, MAP_OBJECT_STRIDE)?;
        assert_eq!(
            object,
            id.object(),
            "map objects lie in the order of map numbers"
        );
        if map.owns_things() {
            vm.owning_maps.push(id);
        }
        vm.maps.push(map);
        loaded.maps.push(id);
    }
    let kfuncs: BTreeMap<u32, KfuncDesc> = kfuncs
        .iter()
        .chain(crate::kfuncs::generic_kfuncs())
        .map(|desc| (desc.id, *desc))
        .collect();
    let mut programs = Vec::with_capacity(object.programs.len());
    for linked in &object.programs {
        let number = vm.programs.len() + programs.len();
        let mut program = load_program(vm, (number, btf), linked, &loaded, &kfuncs)?;
        program.proto = member_type(object, programs.len());
        claim_arrays(vm, linked, &program, &loaded)?;
        programs.push(program);
    }
    if vm.config.engine == Engine::Jit
        && let Err(refused) = exec::compile(vm, &mut programs)
    {
        vm.jit_refused = Some(refused.to_string().into());
    }
    for program in programs {
        loaded.programs.push(program.id());
        vm.programs.push(Arc::new(program));
        vm.references.push(None);
        vm.streams.push(Streams::default());
    }
    fill_slots(vm, object, &loaded)?;
    for ops in &object.struct_ops {
        let id = u32::try_from(vm.struct_ops.len()).expect("bounded by the file's size");
        let members = ops.members.iter();
        let programs = members
            .map(|m| {
                m.program
                    .and_then(|p| loaded.programs.get(p.index()).copied())
            })
            .collect();
        vm.struct_ops.push(StructOpsMap {
            linked: ops.clone(),
            programs,
        });
        loaded.struct_ops.push(StructOpsId(id));
    }
    Ok(loaded)
}

/// The type of the struct_ops member that a program of the object implements.
fn member_type(object: &LinkedObject, program: usize) -> Option<TypeId> {
    let mut members = object.struct_ops.iter().flat_map(|ops| &ops.members);
    let is_it = |member: &&StructOpsMember| member.program.is_some_and(|p| p.index() == program);
    members.find(is_it).map(|member| member.proto)
}

/// Ties the program arrays that a program refers to to programs like it.
fn claim_arrays(
    vm: &mut Vm,
    linked: &LinkedProgram,
    program: &Program,
    loaded: &Loaded,
) -> Result<(), VmLoadError> {
    let mut slot = 0;
    while let Some(insn) = linked.insns.get(slot) {
        let index = usize::try_from(insn.imm).ok();
        let id = index.and_then(|index| loaded.maps.get(index));
        let id = id.filter(|_| insn.pseudo_load() == Some(PseudoLoad::Map));
        let map = id.map(|id| &mut vm.maps[id.index()]);
        if let Some(map) = map.filter(|map| map.kind() == MapKind::ProgArray) {
            let claimed = map.claim(program.shape());
            claimed.map_err(|errno| VmLoadError::Map {
                map: map.name().to_owned(),
                errno,
                reason: format!("it is for other programs than `{}`", program.name()),
            })?;
        }
        slot += if insn.is_ldimm64() { 2 } else { 1 };
    }
    Ok(())
}

/// Fills the entries that maps of maps and program arrays are declared with.
fn fill_slots(vm: &mut Vm, object: &LinkedObject, loaded: &Loaded) -> Result<(), VmLoadError> {
    for (spec, map) in object.maps.iter().zip(&loaded.maps) {
        for (index, slot) in &spec.slots {
            let set = match slot {
                InitialSlot::Map(inner) => match loaded.map(*inner) {
                    Some(inner) => {
                        vm.map_set_inner(*map, &index.to_le_bytes(), inner, UpdateFlags::Any)
                    }
                    None => Err(Errno::EBADF),
                },
                InitialSlot::Program(prog) => match loaded.programs.get(prog.index()) {
                    Some(prog) => vm.map_set_program(*map, *index, *prog),
                    None => Err(Errno::EBADF),
                },
            };
            set.map_err(|errno| VmLoadError::Map {
                map: spec.name.clone(),
                errno,
                reason: format!("its value {index} does not fit"),
            })?;
        }
    }
    Ok(())
}

fn load_program(
    vm: &Vm,
    (number, btf): (usize, BtfId),
    linked: &LinkedProgram,
    loaded: &Loaded,
    kfuncs: &BTreeMap<u32, KfuncDesc>,
) -> Result<Program, VmLoadError> {
    if number >= PROGRAMS_MAX {
        return Err(VmLoadError::TooManyPrograms { max: PROGRAMS_MAX });
    }
    if linked.insns.is_empty() || linked.insns.len() > PROGRAM_SLOTS_MAX {
        return Err(VmLoadError::ProgramSize {
            program: linked.name.clone(),
            insns: linked.insns.len(),
            max: PROGRAM_SLOTS_MAX,
        });
    }
    let id = ProgId(u32::try_from(number).expect("checked above"));
    let mut loader = ProgramLoader {
        mem: &vm.mem,
        maps: &vm.maps,
        ids: &loaded.maps,
        kfuncs,
        linked,
        id,
        callx: vm.config.callx,
        btf,
        arena: None,
        called: Vec::new(),
    };
    loader.load()
}

/// Guest address of a function's first slot, as callbacks are passed around.
pub(crate) fn text_address(prog: ProgId, slot: u32) -> u64 {
    TEXT_BASE + (u64::from(prog.raw()) << TEXT_SHIFT) + u64::from(slot) * 8
}

/// The slot of `prog` that a text address names.
pub(crate) fn text_slot(prog: ProgId, addr: u64) -> Option<u32> {
    let offset = addr.checked_sub(text_address(prog, 0))?;
    if offset >= 1 << TEXT_SHIFT || offset % 8 != 0 {
        return None;
    }
    u32::try_from(offset / 8).ok()
}

struct ProgramLoader<'a> {
    mem: &'a GuestMem,
    maps: &'a [Map],
    ids: &'a [MapId],
    kfuncs: &'a BTreeMap<u32, KfuncDesc>,
    linked: &'a LinkedProgram,
    id: ProgId,
    callx: bool,
    btf: BtfId,
    arena: Option<MapId>,
    called: Vec<KfuncDesc>,
}

impl ProgramLoader<'_> {
    fn load(&mut self) -> Result<Program, VmLoadError> {
        let insns = &self.linked.insns;
        let len = u32::try_from(insns.len()).expect("checked by the caller");
        self.find_arena()?;
        let jump_targets = self.linked.jump_targets();
        let mut code = code::decode(insns).map_err(|error| VmLoadError::BadInsn {
            place: self.place(error.slot),
            reason: error.reason,
        })?;
        for slot in 0..insns.len() {
            let op = code.ops[slot];
            if self.linked.poisoned.contains_key(&slot_number(slot)) {
                code.ops[slot].code = OpCode::Poison;
                continue;
            }
            if op.code == OpCode::CallX && !self.callx {
                return Err(VmLoadError::BadInsn {
                    place: self.place(slot),
                    reason: "callx is not supported".to_owned(),
                });
            }
            if let Some(table) = self.linked.jump_tables.get(&slot_number(slot)) {
                code.ops[slot].imm = self.jump_table(slot, &code.ops, table)?;
            } else if op.code == OpCode::LdImm64 {
                code.ops[slot].imm = self.resolve_load(slot, insns, &code.ops)?;
            } else if op.code == OpCode::CallKfunc {
                code.ops[slot].imm = self.resolve_kfunc(slot, insns[slot])?;
            } else if op.code == OpCode::CallFunction {
                self.check_function(slot, op.off)?;
            }
        }
        if self.arena.is_some() {
            let starts: Vec<u32> = self.linked.funcs.iter().map(|f| f.start).collect();
            analysis::mark(&mut code.ops, &starts, &self.entries(), &jump_targets);
        } else {
            // There is no arena that an access could go to.
            for op in &mut code.ops {
                op.space = Space::Kernel;
            }
        }
        Ok(Program {
            id: self.id,
            linked: LinkedProgram {
                insns: Vec::new(),
                ..self.linked.clone()
            },
            len,
            arena: self.arena(),
            btf: self.btf,
            proto: None,
            kfuncs: std::mem::take(&mut self.called),
            executable: Executable {
                code,
                jump_targets,
                native: None,
            },
        })
    }

    fn arena(&self) -> Option<ProgArena> {
        let map = &self.maps[self.arena?.index()];
        let Storage::Arena { slot } = &map.storage else {
            return None;
        };
        Some(ProgArena {
            map: map.id(),
            memory: Arc::clone(self.mem.arena(*slot)?),
            no_user_conv: map.spec().map_flags & BPF_F_NO_USER_CONV != 0,
        })
    }

    fn place(&self, slot: usize) -> Box<Place> {
        let insn = slot_number(slot);
        Box::new(Place {
            program: self.linked.name.clone(),
            function: self
                .linked
                .func_at(insn)
                .map_or(String::new(), |f| f.name.clone()),
            insn,
            line: line_text(&self.linked.lines, insn),
        })
    }

    fn map(&self, slot: usize, index: i32) -> Result<&Map, VmLoadError> {
        let id = usize::try_from(index).ok().and_then(|i| self.ids.get(i));
        match id {
            Some(id) => Ok(&self.maps[id.index()]),
            None => Err(VmLoadError::BadReference {
                place: self.place(slot),
                kind: "map",
                index: u64::from(index.cast_unsigned()),
                count: self.ids.len(),
            }),
        }
    }

    /// A program is associated with the arena that it refers to; with two, it is refused.
    fn find_arena(&mut self) -> Result<(), VmLoadError> {
        if let Some(index) = self.linked.arena {
            let map = self.map(0, index.0.cast_signed())?;
            self.arena = Some(map.id());
        }
        let mut slot = 0;
        while let Some(insn) = self.linked.insns.get(slot) {
            if let Some(PseudoLoad::Map | PseudoLoad::MapValue) = insn.pseudo_load() {
                let map = self.map(slot, insn.imm)?;
                if map.kind() == MapKind::Arena {
                    let id = map.id();
                    if let Some(first) = self.arena.filter(|first| *first != id) {
                        return Err(VmLoadError::TwoArenas {
                            program: self.linked.name.clone(),
                            first: self.maps[first.index()].name().to_owned(),
                            second: map.name().to_owned(),
                        });
                    }
                    self.arena = Some(id);
                }
            }
            slot += if insn.is_ldimm64() { 2 } else { 1 };
        }
        Ok(())
    }

    fn resolve_load(&self, slot: usize, insns: &[Insn], ops: &[Op]) -> Result<u64, VmLoadError> {
        let (low, high) = (insns[slot], insns[slot + 1]);
        let bad = |reason: &str| VmLoadError::BadInsn {
            place: self.place(slot),
            reason: reason.to_owned(),
        };
        match low.pseudo_load() {
            Some(PseudoLoad::Value) => Ok(ldimm64_value(low.imm, high.imm)),
            Some(PseudoLoad::Map) => Ok(self.map(slot, low.imm)?.object().raw()),
            Some(PseudoLoad::MapValue) => {
                let map = self.map(slot, low.imm)?;
                let base = self
                    .value_base(map)
                    .ok_or_else(|| bad("address of a value in a map that has none at load"))?;
                Ok(base.wrapping_add(u64::from(high.imm.cast_unsigned())))
            }
            Some(PseudoLoad::Func) => {
                let start = i64::try_from(slot).unwrap_or(i64::MAX) + 1 + i64::from(low.imm);
                let start = u32::try_from(start).map_err(|_negative| bad("no such function"))?;
                // As the decoder does for calls: half an instruction starts nothing.
                let is_half = ops
                    .get(start as usize)
                    .is_some_and(|op| op.code == OpCode::Hole);
                if is_half || !self.is_function(start) {
                    return Err(bad("address of an instruction that starts no function"));
                }
                Ok(text_address(self.id, start))
            }
            Some(PseudoLoad::BtfId) | None => Err(bad("ldimm64 of an unknown sort")),
        }
    }

    /// Writes a jump table, frozen, with the text addresses that it leads to; what a load of it
    /// gives.
    fn jump_table(&self, slot: usize, ops: &[Op], table: &[u32]) -> Result<u64, VmLoadError> {
        let bad = |reason: String| VmLoadError::BadInsn {
            place: self.place(slot),
            reason,
        };
        if ops[slot].code != OpCode::LdImm64 {
            return Err(bad("a jump table that nothing loads".to_owned()));
        }
        let size = table.len() as u64 * 8;
        let at = self.mem.alloc(Region::Rodata, size, 8)?;
        for (entry, target) in (0u64..).zip(table) {
            let is_start = ops.get(*target as usize).is_some_and(|op| {
                op.code != OpCode::Hole && (*target as usize) < self.linked.insns.len()
            });
            if !is_start {
                let reason = format!("jump table leads to slot {target}, where nothing begins");
                return Err(bad(reason));
            }
            let place = at.checked_add(entry * 8).expect("inside of what was given");
            let written = self.mem.write_u64(place, text_address(self.id, *target));
            written.map_err(|fault| bad(fault.to_string()))?;
        }
        Ok(at.raw().wrapping_add(ops[slot].imm))
    }

    /// Functions that are entered from outside: the program itself and its callbacks.
    fn entries(&self) -> Vec<u32> {
        let callbacks = (1u32..).zip(&self.linked.insns).filter_map(|(next, insn)| {
            let is_func = insn.pseudo_load() == Some(PseudoLoad::Func);
            next.checked_add_signed(insn.imm).filter(|_| is_func)
        });
        std::iter::once(0).chain(callbacks).collect()
    }

    /// Arena globals are named by their user address.
    fn value_base(&self, map: &Map) -> Option<u64> {
        if let Storage::Arena { slot } = &map.storage {
            return Some(self.mem.arena(*slot)?.user_vm_start()?.raw());
        }
        map.direct_value_addr()
    }

    fn is_function(&self, start: u32) -> bool {
        let func = self.linked.func_at(start);
        func.is_some_and(|f| f.start == start)
    }

    fn check_function(&self, slot: usize, start: i32) -> Result<(), VmLoadError> {
        if u32::try_from(start).is_ok_and(|start| self.is_function(start)) {
            return Ok(());
        }
        Err(VmLoadError::BadInsn {
            place: self.place(slot),
            reason: format!("call of slot {start}, where no function starts"),
        })
    }

    /// Position of the called kfunc in the program's table.
    fn resolve_kfunc(&mut self, slot: usize, insn: Insn) -> Result<u64, VmLoadError> {
        assert_eq!(insn.pseudo_call(), Some(PseudoCall::Kfunc));
        let id = insn.imm.cast_unsigned();
        let desc = self
            .kfuncs
            .get(&id)
            .ok_or_else(|| VmLoadError::UnknownKfunc {
                place: self.place(slot),
                id,
            })?;
        let takes_arena = desc.args.iter().any(|arg| *arg != KfuncArg::Plain);
        if takes_arena && self.arena.is_none() {
            return Err(VmLoadError::ArenaArgument {
                place: self.place(slot),
                kfunc: desc.name.to_owned(),
            });
        }
        let known = self.called.iter().position(|k| k.id == id);
        let index = known.unwrap_or_else(|| {
            self.called.push(*desc);
            self.called.len() - 1
        });
        Ok(index as u64)
    }
}

fn slot_number(slot: usize) -> u32 {
    u32::try_from(slot).expect("a program has at most PROGRAM_SLOTS_MAX slots")
}
