//! A program compiled once more, alone, to be looked at.

use harena_bpf::analysis::{self, Space};
use harena_bpf::code::Class;
use harena_jit::{CodeImage, Compiler, Features, ProgramCode};

use super::JitRefused;
use super::mapped::Prepared;
use crate::listing::{CodePart, ListedFunction, ListedSlot, Listing, PartOf};
use crate::program::Program;
use crate::vm::Vm;

/// What the compiler makes of a program.
pub(crate) fn listing(vm: &Vm, program: &Program) -> Result<Listing, JitRefused> {
    let prepared = Prepared::new(vm, program);
    let source = prepared.source(program);
    let blocks = prepared.blocks(program);
    let reached = analysis::reached(source.ops, &blocks, &source.entries());
    let slots = source.ops.iter().zip(&blocks).enumerate();
    let slots = slots.map(|(slot, (op, block))| ListedSlot {
        block: *block,
        is_reached: reached[slot],
        jumps_to: Some(op.off.cast_unsigned())
            .filter(|_| matches!(op.code.class(), Class::Jump | Class::Branch)),
        contained: source.contained(slot),
        is_either: op.space == Space::Either,
    });
    let slots = slots.collect();
    let stack = analysis::stack_depths(source.ops, &blocks, source.functions, source.jump_targets);
    let functions = source.functions.iter().zip(stack);
    let functions = functions.map(|(&start, stack)| ListedFunction { start, stack });
    let functions = functions.collect();
    let mut compiler = Compiler::new(Features::detect());
    let code = compiler.add(&source);
    let image = compiler.finish()?;
    Ok(Listing {
        slots,
        functions,
        parts: parts(&image, &code),
        code: image.bytes,
    })
}

/// Each line of the image goes on until the next.
fn parts(image: &CodeImage, code: &ProgramCode) -> Vec<CodePart> {
    let mut starts = vec![(code.entry, PartOf::Entry)];
    starts.extend(image.lines.iter().map(|line| {
        let of = if line.offset < code.rare {
            PartOf::Slot(line.slot)
        } else {
            PartOf::Rare(line.slot)
        };
        (line.offset, of)
    }));
    starts.push((code.shared, PartOf::Shared));
    let ends = starts.iter().skip(1).map(|(start, _)| *start);
    let ends = ends.chain([code.end]);
    let parts = starts.iter().zip(ends);
    let parts = parts.map(|(&(start, of), end)| CodePart { start, end, of });
    parts.filter(|part| part.start < part.end).collect()
}
