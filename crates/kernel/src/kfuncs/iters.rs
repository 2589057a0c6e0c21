//! Iterators over tasks and cgroups (`kernel/bpf/task_iter.c`, `kernel/bpf/cgroup_iter.c`).
//!
//! Their state lies in the program's memory, as in a kernel, where a program can scribble over
//! it: what is read back is looked at again. Those over a cgroup's tasks are the exception; their
//! state is allocated in a kernel and kept by the host here.

use harena_abi::{Cpu, Errno, KernAddr, Tid};
use harena_vm::{Abort, ContextSet, Effect, Object};

use super::{Kf, kfuncs};
use crate::cgroups::{self, Css, Hierarchy};
use crate::places::TaskRef;
use crate::reg::as_u32;

/// They are in the common set: legal in every program.
const COMMON: ContextSet = ContextSet::ANY;

const TASKS: Object = Object::Iterator("bpf_iter_task");
const CSSES: Object = Object::Iterator("bpf_iter_css");
const CSS_TASKS: Object = Object::Iterator("bpf_iter_css_task");

const BPF_TASK_ITER_ALL_PROCS: u32 = 0;
const BPF_TASK_ITER_ALL_THREADS: u32 = 1;
const BPF_TASK_ITER_PROC_THREADS: u32 = 2;

const BPF_CGROUP_ITER_DESCENDANTS_PRE: u32 = 2;
const BPF_CGROUP_ITER_DESCENDANTS_POST: u32 = 3;
const BPF_CGROUP_ITER_ANCESTORS_UP: u32 = 4;
const BPF_CGROUP_ITER_CHILDREN: u32 = 5;

const CSS_TASK_ITER_PROCS: u32 = 1;
const CSS_TASK_ITER_THREADED: u32 = 2;

/// First word of a live iterator over a cgroup's tasks, with its number in the low half.
const CSS_TASKS_MAGIC: u64 = 0x6373_7374 << 32;

/// The first task: `swapper/0`.
const INIT_TASK: TaskRef = TaskRef::Idle(Cpu::new(0));

/// An iterator over a cgroup's tasks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CssTasks {
    cgroup: u64,
    /// Group leaders only.
    procs: bool,
    /// The task given last.
    last: Tid,
}

kfuncs! {
    COMMON, None, No {
        bpf_iter_task_new
            "int (struct bpf_iter_task *it, struct task_struct *task__nullable, u32 flags)"
            [Effect::Begin(TASKS)] => task_new;
        bpf_iter_task_next "struct task_struct *(struct bpf_iter_task *it)"
            [Effect::Use(TASKS)] => task_next;
        bpf_iter_task_destroy "void (struct bpf_iter_task *it)"
            [Effect::End(TASKS)] => |_, _| Ok(0);
        bpf_iter_css_new
            "int (struct bpf_iter_css *it, struct cgroup_subsys_state *start, u32 flags)"
            [Effect::Begin(CSSES)] => css_new;
        bpf_iter_css_next "struct cgroup_subsys_state *(struct bpf_iter_css *it)"
            [Effect::Use(CSSES)] => css_next;
        bpf_iter_css_destroy "void (struct bpf_iter_css *it)"
            [Effect::End(CSSES)] => |_, _| Ok(0);
        bpf_iter_css_task_next "struct task_struct *(struct bpf_iter_css_task *it)"
            [Effect::Use(CSS_TASKS)] => css_task_next;
        bpf_iter_css_task_destroy "void (struct bpf_iter_css_task *it)"
            [Effect::End(CSS_TASKS)] => |k, [it, ..]| {
                if let Some(id) = k.css_tasks(it)? {
                    k.st.css_tasks.remove(&id);
                }
                Ok(0)
            };
    }
    // It takes css_set_lock: only where nobody can hold it (check_css_task_iter_allowlist()).
    COMMON, None, Yes {
        bpf_iter_css_task_new
            "int (struct bpf_iter_css_task *it, struct cgroup_subsys_state *css, u32 flags)"
            [Effect::Begin(CSS_TASKS)] => css_task_new;
    }
}

fn task_new(k: &mut Kf<'_, '_, '_>, [it, task, flags, ..]: [u64; 5]) -> Result<u64, Abort> {
    k.needs_rcu()?;
    let flags = as_u32(flags);
    let first = match flags {
        BPF_TASK_ITER_ALL_PROCS | BPF_TASK_ITER_ALL_THREADS => Some(INIT_TASK),
        BPF_TASK_ITER_PROC_THREADS if task != 0 => Some(k.task_ref(task)?),
        _ => None,
    };
    let at = first.map_or(0, |first| k.task_addr(first));
    k.put_words(it, [at, at, flags.into()])?;
    Ok(first.map_or(Errno::EINVAL.as_reg(), |_| 0))
}

fn task_next(k: &mut Kf<'_, '_, '_>, [it, ..]: [u64; 5]) -> Result<u64, Abort> {
    k.needs_rcu_since(TASKS, it)?;
    let [task, pos, flags] = k.iter_words(it)?;
    if pos == 0 {
        return Ok(0);
    }
    let (leader, at, kind) = (k.task_ref(task)?, k.task_ref(pos)?, as_u32(flags));
    let thread = match kind {
        BPF_TASK_ITER_ALL_PROCS => None,
        _ => k.next_thread(at),
    };
    let (leader, next) = match (thread, kind) {
        (Some(thread), _) => (leader, Some(thread)),
        (None, BPF_TASK_ITER_PROC_THREADS) => (leader, None),
        (None, _) => {
            let next = k.next_leader(leader);
            (next.unwrap_or(INIT_TASK), next)
        }
    };
    let next = next.map_or(0, |next| k.task_addr(next));
    k.put_words(it, [k.task_addr(leader), next, flags])?;
    Ok(pos)
}

fn css_new(k: &mut Kf<'_, '_, '_>, [it, start, flags, ..]: [u64; 5]) -> Result<u64, Abort> {
    k.needs_rcu()?;
    let start = k.css(start)?;
    let flags = as_u32(flags);
    let (start, ret) = match flags {
        BPF_CGROUP_ITER_DESCENDANTS_PRE
        | BPF_CGROUP_ITER_DESCENDANTS_POST
        | BPF_CGROUP_ITER_ANCESTORS_UP
        | BPF_CGROUP_ITER_CHILDREN => (k.st.places.addr(start).raw(), 0),
        _ => (0, Errno::EINVAL.as_reg()),
    };
    k.put_words(it, [start, 0, flags.into()])?;
    Ok(ret)
}

/// After the end it begins again, as the kernel's does.
fn css_next(k: &mut Kf<'_, '_, '_>, [it, ..]: [u64; 5]) -> Result<u64, Abort> {
    k.needs_rcu_since(CSSES, it)?;
    let [start, pos, flags] = k.iter_words(it)?;
    if start == 0 {
        return Ok(0);
    }
    let root = k.css(start)?;
    let at = match pos {
        0 => None,
        pos => Some(k.css(pos)?),
    };
    let tree: &dyn Hierarchy = &k.st.places;
    let next = match as_u32(flags) {
        BPF_CGROUP_ITER_DESCENDANTS_PRE => cgroups::next_pre(tree, at, root),
        BPF_CGROUP_ITER_DESCENDANTS_POST => cgroups::next_post(tree, at, root),
        BPF_CGROUP_ITER_ANCESTORS_UP => at.map_or(Some(root), |at| tree.parent(at)),
        BPF_CGROUP_ITER_CHILDREN => cgroups::next_child(tree, at, root),
        _ => None,
    };
    let next = next.map_or(0, |css| tree.addr(css).raw());
    k.put_words(it, [start, next, flags])?;
    Ok(next)
}

fn css_task_new(k: &mut Kf<'_, '_, '_>, [it, css, flags, ..]: [u64; 5]) -> Result<u64, Abort> {
    const PROC_THREADS: u32 = CSS_TASK_ITER_PROCS | CSS_TASK_ITER_THREADED;
    let cgroup = k.css(css)?.cgroup;
    let procs = match as_u32(flags) {
        0 => false,
        CSS_TASK_ITER_PROCS | PROC_THREADS => true,
        _ => {
            k.put_words(it, [0])?;
            return Ok(Errno::EINVAL.as_reg());
        }
    };
    let id = k.st.next_css_tasks;
    k.st.next_css_tasks = id.wrapping_add(1);
    let last = Tid::new(0);
    let tasks = CssTasks {
        cgroup,
        procs,
        last,
    };
    k.st.css_tasks.insert(id, tasks);
    k.put_words(it, [CSS_TASKS_MAGIC | u64::from(id)])?;
    Ok(0)
}

fn css_task_next(k: &mut Kf<'_, '_, '_>, [it, ..]: [u64; 5]) -> Result<u64, Abort> {
    let Some(id) = k.css_tasks(it)? else {
        return Ok(0);
    };
    let tasks = k.st.css_tasks[&id];
    let core = &*k.cx.core;
    let is_in = |p: &Tid| {
        let task = core.task(*p);
        task.is_some_and(|view| view.cgroup == tasks.cgroup && !(tasks.procs && view.tgid != *p))
    };
    let next = core.tasks_after(tasks.last).find(is_in);
    if let Some(p) = next {
        k.st.css_tasks.insert(id, CssTasks { last: p, ..tasks });
    }
    Ok(k.task_ptr(next))
}

impl Kf<'_, '_, '_> {
    /// `KF_RCU_PROTECTED`.
    fn needs_rcu(&self) -> Result<(), Abort> {
        if self.call.in_rcu(None) {
            return Ok(());
        }
        let name = self.call.name();
        Err(self.call.host_error(format!(
            "kernel func {name} requires RCU critical section protection"
        )))
    }

    /// The section in which the iterator was created must still be open.
    fn needs_rcu_since(&self, object: Object, it: u64) -> Result<(), Abort> {
        if self.call.in_rcu(Some((object, it))) {
            return Ok(());
        }
        let name = self.call.name();
        Err(self
            .call
            .host_error(format!("expected an RCU CS when using {name}")))
    }

    fn iter_words<const N: usize>(&self, it: u64) -> Result<[u64; N], Abort> {
        let mut words = [0; N];
        for (word, number) in words.iter_mut().zip(0..) {
            let at = KernAddr::new(it.wrapping_add(number * 8));
            let read = self.mem().read_u64(at);
            *word = read.map_err(|fault| self.bad_memory(&fault))?;
        }
        Ok(words)
    }

    fn put_words<const N: usize>(&self, it: u64, words: [u64; N]) -> Result<(), Abort> {
        for (word, number) in words.into_iter().zip(0..) {
            let at = KernAddr::new(it.wrapping_add(number * 8));
            let written = self.mem().write_u64(at, word);
            written.map_err(|fault| self.bad_memory(&fault))?;
        }
        Ok(())
    }

    fn task_addr(&self, task: TaskRef) -> u64 {
        match task {
            TaskRef::Task(tid) => self.st.places.task(tid).raw(),
            TaskRef::Idle(cpu) => self.st.places.idle_task(cpu).raw(),
        }
    }

    /// `__next_thread()`: the next younger task of the same group.
    fn next_thread(&self, pos: TaskRef) -> Option<TaskRef> {
        let TaskRef::Task(pos) = pos else {
            return None;
        };
        let core = &*self.cx.core;
        let tgid = |p: Tid| core.task(p).map(|view| view.tgid);
        let group = tgid(pos);
        let mut younger = core.tasks_after(pos);
        younger.find(|p| tgid(*p) == group).map(TaskRef::Task)
    }

    /// `next_task()`: the next younger group leader; `None` is the first task again.
    fn next_leader(&self, leader: TaskRef) -> Option<TaskRef> {
        let core = &*self.cx.core;
        let after = match leader {
            TaskRef::Task(tid) => tid,
            TaskRef::Idle(_) => Tid::new(0),
        };
        let leads = |p: &Tid| core.task(*p).is_some_and(|view| view.tgid == *p);
        core.tasks_after(after).find(leads).map(TaskRef::Task)
    }

    fn css(&self, ptr: u64) -> Result<Css, Abort> {
        let css = self.st.places.at(KernAddr::new(ptr));
        css.ok_or_else(|| {
            self.call
                .bad_argument(format!("{ptr:#x} is not a cgroup_subsys_state"))
        })
    }

    /// The iterator in a program's storage; `None` if creating it had failed.
    fn css_tasks(&self, it: u64) -> Result<Option<u32>, Abort> {
        let [word] = self.iter_words(it)?;
        let id = as_u32(word);
        if word == 0 {
            return Ok(None);
        }
        if word & (u64::MAX << 32) != CSS_TASKS_MAGIC || !self.st.css_tasks.contains_key(&id) {
            return Err(self
                .call
                .bad_argument(format!("{it:#x} is no initialised iterator")));
        }
        Ok(Some(id))
    }
}
