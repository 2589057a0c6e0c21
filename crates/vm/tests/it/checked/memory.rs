//! Loads, stores and atomics, pointers into memory of every sort, and what calls do to maps and
//! arenas.
#![expect(
    clippy::unwrap_used,
    reason = "a generator that fails is a test that fails"
)]

use harena_bpf::isa::Insn;

use super::{ARENA, ARRAY, Area, BLOCK, Generator, HASH, HASH_KEYS, Holds, KEY, SIZES, SPILLED};
use crate::engines::{ARENA_PAGES, CONTEXT_SIZE, USER};

impl Generator {
    /// Base and offset for an access of so many bytes.
    pub(super) fn place(&mut self, size: i32) -> Option<(u8, i16)> {
        let base = self.holding(|holds| {
            matches!(
                holds,
                Holds::Pointer { .. } | Holds::Arena { .. } | Holds::Context
            )
        });
        let Some(base) = base else {
            return Some((10, self.in_block(size)));
        };
        match self.holds[usize::from(base)] {
            Holds::Pointer {
                area, low, high, ..
            } => {
                let room = area.size() - size - high;
                if room + low < 0 {
                    return None;
                }
                let below = u64::try_from((room + low).min(80)).unwrap() + 1;
                let off = i32::try_from(self.random.below(below)).unwrap() - low;
                // From the area's start, or from its end.
                let off = if self.random.rarely(2) {
                    room - (off + low)
                } else {
                    off
                };
                let off = match area {
                    Area::Block => off & !(size - 1),
                    Area::Value | Area::Element => off,
                };
                i16::try_from(off).ok().map(|off| (base, off))
            }
            Holds::Arena { .. } => {
                let off = match self.random.below(6) {
                    0 => 0,
                    1 => self.random.pick(&[i16::MIN, i16::MAX, -1, 4095]),
                    _ => i16::try_from(self.random.below(64)).unwrap() - 16,
                };
                Some((base, off))
            }
            Holds::Context => {
                let count = u64::try_from(size).unwrap();
                let off = self.random.below(CONTEXT_SIZE / count) * count;
                Some((base, i16::try_from(off).unwrap()))
            }
            Holds::Nothing | Holds::Number => None,
        }
    }

    pub(super) fn in_block(&mut self, size: i32) -> i16 {
        let off = self.random.below(64) & !(u64::try_from(size).unwrap() - 1);
        BLOCK + i16::try_from(off).unwrap()
    }

    pub(super) fn memory(&mut self) {
        let (size, bits) = self.random.pick(&SIZES);
        let place = if self.random.rarely(4) {
            Some((10, self.in_block(size)))
        } else {
            self.place(size)
        };
        let Some((base, off)) = place else { return };
        match self.random.below(6) {
            0 | 1 => {
                let dst = self.random.reg();
                self.emit(Insn::new(0x61 | bits, dst, base, off, 0));
                self.set(dst, Holds::Number);
            }
            2 if size < 8 => {
                let dst = self.random.reg();
                self.emit(Insn::new(0x81 | bits, dst, base, off, 0));
                self.set(dst, Holds::Number);
            }
            3 => {
                let imm = self.random.imm();
                self.emit(Insn::new(0x62 | bits, base, 0, off, imm));
            }
            _ => {
                if let Some(src) = self.number() {
                    self.emit(Insn::new(0x63 | bits, base, src, off, 0));
                }
            }
        }
    }

    /// Where atomics go: an aligned place, and not in the context.
    pub(super) fn aligned_place(&mut self, size: i32) -> (u8, i16) {
        let base = self.holding(|holds| {
            matches!(
                holds,
                Holds::Pointer {
                    is_aligned: true,
                    ..
                } | Holds::Arena { is_aligned: true }
            )
        });
        let Some(base) = base else {
            return (10, self.in_block(size));
        };
        let step = i32::try_from(self.random.below(8)).unwrap() * 8;
        if let Holds::Pointer { area, high, .. } = self.holds[usize::from(base)]
            && high + step + 8 > area.size()
        {
            return (10, self.in_block(size));
        }
        (base, i16::try_from(step).unwrap())
    }

    pub(super) fn atomic(&mut self) {
        let src = self.some_number();
        let (size, bits) = self.random.pick(&SIZES);
        if self.random.rarely(3) {
            let (base, off) = self.aligned_place(size);
            if self.random.rarely(2) {
                // Where there is no page, its register stays what it was; the verifier relies on
                // what was loaded, so that must be possible.
                let dst = self.some_number();
                match size {
                    8 => {}
                    4 => self.emit(Insn::new(0xbc, dst, dst, 0, 0)),
                    size => self.emit(Insn::new(0x54, dst, 0, 0, (1 << (size * 8)) - 1)),
                }
                self.emit(Insn::new(0xc3 | bits, dst, base, off, 0x100));
                self.set(dst, Holds::Number);
            } else {
                self.emit(Insn::new(0xc3 | bits, base, src, off, 0x110));
            }
            return;
        }
        let (size, bits) = self.random.pick(&SIZES[2..]);
        let (base, off) = self.aligned_place(size);
        let is_arena = base < 10 && matches!(self.holds[usize::from(base)], Holds::Arena { .. });
        // The kernel's x86 compiler has no loops for these in arenas.
        let fetches: &[i32] = if is_arena {
            &[0x01]
        } else {
            &[0x01, 0x41, 0x51, 0xa1]
        };
        let imm = match self.random.below(4) {
            0 | 1 => self.random.pick(&[0x00, 0x40, 0x50, 0xa0]),
            2 => self.random.pick(fetches),
            _ => self.random.pick(&[0xe1, 0xf1]),
        };
        let result = if imm == 0xf1 { 0 } else { src };
        if self.holds[usize::from(result)] != Holds::Number {
            return;
        }
        if is_arena && size == 4 && imm & 1 != 0 {
            // Linux 6.18 does not see to a high half of 0 where there is no page, nor behind a
            // comparison that holds.
            self.emit(Insn::new(0xbc, result, result, 0, 0));
        }
        self.emit(Insn::new(0xc3 | bits, base, src, off, imm));
    }

    /// A pointer and a number that is cut to fit.
    pub(super) fn index(&mut self) {
        let number = self.some_number();
        let area = self.random.pick(&[Area::Value, Area::Block]);
        let (mask, start) = match area {
            Area::Value => (self.random.pick(&[0xff, 0xf8, 0x7ff, 0x38]), 64),
            Area::Block | Area::Element => (self.random.pick(&[0x18, 0x38, 0x30]), 0),
        };
        let pointer = (number + 1 + u8::try_from(self.random.below(9)).unwrap()) % 10;
        let code = self.random.pick(&[0x57, 0x54]);
        self.emit(Insn::new(code, number, 0, 0, mask));
        self.make(pointer, Holds::at(area, start));
        self.emit(Insn::new(0x0f, pointer, number, 0, 0));
        let holds = Holds::Pointer {
            area,
            low: start,
            high: start + mask,
            is_aligned: mask % 8 == 0,
        };
        self.set(pointer, holds);
    }

    pub(super) fn arena_arithmetic(&mut self) {
        let Some(reg) = self.holding(|holds| matches!(holds, Holds::Arena { .. })) else {
            let (dst, src) = (self.random.reg(), self.some_number());
            self.emit(Insn::new(0xbf, dst, src, 1, 1));
            self.set(dst, Holds::Arena { is_aligned: false });
            return;
        };
        let other = self.random.reg();
        match self.random.below(4) {
            0 => {
                self.emit(Insn::new(0xbf, other, reg, 1, 1 << 16));
                self.set(other, Holds::Number);
            }
            1 => {
                let number = self.some_number();
                self.emit(Insn::new(0x0f, reg, number, 0, 0));
                self.set(reg, Holds::Arena { is_aligned: false });
            }
            2 => {
                let imm = i32::try_from(self.random.below(64)).unwrap() * 8;
                self.emit(Insn::new(0x07, reg, 0, 0, imm - 256));
            }
            _ => {
                let holds = self.holds[usize::from(reg)];
                self.emit(Insn::new(0xbf, other, reg, 0, 0));
                self.set(other, holds);
            }
        }
    }

    pub(super) fn spill(&mut self) {
        let reg = self.random.reg();
        if self.spilled == Holds::Nothing || self.random.rarely(2) {
            let holds = self.holds[usize::from(reg)];
            if holds != Holds::Nothing {
                self.emit(Insn::new(0x7b, 10, reg, SPILLED, 0));
                self.spilled = holds;
            }
        } else {
            self.emit(Insn::new(0x79, reg, 10, SPILLED, 0));
            self.set(reg, self.spilled);
        }
    }

    /// How far apart two pointers into the same memory are.
    pub(super) fn difference(&mut self) {
        let is_value = |holds| {
            matches!(
                holds,
                Holds::Pointer {
                    area: Area::Value,
                    ..
                }
            )
        };
        let (Some(a), Some(b)) = (self.holding(is_value), self.holding(is_value)) else {
            return self.alu();
        };
        let dst = self.random.reg();
        if dst == b {
            return;
        }
        self.emit(Insn::new(0xbf, dst, a, 0, 0));
        self.emit(Insn::new(0x1f, dst, b, 0, 0));
        self.set(dst, Holds::Number);
    }

    /// r1 and r2 for a helper of maps.
    pub(super) fn map_and_key(&mut self, map: u64) {
        let keys = if map == HASH { u64::from(HASH_KEYS) } else { 2 };
        let key = i32::try_from(self.random.below(keys)).unwrap();
        match self.number() {
            Some(reg) if map == HASH && self.random.rarely(2) => {
                self.emit(Insn::new(0x57, reg, 0, 0, 7));
                self.emit(Insn::new(0x63, 10, reg, KEY, 0));
            }
            _ => self.emit(Insn::new(0x62, 10, 0, KEY, key)),
        }
        self.emit_all(Insn::ldimm64(1, 1, map));
        self.emit(Insn::new(0xbf, 2, 10, 0, 0));
        self.emit(Insn::new(0x07, 2, 0, 0, i32::from(KEY)));
    }

    pub(super) fn lookup(&mut self) {
        let (map, area) = self
            .random
            .pick(&[(ARRAY, Area::Value), (HASH, Area::Element)]);
        self.map_and_key(map);
        self.emit(Insn::new(0x85, 0, 0, 0, 1));
        self.clobber();
        let missing = self.jump(Insn::new(0x15, 0, 0, 0, 0));
        self.holds[0] = Holds::Nothing;
        let (before, spilled) = (self.holds, self.spilled);
        self.holds[0] = Holds::at(area, 0);
        for _ in 0..1 + self.random.below(4) {
            self.memory();
        }
        self.land(missing);
        self.join(before, spilled);
    }

    pub(super) fn change_map(&mut self) {
        self.map_and_key(HASH);
        if self.random.rarely(3) {
            self.emit(Insn::new(0x85, 0, 0, 0, 3));
        } else {
            let flags = self.random.pick(&[0, 0, 0, 1, 2, 3]);
            let offset = i32::try_from(self.random.below(7)).unwrap() * 8;
            self.make(3, Holds::at(Area::Block, offset));
            self.emit(Insn::new(0xb7, 4, 0, 0, flags));
            self.emit(Insn::new(0x85, 0, 0, 0, 2));
        }
        self.clobber();
    }

    /// Allocates, frees or reserves pages, mostly where there are some.
    pub(super) fn pages(&mut self) {
        let page = self.random.below(u64::from(ARENA_PAGES) + 1);
        let count = i32::try_from(self.random.below(4)).unwrap();
        let at = match self.random.below(8) {
            0 => 0,
            1 => USER + page * 4096 + self.random.below(4096),
            2 => page * 4096,
            _ => USER + page * 4096,
        };
        self.emit_all(Insn::ldimm64(1, 1, ARENA));
        let kind = self.random.below(5);
        let at = if kind == 0 { 0 } else { at };
        self.emit_all(Insn::ldimm64(2, 0, at));
        self.emit(Insn::new(0xb7, 3, 0, 0, count));
        match kind {
            0 | 1 => {
                self.emit(Insn::new(0xb7, 4, 0, 0, -1));
                let flags = i32::from(self.random.rarely(16));
                self.emit(Insn::new(0xb7, 5, 0, 0, flags));
                self.kfunc("bpf_arena_alloc_pages");
            }
            2 => {
                self.kfunc("bpf_arena_reserve_pages");
                // Compiled C leaves anything in the high half of an `int`.
                self.emit(Insn::new(0xbc, 0, 0, 0, 0));
            }
            _ => {
                self.kfunc("bpf_arena_free_pages");
                self.make_number(0);
            }
        }
    }
}
