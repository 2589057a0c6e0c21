//! The built-in choice of a CPU: which idle CPU, in which order, claimed or not.

mod common;

use common::{Ops, World, cpus, spec, topology};
use harena_abi::{Cpu, Errno, Tid, scx};
use harena_scx::{CpuSet, Leave, MaskKind, Op};

/// 2 nodes, each of 2 caches of 2 cores of 2 threads.
fn machine(flags: u64) -> World {
    let skip = [Op::UpdateIdle, Op::SelectCpu];
    let has: Vec<Op> = Ops::all()
        .into_iter()
        .filter(|op| !skip.contains(op))
        .collect();
    World::new(topology(16, 2, 4, 8), Ops::new(&has).with_flags(flags))
}

fn everywhere() -> CpuSet {
    (0..16).map(Cpu::new).collect()
}

/// Makes all CPUs busy in the masks but these.
fn only_idle(w: &mut World, idle: &[u32]) {
    for cpu in 0..16 {
        if !idle.contains(&cpu) {
            let raw = Cpu::new(cpu).as_s32();
            w.on(|core, env| core.kf_test_and_clear_cpu_idle(env.machine, raw));
        }
    }
    assert_eq!(w.core.idle_cpus(), cpus(idle));
}

fn select_flags(w: &mut World, p: Tid, prev: i32, wake: u64) -> (i32, bool) {
    w.on(|core, env| core.kf_select_cpu_dfl(env.machine, p, prev, wake))
}

fn select(w: &mut World, p: Tid, prev: i32) -> (i32, bool) {
    select_flags(w, p, prev, 0)
}

/// Picks with `prev` 0 until nothing is idle.
fn order(w: &mut World, p: Tid, prev: i32) -> Vec<i32> {
    let mut order = Vec::new();
    loop {
        match select(w, p, prev) {
            (cpu, true) => order.push(cpu),
            (cpu, false) => {
                assert_eq!(cpu, prev, "no idle CPU: prev");
                return order;
            }
        }
    }
}

#[test]
fn whole_cores_first_from_near_to_far() {
    let mut w = machine(0);
    let p = w.fork();
    let order = order(&mut w, p, 0);
    assert_eq!(order.len(), 16, "every CPU once: {order:?}");
    // prev's core, the cache's other core, the node's other cache, the other node ...
    assert_eq!(order[0], 0);
    assert_eq!(order[1] / 2, 1);
    assert!(
        order[2..4].iter().all(|cpu| (4..8).contains(cpu)),
        "{order:?}"
    );
    assert!(
        order[4..8].iter().all(|cpu| (8..16).contains(cpu)),
        "{order:?}"
    );
    let cores: std::collections::BTreeSet<i32> = order[..8].iter().map(|c| c / 2).collect();
    assert_eq!(
        cores.len(),
        8,
        "a thread of every core before any second thread"
    );
    // ... then the sibling of prev, the cache, the node, the rest.
    assert_eq!(order[8], 1);
    assert!((0..4).contains(&order[9]), "{order:?}");
    assert!(
        order[10..12].iter().all(|cpu| (4..8).contains(cpu)),
        "{order:?}"
    );
}

#[test]
fn prev_beats_its_sibling_and_the_cache() {
    let mut w = machine(0);
    let p = w.fork();
    only_idle(&mut w, &[1, 2, 6, 9]);
    assert_eq!(order(&mut w, p, 2), [2, 1, 6, 9]);
    only_idle(&mut w, &[]);
}

#[test]
fn a_claim_clears_the_whole_core() {
    let mut w = machine(0);
    let p = w.fork();
    assert_eq!(select(&mut w, p, 5), (5, true));
    let smt = w.on(|core, env| {
        let all = everywhere();
        let core_of_5 = cpus(&[4, 5]);
        let near = core.kf_pick_idle_cpu(env.machine, &core_of_5, None, scx::SCX_PICK_IDLE_CORE);
        assert_eq!(near, Err(Errno::EBUSY), "CPU 4 idles on a busy core");
        core.kf_pick_idle_cpu(env.machine, &all, None, scx::SCX_PICK_IDLE_CORE)
    });
    assert!(smt.is_ok());
    assert!(w.core.idle_cpus().contains(Cpu::new(4)));
}

#[test]
fn sync_wakeup_prefers_an_idle_prev_near_the_waker_then_the_waker() {
    let mut w = machine(0);
    let waker = w.fork();
    w.start(waker);
    let here = w.core.task(waker).unwrap().cpu;
    assert_eq!(here, Cpu::new(0));
    let p = w.fork();
    w.m.this = 0;
    assert_eq!(select_flags(&mut w, p, 3, scx::SCX_WAKE_SYNC), (3, true));
    // prev is far: the waker's CPU, though it is busy.
    assert_eq!(select_flags(&mut w, p, 9, scx::SCX_WAKE_SYNC), (0, true));
    assert!(
        w.core.idle_cpus().contains(Cpu::new(9)),
        "prev was not claimed"
    );
    // An exiting waker gives nothing away.
    w.core.set_exiting(waker);
    assert_eq!(select_flags(&mut w, p, 9, scx::SCX_WAKE_SYNC), (9, true));
}

#[test]
fn the_mask_of_the_task_counts() {
    let mut w = machine(0);
    let p = w.fork_spec(spec(&cpus(&[6, 7, 12])));
    assert_eq!(select(&mut w, p, 0), (6, true), "prev is not allowed");
    let rest = order(&mut w, p, 0);
    assert_eq!(rest, [12, 7]);
    let pinned = w.fork_spec(spec(&cpus(&[3])));
    assert_eq!(select(&mut w, pinned, 3), (3, true));
    assert_eq!(select(&mut w, pinned, 3), (3, false));
}

#[test]
fn select_cpu_and_narrows_the_mask() {
    let mut w = machine(0);
    let p = w.fork();
    let and = |w: &mut World, set: &[u32], flags| {
        let set = cpus(set);
        w.on(|core, env| core.kf_select_cpu_and(env.machine, p, (0, 0, flags), &set))
    };
    assert_eq!(and(&mut w, &[10, 11], 0), Ok(Cpu::new(10)));
    let core = scx::SCX_PICK_IDLE_CORE;
    assert_eq!(and(&mut w, &[10, 11], core), Err(Errno::EBUSY));
    assert_eq!(and(&mut w, &[10, 11], 0), Ok(Cpu::new(11)));
    assert_eq!(and(&mut w, &[10, 11], 0), Err(Errno::EBUSY));
    assert_eq!(and(&mut w, &[], 0), Err(Errno::EBUSY));
}

#[test]
fn per_node_masks_start_with_the_node() {
    let mut w = machine(scx::SCX_OPS_BUILTIN_IDLE_PER_NODE);
    let pick = |w: &mut World, node, flags| {
        let all = everywhere();
        w.on(|core, env| core.kf_pick_idle_cpu(env.machine, &all, Some(node), flags))
    };
    assert!(pick(&mut w, 1, 0).unwrap().raw() >= 8);
    only_idle(&mut w, &[3]);
    assert_eq!(
        pick(&mut w, 1, scx::SCX_PICK_IDLE_IN_NODE),
        Err(Errno::EBUSY)
    );
    assert_eq!(pick(&mut w, 1, 0), Ok(Cpu::new(3)));
    let mask = w.on(|core, env| core.kf_get_idle_mask(env.machine, MaskKind::IdleSmt, Some(1)));
    assert_eq!(mask, Some((MaskKind::IdleSmt, Some(1))));
}

#[test]
fn without_smt_the_smt_mask_is_the_cpu_mask() {
    let has = [Op::Enqueue];
    let mut w = World::new(topology(2, 1, 2, 2), Ops::new(&has));
    let mask = w.on(|core, env| core.kf_get_idle_mask(env.machine, MaskKind::IdleSmt, None));
    assert_eq!(mask, Some((MaskKind::IdleCpu, None)));
}

#[test]
fn without_select_cpu_an_idle_cpu_is_a_direct_dispatch() {
    let mut w = machine(0);
    let p = w.fork();
    w.take_log();
    w.start(p);
    w.expect(&["runnable(1, 0x80008)", "running(1)"]);
    assert_eq!(w.slice(p), scx::SCX_SLICE_DFL);
    assert_eq!(w.core.event_stats().refill_slice_dfl, 1);
}

#[test]
fn pick_any_falls_back_to_a_busy_cpu() {
    let mut w = machine(0);
    only_idle(&mut w, &[7]);
    let any = |w: &mut World, set: &[u32]| {
        let set = cpus(set);
        w.on(|core, env| core.kf_pick_any_cpu(env.machine, &set, None, 0))
    };
    assert_eq!(any(&mut w, &[2, 7]), Ok(Cpu::new(7)));
    assert_eq!(
        any(&mut w, &[2, 7]),
        Ok(Cpu::new(2)),
        "the next after the last"
    );
    assert_eq!(any(&mut w, &[]), Err(Errno::EBUSY));
}

#[test]
fn idle_bits_follow_the_switches() {
    let mut w = machine(0);
    let p = w.fork();
    w.start(p);
    let cpu = w.core.task(p).unwrap().cpu;
    assert!(!w.core.idle_cpus().contains(cpu));
    w.leave(cpu.raw(), Leave::Sleeping);
    assert_eq!(w.core.idle_cpus(), everywhere());
}
