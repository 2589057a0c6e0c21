//! BTF: the types of an object or of a kernel.
//!
//! A [`Btf`] is a table of [`Type`]s that name each other by [`TypeId`] and their
//! strings by [`Name`]. What holds for every value of this type:
//!
//! - id 0 is `void`, and every id that a type mentions exists;
//! - every name is valid UTF-8 of at most [`NAME_LEN_MAX`] bytes (the kernel's limit).
//!
//! What does *not* hold, because only use can tell: chains of types may be cyclic or
//! endless, arrays may be larger than memory. Whatever follows chains
//! ([`Btf::size_of`], [`Btf::resolve`], printing) counts its steps and gives a
//! [`LayoutError`] instead.

mod build;
pub(crate) mod ext;
mod layout;
pub(crate) mod merge;
mod parse;
mod print;
mod strings;
mod value;
mod visit;

pub use build::{BtfBuilder, EnumWidth, MemberDef};
pub use layout::{Field, LayoutError, PathError};
pub use parse::BtfError;
pub(crate) use strings::Strings;
pub use value::Value;

use std::fmt;

/// Longest name of a type, member or value, as in the kernel (`KSYM_NAME_LEN - 1`).
pub const NAME_LEN_MAX: usize = 511;

/// Number of a type within its [`Btf`]; 0 is `void`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct TypeId(u32);

impl TypeId {
    /// The type `void`.
    pub const VOID: Self = Self(0);

    /// The type with this number.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0)
    }
}

/// A string of one [`Btf`], read with [`Btf::str`]. Anonymous things have an empty one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Name(pub(crate) u32);

/// What sort of thing a type is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "the kernel's BTF_KIND_* names say it")]
pub enum Kind {
    Void,
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    /// `BTF_KIND_ENUM` and `BTF_KIND_ENUM64`.
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    DataSec,
    Float,
    DeclTag,
    TypeTag,
}

/// How the bits of an integer are meant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IntEncoding {
    /// An unsigned number.
    Unsigned,
    /// A number in two's complement.
    Signed,
    /// A character.
    Char,
    /// A truth value.
    Bool,
}

/// A member of a struct or union.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name; empty for an anonymous struct or union.
    pub name: Name,
    /// Its type.
    pub type_id: TypeId,
    /// Bits from the start of the struct.
    pub bit_offset: u32,
    /// Width in bits if this is a bitfield.
    pub bit_size: Option<u8>,
}

/// A struct or union.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Composite {
    /// Its tag; may be empty.
    pub name: Name,
    /// Bytes.
    pub size: u32,
    /// Its members in order.
    pub members: Vec<Member>,
}

/// A named value of an enum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enumerator {
    /// Its name.
    pub name: Name,
    /// Its value, sign-extended to 64 bits if the enum is signed.
    pub value: u64,
}

/// An enum of any width.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Enum {
    /// Its tag; may be empty.
    pub name: Name,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u32,
    /// Whether values are signed.
    pub signed: bool,
    /// Its values in order.
    pub values: Vec<Enumerator>,
}

/// A parameter of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Param {
    /// Its name; kernel prototypes carry meaning in suffixes such as `__arena`.
    pub name: Name,
    /// Its type; `void` in last place stands for `...`.
    pub type_id: TypeId,
}

/// How visible a function or variable is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Linkage {
    /// Only in its object.
    Static,
    /// Everywhere.
    Global,
    /// Defined elsewhere.
    Extern,
}

/// A variable's place in a data section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SecVar {
    /// The `Var` (or, in `.ksyms`, `Func`).
    pub type_id: TypeId,
    /// Bytes from the section's start. Compilers leave 0; the symbol table knows.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// One type.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are BTF's own and named by the types"
)]
pub enum Type {
    /// No type, or any.
    Void,
    /// An integer, of `bits` bits from `bit_offset` in `size` bytes.
    Int {
        name: Name,
        size: u32,
        encoding: IntEncoding,
        bit_offset: u8,
        bits: u8,
    },
    /// A pointer.
    Ptr { target: TypeId },
    /// An array; `len` elements.
    Array {
        element: TypeId,
        index: TypeId,
        len: u32,
    },
    /// A struct.
    Struct(Composite),
    /// A union.
    Union(Composite),
    /// An enum.
    Enum(Enum),
    /// A struct or union without definition.
    Fwd { name: Name, is_union: bool },
    /// Another name for a type.
    Typedef { name: Name, target: TypeId },
    /// `volatile`.
    Volatile { target: TypeId },
    /// `const`.
    Const { target: TypeId },
    /// `restrict`.
    Restrict { target: TypeId },
    /// A function.
    Func {
        name: Name,
        proto: TypeId,
        linkage: Linkage,
    },
    /// A function's type.
    FuncProto { ret: TypeId, params: Vec<Param> },
    /// A variable.
    Var {
        name: Name,
        type_id: TypeId,
        linkage: Linkage,
    },
    /// A section with variables.
    DataSec {
        name: Name,
        size: u32,
        vars: Vec<SecVar>,
    },
    /// A floating-point number.
    Float { name: Name, size: u32 },
    /// `btf_decl_tag` on a declaration (or on its member or parameter `component`).
    DeclTag {
        name: Name,
        target: TypeId,
        component: Option<u32>,
    },
    /// `btf_type_tag`; with `is_attribute` any other attribute, spelt out in `name`.
    TypeTag {
        name: Name,
        target: TypeId,
        is_attribute: bool,
    },
}

impl Type {
    /// What sort of type this is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Void => Kind::Void,
            Self::Int { .. } => Kind::Int,
            Self::Ptr { .. } => Kind::Ptr,
            Self::Array { .. } => Kind::Array,
            Self::Struct(_) => Kind::Struct,
            Self::Union(_) => Kind::Union,
            Self::Enum(_) => Kind::Enum,
            Self::Fwd { .. } => Kind::Fwd,
            Self::Typedef { .. } => Kind::Typedef,
            Self::Volatile { .. } => Kind::Volatile,
            Self::Const { .. } => Kind::Const,
            Self::Restrict { .. } => Kind::Restrict,
            Self::Func { .. } => Kind::Func,
            Self::FuncProto { .. } => Kind::FuncProto,
            Self::Var { .. } => Kind::Var,
            Self::DataSec { .. } => Kind::DataSec,
            Self::Float { .. } => Kind::Float,
            Self::DeclTag { .. } => Kind::DeclTag,
            Self::TypeTag { .. } => Kind::TypeTag,
        }
    }

    /// The type's own name, empty if it has none.
    #[must_use]
    pub const fn name(&self) -> Name {
        match self {
            Self::Int { name, .. }
            | Self::Fwd { name, .. }
            | Self::Typedef { name, .. }
            | Self::Func { name, .. }
            | Self::Var { name, .. }
            | Self::DataSec { name, .. }
            | Self::Float { name, .. }
            | Self::DeclTag { name, .. }
            | Self::TypeTag { name, .. } => *name,
            Self::Struct(composite) | Self::Union(composite) => composite.name,
            Self::Enum(e) => e.name,
            Self::Void
            | Self::Ptr { .. }
            | Self::Array { .. }
            | Self::Volatile { .. }
            | Self::Const { .. }
            | Self::Restrict { .. }
            | Self::FuncProto { .. } => Name(0),
        }
    }

    /// The members of a struct or union.
    #[must_use]
    pub const fn composite(&self) -> Option<&Composite> {
        match self {
            Self::Struct(composite) | Self::Union(composite) => Some(composite),
            _ => None,
        }
    }
}

/// A table of types.
#[derive(Clone, Debug)]
pub struct Btf {
    types: Vec<Type>,
    strings: Strings,
    /// Named types, sorted by name, then by id.
    by_name: Vec<TypeId>,
}

impl Btf {
    pub(crate) fn strings(&self) -> &Strings {
        &self.strings
    }

    fn new(types: Vec<Type>, strings: Strings) -> Self {
        let mut btf = Self {
            types,
            strings,
            by_name: Vec::new(),
        };
        let mut by_name: Vec<TypeId> = btf
            .ids()
            .filter(|id| !btf.name_of(*id).is_empty())
            .collect();
        by_name.sort_by_key(|id| (btf.name_of(*id), *id));
        btf.by_name = by_name;
        btf
    }

    /// A table with nothing but `void`.
    #[must_use]
    pub fn empty() -> Self {
        BtfBuilder::new().finish()
    }

    /// The type with this id; `void` for ids of another table.
    #[must_use]
    pub fn get(&self, id: TypeId) -> &Type {
        let index = usize::try_from(id.raw()).unwrap_or(usize::MAX);
        self.types.get(index).unwrap_or(&Type::Void)
    }

    /// All ids but `void`'s.
    pub fn ids(&self) -> impl Iterator<Item = TypeId> + use<> {
        let count = u32::try_from(self.types.len()).unwrap_or(u32::MAX);
        (1..count).map(TypeId)
    }

    /// The string behind a name.
    #[must_use]
    pub fn str(&self, name: Name) -> &str {
        self.string_at(name.0)
    }

    /// The string at this offset of the table, empty if there is none.
    pub(crate) fn string_at(&self, offset: u32) -> &str {
        self.strings.get(offset).unwrap_or_default()
    }

    /// A type's own name, empty if it has none.
    #[must_use]
    pub fn name_of(&self, id: TypeId) -> &str {
        self.str(self.get(id).name())
    }

    /// All types with this name, whatever their kind, by ascending id.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = TypeId> + 'a {
        let start = self.by_name.partition_point(|id| self.name_of(*id) < name);
        let rest = self.by_name.get(start..).unwrap_or_default();
        rest.iter()
            .copied()
            .take_while(move |id| self.name_of(*id) == name)
    }

    /// All named types whose name starts with `prefix`, sorted by name.
    pub(crate) fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = TypeId> + 'a {
        let start = self
            .by_name
            .partition_point(|id| self.name_of(*id) < prefix);
        let rest = self.by_name.get(start..).unwrap_or_default();
        rest.iter()
            .copied()
            .take_while(move |id| self.name_of(*id).starts_with(prefix))
    }

    /// The first type with this name and kind.
    #[must_use]
    pub fn find(&self, name: &str, kind: Kind) -> Option<TypeId> {
        self.named(name).find(|id| self.get(*id).kind() == kind)
    }

    /// The enumerator of this name in any enum.
    #[must_use]
    pub fn enumerator(&self, name: &str) -> Option<u64> {
        self.types.iter().find_map(|ty| match ty {
            Type::Enum(e) => e
                .values
                .iter()
                .find(|value| self.str(value.name) == name)
                .map(|value| value.value),
            _ => None,
        })
    }
}

/// The part of `name` before its last flavour suffix.
///
/// A flavour is three underscores between characters that are none: `task_struct___old`
/// is `task_struct`. As in libbpf only the last one goes: `a___b___c` is `a___b`.
#[must_use]
pub fn strip_flavor(name: &str) -> &str {
    let bytes = name.as_bytes();
    let flavor = bytes.windows(5).rposition(
        |w| matches!(w, [before, b'_', b'_', b'_', after] if *before != b'_' && *after != b'_'),
    );
    flavor
        .and_then(|at| name.get(..at.saturating_add(1)))
        .unwrap_or(name)
}
