//! BPF helpers: the table by number, and what they share.
//!
//! A helper that a program calls with memory it does not have ends the run: a verifier
//! would have refused the call. What the kernel answers with an error number is answered
//! so. Helpers that need a kernel (cgroups, perf events) are the host's.

mod callback;
mod current;
pub(crate) mod dynptr;
mod maps;
mod memory;
mod number;
mod print;
mod timer;

use harena_abi::{Errno, KernAddr};

use crate::error::{Abort, AbortCause, MemFault, OutOfGuestMemory};
use crate::held::{self, Effect, Object, Rules, Watched};
use crate::host::{Call, Host, Sleepable};
use crate::kfuncs::user;
use crate::maps::{MapId, MapKind};
use crate::program::Program;
use crate::vm::Vm;

pub(crate) use callback::{call_back, callback_slot, run_timer};
pub(crate) use memory::check_lock;
pub(crate) use print::stream_vprintk;

/// How a helper or kfunc fails.
#[derive(Debug)]
pub(crate) enum Fail {
    /// The kernel's error, for the program.
    Errno(Errno),
    /// The run ends.
    Abort(Abort),
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Abort> for Fail {
    fn from(abort: Abort) -> Self {
        Self::Abort(abort)
    }
}

impl From<OutOfGuestMemory> for Fail {
    fn from(_full: OutOfGuestMemory) -> Self {
        Self::Errno(Errno::ENOMEM)
    }
}

/// r0 of a helper or kfunc.
pub(crate) type Answer = Result<u64, Fail>;

/// A helper or kfunc call in progress, with the host at hand.
pub(crate) struct Ctx<'a> {
    pub(crate) vm: &'a mut Vm,
    pub(crate) host: &'a mut dyn Host,
    pub(crate) program: &'a Program,
    pub(crate) name: &'static str,
}

impl Ctx<'_> {
    /// Ends the run because of an argument.
    pub(crate) fn bad(&self, what: impl Into<String>) -> Fail {
        Fail::Abort(self.vm.abort_here(AbortCause::BadArgument {
            function: self.name.to_owned(),
            what: what.into(),
        }))
    }

    /// Ends the run because an argument points to no guest memory.
    pub(crate) fn fault(&self, fault: MemFault) -> Fail {
        self.bad(fault.to_string())
    }

    /// Refuses more bytes than an argument may point to, and counts the work of going over
    /// them.
    pub(crate) fn charge_argument(&mut self, len: u64) -> Result<(), Fail> {
        /// `BPF_MAX_VAR_SIZ`.
        const ARGUMENT_MAX: u64 = 1 << 29;
        if len > ARGUMENT_MAX {
            return Err(self.bad(format!("{len} bytes are too many")));
        }
        Ok(self.vm.charge_bytes(len)?)
    }

    /// Copies `len` bytes that an argument points to.
    pub(crate) fn bytes(&mut self, addr: u64, len: u64) -> Result<Vec<u8>, Fail> {
        self.charge_argument(len)?;
        let mut bytes = vec![0; usize::try_from(len).expect("bounded above")];
        self.vm
            .mem
            .read_bytes(KernAddr::new(addr), &mut bytes)
            .map_err(|fault| self.fault(fault))?;
        Ok(bytes)
    }

    /// Writes where an argument points, with the program's rights.
    pub(crate) fn put(&self, addr: u64, bytes: &[u8]) -> Result<(), Fail> {
        self.vm
            .mem
            .write_as_program(KernAddr::new(addr), bytes)
            .map_err(|fault| self.fault(fault))
    }

    /// Refuses to walk over the elements of a map that has no order for programs.
    pub(crate) fn check_walk(&self, id: MapId) -> Result<(), Fail> {
        let map = self.vm.map(id);
        match map.kind() {
            MapKind::Array
            | MapKind::PercpuArray
            | MapKind::Hash
            | MapKind::PercpuHash
            | MapKind::LruHash => Ok(()),
            MapKind::LpmTrie
            | MapKind::BloomFilter
            | MapKind::ArrayOfMaps
            | MapKind::HashOfMaps
            | MapKind::ProgArray
            | MapKind::PerfEventArray
            | MapKind::UserRingBuf
            | MapKind::Queue
            | MapKind::Stack
            | MapKind::RingBuf
            | MapKind::TaskStorage
            | MapKind::CgrpStorage
            | MapKind::Arena => Err(self.unfit(id)),
        }
    }

    /// Ends the run because the helper is not for maps of this type.
    pub(crate) fn unfit(&self, id: MapId) -> Fail {
        let map = self.vm.map(id);
        let map_type = map.spec().map_type;
        self.bad(format!("map `{}` is of type {map_type}", map.name()))
    }

    /// The map whose kernel object an argument points to.
    pub(crate) fn map_id(&self, addr: u64) -> Result<MapId, Fail> {
        MapId::from_object(KernAddr::new(addr))
            .filter(|id| id.index() < self.vm.maps.len())
            .ok_or_else(|| self.bad(format!("{addr:#x} is no map")))
    }
}

type HelperFn = fn(&mut Ctx<'_>, [u64; 5]) -> Answer;

/// One helper.
#[derive(Clone, Copy)]
struct Helper {
    name: &'static str,
    call: HelperFn,
    rules: Rules,
}

/// Numbers up to which there are helpers.
const HELPER_COUNT: usize = 256;

/// The rules in a row of a table, or none.
macro_rules! rules {
    () => {
        Rules::PLAIN
    };
    ($rules:expr) => {
        $rules
    };
}
pub(crate) use rules;

macro_rules! helpers {
    ($($id:literal $name:ident $call:expr $(, $rules:expr)?;)*) => {
        /// Helpers by their number.
        static HELPERS: [Option<Helper>; HELPER_COUNT] = {
            let mut table = [None; HELPER_COUNT];
            $(table[$id] = Some(Helper {
                name: stringify!($name),
                call: $call,
                rules: rules!($($rules)?),
            });)*
            table
        };
    };
}

helpers! {
    1 bpf_map_lookup_elem maps::lookup;
    2 bpf_map_update_elem maps::update;
    3 bpf_map_delete_elem maps::delete;
    4 bpf_probe_read memory::probe_read;
    5 bpf_ktime_get_ns current::ktime;
    6 bpf_trace_printk print::trace_printk;
    7 bpf_get_prandom_u32 current::random;
    8 bpf_get_smp_processor_id current::cpu;
    14 bpf_get_current_pid_tgid current::pid_tgid;
    15 bpf_get_current_uid_gid current::uid_gid;
    16 bpf_get_current_comm current::comm;
    25 bpf_perf_event_output maps::perf_event_output;
    35 bpf_get_current_task current::task;
    42 bpf_get_numa_node_id current::numa_node;
    45 bpf_probe_read_str memory::probe_read_str;
    55 bpf_perf_event_read_value maps::perf_event_read_value;
    87 bpf_map_push_elem maps::push;
    88 bpf_map_pop_elem maps::pop;
    89 bpf_map_peek_elem maps::peek;
    93 bpf_spin_lock memory::spin_lock, Rules::of(Effect::Begin(Object::SpinLock));
    94 bpf_spin_unlock memory::spin_unlock, Rules::of(Effect::End(Object::SpinLock)).under_lock();
    105 bpf_strtol number::strtol;
    106 bpf_strtoul number::strtoul;
    112 bpf_probe_read_user memory::probe_read_user;
    113 bpf_probe_read_kernel memory::probe_read;
    114 bpf_probe_read_user_str memory::probe_read_user;
    115 bpf_probe_read_kernel_str memory::probe_read_str;
    118 bpf_jiffies64 current::jiffies64;
    125 bpf_ktime_get_boot_ns current::ktime;
    130 bpf_ringbuf_output maps::ringbuf_output;
    131 bpf_ringbuf_reserve maps::ringbuf_reserve, Rules::of(Effect::Result(Object::Record));
    132 bpf_ringbuf_submit maps::ringbuf_submit, Rules::of(Effect::End(Object::Record));
    133 bpf_ringbuf_discard maps::ringbuf_discard, Rules::of(Effect::End(Object::Record));
    134 bpf_ringbuf_query maps::ringbuf_query;
    148 bpf_copy_from_user user::copy;
    153 bpf_per_cpu_ptr memory::per_cpu_ptr;
    154 bpf_this_cpu_ptr memory::this_cpu_ptr;
    156 bpf_task_storage_get maps::task_storage_get;
    157 bpf_task_storage_delete maps::task_storage_delete;
    158 bpf_get_current_task_btf current::task;
    160 bpf_ktime_get_coarse_ns current::ktime;
    164 bpf_for_each_map_elem callback::for_each_map_elem;
    165 bpf_snprintf print::snprintf;
    169 bpf_timer_init timer::init;
    170 bpf_timer_set_callback timer::set_callback;
    171 bpf_timer_start timer::start;
    172 bpf_timer_cancel timer::cancel;
    177 bpf_trace_vprintk print::trace_vprintk;
    181 bpf_loop callback::bpf_loop;
    182 bpf_strncmp memory::strncmp;
    191 bpf_copy_from_user_task user::copy_task;
    194 bpf_kptr_xchg memory::kptr_xchg, Rules::of(Effect::Exchange);
    195 bpf_map_lookup_percpu_elem maps::lookup_percpu;
    197 bpf_dynptr_from_mem dynptr::from_mem;
    198 bpf_ringbuf_reserve_dynptr dynptr::reserve;
    199 bpf_ringbuf_submit_dynptr dynptr::submit;
    200 bpf_ringbuf_discard_dynptr dynptr::discard;
    201 bpf_dynptr_read dynptr::read;
    202 bpf_dynptr_write dynptr::write_to;
    203 bpf_dynptr_data dynptr::data;
    208 bpf_ktime_get_tai_ns current::ktime;
    209 bpf_user_ringbuf_drain callback::user_ringbuf_drain;
    210 bpf_cgrp_storage_get maps::task_storage_get;
    211 bpf_cgrp_storage_delete maps::task_storage_delete;
}

/// Calls helper number `id`.
pub(crate) fn call(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    id: u32,
    args: [u64; 5],
) -> Result<u64, Abort> {
    let Some(helper) = HELPERS.get(id as usize).copied().flatten() else {
        return call_host(vm, host, program, id, args);
    };
    let watched = Watched {
        function: helper.name,
        rules: helper.rules,
        sleepable: Sleepable::No,
        args,
    };
    held::before(vm, &watched)?;
    let mut ctx = Ctx {
        vm,
        host,
        program,
        name: helper.name,
    };
    let ret = answer((helper.call)(&mut ctx, args))?;
    held::after(vm, &watched, ret);
    Ok(ret)
}

/// Calls the helper whose number a register holds.
pub(crate) fn call_by_register(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    number: u64,
    args: [u64; 5],
) -> Result<u64, Abort> {
    let id = u32::try_from(number).unwrap_or(u32::MAX);
    call(vm, host, program, id, args)
}

/// The kernel's name of a helper, if the engine has it.
#[must_use]
pub fn name_of(id: u32) -> Option<&'static str> {
    let helper = HELPERS.get(id as usize).copied().flatten();
    helper.map(|helper| helper.name)
}

/// What the program gets: a value, an error as a negative number, or an end.
pub(crate) fn answer(answer: Answer) -> Result<u64, Abort> {
    match answer {
        Ok(ret) => Ok(ret),
        Err(Fail::Errno(errno)) => Ok(errno.as_reg()),
        Err(Fail::Abort(abort)) => Err(abort),
    }
}

fn call_host(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    id: u32,
    args: [u64; 5],
) -> Result<u64, Abort> {
    let watched = Watched {
        function: "helper",
        rules: Rules::PLAIN,
        sleepable: Sleepable::No,
        args,
    };
    held::before(vm, &watched)?;
    let mut call = Call {
        vm,
        prog: program.id,
        name: "helper",
    };
    match host.helper(&mut call, id, args)? {
        Some(ret) => Ok(ret),
        None => Err(call.abort(AbortCause::UnsupportedHelper { id })),
    }
}
