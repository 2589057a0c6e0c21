//! Kfuncs on cgroups. There is one, the root.

use harena_vm::{Abort, Effect, Object};

use super::{Kf, context, kfuncs};
use crate::cgroups::ROOT_ID;
use crate::reg::as_s32;

/// A counted reference to a cgroup.
const CGROUP: Object = Object::Reference("cgroup");

kfuncs! {
    context::ANY, None, No {
        scx_bpf_task_cgroup "struct cgroup *(struct task_struct *p)" [Effect::Result(CGROUP)]
            => |k, [p, ..]| {
                let p = k.task(p)?;
                let (core, machine) = k.core();
                core.kf_task_cgroup(machine, p);
                Ok(k.st.places.root_cgroup().raw())
            };
        bpf_cgroup_from_id "struct cgroup *(u64 cgid)" [Effect::Result(CGROUP)]
            => |k, [id, ..]| Ok(k.cgroup(id == ROOT_ID));
        bpf_cgroup_acquire "struct cgroup *(struct cgroup *cgrp)" [Effect::Result(CGROUP)]
            => |_, [cgrp, ..]| Ok(cgrp);
        bpf_cgroup_release "void (struct cgroup *cgrp)" [Effect::End(CGROUP)] => |_, _| Ok(0);
        bpf_cgroup_ancestor "struct cgroup *(struct cgroup *cgrp, int level)"
            [Effect::Result(CGROUP)] => |k, [cgrp, level, ..]| {
                k.check_cgroup(cgrp)?;
                Ok(k.cgroup(as_s32(level) == 0))
            };
        bpf_task_under_cgroup "s64 (struct task_struct *task, struct cgroup *ancestor)"
            => |k, [task, ancestor, ..]| {
                k.task_ref(task)?;
                k.check_cgroup(ancestor)?;
                // Every task is under the root.
                Ok(1)
            };
        // No hierarchy of version 1 is mounted.
        bpf_task_get_cgroup1 "struct cgroup *(struct task_struct *task, int hierarchy_id)"
            [Effect::Result(CGROUP)] => |k, [task, ..]| k.task_ref(task).map(|_| 0);
    }
}

impl Kf<'_, '_, '_> {
    fn cgroup(&self, exists: bool) -> u64 {
        if exists {
            self.st.places.root_cgroup().raw()
        } else {
            0
        }
    }

    fn check_cgroup(&self, cgrp: u64) -> Result<(), Abort> {
        if cgrp == self.st.places.root_cgroup().raw() {
            return Ok(());
        }
        Err(self.call.bad_argument(format!("{cgrp:#x} is not a cgroup")))
    }
}
