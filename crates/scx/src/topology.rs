//! CPUs and how they share cores, caches and nodes.

use harena_abi::Cpu;

/// Where one CPU sits. Numbers are global indices of the unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuTopology {
    /// Physical core.
    pub core: u32,
    /// Last-level cache.
    pub llc: u32,
    /// NUMA node.
    pub node: u32,
    /// Relative capacity; 1024 is the biggest.
    pub capacity: u32,
}

/// The possible CPUs of a machine, indexed by CPU number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    cpus: Vec<CpuTopology>,
}

impl Topology {
    /// A machine of these CPUs; `None` without any.
    #[must_use]
    pub fn new(cpus: Vec<CpuTopology>) -> Option<Self> {
        if cpus.is_empty() {
            None
        } else {
            Some(Self { cpus })
        }
    }

    /// Number of possible CPUs.
    #[must_use]
    pub fn nr_cpus(&self) -> u32 {
        u32::try_from(self.cpus.len()).expect("a machine has fewer than 2^32 CPUs")
    }

    /// Number of possible nodes: one more than the highest that a CPU sits in.
    #[must_use]
    pub fn nr_nodes(&self) -> u32 {
        self.cpus.iter().map(|c| c.node).max().map_or(1, |n| n + 1)
    }

    /// The node of `cpu`, which must exist.
    #[must_use]
    pub fn node_of(&self, cpu: Cpu) -> u32 {
        self.cpus[cpu.index()].node
    }

    /// CPUs for which `same` holds with `cpu`, which must exist.
    pub(crate) fn peers(
        &self,
        cpu: Cpu,
        same: impl Fn(&CpuTopology, &CpuTopology) -> bool,
    ) -> CpuSet {
        let here = &self.cpus[cpu.index()];
        self.cpus()
            .filter(|other| same(here, &self.cpus[other.index()]))
            .collect()
    }

    /// Every CPU in increasing order.
    pub fn cpus(&self) -> impl Iterator<Item = Cpu> + use<> {
        (0..self.nr_cpus()).map(Cpu::new)
    }

    /// Where `cpu` sits, or `None` if there is no such CPU.
    #[must_use]
    pub fn get(&self, cpu: Cpu) -> Option<&CpuTopology> {
        self.cpus.get(cpu.index())
    }
}

/// A set of CPUs.
#[derive(Clone, Default)]
pub struct CpuSet {
    words: Vec<u64>,
}

impl CpuSet {
    /// No CPU.
    #[must_use]
    pub const fn empty() -> Self {
        Self { words: Vec::new() }
    }

    /// CPUs `0..nr`.
    #[must_use]
    pub fn first_n(nr: u32) -> Self {
        (0..nr).map(Cpu::new).collect()
    }

    /// Whether `cpu` is a member.
    #[must_use]
    pub fn contains(&self, cpu: Cpu) -> bool {
        self.words
            .get(cpu.index() / 64)
            .is_some_and(|w| w >> (cpu.index() % 64) & 1 == 1)
    }

    /// Adds `cpu`; true if it was not a member.
    pub fn insert(&mut self, cpu: Cpu) -> bool {
        let (word, bit) = (cpu.index() / 64, 1u64 << (cpu.index() % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let added = self.words[word] & bit == 0;
        self.words[word] |= bit;
        added
    }

    /// Removes `cpu`; true if it was a member.
    pub fn remove(&mut self, cpu: Cpu) -> bool {
        let (word, bit) = (cpu.index() / 64, 1u64 << (cpu.index() % 64));
        match self.words.get_mut(word) {
            Some(w) => {
                let had = *w & bit != 0;
                *w &= !bit;
                had
            }
            None => false,
        }
    }

    /// Members in increasing order.
    pub fn iter(&self) -> impl Iterator<Item = Cpu> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &w)| {
            let mut rest = w;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                u32::try_from(i * 64).ok().map(|base| Cpu::new(base + bit))
            })
        })
    }

    /// Number of members.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.words.iter().map(|w| w.count_ones()).sum()
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&w| w == 0)
    }

    /// The lowest member.
    #[must_use]
    pub fn first(&self) -> Option<Cpu> {
        self.iter().next()
    }

    /// Whether some CPU is in both.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    /// CPUs in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let words = self.words.iter().zip(&other.words);
        Self {
            words: words.map(|(a, b)| a & b).collect(),
        }
    }

    /// Whether every member is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        let others = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter().zip(others).all(|(&a, b)| a & !b == 0)
    }

    /// The lowest member of both that is above `after`, wrapping around to the lowest.
    #[must_use]
    pub fn next_and_wrap(&self, other: &Self, after: Option<Cpu>) -> Option<Cpu> {
        let both = |word: usize| -> u64 {
            let a = self.words.get(word).copied().unwrap_or(0);
            a & other.words.get(word).copied().unwrap_or(0)
        };
        let found = |word: usize, bits: u64| -> Option<Cpu> {
            let base = u32::try_from(word * 64).ok()?;
            (bits != 0).then(|| Cpu::new(base + bits.trailing_zeros()))
        };
        let len = self.words.len().min(other.words.len());
        let start = after.map_or(0, |cpu| cpu.index() + 1);
        let (first, shift) = (start / 64, start % 64);
        found(first, both(first) & (u64::MAX << shift))
            .or_else(|| (first + 1..len).find_map(|word| found(word, both(word))))
            .or_else(|| (0..len).find_map(|word| found(word, both(word))))
    }

    /// The members as words, bit `c % 64` of word `c / 64` for CPU `c`.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }
}

impl PartialEq for CpuSet {
    fn eq(&self, other: &Self) -> bool {
        self.is_subset(other) && other.is_subset(self)
    }
}

impl Eq for CpuSet {}

impl FromIterator<Cpu> for CpuSet {
    fn from_iter<I: IntoIterator<Item = Cpu>>(cpus: I) -> Self {
        let mut set = Self::empty();
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

impl std::fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Cpu::raw)).finish()
    }
}
