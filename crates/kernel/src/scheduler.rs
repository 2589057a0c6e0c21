//! A loaded BPF scheduler: what the core attaches and what a user asks afterwards.

use harena_abi::{ArenaOffset, Cpu, Errno, KernAddr, Tid, UserAddr};
use harena_bpf::btf::{LayoutError, PathError, Value};
use harena_bpf::{LinkedObject, MapType};
use harena_scx::{
    CpuSet, Cx, DumpCtx, ExitInfo, ExitTask, InitTask, Moment, MomentSet, OpsConfig, SchedOps,
};
use harena_vm::{Abort, CodeRange, Loaded, MapId, MemFault, StreamId, Violation, Vm};
use thiserror::Error;

use crate::sched::Attached;
use crate::state::State;
use crate::tracing::{NeverFires, TracingUse};

/// A BPF scheduler with the machine that runs it.
#[derive(Debug)]
pub struct BpfScheduler {
    vm: Vm,
    st: Box<State>,
    linked: LinkedObject,
    loaded: Loaded,
    never_called: Vec<String>,
}

// A simulation with a BPF scheduler may be driven on any thread.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<BpfScheduler>();
};

/// How much an arena was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArenaUse {
    /// Pages in use.
    pub pages: u32,
    /// Pages it has room for.
    pub pages_max: u32,
    /// Pages that it may use at most: all, unless there is a limit.
    pub pages_limit: u32,
    /// Faults of host code that were recovered.
    pub faults_recovered: u64,
    /// Reports of faults that are in no stream, for want of room.
    pub reports_dropped: u64,
    /// Page allocations that failed on purpose.
    pub allocs_failed: u64,
}

/// Why a global variable has no value.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum GlobalReadError {
    /// No such variable.
    #[error("the object has no global variable `{name}`")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The path leads nowhere in its type.
    #[error("`{path}`")]
    Path {
        /// The whole path.
        path: String,
        /// Why.
        #[source]
        cause: PathError,
    },
    /// Its memory is gone: a program freed the arena page.
    #[error("`{path}` cannot be read")]
    Memory {
        /// The whole path.
        path: String,
        /// Why.
        #[source]
        cause: MemFault,
    },
}

/// Takes what an object's programs wrote to a stream, with their names.
pub(crate) fn drain_streams(
    vm: &mut Vm,
    loaded: &Loaded,
    stream: StreamId,
) -> Vec<(String, String)> {
    let texts = loaded.programs.iter().map(|prog| {
        let text = vm.drain_stream(*prog, stream);
        (vm.program(*prog).name().to_owned(), text)
    });
    texts.filter(|(_, text)| !text.is_empty()).collect()
}

impl BpfScheduler {
    pub(crate) const fn new(
        vm: Vm,
        st: Box<State>,
        linked: LinkedObject,
        loaded: Loaded,
        never_called: Vec<String>,
    ) -> Self {
        Self {
            vm,
            st,
            linked,
            loaded,
            never_called,
        }
    }

    /// Callbacks that are set and that this simulation never calls.
    #[must_use]
    pub fn never_called(&self) -> &[String] {
        &self.never_called
    }

    /// The programs that look on, in the object's order, and how often each ran.
    pub fn tracing(&self) -> impl Iterator<Item = &TracingUse> {
        self.st.tracing.used()
    }

    /// Programs that are loaded and never run.
    #[must_use]
    pub fn never_fires(&self) -> &[NeverFires] {
        self.st.tracing.never()
    }

    /// What ended the scheduler, if one of its programs did what the verifier would have
    /// refused.
    #[must_use]
    pub const fn abort(&self) -> Option<&Abort> {
        self.st.abort.as_ref()
    }

    /// Why programs are interpreted although machine code was asked for, if they are.
    #[must_use]
    pub fn jit_refused(&self) -> Option<&str> {
        self.vm.jit_refused()
    }

    /// Where the programs' machine code lies in this process, for profilers; nothing of
    /// interpreted ones.
    #[must_use]
    pub fn code_ranges(&self) -> Vec<CodeRange> {
        self.vm.code_ranges()
    }

    /// BPF instructions executed so far.
    #[must_use]
    pub fn insns(&self) -> u64 {
        self.vm.insns_total()
    }

    /// Accesses of programs, or of the host for them, to memory that is not there, and frees of
    /// what is no object of the arena.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        self.vm.violations()
    }

    /// Violations beyond those that are kept.
    #[must_use]
    pub fn violations_dropped(&self) -> u64 {
        self.vm.violations_dropped()
    }

    /// How much the object's arena was used, if it has one.
    #[must_use]
    pub fn arena(&self) -> Option<ArenaUse> {
        let arena = self.vm.arena(self.arena_map()?)?;
        let map = self.linked.maps.get(self.linked.arena?.index())?;
        Some(ArenaUse {
            pages: arena.pages_in_use(),
            pages_max: map.max_entries,
            pages_limit: arena.spec().page_limit(),
            faults_recovered: arena.faults_recovered(),
            reports_dropped: self.vm.reports_dropped(),
            allocs_failed: arena.injected_failures(),
        })
    }

    fn arena_map(&self) -> Option<MapId> {
        self.loaded.map(self.linked.arena?)
    }

    /// Takes what programs wrote to a stream: program name and text, in the object's order.
    pub fn drain_streams(&mut self, stream: StreamId) -> Vec<(String, String)> {
        drain_streams(&mut self.vm, &self.loaded, stream)
    }

    /// Takes what programs wrote with `bpf_printk`.
    pub fn drain_trace(&mut self) -> String {
        self.vm.drain_trace()
    }

    /// Names of all global variables, those in the arena too.
    pub fn globals(&self) -> impl Iterator<Item = &str> {
        self.linked.globals.keys().map(String::as_str)
    }

    /// The value of a global variable, or of a member or element of one, as it is now.
    pub fn global(&self, path: &str) -> Result<Value, GlobalReadError> {
        let end = path.find(['.', '[']).unwrap_or(path.len());
        let (name, rest) = path.split_at(end);
        let global = self
            .linked
            .globals
            .get(name)
            .ok_or_else(|| GlobalReadError::Unknown {
                name: name.to_owned(),
            })?;
        let bad_path = |cause| GlobalReadError::Path {
            path: path.to_owned(),
            cause,
        };
        let layout = |cause: LayoutError| bad_path(PathError::Layout(cause));
        let btf = &self.linked.btf;
        let field = btf.field(global.type_id, rest).map_err(bad_path)?;
        let size = btf.size_of(field.type_id).map_err(layout)?;
        let offset = global.offset + field.byte_offset();
        let mut bytes = vec![0; usize::try_from(size.min(global.size)).unwrap_or(0)];
        let at = self.address(global.map, offset);
        self.vm
            .mem()
            .read_bytes(at, &mut bytes)
            .map_err(|cause| GlobalReadError::Memory {
                path: path.to_owned(),
                cause,
            })?;
        btf.value(field.type_id, &bytes).map_err(layout)
    }

    /// Guest address of a byte of a map's value, or of the arena; NULL if it has none.
    fn address(&self, map: harena_bpf::MapIndex, offset: u64) -> KernAddr {
        let Some(id) = self.loaded.map(map) else {
            return KernAddr::NULL;
        };
        let is_arena = self
            .linked
            .maps
            .get(map.index())
            .is_some_and(|map| map.map_type == MapType::ARENA);
        if is_arena {
            let Some(arena) = self.vm.arena(id) else {
                return KernAddr::NULL;
            };
            let start = arena.user_vm_start().map_or(0, UserAddr::raw);
            let user = UserAddr::new(start.wrapping_add(offset));
            return arena.kern_addr(ArenaOffset::of(user));
        }
        let value = self.vm.map(id).value_addr();
        value
            .and_then(|value| value.checked_add(offset))
            .unwrap_or(KernAddr::NULL)
    }
}

/// Every callback goes to [`Attached`], which borrows the scheduler's parts.
macro_rules! delegate {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        impl SchedOps for BpfScheduler {
            fn config(&self) -> &OpsConfig {
                &self.st.config
            }

            fn traces(&self) -> MomentSet {
                self.st.tracing.moments()
            }

            $(fn $name(&mut self, cx: &mut Cx<'_>, $($arg: $ty),*) $(-> $ret)? {
                Attached::new(&mut self.vm, &mut self.st).$name(cx, $($arg),*)
            })*
        }
    };
}

delegate! {
    fn prepare() -> Result<(), Errno>;
    fn release();
    fn select_cpu(p: Tid, prev: Cpu, wake_flags: u64) -> Result<Cpu, i32>;
    fn enqueue(p: Tid, enq_flags: u64);
    fn dequeue(p: Tid, deq_flags: u64);
    fn dispatch(cpu: Cpu, prev: Option<Tid>);
    fn tick(p: Tid);
    fn runnable(p: Tid, enq_flags: u64);
    fn running(p: Tid);
    fn stopping(p: Tid, runnable: bool);
    fn quiescent(p: Tid, deq_flags: u64);
    fn yield_to(from: Tid, to: Option<Tid>) -> bool;
    fn set_weight(p: Tid, weight: u32);
    fn set_cpumask(p: Tid, allowed: &CpuSet);
    fn update_idle(cpu: Cpu, idle: bool);
    fn init_task(p: Tid, args: InitTask) -> i32;
    fn exit_task(p: Tid, args: ExitTask);
    fn enable(p: Tid);
    fn disable(p: Tid);
    fn init_cids() -> i32;
    fn init() -> i32;
    fn exit(info: &ExitInfo);
    fn dump(ctx: &DumpCtx);
    fn dump_cpu(ctx: &DumpCtx, cpu: Cpu, idle: bool);
    fn dump_task(ctx: &DumpCtx, p: Tid);
    fn cpu_acquire(cpu: Cpu);
    fn cpu_release(cpu: Cpu, reason: u32, next: Option<Tid>);
    fn trace(moment: &Moment<'_>);
    fn timer(key: u64);
}
