//! One function: its CO-RE relocations answered, its references resolved.
//!
//! Slots here count from the function's start; sections' slots are converted on the way
//! in. What an instruction refers to is final afterwards, except for the distances of
//! calls, which depend on the program the function is copied into.

use super::externs::{CallTarget, Externs};
use super::{insn_error, is_local_call};
use crate::core_reloc::{Patched, RelocKind, Relocator, patch};
use crate::error::{CoReError, InsnProblem, LinkError};
use crate::isa::Insn;
use crate::isa::op::{
    BPF_CALL, BPF_JMP, BPF_PSEUDO_FUNC, BPF_PSEUDO_KFUNC_CALL, BPF_PSEUDO_MAP_FD,
    BPF_PSEUDO_MAP_VALUE, BPF_X,
};
use crate::kernel::KernelSymbols;
use crate::map::MapIndex;
use crate::object::{CodeReloc, CodeSection, Function, Object, RelocTarget};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// `imm` of the call that stands for a kfunc that does not exist, plus the extern's index.
const POISON_KFUNC_BASE: i32 = 2_002_000_000;

/// A function, ready to be copied into programs.
#[derive(Debug, Default)]
pub(super) struct ResolvedFunc {
    pub(super) insns: Vec<Insn>,
    /// Slots of calls and function addresses, and the functions they mean.
    pub(super) calls: Vec<(u32, usize)>,
    /// Slots of loads of jump tables, and where each table leads.
    pub(super) jump_tables: BTreeMap<u32, Vec<u32>>,
    pub(super) poisoned: BTreeMap<u32, Arc<str>>,
    pub(super) kfuncs: BTreeMap<String, u32>,
    pub(super) uses_arena: bool,
}

/// Resolves functions, each once.
pub(super) struct FuncResolver<'a> {
    object: &'a Object,
    externs: Externs<'a>,
    relocator: Relocator<'a>,
    /// Where the arena's globals begin.
    arena_offset: u64,
    cache: BTreeMap<usize, Rc<ResolvedFunc>>,
    /// Index of a function by section and start.
    starts: BTreeMap<(usize, u32), usize>,
    /// Every reason for poisoning once.
    reasons: BTreeSet<Arc<str>>,
}

impl<'a> FuncResolver<'a> {
    pub(super) fn new(
        object: &'a Object,
        kernel: &'a dyn KernelSymbols,
        externs: Externs<'a>,
        arena_offset: u64,
    ) -> Self {
        let funcs = object.funcs.iter().enumerate();
        Self {
            object,
            externs,
            relocator: Relocator::new(&object.btf, kernel.btf()),
            arena_offset,
            cache: BTreeMap::new(),
            starts: funcs
                .map(|(index, func)| ((func.section, func.start), index))
                .collect(),
            reasons: BTreeSet::new(),
        }
    }

    /// The function with this index.
    pub(super) fn func(&mut self, index: usize) -> Result<Rc<ResolvedFunc>, LinkError> {
        if let Some(known) = self.cache.get(&index) {
            return Ok(Rc::clone(known));
        }
        let object = self.object;
        let Some(func) = object.funcs.get(index) else {
            unreachable!("indices of functions come from `starts` and programs");
        };
        let Some(section) = object.code.get(func.section) else {
            unreachable!("functions lie in sections of code");
        };
        let resolved = self.resolve(func, section)?;
        let resolved = Rc::new(resolved);
        self.cache.insert(index, Rc::clone(&resolved));
        Ok(resolved)
    }

    fn resolve(
        &mut self,
        func: &Function,
        section: &CodeSection,
    ) -> Result<ResolvedFunc, LinkError> {
        let object = self.object;
        let fail = |slot: u32, problem| insn_error(object, func, slot, problem);
        let range = index(func.start)..index(func.end());
        let mut out = ResolvedFunc {
            insns: section.insns.get(range).unwrap_or_default().to_vec(),
            ..ResolvedFunc::default()
        };
        for (slot, relo) in section.core_relos.range(func.start..func.end()) {
            let access = object.btf.string_at(relo.access);
            self.core_relo(&mut out, slot.saturating_sub(func.start), relo, access)
                .map_err(|cause| {
                    let what = self.describe(relo.kind, relo.type_id, access);
                    fail(*slot, InsnProblem::CoRe { what, cause })
                })?;
        }
        let mut is_second_slot = false;
        for slot in func.start..func.end() {
            let at = slot.saturating_sub(func.start);
            let Some(insn) = out.insns.get(index(at)).copied() else {
                break;
            };
            if std::mem::take(&mut is_second_slot) {
                continue;
            }
            is_second_slot = insn.is_ldimm64();
            if out.poisoned.contains_key(&at) {
                continue;
            }
            match section.relocs.get(&slot) {
                Some(reloc) => self.reference(&mut out, func, at, reloc),
                None if is_local_call(insn) => {
                    let target = i64::from(slot)
                        .saturating_add(i64::from(insn.imm))
                        .saturating_add(1);
                    self.call(&mut out, at, func.section, target)
                }
                None => check_plain(insn),
            }
            .map_err(|problem| fail(slot, problem))?;
        }
        Ok(out)
    }

    fn core_relo(
        &mut self,
        out: &mut ResolvedFunc,
        at: u32,
        relo: &crate::btf::ext::CoreRelo,
        access: &str,
    ) -> Result<(), CoReError> {
        let kind = RelocKind::from_number(relo.kind);
        let kind = kind.ok_or(CoReError::UnknownKind { kind: relo.kind })?;
        let answer = self.relocator.answer(kind, relo.type_id, access)?;
        let is_pair = out
            .insns
            .get(index(at))
            .is_some_and(|insn| insn.is_ldimm64());
        let problem = match patch(&mut out.insns, index(at), &answer)? {
            Patched::Done => None,
            Patched::Poisoned => Some("does not exist in this kernel"),
            Patched::Unfit => Some("has another size in this kernel and cannot be read alike"),
        };
        if let Some(problem) = problem {
            let what = self.describe(relo.kind, relo.type_id, access);
            let reason = self.reason(format!("{what} {problem}"));
            if is_pair {
                let second = at.saturating_add(1);
                out.poisoned.insert(second, Arc::clone(&reason));
            }
            out.poisoned.insert(at, reason);
        }
        Ok(())
    }

    fn reason(&mut self, text: String) -> Arc<str> {
        if let Some(known) = self.reasons.get(text.as_str()) {
            return Arc::clone(known);
        }
        let reason: Arc<str> = Arc::from(text);
        self.reasons.insert(Arc::clone(&reason));
        reason
    }

    fn describe(&self, kind: u32, type_id: crate::btf::TypeId, access: &str) -> String {
        self.relocator
            .describe(RelocKind::from_number(kind), type_id, access)
    }

    /// Resolves an instruction that has a relocation.
    fn reference(
        &mut self,
        out: &mut ResolvedFunc,
        func: &Function,
        at: u32,
        reloc: &CodeReloc,
    ) -> Result<(), InsnProblem> {
        let object = self.object;
        let bad = |cause: String| InsnProblem::Reloc {
            number: reloc.number,
            symbol: object
                .symbols
                .get(reloc.symbol)
                .cloned()
                .unwrap_or_default(),
            cause,
        };
        let Some(insn) = out.insns.get(index(at)).copied() else {
            return Ok(());
        };
        let is_call = insn.code == BPF_JMP | BPF_CALL;
        if !is_call && !insn.is_ldimm64() {
            return Err(bad(format!(
                "slot {} is neither a call nor a 64-bit immediate load (code {:#04x})",
                func.start.saturating_add(at),
                insn.code
            )));
        }
        match (&reloc.target, is_call) {
            (RelocTarget::Unusable(why), _) => Err(bad(why.to_string())),
            (RelocTarget::Extern(index), true) => self.extern_call(out, at, *index),
            (RelocTarget::Extern(index), false) => self.extern_load(out, at, *index),
            (RelocTarget::Code { section, value }, true) => {
                let target = i64::try_from(*value / 8).unwrap_or(i64::MAX);
                let target = target.saturating_add(i64::from(insn.imm)).saturating_add(1);
                self.call(out, at, *section, target)
            }
            (RelocTarget::Code { section, value }, false) => {
                let target = i64::try_from(*value).unwrap_or(i64::MAX);
                let target = target.saturating_add(i64::from(insn.imm));
                set_load(out, at, BPF_PSEUDO_FUNC, [0, 0]);
                self.call(out, at, *section, target / 8)
            }
            (RelocTarget::Map(map), false) => {
                let index = map.0.cast_signed();
                set_load(out, at, BPF_PSEUDO_MAP_FD, [index, 0]);
                out.uses_arena |= Some(*map) == object.arena;
                Ok(())
            }
            (RelocTarget::Data { map, value }, false) => {
                let offset = value.wrapping_add_signed(i64::from(insn.imm));
                self.data(out, at, *map, offset)
            }
            (RelocTarget::JumpTable { offset, size }, false) => {
                let table = self.jump_table(func, *offset, *size).map_err(bad)?;
                let is_inside = u64::try_from(insn.imm).is_ok_and(|addend| addend < *size);
                if !is_inside {
                    return Err(bad(format!("byte {} of a table of {size}", insn.imm)));
                }
                set_load(out, at, 0, [insn.imm, 0]);
                out.jump_tables.insert(at, table);
                Ok(())
            }
            (
                RelocTarget::Map(_) | RelocTarget::Data { .. } | RelocTarget::JumpTable { .. },
                true,
            ) => Err(bad("data cannot be called".to_owned())),
        }
    }

    /// The slots of a function that a jump table leads to, counted from its start.
    fn jump_table(&self, func: &Function, offset: u64, size: u64) -> Result<Vec<u32>, String> {
        let start = usize::try_from(offset).ok();
        let end = offset
            .checked_add(size)
            .and_then(|end| usize::try_from(end).ok());
        let bytes = match (start, end) {
            (Some(start), Some(end)) => self.object.jump_tables.get(start..end),
            _ => None,
        };
        let bytes = bytes.ok_or_else(|| "the jump table ends behind its section".to_owned())?;
        let (entries, rest) = bytes.as_chunks::<8>();
        if entries.is_empty() || !rest.is_empty() {
            return Err(format!("a jump table of {size} bytes"));
        }
        let range = func.start..func.end();
        let entries = entries.iter().map(|entry| {
            let byte = u64::from_le_bytes(*entry);
            let slot = u32::try_from(byte / 8).ok();
            let slot = slot.filter(|slot| byte.is_multiple_of(8) && range.contains(slot));
            let slot = slot.map(|slot| slot.saturating_sub(func.start));
            slot.ok_or_else(|| {
                format!("the jump table leads to byte {byte} of the section, outside the function")
            })
        });
        entries.collect()
    }

    fn data(
        &self,
        out: &mut ResolvedFunc,
        at: u32,
        map: MapIndex,
        offset: u64,
    ) -> Result<(), InsnProblem> {
        let Some(def) = self.object.maps.get(map.index()) else {
            return Ok(());
        };
        let size = def.contents.len;
        let is_arena = Some(map) == self.object.arena;
        let place = offset.wrapping_add(if is_arena { self.arena_offset } else { 0 });
        match u32::try_from(place) {
            Ok(place) if offset < size => {
                let imms = [map.0.cast_signed(), place.cast_signed()];
                set_load(out, at, BPF_PSEUDO_MAP_VALUE, imms);
                out.uses_arena |= is_arena;
                Ok(())
            }
            _ => Err(InsnProblem::MapOffset {
                map: def.name.clone(),
                offset,
                size,
            }),
        }
    }

    /// A call or function address: remembers which function is meant.
    fn call(
        &self,
        out: &mut ResolvedFunc,
        at: u32,
        section: usize,
        target: i64,
    ) -> Result<(), InsnProblem> {
        let start = u32::try_from(target).ok();
        let func = start.and_then(|start| self.starts.get(&(section, start)));
        match func {
            Some(func) => {
                out.calls.push((at, *func));
                Ok(())
            }
            None => Err(InsnProblem::CallTarget { target }),
        }
    }

    fn extern_call(
        &mut self,
        out: &mut ResolvedFunc,
        at: u32,
        number: usize,
    ) -> Result<(), InsnProblem> {
        let call = match self.externs.call(number)? {
            CallTarget::Kfunc { name, id } => {
                out.kfuncs.insert(name, id);
                Insn::new(
                    BPF_JMP | BPF_CALL,
                    0,
                    BPF_PSEUDO_KFUNC_CALL,
                    0,
                    id.cast_signed(),
                )
            }
            CallTarget::Missing { why } => {
                let reason = self.reason(why);
                out.poisoned.insert(at, reason);
                let number = i32::try_from(number).unwrap_or(0);
                let imm = POISON_KFUNC_BASE.saturating_add(number);
                Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, imm)
            }
        };
        if let Some(slot) = out.insns.get_mut(index(at)) {
            *slot = call;
        }
        Ok(())
    }

    fn extern_load(
        &mut self,
        out: &mut ResolvedFunc,
        at: u32,
        number: usize,
    ) -> Result<(), InsnProblem> {
        let (src, imms) = self.externs.load(number)?;
        set_load(out, at, src, imms);
        Ok(())
    }
}

/// Makes the load at `at` refer to something.
fn set_load(out: &mut ResolvedFunc, at: u32, src: u8, [lo, hi]: [i32; 2]) {
    if let Some(first) = out.insns.get_mut(index(at)) {
        first.src = src;
        first.imm = lo;
    }
    if let Some(second) = out.insns.get_mut(index(at.saturating_add(1))) {
        second.imm = hi;
    }
}

/// An instruction without relocation must not refer to anything outside of its function.
fn check_plain(insn: Insn) -> Result<(), InsnProblem> {
    let is_call = insn.code & !BPF_X == BPF_JMP | BPF_CALL;
    if (insn.is_ldimm64() || is_call) && insn.src != 0 {
        return Err(InsnProblem::Unrelocated {
            code: insn.code,
            src: insn.src,
        });
    }
    Ok(())
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}
