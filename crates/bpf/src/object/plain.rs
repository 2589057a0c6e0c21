//! Functions that need no linker: what an assembler makes, with code and nothing else.

use super::{Function, Object};
use crate::error::PlainError;
use crate::isa::Insn;

impl Object {
    /// The instructions of a function as they stand in the file, whatever section it is in.
    /// They mean something on their own only if nothing in them is to be relocated.
    pub fn plain_function(&self, name: &str) -> Result<&[Insn], PlainError> {
        let func = self.funcs.iter().find(|func| func.name == name);
        let func = func.ok_or_else(|| PlainError::NoFunction {
            name: name.to_owned(),
            exists: self.funcs.iter().map(|func| func.name.clone()).collect(),
        })?;
        if let Some(slot) = self.first_relocated(func) {
            return Err(PlainError::Relocated {
                name: name.to_owned(),
                insn: slot.saturating_sub(func.start),
            });
        }
        let section = self.code.get(func.section);
        let start = usize::try_from(func.start).unwrap_or(usize::MAX);
        let end = usize::try_from(func.end()).unwrap_or(usize::MAX);
        // The parser has made sure that functions lie in their sections.
        let insns = section.and_then(|section| section.insns.get(start..end));
        Ok(insns.unwrap_or_default())
    }

    /// The first slot that a relocation, or one of CO-RE, would change.
    fn first_relocated(&self, func: &Function) -> Option<u32> {
        let section = self.code.get(func.section)?;
        let within = func.start..func.end();
        let reloc = section.relocs.range(within.clone()).next();
        let core = section.core_relos.range(within).next();
        let slots = [reloc.map(|(slot, _)| *slot), core.map(|(slot, _)| *slot)];
        slots.into_iter().flatten().min()
    }
}
