//! Dispatch queues (`struct scx_dispatch_q`): who waits where, in which order.
//!
//! | kind | count | id | order |
//! |---|---|---|---|
//! | local | one per CPU | `SCX_DSQ_LOCAL_ON \| cpu` | FIFO |
//! | global | one per node | `SCX_DSQ_GLOBAL` | FIFO |
//! | bypass | one per CPU | `SCX_DSQ_BYPASS` | FIFO |
//! | user | created by the scheduler | bit 63 clear | FIFO or vtime, by its tasks |
//!
//! A task is on at most one queue. The list of a queue holds all its tasks in the order
//! in which they are consumed; the tree only finds a vtime insert's place in it. This
//! file keeps order and counts; what entering a queue *means* is in `insert.rs`.

use std::collections::BTreeMap;

use harena_abi::{Cpu, DsqId, Errno, Tid, scx};

use crate::list::{Links, List};
use crate::priq::{Priq, Root};

/// A queue by its place in the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DsqRef {
    /// A CPU's local queue.
    Local(Cpu),
    /// A node's global queue.
    Global(u32),
    /// A CPU's bypass queue.
    Bypass(Cpu),
    /// A slot of the table of user queues.
    User(u32),
}

/// Where in a queue a task goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Head,
    Tail,
    Vtime(u64),
}

#[derive(Debug, Default)]
struct Dsq {
    id: u64,
    list: List,
    root: Root,
    nr: u32,
    seq: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Linked {
    dsq: Option<DsqRef>,
    seq: u32,
    on_priq: bool,
}

/// A walk over a user queue, open to changes meanwhile (`struct bpf_iter_scx_dsq`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iter {
    slot: u32,
    next: Option<Tid>,
    /// Tasks linked later than this are not seen.
    seq: u32,
    reverse: bool,
    pub(crate) slice: Option<u64>,
    pub(crate) vtime: Option<u64>,
}

/// Live iterators a scheduler may hold; a BPF program that leaks them hits this.
const MAX_ITERS: usize = 1024;

/// User queues a scheduler may have; the memory of a real machine ends as well.
const MAX_USER_DSQS: usize = 1 << 20;

/// Every queue.
#[derive(Debug)]
pub(crate) struct Dsqs {
    local: Vec<Dsq>,
    global: Vec<Dsq>,
    bypass: Vec<Dsq>,
    user: Vec<Option<Dsq>>,
    /// Empty slots of `user`.
    free: Vec<u32>,
    by_id: BTreeMap<u64, u32>,
    links: Links,
    priq: Priq,
    linked: Vec<Linked>,
    iters: Vec<Option<Iter>>,
    live_iters: usize,
}

fn builtin(count: u32, id: impl Fn(u32) -> u64) -> Vec<Dsq> {
    (0..count)
        .map(|i| Dsq {
            id: id(i),
            ..Dsq::default()
        })
        .collect()
}

impl Dsqs {
    pub(crate) fn new(nr_cpus: u32, nr_nodes: u32) -> Self {
        Self {
            local: builtin(nr_cpus, |cpu| scx::SCX_DSQ_LOCAL_ON | u64::from(cpu)),
            global: builtin(nr_nodes, |_| scx::SCX_DSQ_GLOBAL),
            bypass: builtin(nr_cpus, |_| scx::SCX_DSQ_BYPASS),
            user: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            links: Links::default(),
            priq: Priq::default(),
            linked: Vec::new(),
            iters: Vec::new(),
            live_iters: 0,
        }
    }

    /// Makes room for `p`.
    pub(crate) fn grow(&mut self, p: Tid) {
        self.links.grow(p);
        self.priq.grow(p);
        if self.linked.len() <= p.index() {
            self.linked.resize(p.index() + 1, Linked::default());
        }
    }

    fn get(&self, r: DsqRef) -> &Dsq {
        match r {
            DsqRef::Local(cpu) => &self.local[cpu.index()],
            DsqRef::Global(node) => &self.global[node as usize],
            DsqRef::Bypass(cpu) => &self.bypass[cpu.index()],
            DsqRef::User(slot) => self.user[slot as usize]
                .as_ref()
                .expect("a reference to a user DSQ does not outlive it"),
        }
    }

    fn parts(&mut self, r: DsqRef) -> (&mut Dsq, &mut Links, &mut Priq) {
        let dsq = match r {
            DsqRef::Local(cpu) => &mut self.local[cpu.index()],
            DsqRef::Global(node) => &mut self.global[node as usize],
            DsqRef::Bypass(cpu) => &mut self.bypass[cpu.index()],
            DsqRef::User(slot) => self.user[slot as usize]
                .as_mut()
                .expect("a reference to a user DSQ does not outlive it"),
        };
        (dsq, &mut self.links, &mut self.priq)
    }

    /// The queue's id; local ones as `SCX_DSQ_LOCAL_ON | cpu`.
    pub(crate) fn id(&self, r: DsqRef) -> DsqId {
        DsqId::new(self.get(r).id)
    }

    pub(crate) fn nr(&self, r: DsqRef) -> u32 {
        self.get(r).nr
    }

    pub(crate) fn first(&self, r: DsqRef) -> Option<Tid> {
        self.get(r).list.first()
    }

    /// The task behind `p` on its queue.
    pub(crate) fn next(&self, p: Tid) -> Option<Tid> {
        self.links.next(p)
    }

    pub(crate) fn has_vtime_tasks(&self, r: DsqRef) -> bool {
        !self.get(r).root.is_empty()
    }

    /// The queue `p` is on.
    pub(crate) fn dsq_of(&self, p: Tid) -> Option<DsqRef> {
        self.linked.get(p.index()).and_then(|l| l.dsq)
    }

    /// Whether `p` is on a queue by its vtime (`SCX_TASK_DSQ_ON_PRIQ`).
    pub(crate) fn on_priq(&self, p: Tid) -> bool {
        self.linked.get(p.index()).is_some_and(|l| l.on_priq)
    }

    /// Links `p`, which must be on no queue.
    pub(crate) fn link(&mut self, r: DsqRef, p: Tid, place: Place) {
        debug_assert!(self.dsq_of(p).is_none(), "{p:?} is on a DSQ already");
        let (dsq, links, priq) = self.parts(r);
        match place {
            Place::Head => links.push_front(&mut dsq.list, p),
            Place::Tail => links.push_back(&mut dsq.list, p),
            Place::Vtime(vtime) => {
                let pred = priq.insert(&mut dsq.root, p, vtime);
                links.insert_after(&mut dsq.list, pred, p);
            }
        }
        dsq.nr += 1;
        dsq.seq = dsq.seq.wrapping_add(1);
        let seq = dsq.seq;
        self.linked[p.index()] = Linked {
            dsq: Some(r),
            seq,
            on_priq: matches!(place, Place::Vtime(_)),
        };
    }

    /// Unlinks `p`; gives the queue it was on.
    pub(crate) fn unlink(&mut self, p: Tid) -> Option<DsqRef> {
        let Linked { dsq, on_priq, .. } = *self.linked.get(p.index())?;
        let r = dsq?;
        if self.live_iters != 0 {
            self.step_iters_past(p);
        }
        let (dsq, links, priq) = self.parts(r);
        if on_priq {
            priq.remove(&mut dsq.root, p);
        }
        links.remove(&mut dsq.list, p);
        dsq.nr -= 1;
        self.linked[p.index()] = Linked::default();
        Some(r)
    }

    /// `scx_bpf_create_dsq`.
    pub(crate) fn create(&mut self, id: u64) -> Result<(), Errno> {
        if id & scx::SCX_DSQ_FLAG_BUILTIN != 0 {
            return Err(Errno::EINVAL);
        }
        if self.by_id.contains_key(&id) {
            return Err(Errno::EEXIST);
        }
        if self.by_id.len() >= MAX_USER_DSQS {
            return Err(Errno::ENOMEM);
        }
        let dsq = Some(Dsq {
            id,
            ..Dsq::default()
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.user[slot as usize] = dsq;
                slot
            }
            None => {
                self.user.push(dsq);
                u32::try_from(self.user.len() - 1).expect("fewer than 2^32 user DSQs")
            }
        };
        self.by_id.insert(id, slot);
        Ok(())
    }

    pub(crate) fn find_user(&self, id: u64) -> Option<DsqRef> {
        self.by_id.get(&id).map(|&slot| DsqRef::User(slot))
    }

    /// Removes a user queue, or says how many tasks are on it.
    pub(crate) fn destroy(&mut self, id: u64) -> Result<(), u32> {
        let Some(&slot) = self.by_id.get(&id) else {
            return Ok(());
        };
        match self.nr(DsqRef::User(slot)) {
            0 => {
                self.by_id.remove(&id);
                self.user[slot as usize] = None;
                self.free.push(slot);
                for it in self.iters.iter_mut().flatten().filter(|it| it.slot == slot) {
                    it.next = None;
                }
                Ok(())
            }
            nr => Err(nr),
        }
    }

    /// Removes every user queue; all must be empty.
    pub(crate) fn destroy_all(&mut self) {
        debug_assert!(self.user.iter().flatten().all(|d| d.nr == 0));
        self.user.clear();
        self.free.clear();
        self.by_id.clear();
        self.iters.clear();
        self.live_iters = 0;
    }

    /// Every queue with its length.
    pub(crate) fn all(&self) -> impl Iterator<Item = (DsqId, u32)> + '_ {
        let builtin = [&self.local, &self.global, &self.bypass];
        let builtin = builtin.into_iter().flatten();
        let user = self.by_id.values();
        builtin
            .chain(user.filter_map(|&slot| self.user[slot as usize].as_ref()))
            .map(|dsq| (DsqId::new(dsq.id), dsq.nr))
    }

    /// The tasks of a queue in order.
    pub(crate) fn tasks(&self, r: DsqRef) -> impl Iterator<Item = Tid> + '_ {
        self.links.iter(&self.get(r).list)
    }

    /// `bpf_iter_scx_dsq_new`.
    pub(crate) fn iter_new(&mut self, id: u64, reverse: bool) -> Result<u32, Errno> {
        let slot = *self.by_id.get(&id).ok_or(Errno::ENOENT)?;
        if self.live_iters >= MAX_ITERS {
            return Err(Errno::ENOMEM);
        }
        let dsq = self.get(DsqRef::User(slot));
        let it = Iter {
            slot,
            next: if reverse {
                dsq.list.last()
            } else {
                dsq.list.first()
            },
            seq: dsq.seq,
            reverse,
            slice: None,
            vtime: None,
        };
        self.live_iters += 1;
        let at = match self.iters.iter().position(Option::is_none) {
            Some(at) => {
                self.iters[at] = Some(it);
                at
            }
            None => {
                self.iters.push(Some(it));
                self.iters.len() - 1
            }
        };
        Ok(u32::try_from(at).expect("there are at most MAX_ITERS iterators"))
    }

    pub(crate) fn iter(&mut self, it: u32) -> Option<&mut Iter> {
        self.iters.get_mut(it as usize)?.as_mut()
    }

    /// `bpf_iter_scx_dsq_next`.
    pub(crate) fn iter_next(&mut self, it: u32) -> Option<Tid> {
        loop {
            let Iter {
                next, seq, reverse, ..
            } = *self.iter(it)?;
            let p = next?;
            let after = if reverse {
                self.links.prev(p)
            } else {
                self.links.next(p)
            };
            self.iter(it)?.next = after;
            if !self.is_newer(p, seq) {
                return Some(p);
            }
        }
    }

    pub(crate) fn iter_destroy(&mut self, it: u32) {
        if let Some(slot) = self.iters.get_mut(it as usize)
            && slot.take().is_some()
        {
            self.live_iters -= 1;
        }
    }

    /// The queue that `p` may be moved from by this iterator: it still is on the
    /// iterator's queue, and was before the iterator was made.
    pub(crate) fn iter_owns(&self, it: u32, p: Tid) -> bool {
        match self.iters.get(it as usize) {
            Some(Some(it)) => {
                self.dsq_of(p) == Some(DsqRef::User(it.slot)) && !self.is_newer(p, it.seq)
            }
            _ => false,
        }
    }

    fn is_newer(&self, p: Tid, seq: u32) -> bool {
        let ahead = self.linked[p.index()].seq.wrapping_sub(seq);
        ahead != 0 && ahead < 1 << 31
    }

    /// Iterators about to visit `p` visit its neighbour instead.
    fn step_iters_past(&mut self, p: Tid) {
        for it in self.iters.iter_mut().flatten() {
            if it.next == Some(p) {
                it.next = if it.reverse {
                    self.links.prev(p)
                } else {
                    self.links.next(p)
                };
            }
        }
    }
}
