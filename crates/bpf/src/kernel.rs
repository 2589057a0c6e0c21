//! What a kernel offers to an object that is linked against it.

use crate::btf::{Btf, TypeId};

/// A kernel's types and symbols.
pub trait KernelSymbols {
    /// The kernel's types.
    fn btf(&self) -> &Btf;

    /// The kfunc of this name (without flavour suffix).
    fn kfunc(&self, name: &str) -> Option<KfuncRef>;

    /// The kernel variable of this name.
    fn ksym(&self, name: &str) -> Option<KsymVar>;

    /// The value of `CONFIG_*` or of a virtual `LINUX_*` constant.
    fn kconfig(&self, name: &str) -> Option<KconfigValue>;
}

/// A kfunc in the kernel's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KfuncRef {
    /// Its number; a call of it carries this in `imm`.
    pub id: u32,
    /// Its `FuncProto` (or `Func`) in the kernel's BTF.
    pub proto: TypeId,
}

/// A kernel variable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KsymVar {
    /// Its guest address; never 0.
    pub addr: u64,
    /// Its type in the kernel's BTF, if that is known.
    pub type_id: Option<TypeId>,
}

/// A line of a kernel's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KconfigValue {
    /// `y`
    Yes,
    /// `m`
    Module,
    /// `n`, or not set.
    No,
    /// A number.
    Number(u64),
    /// A string.
    Text(String),
}

/// Address that a program sees for a kfunc that exists: this plus the kfunc's id.
///
/// Programs only compare it with 0 (`bpf_ksym_exists`); it is mapped nowhere.
pub const KFUNC_ADDRESS_BASE: u64 = 0xffff_ffff_f000_0000;
