//! Rules between the parts of the core that hold between any two events.

use harena_abi::{Tid, scx};

use crate::dsq::DsqRef;
use crate::task::{OpsState, RunState};
use crate::{Class, Core, TaskState};

impl Core {
    /// Panics if a rule between the parts is broken. For tests and checkers; O(tasks).
    ///
    /// Every runnable task is in exactly one place: on a CPU, on a queue, with the
    /// scheduler, or on a deferred list. Counts agree with what they count.
    pub fn assert_consistent(&self) {
        let mut running = vec![0u32; self.rqs.len()];
        for p in self.tasks.tids() {
            let t = self.t(p);
            if t.run == RunState::Runnable {
                running[t.cpu.index()] += 1;
            }
            if t.class == Class::Ext {
                self.assert_ext_task(p);
            } else {
                assert!(
                    self.dsqs.dsq_of(p).is_none(),
                    "{p:?} is not ext but on a DSQ"
                );
            }
        }
        for cpu in self.topology.cpus() {
            let rq = self.rq(cpu);
            assert_eq!(rq.nr_running, running[cpu.index()], "nr_running of {cpu:?}");
            assert!(
                !rq.in_schedule && !rq.in_dispatch && !rq.in_wakeup,
                "{cpu:?} in mid-event"
            );
            if let Some(p) = rq.curr {
                assert_eq!(
                    self.t(p).cpu,
                    cpu,
                    "{p:?} is current on another CPU than its own"
                );
            }
            let immed = self.dsqs.tasks(DsqRef::Local(cpu));
            let immed = immed
                .filter(|&p| self.t(p).has(scx::SCX_TASK_IMMED))
                .count();
            assert_eq!(rq.nr_immed as usize, immed, "nr_immed of {cpu:?}");
            let local = self.dsqs.tasks(DsqRef::Local(cpu)).count();
            assert_eq!(self.dsqs.nr(DsqRef::Local(cpu)) as usize, local);
        }
        assert!(self.op.is_none(), "a callback runs between events");
    }

    fn assert_ext_task(&self, p: Tid) {
        let t = self.t(p);
        let queued = t.has(scx::SCX_TASK_QUEUED);
        assert_eq!(t.state(), TaskState::Enabled, "{p:?} is ext");
        assert_eq!(
            queued,
            t.run == RunState::Runnable,
            "{p:?} QUEUED against runnable"
        );
        assert!(t.sticky_cpu.is_none() && !t.migrating, "{p:?} in mid-move");
        let current = self.is_current(p);
        assert_eq!(
            self.runnable_links.is_linked(p),
            queued && !current,
            "{p:?} on the runnable list"
        );
        let deferred = self.rq(t.cpu).deferred.locals.contains(&p);
        let places = [
            current,
            self.dsqs.dsq_of(p).is_some(),
            matches!(t.ops_state, OpsState::Queued(_)),
            deferred,
        ];
        let places = places.iter().filter(|&&here| here).count();
        let stranded = u64::from(t.reenq_cnt) > scx::SCX_REENQ_MAX_REPEAT;
        if queued && !stranded {
            assert_eq!(places, 1, "{p:?} is in {places} places: {t:?}");
        } else if !queued {
            assert_eq!(
                places, 0,
                "{p:?} does not run but is in {places} places: {t:?}"
            );
        }
        if let Some(DsqRef::Local(cpu)) = self.dsqs.dsq_of(p) {
            assert_eq!(t.cpu, cpu, "{p:?} is on the local DSQ of another CPU");
        }
    }
}
