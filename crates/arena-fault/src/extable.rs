//! The exception table of compiled code: where to go on after a faulting instruction.
//!
//! Entries are sorted by the offset of the instruction that may fault. The reader is total:
//! any slice, sorted or not, gives an entry with the very pc that was asked for, or none.

/// One instruction that may fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtableEntry {
    /// Offset of the instruction in its code image.
    pub fault_pc: u32,
    /// Offset at which to go on: what reports the fault, and goes on behind the instruction.
    pub resume_pc: u32,
    /// The BPF register that is 0 afterwards, if it was a load: the place to go on sees to that.
    pub zero_reg: Option<u8>,
}

/// The entry of the instruction at `pc`.
#[must_use]
pub fn lookup(table: &[ExtableEntry], pc: u32) -> Option<&ExtableEntry> {
    let index = table
        .binary_search_by_key(&pc, |entry| entry.fault_pc)
        .ok()?;
    table.get(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_pc_is_found() {
        let entry = |fault_pc| ExtableEntry {
            fault_pc,
            resume_pc: fault_pc + 4,
            zero_reg: None,
        };
        let table = [entry(4), entry(12), entry(40)];
        assert_eq!(lookup(&table, 12), Some(&entry(12)));
        assert_eq!(lookup(&table, 13), None);
        assert_eq!(lookup(&[], 0), None);
    }
}
