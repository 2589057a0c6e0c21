//! `bpf_cpumask_*`: masks that programs own, and questions about any mask.
//!
//! A mask is read and written as whole words, so that programs that look at
//! `cpumask.bits` see the same. Only the machine's CPUs count.

use harena_abi::{Cpu, KernAddr};
use harena_scx::CpuSet;
use harena_vm::{Abort, Effect, Object, Region};

use super::{Kf, context, kfuncs};
use crate::access::Fields;
use crate::reg::as_u32;
use crate::types::ctype::field;
use crate::types::mask::{CPUMASK_WORDS, bpf_cpumask};

/// The bits of a mask.
type Words = [u64; CPUMASK_WORDS];

const SIZE: u64 = size_of::<bpf_cpumask>() as u64;
const ALIGN: u64 = 8;

/// A counted reference to a mask of a program's own.
pub(super) const BPF_CPUMASK: Object = Object::Reference("bpf_cpumask");

kfuncs! {
    context::ANY, None, No {
        bpf_cpumask_create "struct bpf_cpumask *(void)" [Effect::Result(BPF_CPUMASK)] => create;
        bpf_cpumask_acquire "struct bpf_cpumask *(struct bpf_cpumask *cpumask)"
            [Effect::Result(BPF_CPUMASK)] => acquire;
        bpf_cpumask_release "void (struct bpf_cpumask *cpumask)"
            [Effect::End(BPF_CPUMASK)] => release;
        bpf_cpumask_first "u32 (const struct cpumask *cpumask)"
            => |k, [m, ..]| { let m = k.words(m)?; Ok(k.first(&m)) };
        bpf_cpumask_first_zero "u32 (const struct cpumask *cpumask)"
            => |k, [m, ..]| { let m = k.words(m)?.map(|w| !w); Ok(k.first(&m)) };
        bpf_cpumask_first_and "u32 (const struct cpumask *src1, const struct cpumask *src2)"
            => |k, [a, b, ..]| { let m = k.combine(a, b, |a, b| a & b)?; Ok(k.first(&m)) };
        bpf_cpumask_set_cpu "void (u32 cpu, struct bpf_cpumask *cpumask)"
            => |k, [cpu, m, ..]| k.change(cpu, m, true).map(|_| 0);
        bpf_cpumask_clear_cpu "void (u32 cpu, struct bpf_cpumask *cpumask)"
            => |k, [cpu, m, ..]| k.change(cpu, m, false).map(|_| 0);
        bpf_cpumask_test_cpu "bool (u32 cpu, const struct cpumask *cpumask)"
            => |k, [cpu, m, ..]| Ok(k.test(cpu, m)?.into());
        bpf_cpumask_test_and_set_cpu "bool (u32 cpu, struct bpf_cpumask *cpumask)"
            => |k, [cpu, m, ..]| k.change(cpu, m, true);
        bpf_cpumask_test_and_clear_cpu "bool (u32 cpu, struct bpf_cpumask *cpumask)"
            => |k, [cpu, m, ..]| k.change(cpu, m, false);
        bpf_cpumask_setall "void (struct bpf_cpumask *cpumask)" => |k, [m, ..]| {
            let all = k.valid();
            k.put(m, &all)
        };
        bpf_cpumask_clear "void (struct bpf_cpumask *cpumask)"
            => |k, [m, ..]| k.put(m, &[0; CPUMASK_WORDS]);
        bpf_cpumask_and
            "bool (struct bpf_cpumask *dst, const struct cpumask *src1, const struct cpumask *src2)"
            => |k, [dst, a, b, ..]| {
                let m = k.combine(a, b, |a, b| a & b)?;
                k.put(dst, &m)?;
                Ok((!k.is_empty(&m)).into())
            };
        bpf_cpumask_or
            "void (struct bpf_cpumask *dst, const struct cpumask *src1, const struct cpumask *src2)"
            => |k, [dst, a, b, ..]| {
                let m = k.combine(a, b, |a, b| a | b)?;
                k.put(dst, &m)
            };
        bpf_cpumask_xor
            "void (struct bpf_cpumask *dst, const struct cpumask *src1, const struct cpumask *src2)"
            => |k, [dst, a, b, ..]| {
                let m = k.combine(a, b, |a, b| a ^ b)?;
                k.put(dst, &m)
            };
        bpf_cpumask_equal "bool (const struct cpumask *src1, const struct cpumask *src2)"
            => |k, [a, b, ..]| { let m = k.combine(a, b, |a, b| a ^ b)?; Ok(k.is_empty(&m).into()) };
        bpf_cpumask_intersects "bool (const struct cpumask *src1, const struct cpumask *src2)"
            => |k, [a, b, ..]| { let m = k.combine(a, b, |a, b| a & b)?; Ok((!k.is_empty(&m)).into()) };
        bpf_cpumask_subset "bool (const struct cpumask *src1, const struct cpumask *src2)"
            => |k, [a, b, ..]| { let m = k.combine(a, b, |a, b| a & !b)?; Ok(k.is_empty(&m).into()) };
        bpf_cpumask_empty "bool (const struct cpumask *cpumask)"
            => |k, [m, ..]| { let m = k.words(m)?; Ok(k.is_empty(&m).into()) };
        bpf_cpumask_full "bool (const struct cpumask *cpumask)"
            => |k, [m, ..]| { let m = k.words(m)?.map(|w| !w); Ok(k.is_empty(&m).into()) };
        bpf_cpumask_copy "void (struct bpf_cpumask *dst, const struct cpumask *src)"
            => |k, [dst, src, ..]| { let m = k.words(src)?; k.put(dst, &m) };
        bpf_cpumask_weight "u32 (const struct cpumask *cpumask)"
            => |k, [m, ..]| {
                let m = k.words(m)?;
                Ok(k.masked(&m).iter().map(|w| u64::from(w.count_ones())).sum())
            };
        bpf_cpumask_any_distribute "u32 (const struct cpumask *cpumask)"
            => |k, [m, ..]| {
                let set = k.cpu_set(m)?;
                let (core, machine) = k.core();
                let cpu = core.kf_any_distribute(machine, &set);
                Ok(k.cpu_or_nr(cpu))
            };
        bpf_cpumask_any_and_distribute
            "u32 (const struct cpumask *src1, const struct cpumask *src2)"
            => |k, [a, b, ..]| {
                let (a, b) = (k.cpu_set(a)?, k.cpu_set(b)?);
                let (core, machine) = k.core();
                let cpu = core.kf_any_and_distribute(machine, &a, &b);
                Ok(k.cpu_or_nr(cpu))
            };
        bpf_cpumask_populate "int (struct cpumask *cpumask, void *src, size_t src__sz)"
            => populate;
    }
}

fn create(k: &mut Kf<'_, '_, '_>, _: [u64; 5]) -> Result<u64, Abort> {
    let Ok(mask) = k.mem().alloc(Region::Kernel, SIZE, ALIGN) else {
        return Ok(0);
    };
    k.mem().put(mask, field!(bpf_cpumask, usage.refs), 1);
    k.st.cpumasks.insert(mask);
    Ok(mask.raw())
}

fn acquire(k: &mut Kf<'_, '_, '_>, [mask, ..]: [u64; 5]) -> Result<u64, Abort> {
    let at = k.owned(mask)?;
    let refs = k.mem().get(at, field!(bpf_cpumask, usage.refs));
    let refs = refs.checked_add(1).ok_or_else(|| {
        k.call
            .bad_argument(format!("{mask:#x} has too many references"))
    })?;
    k.mem().put(at, field!(bpf_cpumask, usage.refs), refs);
    Ok(mask)
}

fn release(k: &mut Kf<'_, '_, '_>, [mask, ..]: [u64; 5]) -> Result<u64, Abort> {
    let at = k.owned(mask)?;
    let refs = k.mem().get(at, field!(bpf_cpumask, usage.refs));
    if refs > 1 {
        k.mem().put(at, field!(bpf_cpumask, usage.refs), refs - 1);
    } else {
        k.st.cpumasks.remove(&at);
        k.mem().free(Region::Kernel, at, SIZE, ALIGN);
    }
    Ok(0)
}

fn populate(k: &mut Kf<'_, '_, '_>, [mask, src, size, ..]: [u64; 5]) -> Result<u64, Abort> {
    let len = k.nr_words() * 8;
    if usize::try_from(size).is_ok_and(|size| size < len) {
        return Ok(harena_abi::Errno::EACCES.as_reg());
    }
    let mut words = [0; CPUMASK_WORDS];
    for (word, at) in words.iter_mut().take(k.nr_words()).zip((0..).step_by(8)) {
        *word = k
            .mem()
            .read_u64(KernAddr::new(src.wrapping_add(at)))
            .map_err(|fault| k.bad_memory(&fault))?;
    }
    k.put(mask, &words)
}

impl Kf<'_, '_, '_> {
    fn nr_cpus(&self) -> u32 {
        self.st.places.nr_cpus()
    }

    fn nr_words(&self) -> usize {
        (self.nr_cpus() as usize).div_ceil(64)
    }

    /// The machine's CPUs as bits.
    fn valid(&self) -> Words {
        let mut words = [0; CPUMASK_WORDS];
        for cpu in 0..self.nr_cpus() as usize {
            words[cpu / 64] |= 1 << (cpu % 64);
        }
        words
    }

    fn masked(&self, words: &Words) -> Words {
        let mut masked = self.valid();
        for (m, w) in masked.iter_mut().zip(words) {
            *m &= w;
        }
        masked
    }

    /// The words of any mask, program's or kernel's.
    fn words(&self, mask: u64) -> Result<Words, Abort> {
        let mut words = [0; CPUMASK_WORDS];
        for (word, at) in words.iter_mut().take(self.nr_words()).zip((0..).step_by(8)) {
            *word = self
                .mem()
                .read_u64(KernAddr::new(mask.wrapping_add(at)))
                .map_err(|fault| self.bad_memory(&fault))?;
        }
        Ok(words)
    }

    /// The CPUs in a mask, program's or kernel's.
    pub(super) fn cpu_set(&self, mask: u64) -> Result<CpuSet, Abort> {
        let words = self.masked(&self.words(mask)?);
        Ok(set_of(&words[..self.nr_words()]))
    }

    fn combine(&self, a: u64, b: u64, op: fn(u64, u64) -> u64) -> Result<Words, Abort> {
        let (mut a, b) = (self.words(a)?, self.words(b)?);
        for (a, b) in a.iter_mut().zip(b) {
            *a = op(*a, b);
        }
        Ok(a)
    }

    fn is_empty(&self, words: &Words) -> bool {
        self.masked(words).iter().all(|w| *w == 0)
    }

    /// The lowest CPU of a mask, or `nr_cpu_ids`.
    fn first(&self, words: &Words) -> u64 {
        let first = set_of(&self.masked(words)).iter().next();
        self.cpu_or_nr(first)
    }

    fn cpu_or_nr(&self, cpu: Option<Cpu>) -> u64 {
        cpu.map_or(self.nr_cpus(), Cpu::raw).into()
    }

    /// A mask that a program owns.
    fn owned(&self, mask: u64) -> Result<KernAddr, Abort> {
        let at = KernAddr::new(mask);
        if self.st.cpumasks.contains(&at) {
            return Ok(at);
        }
        Err(self
            .call
            .bad_argument(format!("{mask:#x} is not a bpf_cpumask")))
    }

    fn put(&self, mask: u64, words: &Words) -> Result<u64, Abort> {
        let at = self.owned(mask)?;
        for (word, offset) in words.iter().zip((0..).step_by(8)) {
            let at = KernAddr::new(at.raw() + offset);
            self.mem()
                .write_u64(at, *word)
                .map_err(|fault| self.bad_memory(&fault))?;
        }
        Ok(0)
    }

    fn test(&self, cpu: u64, mask: u64) -> Result<bool, Abort> {
        let cpu = as_u32(cpu);
        if cpu >= self.nr_cpus() {
            return Ok(false);
        }
        let at = KernAddr::new(mask.wrapping_add(u64::from(cpu / 64) * 8));
        let word = self
            .mem()
            .read_u64(at)
            .map_err(|fault| self.bad_memory(&fault))?;
        Ok(word >> (cpu % 64) & 1 == 1)
    }

    /// Sets or clears one bit; gives what it was.
    fn change(&self, cpu: u64, mask: u64, set: bool) -> Result<u64, Abort> {
        let at = self.owned(mask)?;
        let cpu = as_u32(cpu);
        if cpu >= self.nr_cpus() {
            return Ok(0);
        }
        let at = KernAddr::new(at.raw() + u64::from(cpu / 64) * 8);
        let bit = 1u64 << (cpu % 64);
        let old = self
            .mem()
            .read_u64(at)
            .map_err(|fault| self.bad_memory(&fault))?;
        let new = if set { old | bit } else { old & !bit };
        self.mem()
            .write_u64(at, new)
            .map_err(|fault| self.bad_memory(&fault))?;
        Ok((old & bit != 0).into())
    }
}

fn set_of(words: &[u64]) -> CpuSet {
    let cpus = (0u32..).step_by(64).zip(words).flat_map(|(base, word)| {
        (0..64)
            .filter(move |bit| word >> bit & 1 == 1)
            .map(move |bit| Cpu::new(base + bit))
    });
    cpus.collect()
}
