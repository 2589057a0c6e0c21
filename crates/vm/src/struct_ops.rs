//! struct_ops variables of loaded objects, for the host that registers them.

use harena_bpf::StructOps;

use crate::program::ProgId;
use crate::vm::Vm;

/// Number of a struct_ops variable in its VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StructOpsId(pub(crate) u32);

impl StructOpsId {
    /// The number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// One struct_ops variable.
#[derive(Clone, Debug)]
pub struct StructOpsMap {
    /// What the linker said.
    pub linked: StructOps,
    /// Its programs, in member order; parallel to `linked.members`.
    pub programs: Vec<Option<ProgId>>,
}

impl StructOpsMap {
    /// The program of a member.
    #[must_use]
    pub fn program(&self, member: &str) -> Option<ProgId> {
        let mut pairs = self.linked.members.iter().zip(&self.programs);
        pairs.find_map(|(m, prog)| prog.filter(|_| m.name == member))
    }
}

impl Vm {
    /// A struct_ops variable; numbers come from [`Vm::load`].
    #[must_use]
    pub fn struct_ops(&self, id: StructOpsId) -> &StructOpsMap {
        &self.struct_ops[id.0 as usize]
    }

    /// Calls `f` with every member program that is set, in member order, until one call gives
    /// something (`struct_ops_for_each_prog()`).
    pub fn struct_ops_for_each_prog<R>(
        &self,
        id: StructOpsId,
        mut f: impl FnMut(&str, ProgId) -> Option<R>,
    ) -> Option<R> {
        let ops = self.struct_ops(id);
        let pairs = ops.linked.members.iter().zip(&ops.programs);
        for (member, prog) in pairs {
            if let Some(result) = prog.and_then(|prog| f(&member.name, prog)) {
                return Some(result);
            }
        }
        None
    }
}
