//! The vtime order of dispatch queues: a tree embedded in the tasks.
//!
//! The kernel orders by the sign of a wrapping difference, which is no total order
//! once keys lie more than 2^63 apart, and a scheduler chooses the keys. A library map
//! must not be given such an order. This tree compares on insertion only and removes
//! by position, so a strange order of keys gives a strange order of tasks and nothing
//! worse, as in the kernel. It is a treap: heap order of a mix of task and key keeps it
//! shallow, deterministically.

use harena_abi::Tid;

const NIL: u32 = 0;

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    parent: u32,
    left: u32,
    right: u32,
    rank: u32,
    key: u64,
}

/// The tree nodes of every task.
#[derive(Debug, Default)]
pub(crate) struct Priq(Vec<Node>);

/// The root of one queue's tree.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Root(u32);

impl Root {
    pub(crate) fn is_empty(self) -> bool {
        self.0 == NIL
    }
}

/// The finaliser of `SplitMix64`: spreads neighbouring keys over all bits.
fn mix(mut x: u64) -> u32 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u32::try_from((x ^ (x >> 31)) >> 32).expect("the upper half of a u64 fits")
}

/// `time_before64(a, b)`.
fn before(a: u64, b: u64) -> bool {
    a.wrapping_sub(b) >> 63 == 1
}

impl Priq {
    /// Makes room for `p`.
    pub(crate) fn grow(&mut self, p: Tid) {
        if self.0.len() <= p.index() {
            self.0.resize(p.index() + 1, Node::default());
        }
    }

    fn at(&mut self, raw: u32) -> &mut Node {
        &mut self.0[raw as usize]
    }

    /// Inserts `p` behind all keys that `key` is not before; gives its predecessor.
    pub(crate) fn insert(&mut self, root: &mut Root, p: Tid, key: u64) -> Option<Tid> {
        let raw = p.raw();
        let (mut parent, mut went_left, mut pred) = (NIL, false, NIL);
        let mut cur = root.0;
        while cur != NIL {
            parent = cur;
            let node = self.0[cur as usize];
            went_left = before(key, node.key);
            if went_left {
                cur = node.left;
            } else {
                pred = cur;
                cur = node.right;
            }
        }
        *self.at(raw) = Node {
            parent,
            left: NIL,
            right: NIL,
            rank: mix(key ^ u64::from(raw) << 40),
            key,
        };
        if parent == NIL {
            root.0 = raw;
        } else if went_left {
            self.at(parent).left = raw;
        } else {
            self.at(parent).right = raw;
        }
        loop {
            let parent = self.at(raw).parent;
            if parent == NIL || self.at(parent).rank >= self.at(raw).rank {
                break;
            }
            self.rotate_up(root, raw);
        }
        (pred != NIL).then(|| Tid::new(pred))
    }

    /// Removes `p`, which must be in the tree of `root`.
    pub(crate) fn remove(&mut self, root: &mut Root, p: Tid) {
        let raw = p.raw();
        loop {
            let Node { left, right, .. } = *self.at(raw);
            let child = match (left, right) {
                (NIL, NIL) => break,
                (NIL, child) | (child, NIL) => child,
                (l, r) if self.0[l as usize].rank > self.0[r as usize].rank => l,
                (_, r) => r,
            };
            self.rotate_up(root, child);
        }
        let parent = self.at(raw).parent;
        if parent == NIL {
            root.0 = NIL;
        } else {
            self.replace_child(parent, raw, NIL);
        }
        *self.at(raw) = Node::default();
    }

    fn replace_child(&mut self, parent: u32, old: u32, new: u32) {
        let node = self.at(parent);
        if node.left == old {
            node.left = new;
        } else {
            node.right = new;
        }
    }

    /// Makes `x` the parent of its parent, keeping the order.
    fn rotate_up(&mut self, root: &mut Root, x: u32) {
        let parent = self.at(x).parent;
        let grand = self.at(parent).parent;
        let inner = if self.at(parent).left == x {
            let inner = self.at(x).right;
            self.at(x).right = parent;
            self.at(parent).left = inner;
            inner
        } else {
            let inner = self.at(x).left;
            self.at(x).left = parent;
            self.at(parent).right = inner;
            inner
        };
        if inner != NIL {
            self.at(inner).parent = parent;
        }
        self.at(parent).parent = x;
        self.at(x).parent = grand;
        if grand == NIL {
            root.0 = x;
        } else {
            self.replace_child(grand, parent, x);
        }
    }
}
