//! The kernel's BTF, built from the type tables, and what an object is linked against.
//!
//! Structs are declared first and defined afterwards, since they point to each other; a
//! struct that is only pointed to stays a declaration.

use std::collections::BTreeMap;

use harena_abi::scx;
use harena_bpf::btf::{Btf, BtfBuilder, EnumWidth, IntEncoding, Linkage, MemberDef, TypeId};
use harena_bpf::{KconfigValue, KernelSymbols, KfuncRef, KsymVar};

use crate::kfuncs;
use crate::places;
use crate::tracing::{FUNCTIONS, TRACEPOINTS, address_of};
use crate::types::ctype::{IntDesc, IntKind, StructDesc, TypeDesc};
use crate::types::mask::NR_CPUS;
use crate::types::proto::{Proto, declaration, integer};
use crate::types::structs;

/// `LINUX_KERNEL_VERSION` of the simulated kernel: 7.3.0.
pub const KERNEL_VERSION: u64 = 7 << 16 | 3 << 8;

/// C's usual names of integer types and of structs, for programs and the header.
const TYPEDEFS: &[(&str, &str)] = &[
    ("__u8", "u8"),
    ("__u16", "u16"),
    ("__u32", "u32"),
    ("__u64", "u64"),
    ("__s8", "s8"),
    ("__s16", "s16"),
    ("__s32", "s32"),
    ("__s64", "s64"),
    ("u8", "u8"),
    ("u16", "u16"),
    ("u32", "u32"),
    ("u64", "u64"),
    ("s8", "s8"),
    ("s16", "s16"),
    ("s32", "s32"),
    ("s64", "s64"),
    ("bool", "bool"),
    ("size_t", "u64"),
    ("pid_t", "s32"),
    ("cpumask_t", "struct cpumask"),
];

/// The simulated kernel as the linker sees it.
#[derive(Clone, Debug)]
pub struct Kernel {
    btf: Btf,
    kfuncs: BTreeMap<&'static str, KfuncRef>,
    rq: TypeId,
    hz: u32,
}

impl Kernel {
    /// A kernel with `hz` ticks per second.
    #[must_use]
    pub fn new(hz: u32) -> Self {
        let mut emit = Emit::default();
        for desc in structs() {
            emit.declare(desc.name);
        }
        emit.enums();
        for desc in structs() {
            emit.define(desc);
        }
        for (name, target) in TYPEDEFS {
            let target = emit.ty(&declaration(target).1);
            emit.b.typedef(name, target);
        }
        let kfuncs = kfuncs::linkable()
            .map(|(name, id, proto)| (name, emit.kfunc(name, id, &proto)))
            .collect();
        for point in TRACEPOINTS {
            emit.tracepoint(point.name, Proto::parse(point.proto).1);
        }
        for function in FUNCTIONS {
            let proto = emit.proto(&Proto::parse(function.proto).1);
            emit.b.func(function.name, proto, Linkage::Static);
        }
        let rq = emit.declare("rq");
        Self {
            btf: emit.b.finish(),
            kfuncs,
            rq,
            hz,
        }
    }
}

impl KernelSymbols for Kernel {
    fn btf(&self) -> &Btf {
        &self.btf
    }

    fn kfunc(&self, name: &str) -> Option<KfuncRef> {
        self.kfuncs.get(name).copied()
    }

    fn ksym(&self, name: &str) -> Option<KsymVar> {
        if name == "runqueues" {
            return Some(KsymVar {
                addr: places::RUNQUEUES.raw(),
                type_id: Some(self.rq),
            });
        }
        address_of(name).map(|addr| KsymVar {
            addr,
            type_id: None,
        })
    }

    fn kconfig(&self, name: &str) -> Option<KconfigValue> {
        Some(match name {
            "LINUX_KERNEL_VERSION" => KconfigValue::Number(KERNEL_VERSION),
            "CONFIG_HZ" => KconfigValue::Number(self.hz.into()),
            "CONFIG_NR_CPUS" => KconfigValue::Number(NR_CPUS.into()),
            "CONFIG_X86_64" | "CONFIG_NO_HZ_IDLE" | "CONFIG_SCHED_CLASS_EXT" => KconfigValue::Yes,
            "CONFIG_PREEMPT_RCU" | "CONFIG_PREEMPT_RT" => KconfigValue::No,
            "CONFIG_CC_VERSION_TEXT" => KconfigValue::Text("clang".to_owned()),
            "CONFIG_LOCALVERSION" => KconfigValue::Text("-harena".to_owned()),
            _ => return None,
        })
    }
}

/// A table in the making: each type is added once.
#[derive(Default)]
struct Emit {
    b: BtfBuilder,
    structs: BTreeMap<String, TypeId>,
    enums: BTreeMap<&'static str, TypeId>,
    ints: BTreeMap<&'static str, TypeId>,
    ptrs: BTreeMap<TypeId, TypeId>,
    consts: BTreeMap<TypeId, TypeId>,
    arrays: BTreeMap<(TypeId, u32), TypeId>,
}

impl Emit {
    fn declare(&mut self, name: &str) -> TypeId {
        if let Some(id) = self.structs.get(name) {
            return *id;
        }
        let id = self.b.declare(name);
        self.structs.insert(name.to_owned(), id);
        id
    }

    fn enums(&mut self) {
        for table in scx::ENUMS {
            let width = match table.size {
                4 => EnumWidth::U32,
                _ => EnumWidth::U64,
            };
            let id = self.b.enumeration(table.name, width, table.members);
            self.enums.insert(table.name, id);
        }
    }

    fn define(&mut self, desc: &StructDesc) {
        let fields = (desc.fields)();
        let members: Vec<_> = fields
            .iter()
            .map(|f| MemberDef::at(f.name, self.ty(&f.ty), f.offset))
            .collect();
        let id = self.declare(desc.name);
        self.b.define(id, desc.size, &members);
    }

    fn ty(&mut self, ty: &TypeDesc) -> TypeId {
        match ty {
            TypeDesc::Void => TypeId::VOID,
            TypeDesc::Int(int) => self.int(int),
            TypeDesc::Ptr(target) => {
                let target = self.ty(target);
                *self
                    .ptrs
                    .entry(target)
                    .or_insert_with(|| self.b.ptr(target))
            }
            TypeDesc::Const(target) => {
                let target = self.ty(target);
                let b = &mut self.b;
                *self
                    .consts
                    .entry(target)
                    .or_insert_with(|| b.constant(target))
            }
            TypeDesc::Array(element, len) => {
                let index = self.int(&integer("u32"));
                let element = self.ty(element);
                let b = &mut self.b;
                let array = || b.array(element, index, *len);
                *self.arrays.entry((element, *len)).or_insert_with(array)
            }
            TypeDesc::Struct(name) => self.declare(name),
            TypeDesc::Enum(name) => *self
                .enums
                .get(name.as_str())
                .unwrap_or_else(|| panic!("enum {name} is in no table")),
            TypeDesc::Fn(proto) => self.proto(proto),
        }
    }

    fn int(&mut self, int: &IntDesc) -> TypeId {
        let encoding = match int.kind {
            IntKind::Unsigned => IntEncoding::Unsigned,
            IntKind::Signed => IntEncoding::Signed,
            IntKind::Bool => IntEncoding::Bool,
        };
        let size = u8::try_from(int.size).expect("integers have at most 8 bytes");
        let b = &mut self.b;
        *self
            .ints
            .entry(int.name)
            .or_insert_with(|| b.int(int.name, size, encoding))
    }

    fn proto(&mut self, proto: &Proto) -> TypeId {
        let ret = self.ty(&proto.ret);
        let args: Vec<_> = proto
            .args
            .iter()
            .map(|(name, ty)| (name.as_str(), self.ty(ty)))
            .collect();
        self.b.func_proto(ret, &args)
    }

    /// `btf_trace_NAME`: what is behind a tracepoint takes one argument more.
    fn tracepoint(&mut self, name: &str, mut proto: Proto) {
        let data = ("__data".to_owned(), TypeDesc::Ptr(Box::new(TypeDesc::Void)));
        proto.args.insert(0, data);
        let pointer = self.ty(&TypeDesc::Ptr(Box::new(TypeDesc::Fn(proto))));
        self.b.typedef(&format!("btf_trace_{name}"), pointer);
    }

    fn kfunc(&mut self, name: &str, id: u32, proto: &Proto) -> KfuncRef {
        let proto = self.proto(proto);
        self.b.func(name, proto, Linkage::Static);
        KfuncRef { id, proto }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harena_bpf::btf::Kind;

    #[test]
    fn types_point_to_each_other() {
        let kernel = Kernel::new(1000);
        let task = kernel.btf().find("task_struct", Kind::Struct).unwrap();
        let task = kernel.btf().get(task).composite().unwrap();
        let names: Vec<_> = task
            .members
            .iter()
            .map(|m| kernel.btf().str(m.name))
            .collect();
        assert!(names.contains(&"scx"));
        assert!(kernel.btf().enumerator("SCX_DSQ_LOCAL").is_some());
    }

    #[test]
    fn kfuncs_are_found_by_name() {
        let kernel = Kernel::new(1000);
        assert!(kernel.kfunc("scx_bpf_dsq_insert___v2").is_some());
        assert!(kernel.kfunc("scx_bpf_dispatch").is_none());
    }
}
