//! What the kernel's verifier refuses at load: kfuncs where they are not legal.
//!
//! The rule is per struct_ops member: `scx_bpf_dsq_insert` belongs in `enqueue`, not in
//! `running`. Only calls that can be reached are judged.

use harena_bpf::isa::op::PseudoCall;
use harena_bpf::{LinkedObject, LinkedProgram, StructOps};
use harena_scx::{Form, Op};
use harena_vm::{Place, Sleepable, line_text};
use thiserror::Error;

use crate::kfuncs::{self, Kfunc, context_of};
use crate::reach::reachable;

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

/// Checks every program of a scheduler.
pub(crate) fn check(object: &LinkedObject, ops: &StructOps, form: Form) -> Result<(), VerifyError> {
    for member in &ops.members {
        let program = member.program.and_then(|p| object.programs.get(p.index()));
        if let (Some(program), Some(op)) = (program, op_of(&member.name, form)) {
            check_program(object, program, op, form)?;
        }
    }
    Ok(())
}

fn check_program(
    object: &LinkedObject,
    program: &LinkedProgram,
    op: Op,
    form: Form,
) -> Result<(), VerifyError> {
    for slot in reachable(object, program) {
        let insn = program.insns[slot as usize];
        if insn.pseudo_call() != Some(PseudoCall::Kfunc) || program.poisoned.contains_key(&slot) {
            continue;
        }
        // The engine's own kfuncs are legal everywhere.
        if let Some(kfunc) = kfuncs::all().nth(insn.imm.cast_unsigned() as usize) {
            check_call(program, slot, kfunc, op, form)?;
        }
    }
    Ok(())
}

fn check_call(
    program: &LinkedProgram,
    slot: u32,
    kfunc: &'static Kfunc,
    op: Op,
    form: Form,
) -> Result<(), VerifyError> {
    let place = place(program, slot);
    let name = kfunc.name;
    if kfunc.form.is_some_and(|only| only != form) {
        let form = match form {
            Form::Cpu => "cpu-form",
            Form::Cid => "cid-form",
        };
        return Err(VerifyError::Form {
            place,
            kfunc: name,
            form,
        });
    }
    if !kfunc.contexts.meets(context_of(op)) {
        return Err(VerifyError::Context {
            place,
            kfunc: name,
            member: op.name(form).to_owned(),
        });
    }
    if kfunc.sleepable == Sleepable::Yes && !program.sleepable {
        return Err(VerifyError::Sleepable { place, kfunc: name });
    }
    Ok(())
}

fn place(program: &LinkedProgram, insn: u32) -> Place {
    Place {
        program: program.name.clone(),
        function: program.func_at(insn).map_or("", |f| &f.name).to_owned(),
        insn,
        line: line_text(&program.lines, insn),
    }
}
