//! cids: dense CPU numbers in topology order (`kernel/sched/ext/cid.c`).
//!
//! Online CPUs are numbered node by node, cache by cache, core by core, each level in
//! the order of its lowest CPU; then come the others, without topology. Neighbours in cid
//! space are neighbours in silicon. Inside a cache the cids are cut into *shards* of whole
//! cores, spread evenly. `ops.init_cids` may put another layout in place.

use harena_abi::{Cid, Cpu, scx};

use crate::{CpuSet, Topology};

/// `struct scx_cid_topo`; -1 is "unknown".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CidTopo {
    /// First cid of the core.
    pub core_cid: i32,
    /// Index of the core.
    pub core_idx: i32,
    /// First cid of the last-level cache.
    pub llc_cid: i32,
    /// Index of the last-level cache.
    pub llc_idx: i32,
    /// First cid of the node.
    pub node_cid: i32,
    /// Index of the node.
    pub node_idx: i32,
    /// First cid of the shard.
    pub shard_cid: i32,
    /// Index of the shard.
    pub shard_idx: i32,
}

impl CidTopo {
    /// Nothing known.
    pub const UNKNOWN: Self = Self {
        core_cid: -1,
        core_idx: -1,
        llc_cid: -1,
        llc_idx: -1,
        node_cid: -1,
        node_idx: -1,
        shard_cid: -1,
        shard_idx: -1,
    };
}

/// The tables between CPUs and cids, constant while a scheduler is attached.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CidMap {
    cpu_to_cid: Vec<Cid>,
    cid_to_cpu: Vec<Cpu>,
    topo: Vec<CidTopo>,
}

/// Why `scx_bpf_cid_override` refused a layout. The texts are the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CidLayoutError {
    /// One entry per CPU id is needed.
    #[error("scx_bpf_cid_override: cpu_to_cid expected {expected} bytes, got {got}")]
    CpuTableSize {
        /// In bytes.
        expected: usize,
        /// In bytes.
        got: usize,
    },
    /// No shard at all.
    #[error("scx_bpf_cid_override: invalid shard_start size {size}")]
    ShardTableSize {
        /// In bytes.
        size: usize,
    },
    /// The first shard begins elsewhere.
    #[error("scx_bpf_cid_override: shard_start[0] must be 0, got {start}")]
    FirstShard {
        /// Where it begins.
        start: i32,
    },
    /// Shards must be in order.
    #[error("scx_bpf_cid_override: shard_start not increasing at [{index}]")]
    NotIncreasing {
        /// Of the shard.
        index: usize,
    },
    /// A shard begins behind the last cid.
    #[error("scx_bpf_cid_override: shard_start[{index}]={start} >= {nr_cids}")]
    PastEnd {
        /// Of the shard.
        index: usize,
        /// Where it begins.
        start: i32,
        /// Number of cids.
        nr_cids: usize,
    },
    /// A shard is too big.
    #[error("scx_bpf_cid_override: shard[{index}] span {span} exceeds max {max}")]
    TooWide {
        /// Of the shard.
        index: usize,
        /// Its cids.
        span: i64,
        /// The limit.
        max: u64,
    },
    /// A number that is no cid.
    #[error("invalid cid {cid}")]
    InvalidCid {
        /// As given.
        cid: i32,
    },
    /// A cid was given twice.
    #[error("cid {cid} assigned to multiple cpus")]
    Duplicate {
        /// As given.
        cid: i32,
    },
}

fn s32(n: usize) -> i32 {
    i32::try_from(n).expect("a machine has fewer than 2^31 CPUs")
}

fn cid(n: usize) -> Cid {
    Cid::new(u32::try_from(n).expect("a machine has fewer than 2^32 CPUs"))
}

/// Cuts one cache's cores into shards (`calc_shard_layout()`).
struct Sharder {
    max_cids: usize,
    cores_per_shard: usize,
    nr_large: usize,
    local: usize,
    cores: usize,
    cids: usize,
}

impl Sharder {
    fn new(nr_cpus: usize, nr_cores: usize, shard_size: usize) -> Self {
        let limit = usize::try_from(scx::SCX_CID_SHARD_MAX_CPUS).expect("small");
        let shard_size = shard_size.max(1);
        let nr_shards = nr_cpus
            .div_ceil(shard_size)
            .max(nr_cpus.div_ceil(limit))
            .max(1);
        Self {
            max_cids: shard_size.min(limit),
            cores_per_shard: nr_cores / nr_shards,
            nr_large: nr_cores % nr_shards,
            local: 0,
            cores: 0,
            cids: 0,
        }
    }

    /// Adds a core; true if it begins another shard. A shard is never empty.
    fn add_core(&mut self, cpus: usize) -> bool {
        let max_cores = self.cores_per_shard + usize::from(self.local < self.nr_large);
        let full = self.cores >= max_cores || self.cids + cpus > self.max_cids;
        let next = self.cores > 0 && full;
        if next {
            self.local += 1;
            self.cores = 0;
            self.cids = 0;
        }
        self.cores += 1;
        self.cids += cpus;
        next
    }
}

/// The walk over the topology, counting units as it enters them.
struct Walk<'a> {
    topology: &'a Topology,
    map: CidMap,
    nodes: usize,
    llcs: usize,
    cores: usize,
    shards: usize,
}

impl Walk<'_> {
    fn next_cid(&self) -> usize {
        self.map.cid_to_cpu.len()
    }

    fn assign(&mut self, cpu: Cpu, topo: CidTopo) {
        self.map.cpu_to_cid[cpu.index()] = cid(self.next_cid());
        self.map.cid_to_cpu.push(cpu);
        self.map.topo.push(topo);
    }

    /// CPUs of `among` that share a unit with its lowest CPU.
    fn unit(
        &self,
        among: &CpuSet,
        same: fn(&crate::CpuTopology, &crate::CpuTopology) -> bool,
    ) -> Option<CpuSet> {
        Some(self.topology.peers(among.first()?, same).and(among))
    }

    fn llc(&mut self, cpus: CpuSet, node: (usize, usize), shard_size: usize) {
        let same_core = |a: &crate::CpuTopology, b: &crate::CpuTopology| a.core == b.core;
        let mut cores = Vec::new();
        let mut rest = cpus.clone();
        while let Some(core) = self.unit(&rest, same_core) {
            core.iter().for_each(|cpu| {
                rest.remove(cpu);
            });
            cores.push(core);
        }
        let mut sharder = Sharder::new(cpus.len() as usize, cores.len(), shard_size);
        let (llc_cid, llc_idx) = (self.next_cid(), self.llcs);
        self.llcs += 1;
        let (mut shard_cid, mut shard_idx) = (llc_cid, self.shards);
        self.shards += 1;
        for core in cores {
            if sharder.add_core(core.len() as usize) {
                (shard_cid, shard_idx) = (self.next_cid(), self.shards);
                self.shards += 1;
            }
            let topo = CidTopo {
                core_cid: s32(self.next_cid()),
                core_idx: s32(self.cores),
                llc_cid: s32(llc_cid),
                llc_idx: s32(llc_idx),
                node_cid: s32(node.0),
                node_idx: s32(node.1),
                shard_cid: s32(shard_cid),
                shard_idx: s32(shard_idx),
            };
            self.cores += 1;
            for cpu in core.iter() {
                self.assign(cpu, topo);
            }
        }
    }

    /// Possible CPUs that are not online: a cid and a shard, and nothing else.
    fn without_topology(&mut self, cpus: impl Iterator<Item = Cpu>, shard_size: usize) {
        let limit = usize::try_from(scx::SCX_CID_SHARD_MAX_CPUS).expect("small");
        let size = shard_size.clamp(1, limit);
        let first = self.next_cid();
        for (i, cpu) in cpus.enumerate() {
            if i % size == 0 {
                self.shards += 1;
            }
            let topo = CidTopo {
                shard_cid: s32(first + i / size * size),
                shard_idx: s32(self.shards - 1),
                ..CidTopo::UNKNOWN
            };
            self.assign(cpu, topo);
        }
    }
}

impl CidMap {
    /// The default layout (`scx_cid_init()`).
    #[must_use]
    pub fn assign(topology: &Topology, online: &CpuSet, shard_size: u32) -> Self {
        let shard_size = shard_size as usize;
        let mut walk = Walk {
            topology,
            map: Self {
                cpu_to_cid: vec![Cid::new(0); topology.nr_cpus() as usize],
                ..Self::default()
            },
            nodes: 0,
            llcs: 0,
            cores: 0,
            shards: 0,
        };
        let mut rest = online.clone();
        while let Some(node) = walk.unit(&rest, |a, b| a.node == b.node) {
            let at = (walk.next_cid(), walk.nodes);
            walk.nodes += 1;
            let mut in_node = node;
            while let Some(llc) = walk.unit(&in_node, |a, b| a.llc == b.llc) {
                for cpu in llc.iter() {
                    in_node.remove(cpu);
                    rest.remove(cpu);
                }
                walk.llc(llc, at, shard_size);
            }
        }
        let offline = topology.cpus().filter(|&cpu| !online.contains(cpu));
        walk.without_topology(offline, shard_size);
        walk.map
    }

    /// Puts another layout in place (`scx_bpf_cid_override()`): a cid per CPU, and the
    /// first cid of each shard. All topology but the shards is unknown afterwards.
    pub fn set_layout(&mut self, cpu_to_cid: &[i32], starts: &[i32]) -> Result<(), CidLayoutError> {
        let nr = self.cid_to_cpu.len();
        if cpu_to_cid.len() != nr {
            return Err(CidLayoutError::CpuTableSize {
                expected: nr * 4,
                got: cpu_to_cid.len() * 4,
            });
        }
        check_shards(starts, nr)?;
        let mut cid_to_cpu: Vec<Option<Cpu>> = vec![None; nr];
        let cpus = (0u32..).map(Cpu::new);
        for (cpu, &cid) in cpus.zip(cpu_to_cid) {
            let slot = usize::try_from(cid).ok();
            let slot = slot.and_then(|i| cid_to_cpu.get_mut(i));
            let slot = slot.ok_or(CidLayoutError::InvalidCid { cid })?;
            if slot.replace(cpu).is_some() {
                return Err(CidLayoutError::Duplicate { cid });
            }
        }
        self.cid_to_cpu = cid_to_cpu.into_iter().flatten().collect();
        for (i, &cpu) in self.cid_to_cpu.iter().enumerate() {
            self.cpu_to_cid[cpu.index()] = cid(i);
        }
        let mut shard = 0;
        for i in 0..nr {
            if starts.get(shard + 1).is_some_and(|&next| s32(i) >= next) {
                shard += 1;
            }
            self.topo[i] = CidTopo {
                shard_cid: starts[shard],
                shard_idx: s32(shard),
                ..CidTopo::UNKNOWN
            };
        }
        Ok(())
    }

    /// The cid of `cpu`.
    #[must_use]
    pub fn cid_of(&self, cpu: Cpu) -> Option<Cid> {
        self.cpu_to_cid.get(cpu.index()).copied()
    }

    /// The CPU of `cid`.
    #[must_use]
    pub fn cpu_of(&self, cid: Cid) -> Option<Cpu> {
        self.cid_to_cpu.get(cid.index()).copied()
    }

    /// Where `cid` sits.
    #[must_use]
    pub fn topo(&self, cid: Cid) -> Option<&CidTopo> {
        self.topo.get(cid.index())
    }

    /// Number of cids: one per possible CPU.
    #[must_use]
    pub fn nr_cids(&self) -> u32 {
        u32::try_from(self.cid_to_cpu.len()).expect("a machine has fewer than 2^32 CPUs")
    }
}

fn check_shards(starts: &[i32], nr_cids: usize) -> Result<(), CidLayoutError> {
    let max = scx::SCX_CID_SHARD_MAX_CPUS;
    let Some(&first) = starts.first() else {
        return Err(CidLayoutError::ShardTableSize { size: 0 });
    };
    if first != 0 {
        return Err(CidLayoutError::FirstShard { start: first });
    }
    for (index, pair) in (1..).zip(starts.windows(2)) {
        let (before, start) = (pair[0], pair[1]);
        let span = i64::from(start) - i64::from(before);
        if span <= 0 {
            return Err(CidLayoutError::NotIncreasing { index });
        }
        if i64::from(start) >= i64::from(s32(nr_cids)) {
            return Err(CidLayoutError::PastEnd {
                index,
                start,
                nr_cids,
            });
        }
        if span.unsigned_abs() > max {
            let index = index - 1;
            return Err(CidLayoutError::TooWide { index, span, max });
        }
    }
    let index = starts.len() - 1;
    let span = i64::from(s32(nr_cids)) - i64::from(starts[index]);
    if span.unsigned_abs() > max {
        return Err(CidLayoutError::TooWide { index, span, max });
    }
    Ok(())
}
