//! Building BTF in memory, and its bytes.
//!
//! Types are added one after the other; a struct that points to itself is declared
//! first and defined later. Wrong use (defining what was not declared, more than
//! 65535 members) is a mistake of the caller and panics.

use super::strings::Strings;
use super::visit::dangling;
use super::{
    Btf, Composite, Enum, Enumerator, IntEncoding, Kind, Linkage, Member, Name, Param, SecVar,
    Type, TypeId,
};
use std::collections::BTreeMap;

/// A member of a struct that is being built.
#[derive(Clone, Debug)]
pub struct MemberDef<'a> {
    /// Its name; empty for an anonymous struct or union.
    pub name: &'a str,
    /// Its type.
    pub type_id: TypeId,
    /// Bits from the start of the struct.
    pub bit_offset: u32,
    /// Width in bits if this is a bitfield.
    pub bit_size: Option<u8>,
}

impl<'a> MemberDef<'a> {
    /// A member at a byte offset.
    #[must_use]
    pub const fn at(name: &'a str, type_id: TypeId, byte_offset: u32) -> Self {
        Self {
            name,
            type_id,
            bit_offset: byte_offset.saturating_mul(8),
            bit_size: None,
        }
    }
}

/// Width and sign of an enum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EnumWidth {
    /// Four bytes, unsigned.
    U32,
    /// Four bytes, signed.
    I32,
    /// Eight bytes, unsigned.
    U64,
    /// Eight bytes, signed.
    I64,
}

/// Collects types into a [`Btf`].
#[derive(Clone, Debug)]
pub struct BtfBuilder {
    types: Vec<Type>,
    text: String,
    offsets: BTreeMap<String, u32>,
}

impl Default for BtfBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BtfBuilder {
    /// Nothing but `void`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            types: vec![Type::Void],
            text: "\0".to_owned(),
            offsets: BTreeMap::from([(String::new(), 0)]),
        }
    }

    fn name(&mut self, text: &str) -> Name {
        assert!(!text.contains('\0'), "a name cannot contain NUL");
        assert!(text.len() <= super::NAME_LEN_MAX, "name too long: {text}");
        if let Some(offset) = self.offsets.get(text) {
            return Name(*offset);
        }
        let offset = u32::try_from(self.text.len()).expect("names fill less than 4 GiB");
        self.text.push_str(text);
        self.text.push('\0');
        self.offsets.insert(text.to_owned(), offset);
        Name(offset)
    }

    fn add(&mut self, ty: Type) -> TypeId {
        let id = u32::try_from(self.types.len()).expect("fewer than 2^32 types");
        self.types.push(ty);
        TypeId(id)
    }

    /// An integer of `size` bytes.
    pub fn int(&mut self, name: &str, size: u8, encoding: IntEncoding) -> TypeId {
        assert!(
            matches!(size, 1 | 2 | 4 | 8 | 16),
            "integer of {size} bytes"
        );
        let name = self.name(name);
        self.add(Type::Int {
            name,
            size: u32::from(size),
            encoding,
            bit_offset: 0,
            bits: size.saturating_mul(8),
        })
    }

    /// A floating-point number of `size` bytes.
    pub fn float(&mut self, name: &str, size: u32) -> TypeId {
        let name = self.name(name);
        self.add(Type::Float { name, size })
    }

    /// A pointer to `target`.
    pub fn ptr(&mut self, target: TypeId) -> TypeId {
        self.add(Type::Ptr { target })
    }

    /// An array of `len` elements, indexed by `index` (an integer).
    pub fn array(&mut self, element: TypeId, index: TypeId, len: u32) -> TypeId {
        self.add(Type::Array {
            element,
            index,
            len,
        })
    }

    /// `const target`.
    pub fn constant(&mut self, target: TypeId) -> TypeId {
        self.add(Type::Const { target })
    }

    /// `volatile target`.
    pub fn volatile(&mut self, target: TypeId) -> TypeId {
        self.add(Type::Volatile { target })
    }

    /// `restrict target`.
    pub fn restrict(&mut self, target: TypeId) -> TypeId {
        self.add(Type::Restrict { target })
    }

    /// Another name for `target`.
    pub fn typedef(&mut self, name: &str, target: TypeId) -> TypeId {
        let name = self.name(name);
        self.add(Type::Typedef { name, target })
    }

    /// `target` with a `btf_type_tag`.
    pub fn type_tag(&mut self, name: &str, target: TypeId) -> TypeId {
        let name = self.name(name);
        self.add(Type::TypeTag {
            name,
            target,
            is_attribute: false,
        })
    }

    /// A `btf_decl_tag` on `target`, or on its member or parameter `component`.
    pub fn decl_tag(&mut self, name: &str, target: TypeId, component: Option<u32>) -> TypeId {
        let name = self.name(name);
        self.add(Type::DeclTag {
            name,
            target,
            component,
        })
    }

    /// A struct.
    pub fn structure(&mut self, name: &str, size: u32, members: &[MemberDef<'_>]) -> TypeId {
        let composite = self.composite(name, size, members);
        self.add(Type::Struct(composite))
    }

    /// A union.
    pub fn union(&mut self, name: &str, size: u32, members: &[MemberDef<'_>]) -> TypeId {
        let composite = self.composite(name, size, members);
        self.add(Type::Union(composite))
    }

    fn composite(&mut self, name: &str, size: u32, members: &[MemberDef<'_>]) -> Composite {
        assert!(
            members.len() <= usize::from(u16::MAX),
            "too many members in {name}"
        );
        let members = members
            .iter()
            .map(|member| Member {
                name: self.name(member.name),
                type_id: member.type_id,
                bit_offset: member.bit_offset,
                bit_size: member.bit_size,
            })
            .collect();
        Composite {
            name: self.name(name),
            size,
            members,
        }
    }

    /// A struct without definition: an id to point to before [`Self::define`].
    pub fn declare(&mut self, name: &str) -> TypeId {
        self.fwd(name, false)
    }

    /// Defines what [`Self::declare`] announced.
    pub fn define(&mut self, declared: TypeId, size: u32, members: &[MemberDef<'_>]) {
        let index = usize::try_from(declared.raw()).expect("usize holds 32 bits");
        let Some(Type::Fwd { name, .. }) = self.types.get(index) else {
            panic!("type {declared} was not declared, or defined twice");
        };
        let name = *name;
        let mut composite = self.composite("", size, members);
        composite.name = name;
        if let Some(slot) = self.types.get_mut(index) {
            *slot = Type::Struct(composite);
        }
    }

    /// A struct or union that is never defined.
    pub fn fwd(&mut self, name: &str, is_union: bool) -> TypeId {
        let name = self.name(name);
        self.add(Type::Fwd { name, is_union })
    }

    /// An enum; values are given as 64-bit patterns, sign-extended if negative.
    pub fn enumeration(&mut self, name: &str, width: EnumWidth, values: &[(&str, u64)]) -> TypeId {
        assert!(
            values.len() <= usize::from(u16::MAX),
            "too many values in {name}"
        );
        let (size, signed) = match width {
            EnumWidth::U32 => (4, false),
            EnumWidth::I32 => (4, true),
            EnumWidth::U64 => (8, false),
            EnumWidth::I64 => (8, true),
        };
        let values = values
            .iter()
            .map(|(name, value)| Enumerator {
                name: self.name(name),
                value: *value,
            })
            .collect();
        let name = self.name(name);
        self.add(Type::Enum(Enum {
            name,
            size,
            signed,
            values,
        }))
    }

    /// The type of a function.
    pub fn func_proto(&mut self, ret: TypeId, params: &[(&str, TypeId)]) -> TypeId {
        let params = params
            .iter()
            .map(|(name, type_id)| Param {
                name: self.name(name),
                type_id: *type_id,
            })
            .collect();
        self.add(Type::FuncProto { ret, params })
    }

    /// A function with the type `proto`.
    pub fn func(&mut self, name: &str, proto: TypeId, linkage: Linkage) -> TypeId {
        let name = self.name(name);
        self.add(Type::Func {
            name,
            proto,
            linkage,
        })
    }

    /// A variable.
    pub fn var(&mut self, name: &str, type_id: TypeId, linkage: Linkage) -> TypeId {
        let name = self.name(name);
        self.add(Type::Var {
            name,
            type_id,
            linkage,
        })
    }

    /// A section with variables.
    pub fn data_sec(&mut self, name: &str, size: u32, vars: &[SecVar]) -> TypeId {
        let name = self.name(name);
        self.add(Type::DataSec {
            name,
            size,
            vars: vars.to_vec(),
        })
    }

    /// The finished table.
    #[must_use]
    pub fn finish(mut self) -> Btf {
        let strings = Strings::new(self.text).expect("names fill less than 4 GiB");
        if let Some((id, missing)) = dangling(&mut self.types) {
            panic!("type {id} mentions type {missing}, which does not exist");
        }
        Btf::new(self.types, strings)
    }
}

const HEADER_LEN: u32 = 24;

impl Btf {
    /// The bytes of this table, as in a `.BTF` section or `/sys/kernel/btf/vmlinux`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut types = Vec::new();
        for id in self.ids() {
            encode_type(self.get(id), &mut types);
        }
        let strings = self.strings.as_bytes();
        let type_len = u32::try_from(types.len()).unwrap_or(u32::MAX);
        let string_len = u32::try_from(strings.len()).unwrap_or(u32::MAX);
        let mut out = vec![0x9f, 0xeb, 1, 0];
        for word in [HEADER_LEN, 0, type_len, type_len, string_len] {
            out.extend(word.to_le_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }
}

/// Kind number, `vlen`, flag and the fourth word of the common header.
struct Header {
    kind: u32,
    count: usize,
    flag: bool,
    size_or_type: u32,
}

pub(super) fn encode_type(ty: &Type, out: &mut Vec<u8>) {
    let header = header_of(ty);
    let count = u32::try_from(header.count).unwrap_or(u32::MAX) & 0xffff;
    let info = count | (header.kind << 24) | (u32::from(header.flag) << 31);
    push(out, [ty.name().0, info, header.size_or_type]);
    match ty {
        Type::Int {
            encoding,
            bit_offset,
            bits,
            ..
        } => {
            let encoding = match encoding {
                IntEncoding::Unsigned => 0,
                IntEncoding::Signed => 1,
                IntEncoding::Char => 2,
                IntEncoding::Bool => 4,
            };
            let offset = u32::from(*bit_offset);
            push(out, [(encoding << 24) | (offset << 16) | u32::from(*bits)]);
        }
        Type::Array {
            element,
            index,
            len,
        } => push(out, [element.0, index.0, *len]),
        Type::Struct(c) | Type::Union(c) => {
            for m in &c.members {
                let width = u32::from(m.bit_size.unwrap_or(0));
                let offset = if header.flag {
                    (width << 24) | (m.bit_offset & 0x00ff_ffff)
                } else {
                    m.bit_offset
                };
                push(out, [m.name.0, m.type_id.0, offset]);
            }
        }
        Type::Enum(e) => {
            for value in &e.values {
                let [lo, hi] = words(value.value);
                if e.size == 8 {
                    push(out, [value.name.0, lo, hi]);
                } else {
                    push(out, [value.name.0, lo]);
                }
            }
        }
        Type::FuncProto { params, .. } => {
            for param in params {
                push(out, [param.name.0, param.type_id.0]);
            }
        }
        Type::Var { linkage, .. } => push(out, [linkage_number(*linkage)]),
        Type::DataSec { vars, .. } => {
            for var in vars {
                push(out, [var.type_id.0, var.offset, var.size]);
            }
        }
        Type::DeclTag { component, .. } => push(out, [component.unwrap_or(u32::MAX)]),
        Type::Void
        | Type::Ptr { .. }
        | Type::Fwd { .. }
        | Type::Typedef { .. }
        | Type::Volatile { .. }
        | Type::Const { .. }
        | Type::Restrict { .. }
        | Type::Func { .. }
        | Type::Float { .. }
        | Type::TypeTag { .. } => {}
    }
}

fn header_of(ty: &Type) -> Header {
    let plain = |kind, size_or_type| Header {
        kind,
        count: 0,
        flag: false,
        size_or_type,
    };
    match ty {
        Type::Void => plain(0, 0),
        Type::Int { size, .. } => plain(1, *size),
        Type::Ptr { target } => plain(2, target.0),
        Type::Array { .. } => plain(3, 0),
        Type::Struct(c) | Type::Union(c) => Header {
            kind: if ty.kind() == Kind::Struct { 4 } else { 5 },
            count: c.members.len(),
            flag: c.members.iter().any(|member| member.bit_size.is_some()),
            size_or_type: c.size,
        },
        Type::Enum(e) => Header {
            kind: if e.size == 8 { 19 } else { 6 },
            count: e.values.len(),
            flag: e.signed,
            size_or_type: e.size,
        },
        Type::Fwd { is_union, .. } => Header {
            flag: *is_union,
            ..plain(7, 0)
        },
        Type::Typedef { target, .. } => plain(8, target.0),
        Type::Volatile { target } => plain(9, target.0),
        Type::Const { target } => plain(10, target.0),
        Type::Restrict { target } => plain(11, target.0),
        Type::Func { proto, linkage, .. } => Header {
            // The linkage of a function sits in the place of the count.
            count: usize::try_from(linkage_number(*linkage)).unwrap_or(0),
            ..plain(12, proto.0)
        },
        Type::FuncProto { ret, params } => Header {
            count: params.len(),
            ..plain(13, ret.0)
        },
        Type::Var { type_id, .. } => plain(14, type_id.0),
        Type::DataSec { size, vars, .. } => Header {
            count: vars.len(),
            ..plain(15, *size)
        },
        Type::Float { size, .. } => plain(16, *size),
        Type::DeclTag { target, .. } => plain(17, target.0),
        Type::TypeTag {
            target,
            is_attribute,
            ..
        } => Header {
            flag: *is_attribute,
            ..plain(18, target.0)
        },
    }
}

const fn linkage_number(linkage: Linkage) -> u32 {
    match linkage {
        Linkage::Static => 0,
        Linkage::Global => 1,
        Linkage::Extern => 2,
    }
}

const fn words(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

fn push<const N: usize>(out: &mut Vec<u8>, words: [u32; N]) {
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}
