//! struct_ops variables in the kernel's layout, and which programs that loads.
//!
//! Members are copied by name. One that the kernel lacks is fine as long as it is zero,
//! and its program is then not loaded: that is how a scheduler runs on kernels older
//! and newer than itself. Mirrors libbpf's `bpf_map__init_kern_struct_ops()`.

use crate::btf::{Btf, Composite, Kind, LayoutError, Member, Type, TypeId, strip_flavor};
use crate::error::{LinkError, StructOpsProblem};
use crate::kernel::KernelSymbols;
use crate::linked::{StructOps, StructOpsMember};
use crate::map::ProgramIndex;
use crate::object::{Object, StructOpsVar};
use crate::section::ProgType;
use std::collections::{BTreeMap, BTreeSet};

/// What will be loaded.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Indices of the programs to load, ascending.
    pub(super) loaded: Vec<usize>,
    tables: Vec<Table>,
}

/// A struct_ops variable; `callbacks` maps indices of kernel members to programs.
#[derive(Debug)]
struct Table {
    ops: StructOps,
    callbacks: BTreeMap<u32, usize>,
}

impl Plan {
    /// The variables, with programs numbered as `linked` says.
    pub(super) fn struct_ops(&self, linked: &BTreeMap<usize, ProgramIndex>) -> Vec<StructOps> {
        let tables = self.tables.iter().map(|table| {
            let mut ops = table.ops.clone();
            for member in &mut ops.members {
                let program = table.callbacks.get(&member.index);
                member.program = program.and_then(|program| linked.get(program)).copied();
            }
            ops
        });
        tables.collect()
    }
}

/// Decides what is loaded.
pub(super) fn plan(object: &Object, kernel: &dyn KernelSymbols) -> Result<Plan, LinkError> {
    let mut plan = Plan::default();
    // Which member a program implements: by kernel type and index.
    let mut roles: BTreeMap<usize, (TypeId, u32, String)> = BTreeMap::new();
    let by_func: BTreeMap<usize, usize> = object
        .programs
        .iter()
        .enumerate()
        .map(|(index, program)| (program.func, index))
        .collect();
    for var in object.struct_ops.iter().filter(|var| var.autocreate) {
        let type_name = strip_flavor(object.btf.name_of(var.type_id));
        let fail = |problem| LinkError::StructOps {
            file: object.file.clone(),
            name: var.name.clone(),
            type_name: type_name.to_owned(),
            problem: Box::new(problem),
        };
        let copier = Copier {
            object,
            kernel: kernel.btf(),
            var,
            by_func: &by_func,
        };
        let table = copier.table(type_name).map_err(fail)?;
        for (index, program) in &table.callbacks {
            let member = table.ops.members.iter().find(|m| m.index == *index);
            let name = member.map_or(String::new(), |member| member.name.clone());
            let role = (table.ops.type_id, *index, name);
            let first = roles.entry(*program).or_insert_with(|| role.clone());
            if (first.0, first.1) != (role.0, role.1) {
                let program = object.programs.get(*program);
                return Err(fail(StructOpsProblem::TwoMembers {
                    program: program.map_or(String::new(), |p| p.name.clone()),
                    first: first.2.clone(),
                    second: role.2,
                }));
            }
        }
        plan.tables.push(table);
    }
    let used: BTreeSet<usize> = roles.into_keys().collect();
    for (index, program) in object.programs.iter().enumerate() {
        // A struct_ops program is loaded for its table and for nothing else.
        let is_loaded = match program.prog_type {
            Some(ProgType::StructOps) => used.contains(&index),
            _ => program.autoload,
        };
        if is_loaded {
            plan.loaded.push(index);
        }
    }
    Ok(plan)
}

struct Copier<'a> {
    object: &'a Object,
    kernel: &'a Btf,
    var: &'a StructOpsVar,
    /// Program by function.
    by_func: &'a BTreeMap<usize, usize>,
}

impl Copier<'_> {
    fn table(&self, type_name: &str) -> Result<Table, StructOpsProblem> {
        let type_id = self.kernel.find(type_name, Kind::Struct);
        let type_id = type_id.ok_or(StructOpsProblem::NoType)?;
        let (Type::Struct(ours), Type::Struct(theirs)) = (
            self.object.btf.get(self.var.type_id),
            self.kernel.get(type_id),
        ) else {
            return Err(StructOpsProblem::NoType);
        };
        let size = usize::try_from(theirs.size).unwrap_or(0);
        let mut table = Table {
            ops: StructOps {
                name: self.var.name.clone(),
                type_name: type_name.to_owned(),
                type_id,
                link: self.var.link,
                data: vec![0; size],
                members: self.function_members(theirs),
            },
            callbacks: BTreeMap::new(),
        };
        let known: BTreeMap<&str, (u32, &Member)> = (0u32..)
            .zip(&theirs.members)
            .map(|(index, member)| (self.kernel.str(member.name), (index, member)))
            .collect();
        for member in &ours.members {
            let name = self.object.btf.str(member.name);
            match known.get(name) {
                Some((index, their_member)) => {
                    self.copy(member, (*index, their_member), &mut table)?;
                }
                None => self.must_be_unset(member, theirs)?,
            }
        }
        Ok(table)
    }

    /// The kernel's members that are pointers to functions.
    fn function_members(&self, theirs: &Composite) -> Vec<StructOpsMember> {
        let members = (0u32..).zip(&theirs.members);
        members
            .filter_map(|(index, member)| {
                Some(StructOpsMember {
                    name: self.kernel.str(member.name).to_owned(),
                    index,
                    offset: member.bit_offset / 8,
                    proto: self.callback(member.type_id)?,
                    program: None,
                })
            })
            .collect()
    }

    /// The function type that a kernel member points to, if it does.
    fn callback(&self, id: TypeId) -> Option<TypeId> {
        let Type::Ptr { target } = self.kernel.get(self.kernel.resolve(id).ok()?) else {
            return None;
        };
        let target = self.kernel.resolve(*target).ok()?;
        (self.kernel.get(target).kind() == Kind::FuncProto).then_some(target)
    }

    /// The bytes of a member in the object.
    fn bytes(&self, member: &Member) -> Result<&[u8], StructOpsProblem> {
        let size = self.object.btf.size_of(member.type_id)?;
        let start = u64::from(member.bit_offset) / 8;
        let range = usize::try_from(start).ok().zip(
            start
                .checked_add(size)
                .and_then(|end| usize::try_from(end).ok()),
        );
        let bytes = range.and_then(|(start, end)| self.var.data.get(start..end));
        bytes.ok_or_else(|| {
            let id = self.var.type_id;
            LayoutError::TooLarge { id }.into()
        })
    }

    fn must_be_unset(&self, member: &Member, theirs: &Composite) -> Result<(), StructOpsProblem> {
        if self.bytes(member)?.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let names = theirs.members.iter().map(|m| self.kernel.str(m.name));
        let names: Vec<&str> = names.take(64).collect();
        Err(StructOpsProblem::NoMember {
            member: self.object.btf.str(member.name).to_owned(),
            exists: names.join(", "),
        })
    }

    fn copy(
        &self,
        member: &Member,
        (index, theirs): (u32, &Member),
        table: &mut Table,
    ) -> Result<(), StructOpsProblem> {
        let (local, kernel) = (&*self.object.btf, self.kernel);
        let name = local.str(member.name);
        if member.bit_size.is_some() || theirs.bit_size.is_some() {
            return Err(StructOpsProblem::Bitfield {
                member: name.to_owned(),
            });
        }
        let mismatch = || StructOpsProblem::Mismatch {
            member: name.to_owned(),
            wanted: local.c_type(member.type_id),
            found: kernel.c_type(theirs.type_id),
        };
        let ours_resolved = local.get(local.resolve(member.type_id)?).kind();
        let theirs_resolved = kernel.get(kernel.resolve(theirs.type_id)?).kind();
        if ours_resolved != theirs_resolved {
            return Err(mismatch());
        }
        if ours_resolved == Kind::Ptr {
            let at = u64::from(member.bit_offset) / 8;
            let Some(func) = self.var.funcs.get(&at) else {
                return Ok(());
            };
            if self.callback(theirs.type_id).is_none() {
                return Err(mismatch());
            }
            table.callbacks.insert(index, self.program(name, *func)?);
            return Ok(());
        }
        let bytes = self.bytes(member)?;
        let start = usize::try_from(theirs.bit_offset / 8).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        let size = kernel.size_of(theirs.type_id)?;
        if u64::try_from(bytes.len()) != Ok(size) {
            return Err(mismatch());
        }
        let place = table.ops.data.get_mut(start..end).ok_or_else(mismatch)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    /// The struct_ops program whose function this is.
    fn program(&self, member: &str, func: usize) -> Result<usize, StructOpsProblem> {
        let object = self.object;
        let index = self.by_func.get(&func);
        let program = index.and_then(|index| object.programs.get(*index));
        match (index, program.and_then(|program| program.prog_type)) {
            (Some(index), Some(ProgType::StructOps)) => Ok(*index),
            _ => {
                let func = object.funcs.get(func);
                Err(StructOpsProblem::NotAProgram {
                    member: member.to_owned(),
                    program: func.map_or(String::new(), |func| func.name.clone()),
                })
            }
        }
    }
}
