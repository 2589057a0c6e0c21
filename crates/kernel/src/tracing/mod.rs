//! Programs that look on: which are attached, where, and that none is entered twice.
//!
//! ```text
//!  LinkedProgram ──points──► Onlooker ◄── core tells a moment ── Core
//!   section name             │    ▲ ◄──── a kfunc is called ──── KernelHost
//!                            ▼    │
//!                    context, vm.run: `Attached::look` in `run.rs`
//! ```
//!
//! A program that is running on a CPU is not entered again there (`prog->active`,
//! `__bpf_prog_enter_recur()`); of `kprobe` and `tracepoint` programs no other one is, either
//! (`bpf_prog_active`, `trace_call_bpf()`). What is missed is counted.

mod context;
mod helpers;
mod points;
mod run;

use std::collections::BTreeMap;

use harena_abi::{Cpu, KernAddr};
use harena_bpf::{LinkedObject, LinkedProgram, ProgType, StructOps};
use harena_scx::{Form, MomentKind, MomentSet};
use harena_vm::{ContextSet, GuestMem, Loaded, OutOfGuestMemory, ProgId, Region};

use crate::check::{VerifyError, check_context};
use crate::kfuncs;

pub(crate) use context::CONTEXT_MAX;
pub(crate) use helpers::{Frame, call_helper};
pub use points::Attachment;
pub(crate) use points::Point;
pub(crate) use points::{FUNCTIONS, TRACEPOINTS, address_of};
use points::{Style, TRAMPOLINE, When, point, retargeted};

/// An attached program, and how often it ran.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TracingUse {
    /// Its name.
    pub program: String,
    /// Its section.
    pub section: String,
    /// Times it ran.
    pub runs: u64,
    /// Times it did not, because it or one of its kind was running.
    pub missed: u64,
}

/// A program that is loaded and never runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NeverFires {
    /// Its name.
    pub program: String,
    /// Its section.
    pub section: String,
    /// Why.
    pub why: String,
}

/// An attached program.
#[derive(Debug)]
struct Onlooker {
    prog: ProgId,
    point: Point,
    contexts: ContextSet,
    /// Whether it runs, by CPU.
    active: Vec<bool>,
    /// A program that misbehaved is taken off.
    off: bool,
    used: TracingUse,
}

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Tracing {
    attached: Vec<Onlooker>,
    never: Vec<NeverFires>,
    moments: MomentSet,
    at: BTreeMap<MomentKind, Vec<usize>>,
    calls: BTreeMap<u32, Vec<usize>>,
    returns: BTreeMap<u32, Vec<usize>>,
    /// Whether a program runs of those that run one at a time, by CPU.
    perf_active: Vec<bool>,
    /// The ops table and its link as the kernel has them, if somebody sees them.
    registered: [KernAddr; 2],
}

/// Whether a program is to be attached: not those that something else calls.
fn looks_on(program: &LinkedProgram) -> bool {
    !matches!(program.prog_type, ProgType::StructOps | ProgType::Syscall)
}

impl Tracing {
    /// Attaches the programs of an object, in its order.
    pub(crate) fn new(
        object: &LinkedObject,
        loaded: &Loaded,
        form: Form,
        nr_cpus: u32,
    ) -> Result<Self, VerifyError> {
        let mut this = Self {
            attached: Vec::new(),
            never: Vec::new(),
            moments: MomentSet::NONE,
            at: BTreeMap::new(),
            calls: BTreeMap::new(),
            returns: BTreeMap::new(),
            perf_active: vec![false; nr_cpus as usize],
            registered: [KernAddr::NULL; 2],
        };
        let programs = object.programs.iter().zip(&loaded.programs);
        for (program, id) in programs.filter(|(program, _)| looks_on(program)) {
            let section = retargeted(&program.name, &program.section, Some(form));
            match point(section, Some(form)) {
                Ok(point) => {
                    check_context(object, program, &point)?;
                    this.attach(program, *id, point);
                }
                Err(why) => this.never.push(NeverFires {
                    program: program.name.clone(),
                    section: program.section.clone(),
                    why,
                }),
            }
        }
        Ok(this)
    }

    fn attach(&mut self, program: &LinkedProgram, prog: ProgId, point: Point) {
        let index = self.attached.len();
        match point.when {
            When::At(kind) => {
                self.moments = self.moments.with(kind);
                self.at.entry(kind).or_default().push(index);
            }
            When::Call(id) => self.calls.entry(id).or_default().push(index),
            When::Returned(id) => self.returns.entry(id).or_default().push(index),
        }
        self.attached.push(Onlooker {
            prog,
            point,
            contexts: kfuncs::context_of_type(program.prog_type),
            active: vec![false; self.perf_active.len()],
            off: false,
            used: TracingUse {
                program: program.name.clone(),
                section: program.section.clone(),
                runs: 0,
                missed: 0,
            },
        });
    }

    /// Writes what programs see that look on at registration, if there are any.
    pub(crate) fn show_ops(
        &mut self,
        mem: &GuestMem,
        ops: &StructOps,
    ) -> Result<(), OutOfGuestMemory> {
        if !self.moments.has(MomentKind::EnterRegister)
            && !self.moments.has(MomentKind::ReturnRegister)
        {
            return Ok(());
        }
        let table = mem.alloc(Region::Kernel, ops.data.len() as u64, 64)?;
        let link = if ops.link {
            mem.alloc(Region::Kernel, 64, 64)?
        } else {
            KernAddr::NULL
        };
        let fits = "the table was allocated with this size";
        mem.write_bytes(table, &ops.data).expect(fits);
        let members = ops.members.iter().filter(|m| m.program.is_some());
        for (member, number) in members.zip(0u64..) {
            let at = KernAddr::new(table.raw() + u64::from(member.offset));
            mem.write_u64(at, TRAMPOLINE + number * 64).expect(fits);
        }
        self.registered = [table, link];
        Ok(())
    }

    /// The moments that have programs.
    pub(crate) const fn moments(&self) -> MomentSet {
        self.moments
    }

    /// Whether calls of a kfunc, or their returns, have programs.
    pub(crate) fn traces_kfunc(&self, id: u32) -> bool {
        self.calls.contains_key(&id) || self.returns.contains_key(&id)
    }

    /// The programs that run then, by position.
    fn at(&self, when: When) -> &[usize] {
        let at = match when {
            When::At(kind) => self.at.get(&kind),
            When::Call(id) => self.calls.get(&id),
            When::Returned(id) => self.returns.get(&id),
        };
        at.map_or(&[], Vec::as_slice)
    }

    /// Marks a program as running; false if it may not be entered.
    fn begin(&mut self, index: usize, cpu: Cpu) -> bool {
        let onlooker = &mut self.attached[index];
        if onlooker.off {
            return false;
        }
        let active = onlooker.active(&mut self.perf_active);
        if std::mem::replace(&mut active[cpu.index()], true) {
            onlooker.used.missed += 1;
            return false;
        }
        onlooker.used.runs += 1;
        true
    }

    fn end(&mut self, index: usize, cpu: Cpu) {
        let active = self.attached[index].active(&mut self.perf_active);
        let was = std::mem::replace(&mut active[cpu.index()], false);
        assert!(was, "begin and end come in pairs");
    }

    /// Takes a program off that misbehaved; gives its section.
    pub(crate) fn take_off(&mut self, index: usize) -> &str {
        let onlooker = &mut self.attached[index];
        onlooker.off = true;
        &onlooker.used.section
    }

    /// What is attached.
    pub(crate) fn used(&self) -> impl Iterator<Item = &TracingUse> {
        self.attached.iter().map(|onlooker| &onlooker.used)
    }

    /// What never runs.
    pub(crate) fn never(&self) -> &[NeverFires] {
        &self.never
    }
}

impl Onlooker {
    /// The marks, by CPU, of what may not run again: its own, or those that all programs share
    /// which `trace_call_bpf()` runs.
    fn active<'a>(&'a mut self, shared: &'a mut [bool]) -> &'a mut [bool] {
        match self.point.style {
            Style::Record | Style::Probe | Style::ReturnProbe => shared,
            Style::BtfTracepoint | Style::RawTracepoint | Style::Entry | Style::Exit => {
                &mut self.active
            }
        }
    }
}
