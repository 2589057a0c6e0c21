//! Doubly linked lists of tasks, as the kernel embeds them in `task_struct`.
//!
//! One [`Links`] holds the link fields of every task for one purpose; a task is on at
//! most one [`List`] of it. Linking and unlinking are O(1) and allocate only when the
//! table of tasks grows. Task numbers start at 1, so 0 ends a list.

use harena_abi::Tid;

const NIL: u32 = 0;
const UNLINKED: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

/// The link fields of every task.
#[derive(Debug, Default)]
pub(crate) struct Links(Vec<Link>);

/// The ends of one list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

fn tid(raw: u32) -> Option<Tid> {
    (raw != NIL).then(|| Tid::new(raw))
}

impl List {
    pub(crate) fn is_empty(&self) -> bool {
        self.head == NIL
    }

    pub(crate) fn first(&self) -> Option<Tid> {
        tid(self.head)
    }

    pub(crate) fn last(&self) -> Option<Tid> {
        tid(self.tail)
    }
}

impl Links {
    /// Makes room for `p`.
    pub(crate) fn grow(&mut self, p: Tid) {
        if self.0.len() <= p.index() {
            let unlinked = Link {
                prev: UNLINKED,
                next: UNLINKED,
            };
            self.0.resize(p.index() + 1, unlinked);
        }
    }

    pub(crate) fn is_linked(&self, p: Tid) -> bool {
        self.0.get(p.index()).is_some_and(|l| l.prev != UNLINKED)
    }

    pub(crate) fn next(&self, p: Tid) -> Option<Tid> {
        tid(self.0[p.index()].next)
    }

    pub(crate) fn prev(&self, p: Tid) -> Option<Tid> {
        tid(self.0[p.index()].prev)
    }

    pub(crate) fn push_back(&mut self, list: &mut List, p: Tid) {
        self.insert_after(list, list.last(), p);
    }

    pub(crate) fn push_front(&mut self, list: &mut List, p: Tid) {
        self.insert_after(list, None, p);
    }

    /// Links `p` behind `after`, or at the head without one.
    pub(crate) fn insert_after(&mut self, list: &mut List, after: Option<Tid>, p: Tid) {
        debug_assert!(!self.is_linked(p), "{p:?} is linked already");
        let prev = after.map_or(NIL, Tid::raw);
        let next = match after {
            Some(after) => self.0[after.index()].next,
            None => list.head,
        };
        self.0[p.index()] = Link { prev, next };
        match after {
            Some(after) => self.0[after.index()].next = p.raw(),
            None => list.head = p.raw(),
        }
        match tid(next) {
            Some(next) => self.0[next.index()].prev = p.raw(),
            None => list.tail = p.raw(),
        }
    }

    /// Unlinks `p`, which must be on `list`.
    pub(crate) fn remove(&mut self, list: &mut List, p: Tid) {
        debug_assert!(self.is_linked(p), "{p:?} is not linked");
        let Link { prev, next } = self.0[p.index()];
        match tid(prev) {
            Some(prev) => self.0[prev.index()].next = next,
            None => list.head = next,
        }
        match tid(next) {
            Some(next) => self.0[next.index()].prev = prev,
            None => list.tail = prev,
        }
        self.0[p.index()] = Link {
            prev: UNLINKED,
            next: UNLINKED,
        };
    }

    pub(crate) fn iter(&self, list: &List) -> impl Iterator<Item = Tid> + '_ {
        std::iter::successors(list.first(), |&p| self.next(p))
    }
}
