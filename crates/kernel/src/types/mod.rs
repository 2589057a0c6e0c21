//! The kernel's types as programs see them: one table for layout, BTF and header.
//!
//! Each file holds the structs of one notion, written once with [`ctype`]'s macro. A type
//! or field is here only if the simulated kernel keeps it true; CO-RE relocations against
//! anything else fail by name, and only where a program really gets there.

pub mod bpf;
pub mod cgroups;
pub mod ctype;
pub mod mask;
pub mod ops;
pub mod proto;
pub mod runqueue;
pub mod scx;
pub mod task;
pub mod trace;

use ctype::StructDesc;

/// Every modelled struct, each after those it contains.
pub fn structs() -> impl Iterator<Item = &'static StructDesc> {
    [
        mask::STRUCTS,
        cgroups::STRUCTS,
        task::STRUCTS,
        runqueue::STRUCTS,
        scx::STRUCTS,
        ops::cpu_form::STRUCTS,
        ops::cid_form::STRUCTS,
        bpf::STRUCTS,
        trace::STRUCTS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::ctype::TypeDesc;
    use super::ops::{sched_ext_ops, sched_ext_ops_cid};
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_fields_ascend() {
        let mut names = BTreeSet::new();
        for desc in structs() {
            assert!(names.insert(desc.name), "{} is defined twice", desc.name);
            let fields = (desc.fields)();
            assert!(
                fields.is_sorted_by(|a, b| a.offset <= b.offset),
                "{}",
                desc.name
            );
            assert!(
                fields.iter().all(|f| f.offset <= desc.size),
                "{}",
                desc.name
            );
        }
    }

    #[test]
    fn embedded_structs_are_modelled() {
        let names: BTreeSet<_> = structs().map(|desc| desc.name).collect();
        for desc in structs() {
            for field in (desc.fields)() {
                let mut ty = field.ty;
                while let TypeDesc::Array(element, _) = ty {
                    ty = *element;
                }
                if let TypeDesc::Struct(name) = &ty {
                    assert!(
                        names.contains(name.as_str()),
                        "{}.{}",
                        desc.name,
                        field.name
                    );
                }
            }
        }
    }

    #[test]
    fn both_ops_tables_have_equal_offsets() {
        let cpu = (sched_ext_ops::DESC.fields)();
        let cid = (sched_ext_ops_cid::DESC.fields)();
        assert_eq!(cpu.len(), cid.len() + 2);
        for (a, b) in cpu.iter().zip(&cid) {
            assert_eq!(a.offset, b.offset, "{} and {}", a.name, b.name);
        }
        assert_eq!(
            cpu.iter().find(|f| f.name == "yield").map(|f| f.offset),
            Some(72)
        );
    }
}
