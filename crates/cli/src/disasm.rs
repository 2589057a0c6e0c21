//! `harena inspect --disasm`: what programs are made of, and what becomes of each instruction.
//!
//! Which accesses are proven, and how each other one is contained, is the compiler's own word
//! (`Vm::listing`). Machine code is that of a program compiled alone, for this machine; offsets
//! in it begin at 0, and it names no address of its own.

use std::collections::BTreeMap;

use harena_bpf::isa::op::{PseudoCall, PseudoLoad};
use harena_bpf::isa::{Insn, disasm_one};
use harena_bpf::{LinkedObject, LinkedProgram, Object};
use harena_kernel::{LoadOptions, LoadedObject};
use harena_report::{
    Disassembly, FunctionInfo, InsnInfo, NativeCode, NativeInsn, NativeShared, SourceLine,
};
use harena_vm::{Contained, Containment, ListedSlot, Listing, PartOf, helper_name};
use iced_x86::{Decoder, DecoderOptions, Formatter as _, NasmFormatter};

use crate::Failure;
use crate::args::Disasm;

/// All programs of an object that would be loaded.
pub(crate) fn disassemble(
    object: &Object,
    how: Disasm,
    containment: Containment,
) -> Result<Vec<Disassembly>, Failure> {
    let cannot = || format!("cannot disassemble object `{}`", object.file());
    let options = LoadOptions {
        containment,
        ..LoadOptions::default()
    };
    let loaded = LoadedObject::load(object.clone(), &options)
        .map_err(|error| Failure::bad_input(cannot(), error))?;
    let programs = loaded.programs().map(|(program, id)| {
        let listing = loaded.vm().listing(id);
        let listing = listing.map_err(|error| Failure::bad_input(cannot(), error))?;
        Ok(one(loaded.linked(), program, &listing, how))
    });
    programs.collect()
}

fn one(
    object: &LinkedObject,
    program: &LinkedProgram,
    listing: &Listing,
    how: Disasm,
) -> Disassembly {
    let names = Names {
        object,
        program,
        kfuncs: program.kfuncs.iter().map(|(n, id)| (*id, n)).collect(),
    };
    let mut native = match how {
        Disasm::Bpf => None,
        Disasm::Native => Some(Native::new(listing)),
    };
    let functions = listing.functions.iter().map(|function| FunctionInfo {
        name: names.function(function.start),
        start: function.start,
        stack: function.stack,
    });
    let mut insns = Vec::new();
    let mut slot = 0;
    while let Some(text) = disasm_one(&program.insns[slot..]) {
        let listed = listing.slots[slot];
        let at = u32::try_from(slot).expect("a program has at most a million slots");
        insns.push(InsnInfo {
            slot: at,
            text: text.text,
            refers_to: names.in_insn(at, program.insns[slot], program.insns.get(slot + 1)),
            jumps_to: listed.jumps_to,
            block: Some(listed.block).filter(|len| *len > 0),
            access: access(listed),
            poisoned: program.poisoned.get(&at).map(ToString::to_string),
            source: program.lines.at(at).map(source),
            native: native.as_mut().map(|native| native.take(at)),
        });
        slot += text.slots;
    }
    Disassembly {
        program: program.name.clone(),
        functions: functions.collect(),
        insns,
        native: native.map(|native| native.outside),
    }
}

/// The report's word for what keeps an access inside.
fn access(slot: ListedSlot) -> Option<String> {
    let word = match slot.contained? {
        Contained::Frame(_) => "frame",
        Contained::Proven => "proven",
        Contained::Arena => "arena",
        Contained::Masked => "masked",
        Contained::Bound if slot.is_either => "either",
        Contained::Bound => "bound",
        Contained::Host => "host",
    };
    Some(word.to_owned())
}

fn source(line: harena_bpf::SourceLine<'_>) -> SourceLine {
    SourceLine {
        file: line.file.to_owned(),
        line: line.line,
        text: line.text.to_owned(),
    }
}

/// What numbers in instructions stand for.
struct Names<'a> {
    object: &'a LinkedObject,
    program: &'a LinkedProgram,
    kfuncs: BTreeMap<u32, &'a String>,
}

impl Names<'_> {
    fn in_insn(&self, slot: u32, insn: Insn, second: Option<&Insn>) -> Option<String> {
        let target = || (slot + 1).checked_add_signed(insn.imm);
        match insn.pseudo_load() {
            Some(PseudoLoad::Map) => return self.map(insn.imm),
            Some(PseudoLoad::MapValue) => return self.value(insn.imm, second?.imm),
            Some(PseudoLoad::Func) => return target().map(|start| self.function(start)),
            Some(PseudoLoad::Value | PseudoLoad::BtfId) | None => {}
        }
        let number = insn.imm.cast_unsigned();
        match insn.pseudo_call()? {
            PseudoCall::Helper => helper_name(number).map(str::to_owned),
            PseudoCall::Subprogram => target().map(|start| self.function(start)),
            PseudoCall::Kfunc => self.kfuncs.get(&number).map(ToString::to_string),
        }
    }

    fn function(&self, start: u32) -> String {
        let function = self.program.func_at(start);
        function.map_or_else(|| format!("slot {start}"), |f| f.name.clone())
    }

    fn map(&self, index: i32) -> Option<String> {
        let index = usize::try_from(index).ok()?;
        self.object.maps.get(index).map(|map| map.name.clone())
    }

    /// The variable at an offset in a map's value.
    fn value(&self, index: i32, offset: i32) -> Option<String> {
        let map = self.map(index)?;
        let offset = u64::from(offset.cast_unsigned());
        let mut globals = self.object.globals.iter().filter(|(_, global)| {
            let inside = offset.checked_sub(global.offset);
            usize::try_from(index) == Ok(global.map.index())
                && inside.is_some_and(|inside| inside < global.size)
        });
        Some(match globals.next() {
            Some((name, global)) if global.offset == offset => name.clone(),
            Some((name, global)) => format!("{name}+{}", offset - global.offset),
            None => format!("{map}+{offset}"),
        })
    }
}

/// Machine code by slot.
struct Native {
    by_slot: BTreeMap<u32, NativeCode>,
    outside: NativeShared,
}

impl Native {
    fn new(listing: &Listing) -> Self {
        let mut native = Self {
            by_slot: BTreeMap::new(),
            outside: NativeShared::default(),
        };
        for part in &listing.parts {
            let bytes = &listing.code[part.start as usize..part.end as usize];
            let insns = match part.of {
                PartOf::Entry => &mut native.outside.entry,
                PartOf::Shared => &mut native.outside.shared,
                PartOf::Slot(slot) => &mut native.by_slot.entry(slot).or_default().code,
                PartOf::Rare(slot) => &mut native.by_slot.entry(slot).or_default().rare,
            };
            decode(part.start, bytes, insns);
        }
        native
    }

    fn take(&mut self, slot: u32) -> NativeCode {
        self.by_slot.remove(&slot).unwrap_or_default()
    }
}

fn decode(start: u32, bytes: &[u8], into: &mut Vec<NativeInsn>) {
    let mut decoder = Decoder::with_ip(64, bytes, start.into(), DecoderOptions::NONE);
    let mut formatter = NasmFormatter::new();
    let options = formatter.options_mut();
    options.set_first_operand_char_index(8);
    options.set_branch_leading_zeros(false);
    options.set_show_branch_size(false);
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    while decoder.can_decode() {
        let from = decoder.position();
        let insn = decoder.decode();
        let mut text = String::new();
        formatter.format(&insn, &mut text);
        into.push(NativeInsn {
            offset: u32::try_from(insn.ip()).expect("code has less than 2 GiB"),
            bytes: bytes[from..decoder.position()].to_vec(),
            text,
        });
    }
}
