//! The structs that programs have objects of, as their own BTF describes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use harena_bpf::btf::{Btf, TypeId};
use harena_bpf::{FieldSearch, Record, RecordError};

/// Number of a loaded object file's BTF in its VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct BtfId(u32);

/// A type of an object file's BTF.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LocalType {
    pub(crate) btf: BtfId,
    pub(crate) id: TypeId,
}

#[derive(Debug)]
struct Table {
    btf: Arc<Btf>,
    search: FieldSearch,
}

/// The types of all loaded object files, and what was asked about them.
#[derive(Debug, Default)]
pub(crate) struct Types {
    tables: Vec<Table>,
    records: BTreeMap<LocalType, Arc<Record>>,
}

impl Types {
    /// Makes the types of an object file known.
    pub(crate) fn add(&mut self, btf: &Arc<Btf>) -> BtfId {
        let id = u32::try_from(self.tables.len()).expect("bounded by guest memory");
        self.tables.push(Table {
            btf: Arc::clone(btf),
            search: FieldSearch::new(btf),
        });
        BtfId(id)
    }

    pub(crate) fn btf(&self, id: BtfId) -> &Btf {
        &self.tables[id.0 as usize].btf
    }

    /// A type's own name.
    pub(crate) fn name(&self, ty: LocalType) -> &str {
        self.btf(ty.btf).name_of(ty.id)
    }

    /// What objects of a struct are like.
    pub(crate) fn record(&mut self, ty: LocalType) -> Result<Arc<Record>, RecordError> {
        if let Some(record) = self.records.get(&ty) {
            return Ok(Arc::clone(record));
        }
        let Table { btf, search } = &mut self.tables[ty.btf.0 as usize];
        let record = Arc::new(search.record(btf, ty.id)?);
        self.records.insert(ty, Arc::clone(&record));
        Ok(record)
    }
}
