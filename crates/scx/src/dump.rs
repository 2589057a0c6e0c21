//! The debug dump of an error exit (`scx_dump_state()`).
//!
//! An outline of the kernel's text: what happened, the scheduler's own text, every CPU
//! with something to show and its waiting tasks, the event counters. Text of the
//! scheduler's callbacks goes line by line under the section's indentation.

use harena_abi::{Cpu, Tid, scx};

use crate::exit::truncate;
use crate::task::OpsState;
use crate::{Class, Core, DumpCtx, Env, ExitInfo, Machine, Moment, Op};

/// Longest dump, whatever `exit_dump_len` says: a scheduler must not fill the host's memory.
const DUMP_LEN_MAX: usize = 16 << 20;
const TRUNCATED: &str = "\n\n~~~~ TRUNCATED ~~~~\n";

/// The text so far, and an unfinished line of the scheduler's.
#[derive(Debug)]
pub(crate) struct DumpBuf {
    text: String,
    limit: usize,
    indent: &'static str,
    line: String,
    /// A dump callback runs: `scx_bpf_dump` is legal.
    open: bool,
}

impl DumpBuf {
    fn new(limit: usize) -> Self {
        Self {
            text: String::new(),
            limit: limit.min(DUMP_LEN_MAX),
            indent: "",
            line: String::new(),
            open: false,
        }
    }

    fn line(&mut self, text: &str) {
        // Beyond the limit nothing is kept but the fact.
        if self.text.len() <= self.limit {
            self.text.push_str(text);
            self.text.push('\n');
        }
    }

    fn push(&mut self, text: &str) {
        self.line.push_str(text);
        while let Some(end) = self.line.find('\n') {
            let rest = self.line.split_off(end + 1);
            let line = std::mem::replace(&mut self.line, rest);
            let line = format!("{}{}", self.indent, line.trim_end_matches('\n'));
            self.line(&line);
        }
        let limit = usize::try_from(scx::SCX_EXIT_MSG_LEN).expect("small");
        if self.line.len() > limit {
            self.line = truncate(&self.line, limit);
        }
    }

    fn finish(mut self) -> String {
        let limit = self.limit.saturating_sub(1);
        if self.text.len() > limit {
            let keep = limit.saturating_sub(TRUNCATED.len());
            self.text = truncate(&self.text, keep);
            self.text.push_str(TRUNCATED);
        }
        self.text
    }
}

impl Core {
    /// The dump for `info`, with the scheduler's callbacks run.
    pub(crate) fn make_dump(&mut self, env: &mut Env<'_>, info: &ExitInfo) -> String {
        let now = env.machine.now();
        let ctx = DumpCtx {
            kind: info.kind,
            exit_code: info.code,
            reason: crate::exit::exit_reason(info.kind),
            at: now,
            at_jiffies: self.jiffies(now),
        };
        let mut head = DumpBuf::new(self.sched.exit_dump_len);
        head.line(&format!("{}: root", self.sched.name));
        let who = match info.cpu.and_then(|cpu| self.rq(cpu).curr) {
            Some(p) => self.who(p),
            None => "swapper[0]".to_owned(),
        };
        let cpu = info.cpu.map_or(-1, Cpu::as_s32);
        let kind = info.kind;
        head.line(&format!("{who} triggered exit kind {kind} on CPU {cpu}:"));
        head.line(&format!("  {} ({})", info.reason, info.message));
        head.line("");
        self.sched.dump = Some(head);
        self.dump_op(env, Op::Dump, "", |ops, cx| ops.dump(cx, &ctx));
        self.dump_line("");
        self.dump_line("CPU states");
        self.dump_line("----------");
        for cpu in self.topology.cpus() {
            self.dump_cpu(env, &ctx, cpu);
        }
        self.dump_line("");
        self.dump_line("Event counters");
        self.dump_line("--------------");
        for (name, count) in self.event_stats().iter() {
            self.dump_line(&format!("{name:>40}: {count:>16}"));
        }
        let dump = self.sched.dump.take();
        let text = dump.map_or_else(String::new, DumpBuf::finish);
        for line in text.lines() {
            self.trace(env, Moment::SchedExtDump(line));
        }
        text
    }

    fn dump_line(&mut self, text: &str) {
        if let Some(dump) = &mut self.sched.dump {
            dump.line(text);
        }
    }

    fn dump_op(
        &mut self,
        env: &mut Env<'_>,
        op: Op,
        indent: &'static str,
        f: impl FnOnce(&mut dyn crate::SchedOps, &mut crate::Cx<'_>),
    ) {
        if !self.has_op(op) {
            return;
        }
        if let Some(dump) = &mut self.sched.dump {
            dump.indent = indent;
            dump.open = true;
        }
        self.call_bare(env, op, None, f);
        if let Some(dump) = &mut self.sched.dump {
            if !dump.line.is_empty() {
                dump.push("\n");
            }
            dump.open = false;
        }
    }

    fn dump_cpu(&mut self, env: &mut Env<'_>, ctx: &DumpCtx, cpu: Cpu) {
        let rq = self.rq(cpu);
        let idle = rq.curr.is_none() && rq.runnable.is_empty();
        if idle && !self.has_op(Op::DumpCpu) {
            return;
        }
        let flags = scx::SCX_RQ_ONLINE
            | if rq.in_dispatch {
                scx::SCX_RQ_IN_DISPATCH
            } else {
                0
            }
            | if rq.in_wakeup {
                scx::SCX_RQ_IN_WAKEUP
            } else {
                0
            };
        let head = format!(
            "CPU {:<4}: nr_run={} flags=0x{flags:x} cpu_rel={} ops_qseq={} ksync={}",
            cpu.raw(),
            rq.nr_running,
            i32::from(rq.cpu_released),
            rq.ops_qseq,
            rq.kick_sync
        );
        let class = match self.curr_class(cpu) {
            Class::Idle => "idle_sched_class",
            Class::Ext => "ext_sched_class",
            Class::Fair => "fair_sched_class",
            Class::Stop => "stop_sched_class",
        };
        let curr = rq.curr;
        let who = curr.map_or_else(|| format!("swapper/{cpu}[0]"), |p| self.who(p));
        self.dump_line("");
        self.dump_line(&head);
        self.dump_line(&format!("          curr={who} class={class}"));
        self.dump_op(env, Op::DumpCpu, "  ", |ops, cx| {
            ops.dump_cpu(cx, ctx, cpu, idle);
        });
        if let Some(p) = curr.filter(|&p| self.t(p).class == Class::Ext) {
            self.dump_task(env, ctx, p, '*');
        }
        let list = self.rq(cpu).runnable;
        let waiting: Vec<Tid> = self.runnable_links.iter(&list).collect();
        for p in waiting {
            self.dump_task(env, ctx, p, ' ');
        }
    }

    fn dump_task(&mut self, env: &mut Env<'_>, ctx: &DumpCtx, p: Tid, mark: char) {
        let t = self.t(p);
        let tick_ms = i128::from(self.tick_ns()) / 1_000_000;
        let since = (i128::from(t.runnable_at) - i128::from(ctx.at_jiffies)) * tick_ms.max(1);
        let state = (t.scx_flags & scx::SCX_TASK_STATE_MASK) >> scx::SCX_TASK_STATE_SHIFT;
        let rest = t.scx_flags & !scx::SCX_TASK_STATE_MASK;
        let (opss, qseq) = match t.ops_state {
            OpsState::None => (0, 0),
            OpsState::Queueing => (1, 0),
            OpsState::Queued(qseq) => (2, qseq),
            OpsState::Dispatching => (3, 0),
        };
        let dsq = match self.dsqs.dsq_of(p) {
            Some(r) => format!("0x{:x}", self.dsqs.id(r).raw()),
            None => "(n/a)".to_owned(),
        };
        let dsq_flags = u32::from(self.dsqs.on_priq(p));
        let sticky = t.sticky_cpu.map_or(-1, Cpu::as_s32);
        let lines = [
            String::new(),
            format!(" {mark}{} {since:+}ms", self.who(p)),
            format!(
                "      scx_state/flags={state}/0x{rest:x} dsq_flags=0x{dsq_flags:x} ops_state/qseq={opss}/{qseq}"
            ),
            format!("      sticky/holding_cpu={sticky}/-1 dsq_id={dsq}"),
            format!(
                "      dsq_vtime={} slice={} weight={}",
                self.image.dsq_vtime(p),
                self.image.slice(p),
                t.weight
            ),
            format!(
                "      cpus={:?} no_mig={}",
                t.allowed,
                u32::from(t.migration_disabled)
            ),
        ];
        for line in lines {
            self.dump_line(&line);
        }
        self.dump_op(env, Op::DumpTask, "    ", |ops, cx| {
            ops.dump_task(cx, ctx, p);
        });
    }

    /// `scx_bpf_dump_bstr`, formatted.
    pub fn kf_dump(&mut self, machine: &mut dyn Machine, text: &str) {
        match &mut self.sched.dump {
            Some(dump) if dump.open => dump.push(text),
            _ => {
                let why = "scx_bpf_dump() must only be called from ops.dump() and friends";
                self.error(machine, why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_bounded_whatever_the_scheduler_asks_for() {
        let mut dump = DumpBuf::new(usize::MAX);
        let line = "x".repeat(1000) + "\n";
        for _ in 0..20_000 {
            dump.push(&line);
        }
        let text = dump.finish();
        assert!(text.len() <= DUMP_LEN_MAX, "{} bytes", text.len());
        assert!(text.ends_with(TRUNCATED));
    }
}
