//! Attaching a scheduler (`scx_root_enable_workfn()`).
//!
//! ```text
//! cid tables ► watchdog ► idle masks ► init_cids ► arena pool ► init ► checks
//!   ► bypass on ► init_task of every task ► tasks become ext ► bypass off
//! ```
//!
//! Only a table that could not even be loaded makes `enable` fail. Everything after
//! that goes through the exit path, `ops.exit` included, as in the kernel.

use harena_abi::{Errno, Tid, scx};

use crate::sched::{EnableState, Sched};
use crate::{CidMap, Class, Core, EnableError, Env, Form, Function, Op, OpsConfig, TaskState};

/// A step failed; the number is for the message.
struct Failed(i32);

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        Self(errno.as_ret())
    }
}

/// What loading the struct_ops map checks (`bpf_scx_init_member()`).
fn check_members(config: &OpsConfig) -> Result<(), EnableError> {
    let max = u32::try_from(i32::MAX).expect("positive");
    let max_timeout = u32::try_from(scx::SCX_WATCHDOG_MAX_TIMEOUT).expect("small");
    let unknown = config.flags & !scx::SCX_OPS_ALL_FLAGS;
    if config.name.is_empty() {
        Err(EnableError::NoName)
    } else if config.name.len() >= usize::try_from(scx::SCX_OPS_NAME_LEN).expect("small") {
        let len = config.name.len();
        Err(EnableError::NameTooLong { len })
    } else if unknown != 0 {
        let flags = config.flags;
        Err(EnableError::UnknownFlags { flags, unknown })
    } else if config.dispatch_max_batch > max {
        let batch = config.dispatch_max_batch;
        Err(EnableError::MaxBatch { batch, max })
    } else if config.timeout_ms > max_timeout {
        let timeout_ms = config.timeout_ms;
        let max = max_timeout;
        Err(EnableError::Timeout { timeout_ms, max })
    } else {
        Ok(())
    }
}

impl Core {
    /// Attaches `env.ops`. An error is what loading the ops table would return; any later
    /// failure shows up as an exit, as in the kernel.
    pub fn enable(&mut self, env: &mut Env<'_>) -> Result<(), EnableError> {
        if self.sched.state != EnableState::Disabled {
            return Err(EnableError::Busy);
        }
        let config = env.ops.config().clone();
        check_members(&config)?;
        self.sched = Sched::new(&config, self.config.hz);
        self.exit_info = None;
        self.trace_enter(env, Function::Register);
        for rq in &mut self.rqs {
            rq.events = crate::EventStats::default();
            rq.cpu_released = false;
            rq.cpuperf_target = 1024;
        }
        let done = self
            .prepare_sched(env, &config)
            .and_then(|()| self.take_over(env));
        if let Err(Failed(errno)) = done {
            self.error(env.machine, &format!("scx_root_enable() failed ({errno})"));
        }
        // What failed is told through the exit.
        self.trace_return(env, Function::Register, 0);
        Ok(())
    }

    /// Up to `ops.init` and the checks after it; no task is touched.
    fn prepare_sched(&mut self, env: &mut Env<'_>, config: &OpsConfig) -> Result<(), Failed> {
        self.cids = CidMap::assign(&self.topology, &self.online, self.sched.shard_size);
        self.arm_watchdog(env.machine);
        let nr_nodes = self.topology.nr_nodes();
        let per_node = self.sched.idle_per_node;
        self.idle.reset(per_node, nr_nodes, &mut *self.image);
        if config.form == Form::Cid && config.has.contains(&Op::InitCids) {
            let ret = self.call_bare(env, Op::InitCids, None, |ops, cx| ops.init_cids(cx));
            self.check_ret(env, "init_cids", ret)?;
        }
        self.sched.prepared = true;
        self.run_unlocked(env, Op::Init, |ops, cx| ops.prepare(cx))?;
        if config.has.contains(&Op::Init) {
            let ret = self.call_bare(env, Op::Init, None, |ops, cx| ops.init(cx));
            self.check_ret(env, "init", ret)?;
        }
        self.sched.initialized = true;
        self.check_hotplug_seq(env, config.hotplug_seq)?;
        self.validate_ops(env, config)
    }

    fn check_ret(&mut self, env: &mut Env<'_>, op: &str, ret: i32) -> Result<(), Failed> {
        if ret == 0 {
            return Ok(());
        }
        let errno = self.sanitize_err(env.machine, op, ret);
        self.error(env.machine, &format!("ops.{op}() failed ({errno})"));
        Err(Failed(errno))
    }

    fn check_hotplug_seq(&mut self, env: &mut Env<'_>, expected: u64) -> Result<(), Failed> {
        let actual = self.hotplug_seq;
        if expected == 0 || expected == actual {
            return Ok(());
        }
        let why = format!("expected hotplug seq {expected} did not match actual {actual}");
        let code = scx::SCX_ECODE_ACT_RESTART | scx::SCX_ECODE_RSN_HOTPLUG;
        let this = env.machine.this_cpu();
        let kind = scx::SCX_EXIT_UNREG_KERN;
        self.claim_exit(kind, code.cast_signed(), Some(this), &why);
        Err(Errno::EBUSY.into())
    }

    /// `validate_ops()`.
    fn validate_ops(&mut self, env: &mut Env<'_>, config: &OpsConfig) -> Result<(), Failed> {
        let lacks_enqueue = !config.has.contains(&Op::Enqueue);
        if self.sched.has_flag(scx::SCX_OPS_ENQ_LAST) && lacks_enqueue {
            let why = "SCX_OPS_ENQ_LAST requires ops.enqueue() to be implemented";
            self.error(env.machine, why);
            return Err(Errno::EINVAL.into());
        }
        if self.sched.idle_per_node && !self.sched.builtin_idle {
            let why = "SCX_OPS_BUILTIN_IDLE_PER_NODE requires CPU idle selection enabled";
            self.error(env.machine, why);
            return Err(Errno::EINVAL.into());
        }
        if config.has.contains(&Op::CpuAcquire) || config.has.contains(&Op::CpuRelease) {
            self.sched.has_cpu_preempt = true;
            self.sched.log.push(
                "ops->cpu_acquire/release() are deprecated, use sched_switch TP instead".into(),
            );
        }
        Ok(())
    }

    /// Initialises every task and moves it in, under bypass.
    fn take_over(&mut self, env: &mut Env<'_>) -> Result<(), Failed> {
        self.bypass_begin(env);
        self.sched.has = self.sched.set;
        self.sched.init_task_enabled = true;
        let tids: Vec<Tid> = self.tasks.tids().collect();
        for &p in &tids {
            if let Err(errno) = self.init_task(env, p, false) {
                let who = self.who(p);
                let why = format!("ops.init_task() failed ({errno}) for {who}");
                self.error(env.machine, &why);
                return Err(Failed(errno));
            }
            self.set_state(p, scx::SCX_TASK_READY);
        }
        self.sched.switching_all = !self.sched.has_flag(scx::SCX_OPS_SWITCH_PARTIAL);
        self.sched.enabled = true;
        for &p in &tids {
            if self.t(p).state() == TaskState::Ready {
                self.switch_in(env, p);
            }
        }
        self.bypass_end(env);
        if self.sched.exit.is_some() {
            return Err(Errno::EBUSY.into());
        }
        self.sched.state = EnableState::Enabled;
        let partial = if self.sched.switching_all {
            ""
        } else {
            " (partial)"
        };
        let name = &self.sched.name;
        let line = format!("sched_ext: BPF scheduler \"{name}\" enabled{partial}");
        self.sched.log.push(line);
        Ok(())
    }

    fn switch_in(&mut self, env: &mut Env<'_>, p: Tid) {
        let class = self.class_of_policy(self.t(p).policy);
        let slice = self.sched.slice_dfl;
        self.change_class(env, p, class, |core, _| {
            if class == Class::Ext {
                core.set_task_slice(p, slice);
            }
        });
    }
}
