//! What the kernel's verifier refuses at load: kfuncs where they are not legal.
//!
//! The rule is per struct_ops member (`scx_bpf_dsq_insert` belongs in `enqueue`, not in
//! `running`), and per type for programs that no scheduler calls. Only calls that can be
//! reached are judged.

use harena_bpf::isa::op::PseudoCall;
use harena_bpf::{LinkedObject, LinkedProgram, ProgType, StructOps};
use harena_scx::{Form, Op};
use harena_vm::{ContextSet, Place, Sleepable, line_text};
use thiserror::Error;

use crate::kfuncs::{self, Kfunc, context_of, context_of_type};
use crate::reach::{ContextAccess, context_accesses, reachable};
use crate::tracing::Point;

/// A call that the verifier would have refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum VerifyError {
    /// Not in this callback.
    #[error("{place}: calling kernel function {kfunc} is not allowed in ops.{member}")]
    Context {
        /// The call.
        place: Place,
        /// The kfunc.
        kfunc: &'static str,
        /// The callback.
        member: String,
    },
    /// Not in a program of this type.
    #[error("{place}: calling kernel function {kfunc} is not allowed in a program of type {kind}")]
    Type {
        /// The call.
        place: Place,
        /// The kfunc.
        kfunc: &'static str,
        /// `tracing`, `kprobe`.
        kind: &'static str,
    },
    /// Outside of what the program is given, or a store to that.
    #[error("{place}: invalid bpf_context access off={offset} size={size}")]
    ContextAccess {
        /// The load or store.
        place: Place,
        /// Bytes from the context's start.
        offset: i64,
        /// Bytes.
        size: u8,
    },
    /// Not in this form of scheduler.
    #[error("{place}: calling kernel function {kfunc} is not allowed in a {form} scheduler")]
    Form {
        /// The call.
        place: Place,
        /// The kfunc.
        kfunc: &'static str,
        /// `cpu-form` or `cid-form`.
        form: &'static str,
    },
    /// Not without sleeping.
    #[error("{place}: program must be sleepable to call sleepable kfunc {kfunc}")]
    Sleepable {
        /// The call.
        place: Place,
        /// The kfunc.
        kfunc: &'static str,
    },
}

/// The callback that a member of either table stands for.
#[must_use]
pub(crate) fn op_of(member: &str, form: Form) -> Option<Op> {
    Op::ALL.iter().copied().find(|op| op.name(form) == member)
}

/// What a program is for.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// A callback of a scheduler of this form.
    Callback(Op, Form),
    /// What its type says.
    Type(ProgType),
}

impl Role {
    const fn context(self) -> ContextSet {
        match self {
            Self::Callback(op, _) => context_of(op),
            Self::Type(kind) => context_of_type(kind),
        }
    }
}

/// Checks every program of a scheduler, and those beside it that look on or are run by hand.
pub(crate) fn check(object: &LinkedObject, ops: &StructOps, form: Form) -> Result<(), VerifyError> {
    for member in &ops.members {
        let program = member.program.and_then(|p| object.programs.get(p.index()));
        if let (Some(program), Some(op)) = (program, op_of(&member.name, form)) {
            check_program(object, program, Role::Callback(op, form))?;
        }
    }
    for program in object.programs.iter().filter(|p| is_judged(p.prog_type)) {
        check_program(object, program, Role::Type(program.prog_type))?;
    }
    Ok(())
}

/// Whether the kfuncs of this kernel are for programs of a type. Others never run.
const fn is_judged(kind: ProgType) -> bool {
    matches!(
        kind,
        ProgType::Tracing
            | ProgType::Tracepoint
            | ProgType::RawTracepoint
            | ProgType::PerfEvent
            | ProgType::Lsm
            | ProgType::Kprobe
            | ProgType::Syscall
    )
}

fn check_program(
    object: &LinkedObject,
    program: &LinkedProgram,
    role: Role,
) -> Result<(), VerifyError> {
    for slot in reachable(object, program) {
        let insn = program.insns[slot as usize];
        if insn.pseudo_call() != Some(PseudoCall::Kfunc) || program.poisoned.contains_key(&slot) {
            continue;
        }
        // The engine's own kfuncs are legal everywhere.
        if let Some(kfunc) = kfuncs::all().nth(insn.imm.cast_unsigned() as usize) {
            check_call(program, slot, kfunc, role)?;
        }
    }
    Ok(())
}

fn check_call(
    program: &LinkedProgram,
    slot: u32,
    called: &'static Kfunc,
    role: Role,
) -> Result<(), VerifyError> {
    let place = place(program, slot);
    let kfunc = called.name;
    if let Role::Callback(_, form) = role
        && called.form.is_some_and(|only| only != form)
    {
        let form = match form {
            Form::Cpu => "cpu-form",
            Form::Cid => "cid-form",
        };
        return Err(VerifyError::Form { place, kfunc, form });
    }
    if !called.contexts.meets(role.context()) {
        return Err(match role {
            Role::Callback(op, form) => VerifyError::Context {
                place,
                kfunc,
                member: op.name(form).to_owned(),
            },
            Role::Type(kind) => VerifyError::Type {
                place,
                kfunc,
                kind: kind.name(),
            },
        });
    }
    if called.sleepable == Sleepable::Yes && !program.sleepable {
        return Err(VerifyError::Sleepable { place, kfunc });
    }
    Ok(())
}

/// Checks what a program that looks on does with its context: it may load what is there.
pub(crate) fn check_context(
    object: &LinkedObject,
    program: &LinkedProgram,
    point: &Point,
) -> Result<(), VerifyError> {
    let (start, end) = point.readable();
    let [start, end] = [start, end].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let mut accesses = context_accesses(object, program).into_iter();
    let fits = |a: &ContextAccess| !a.is_store && a.offset >= start && a.end() <= end;
    match accesses.find(|access| !fits(access)) {
        None => Ok(()),
        Some(bad) => Err(VerifyError::ContextAccess {
            place: place(program, bad.slot),
            offset: bad.offset,
            size: bad.size,
        }),
    }
}

fn place(program: &LinkedProgram, insn: u32) -> Place {
    Place {
        program: program.name.clone(),
        function: program.func_at(insn).map_or("", |f| &f.name).to_owned(),
        insn,
        line: line_text(&program.lines, insn),
    }
}
