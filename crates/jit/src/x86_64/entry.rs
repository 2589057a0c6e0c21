//! Into a program and out of it, and what its rare paths share.

use core::mem::offset_of;

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

use super::role::Role;
use super::{CTX, Emitter, FRAME, LEFT, NATIVE, RAX, RCX, T0, T1, field};
use crate::context::{Context, GUEST_BITS, status};

/// Registers that a call of the host destroys and the program's code needs.
const VOLATILE: [u8; 7] = [RAX, 7, 6, 2, RCX, 8, LEFT];

/// Bits that a mask keeps, in the machine's terms.
const MASK_BITS: i32 = GUEST_BITS.cast_signed();

/// A status in the machine's terms.
const fn word(status: u32) -> i32 {
    status.cast_signed()
}

impl Emitter<'_> {
    /// The host's way in: saves what the host's code expects to keep, loads the registers,
    /// and calls the function that the context names.
    pub(super) fn entry(&mut self) {
        let roles: Vec<(Role, u8)> = self.roles.all().collect();
        let leave = self.common.leave;
        let asm = self.asm();
        dynasm!(asm; .arch x64
            ; push rbx
            ; push rbp
            ; push r12
            ; push r13
            ; push r14
            ; push r15
            ; mov Rq(CTX), rdi
            ; mov [Rq(CTX) + field!(stack)], rsp
            ; mov Rq(LEFT), [Rq(CTX) + field!(left)]
            ; mov Rq(FRAME), [Rq(CTX) + field!(frame)]
        );
        for reg in [0, 6, 7, 8, 9] {
            let reg = NATIVE[reg];
            dynasm!(asm; .arch x64; xor Rd(reg), Rd(reg));
        }
        for reg in 1..6u8 {
            let (native, offset) = (NATIVE[usize::from(reg)], reg_offset(reg));
            dynasm!(asm; .arch x64; mov Rq(native), [Rq(CTX) + offset]);
        }
        for (role, reg) in roles {
            self.load_role(role, reg);
        }
        for reg in 0..10 {
            self.anchor(reg);
        }
        dynasm!(self.asm(); .arch x64
            ; call QWORD [Rq(CTX) + field!(target)]
            ; mov [Rq(CTX) + field!(left)], Rq(LEFT)
            ; mov DWORD [Rq(CTX) + field!(status)], word(status::RETURNED)
            ; =>leave
            ; pop r15
            ; pop r14
            ; pop r13
            ; pop r12
            ; pop rbp
            ; pop rbx
            ; ret
        );
    }

    pub(super) fn load_role(&mut self, role: Role, reg: u8) {
        let asm = self.asm();
        match role {
            Role::Guest => dynasm!(asm; .arch x64; mov Rq(reg), [Rq(CTX) + field!(guest)]),
            Role::Start => dynasm!(asm; .arch x64
                ; mov Rq(reg), [Rq(CTX) + field!(guest_start)]
                ; neg Rq(reg)
            ),
            Role::Arena => dynasm!(asm; .arch x64; mov Rq(reg), [Rq(CTX) + field!(arena)]),
            Role::Delta => dynasm!(asm; .arch x64; mov Rq(reg), [Rq(CTX) + field!(delta)]),
            Role::Bits => dynasm!(asm; .arch x64; mov Rd(reg), DWORD MASK_BITS),
        }
    }

    pub(super) fn common_paths(&mut self) {
        self.access_path();
        let common = self.common;
        let asm = self.asm();
        dynasm!(asm; .arch x64; =>common.interpret);
        for reg in 0..10u8 {
            let (native, offset) = (NATIVE[usize::from(reg)], reg_offset(reg));
            dynasm!(asm; .arch x64; mov [Rq(CTX) + offset], Rq(native));
        }
        dynasm!(asm; .arch x64
            ; mov [Rq(CTX) + field!(left)], Rq(LEFT)
            ; mov DWORD [Rq(CTX) + field!(status)], word(status::INTERPRET)
            ; mov rsp, [Rq(CTX) + field!(stack)]
            ; jmp =>common.leave
            // `left` is what the call made of it.
            ; =>common.stop
            ; mov DWORD [Rq(CTX) + field!(status)], word(status::STOPPED)
            ; mov rsp, [Rq(CTX) + field!(stack)]
            ; jmp =>common.leave
        );
    }

    /// Asks the host to make a memory operation: base in T0, value in T1, the result in T0.
    /// All other registers stay. The call that led here has pushed 8 bytes, and the seven
    /// registers make it 64.
    fn access_path(&mut self) {
        let access = self.common.access;
        let asm = self.asm();
        dynasm!(asm; .arch x64; =>access);
        for reg in VOLATILE {
            dynasm!(asm; .arch x64; push Rq(reg));
        }
        dynasm!(asm; .arch x64
            ; mov rdi, Rq(CTX)
            ; mov rsi, Rq(T0)
            ; mov rdx, Rq(T1)
            ; mov rcx, rax
            ; call QWORD [Rq(CTX) + field!(access)]
            ; mov Rq(T0), rax
        );
        for reg in VOLATILE.into_iter().rev() {
            dynasm!(asm; .arch x64; pop Rq(reg));
        }
        dynasm!(asm; .arch x64; ret);
    }
}

/// Offset of a register's place in the context.
fn reg_offset(reg: u8) -> i32 {
    let first = i32::try_from(offset_of!(Context, regs)).expect("a context is small");
    first + i32::from(reg) * 8
}
