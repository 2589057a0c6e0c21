//! The root cgroup, as far as schedulers walk to it from a task.

use super::ctype::{Const, Ptr, ctypes};

ctypes! {
    /// A node of the cgroup file system.
    struct kernfs_node {
        name: Ptr<Const<i8>>,
        id: u64,
    }
    /// A controller's state in a cgroup.
    struct cgroup_subsys_state {
        cgroup: Ptr<cgroup>,
        id: i32,
        parent: Ptr<cgroup_subsys_state>,
    }
    /// A cgroup.
    struct cgroup {
        self_: cgroup_subsys_state,
        level: i32,
        kn: Ptr<kernfs_node>,
        ancestors: [Ptr<cgroup>; 1],
    }
    /// The cgroups a task is in.
    struct css_set {
        dfl_cgrp: Ptr<cgroup>,
    }
    /// The cpu controller's part of a cgroup.
    struct task_group {
        css: cgroup_subsys_state,
    }
}
