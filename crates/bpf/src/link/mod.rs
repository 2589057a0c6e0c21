//! Linking: an object and a kernel give programs that can be run.
//!
//! Work starts at the programs to load and follows calls, so code that nothing reaches
//! is never looked at: neither its relocations nor what they miss. Every function is
//! resolved once and then copied into each program that reaches it, entry first and each
//! callee with all it reaches before its caller's next, as libbpf does.
//!
//! ```text
//! struct_ops ─► which programs load ─► func (CO-RE, relocations, once each)
//!                                        └─► program (reachable funcs, calls patched)
//! ```

mod externs;
mod func;
mod struct_ops;

use crate::btf::{Kind, Type, TypeId};
use crate::error::{InsnPlace, InsnProblem, LinkError};
use crate::isa::op::PseudoCall;
use crate::kernel::KernelSymbols;
use crate::lines::{LineEntry, LineTable};
use crate::linked::{FuncInfo, FuncParam, LinkedGlobal, LinkedMap, LinkedObject, LinkedProgram};
use crate::map::{InitialSlot, ProgramIndex};
use crate::object::{Function, Object, Program, Storage};
use crate::section::ProgType;
use externs::Externs;
use func::{FuncResolver, ResolvedFunc};
use harena_abi::PAGE_SIZE;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use struct_ops::Plan;

/// Longest program, as in the kernel.
const PROGRAM_INSNS_MAX: usize = 1_000_000;
/// All programs of an object together.
const OBJECT_INSNS_MAX: usize = 8_000_000;

impl Object {
    /// Links all programs that are to be loaded; the first problem ends it.
    pub fn link(&self, kernel: &dyn KernelSymbols) -> Result<LinkedObject, LinkError> {
        let mut linker = Linker::new(self, kernel)?;
        let mut programs = Vec::new();
        for index in linker.plan.loaded.clone() {
            programs.push(linker.program(index)?);
        }
        linker.finish(programs)
    }

    /// Everything that keeps this object's programs from being linked: the first problem
    /// of each program.
    #[must_use]
    pub fn problems(&self, kernel: &dyn KernelSymbols) -> Vec<LinkError> {
        let mut linker = match Linker::new(self, kernel) {
            Ok(linker) => linker,
            Err(problem) => return vec![problem],
        };
        let loaded = linker.plan.loaded.clone();
        let mut problems: Vec<LinkError> = loaded
            .into_iter()
            .filter_map(|index| linker.program(index).err())
            .collect();
        // Programs share functions, and so the problems in them.
        problems.dedup();
        problems
    }
}

struct Linker<'a> {
    object: &'a Object,
    plan: Plan,
    maps: Vec<LinkedMap>,
    resolver: FuncResolver<'a>,
    /// Names of `arg:` tags by function and parameter.
    arg_tags: BTreeMap<(TypeId, u32), Vec<String>>,
    insns_total: usize,
}

impl<'a> Linker<'a> {
    fn new(object: &'a Object, kernel: &'a dyn KernelSymbols) -> Result<Self, LinkError> {
        let plan = struct_ops::plan(object, kernel)?;
        let mut maps = object.maps.clone();
        place_arena_globals(object, &mut maps)?;
        let externs = Externs::new(object, kernel, &mut maps);
        let arena_offset = object
            .arena
            .and_then(|arena| maps.get(arena.index()))
            .map_or(0, |map| map.contents_offset);
        Ok(Self {
            object,
            plan,
            maps,
            resolver: FuncResolver::new(object, kernel, externs, arena_offset),
            arg_tags: arg_tags(object),
            insns_total: 0,
        })
    }

    fn program(&mut self, index: usize) -> Result<LinkedProgram, LinkError> {
        let object = self.object;
        let Some(program) = object.programs.get(index) else {
            unreachable!("the plan names programs of this object");
        };
        let Some(prog_type) = program.prog_type else {
            return Err(LinkError::UnknownProgType {
                file: object.file.clone(),
                program: program.name.clone(),
                section: program.section.clone(),
            });
        };
        let mut layout = Layout::default();
        // Functions whose calls are being followed, each with how many were.
        let mut open = vec![(self.append(program, &mut layout, program.func)?, 0usize)];
        while let Some((caller, followed)) = open.last_mut() {
            let Some((_, callee)) = caller.calls.get(*followed).copied() else {
                open.pop();
                continue;
            };
            *followed = followed.saturating_add(1);
            if !layout.places.contains_key(&callee) {
                open.push((self.append(program, &mut layout, callee)?, 0));
            }
        }
        layout.patch_calls();
        let mut linked = self.collect(program, prog_type, &layout);
        linked.insns = layout.insns;
        Ok(linked)
    }

    fn append(
        &mut self,
        program: &Program,
        layout: &mut Layout,
        func: usize,
    ) -> Result<Rc<ResolvedFunc>, LinkError> {
        let resolved = self.resolver.func(func)?;
        let len = layout.insns.len().saturating_add(resolved.insns.len());
        self.insns_total = self.insns_total.saturating_add(resolved.insns.len());
        if len > PROGRAM_INSNS_MAX {
            return Err(LinkError::ProgramTooLong {
                file: self.object.file.clone(),
                program: program.name.clone(),
                max: PROGRAM_INSNS_MAX,
            });
        }
        if self.insns_total > OBJECT_INSNS_MAX {
            return Err(LinkError::ObjectTooLong {
                file: self.object.file.clone(),
                max: OBJECT_INSNS_MAX,
            });
        }
        layout.places.insert(func, layout.funcs.len());
        layout.funcs.push(func);
        layout.starts.push(layout.insns.len());
        layout.insns.extend(&resolved.insns);
        layout.resolved.push(Rc::clone(&resolved));
        Ok(resolved)
    }

    /// All of a linked program but its instructions.
    fn collect(&self, program: &Program, prog_type: ProgType, layout: &Layout) -> LinkedProgram {
        let mut linked = LinkedProgram::from_insns(&program.name, prog_type, Vec::new());
        linked.section.clone_from(&program.section);
        linked.attach.clone_from(&program.attach);
        linked.sleepable = program.sleepable;
        linked.funcs.clear();
        let mut lines: Vec<LineEntry> = Vec::new();
        let parts = layout
            .funcs
            .iter()
            .zip(&layout.starts)
            .zip(&layout.resolved);
        for ((func, start), resolved) in parts {
            let Some(func) = self.object.funcs.get(*func) else {
                continue;
            };
            // Programs are shorter than 2^32 slots.
            let start = u32::try_from(*start).unwrap_or(u32::MAX);
            linked.funcs.push(self.func_info(func, start));
            lines.extend(self.lines_of(func, start));
            for (slot, reason) in &resolved.poisoned {
                let slot = start.saturating_add(*slot);
                linked.poisoned.insert(slot, Arc::clone(reason));
            }
            for (slot, table) in &resolved.jump_tables {
                let table = table.iter().map(|slot| start.saturating_add(*slot));
                let slot = start.saturating_add(*slot);
                linked.jump_tables.insert(slot, table.collect());
            }
            linked.kfuncs.extend(resolved.kfuncs.clone());
            if resolved.uses_arena {
                linked.arena = self.object.arena;
            }
        }
        linked.lines = LineTable::new(Arc::clone(&self.object.btf), lines);
        linked
    }

    fn lines_of(&self, func: &Function, start: u32) -> impl Iterator<Item = LineEntry> {
        let section = self.object.code.get(func.section);
        let lines = section.map_or(&[][..], |section| section.lines.as_slice());
        let from = lines.partition_point(|line| line.insn < func.start);
        let to = lines.partition_point(|line| line.insn < func.end());
        let lines = lines.get(from..to).unwrap_or_default();
        let first = func.start;
        lines.iter().map(move |line| LineEntry {
            insn: line.insn.saturating_sub(first).saturating_add(start),
            ..*line
        })
    }

    fn func_info(&self, func: &Function, start: u32) -> FuncInfo {
        let btf = &self.object.btf;
        let mut params = Vec::new();
        if let Some(id) = func.type_id
            && let Type::Func { proto, .. } = btf.get(id)
            && let Type::FuncProto { params: types, .. } = btf.get(*proto)
        {
            for (index, param) in (0u32..).zip(types) {
                params.push(FuncParam {
                    name: btf.str(param.name).to_owned(),
                    type_id: param.type_id,
                    tags: self.arg_tags.get(&(id, index)).cloned().unwrap_or_default(),
                });
            }
        }
        FuncInfo {
            name: func.name.clone(),
            start,
            len: func.len,
            type_id: func.type_id,
            params,
        }
    }

    fn finish(mut self, programs: Vec<LinkedProgram>) -> Result<LinkedObject, LinkError> {
        let linked_index: BTreeMap<usize, ProgramIndex> = (0u32..)
            .zip(&self.plan.loaded)
            .map(|(linked, index)| (*index, ProgramIndex(linked)))
            .collect();
        for map in &mut self.maps {
            let slots = std::mem::take(&mut map.slots);
            let slots = slots.into_iter().filter_map(|(at, slot)| match slot {
                InitialSlot::Map(_) => Some((at, slot)),
                InitialSlot::Program(index) => {
                    let linked = linked_index.get(&index.index())?;
                    Some((at, InitialSlot::Program(*linked)))
                }
            });
            map.slots = slots.collect();
        }
        let struct_ops = self.plan.struct_ops(&linked_index);
        let object = self.object;
        let globals = object.globals.iter().filter_map(|(name, global)| {
            let (Storage::Map(map) | Storage::Kconfig(map)) = global.storage else {
                return None;
            };
            let base = self.maps.get(map.index())?.contents_offset;
            let linked = LinkedGlobal {
                map,
                offset: global.offset.saturating_add(base),
                type_id: global.type_id,
                size: global.size,
            };
            Some((name.clone(), linked))
        });
        Ok(LinkedObject {
            file: object.file.clone(),
            license: object.license.clone(),
            btf: Arc::clone(&object.btf),
            programs,
            struct_ops,
            arena: object.arena,
            globals: globals.collect(),
            maps: self.maps,
        })
    }
}

/// The functions of one program in the making.
#[derive(Default)]
struct Layout {
    insns: Vec<crate::isa::Insn>,
    /// Functions as they follow each other.
    funcs: Vec<usize>,
    /// Place of a function in `funcs`.
    places: BTreeMap<usize, usize>,
    /// Their first slots.
    starts: Vec<usize>,
    resolved: Vec<Rc<ResolvedFunc>>,
}

impl Layout {
    /// Gives every call and function address its distance.
    fn patch_calls(&mut self) {
        for (start, resolved) in self.starts.iter().zip(&self.resolved) {
            for (slot, callee) in &resolved.calls {
                let place = self.places.get(callee).and_then(|at| self.starts.get(*at));
                let slot = start.saturating_add(usize::try_from(*slot).unwrap_or(usize::MAX));
                let (Some(target), Some(insn)) = (place, self.insns.get_mut(slot)) else {
                    continue;
                };
                // Programs have at most a million slots.
                let distance = i64::try_from(*target)
                    .unwrap_or(0)
                    .saturating_sub(i64::try_from(slot).unwrap_or(0))
                    .saturating_sub(1);
                insn.imm = i32::try_from(distance).unwrap_or(0);
            }
        }
    }
}

/// Puts the arena's globals at its end, as libbpf does since 1.7: the low offsets, NULL
/// among them, stay free for page allocation.
fn place_arena_globals(object: &Object, maps: &mut [LinkedMap]) -> Result<(), LinkError> {
    let Some(map) = object.arena.and_then(|arena| maps.get_mut(arena.index())) else {
        return Ok(());
    };
    let available = u64::from(map.max_entries).saturating_mul(PAGE_SIZE);
    let need = map.contents.len.next_multiple_of(PAGE_SIZE);
    match available.checked_sub(need) {
        Some(offset) if need > 0 => map.contents_offset = offset,
        Some(_) => {}
        None => {
            return Err(LinkError::ArenaTooSmall {
                file: object.file.clone(),
                arena: map.name.clone(),
                need,
                available,
            });
        }
    }
    Ok(())
}

/// The `arg:` declaration tags of functions.
fn arg_tags(object: &Object) -> BTreeMap<(TypeId, u32), Vec<String>> {
    let mut tags: BTreeMap<(TypeId, u32), Vec<String>> = BTreeMap::new();
    for id in object.btf.with_prefix("arg:") {
        if let Type::DeclTag {
            name,
            target,
            component: Some(component),
        } = object.btf.get(id)
            && object.btf.get(*target).kind() == Kind::Func
        {
            let text = object.btf.str(*name);
            let text = text.strip_prefix("arg:").unwrap_or(text);
            tags.entry((*target, *component))
                .or_default()
                .push(text.to_owned());
        }
    }
    tags
}

/// Where an instruction stands, for messages.
fn place(object: &Object, func: &Function, slot: u32) -> InsnPlace {
    let section = object.code.get(func.section);
    let lines = section.map_or(&[][..], |section| section.lines.as_slice());
    let table = LineTable::new(Arc::clone(&object.btf), lines.to_vec());
    InsnPlace {
        file: object.file.clone(),
        section: section.map_or(String::new(), |section| section.name.clone()),
        func: func.name.clone(),
        insn: slot,
        source: table.at(slot).map(|line| line.to_string()),
    }
}

/// An error at an instruction.
fn insn_error(object: &Object, func: &Function, slot: u32, problem: InsnProblem) -> LinkError {
    LinkError::Insn {
        place: Box::new(place(object, func, slot)),
        problem: Box::new(problem),
    }
}

/// Whether an instruction calls another function of the object.
fn is_local_call(insn: crate::isa::Insn) -> bool {
    insn.pseudo_call() == Some(PseudoCall::Subprogram)
}
