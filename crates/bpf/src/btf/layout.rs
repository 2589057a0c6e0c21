//! Sizes, alignments and places of members.
//!
//! BTF may hold cycles and towers of types. Everything here counts its steps and
//! gives up with [`LayoutError::Unbounded`], so that no table can cost more than
//! a fixed amount of work per question.

use super::{Btf, Composite, Kind, Type, TypeId};

/// Longest chain of modifiers, typedefs and arrays that is followed; the kernel stops at 32.
const CHAIN_MAX: u32 = 64;
/// Members looked at to answer one question.
const MEMBERS_MAX: u32 = 1 << 20;
/// Names listed in an error.
const LISTED_MAX: usize = 24;

/// Why a type has no size or no member.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayoutError {
    /// A chain of types does not end.
    #[error("type {id} is a cycle or nested too deeply")]
    Unbounded {
        /// Where the chain began.
        id: TypeId,
    },
    /// Types of this kind have no size.
    #[error("type {id} ({kind:?} `{name}`) has no size")]
    Unsized {
        /// The type.
        id: TypeId,
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The size does not fit 64 bits.
    #[error("type {id} is larger than 2^64 bytes")]
    TooLarge {
        /// The type.
        id: TypeId,
    },
}

/// Why a path such as `a.b[3]` names nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathError {
    /// The text is no path.
    #[error("`{path}` is no path: expected name, `.member` or `[index]` at `{rest}`")]
    Syntax {
        /// The whole path.
        path: String,
        /// From the first thing that fits nowhere.
        rest: String,
    },
    /// A struct has no such member.
    #[error("`{type_name}` has no member `{member}`; it has {}", list(exists))]
    NoMember {
        /// The struct.
        type_name: String,
        /// The member asked for.
        member: String,
        /// Some of the members there are.
        exists: Vec<String>,
    },
    /// A member of something that is no struct.
    #[error("`{type_name}` is no struct, it has no member `{member}`")]
    NotAStruct {
        /// The type.
        type_name: String,
        /// The member asked for.
        member: String,
    },
    /// An element of something that is no array.
    #[error("`{type_name}` is no array")]
    NotAnArray {
        /// The type.
        type_name: String,
    },
    /// An element past the end.
    #[error("index {index} is past the {len} elements of `{type_name}`")]
    IndexOutOfRange {
        /// The array.
        type_name: String,
        /// The element asked for.
        index: u64,
        /// How many there are.
        len: u32,
    },
    /// The type itself is broken.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Up to 24 of `names`, readable.
fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// A place inside a type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Type of what lies there, as declared (typedefs and qualifiers not removed).
    pub type_id: TypeId,
    /// Bits from the start of the outermost type.
    pub bit_offset: u64,
    /// Width in bits if this is a bitfield.
    pub bit_size: Option<u8>,
}

impl Field {
    /// All of a type.
    #[must_use]
    pub const fn whole(type_id: TypeId) -> Self {
        Self {
            type_id,
            bit_offset: 0,
            bit_size: None,
        }
    }

    /// Whole bytes from the start of the outermost type.
    #[must_use]
    pub const fn byte_offset(&self) -> u64 {
        self.bit_offset / 8
    }
}

impl Btf {
    /// Whether `ty` only wraps another type: what it wraps.
    fn wrapped(ty: &Type) -> Option<TypeId> {
        match ty {
            Type::Typedef { target, .. }
            | Type::Volatile { target }
            | Type::Const { target }
            | Type::Restrict { target }
            | Type::TypeTag { target, .. }
            | Type::DeclTag { target, .. } => Some(*target),
            _ => None,
        }
    }

    /// The type under all typedefs, qualifiers and tags.
    pub fn resolve(&self, id: TypeId) -> Result<TypeId, LayoutError> {
        let mut at = id;
        for _ in 0..CHAIN_MAX {
            match Self::wrapped(self.get(at)) {
                Some(next) => at = next,
                None => return Ok(at),
            }
        }
        Err(LayoutError::Unbounded { id })
    }

    /// Bytes that a value of this type takes.
    pub fn size_of(&self, id: TypeId) -> Result<u64, LayoutError> {
        let mut at = id;
        let mut count = 1u64;
        for _ in 0..CHAIN_MAX {
            let size = match self.get(at) {
                Type::Ptr { .. } => 8,
                Type::Int { size, .. } | Type::Float { size, .. } => *size,
                Type::DataSec { size, .. } => *size,
                Type::Struct(c) | Type::Union(c) => c.size,
                Type::Enum(e) => e.size,
                Type::Array { element, len, .. } => {
                    count = count
                        .checked_mul(u64::from(*len))
                        .ok_or(LayoutError::TooLarge { id })?;
                    at = *element;
                    continue;
                }
                Type::Var { type_id, .. } => {
                    at = *type_id;
                    continue;
                }
                other => match Self::wrapped(other) {
                    Some(next) => {
                        at = next;
                        continue;
                    }
                    None => {
                        return Err(LayoutError::Unsized {
                            id,
                            kind: other.kind(),
                            name: self.name_of(at).to_owned(),
                        });
                    }
                },
            };
            return count
                .checked_mul(u64::from(size))
                .ok_or(LayoutError::TooLarge { id });
        }
        Err(LayoutError::Unbounded { id })
    }

    /// Natural alignment of this type, in bytes.
    pub fn align_of(&self, id: TypeId) -> Result<u64, LayoutError> {
        let mut budget = MEMBERS_MAX;
        self.align_within(id, CHAIN_MAX, &mut budget)
            .ok_or(LayoutError::Unbounded { id })
    }

    fn align_within(&self, id: TypeId, depth: u32, budget: &mut u32) -> Option<u64> {
        let depth = depth.checked_sub(1)?;
        match self.get(id) {
            Type::Ptr { .. } => Some(8),
            Type::Int { size, .. } | Type::Float { size, .. } => Some(u64::from(*size).clamp(1, 8)),
            Type::Enum(e) => Some(u64::from(e.size).clamp(1, 8)),
            Type::Array { element, .. } => self.align_within(*element, depth, budget),
            Type::Var { type_id, .. } => self.align_within(*type_id, depth, budget),
            Type::Struct(c) | Type::Union(c) => {
                let mut align = 1;
                for member in &c.members {
                    *budget = budget.checked_sub(1)?;
                    align = align.max(self.align_within(member.type_id, depth, budget)?);
                }
                Some(align)
            }
            other => match Self::wrapped(other) {
                Some(next) => self.align_within(next, depth, budget),
                None => Some(1),
            },
        }
    }

    /// What `path` (`.member[index].member…`, may be empty) names inside `root`.
    pub fn field(&self, root: TypeId, path: &str) -> Result<Field, PathError> {
        let mut field = Field::whole(root);
        let mut rest = path;
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix('[')
                && let Some((digits, tail)) = tail.split_once(']')
                && let Ok(index) = digits.trim().parse()
            {
                field = self.element(field, index)?;
                rest = tail;
                continue;
            }
            let tail = rest.strip_prefix('.').unwrap_or_default();
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            let (member, tail) = tail.split_at_checked(end).unwrap_or_default();
            if member.is_empty() {
                return Err(PathError::Syntax {
                    path: path.to_owned(),
                    rest: rest.to_owned(),
                });
            }
            field = self.member(field, member)?;
            rest = tail;
        }
        Ok(field)
    }

    fn element(&self, of: Field, index: u64) -> Result<Field, PathError> {
        let Type::Array { element, len, .. } = self.get(self.resolve(of.type_id)?) else {
            return Err(PathError::NotAnArray {
                type_name: self.c_type(of.type_id),
            });
        };
        if index >= u64::from(*len) {
            return Err(PathError::IndexOutOfRange {
                type_name: self.c_type(of.type_id),
                index,
                len: *len,
            });
        }
        let offset = self
            .size_of(*element)?
            .checked_mul(index)
            .and_then(|bytes| bytes.checked_mul(8))
            .and_then(|bits| bits.checked_add(of.bit_offset))
            .ok_or(LayoutError::TooLarge { id: of.type_id })?;
        Ok(Field {
            bit_offset: offset,
            ..Field::whole(*element)
        })
    }

    /// The member of this name in a struct or union, also inside anonymous members.
    pub fn member(&self, of: Field, name: &str) -> Result<Field, PathError> {
        let resolved = self.resolve(of.type_id)?;
        let Some(composite) = self.get(resolved).composite() else {
            return Err(PathError::NotAStruct {
                type_name: self.c_type(of.type_id),
                member: name.to_owned(),
            });
        };
        let mut budget = MEMBERS_MAX;
        let found = self.search(composite, of.bit_offset, name, CHAIN_MAX, &mut budget);
        match found {
            Search::Found(field) => Ok(field),
            Search::Absent => Err(PathError::NoMember {
                type_name: self.c_type(of.type_id),
                member: name.to_owned(),
                exists: self.member_names(composite),
            }),
            Search::Exhausted => Err(LayoutError::Unbounded { id: of.type_id }.into()),
        }
    }

    fn member_names(&self, composite: &Composite) -> Vec<String> {
        let names = composite.members.iter().map(|member| self.str(member.name));
        let named = names.filter(|name| !name.is_empty());
        named.take(LISTED_MAX).map(str::to_owned).collect()
    }

    fn search(
        &self,
        composite: &Composite,
        base: u64,
        name: &str,
        depth: u32,
        budget: &mut u32,
    ) -> Search {
        let Some(depth) = depth.checked_sub(1) else {
            return Search::Exhausted;
        };
        for member in &composite.members {
            let Some(left) = budget.checked_sub(1) else {
                return Search::Exhausted;
            };
            *budget = left;
            let Some(bit_offset) = base.checked_add(u64::from(member.bit_offset)) else {
                return Search::Exhausted;
            };
            let member_name = self.str(member.name);
            if member_name == name {
                return Search::Found(Field {
                    type_id: member.type_id,
                    bit_offset,
                    bit_size: member.bit_size,
                });
            }
            if member_name.is_empty()
                && let Ok(inner) = self.resolve(member.type_id)
                && let Some(inner) = self.get(inner).composite()
            {
                match self.search(inner, bit_offset, name, depth, budget) {
                    Search::Absent => {}
                    other => return other,
                }
            }
        }
        Search::Absent
    }
}

enum Search {
    Found(Field),
    Absent,
    Exhausted,
}
