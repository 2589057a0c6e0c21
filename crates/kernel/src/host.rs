//! The kernel behind a running program: clock, current task, kfuncs, timers.

use harena_abi::{Cpu, KernAddr, SimTime, Tid};
use harena_scx::Cx;
use harena_vm::{Abort, Call, CurrentTask, Host, Object, TimerArm, TimerId};

use crate::kfuncs::{self, Kf};
use crate::reg::as_u32;
use crate::sched::Attached;
use crate::state::State;
use crate::tracing::call_helper;

/// What a program can reach while it runs inside a callback.
pub(crate) struct KernelHost<'a, 'c> {
    pub(crate) st: &'a mut State,
    pub(crate) cx: &'a mut Cx<'c>,
}

impl KernelHost<'_, '_> {
    fn curr(&self) -> Option<Tid> {
        self.cx.core.current(self.cpu())
    }
}

impl Host for KernelHost<'_, '_> {
    fn kfunc(&mut self, call: &mut Call<'_>, id: u32, args: [u64; 5]) -> Result<u64, Abort> {
        let Some(kfunc) = self.st.kfuncs.get(id as usize).copied() else {
            return Err(call.host_error(format!("no kfunc has the number {id}")));
        };
        let is_traced = self.st.tracing.traces_kfunc(id);
        if is_traced {
            Attached::new(call.vm, self.st).trace_call(self.cx, id, args);
        }
        let (st, cx) = (&mut *self.st, &mut *self.cx);
        let ret = (kfunc.body)(&mut Kf { st, cx, call }, args)?;
        if is_traced {
            Attached::new(call.vm, self.st).trace_returned(self.cx, id, args, ret);
        }
        Ok(ret)
    }

    fn helper(
        &mut self,
        call: &mut Call<'_>,
        id: u32,
        args: [u64; 5],
    ) -> Result<Option<u64>, Abort> {
        call_helper(self.st.frame().as_ref(), call, id, args)
    }

    fn give_back(&mut self, call: &mut Call<'_>, object: Object, addr: u64) {
        let (st, cx) = (&mut *self.st, &mut *self.cx);
        kfuncs::give_back(&mut Kf { st, cx, call }, object, addr);
    }

    fn now(&self) -> SimTime {
        self.cx.machine.now()
    }

    fn cpu(&self) -> Cpu {
        self.cx.machine.this_cpu()
    }

    fn current_task(&self) -> KernAddr {
        match self.curr() {
            Some(tid) => self.st.places.task(tid),
            None => self.st.places.idle_task(self.cpu()),
        }
    }

    fn current(&self) -> CurrentTask {
        let task = self.current_task();
        let root = |pid: Tid, comm: String| CurrentTask {
            task,
            pid,
            tgid: pid,
            uid: 0,
            gid: 0,
            comm,
        };
        match self.curr() {
            Some(tid) => {
                let comm = self.cx.core.task(tid).map_or("", |view| view.comm);
                root(tid, comm.to_owned())
            }
            None => root(Tid::new(0), format!("swapper/{}", self.cpu())),
        }
    }

    fn numa_node(&self) -> u32 {
        let topology = self.cx.core.topology();
        topology.get(self.cpu()).map_or(0, |t| t.node)
    }

    fn random(&mut self) -> u32 {
        as_u32(self.cx.machine.random())
    }

    fn timer_arm(&mut self, arm: TimerArm) {
        let key = u64::from(arm.timer.raw());
        let context = self.st.context();
        self.st.timers.insert(key, (arm.timer, context));
        self.cx.machine.timer_arm(key, arm.cpu, arm.at);
    }

    fn timer_cancel(&mut self, timer: TimerId) {
        self.st.timers.remove(&timer.raw().into());
        self.cx.machine.timer_cancel(timer.raw().into());
    }
}
