//! A file to link, taken apart.

use super::{ObjectFile, StaticLinkError};
use crate::btf::ext::BtfExt;
use crate::btf::{Btf, Linkage, Type, TypeId};
use crate::elf::Elf;
use std::collections::BTreeMap;

/// Section, in BTF only, of variables declared `extern` that the linker has to find.
pub(super) const EXTERN_SECTION: &str = ".extern";

/// What a file's types say of a global symbol.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    /// Its `Var` or `Func`.
    pub(super) id: TypeId,
    /// The `DataSec` that lists it, unless that is `.extern`.
    pub(super) section: Option<String>,
}

/// A file to link.
#[derive(Debug)]
pub(super) struct Input<'a> {
    pub(super) name: &'a str,
    pub(super) elf: Elf<'a>,
    pub(super) btf: Btf,
    pub(super) ext: BtfExt,
    /// Variables and functions that are not static, by name.
    pub(super) declared: BTreeMap<String, Declared>,
}

impl<'a> Input<'a> {
    pub(super) fn parse(file: &ObjectFile<'a>) -> Result<Self, StaticLinkError> {
        let fail = |cause| StaticLinkError::Parse {
            file: file.name.to_owned(),
            cause: Box::new(cause),
        };
        let elf = Elf::parse(file.bytes).map_err(fail)?;
        let (btf, ext) = crate::object::parse_btf(&elf).map_err(fail)?;
        Ok(Self {
            name: file.name,
            elf,
            declared: declared(&btf),
            btf,
            ext,
        })
    }
}

/// Whether a `Var` or `Func` is one that other files may mean.
pub(super) const fn is_visible(ty: &Type) -> bool {
    match ty {
        Type::Var { linkage, .. } | Type::Func { linkage, .. } => {
            matches!(linkage, Linkage::Global | Linkage::Extern)
        }
        _ => false,
    }
}

fn declared(btf: &Btf) -> BTreeMap<String, Declared> {
    let mut all = BTreeMap::new();
    for id in btf.ids().filter(|id| is_visible(btf.get(*id))) {
        let name = btf.name_of(id).to_owned();
        let section = None;
        all.entry(name).or_insert(Declared { id, section });
    }
    for id in btf.ids() {
        let Type::DataSec { name, vars, .. } = btf.get(id) else {
            continue;
        };
        let section = btf.str(*name);
        for var in vars.iter().filter(|var| is_visible(btf.get(var.type_id))) {
            let section = (section != EXTERN_SECTION).then(|| section.to_owned());
            if let Some(one) = all.get_mut(btf.name_of(var.type_id)) {
                one.id = var.type_id;
                one.section = section;
            }
        }
    }
    all
}
