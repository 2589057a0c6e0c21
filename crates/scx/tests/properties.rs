//! Against models: the order of DSQs, and cid layouts.

mod common;

use common::{LOCAL, Ops, SLICE, USER, World, cpus, flat, insert, topology};
use harena_abi::{Cid, Cpu, DsqId, Tid, scx};
use harena_scx::{
    CidLayoutError, CidMap, CidTopo, CpuSet, CpuTopology, Insert, IterId, Op, Topology,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Insert { vtime: u64, head: bool },
    Take(prop::sample::Index),
}

fn step(vtimes: impl Strategy<Value = u64>) -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (vtimes, any::<bool>()).prop_map(|(vtime, head)| Step::Insert { vtime, head }),
        1 => any::<prop::sample::Index>().prop_map(Step::Take),
    ]
}

/// A scheduler that parks every task in the user DSQ, as `vars` say.
fn parking() -> World {
    let mut ops = Ops::new(&[Op::Enqueue, Op::Dispatch, Op::Init]);
    ops.hooks.insert(Op::Init, |_, cx, _, _| {
        cx.core.kf_create_dsq(USER, -1).expect("a new queue");
    });
    ops.enqueue = |ops, cx, p, _| {
        let vtime = ops.vars.get("vtime").copied();
        let enq_flags = ops.vars.get("flags").copied().unwrap_or(0);
        let to = Insert {
            dsq: USER,
            slice: SLICE,
            vtime,
            enq_flags,
        };
        cx.core.kf_dsq_insert(cx.machine, Some(p), to);
    };
    ops.dispatch = |_, _, _, _| {};
    World::new(flat(1), ops)
}

/// Applies steps to a DSQ and to a sorted list of (vtime, arrival).
fn check_order(steps: &[Step], fifo: bool) {
    let mut w = parking();
    let mut model: Vec<(u64, Tid)> = Vec::new();
    for step in steps {
        match *step {
            Step::Insert { vtime, head } => {
                if fifo {
                    let flags = if head { scx::SCX_ENQ_HEAD } else { 0 };
                    w.ops.vars.insert("flags", flags);
                } else {
                    w.ops.vars.insert("vtime", vtime);
                }
                let p = w.fork();
                w.start(p);
                let at = match (fifo, head) {
                    (true, true) => 0,
                    (true, false) => model.len(),
                    (false, _) => {
                        let after = |&(v, _): &(u64, Tid)| vtime.wrapping_sub(v) >> 63 == 0;
                        model.partition_point(after)
                    }
                };
                model.insert(at, (vtime, p));
            }
            Step::Take(index) if !model.is_empty() => {
                let (_, p) = model.remove(index.index(model.len()));
                // A task that leaves the class leaves the queue, wherever it is in it.
                w.on(|core, env| core.set_policy(env, p, scx::SCHED_FIFO))
                    .expect("known");
            }
            Step::Take(_) => {}
        }
        let want: Vec<Tid> = model.iter().map(|&(_, p)| p).collect();
        assert_eq!(w.core.user_dsq(USER), Some(want));
    }
}

/// `cases` cases; a failure prints its input, and leaves no file behind.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn a_vtime_dsq_is_a_sorted_list(
        steps in prop::collection::vec(step(0u64..50), 1..60),
    ) {
        check_order(&steps, false);
    }

    #[test]
    fn vtime_order_wraps_around(
        steps in prop::collection::vec(step((0u64..100).prop_map(|v| v.wrapping_sub(50))), 1..60),
    ) {
        check_order(&steps, false);
    }

    #[test]
    fn a_fifo_dsq_is_a_list(steps in prop::collection::vec(step(0u64..9), 1..60)) {
        check_order(&steps, true);
    }

    /// Keys that are no order at all lose no task and harm nothing.
    #[test]
    fn wild_vtimes_keep_every_task(vtimes in prop::collection::vec(any::<u64>(), 1..80)) {
        let mut w = parking();
        for (i, &vtime) in vtimes.iter().enumerate() {
            w.ops.vars.insert("vtime", vtime);
            let p = w.fork();
            w.start(p);
            prop_assert_eq!(w.core.user_dsq(USER).map(|q| q.len()), Some(i + 1));
        }
        let mut all = w.core.user_dsq(USER).expect("it exists");
        all.sort();
        prop_assert_eq!(all, w.core.tasks().collect::<Vec<_>>());
    }
}

/// A machine whose cores, caches and nodes nest, with CPU numbers dealt out anyhow.
fn machines() -> impl Strategy<Value = (Topology, CpuSet)> {
    (1u32..4, 1u32..4, 1u32..6, 1u32..4)
        .prop_flat_map(|(nodes, llcs, cores, smt)| {
            let units: Vec<CpuTopology> = (0..nodes * llcs * cores * smt)
                .map(|i| CpuTopology {
                    core: i / smt,
                    llc: i / (smt * cores),
                    node: i / (smt * cores * llcs),
                    capacity: 1024,
                })
                .collect();
            let n = units.len();
            (
                Just(units).prop_shuffle(),
                prop::collection::vec(any::<bool>(), n),
            )
        })
        .prop_map(|(units, online)| {
            let online: CpuSet = (0u32..)
                .zip(&online)
                .filter(|&(cpu, &on)| on || cpu == 0)
                .map(|(cpu, _)| Cpu::new(cpu))
                .collect();
            (Topology::new(units).expect("not empty"), online)
        })
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn cid_tables_are_inverse_and_units_are_contiguous(
        (topology, online) in machines(),
        shard_size in 1u32..20,
    ) {
        let map = CidMap::assign(&topology, &online, shard_size);
        prop_assert_eq!(map.nr_cids(), topology.nr_cpus());
        let topos: Vec<CidTopo> = (0..map.nr_cids())
            .map(|c| *map.topo(Cid::new(c)).expect("a cid"))
            .collect();
        for cpu in topology.cpus() {
            let cid = map.cid_of(cpu).expect("every CPU has one");
            prop_assert_eq!(map.cpu_of(cid), Some(cpu));
            let topo = &topos[cid.index()];
            prop_assert_eq!(topo.core_cid >= 0, online.contains(cpu));
            prop_assert!(topo.shard_cid >= 0 && topo.shard_cid <= cid.as_s32());
        }
        let part_of = |cid: u32| {
            let cpu = map.cpu_of(Cid::new(cid)).expect("a cid");
            *topology.get(cpu).expect("a CPU")
        };
        for cid in 1..online.len() {
            let (a, b) = (&topos[cid as usize - 1], &topos[cid as usize]);
            let (at, bt) = (part_of(cid - 1), part_of(cid));
            prop_assert_eq!(at.core == bt.core, a.core_idx == b.core_idx);
            prop_assert_eq!(at.llc == bt.llc, a.llc_idx == b.llc_idx);
            prop_assert_eq!(at.node == bt.node, a.node_idx == b.node_idx);
            prop_assert!(a.core_idx <= b.core_idx && b.core_idx <= a.core_idx + 1);
            prop_assert!(a.llc_idx == b.llc_idx || a.shard_idx != b.shard_idx);
            prop_assert!(a.shard_idx <= b.shard_idx && b.shard_idx <= a.shard_idx + 1);
        }
        for pair in topos.windows(2) {
            if pair[0].shard_idx != pair[1].shard_idx && pair[1].core_idx >= 0 {
                prop_assert!(pair[0].core_idx != pair[1].core_idx, "whole cores only");
            }
        }
    }

    #[test]
    fn a_cid_layout_is_taken_whole_or_not_at_all(
        cids in prop::collection::vec(-1i32..6, 0..6),
        starts in prop::collection::vec(-1i32..6, 0..4),
    ) {
        let topology = topology(4, 1, 4, 4);
        let online = topology.cpus().collect();
        let mut map = CidMap::assign(&topology, &online, 24);
        let before = map.clone();
        match map.set_layout(&cids, &starts) {
            Ok(()) => {
                for (cpu, &cid) in (0u32..).map(Cpu::new).zip(&cids) {
                    prop_assert_eq!(map.cid_of(cpu).map(Cid::as_s32), Some(cid));
                    prop_assert_eq!(map.cpu_of(Cid::new(cid.cast_unsigned())), Some(cpu));
                }
            }
            Err(_) => prop_assert_eq!(map, before),
        }
    }
}

fn shard_sizes(map: &CidMap) -> Vec<usize> {
    let mut sizes: Vec<usize> = Vec::new();
    for cid in 0..map.nr_cids() {
        let idx = map.topo(Cid::new(cid)).expect("a cid").shard_idx;
        let idx = usize::try_from(idx).expect("every cid has a shard");
        sizes.resize(sizes.len().max(idx + 1), 0);
        sizes[idx] += 1;
    }
    sizes
}

#[test]
fn cids_of_interleaved_threads() {
    // Linux numbers the second threads after all first ones.
    let cpu = |c: u32| CpuTopology {
        core: c % 4,
        llc: c % 4 / 2,
        node: 0,
        capacity: 1024,
    };
    let topology = Topology::new((0..8).map(cpu).collect()).expect("not empty");
    let map = CidMap::assign(&topology, &topology.cpus().collect(), 24);
    let cpus: Vec<u32> = (0..8)
        .map(|c| map.cpu_of(Cid::new(c)).unwrap().raw())
        .collect();
    assert_eq!(cpus, [0, 4, 1, 5, 2, 6, 3, 7]);
    let topo = map.topo(Cid::new(5)).unwrap();
    let want = CidTopo {
        core_cid: 4,
        core_idx: 2,
        llc_cid: 4,
        llc_idx: 1,
        node_cid: 0,
        node_idx: 0,
        shard_cid: 4,
        shard_idx: 1,
    };
    assert_eq!(*topo, want);
}

#[test]
fn shards_are_even_and_of_whole_cores() {
    let sizes = |cpus, smt, shard| {
        let topology = topology(cpus, smt, cpus, cpus);
        shard_sizes(&CidMap::assign(
            &topology,
            &topology.cpus().collect(),
            shard,
        ))
    };
    assert_eq!(sizes(16, 2, 24), [16]);
    assert_eq!(sizes(48, 1, 24), [24, 24]);
    assert_eq!(
        sizes(50, 1, 24),
        [17, 17, 16],
        "the first ones get one more"
    );
    assert_eq!(sizes(50, 2, 24), [18, 16, 16], "25 cores as 9, 8, 8");
    assert_eq!(sizes(6, 3, 2), [3, 3], "a core is never cut");
    assert_eq!(sizes(600, 1, 600), [300, 300], "at most 512");
}

#[test]
fn offline_cpus_come_last_without_topology() {
    let topology = topology(8, 2, 4, 8);
    let map = CidMap::assign(&topology, &cpus(&[2, 3, 6]), 2);
    let order: Vec<u32> = (0..8)
        .map(|c| map.cpu_of(Cid::new(c)).unwrap().raw())
        .collect();
    assert_eq!(order, [2, 3, 6, 0, 1, 4, 5, 7]);
    let topo = map.topo(Cid::new(4)).unwrap();
    assert_eq!((topo.core_cid, topo.llc_idx, topo.node_idx), (-1, -1, -1));
    assert_eq!((topo.shard_cid, topo.shard_idx), (3, 2));
    assert_eq!(map.topo(Cid::new(7)).unwrap().shard_cid, 7);
}

#[test]
fn cid_layout_errors() {
    let topology = topology(4, 1, 4, 4);
    let mut map = CidMap::assign(&topology, &topology.cpus().collect(), 24);
    let mut text = |cids: &[i32], starts: &[i32]| match map.set_layout(cids, starts) {
        Ok(()) => String::new(),
        Err(why) => why.to_string(),
    };
    let prefix = "scx_bpf_cid_override: ";
    let cases: [(&[i32], &[i32], &str); 7] = [
        (&[0], &[0], "cpu_to_cid expected 16 bytes, got 4"),
        (&[0, 1, 2, 3], &[], "invalid shard_start size 0"),
        (&[0, 1, 2, 3], &[1], "shard_start[0] must be 0, got 1"),
        (
            &[0, 1, 2, 3],
            &[0, 2, 2],
            "shard_start not increasing at [2]",
        ),
        (&[0, 1, 2, 3], &[0, 4], "shard_start[1]=4 >= 4"),
        (&[0, 1, 2, 4], &[0], "invalid cid 4"),
        (&[0, 1, 2, 1], &[0], "cid 1 assigned to multiple cpus"),
    ];
    for (cids, starts, want) in cases {
        let got = text(cids, starts);
        assert_eq!(got.strip_prefix(prefix).unwrap_or(&got), want);
    }
    assert_eq!(text(&[3, 2, 1, 0], &[0, 1]), "");
    assert_eq!(map.cpu_of(Cid::new(0)), Some(Cpu::new(3)));
    assert_eq!(
        map.topo(Cid::new(3)).map(|t| (t.shard_cid, t.shard_idx)),
        Some((1, 1))
    );
    let error = CidLayoutError::FirstShard { start: 2 };
    assert!(error.to_string().starts_with(prefix));
}

#[test]
fn cid_override_from_init_cids() {
    let mut ops = Ops::new(&Ops::all());
    ops.config.form = harena_scx::Form::Cid;
    ops.hooks.insert(Op::InitCids, |_, cx, _, _| {
        cx.core.kf_cid_override(cx.machine, &[1, 0], &[0, 1]);
    });
    let mut w = World::new(flat(2), ops);
    assert_eq!(w.on(|core, env| core.kf_cpu_to_cid(env.machine, 0)), 1);
    assert_eq!(w.on(|core, env| core.kf_cid_to_cpu(env.machine, 0)), 1);
    // LOCAL_ON means a cid in this form.
    w.ops.enqueue = |_, cx, p, _| {
        let on_cid_0 = DsqId::new(scx::SCX_DSQ_LOCAL_ON);
        cx.core
            .kf_dsq_insert(cx.machine, Some(p), insert(on_cid_0, SLICE, 0));
    };
    let p = w.fork();
    w.start(p);
    assert_eq!(w.curr(1), Some(p));
    assert_eq!(w.core.kf_task_cid(p), 0);
}

#[test]
fn iterators_see_what_was_there_and_survive_changes() {
    let mut w = parking();
    let tasks: Vec<Tid> = (0..6).map(|_| w.fork()).collect();
    for &p in &tasks[..5] {
        w.start(p);
    }
    let it = w.core.kf_iter_new(USER, 0).expect("it exists");
    assert_eq!(w.core.kf_iter_next(it), Some(tasks[0]));
    w.start(tasks[5]);
    let gone = tasks[1];
    w.on(|core, env| core.set_policy(env, gone, scx::SCHED_FIFO))
        .expect("known");
    let rest: Vec<Tid> = std::iter::from_fn(|| w.core.kf_iter_next(it)).collect();
    assert_eq!(
        rest,
        tasks[2..5],
        "not the one that left, not the one that came"
    );
    w.core.kf_iter_destroy(it);
    assert_eq!(w.core.kf_iter_next(it), None);
    let it = w
        .core
        .kf_iter_new(USER, u64::from(scx::SCX_DSQ_ITER_REV))
        .expect("it exists");
    let back: Vec<Tid> = std::iter::from_fn(|| w.core.kf_iter_next(it)).collect();
    assert_eq!(back, [tasks[5], tasks[4], tasks[3], tasks[2], tasks[0]]);
    assert!(w.core.kf_iter_new(USER, 1).is_err(), "unknown flags");
    assert!(w.core.kf_iter_new(DsqId::new(9), 0).is_err());
    assert!(w.core.kf_iter_new(LOCAL, 0).is_err());
    assert_eq!(w.core.kf_iter_next(IterId(77)), None);
}

#[test]
fn moving_tasks_between_queues() {
    let other = DsqId::new(8);
    let mut w = parking();
    w.core.kf_create_dsq(other, -1).expect("a new queue");
    let tasks: Vec<Tid> = (0..3).map(|_| w.fork()).collect();
    for &p in &tasks[..2] {
        w.start(p);
    }
    let it = w.core.kf_iter_new(USER, 0).expect("it exists");
    w.core.kf_dsq_move_set_slice(it, 5);
    w.core.kf_dsq_move_set_vtime(it, 9);
    let to = Insert {
        vtime: Some(0),
        ..insert(other, 0, 0)
    };
    assert!(w.on(|core, env| core.kf_dsq_move(env, it, Some(tasks[1]), to)));
    assert_eq!(w.core.user_dsq(other), Some(vec![tasks[1]]));
    assert_eq!(
        (w.slice(tasks[1]), w.core.image().dsq_vtime(tasks[1])),
        (5, 9)
    );
    assert!(
        !w.on(|core, env| core.kf_dsq_move(env, it, Some(tasks[1]), to)),
        "it left"
    );
    w.start(tasks[2]);
    assert!(
        !w.on(|core, env| core.kf_dsq_move(env, it, Some(tasks[2]), to)),
        "too new"
    );
    assert!(w.on(|core, env| core.kf_dsq_move(env, it, Some(tasks[0]), insert(LOCAL, 0, 0))));
    assert_eq!(w.core.user_dsq(USER), Some(vec![tasks[2]]));
    w.settle();
    assert_eq!(w.curr(0), Some(tasks[0]));
    assert_eq!(
        w.on(|core, env| core.kf_dsq_peek(env.machine, USER)),
        Some(tasks[2])
    );
}
