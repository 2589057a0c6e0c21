//! What programs can attach to: the tables, and what a section's name means by them.
//!
//! A row stands here only if the simulation comes by that place and its arguments are true
//! (`docs/design/0009-tracing.md`). A program that names anything else never fires.

use harena_bpf::{KFUNC_ADDRESS_BASE, ProgType, Program};
use harena_scx::{Form, MomentKind};

use crate::kfuncs;
use crate::types::ctype::field;
use crate::types::proto::Proto;
use crate::types::trace::{
    pt_regs, trace_entry, trace_event_raw_cpu, trace_event_raw_sched_ext_dump,
    trace_event_raw_sched_ext_event, trace_event_raw_sched_migrate_task,
    trace_event_raw_sched_process_exit, trace_event_raw_sched_process_fork,
    trace_event_raw_sched_process_template, trace_event_raw_sched_stat_runtime,
    trace_event_raw_sched_switch, trace_event_raw_sched_wakeup_template, trace_event_raw_softirq,
    trace_event_raw_x86_irq_vector,
};

/// A tracepoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tracepoint {
    /// The events' directory in tracefs, as `tracepoint/…` names it.
    pub(crate) system: &'static str,
    /// Its name.
    pub(crate) name: &'static str,
    /// When.
    pub(crate) kind: MomentKind,
    /// `TP_PROTO`.
    pub(crate) proto: &'static str,
    /// Bytes of its record without the strings behind it.
    record: u64,
}

/// A function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its entry.
    pub(crate) enter: MomentKind,
    /// Its return, if that is a moment of the same event.
    pub(crate) leave: Option<MomentKind>,
    /// Its type.
    pub(crate) proto: &'static str,
    /// The form of schedulers for which it is called, if not both.
    pub(crate) form: Option<Form>,
}

macro_rules! tracepoints {
    ($($system:ident $name:ident $kind:ident $record:ident $proto:literal;)*) => {
        pub(crate) const TRACEPOINTS: &[Tracepoint] = &[$(Tracepoint {
            system: stringify!($system),
            name: stringify!($name),
            kind: MomentKind::$kind,
            proto: $proto,
            record: field!($record, __data).offset(),
        },)*];
    };
}

tracepoints! {
    sched sched_switch SchedSwitch trace_event_raw_sched_switch
        "void (bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)";
    sched sched_waking SchedWaking trace_event_raw_sched_wakeup_template
        "void (struct task_struct *p)";
    sched sched_wakeup SchedWakeup trace_event_raw_sched_wakeup_template
        "void (struct task_struct *p)";
    sched sched_wakeup_new SchedWakeupNew trace_event_raw_sched_wakeup_template
        "void (struct task_struct *p)";
    sched sched_migrate_task SchedMigrateTask trace_event_raw_sched_migrate_task
        "void (struct task_struct *p, int dest_cpu)";
    sched sched_process_fork SchedProcessFork trace_event_raw_sched_process_fork
        "void (struct task_struct *parent, struct task_struct *child)";
    sched sched_process_exit SchedProcessExit trace_event_raw_sched_process_exit
        "void (struct task_struct *p, bool group_dead)";
    sched sched_process_free SchedProcessFree trace_event_raw_sched_process_template
        "void (struct task_struct *p)";
    sched sched_stat_runtime SchedStatRuntime trace_event_raw_sched_stat_runtime
        "void (struct task_struct *tsk, u64 runtime)";
    irq_vectors local_timer_entry LocalTimerEntry trace_event_raw_x86_irq_vector
        "void (int vector)";
    irq_vectors local_timer_exit LocalTimerExit trace_event_raw_x86_irq_vector
        "void (int vector)";
    irq_vectors reschedule_entry RescheduleEntry trace_event_raw_x86_irq_vector
        "void (int vector)";
    irq_vectors reschedule_exit RescheduleExit trace_event_raw_x86_irq_vector
        "void (int vector)";
    irq_vectors irq_work_entry IrqWorkEntry trace_event_raw_x86_irq_vector "void (int vector)";
    irq_vectors irq_work_exit IrqWorkExit trace_event_raw_x86_irq_vector "void (int vector)";
    irq softirq_entry SoftirqEntry trace_event_raw_softirq "void (unsigned int vec_nr)";
    irq softirq_exit SoftirqExit trace_event_raw_softirq "void (unsigned int vec_nr)";
    power cpu_idle CpuIdle trace_event_raw_cpu
        "void (unsigned int state, unsigned int cpu_id)";
    sched_ext sched_ext_event SchedExtEvent trace_event_raw_sched_ext_event
        "void (const char *name, s64 delta)";
    sched_ext sched_ext_dump SchedExtDump trace_event_raw_sched_ext_dump
        "void (const char *line)";
}

macro_rules! functions {
    ($($name:ident $enter:ident $leave:expr, $form:expr, $proto:literal;)*) => {
        pub(crate) const FUNCTIONS: &[Function] = &[$(Function {
            name: stringify!($name),
            enter: MomentKind::$enter,
            leave: $leave,
            proto: $proto,
            form: $form,
        },)*];
    };
}

functions! {
    bpf_scx_reg EnterRegister Some(MomentKind::ReturnRegister), Some(Form::Cpu),
        "int (void *kdata, struct bpf_link *link)";
    bpf_scx_reg_cid EnterRegister Some(MomentKind::ReturnRegister), Some(Form::Cid),
        "int (void *kdata, struct bpf_link *link)";
    sched_tick EnterSchedTick Some(MomentKind::ReturnSchedTick), None, "void (void)";
    scx_tick EnterScxTick Some(MomentKind::ReturnScxTick), None, "void (struct rq *rq)";
    schedule EnterSchedule None, None, "void (void)";
    try_to_wake_up EnterTryToWakeUp Some(MomentKind::ReturnTryToWakeUp), None,
        "int (struct task_struct *p, unsigned int state, int wake_flags)";
    wake_up_new_task EnterWakeUpNewTask Some(MomentKind::ReturnWakeUpNewTask), None,
        "void (struct task_struct *p)";
}

/// Where the first of [`FUNCTIONS`] would lie; the others follow [`FUNCTION_SIZE`] bytes apart.
/// Nothing is mapped there.
const TEXT: u64 = 0xffff_ffff_8100_0000;
const FUNCTION_SIZE: u64 = 64;

/// The address of a function of the tables.
pub(crate) fn address_of(name: &str) -> Option<u64> {
    let mut numbered = (0u64..).zip(FUNCTIONS);
    let (number, _) = numbered.find(|(_, function)| function.name == name)?;
    Some(TEXT + number * FUNCTION_SIZE)
}

/// What a member of an ops table that is set points to in the kernel's copy.
pub(crate) const TRAMPOLINE: u64 = TEXT + 0x1_0000;

/// Which context a program gets, and what else may run while it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Style {
    /// `tp_btf`: arguments.
    BtfTracepoint,
    /// `raw_tp`: the same.
    RawTracepoint,
    /// `tracepoint`: a record.
    Record,
    /// `fentry`: arguments.
    Entry,
    /// `fexit`: arguments and the result.
    Exit,
    /// `kprobe`: registers.
    Probe,
    /// `kretprobe`: registers.
    ReturnProbe,
}

/// When a program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// At this moment.
    At(MomentKind),
    /// When a program calls the kfunc of this number.
    Call(u32),
    /// When that call returns.
    Returned(u32),
}

/// A program's place in the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) when: When,
    pub(crate) style: Style,
    /// Arguments without the result.
    pub(crate) nr_args: usize,
    /// Address of the function, 0 for tracepoints.
    pub(crate) ip: u64,
    /// Bytes of its record, if that is the context.
    record: u64,
}

impl Point {
    /// Bytes of the context that a program may load: those before the first are the kernel's own,
    /// and there are none from the second on.
    pub(crate) const fn readable(&self) -> (u64, u64) {
        let args = self.nr_args as u64 * 8;
        match self.style {
            Style::BtfTracepoint | Style::RawTracepoint | Style::Entry => (0, args),
            Style::Exit => (0, args + 8),
            Style::Probe | Style::ReturnProbe => (0, size_of::<pt_regs>() as u64),
            Style::Record => (size_of::<trace_entry>() as u64, self.record),
        }
    }
}

/// What becomes of a program that is not called by its object's scheduler.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// It is of a type that something else runs: a callback, or a `syscall` program.
    NotTracing,
    /// It runs where this is: `sched_switch`, `try_to_wake_up returns`.
    Fires(String),
    /// It is loaded and never runs, for this reason.
    Never(String),
}

impl Attachment {
    /// What `program` is attached to in a simulation of a scheduler of this form, if it is
    /// known.
    #[must_use]
    pub fn of(program: &Program, form: Option<Form>) -> Self {
        if let Some(ProgType::StructOps | ProgType::Syscall) = program.prog_type {
            return Self::NotTracing;
        }
        let section = retargeted(&program.name, &program.section, form);
        match point(section, form) {
            Ok(point) => Self::Fires(describe(section, point)),
            Err(why) => Self::Never(why),
        }
    }
}

fn describe(section: &str, point: Point) -> String {
    let target = section.rsplit('/').next().unwrap_or_default();
    match point.style {
        Style::BtfTracepoint | Style::RawTracepoint | Style::Record => target.to_owned(),
        Style::Entry | Style::Probe => format!("{target} is called"),
        Style::Exit | Style::ReturnProbe => format!("{target} returns"),
    }
}

/// The section that user space makes of a program's before it loads it: the probe that is in every
/// object built with scx's library looks at registration, whatever the scheduler's form.
pub(crate) fn retargeted<'a>(program: &str, section: &'a str, form: Option<Form>) -> &'a str {
    match (program, section, form) {
        ("scx_lib_init_probe", "fentry/bpf_scx_reg", Some(Form::Cid)) => "fentry/bpf_scx_reg_cid",
        _ => section,
    }
}

/// The place that a section's name stands for, or why there is none.
pub(crate) fn point(section: &str, form: Option<Form>) -> Result<Point, String> {
    let bare = section.strip_prefix('?').unwrap_or(section);
    let (kind, target) = bare.split_once('/').unwrap_or((bare, ""));
    let style = match kind {
        "tp_btf" => Style::BtfTracepoint,
        "raw_tp" | "raw_tracepoint" => Style::RawTracepoint,
        "tp" | "tracepoint" => Style::Record,
        "fentry" => Style::Entry,
        "fexit" => Style::Exit,
        "fentry.s" | "fexit.s" => return Err(format!("`{target}` is no function that may sleep")),
        "kprobe" => Style::Probe,
        "kretprobe" => Style::ReturnProbe,
        _ => return Err(format!("nothing here runs programs of section `{kind}`")),
    };
    match style {
        Style::BtfTracepoint | Style::RawTracepoint => tracepoint(style, None, target),
        Style::Record => {
            let (system, name) = target.split_once('/').unwrap_or(("", target));
            tracepoint(style, Some(system), name)
        }
        Style::Entry | Style::Exit | Style::Probe | Style::ReturnProbe => {
            function(style, target, form)
        }
    }
}

fn tracepoint(style: Style, system: Option<&str>, name: &str) -> Result<Point, String> {
    let is_it = |t: &&Tracepoint| t.name == name && system.is_none_or(|s| s == t.system);
    let found = TRACEPOINTS.iter().find(is_it);
    let found = found.ok_or_else(|| format!("the simulation has no tracepoint `{name}`"))?;
    Ok(Point {
        when: When::At(found.kind),
        style,
        nr_args: nr_args(found.proto),
        ip: 0,
        record: found.record,
    })
}

fn function(style: Style, name: &str, form: Option<Form>) -> Result<Point, String> {
    let returns = matches!(style, Style::Exit | Style::ReturnProbe);
    if let Some(found) = FUNCTIONS.iter().find(|f| f.name == name) {
        if form.is_some() && found.form.is_some_and(|only| Some(only) != form) {
            return Err(format!("`{name}` is for schedulers of the other form"));
        }
        let kind = if returns {
            found.leave
        } else {
            Some(found.enter)
        };
        let kind = kind.ok_or_else(|| format!("the return of `{name}` is in another time"))?;
        return Ok(Point {
            when: When::At(kind),
            style,
            nr_args: nr_args(found.proto),
            ip: address_of(name).expect("it is in the table"),
            record: 0,
        });
    }
    let kfunc = (0u32..).zip(kfuncs::all()).find(|(_, k)| k.name == name);
    let (id, kfunc) =
        kfunc.ok_or_else(|| format!("the simulation has no event in function `{name}`"))?;
    Ok(Point {
        when: if returns {
            When::Returned(id)
        } else {
            When::Call(id)
        },
        style,
        nr_args: nr_args(kfunc.proto),
        ip: KFUNC_ADDRESS_BASE + u64::from(id),
        record: 0,
    })
}

fn nr_args(proto: &str) -> usize {
    Proto::parse(proto).1.args.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(section: &str) -> When {
        point(section, Some(Form::Cid)).unwrap().when
    }

    fn never(section: &str) -> String {
        point(section, Some(Form::Cid)).unwrap_err()
    }

    #[test]
    fn sections_name_places() {
        let switch = When::At(MomentKind::SchedSwitch);
        for section in [
            "tp_btf/sched_switch",
            "?tp_btf/sched_switch",
            "raw_tp/sched_switch",
            "raw_tracepoint/sched_switch",
            "tp/sched/sched_switch",
            "tracepoint/sched/sched_switch",
        ] {
            assert_eq!(at(section), switch, "{section}");
        }
        assert_eq!(at("fentry/scx_tick"), When::At(MomentKind::EnterScxTick));
        assert_eq!(
            at("kretprobe/scx_tick"),
            When::At(MomentKind::ReturnScxTick)
        );
        let Ok(Point { nr_args, ip, .. }) = point("fexit/try_to_wake_up", None) else {
            panic!("it is in the table");
        };
        assert_eq!((nr_args, Some(ip)), (3, address_of("try_to_wake_up")));
        assert!(matches!(at("fentry/scx_bpf_now"), When::Call(_)));
        assert!(matches!(at("fexit/scx_bpf_now"), When::Returned(_)));
    }

    #[test]
    fn the_librarys_probe_looks_at_registration_in_both_forms() {
        let of = |program, form| {
            let section = retargeted(program, "fentry/bpf_scx_reg", Some(form));
            point(section, Some(form)).map(|point| point.when)
        };
        let registration = Ok(When::At(MomentKind::EnterRegister));
        assert_eq!(of("scx_lib_init_probe", Form::Cid), registration);
        assert_eq!(of("scx_lib_init_probe", Form::Cpu), registration);
        assert!(of("another", Form::Cid).is_err());
    }

    #[test]
    fn contexts_end_where_the_kernels_do() {
        for (section, readable) in [
            ("tp_btf/sched_switch", (0, 32)),
            ("raw_tp/sched_wakeup", (0, 8)),
            ("tp/sched/sched_switch", (8, 64)),
            ("tp/sched/sched_wakeup", (8, 36)),
            ("tp/sched/sched_migrate_task", (8, 28)),
            ("tp/sched/sched_process_exit", (8, 33)),
            ("tp/sched_ext/sched_ext_event", (8, 24)),
            ("fentry/try_to_wake_up", (0, 24)),
            ("fexit/try_to_wake_up", (0, 32)),
            ("kprobe/schedule", (0, 168)),
        ] {
            let point = point(section, None).unwrap();
            assert_eq!(point.readable(), readable, "{section}");
        }
    }

    #[test]
    fn whatever_else_never_fires_and_says_why() {
        for (section, why) in [
            ("tp_btf/task_rename", "no tracepoint `task_rename`"),
            ("tp/power/sched_switch", "no tracepoint `sched_switch`"),
            ("tp/sched_switch", "no tracepoint `sched_switch`"),
            ("fentry/vfs_read", "no event in function `vfs_read`"),
            ("kprobe/schedule+4", "no event in function `schedule+4`"),
            ("fexit/schedule", "in another time"),
            (
                "fentry.s/scx_tick",
                "`scx_tick` is no function that may sleep",
            ),
            ("fentry/bpf_scx_reg", "of the other form"),
            ("fmod_ret/schedule", "programs of section `fmod_ret`"),
            ("xdp", "programs of section `xdp`"),
            ("iter/task", "programs of section `iter`"),
            ("tp_btf", "no tracepoint ``"),
        ] {
            let said = never(section);
            assert!(said.contains(why), "{section}: {said}");
        }
        assert!(point("fentry/bpf_scx_reg", Some(Form::Cpu)).is_ok());
        assert!(point("fentry/bpf_scx_reg", None).is_ok());
    }
}
