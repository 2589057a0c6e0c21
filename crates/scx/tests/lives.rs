//! Long random lives of a machine: whatever happens, no rule of the core breaks.

mod common;

use common::{LOCAL, Ops, USER, World, cpus, insert, spec, topology};
use harena_abi::{Cpu, Tid, scx};
use harena_scx::{Insert, Leave, Op, TaskSpec};
use proptest::prelude::*;

/// What may happen to a machine, with numbers to be taken modulo what there is.
#[derive(Clone, Debug)]
enum Happening {
    Fork(u8),
    Wake(u8, bool),
    Sleep(u8),
    Die(u8),
    Nice(u8, i8),
    Affinity(u8, u8),
    Policy(u8, u8),
    Yield(u8),
    Kick(u8, u8),
    Time(u8),
    Exit,
    Enable,
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening as H;
    prop_oneof![
        3 => any::<u8>().prop_map(H::Fork),
        8 => any::<(u8, bool)>().prop_map(|(p, s)| H::Wake(p, s)),
        5 => any::<u8>().prop_map(H::Sleep),
        1 => any::<u8>().prop_map(H::Die),
        2 => any::<(u8, i8)>().prop_map(|(p, n)| H::Nice(p, n % 20)),
        3 => any::<(u8, u8)>().prop_map(|(p, m)| H::Affinity(p, m)),
        2 => any::<(u8, u8)>().prop_map(|(p, k)| H::Policy(p, k)),
        1 => any::<u8>().prop_map(H::Yield),
        2 => any::<(u8, u8)>().prop_map(|(c, f)| H::Kick(c, f)),
        8 => (1u8..30).prop_map(H::Time),
        1 => Just(H::Exit),
        1 => Just(H::Enable),
    ]
}

fn pick<T: Copy>(from: &[T], n: u8) -> Option<T> {
    (!from.is_empty()).then(|| from[usize::from(n) % from.len()])
}

fn happen(w: &mut World, what: &Happening) {
    use Happening as H;
    let tasks: Vec<Tid> = w.core.tasks().collect();
    let busy: Vec<u32> = (0..4).filter(|&c| w.curr(c).is_some()).collect();
    w.m.this = 0;
    match *what {
        H::Fork(n) if tasks.len() < 40 => fork(w, n),
        H::Fork(_) => {}
        H::Wake(n, _) | H::Nice(n, _) | H::Affinity(n, _) | H::Policy(n, _) => {
            if let Some(p) = pick(&tasks, n) {
                happen_to_task(w, p, what);
            }
        }
        H::Sleep(n) | H::Die(n) | H::Yield(n) => {
            if let Some(cpu) = pick(&busy, n) {
                happen_to_cpu(w, cpu, what);
            }
        }
        H::Kick(cpu, flags) => {
            let flags = [0, scx::SCX_KICK_IDLE, scx::SCX_KICK_PREEMPT][usize::from(flags % 3)];
            w.on(|core, env| core.kf_kick_cpu(env.machine, i32::from(cpu % 4), flags));
        }
        H::Time(ms) => {
            w.run_ms(u64::from(ms));
            w.settle();
        }
        H::Exit => w.on(|core, _| core.unregister()),
        H::Enable => {
            w.ops.queue.clear();
            let _busy = w.on(|core, env| core.enable(env));
        }
    }
}

fn fork(w: &mut World, n: u8) {
    let mask = cpus(&[u32::from(n % 4), u32::from(n / 4 % 4)]);
    let mask = if n.is_multiple_of(3) {
        mask
    } else {
        (0..4).map(Cpu::new).collect()
    };
    let ext = n.is_multiple_of(5);
    let policy = if ext {
        scx::SCHED_EXT
    } else {
        scx::SCHED_NORMAL
    };
    let p = w.fork_spec(TaskSpec {
        policy,
        ..spec(&mask)
    });
    w.on(|core, env| core.wake_up_new(env, p));
}

/// Requests may be refused; the core must only stay consistent.
fn happen_to_task(w: &mut World, p: Tid, what: &Happening) {
    use Happening as H;
    if let H::Wake(n, sync) = *what {
        w.m.this = u32::from(n % 4);
        w.on(|core, env| core.wakeup(env, p, sync));
    } else if let H::Nice(_, nice) = *what {
        let _ret = w.on(|core, env| core.set_nice(env, p, nice.into()));
    } else if let H::Affinity(_, mask) = *what {
        let mask = (0..4)
            .filter(|c| mask >> c & 1 == 1)
            .map(Cpu::new)
            .collect();
        let _ret = w.on(|core, env| core.set_affinity(env, p, &mask));
    } else if let H::Policy(_, k) = *what {
        let policies = [
            scx::SCHED_NORMAL,
            scx::SCHED_EXT,
            scx::SCHED_FIFO,
            scx::SCHED_IDLE,
        ];
        let policy = policies[usize::from(k % 4)];
        let _ret = w.on(|core, env| core.set_policy(env, p, policy));
    }
}

fn happen_to_cpu(w: &mut World, cpu: u32, what: &Happening) {
    let mut leave = Leave::Runnable;
    if matches!(what, Happening::Sleep(_)) {
        leave = Leave::Sleeping;
    } else if matches!(what, Happening::Die(_)) {
        leave = Leave::Exiting;
    } else {
        w.on(|core, env| core.yield_current(env, Cpu::new(cpu)));
    }
    w.schedule(cpu, leave);
}

/// Schedulers of different temper: own queue, user DSQ by vtime, direct, immed.
fn temper(kind: u8) -> Ops {
    let mut ops = Ops::new(&Ops::all());
    ops.hooks.insert(Op::Init, |_, cx, _, _| {
        cx.core.kf_create_dsq(USER, -1).expect("a new queue");
    });
    ops.config.flags = match kind % 3 {
        0 => 0,
        1 => scx::SCX_OPS_SWITCH_PARTIAL | scx::SCX_OPS_KEEP_BUILTIN_IDLE,
        _ => scx::SCX_OPS_ENQ_EXITING | scx::SCX_OPS_KEEP_BUILTIN_IDLE,
    };
    match kind / 3 % 4 {
        0 => {}
        1 => {
            ops.enqueue = |_, cx, p, _| {
                let to = Insert {
                    vtime: Some(u64::from(p.raw()) * 7 % 13),
                    ..insert(USER, 2_000_000, 0)
                };
                cx.core.kf_dsq_insert(cx.machine, Some(p), to);
            };
            ops.dispatch = |ops, cx, _, _| {
                let (core, mut env) = cx.with(ops);
                core.kf_dsq_move_to_local(&mut env, USER, 0);
            };
        }
        2 => {
            ops.enqueue = |_, cx, p, _| {
                let task = cx.core.task(p).expect("it is queued");
                let cpu = task
                    .allowed
                    .iter()
                    .nth(p.index() % task.allowed.len() as usize);
                let to = common::local_on(cpu.expect("not empty").raw());
                let flags = if p.raw().is_multiple_of(3) {
                    scx::SCX_ENQ_PREEMPT
                } else {
                    0
                };
                cx.core
                    .kf_dsq_insert(cx.machine, Some(p), insert(to, 3_000_000, flags));
            };
        }
        _ => {
            ops.enqueue = |ops, cx, p, flags| {
                if flags & scx::SCX_ENQ_REENQ != 0 {
                    ops.queue.push_back(p);
                } else {
                    let to = insert(LOCAL, 3_000_000, scx::SCX_ENQ_IMMED);
                    cx.core.kf_dsq_insert(cx.machine, Some(p), to);
                }
            };
        }
    }
    ops
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// `World` checks the core after every event; here only that it goes on living.
    #[test]
    fn random_lives_keep_the_core_consistent(
        kind in any::<u8>(),
        happenings in prop::collection::vec(happening(), 1..120),
    ) {
        let mut w = World::new(topology(4, 2, 4, 4), temper(kind));
        for (i, what) in happenings.iter().enumerate() {
            happen(&mut w, what);
            if i % 3 == 0 {
                w.settle();
            }
        }
        w.settle();
        let info = w.core.exit_info().map(|info| (info.kind, info.message.clone()));
        let fine = info.as_ref().is_none_or(|&(kind, _)| kind == scx::SCX_EXIT_UNREG);
        prop_assert!(fine, "{:?}", info);
    }
}
