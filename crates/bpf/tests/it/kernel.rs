//! A made-up kernel that has some of what the fixtures want.

use harena_bpf::btf::{Btf, BtfBuilder, EnumWidth, IntEncoding, Linkage, MemberDef, TypeId};
use harena_bpf::{KconfigValue, KernelSymbols, KfuncRef, KsymVar};
use std::collections::BTreeMap;

pub(crate) struct TestKernel {
    pub(crate) btf: Btf,
    pub(crate) kfuncs: BTreeMap<&'static str, KfuncRef>,
    pub(crate) ksyms: BTreeMap<&'static str, KsymVar>,
    pub(crate) kconfig: BTreeMap<&'static str, KconfigValue>,
}

impl KernelSymbols for TestKernel {
    fn btf(&self) -> &Btf {
        &self.btf
    }

    fn kfunc(&self, name: &str) -> Option<KfuncRef> {
        self.kfuncs.get(name).copied()
    }

    fn ksym(&self, name: &str) -> Option<KsymVar> {
        self.ksyms.get(name).copied()
    }

    fn kconfig(&self, name: &str) -> Option<KconfigValue> {
        self.kconfig.get(name).cloned()
    }
}

fn ops(b: &mut BtfBuilder, task: TypeId, s32: TypeId, u64_: TypeId, u32_: TypeId) {
    let task_ptr = b.ptr(task);
    let select = b.func_proto(s32, &[("p", task_ptr), ("prev", s32), ("flags", u64_)]);
    let select = b.ptr(select);
    let enqueue = b.func_proto(TypeId::VOID, &[("p", task_ptr), ("enq_flags", u64_)]);
    let enqueue = b.ptr(enqueue);
    let init = b.func_proto(s32, &[]);
    let init = b.ptr(init);
    let char_ = b.int("char", 1, IntEncoding::Signed);
    let name = b.array(char_, u32_, 128);
    // Another order than in the object, and something it does not know.
    b.structure(
        "sched_ext_ops",
        176,
        &[
            MemberDef::at("enqueue", enqueue, 0),
            MemberDef::at("select_cpu", select, 8),
            MemberDef::at("new_callback", init, 16),
            MemberDef::at("init", init, 24),
            MemberDef::at("timeout_ms", u32_, 32),
            MemberDef::at("flags", u64_, 40),
            MemberDef::at("name", name, 48),
        ],
    );
}

/// The kernel of the `objects` and `sched` fixtures.
pub(crate) fn kernel() -> TestKernel {
    let mut b = BtfBuilder::new();
    let s32 = b.int("int", 4, IntEncoding::Signed);
    let u32_ = b.int("unsigned int", 4, IntEncoding::Unsigned);
    let u64_ = b.int("unsigned long long", 8, IntEncoding::Unsigned);
    let task = b.declare("task_struct");
    b.define(task, 64, &[MemberDef::at("pid", s32, 8)]);
    let task_ptr = b.ptr(task);
    ops(&mut b, task, s32, u64_, u32_);
    let mut kfuncs = BTreeMap::new();
    let mut id = 100;
    let mut add = |b: &mut BtfBuilder, name, ret, params: &[(&str, TypeId)]| {
        let proto = b.func_proto(ret, params);
        b.func(name, proto, Linkage::Global);
        kfuncs.insert(name, KfuncRef { id, proto });
        id += 1;
    };
    let node = ("node", s32);
    add(
        &mut b,
        "strong_kfunc",
        u64_,
        &[("p", task_ptr), ("flags", u32_)],
    );
    add(&mut b, "versioned", u64_, &[("a", u64_), ("b", u64_)]);
    add(&mut b, "scx_bpf_create_dsq", s32, &[("dsq_id", u64_), node]);
    let insert = [
        ("p", task_ptr),
        ("dsq", u64_),
        ("slice", u64_),
        ("flags", u64_),
    ];
    add(&mut b, "scx_bpf_dsq_insert", TypeId::VOID, &insert);
    let runqueues = KsymVar {
        addr: 0xffff_ffff_8000_1230,
        type_id: Some(s32),
    };
    TestKernel {
        btf: b.finish(),
        kfuncs,
        ksyms: BTreeMap::from([("runqueues", runqueues)]),
        kconfig: BTreeMap::from([
            ("LINUX_KERNEL_VERSION", KconfigValue::Number(0x0007_0300)),
            ("CONFIG_SMP", KconfigValue::Yes),
            ("CONFIG_EXT4_FS", KconfigValue::Module),
            (
                "CONFIG_LOCALVERSION",
                KconfigValue::Text("-harena".to_owned()),
            ),
        ]),
    }
}

/// The kernel of the `core` fixture: the same types with other layouts.
pub(crate) fn core_kernel() -> TestKernel {
    let mut b = BtfBuilder::new();
    let s32 = b.int("int", 4, IntEncoding::Signed);
    let s64 = b.int("long long", 8, IntEncoding::Signed);
    let u16_ = b.int("unsigned short", 2, IntEncoding::Unsigned);
    let u32_ = b.int("unsigned int", 4, IntEncoding::Unsigned);
    let u64_ = b.int("unsigned long long", 8, IntEncoding::Unsigned);
    let inner = b.structure(
        "inner",
        24,
        &[
            MemberDef::at("second", u64_, 16),
            MemberDef::at("first", u32_, 0),
        ],
    );
    let array = b.array(u16_, u32_, 8);
    let anonymous = b.structure("", 16, &[MemberDef::at("anonymous", u64_, 8)]);
    let nested = b.union("", 16, &[MemberDef::at("", anonymous, 0)]);
    let bits = |name, type_id, bit_offset, bit_size| MemberDef {
        name,
        type_id,
        bit_offset,
        bit_size: Some(bit_size),
    };
    let thing = b.declare("thing");
    let thing_ptr = b.ptr(thing);
    b.define(
        thing,
        200,
        &[
            MemberDef::at("number", u32_, 4),
            MemberDef::at("sign", s32, 16),
            bits("bits_signed", s32, 103, 7),
            bits("bits_low", u32_, 110, 5),
            bits("bits_high", u32_, 92, 9),
            MemberDef::at("in", inner, 24),
            MemberDef::at("array", array, 48),
            MemberDef::at("", nested, 64),
            MemberDef::at("next", thing_ptr, 96),
            MemberDef::at("grows", u64_, 104),
            MemberDef::at("shrinks", u16_, 112),
            MemberDef::at("grows_signed", s64, 120),
        ],
    );
    b.structure(
        "loose",
        8,
        &[MemberDef::at("b", u64_, 0), MemberDef::at("a", u32_, 4)],
    );
    b.enumeration("color", EnumWidth::U32, &[("GREEN", 22), ("RED", 11)]);
    b.enumeration("big", EnumWidth::U64, &[("BIG", 0x1_2345_6789)]);
    TestKernel {
        btf: b.finish(),
        kfuncs: BTreeMap::new(),
        ksyms: BTreeMap::new(),
        kconfig: BTreeMap::new(),
    }
}
