//! Reading and changing an object before it is linked: globals, struct_ops settings,
//! map sizes, which programs are loaded.
//!
//! A path is a variable and then members and elements: `topo.nr_cpus`,
//! `cpu_dom_id_map[3]`, `fifo_ops.timeout_ms`. What user space of a scheduler does
//! between opening and loading its object is done here, with the same freedom:
//! constants in `.rodata` may be set, externs may not.

use super::{Global, Object, Program, Storage};
use crate::btf::{Field, IntEncoding, LayoutError, PathError, Type, TypeId, Value};
use crate::error::GlobalError;
use crate::map::{Contents, MapIndex};
use std::fmt;

/// Names listed in an error.
const LISTED_MAX: usize = 40;

/// A value to give to a variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GlobalValue {
    /// A number, for integers, enums and truth values.
    Int(i128),
    /// A truth value.
    Bool(bool),
    /// Text for an array of `char`, or the name of an enum's value.
    Text(String),
}

impl GlobalValue {
    /// What a word on a command line means: a number (also `0x…`), `true`, `false`, or text.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => (-1i128, digits),
            None => (1, text),
        };
        let number = match digits.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => digits.replace('_', "").parse().ok(),
        };
        match (number, text) {
            (Some(number), _) => Self::Int(i128::from(number).wrapping_mul(sign)),
            (None, "true") => Self::Bool(true),
            (None, "false") => Self::Bool(false),
            (None, text) => Self::Text(text.to_owned()),
        }
    }
}

impl fmt::Display for GlobalValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

macro_rules! from_integers {
    ($($int:ty)*) => {
        $(impl From<$int> for GlobalValue {
            fn from(value: $int) -> Self {
                Self::Int(i128::from(value))
            }
        })*
    };
}
from_integers!(u8 u16 u32 u64 i8 i16 i32 i64);

impl From<bool> for GlobalValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for GlobalValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// Where a variable (or a part of it) lies before linking, and what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GlobalInfo {
    /// The map that holds it; `None` if it is a struct_ops variable.
    pub map: Option<MapIndex>,
    /// Name of its section.
    pub section: String,
    /// Bytes from the start of the section.
    pub offset: u64,
    /// Its type in the object's BTF.
    pub type_id: TypeId,
    /// Its type in C.
    pub c_type: String,
    /// Bytes.
    pub size: u64,
}

impl Object {
    /// Names of all global variables, ascending.
    pub fn globals(&self) -> impl Iterator<Item = &str> {
        self.globals.keys().map(String::as_str)
    }

    /// What `path` names.
    pub fn global_info(&self, path: &str) -> Result<GlobalInfo, GlobalError> {
        let (global, field) = self.locate(path)?;
        let (map, section) = match global.storage {
            Storage::Map(map) | Storage::Kconfig(map) => {
                let name = self.maps.get(map.index()).map(|map| map.name.clone());
                (Some(map), name.unwrap_or_default())
            }
            Storage::StructOps(_) => (None, ".struct_ops".to_owned()),
        };
        Ok(GlobalInfo {
            map,
            section,
            offset: global.offset.saturating_add(field.byte_offset()),
            type_id: field.type_id,
            c_type: self.btf.c_type(field.type_id),
            size: self.size(path, field.type_id)?,
        })
    }

    /// The value that `path` has in the file or was set to.
    pub fn global_value(&self, path: &str) -> Result<Value, GlobalError> {
        let (global, field) = self.locate(path)?;
        let size = match field.bit_size {
            Some(bits) => u64::from(bits)
                .saturating_add(field.bit_offset % 8)
                .div_ceil(8),
            None => self.size(path, field.type_id)?,
        };
        let offset = global.offset.saturating_add(field.byte_offset());
        let bytes = match global.storage {
            Storage::Map(map) | Storage::Kconfig(map) => {
                let map = self.maps.get(map.index());
                map.and_then(|map| map.contents.get(offset, size))
            }
            Storage::StructOps(index) => self
                .struct_ops
                .get(index)
                .and_then(|var| Contents::from_bytes(var.data.clone()).get(offset, size)),
        };
        let bytes = bytes.unwrap_or_default();
        let value = self.btf.field_value(field, &bytes);
        value.map_err(|cause| layout(path, cause))
    }

    /// Gives the variable (or member, or element) at `path` a value.
    pub fn set_global(&mut self, path: &str, value: &GlobalValue) -> Result<(), GlobalError> {
        let (global, field) = self.locate(path)?;
        if matches!(global.storage, Storage::Kconfig(_)) {
            let path = path.to_owned();
            return Err(GlobalError::Extern { path });
        }
        let bits = self.encode(path, field, value)?;
        let base = global.offset.saturating_mul(8);
        let at = base.saturating_add(field.bit_offset);
        let written = match global.storage {
            Storage::Map(map) | Storage::Kconfig(map) => self
                .maps
                .get_mut(map.index())
                .and_then(|map| put_bits(&mut map.contents, at, &bits)),
            Storage::StructOps(index) => self.struct_ops.get_mut(index).and_then(|var| {
                let mut contents = Contents::from_bytes(std::mem::take(&mut var.data));
                let done = put_bits(&mut contents, at, &bits);
                var.data = contents.bytes;
                done
            }),
        };
        written.ok_or_else(|| GlobalError::Path {
            path: path.to_owned(),
            cause: PathError::Layout(LayoutError::TooLarge { id: field.type_id }),
        })
    }

    /// Fills every integer variable whose name starts with `prefix` with what `lookup`
    /// says of the rest of its name; gives the names it said nothing of.
    ///
    /// Schedulers declare the kernel's constants as `const volatile u64 __SCX_DSQ_LOCAL`
    /// with the value 0 and leave filling them to user space.
    pub fn fill_constants(
        &mut self,
        prefix: &str,
        lookup: impl Fn(&str) -> Option<u64>,
    ) -> Result<Vec<String>, GlobalError> {
        let names = self.globals.range(prefix.to_owned()..);
        let names: Vec<String> = names
            .map(|(name, _)| name.clone())
            .take_while(|name| name.starts_with(prefix))
            .collect();
        let mut unknown = Vec::new();
        for name in names {
            match lookup(name.strip_prefix(prefix).unwrap_or_default()) {
                Some(value) => self.set_global(&name, &GlobalValue::Int(i128::from(value)))?,
                None => unknown.push(name),
            }
        }
        Ok(unknown)
    }

    /// Changes the number of entries (of pages, for an arena) of a map.
    pub fn set_max_entries(&mut self, map: &str, max_entries: u32) -> Result<(), GlobalError> {
        match self.maps.iter_mut().find(|known| known.name == map) {
            Some(map) => {
                map.max_entries = max_entries;
                Ok(())
            }
            None => Err(GlobalError::NoMap {
                map: map.to_owned(),
                exists: self.maps.iter().map(|map| map.name.clone()).collect(),
            }),
        }
    }

    /// Says whether a program is loaded.
    pub fn set_autoload(&mut self, program: &str, load: Autoload) -> Result<(), GlobalError> {
        let found = self.find_program(program)?;
        if let Some(program) = self.programs.get_mut(found) {
            program.autoload = load == Autoload::Yes;
        }
        Ok(())
    }

    /// Points a member of a struct_ops variable to another program, or to none.
    pub fn set_callback(
        &mut self,
        variable: &str,
        member: &str,
        program: Option<&str>,
    ) -> Result<(), GlobalError> {
        let path = format!("{variable}.{member}");
        let (global, field) = self.locate(&path)?;
        let func = match program {
            Some(program) => {
                let index = self.find_program(program)?;
                self.programs.get(index).map(|program| program.func)
            }
            None => None,
        };
        let resolved = self.btf.resolve(field.type_id);
        let is_pointer = resolved.is_ok_and(|id| matches!(self.btf.get(id), Type::Ptr { .. }));
        let Storage::StructOps(index) = global.storage else {
            return Err(self.wrong_kind(&path, field, "a program"));
        };
        if !is_pointer {
            return Err(self.wrong_kind(&path, field, "a program"));
        }
        if let Some(var) = self.struct_ops.get_mut(index) {
            let at = field.byte_offset();
            match func {
                Some(func) => _ = var.funcs.insert(at, func),
                None => _ = var.funcs.remove(&at),
            }
        }
        Ok(())
    }

    fn find_program(&self, name: &str) -> Result<usize, GlobalError> {
        let is_it = |program: &Program| program.name == name;
        let found = self.programs.iter().position(is_it);
        found.ok_or_else(|| GlobalError::NoProgram {
            program: name.to_owned(),
            exists: self.programs.iter().map(|p| p.name.clone()).collect(),
        })
    }

    fn locate(&self, path: &str) -> Result<(Global, Field), GlobalError> {
        let end = path.find(['.', '[']).unwrap_or(path.len());
        let (name, rest) = path.split_at_checked(end).unwrap_or_default();
        let Some(global) = self.globals.get(name) else {
            return Err(GlobalError::Unknown {
                name: name.to_owned(),
                exists: self.similar_globals(name),
            });
        };
        let field = self.btf.field(global.type_id, rest);
        let field = field.map_err(|cause| GlobalError::Path {
            path: path.to_owned(),
            cause,
        })?;
        Ok((*global, field))
    }

    /// Names to show to somebody who asked for `name`: those that contain it, or all.
    fn similar_globals(&self, name: &str) -> Vec<String> {
        let is_similar = |known: &&String| known.contains(name) || name.contains(known.as_str());
        let similar: Vec<String> = self.globals.keys().filter(is_similar).cloned().collect();
        let all = self
            .globals
            .keys()
            .filter(|known| !known.starts_with("__SCX_"));
        let mut names = if similar.is_empty() {
            all.cloned().collect()
        } else {
            similar
        };
        names.truncate(LISTED_MAX);
        names
    }

    fn size(&self, path: &str, id: TypeId) -> Result<u64, GlobalError> {
        self.btf.size_of(id).map_err(|cause| layout(path, cause))
    }

    fn wrong_kind(&self, path: &str, field: Field, value: impl fmt::Display) -> GlobalError {
        GlobalError::Kind {
            path: path.to_owned(),
            c_type: self.btf.c_type(field.type_id),
            value: value.to_string(),
        }
    }

    /// The bits to write for `value`, lowest first, as bytes and their number.
    fn encode(&self, path: &str, field: Field, value: &GlobalValue) -> Result<Bits, GlobalError> {
        let resolved = self
            .btf
            .resolve(field.type_id)
            .map_err(|cause| layout(path, cause))?;
        let (number, width, signed, is_bool) = match (self.btf.get(resolved), value) {
            (Type::Int { encoding, bits, .. }, GlobalValue::Int(number)) => {
                let signed = matches!(encoding, IntEncoding::Signed);
                (*number, *bits, signed, *encoding == IntEncoding::Bool)
            }
            (Type::Int { bits, .. }, GlobalValue::Bool(flag)) => {
                (i128::from(*flag), *bits, false, true)
            }
            (Type::Enum(e), GlobalValue::Int(number)) => {
                let bits = u8::try_from(e.size.saturating_mul(8)).unwrap_or(64);
                (*number, bits, e.signed, false)
            }
            (Type::Enum(e), GlobalValue::Text(text)) => {
                let known = e
                    .values
                    .iter()
                    .find(|known| self.btf.str(known.name) == text);
                let known = known.ok_or_else(|| self.wrong_kind(path, field, value))?;
                let number = if e.signed {
                    i128::from(known.value.cast_signed())
                } else {
                    i128::from(known.value)
                };
                let bits = u8::try_from(e.size.saturating_mul(8)).unwrap_or(64);
                (number, bits, e.signed, false)
            }
            (Type::Array { element, len, .. }, GlobalValue::Text(text)) => {
                return self.encode_text(path, field, (*element, *len), text);
            }
            _ => return Err(self.wrong_kind(path, field, value)),
        };
        let width = u32::from(field.bit_size.unwrap_or(width)).clamp(1, 64);
        let (min, max) = if is_bool {
            (0, 1)
        } else if signed {
            let half = 1i128.wrapping_shl(width.saturating_sub(1));
            (half.wrapping_neg(), half.saturating_sub(1))
        } else {
            (0, 1i128.wrapping_shl(width).saturating_sub(1))
        };
        if number < min || number > max {
            return Err(GlobalError::Range {
                path: path.to_owned(),
                value: value.to_string(),
                c_type: self.btf.c_type(field.type_id),
                bits: width,
            });
        }
        Ok(Bits {
            bytes: number.to_le_bytes().to_vec(),
            count: u64::from(width),
        })
    }

    /// Text for an array of characters: it must fit with its NUL.
    fn encode_text(
        &self,
        path: &str,
        field: Field,
        (element, len): (TypeId, u32),
        text: &str,
    ) -> Result<Bits, GlobalError> {
        if self.btf.size_of(element) != Ok(1) {
            return Err(self.wrong_kind(path, field, format!("{text:?}")));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if text.len() >= len {
            return Err(GlobalError::Range {
                path: path.to_owned(),
                value: format!("{text:?}"),
                c_type: self.btf.c_type(field.type_id),
                bits: u32::try_from(len).unwrap_or(u32::MAX).saturating_mul(8),
            });
        }
        // Only what is needed is written, but all of a shorter earlier text must go.
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(len.min(text.len().saturating_add(4096)), 0);
        let count = u64::try_from(bytes.len()).unwrap_or(0).saturating_mul(8);
        Ok(Bits { bytes, count })
    }
}

/// Whether a program is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Autoload {
    /// It is.
    Yes,
    /// It is not.
    No,
}

struct Bits {
    /// Little endian; bits past `count` are ignored.
    bytes: Vec<u8>,
    count: u64,
}

fn layout(path: &str, cause: LayoutError) -> GlobalError {
    GlobalError::Path {
        path: path.to_owned(),
        cause: PathError::Layout(cause),
    }
}

/// Writes bits without touching their neighbours.
fn put_bits(contents: &mut Contents, bit_offset: u64, bits: &Bits) -> Option<()> {
    if bit_offset.is_multiple_of(8) && bits.count.is_multiple_of(8) {
        let count = usize::try_from(bits.count / 8).ok()?;
        return contents.put(bit_offset / 8, bits.bytes.get(..count)?);
    }
    // A bitfield: at most 64 bits from any bit on, hence at most 9 bytes.
    let start = bit_offset / 8;
    let end = bit_offset.checked_add(bits.count)?.div_ceil(8);
    let shift = u32::try_from(bit_offset % 8).ok()?;
    let width = u32::try_from(bits.count)
        .ok()
        .filter(|width| *width <= 64)?;
    let mut old = [0; 16];
    let len = end.checked_sub(start)?;
    let bytes = contents.get(start, len)?;
    old.get_mut(..bytes.len())?.copy_from_slice(&bytes);
    let mask = 1u128.wrapping_shl(width).wrapping_sub(1);
    let new = u128::from_le_bytes(*bits.bytes.first_chunk()?) & mask;
    let kept = u128::from_le_bytes(old) & !mask.wrapping_shl(shift);
    let merged = (kept | new.wrapping_shl(shift)).to_le_bytes();
    contents.put(start, merged.get(..bytes.len())?)
}
