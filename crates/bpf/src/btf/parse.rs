//! Bytes of a `.BTF` section to a [`Btf`]. Linear in the bytes.
//!
//! Checked here: the header, that every record lies inside the section, every name,
//! every type id. Not checked: what only use can tell (see [`super`]).

use super::strings::Strings;
use super::visit::dangling;
use super::{
    Btf, Composite, Enum, Enumerator, IntEncoding, Linkage, Member, NAME_LEN_MAX, Name, Param,
    SecVar, Type, TypeId,
};

/// Why bytes are no BTF.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum BtfError {
    #[error("BTF header is {len} bytes long, needs {need}")]
    ShortHeader { len: usize, need: usize },
    #[error("BTF magic is {magic:#x}, not 0xeb9f")]
    Magic { magic: u16 },
    #[error("BTF version is {version}, not 1")]
    Version { version: u8 },
    #[error("BTF {part} at {start:#x}, {len:#x} bytes, lies outside of {available:#x} bytes")]
    OutOfBounds {
        part: &'static str,
        start: u64,
        len: u64,
        available: usize,
    },
    #[error("BTF strings are not UTF-8 or not ended by NUL")]
    Strings,
    #[error("BTF type [{id}] at byte {offset:#x} is cut off")]
    Truncated { id: u32, offset: usize },
    #[error("BTF type [{id}] has the unknown kind {kind}")]
    UnknownKind { id: u32, kind: u32 },
    #[error("BTF type [{id}] names a string at {offset:#x}: none there, or over 511 bytes")]
    BadName { id: u32, offset: u32 },
    #[error("BTF type [{id}] mentions type [{missing}], but there are only {count} types")]
    BadTypeId { id: u32, missing: u32, count: usize },
    #[error("BTF type [{id}] has {what} {value}")]
    BadField {
        id: u32,
        what: &'static str,
        value: u32,
    },
}

impl Btf {
    /// Parses the bytes of a `.BTF` section.
    pub fn parse(bytes: &[u8]) -> Result<Self, BtfError> {
        let (types, strings) = parts(bytes)?;
        let text = std::str::from_utf8(strings).map_err(|_not_utf8| BtfError::Strings)?;
        if text.as_bytes().first() != Some(&0) || text.as_bytes().last() != Some(&0) {
            return Err(BtfError::Strings);
        }
        let strings = Strings::new(text.to_owned()).ok_or(BtfError::Strings)?;
        let mut reader = Reader {
            bytes: types,
            at: 0,
            id: 1,
            strings: &strings,
        };
        let mut table = vec![Type::Void];
        while reader.at < types.len() {
            table.push(reader.record()?);
            reader.id = reader.id.saturating_add(1);
        }
        let count = table.len();
        match dangling(&mut table) {
            None => Ok(Self::new(table, strings)),
            Some((id, missing)) => Err(BtfError::BadTypeId {
                id: id.raw(),
                missing: missing.raw(),
                count,
            }),
        }
    }
}

/// The bytes of the type records and of the strings.
fn parts(bytes: &[u8]) -> Result<(&[u8], &[u8]), BtfError> {
    const NEED: usize = 24;
    let short = BtfError::ShortHeader {
        len: bytes.len(),
        need: NEED,
    };
    let Some([m0, m1, version, _flags, rest @ ..]) = bytes.first_chunk::<NEED>() else {
        return Err(short);
    };
    let magic = u16::from_le_bytes([*m0, *m1]);
    if magic != 0xeb9f {
        return Err(BtfError::Magic { magic });
    }
    if *version != 1 {
        return Err(BtfError::Version { version: *version });
    }
    let (words, _) = rest.as_chunks::<4>();
    let [header_len, type_off, type_len, str_off, str_len] = words else {
        return Err(short);
    };
    let header_len = u64::from(u32::from_le_bytes(*header_len));
    if header_len < 24 {
        return Err(short);
    }
    let part = |part, offset: &[u8; 4], len: &[u8; 4]| {
        let start = u64::from(u32::from_le_bytes(*offset)).saturating_add(header_len);
        let len = u64::from(u32::from_le_bytes(*len));
        let range = usize::try_from(start)
            .ok()
            .zip(usize::try_from(start.saturating_add(len)).ok());
        range
            .and_then(|(from, to)| bytes.get(from..to))
            .ok_or(BtfError::OutOfBounds {
                part,
                start,
                len,
                available: bytes.len(),
            })
    };
    Ok((
        part("types", type_off, type_len)?,
        part("strings", str_off, str_len)?,
    ))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    id: u32,
    strings: &'a Strings,
}

impl Reader<'_> {
    fn words<const N: usize>(&mut self) -> Result<[u32; N], BtfError> {
        let mut out = [0; N];
        for word in &mut out {
            let rest = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<4>);
            let Some(chunk) = rest else {
                return Err(BtfError::Truncated {
                    id: self.id,
                    offset: self.at,
                });
            };
            *word = u32::from_le_bytes(*chunk);
            self.at = self.at.saturating_add(4);
        }
        Ok(out)
    }

    fn name(&self, offset: u32) -> Result<Name, BtfError> {
        match self.strings.get(offset) {
            Some(text) if text.len() <= NAME_LEN_MAX => Ok(Name(offset)),
            _ => Err(BtfError::BadName {
                id: self.id,
                offset,
            }),
        }
    }

    fn bad(&self, what: &'static str, value: u32) -> BtfError {
        BtfError::BadField {
            id: self.id,
            what,
            value,
        }
    }

    fn record(&mut self) -> Result<Type, BtfError> {
        let [name, info, word] = self.words()?;
        let name = self.name(name)?;
        let (count, kind, flag) = (info & 0xffff, (info >> 24) & 0x1f, info >> 31 != 0);
        let target = TypeId(word);
        Ok(match kind {
            1 => self.int(name, word)?,
            2 => Type::Ptr { target },
            3 => {
                let [element, index, len] = self.words()?;
                Type::Array {
                    element: TypeId(element),
                    index: TypeId(index),
                    len,
                }
            }
            4 => Type::Struct(self.composite(name, word, count, flag)?),
            5 => Type::Union(self.composite(name, word, count, flag)?),
            6 | 19 => self.enumeration(name, word, info)?,
            7 => Type::Fwd {
                name,
                is_union: flag,
            },
            8 => Type::Typedef { name, target },
            9 => Type::Volatile { target },
            10 => Type::Const { target },
            11 => Type::Restrict { target },
            12 => Type::Func {
                name,
                proto: target,
                linkage: self.linkage(count)?,
            },
            13 => {
                let mut params = Vec::new();
                for _ in 0..count {
                    let [name, type_id] = self.words()?;
                    params.push(Param {
                        name: self.name(name)?,
                        type_id: TypeId(type_id),
                    });
                }
                Type::FuncProto {
                    ret: target,
                    params,
                }
            }
            14 => {
                let [linkage] = self.words()?;
                Type::Var {
                    name,
                    type_id: target,
                    linkage: self.linkage(linkage)?,
                }
            }
            15 => self.data_sec(name, word, count)?,
            16 => Type::Float { name, size: word },
            17 => {
                let [component] = self.words()?;
                Type::DeclTag {
                    name,
                    target,
                    component: (component != u32::MAX).then_some(component),
                }
            }
            18 => Type::TypeTag {
                name,
                target,
                is_attribute: flag,
            },
            kind => return Err(BtfError::UnknownKind { id: self.id, kind }),
        })
    }

    fn int(&mut self, name: Name, size: u32) -> Result<Type, BtfError> {
        let [data] = self.words()?;
        if !matches!(size, 1 | 2 | 4 | 8 | 16) {
            return Err(self.bad("integer size", size));
        }
        let encoding = match (data >> 24) & 0xf {
            0 => IntEncoding::Unsigned,
            1 => IntEncoding::Signed,
            4 => IntEncoding::Bool,
            e if e & 2 != 0 => IntEncoding::Char,
            other => return Err(self.bad("integer encoding", other)),
        };
        let [bits, _, bit_offset, _] = data.to_le_bytes();
        if u32::from(bits).saturating_add(u32::from(bit_offset)) > size.saturating_mul(8) {
            return Err(self.bad("integer bits", data));
        }
        Ok(Type::Int {
            name,
            size,
            encoding,
            bit_offset,
            bits,
        })
    }

    fn composite(
        &mut self,
        name: Name,
        size: u32,
        count: u32,
        has_bitfields: bool,
    ) -> Result<Composite, BtfError> {
        let mut members = Vec::new();
        for _ in 0..count {
            let [name, type_id, offset] = self.words()?;
            let [.., width] = offset.to_le_bytes();
            members.push(Member {
                name: self.name(name)?,
                type_id: TypeId(type_id),
                bit_offset: if has_bitfields {
                    offset & 0x00ff_ffff
                } else {
                    offset
                },
                bit_size: (has_bitfields && width != 0).then_some(width),
            });
        }
        Ok(Composite {
            name,
            size,
            members,
        })
    }

    /// An enum; kind 6 has 32-bit values, kind 19 64-bit ones.
    fn enumeration(&mut self, name: Name, size: u32, info: u32) -> Result<Type, BtfError> {
        let (count, is_wide, signed) = (info & 0xffff, (info >> 24) & 0x1f == 19, info >> 31 != 0);
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Err(self.bad("enum size", size));
        }
        let mut values = Vec::new();
        for _ in 0..count {
            let [name, lo] = self.words()?;
            let value = if is_wide {
                let [hi] = self.words()?;
                (u64::from(hi) << 32) | u64::from(lo)
            } else if signed {
                i64::from(lo.cast_signed()).cast_unsigned()
            } else {
                u64::from(lo)
            };
            values.push(Enumerator {
                name: self.name(name)?,
                value,
            });
        }
        Ok(Type::Enum(Enum {
            name,
            size,
            signed,
            values,
        }))
    }

    fn data_sec(&mut self, name: Name, size: u32, count: u32) -> Result<Type, BtfError> {
        let mut vars = Vec::new();
        for _ in 0..count {
            let [type_id, offset, size] = self.words()?;
            vars.push(SecVar {
                type_id: TypeId(type_id),
                offset,
                size,
            });
        }
        Ok(Type::DataSec { name, size, vars })
    }

    fn linkage(&self, number: u32) -> Result<Linkage, BtfError> {
        match number {
            0 => Ok(Linkage::Static),
            1 => Ok(Linkage::Global),
            2 => Ok(Linkage::Extern),
            other => Err(self.bad("linkage", other)),
        }
    }
}
