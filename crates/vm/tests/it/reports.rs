//! Goal: a fault of host code is reported to the program that ran when it happened.
//!
//! Method: programs of a few instructions, whose kfuncs touch empty pages of an arena and run
//! further programs.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;

use harena_abi::{ArenaOffset, Cpu, KernAddr, UserAddr};
use harena_arena::{AllocError, Arena, ProgramScope, ProgramTag};
use harena_bpf::MapType;
use harena_vm::{ContextSet, Loaded, ProgId, RunArgs, StreamId, Vm, VmConfig};

use super::support::{
    Bench, KFUNCS, READ_AND_RUN, READ_ARENA, RUN_AGAIN, TOUCH, TestHost, arena, config, generic,
    map, object, program,
};

const BASE: u64 = 0x1000_0000_0000;

struct Several {
    vm: Vm,
    host: TestHost,
    loaded: Loaded,
}

impl Several {
    fn new(programs: &[(&str, &str)]) -> Self {
        let mut vm = Vm::new(config(4)).expect("address space");
        let programs = programs.iter().map(|(name, text)| program(name, text));
        let object = object(programs.collect(), vec![arena(64)]);
        let loaded = vm.load(&object, KFUNCS).expect("loads");
        let host = TestHost::default();
        Self { vm, host, loaded }
    }

    fn prog(&self, index: usize) -> ProgId {
        self.loaded.programs[index]
    }

    fn run(&mut self) -> u64 {
        let args = RunArgs::new(KernAddr::NULL);
        let done = self.vm.run(self.prog(0), &args, &mut self.host);
        done.expect("runs to its end").ret
    }

    fn stderr(&mut self, index: usize) -> String {
        let prog = self.prog(index);
        self.vm.drain_stream(prog, StreamId::Stderr)
    }
}

fn arena_of(vm: &Vm, loaded: &Loaded) -> Arc<Arena> {
    Arc::clone(vm.arena(loaded.maps[0]).expect("an arena map"))
}

#[test]
fn faults_before_a_nested_run_are_the_outer_programs() {
    let outer = format!("r9 = map(0) ll; r1 = 0x5000; call kfunc {READ_AND_RUN}; exit");
    let inner = format!("r9 = map(0) ll; r1 = 0x6000; call kfunc {READ_ARENA}; exit");
    let mut both = Several::new(&[("outer", &outer), ("inner", &inner)]);
    both.host.again = Some(both.prog(1));
    both.run();
    let report = |at: u64, trace: &str| {
        format!(
            "ERROR: Arena READ access at unmapped address {:#x}\n\
            CPU: 0 UID: 1000 PID: 41 Comm: worker\nCall trace:\n{trace}\n\n",
            BASE + at
        )
    };
    assert_eq!(both.stderr(0), report(0x5000, "outer+0x18/0x28"));
    assert_eq!(both.stderr(1), report(0x6000, "inner+0x18/0x28"));
    let programs: Vec<_> = both.vm.violations().iter().map(|v| &*v.program).collect();
    assert_eq!(programs, ["outer", "inner"]);
}

#[test]
fn faults_after_a_nested_run_are_the_outer_programs() {
    // The nested program calls a kfunc of its own after the outer one's fault is in the ring.
    let outer = format!(
        "r9 = map(0) ll; r1 = 0x1000; call kfunc {RUN_AGAIN}
        r1 = 0x5000; call kfunc {READ_ARENA}; exit"
    );
    let mut both = Several::new(&[("outer", &outer), ("inner", "r9 = map(0) ll; r0 = 0; exit")]);
    both.host.again = Some(both.prog(1));
    both.run();
    assert!(both.stderr(0).contains("Call trace:\nouter+0x28/0x38\n\n"));
    assert_eq!(both.stderr(1), "");
}

#[test]
fn faults_between_runs_go_to_their_program_without_a_trace() {
    let mut one = Several::new(&[("main", "r9 = map(0) ll; r0 = 0; exit")]);
    let arena = arena_of(&one.vm, &one.loaded);
    let tag = ProgramTag::new(one.prog(0).raw());
    let scope = ProgramScope::enter(tag, Some(&arena), Cpu::new(3)).unwrap();
    arena.ptr::<u8>(ArenaOffset::new(0x7001)).write(1);
    drop(scope);
    one.run();
    let expected = "ERROR: Arena WRITE access at unmapped address 0x100000007000\n\
        CPU: 3 UID: 1000 PID: 41 Comm: worker\nCall trace:\n\n";
    assert_eq!(one.stderr(0), expected);
}

#[test]
fn faults_in_an_embedders_scope_are_kept_for_it() {
    let mut one = Several::new(&[("main", "r9 = map(0) ll; r0 = 0; exit")]);
    let arena = arena_of(&one.vm, &one.loaded);
    let scope = ProgramScope::enter(ProgramTag::new(77), Some(&arena), Cpu::new(2)).unwrap();
    arena.ptr::<u8>(ArenaOffset::new(0x7001)).write(1);
    one.run();
    drop(scope);
    assert_eq!(one.stderr(0), "");
    let kept = one.vm.take_foreign_reports();
    assert_eq!((kept.len(), kept[0].program), (1, ProgramTag::new(77)));
    assert!(one.vm.take_foreign_reports().is_empty());
    assert_eq!(one.vm.reports_dropped(), 0);
}

#[test]
fn reports_that_find_no_room_are_counted() {
    let text = format!("r9 = map(0) ll; r1 = *(u64 *)(r1 + 0); call kfunc {READ_ARENA}; exit");
    let mut bench = Bench::new(&text, vec![arena(1 << 14)]);
    let at = bench.vm.alloc_args(1).unwrap();
    for page in 0..2_000u64 {
        bench.vm.write_args(at, &[page * 4096]).unwrap();
        bench.run(at.raw());
    }
    let reports = bench.stderr().matches("ERROR").count() as u64;
    assert!(bench.vm.reports_dropped() > 0);
    assert_eq!(reports + bench.vm.reports_dropped(), 2_000);
}

/// A callback and a timer's callback are no programs of their own.
#[test]
fn callbacks_and_timers_report_through_their_program() {
    let read = |at: u64| format!("r1 = {at:#x}; call kfunc {READ_ARENA}\n");
    let text = format!(
        "r9 = map(0) ll
        r1 = 1; r2 = func(back) ll; r3 = 0; r4 = 0; call 181
        r1 = map_value(1, 8) ll; r2 = map(1) ll; r3 = 1; call 169
        r1 = map_value(1, 8) ll; r2 = func(due) ll; call 170
        r1 = map_value(1, 8) ll; r2 = 1000; r3 = 0; call 171
        exit
    back:
        {}r0 = 0; exit
    due:
        {}r0 = 0; exit",
        read(0x5000),
        read(0x6000)
    );
    let mut bench = Bench::new(&text, vec![arena(16), map(MapType::ARRAY, 4, 64, 1)]);
    assert_eq!(bench.run(0), 0);
    let report = bench.stderr();
    assert!(
        report.contains("unmapped address 0x100000005000"),
        "{report}"
    );
    assert_eq!(
        report.matches("main+").count(),
        2,
        "the callback, then main: {report}"
    );
    let timer = *bench.host.armed.keys().next().expect("it was armed");
    let fired = bench.vm.fire_timer(timer, ContextSet::ANY, &mut bench.host);
    assert!(fired.unwrap().is_some());
    let report = bench.stderr();
    assert!(
        report.contains("unmapped address 0x100000006000"),
        "{report}"
    );
    assert_eq!(report.matches("main+").count(), 1, "{report}");
    assert!(bench.vm.violations().iter().all(|v| v.program == "main"));
}

/// The review's deadlock: a program allocates; while the arena's lock is held, a tracing
/// program on the same arena calls a kfunc with a pointer one element past its array; the kfunc
/// dereferences it on the very page that is about to be given out.
#[test]
fn a_tracing_program_inside_the_allocator_faults_and_recovers() {
    let alloc = generic("bpf_arena_alloc_pages");
    let call = |addr: &str| {
        format!("r1 = map(0) ll; r2 = {addr} ll; r3 = 1; r4 = -1; r5 = 0; call kfunc {alloc}\n")
    };
    let at = "0x100000005000";
    let outer = call(at) + "exit";
    let tracing = format!(
        "r9 = map(0) ll
        r1 = 0x100000004ff8 ll; r1 += 8; call kfunc {READ_ARENA}
        {}exit",
        call("0")
    );
    let mut both = Several::new(&[("outer", &outer), ("tracing", &tracing)]);
    both.vm.trace_arena_alloc(Some(both.prog(1)));
    assert_eq!(both.run(), 0x1000_0000_5000);
    let report = both.stderr(1);
    assert!(report.starts_with("ERROR: Arena READ access at unmapped address 0x100000005000\n"));
    assert!(report.contains("Call trace:\ntracing+"), "{report}");
    assert_eq!(both.stderr(0), "");
    let arena = both.vm.arena(both.loaded.maps[0]).unwrap();
    assert_eq!(arena.pages_in_use(), 1, "its own allocation was refused");
    assert_eq!(arena.ptr::<u64>(ArenaOffset::new(0x5000)).read(), 0);
    // Detached, it runs no more.
    both.vm.trace_arena_alloc(None);
    assert_eq!(both.run(), 0, "the page is taken");
    assert_eq!(both.stderr(1), "");
}

#[test]
fn deferred_frees_that_find_the_lock_taken_are_done_later() {
    let (alloc, free) = (
        generic("bpf_arena_alloc_pages"),
        generic("bpf_arena_free_pages"),
    );
    let text = format!(
        "r1 = map(0) ll; r2 = 0; r3 = 2; r4 = -1; r5 = 0; call kfunc {alloc}
        r1 = map(0) ll; r2 = r0; r3 = 2; call kfunc {free}
        r0 = 0; exit"
    );
    let free_only =
        format!("r1 = map(0) ll; r2 = {BASE:#x} ll; r3 = 1; call kfunc {free}; r0 = 0; exit");
    let mut both = Several::new(&[("main", &free_only), ("second", &text)]);
    let arena = arena_of(&both.vm, &both.loaded);
    arena.alloc_pages(Some(UserAddr::new(BASE)), 1, 0).unwrap();
    let mut ran = false;
    let got = arena.alloc_pages_traced(Some(UserAddr::new(BASE + 4096)), 1, || {
        ran = both.run() == 0;
    });
    assert!(ran && got.is_ok());
    assert_eq!(
        arena.pages_in_use(),
        2,
        "the lock was taken when the run ended"
    );
    let (prog, args) = (both.prog(1), RunArgs::new(KernAddr::NULL));
    let other = both.vm.run(prog, &args, &mut both.host);
    assert!(other.is_ok());
    assert_eq!(arena.pages_in_use(), 1, "both runs' frees are done");
    assert!(matches!(
        arena.alloc_pages(Some(UserAddr::new(BASE + 4096)), 1, 0),
        Err(AllocError::NoSpace { .. })
    ));
}

#[test]
fn at_the_byte_limit_programs_get_null() {
    let alloc = generic("bpf_arena_alloc_pages");
    let text = format!("r1 = map(0) ll; r2 = 0; r3 = 2; r4 = -1; r5 = 0; call kfunc {alloc}; exit");
    let limited = VmConfig {
        arena_limit: Some(5 * 4096 + 1),
        ..config(1)
    };
    let mut bench = Bench::with_config(&text, vec![arena(16)], limited);
    assert_eq!(
        [bench.run(0), bench.run(0), bench.run(0)],
        [BASE, BASE + 8192, 0]
    );
    let arena = bench.vm.arena(bench.loaded.maps[0]).unwrap();
    assert_eq!((arena.pages_in_use(), arena.spec().page_limit()), (4, 5));
}

/// The body of a child process, which crashes: were the embedder's arena meant, the access of
/// the program's kfunc would be recovered.
#[test]
#[ignore = "the body of a child process"]
fn child_program_without_an_arena() {
    let mut bench = Bench::new("r9 = map(0) ll; r0 = 0; exit", vec![arena(16)]);
    let text = format!("r1 = 0; call kfunc {TOUCH}; exit");
    let plain = object(vec![program("plain", &text)], Vec::new());
    let plain = bench.vm.load(&plain, KFUNCS).unwrap().programs[0];
    let arena = arena_of(&bench.vm, &bench.loaded);
    let _scope = ProgramScope::enter(ProgramTag::new(77), Some(&arena), Cpu::new(0)).unwrap();
    arena.ptr::<u8>(ArenaOffset::new(0x5000)).write(1);
    assert_eq!(arena.faults_recovered(), 1);
    bench.host.touch = Some(Arc::clone(&arena));
    let args = RunArgs::new(KernAddr::NULL);
    let _crashed = bench.vm.run(plain, &args, &mut bench.host);
}

#[test]
fn a_program_without_an_arena_hides_the_embedders_scope() {
    let mut child = Command::new(std::env::current_exe().expect("this binary has a path"));
    let (_, module) = module_path!().split_once("::").expect("inside the crate");
    let name = format!("{module}::child_program_without_an_arena");
    child.args(["--exact", &name, "--ignored", "--test-threads=1"]);
    const SIGSEGV: i32 = 11;
    assert_eq!(child.output().unwrap().status.signal(), Some(SIGSEGV));
}
