//! What an object wants from the kernel: `.kconfig` values, kfuncs, kernel variables.

use super::data::BPF_F_RDONLY_PROG;
use super::{Input, ParsedMap, blank_map, next_index};
use crate::btf::{Btf, IntEncoding, Kind, Linkage, Type, TypeId};
use crate::elf::{Binding, Place};
use crate::error::ParseError;
use crate::map::{Contents, MapIndex, MapOrigin, MapType};
use harena_abi::bpf::BPF_F_MMAPABLE;
use std::collections::BTreeMap;

/// How a configuration value is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KconfigKind {
    /// `bool`
    Bool,
    /// `enum libbpf_tristate`
    Tristate,
    /// `char`: `'y'`, `'m'`, `'n'`, or a small number.
    Char,
    /// An integer.
    Int {
        /// Whether it is signed.
        signed: bool,
    },
    /// An array of `char`.
    Text,
}

/// What an extern is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExternKind {
    /// A configuration value, put at `offset` of the `.kconfig` map.
    Kconfig {
        /// How it is stored.
        kind: KconfigKind,
        /// Bytes.
        size: u64,
        /// Place in the map.
        offset: u64,
    },
    /// A kfunc with this `FuncProto` in the object's BTF.
    Kfunc {
        /// Its type in the object's BTF.
        proto: TypeId,
    },
    /// A kernel variable; `None` if declared `const void` (just an address).
    Ksym {
        /// Its type in the object's BTF.
        type_id: Option<TypeId>,
    },
}

/// Something the kernel has to provide.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extern {
    /// Its name, flavour included.
    pub name: String,
    /// Whether the object copes without it.
    pub weak: bool,
    /// What it is.
    pub kind: ExternKind,
    pub(crate) type_id: Option<TypeId>,
}

/// All externs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Externs {
    pub(crate) list: Vec<Extern>,
    pub(crate) by_name: BTreeMap<String, usize>,
    pub(crate) kconfig_map: Option<MapIndex>,
}

/// Collects the externs and adds the `.kconfig` map if there are such.
pub(super) fn parse(input: &Input<'_>, maps: &mut Vec<ParsedMap>) -> Result<Externs, ParseError> {
    let declared = declarations(input.btf);
    let mut externs = Externs::default();
    let mut kconfig_end = 0u64;
    for symbol in &input.elf.symbols {
        let is_weak = match symbol.binding {
            Binding::Local => continue,
            Binding::Global => false,
            Binding::Weak => true,
        };
        if symbol.place != Place::Undefined || symbol.name.is_empty() {
            continue;
        }
        // Without a declaration nothing is known; code that uses it is refused.
        let Some((section, id)) = declared.get(symbol.name) else {
            continue;
        };
        let mut one = classify(input.btf, symbol.name, section, *id, is_weak)?;
        if let ExternKind::Kconfig { size, offset, .. } = &mut one.kind {
            let align = size.checked_next_power_of_two().unwrap_or(8).clamp(1, 8);
            *offset = kconfig_end
                .checked_next_multiple_of(align)
                .unwrap_or(kconfig_end);
            kconfig_end = offset.saturating_add(*size);
        }
        let index = externs.list.len();
        externs.by_name.insert(one.name.clone(), index);
        externs.list.push(one);
    }
    if kconfig_end > 0 {
        externs.kconfig_map = Some(next_index(maps));
        maps.push(ParsedMap::internal(kconfig_map(input.btf, kconfig_end)?));
    }
    Ok(externs)
}

fn kconfig_map(btf: &Btf, len: u64) -> Result<crate::linked::LinkedMap, ParseError> {
    let mut map = blank_map(".kconfig", MapOrigin::Kconfig);
    map.map_type = MapType::ARRAY;
    map.key_size = 4;
    map.value_size = u32::try_from(len).map_err(|_too_large| ParseError::SectionTooLarge {
        section: ".kconfig".to_owned(),
        size: len,
        max: u64::from(u32::MAX),
    })?;
    map.max_entries = 1;
    map.map_flags = BPF_F_MMAPABLE | BPF_F_RDONLY_PROG;
    map.value_type = btf.find(".kconfig", Kind::DataSec);
    map.contents = Contents::zeroed(len);
    map.frozen = true;
    Ok(map)
}

/// Section and type of everything declared `extern`, by name.
fn declarations(btf: &Btf) -> BTreeMap<&str, (&'static str, TypeId)> {
    let mut declared = BTreeMap::new();
    for section in [".kconfig", ".ksyms"] {
        let vars = btf.find(section, Kind::DataSec).map(|id| btf.get(id));
        let Some(Type::DataSec { vars, .. }) = vars else {
            continue;
        };
        for var in vars {
            let linkage = match btf.get(var.type_id) {
                Type::Var { linkage, .. } | Type::Func { linkage, .. } => *linkage,
                _ => continue,
            };
            if linkage == Linkage::Extern {
                declared.insert(btf.name_of(var.type_id), (section, var.type_id));
            }
        }
    }
    declared
}

fn classify(
    btf: &Btf,
    name: &str,
    section: &str,
    id: TypeId,
    weak: bool,
) -> Result<Extern, ParseError> {
    let bad = |cause: String| ParseError::Extern {
        name: name.to_owned(),
        cause,
    };
    let broken = |cause: crate::btf::LayoutError| bad(cause.to_string());
    let (kind, type_id) = match (btf.get(id), section) {
        (Type::Func { .. }, ".kconfig") => {
            return Err(bad("a function cannot stand in `.kconfig`".to_owned()));
        }
        (Type::Func { proto, .. }, _) => (ExternKind::Kfunc { proto: *proto }, None),
        (Type::Var { type_id, .. }, ".kconfig") => {
            let kind = kconfig_kind(btf, *type_id).ok_or_else(|| {
                let c_type = btf.c_type(*type_id);
                bad(format!("`{c_type}` is no type of a configuration value"))
            })?;
            let is_virtual = name.starts_with("LINUX_");
            if !name.starts_with("CONFIG_") && !is_virtual {
                return Err(bad("neither CONFIG_* nor LINUX_*".to_owned()));
            }
            let size = btf.size_of(*type_id).map_err(broken)?;
            let kconfig = ExternKind::Kconfig {
                kind,
                size,
                offset: 0,
            };
            (kconfig, Some(*type_id))
        }
        (Type::Var { type_id, .. }, _) => {
            let resolved = btf.resolve(*type_id).map_err(broken)?;
            let type_id = (btf.get(resolved).kind() != Kind::Void).then_some(*type_id);
            (ExternKind::Ksym { type_id }, type_id)
        }
        _ => return Err(bad("neither a function nor a variable".to_owned())),
    };
    Ok(Extern {
        name: name.to_owned(),
        weak,
        kind,
        type_id,
    })
}

fn kconfig_kind(btf: &Btf, id: TypeId) -> Option<KconfigKind> {
    match btf.get(btf.resolve(id).ok()?) {
        Type::Int { encoding, size, .. } => Some(match encoding {
            IntEncoding::Bool => (*size == 1).then_some(KconfigKind::Bool)?,
            IntEncoding::Char => KconfigKind::Char,
            IntEncoding::Signed if *size == 1 => KconfigKind::Char,
            IntEncoding::Unsigned if *size == 1 => KconfigKind::Char,
            IntEncoding::Signed if *size <= 8 => KconfigKind::Int { signed: true },
            IntEncoding::Unsigned if *size <= 8 => KconfigKind::Int { signed: false },
            IntEncoding::Signed | IntEncoding::Unsigned => return None,
        }),
        Type::Enum(e) if e.size == 4 && btf.str(e.name) == "libbpf_tristate" => {
            Some(KconfigKind::Tristate)
        }
        Type::Array { element, len, .. } if *len > 0 => {
            let element = btf.resolve(*element).ok()?;
            match btf.get(element) {
                Type::Int {
                    size: 1,
                    encoding: IntEncoding::Char | IntEncoding::Signed,
                    ..
                } => Some(KconfigKind::Text),
                _ => None,
            }
        }
        _ => None,
    }
}
