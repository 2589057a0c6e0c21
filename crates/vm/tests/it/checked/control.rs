//! Branches, loops of every sort, and calls of functions.
#![expect(
    clippy::unwrap_used,
    reason = "a generator that fails is a test that fails"
)]

use harena_bpf::isa::Insn;

use super::{Area, CALLBACK, CONDITIONS, COUNTER, DEPTH, Generator, Holds, ITERATOR};
use crate::interpreter::suite::support::generic;

impl Generator {
    /// A jump that is not resolved yet; its slot.
    pub(super) fn jump(&mut self, insn: Insn) -> usize {
        self.emit(insn);
        self.insns.len() - 1
    }

    /// Makes a jump lead here.
    pub(super) fn land(&mut self, slot: usize) {
        let distance = i16::try_from(self.insns.len() - slot - 1).unwrap();
        let insn = &mut self.insns[slot];
        if insn.code == 0x06 {
            insn.imm = i32::from(distance);
        } else {
            insn.off = distance;
        }
    }

    pub(super) fn condition(&mut self) -> Insn {
        let dst = self.some_number();
        let code = self.random.pick(&[0x05, 0x06]) | self.random.pick(&CONDITIONS);
        match self.random.below(9) {
            0 => Insn::new(0xe5, 0, 0, 0, 0),
            1..=4 => Insn::new(code | 0x08, dst, self.some_number(), 0, 0),
            _ => Insn::new(code, dst, 0, 0, self.random.imm()),
        }
    }

    pub(super) fn branch(&mut self) {
        if self.depth == DEPTH {
            return self.memory();
        }
        self.depth += 1;
        let condition = self.condition();
        let past = self.jump(condition);
        let (before, spilled) = (self.holds, self.spilled);
        let count = 1 + self.random.below(5);
        self.statements(count);
        if self.iterators == 0 && self.random.rarely(12) {
            self.leave();
            self.land(past);
            (self.holds, self.spilled) = (before, spilled);
        } else if self.random.rarely(2) {
            let code = self.random.pick(&[0x05, 0x06]);
            let end = self.jump(Insn::new(code, 0, 0, 0, 0));
            self.land(past);
            let (other, other_spilled) = (self.holds, self.spilled);
            (self.holds, self.spilled) = (before, spilled);
            let count = 1 + self.random.below(5);
            self.statements(count);
            self.land(end);
            self.join(other, other_spilled);
        } else {
            self.land(past);
            self.join(before, spilled);
        }
        self.depth -= 1;
    }

    /// What two ways agree on.
    pub(super) fn join(&mut self, other: [Holds; 10], spilled: Holds) {
        for (here, there) in self.holds.iter_mut().zip(other) {
            if *here != there {
                *here = Holds::Nothing;
            }
        }
        if self.spilled != spilled {
            self.spilled = Holds::Nothing;
        }
        if self.holds[0] == Holds::Nothing {
            self.make_number(0);
        }
    }

    /// What a loop's body finds in registers at its beginning, each time; it may change the rest.
    pub(super) fn enter_loop(&mut self) -> [Holds; 10] {
        for holds in &mut self.holds {
            if let Holds::Pointer {
                area: Area::Element,
                ..
            } = holds
            {
                *holds = Holds::Nothing;
            }
        }
        self.spilled = Holds::Nothing;
        self.holds
    }

    /// Registers hold again what they did at the beginning of a loop.
    pub(super) fn restore(&mut self, at_start: [Holds; 10]) {
        for (reg, wanted) in (0..10u8).zip(at_start) {
            let is = self.holds[usize::from(reg)];
            if is != wanted && wanted != Holds::Nothing {
                self.make(reg, wanted);
            }
            self.set(reg, wanted);
        }
        self.spilled = Holds::Nothing;
    }

    pub(super) fn repeat(&mut self) {
        if self.depth == DEPTH {
            return self.memory();
        }
        let level = i16::try_from(self.depth).unwrap() * 8;
        self.depth += 1;
        match self.random.below(4) {
            0 => self.counted(COUNTER - level),
            1 => self.bounded(COUNTER - level),
            2 => self.iterated(ITERATOR - level),
            _ => self.called_back(),
        }
        self.depth -= 1;
    }

    pub(super) fn body(&mut self) {
        let count = 1 + self.random.below(5);
        self.statements(count);
    }

    pub(super) fn back_to(&mut self, head: usize, insn: Insn) {
        let distance = head.cast_signed() - self.insns.len().cast_signed() - 1;
        let off = i16::try_from(distance).unwrap();
        self.emit(Insn { off, ..insn });
    }

    /// A fixed number of times.
    pub(super) fn counted(&mut self, counter: i16) {
        let times = 1 + i32::try_from(self.random.below(4)).unwrap();
        self.emit(Insn::new(0x7a, 10, 0, counter, 0));
        self.set(0, Holds::Nothing);
        let at_start = self.enter_loop();
        let head = self.insns.len();
        self.make_number(0);
        self.body();
        self.restore(at_start);
        self.emit(Insn::new(0x79, 0, 10, counter, 0));
        self.emit(Insn::new(0x07, 0, 0, 0, 1));
        self.emit(Insn::new(0x7b, 10, 0, counter, 0));
        self.back_to(head, Insn::new(0xa5, 0, 0, 0, times));
        self.set(0, Holds::Number);
    }

    /// As often as a number says, which no verifier knows.
    pub(super) fn bounded(&mut self, counter: i16) {
        let times = self.some_number();
        self.emit(Insn::new(0x57, times, 0, 0, 7));
        self.emit(Insn::new(0x7b, 10, times, counter, 0));
        self.set(0, Holds::Nothing);
        let at_start = self.enter_loop();
        let head = self.insns.len();
        let gives_up = self.jump(Insn::new(0xe5, 0, 0, 0, 0));
        self.emit(Insn::new(0x79, 0, 10, counter, 0));
        let ends = self.jump(Insn::new(0x15, 0, 0, 0, 0));
        self.emit(Insn::new(0x07, 0, 0, 0, -1));
        self.emit(Insn::new(0x7b, 10, 0, counter, 0));
        self.set(0, Holds::Number);
        self.body();
        self.restore(at_start);
        self.back_to(head, Insn::new(0x05, 0, 0, 0, 0));
        self.land(gives_up);
        self.land(ends);
        self.make_number(0);
    }

    pub(super) fn kfunc(&mut self, name: &str) {
        let id = generic(name).cast_signed();
        self.emit(Insn::new(0x85, 0, 2, 0, id));
        self.clobber();
    }

    /// Calls leave nothing in r1 to r5; their result is a number.
    pub(super) fn clobber(&mut self) {
        self.holds[0] = Holds::Number;
        self.holds[1..6].fill(Holds::Nothing);
    }

    pub(super) fn iterator(&mut self, at: i16) {
        self.emit(Insn::new(0xbf, 1, 10, 0, 0));
        self.emit(Insn::new(0x07, 1, 0, 0, i32::from(at)));
    }

    pub(super) fn iterated(&mut self, iterator: i16) {
        self.iterators += 1;
        self.iterator(iterator);
        let start = i32::try_from(self.random.below(8)).unwrap() - 4;
        let end = start + i32::try_from(self.random.below(5)).unwrap();
        self.emit(Insn::new(0xb7, 2, 0, 0, start));
        self.emit(Insn::new(0xb7, 3, 0, 0, end));
        self.kfunc("bpf_iter_num_new");
        self.holds[0] = Holds::Nothing;
        let at_start = self.enter_loop();
        let head = self.insns.len();
        self.iterator(iterator);
        self.kfunc("bpf_iter_num_next");
        let ends = self.jump(Insn::new(0x15, 0, 0, 0, 0));
        self.emit(Insn::new(0x81, 0, 0, 0, 0));
        self.body();
        self.restore(at_start);
        self.back_to(head, Insn::new(0x05, 0, 0, 0, 0));
        self.land(ends);
        self.iterator(iterator);
        self.kfunc("bpf_iter_num_destroy");
        self.make_number(0);
        self.iterators -= 1;
    }

    /// By `bpf_loop`, which only the first two functions call: stacks are short.
    pub(super) fn called_back(&mut self) {
        if self.function > 1 {
            return self.memory();
        }
        let times = self.some_number();
        self.emit(Insn::new(0x57, times, 0, 0, 7));
        self.emit(Insn::new(0xbf, 1, times, 0, 0));
        self.calls.push((self.insns.len(), CALLBACK));
        self.signatures[CALLBACK].is_called = true;
        self.emit_all(Insn::ldimm64(2, 4, 0));
        self.make(3, Holds::at(Area::Block, 0));
        let flags = i32::from(self.random.rarely(6));
        self.emit(Insn::new(0xb7, 4, 0, 0, flags));
        self.emit(Insn::new(0x85, 0, 0, 0, 181));
        self.clobber();
    }

    pub(super) fn call(&mut self) {
        let callee = match self.function {
            0 => 1 + usize::from(self.random.rarely(2)),
            1 => 2,
            _ => return self.atomic(),
        };
        self.signatures[callee].is_called = true;
        let args = self.signatures[callee].args.clone();
        for (reg, wanted) in (1u8..).zip(args) {
            self.make(reg, wanted);
        }
        self.calls.push((self.insns.len(), callee));
        self.emit(Insn::new(0x85, 0, 1, 0, 0));
        self.clobber();
    }
}
