//! Calls: of helpers and kfuncs, which the host makes, and of the program's own functions.

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};
use harena_bpf::analysis::RegSet;
use harena_bpf::code::{FRAME_SIZE, Op, OpCode};

use crate::context::reply;

use super::{CTX, Emitter, FRAME, LEFT, NATIVE, RDX, T0, T1, field};

/// [`reply::STOP`] in the machine's terms: `GO_ON` lies below, `RETURN` above.
const STOP: i32 = 1;
const _: () = assert!(reply::STOP == STOP as u64);
const _: () = assert!(reply::GO_ON < reply::STOP && reply::STOP < reply::RETURN);

impl Emitter<'_> {
    /// A helper or kfunc: the arguments are where the machine's calls want them. Those that
    /// are read later are saved, since the host's code destroys them.
    pub(super) fn call_host(&mut self, slot: u32, op: &Op) {
        let is_tail_call = op.is_tail_call();
        let live = self.live[slot as usize].and(RegSet::ARGUMENTS);
        let saved: Vec<u8> = live.iter().map(|reg| NATIVE[usize::from(reg)]).collect();
        let stop = self.common.stop;
        let asm = self.asm();
        dynasm!(asm; .arch x64
            ; mov DWORD [Rq(CTX) + field!(pc)], slot.cast_signed()
            ; mov [Rq(CTX) + field!(left)], Rq(LEFT)
        );
        if op.code == OpCode::CallX {
            let callee = self.value(op.dst, T0);
            dynasm!(self.asm(); .arch x64; mov [Rq(CTX) + field!(callee)], Rq(callee));
        }
        let asm = self.asm();
        for reg in saved.iter().copied() {
            dynasm!(asm; .arch x64; push Rq(reg));
        }
        if saved.len() % 2 == 1 {
            dynasm!(asm; .arch x64; push rax);
        }
        dynasm!(asm; .arch x64
            ; mov r9, Rq(CTX)
            ; call QWORD [Rq(CTX) + field!(call)]
        );
        if is_tail_call {
            dynasm!(asm; .arch x64; cmp Rq(RDX), STOP);
        } else {
            dynasm!(asm; .arch x64; test Rq(RDX), Rq(RDX));
        }
        // Neither this nor what follows changes the flags.
        if saved.len() % 2 == 1 {
            dynasm!(asm; .arch x64; pop Rq(T0));
        }
        for reg in saved.iter().rev().copied() {
            dynasm!(asm; .arch x64; pop Rq(reg));
        }
        if is_tail_call {
            let go_on = asm.new_dynamic_label();
            dynasm!(asm; .arch x64
                ; je =>stop
                ; mov Rq(LEFT), [Rq(CTX) + field!(left)]
                ; jb =>go_on
                ; ret
                ; =>go_on
            );
            return;
        }
        dynasm!(asm; .arch x64
            ; jnz =>stop
            ; mov Rq(LEFT), [Rq(CTX) + field!(left)]
        );
    }

    /// A function of the program: its frame is noted in the context, for reports, and the
    /// return address lies on the machine's stack, which no program can reach.
    pub(super) fn call_function(&mut self, slot: u32, op: &Op) {
        let counts_may_goto = self.counts_may_goto;
        let saved: Vec<u8> = self
            .saved
            .iter()
            .map(|reg| NATIVE[usize::from(reg)])
            .collect();
        let to = self.target(op);
        // Too deep a call ends the run where the interpreter makes it.
        let too_deep = self.rare(slot, super::RareKind::Ends);
        let asm = self.asm();
        dynasm!(asm; .arch x64
            ; mov Rd(T0), [Rq(CTX) + field!(depth)]
            ; cmp Rd(T0), [Rq(CTX) + field!(depth_max)]
            ; jae =>too_deep
            ; mov DWORD [Rq(CTX) + Rq(T0) * 4 + field!(pcs)], slot.cast_signed()
            ; inc Rd(T0)
            ; mov [Rq(CTX) + field!(depth)], Rd(T0)
        );
        if counts_may_goto {
            dynasm!(asm; .arch x64
                ; mov Rd(T1), [Rq(CTX) + field!(may_goto_max)]
                ; mov [Rq(CTX) + Rq(T0) * 4 + field!(may_goto_left)], Rd(T1)
            );
        }
        // The call itself pushes 8 bytes more.
        for reg in saved.iter().copied() {
            dynasm!(asm; .arch x64; push Rq(reg));
        }
        if saved.len().is_multiple_of(2) {
            dynasm!(asm; .arch x64; push rax);
        }
        dynasm!(asm; .arch x64
            ; add Rq(FRAME), DWORD FRAME_SIZE
            ; call =>to
            ; sub Rq(FRAME), DWORD FRAME_SIZE
            ; dec DWORD [Rq(CTX) + field!(depth)]
        );
        if saved.len().is_multiple_of(2) {
            dynasm!(asm; .arch x64; pop Rq(T0));
        }
        for reg in saved.iter().rev().copied() {
            dynasm!(asm; .arch x64; pop Rq(reg));
        }
    }
}
