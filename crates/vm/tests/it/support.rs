//! A host with nothing behind it, and short ways to load and run text.

use std::collections::BTreeMap;
use std::sync::Arc;

use harena_abi::{ArenaOffset, Cpu, KernAddr, SimTime, Tid};
use harena_arena::Arena;
use harena_bpf::btf::Btf;
use harena_bpf::isa::asm;
use harena_bpf::{
    Contents, LinkedMap, LinkedObject, LinkedProgram, MapIndex, MapOrigin, MapType, ProgType,
};
use harena_vm::{
    Abort, Call, Containment, ContextSet, CurrentTask, Effect, Host, KfuncArg, KfuncDesc, Loaded,
    Object, ProgId, Rules, RunArgs, RunResult, Sleepable, TimerArm, TimerId, Vm, VmConfig,
};

pub(crate) const READ_ARENA: u32 = 1;
pub(crate) const WRITE_ARENA: u32 = 2;
pub(crate) const RUN_AGAIN: u32 = 3;
pub(crate) const SLEEPS: u32 = 4;
pub(crate) const NULLABLE: u32 = 5;
pub(crate) const READ_AND_RUN: u32 = 6;
pub(crate) const TOUCH: u32 = 7;
pub(crate) const PANICS: u32 = 8;
pub(crate) const ACQUIRE: u32 = 9;
pub(crate) const RELEASE: u32 = 10;
pub(crate) const WRITE: u32 = 11;

const TEST_OBJECT: Object = Object::Reference("test_object");

/// Kfuncs of the test host.
pub(crate) const KFUNCS: &[KfuncDesc] = &[
    kfunc(READ_ARENA, "test_read_arena", &[KfuncArg::Arena]),
    kfunc(WRITE_ARENA, "test_write_arena", &[KfuncArg::Arena]),
    kfunc(RUN_AGAIN, "test_run_again", &[]),
    KfuncDesc {
        sleepable: Sleepable::Yes,
        contexts: ContextSet(1),
        ..kfunc(SLEEPS, "test_sleeps", &[])
    },
    kfunc(NULLABLE, "test_nullable", &[KfuncArg::ArenaNullable]),
    kfunc(READ_AND_RUN, "test_read_and_run", &[KfuncArg::Arena]),
    kfunc(TOUCH, "test_touch", &[]),
    kfunc(PANICS, "test_panics", &[]),
    KfuncDesc {
        rules: Rules::of(Effect::Result(TEST_OBJECT)),
        ..kfunc(ACQUIRE, "test_acquire", &[])
    },
    KfuncDesc {
        rules: Rules::of(Effect::End(TEST_OBJECT)),
        ..kfunc(RELEASE, "test_release", &[])
    },
    kfunc(WRITE, "test_write", &[]),
];

const fn kfunc(id: u32, name: &'static str, args: &'static [KfuncArg]) -> KfuncDesc {
    KfuncDesc {
        id,
        name,
        args,
        contexts: ContextSet::ANY,
        sleepable: Sleepable::No,
        rules: Rules::PLAIN,
    }
}

/// A kernel with one task and a clock that stands still.
#[derive(Debug, Default)]
pub(crate) struct TestHost {
    pub(crate) now: SimTime,
    pub(crate) cpu: u32,
    pub(crate) random: u32,
    pub(crate) armed: BTreeMap<TimerId, TimerArm>,
    pub(crate) again: Option<ProgId>,
    /// What `TOUCH` reads from.
    pub(crate) touch: Option<Arc<Arena>>,
    /// What runs had not given back at their end.
    pub(crate) given_back: Vec<(Object, u64)>,
}

impl Host for TestHost {
    fn kfunc(&mut self, call: &mut Call<'_>, id: u32, args: [u64; 5]) -> Result<u64, Abort> {
        let addr = KernAddr::new(args[0]);
        match id {
            READ_ARENA | WRITE_ARENA | READ_AND_RUN => {
                let map = call
                    .vm
                    .program(call.prog())
                    .arena()
                    .expect("checked at load");
                let arena = Arc::clone(call.vm.arena(map).expect("an arena map"));
                let place = arena.ptr::<u64>(arena.offset_of(addr).expect("rebased"));
                if id == READ_ARENA {
                    return Ok(place.read());
                }
                if id == READ_AND_RUN {
                    let _zero = place.read();
                    return self.kfunc(call, RUN_AGAIN, args);
                }
                place.write(args[1]);
                Ok(0)
            }
            RUN_AGAIN => {
                let prog = self.again.unwrap_or(call.prog());
                let args = RunArgs::new(KernAddr::new(args[0]));
                Ok(call.run(prog, &args, self)?.ret)
            }
            TOUCH => {
                let arena = self.touch.as_ref().expect("the test gives one");
                Ok(arena.ptr::<u64>(ArenaOffset::new(0x3000)).read())
            }
            SLEEPS => Ok(7),
            NULLABLE | ACQUIRE => Ok(args[0]),
            RELEASE => Ok(0),
            WRITE => {
                let written = call.mem().write_u8(addr, 7);
                Ok(u64::from(written.is_err()))
            }
            PANICS => panic!("kfunc {:#x}", args[0]),
            _ => Err(call.host_error("no such kfunc")),
        }
    }

    fn give_back(&mut self, _call: &mut Call<'_>, object: Object, addr: u64) {
        self.given_back.push((object, addr));
    }

    fn now(&self) -> SimTime {
        self.now
    }

    fn cpu(&self) -> Cpu {
        Cpu::new(self.cpu)
    }

    fn current_task(&self) -> KernAddr {
        KernAddr::NULL
    }

    fn current(&self) -> CurrentTask {
        CurrentTask {
            task: KernAddr::NULL,
            pid: Tid::new(41),
            tgid: Tid::new(40),
            uid: 1000,
            gid: 100,
            comm: "worker".to_owned(),
        }
    }

    fn random(&mut self) -> u32 {
        self.random += 1;
        self.random
    }

    fn timer_arm(&mut self, arm: TimerArm) {
        self.armed.insert(arm.timer, arm);
    }

    fn timer_cancel(&mut self, timer: TimerId) {
        self.armed.remove(&timer);
    }
}

/// A configuration for the engine that is tested. Every wild pointer is reported.
pub(crate) fn config(nr_cpus: u32) -> VmConfig {
    VmConfig {
        engine: super::ENGINE,
        containment: Containment::Check,
        ..VmConfig::new(nr_cpus)
    }
}

/// A machine with one object loaded.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) vm: Vm,
    pub(crate) host: TestHost,
    pub(crate) loaded: Loaded,
}

impl Bench {
    pub(crate) fn new(text: &str, maps: Vec<LinkedMap>) -> Self {
        Self::with_config(text, maps, config(4))
    }

    pub(crate) fn with_config(text: &str, maps: Vec<LinkedMap>, config: VmConfig) -> Self {
        let mut vm = Vm::new(config).expect("address space");
        let object = object(vec![program("main", text)], maps);
        let loaded = vm.load(&object, KFUNCS).expect("loads");
        assert_eq!(vm.jit_refused(), None);
        let host = TestHost::default();
        Self { vm, host, loaded }
    }

    pub(crate) fn try_run(&mut self, ctx: u64) -> Result<RunResult, Abort> {
        let prog = self.loaded.programs[0];
        let args = RunArgs::new(KernAddr::new(ctx));
        self.vm.run(prog, &args, &mut self.host)
    }

    /// r0 of the first program.
    pub(crate) fn run(&mut self, ctx: u64) -> u64 {
        self.try_run(ctx).expect("runs to its end").ret
    }

    pub(crate) fn stderr(&mut self) -> String {
        let prog = self.loaded.programs[0];
        self.vm.drain_stream(prog, harena_vm::StreamId::Stderr)
    }
}

pub(crate) fn program(name: &str, text: &str) -> LinkedProgram {
    let insns = asm(text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
    LinkedProgram::from_insns(name, ProgType::Syscall, insns)
}

pub(crate) fn object(programs: Vec<LinkedProgram>, maps: Vec<LinkedMap>) -> LinkedObject {
    let arena = maps.iter().position(|m| m.map_type == MapType::ARENA);
    LinkedObject {
        file: "test.bpf.o".to_owned(),
        license: "GPL".to_owned(),
        btf: Arc::new(Btf::empty()),
        programs,
        maps,
        struct_ops: Vec::new(),
        arena: arena.and_then(|i| u32::try_from(i).ok()).map(MapIndex),
        globals: BTreeMap::new(),
    }
}

pub(crate) fn map(map_type: MapType, key_size: u32, value_size: u32, entries: u32) -> LinkedMap {
    LinkedMap {
        name: "m".to_owned(),
        origin: MapOrigin::Explicit,
        map_type,
        key_size,
        value_size,
        max_entries: entries,
        map_flags: 0,
        map_extra: 0,
        key_type: None,
        value_type: None,
        special_fields: Vec::new(),
        inner: None,
        slots: BTreeMap::new(),
        contents: Contents::default(),
        contents_offset: 0,
        frozen: false,
        pin_by_name: false,
    }
}

/// An arena of `pages` pages, with the user window at 16 TiB.
pub(crate) fn arena(pages: u32) -> LinkedMap {
    LinkedMap {
        map_flags: harena_abi::bpf::BPF_F_MMAPABLE,
        map_extra: 0x1000_0000_0000,
        ..map(MapType::ARENA, 0, 0, pages)
    }
}

/// Runs text without maps.
pub(crate) fn eval(text: &str) -> u64 {
    Bench::new(text, Vec::new()).run(0)
}

/// Number of one of the engine's own kfuncs.
pub(crate) fn generic(name: &str) -> u32 {
    let found = harena_vm::generic_kfuncs().iter().find(|k| k.name == name);
    found.unwrap_or_else(|| panic!("no kfunc {name}")).id
}
