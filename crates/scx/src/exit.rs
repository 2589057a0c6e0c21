//! Leaving (`scx_vexit()`, `scx_disable_workfn()`).
//!
//! ```text
//! claimed (first wins, anywhere) ──next event──► dump ► bypass ► tasks leave ► ops.exit ► gone
//! ```
//!
//! An error never interrupts the program that raised it. It is recorded, queues stop
//! yielding, and the scheduler goes at the next event boundary.

use harena_abi::{Cpu, scx};

use crate::core::{DirectDispatch, OpCx};
use crate::rq::{Deferred, Kicks};
use crate::sched::{EnableState, OpSet};
use crate::{Class, Core, Env, Event, ExitInfo, Machine, Op};

/// The kernel's text for an exit kind.
pub(crate) fn exit_reason(kind: u32) -> &'static str {
    match kind {
        scx::SCX_EXIT_UNREG => "unregistered from user space",
        scx::SCX_EXIT_UNREG_BPF => "unregistered from BPF",
        scx::SCX_EXIT_UNREG_KERN => "unregistered from the main kernel",
        scx::SCX_EXIT_SYSRQ => "disabled by sysrq-S",
        scx::SCX_EXIT_PARENT => "parent exiting",
        scx::SCX_EXIT_PARENT_KILL => "killed by parent scheduler",
        scx::SCX_EXIT_ERROR => "runtime error",
        scx::SCX_EXIT_ERROR_BPF => "scx_bpf_error",
        scx::SCX_EXIT_ERROR_STALL => "runnable task stall",
        scx::SCX_EXIT_ERROR_REENQ => "reenqueue limit",
        scx::SCX_EXIT_ERROR_RESCUE => "rescue bandwidth overload",
        _ => "<UNKNOWN>",
    }
}

impl Core {
    /// `scx_exit()`: claims the exit; false if somebody did before.
    pub(crate) fn claim_exit(&mut self, kind: u32, code: i64, cpu: Option<Cpu>, why: &str) -> bool {
        let gone = matches!(
            self.sched.state,
            EnableState::Disabled | EnableState::Disabling
        );
        if gone || self.sched.exit.is_some() {
            return false;
        }
        let limit = usize::try_from(scx::SCX_EXIT_MSG_LEN).expect("small") - 1;
        self.sched.aborting = true;
        self.sched.exit = Some(ExitInfo {
            kind,
            code,
            flags: if self.sched.initialized {
                scx::SCX_EFLAG_INITIALIZED
            } else {
                0
            },
            cpu,
            reason: exit_reason(kind).to_owned(),
            message: truncate(why, limit),
            dump: String::new(),
            stall: None,
        });
        true
    }

    /// `scx_error()`: ends the scheduler with kind `SCX_EXIT_ERROR`, unless it is leaving already.
    pub fn error(&mut self, machine: &mut dyn Machine, why: &str) {
        let this = machine.this_cpu();
        self.claim_exit(scx::SCX_EXIT_ERROR, 0, Some(this), why);
    }

    /// `scx_cpu_valid()`.
    pub(crate) fn cpu_valid(
        &mut self,
        machine: &mut dyn Machine,
        raw: i32,
        at: &str,
    ) -> Option<Cpu> {
        let cpu = Cpu::from_s32(raw).filter(|&cpu| self.topology.get(cpu).is_some());
        if cpu.is_none() {
            let space = if at.is_empty() { "" } else { " " };
            self.error(machine, &format!("invalid CPU {raw}{space}{at}"));
        }
        cpu
    }

    /// `scx_ops_sanitize_err()`: a callback's failure as a negative errno.
    pub(crate) fn sanitize_err(&mut self, machine: &mut dyn Machine, op: &str, ret: i32) -> i32 {
        if (-4095..0).contains(&ret) {
            return ret;
        }
        let why = format!("ops.{op}() returned an invalid errno {ret}");
        self.error(machine, &why);
        harena_abi::Errno::EPROTO.as_ret()
    }

    /// Asks for the scheduler to go (`SCX_EXIT_UNREG`); [`Core::process_exit`] does it.
    pub fn unregister(&mut self) {
        self.claim_exit(scx::SCX_EXIT_UNREG, 0, None, "");
    }

    /// Whether an exit was claimed and [`Core::process_exit`] has work to do. To be asked
    /// after every event.
    #[must_use]
    pub fn exit_pending(&self) -> bool {
        self.sched.exit.is_some()
    }

    /// The asynchronous half of an exit: dump, disable, `ops.exit`. True if there was one.
    pub fn process_exit(&mut self, env: &mut Env<'_>) -> bool {
        let Some(mut info) = self.sched.exit.clone() else {
            return false;
        };
        if info.kind >= scx::SCX_EXIT_ERROR {
            info.dump = self.make_dump(env, &info);
        }
        self.bypass_begin(env);
        self.sched.state = EnableState::Disabling;
        self.sched.switching_all = false;
        let tids: Vec<_> = self.tasks.tids().collect();
        for p in tids {
            self.change_class(env, p, Class::Fair, |_, _| {});
            self.disable_and_exit_task(env, p);
        }
        let has_exit = self.sched.set.has(Op::Exit);
        self.sched.init_task_enabled = false;
        self.sched.enabled = false;
        self.sched.has = OpSet::default();
        self.sched.builtin_idle = false;
        self.log_exit(&info);
        if has_exit {
            self.call_bare(env, Op::Exit, None, |ops, cx| ops.exit(cx, &info));
        }
        if std::mem::take(&mut self.sched.prepared) {
            self.run_unlocked(env, Op::Exit, |ops, cx| ops.release(cx));
        }
        self.reset_after_exit(env.machine);
        env.machine.note(Event::Exit(info.clone()));
        self.exit_info = Some(info);
        true
    }

    fn log_exit(&mut self, info: &ExitInfo) {
        let name = self.sched.name.clone();
        let reason = &info.reason;
        let line = format!("sched_ext: BPF scheduler \"{name}\" disabled ({reason})");
        self.sched.log.push(line);
        if info.kind >= scx::SCX_EXIT_ERROR && !info.message.is_empty() {
            let line = format!("sched_ext: {name}: {}", info.message);
            self.sched.log.push(line);
        }
    }

    /// Calls into the scheduler outside of any callback that the kernel knows.
    pub(crate) fn run_unlocked<R>(
        &mut self,
        env: &mut Env<'_>,
        like: Op,
        f: impl FnOnce(&mut dyn crate::SchedOps, &mut crate::Cx<'_>) -> R,
    ) -> R {
        let outer = self.op.replace(OpCx {
            op: like,
            rq: None,
            tasks: [None, None],
            ddsp: DirectDispatch::No,
        });
        let ret = f(
            &mut *env.ops,
            &mut crate::Cx {
                core: self,
                machine: &mut *env.machine,
            },
        );
        self.op = outer;
        ret
    }

    fn reset_after_exit(&mut self, machine: &mut dyn Machine) {
        self.dsqs.destroy_all();
        self.sched.exit = None;
        self.sched.aborting = false;
        self.sched.bypass_depth = 0;
        self.sched.slice_dfl = scx::SCX_SLICE_DFL;
        self.sched.state = EnableState::Disabled;
        for cpu in self.topology.cpus() {
            let rq = self.rq_mut(cpu);
            rq.bypassing = false;
            rq.idle_renotify = false;
            rq.kicks = Kicks::default();
            rq.deferred = Deferred::default();
            self.resched(machine, cpu);
        }
    }
}

/// The first `limit` bytes of `text`, cut at a character.
pub(crate) fn truncate(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
