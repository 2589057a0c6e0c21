//! Bytes of a known type as a tree of values, for showing and for JSON.

use super::{Btf, Field, IntEncoding, LayoutError, Type, TypeId};
use std::fmt;

/// Leaves and inner nodes that one value may have.
const NODES_MAX: u32 = 1 << 20;
/// Nesting that one value may have.
const DEPTH_MAX: u32 = 64;

/// A value read from memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// An integer.
    Int(i128),
    /// A truth value.
    Bool(bool),
    /// A pointer.
    Pointer(u64),
    /// An enum's value and its name, if it has one.
    Enum(i128, Option<String>),
    /// An array of characters up to its first NUL, if it is UTF-8.
    Text(String),
    /// Bits of a floating-point number.
    Float(u64),
    /// An array's elements.
    Array(Vec<Self>),
    /// A struct's or union's members; anonymous ones have an empty name.
    Struct(Vec<(String, Self)>),
    /// The bytes do not reach this far.
    Missing,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Pointer(value) | Self::Float(value) => write!(f, "{value:#x}"),
            Self::Enum(_, Some(name)) => f.write_str(name),
            Self::Enum(value, None) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Array(elements) => {
                f.write_str("[")?;
                for (index, element) in elements.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{element}")?;
                }
                f.write_str("]")
            }
            Self::Struct(members) => {
                f.write_str("{")?;
                for (index, (name, value)) in members.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    let equals = if name.is_empty() { "" } else { " = " };
                    write!(f, "{comma}{name}{equals}{value}")?;
                }
                f.write_str("}")
            }
            Self::Missing => f.write_str("?"),
        }
    }
}

impl Btf {
    /// The value of type `id` that `bytes` start with.
    pub fn value(&self, id: TypeId, bytes: &[u8]) -> Result<Value, LayoutError> {
        self.field_value(Field::whole(id), bytes)
    }

    /// The value of a field; `bytes` start with the byte that its first bit lies in.
    pub fn field_value(&self, field: Field, bytes: &[u8]) -> Result<Value, LayoutError> {
        let mut reader = ValueReader {
            btf: self,
            bytes,
            root: field.type_id,
            nodes_left: NODES_MAX,
        };
        let bit_offset = field.bit_offset % 8;
        reader.read(field.type_id, bit_offset, field.bit_size, DEPTH_MAX)
    }
}

struct ValueReader<'a> {
    btf: &'a Btf,
    bytes: &'a [u8],
    root: TypeId,
    nodes_left: u32,
}

impl ValueReader<'_> {
    fn read(
        &mut self,
        id: TypeId,
        bit_offset: u64,
        bit_size: Option<u8>,
        depth: u32,
    ) -> Result<Value, LayoutError> {
        let unbounded = LayoutError::Unbounded { id: self.root };
        let Some((left, depth)) = self.nodes_left.checked_sub(1).zip(depth.checked_sub(1)) else {
            return Err(unbounded);
        };
        self.nodes_left = left;
        let resolved = self.btf.resolve(id)?;
        let scalar = |size: u64| {
            let width = bit_size.map_or(size.saturating_mul(8), u64::from);
            read_bits(self.bytes, bit_offset, width)
        };
        Ok(match self.btf.get(resolved) {
            Type::Int {
                encoding,
                bits,
                bit_offset: skipped,
                ..
            } => {
                let width = bit_size.unwrap_or(*bits);
                let at = bit_offset.saturating_add(u64::from(*skipped));
                match read_bits(self.bytes, at, u64::from(width)) {
                    None => Value::Missing,
                    Some(raw) if *encoding == IntEncoding::Bool => Value::Bool(raw != 0),
                    Some(raw) => Value::Int(extend(raw, width, *encoding == IntEncoding::Signed)),
                }
            }
            Type::Enum(e) => match scalar(u64::from(e.size)) {
                None => Value::Missing,
                Some(raw) => {
                    let bits = u8::try_from(e.size.saturating_mul(8)).unwrap_or(64);
                    let value = extend(raw, bit_size.unwrap_or(bits), e.signed);
                    let known = e
                        .values
                        .iter()
                        .find(|known| extend(u128::from(known.value), 64, e.signed) == value);
                    Value::Enum(
                        value,
                        known.map(|known| self.btf.str(known.name).to_owned()),
                    )
                }
            },
            Type::Ptr { .. } => narrow(scalar(8)).map_or(Value::Missing, Value::Pointer),
            Type::Float { size, .. } => {
                narrow(scalar(u64::from(*size))).map_or(Value::Missing, Value::Float)
            }
            Type::Array { element, len, .. } => self.array(*element, *len, bit_offset, depth)?,
            Type::Struct(c) | Type::Union(c) => {
                let mut members = Vec::new();
                for member in &c.members {
                    let at = bit_offset.saturating_add(u64::from(member.bit_offset));
                    let value = self.read(member.type_id, at, member.bit_size, depth)?;
                    members.push((self.btf.str(member.name).to_owned(), value));
                }
                Value::Struct(members)
            }
            _ => {
                // Gives the error that says what has no size.
                self.btf.size_of(resolved)?;
                Value::Missing
            }
        })
    }

    fn array(
        &mut self,
        element: TypeId,
        len: u32,
        bit_offset: u64,
        depth: u32,
    ) -> Result<Value, LayoutError> {
        let size = self.btf.size_of(element)?;
        let start = bit_offset / 8;
        if size == 1
            && let Type::Int { encoding, .. } = self.btf.get(self.btf.resolve(element)?)
            && matches!(encoding, IntEncoding::Char | IntEncoding::Signed)
            && let Some(text) = text(self.bytes, start, u64::from(len))
        {
            return Ok(Value::Text(text));
        }
        let mut elements = Vec::new();
        for index in 0..u64::from(len) {
            let bytes = start.saturating_add(size.saturating_mul(index));
            elements.push(self.read(element, bytes.saturating_mul(8), None, depth)?);
        }
        Ok(Value::Array(elements))
    }
}

/// The characters at `start` up to the first NUL.
fn text(bytes: &[u8], start: u64, len: u64) -> Option<String> {
    let end = usize::try_from(start.checked_add(len)?).ok()?;
    let all = bytes.get(usize::try_from(start).ok()?..end)?;
    let text = all.split(|byte| *byte == 0).next()?;
    let text = std::str::from_utf8(text).ok()?;
    // Small numbers in a signed byte array are no text.
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// `width` bits (at most 128) from `bit_offset` on.
pub(crate) fn read_bits(bytes: &[u8], bit_offset: u64, width: u64) -> Option<u128> {
    let end = bit_offset.checked_add(width)?.div_ceil(8);
    let start = bit_offset / 8;
    let touched = bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)?;
    let shift = u32::try_from(bit_offset % 8).ok()?;
    let mut raw = 0u128;
    for byte in touched.iter().take(16).rev() {
        raw = (raw << 8) | u128::from(*byte);
    }
    let width = u32::try_from(width).ok()?;
    let mask = if width >= 128 {
        u128::MAX
    } else {
        1u128.wrapping_shl(width).wrapping_sub(1)
    };
    Some(raw.wrapping_shr(shift) & mask)
}

/// The number that `width` bits mean.
fn extend(raw: u128, width: u8, signed: bool) -> i128 {
    let unused = 128u32.saturating_sub(u32::from(width)).min(127);
    let top = raw.wrapping_shl(unused).cast_signed();
    if signed {
        top.wrapping_shr(unused)
    } else {
        top.cast_unsigned().wrapping_shr(unused).cast_signed()
    }
}

fn narrow(raw: Option<u128>) -> Option<u64> {
    u64::try_from(raw?).ok()
}
