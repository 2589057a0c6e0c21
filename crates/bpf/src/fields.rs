//! What the kernel treats specially inside map values and a program's own objects: locks, timers,
//! kptrs, and the roots and nodes of lists and trees.
//!
//! A root says what it holds in a declaration tag, `contains:TYPE:MEMBER`, on the member or
//! variable that it is. Mirrors `btf_parse_fields()` of `kernel/bpf/btf.c`.
//!
//! Types may be cyclic, or huge arrays: a search counts its steps, those of all questions that it
//! is asked together, and gives up where they end.

use std::collections::BTreeMap;

use crate::btf::{Btf, Composite, Kind, LayoutError, Name, SecVar, Type, TypeId};
use crate::map::{Contained, SpecialField, SpecialKind};

/// Special fields in one value; the kernel takes 11 at most.
const SPECIAL_MAX: usize = 64;
/// Members and elements that are looked at.
const SEARCH_MAX: u32 = 1 << 20;
/// Structs in structs.
const DEPTH_MAX: u32 = 16;

/// Why the special fields of a type are not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FieldError {
    /// Types are broken, or too large to be searched.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// More than a kernel takes.
    #[error("has more than {max} locks, timers and kptrs in a value")]
    TooMany {
        /// The limit.
        max: usize,
    },
}

/// Why there are no objects of a type.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Objects are structs.
    #[error("type {id} (`{c_type}`) of the program is no struct")]
    NotAStruct {
        /// The type.
        id: TypeId,
        /// How C spells it.
        c_type: String,
    },
    /// Its fields are not known.
    #[error("struct `{name}`: {cause}")]
    Fields {
        /// Its name.
        name: String,
        /// Why.
        cause: FieldError,
    },
}

/// What there is to know about the objects of a struct (`struct btf_struct_meta`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Name of the struct.
    pub name: String,
    /// Bytes.
    pub size: u32,
    /// Special fields by offset.
    pub fields: Vec<SpecialField>,
    /// Whether it has nothing but integers, enums and arrays and structs of such.
    pub is_scalar: bool,
}

/// A declaration: a variable, or a member of a struct.
type Site = (TypeId, Option<u32>);

/// Finds the special fields of one table's types.
#[derive(Debug)]
pub struct FieldSearch {
    /// What `contains:` tags say, by what they stand at.
    contains: BTreeMap<Site, Name>,
    budget: u32,
}

impl FieldSearch {
    /// For the types of `btf`; later questions must be about the same.
    #[must_use]
    pub fn new(btf: &Btf) -> Self {
        let tags = btf.with_prefix(CONTAINS).filter_map(|id| {
            let Type::DeclTag {
                name,
                target,
                component,
            } = btf.get(id)
            else {
                return None;
            };
            Some(((*target, *component), *name))
        });
        Self {
            contains: tags.collect(),
            budget: SEARCH_MAX,
        }
    }

    /// Timers, locks, kptrs… in a value of this type, by offset.
    pub fn fields(&mut self, btf: &Btf, value: TypeId) -> Result<Vec<SpecialField>, FieldError> {
        self.fields_at(btf, value, &|var| u64::from(var.offset))
    }

    /// The same for a section, whose variables lie where `place` says.
    pub(crate) fn fields_at(
        &mut self,
        btf: &Btf,
        value: TypeId,
        place: &dyn Fn(&SecVar) -> u64,
    ) -> Result<Vec<SpecialField>, FieldError> {
        let mut walk = Walk {
            btf,
            contains: &self.contains,
            place,
            budget: self.budget,
            found: Vec::new(),
        };
        walk.enter(value, 0, DEPTH_MAX, None);
        self.budget = walk.budget;
        if self.budget == 0 {
            return Err(LayoutError::Unbounded { id: value }.into());
        }
        if walk.found.len() > SPECIAL_MAX {
            return Err(FieldError::TooMany { max: SPECIAL_MAX });
        }
        walk.found.sort_by_key(|field| field.offset);
        Ok(walk.found)
    }

    /// What objects of a struct are like.
    pub fn record(&mut self, btf: &Btf, id: TypeId) -> Result<Record, RecordError> {
        let Type::Struct(composite) = btf.get(id) else {
            let c_type = btf.c_type(id);
            return Err(RecordError::NotAStruct { id, c_type });
        };
        let name = btf.str(composite.name).to_owned();
        let fields = self.fields(btf, id);
        let fields = fields.map_err(|cause| RecordError::Fields {
            name: name.clone(),
            cause,
        })?;
        Ok(Record {
            name,
            size: composite.size,
            fields,
            is_scalar: self.is_scalar(btf, id, DEPTH_MAX),
        })
    }

    fn is_scalar(&mut self, btf: &Btf, id: TypeId, depth: u32) -> bool {
        let Some((budget, depth)) = self.budget.checked_sub(1).zip(depth.checked_sub(1)) else {
            return false;
        };
        self.budget = budget;
        let Ok(resolved) = btf.resolve(id) else {
            return false;
        };
        match btf.get(resolved) {
            Type::Int { .. } | Type::Enum(_) => true,
            Type::Array { element, .. } => self.is_scalar(btf, *element, depth),
            Type::Struct(c) => c
                .members
                .iter()
                .all(|member| self.is_scalar(btf, member.type_id, depth)),
            _ => false,
        }
    }
}

const CONTAINS: &str = "contains:";

struct Walk<'a> {
    btf: &'a Btf,
    contains: &'a BTreeMap<Site, Name>,
    place: &'a dyn Fn(&SecVar) -> u64,
    budget: u32,
    found: Vec<SpecialField>,
}

impl Walk<'_> {
    /// Gives up silently where types are broken: whatever needs their size will say so.
    fn enter(&mut self, id: TypeId, offset: u64, depth: u32, site: Option<Site>) {
        let Some((budget, depth)) = self.budget.checked_sub(1).zip(depth.checked_sub(1)) else {
            return;
        };
        self.budget = budget;
        let Ok(resolved) = self.btf.resolve(id) else {
            return;
        };
        match self.btf.get(resolved) {
            Type::Struct(c) => {
                if let Some(kind) = special_struct(self.btf.str(c.name)) {
                    let contains = self.contained(kind, site);
                    self.add(kind, offset, u64::from(c.size), None, contains);
                    return;
                }
                self.members(resolved, c, offset, depth);
            }
            Type::Union(c) => self.members(resolved, c, offset, depth),
            Type::DataSec { vars, .. } => {
                for var in vars {
                    let at = offset.saturating_add((self.place)(var));
                    if let Type::Var { type_id, .. } = self.btf.get(var.type_id) {
                        self.enter(*type_id, at, depth, Some((var.type_id, None)));
                    }
                }
            }
            Type::Array { element, len, .. } => {
                let Ok(size) = self.btf.size_of(*element) else {
                    return;
                };
                let before = self.found.len();
                for index in 0..u64::from(*len) {
                    let at = offset.saturating_add(size.saturating_mul(index));
                    self.enter(*element, at, depth, site);
                    // Elements are alike: none in the first means none in all.
                    if self.found.len() == before || self.found.len() > SPECIAL_MAX {
                        return;
                    }
                }
            }
            Type::Ptr { target } => {
                if let Type::TypeTag { name, target, .. } = self.btf.get(*target)
                    && let Some(kind) = special_tag(self.btf.str(*name))
                {
                    self.add(kind, offset, 8, Some(*target), None);
                }
            }
            _ => {}
        }
    }

    fn members(&mut self, id: TypeId, composite: &Composite, offset: u64, depth: u32) {
        for (index, member) in (0u32..).zip(&composite.members) {
            let at = offset.saturating_add(u64::from(member.bit_offset) / 8);
            self.enter(member.type_id, at, depth, Some((id, Some(index))));
        }
    }

    fn add(
        &mut self,
        kind: SpecialKind,
        offset: u64,
        size: u64,
        target: Option<TypeId>,
        contains: Option<Contained>,
    ) {
        let (Ok(offset), Ok(size)) = (u32::try_from(offset), u32::try_from(size)) else {
            return;
        };
        self.found.push(SpecialField {
            kind,
            offset,
            size,
            target,
            contains,
        });
    }

    /// What the tag of a root says that it holds, if there is such a node.
    fn contained(&self, kind: SpecialKind, site: Option<Site>) -> Option<Contained> {
        let node = match kind {
            SpecialKind::ListHead => "bpf_list_node",
            SpecialKind::RbRoot => "bpf_rb_node",
            _ => return None,
        };
        let tag = self.btf.str(*self.contains.get(&site?)?);
        let (name, member) = tag.strip_prefix(CONTAINS)?.split_once(':')?;
        let type_id = self.btf.find(name, Kind::Struct)?;
        let composite = self.btf.get(type_id).composite()?;
        let member = composite
            .members
            .iter()
            .find(|m| self.btf.str(m.name) == member)?;
        let is_node = self
            .btf
            .resolve(member.type_id)
            .is_ok_and(|id| self.btf.name_of(id) == node);
        is_node.then_some(Contained {
            type_id,
            node_offset: member.bit_offset / 8,
        })
    }
}

fn special_struct(name: &str) -> Option<SpecialKind> {
    Some(match name {
        "bpf_spin_lock" => SpecialKind::SpinLock,
        "bpf_res_spin_lock" => SpecialKind::ResSpinLock,
        "bpf_timer" => SpecialKind::Timer,
        "bpf_wq" => SpecialKind::Wq,
        "bpf_task_work" => SpecialKind::TaskWork,
        "bpf_list_head" => SpecialKind::ListHead,
        "bpf_list_node" => SpecialKind::ListNode,
        "bpf_rb_root" => SpecialKind::RbRoot,
        "bpf_rb_node" => SpecialKind::RbNode,
        "bpf_refcount" => SpecialKind::Refcount,
        _ => return None,
    })
}

fn special_tag(name: &str) -> Option<SpecialKind> {
    Some(match name {
        "kptr_untrusted" => SpecialKind::KptrUntrusted,
        "kptr" => SpecialKind::KptrRef,
        "percpu_kptr" => SpecialKind::KptrPercpu,
        "uptr" => SpecialKind::Uptr,
        _ => return None,
    })
}
