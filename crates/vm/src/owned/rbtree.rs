//! Red-black trees of nodes in objects, by address.
//!
//! Programs see a tree's shape (`bpf_rbtree_root`, `_left`, `_right`), so it must be the kernel's:
//! a removed node with two children is replaced by the next one in order, and colours are mended by
//! the usual cases, a nephew further away first. Mirrors `lib/rbtree.c`.

use std::collections::BTreeMap;

use harena_abi::KernAddr;

/// A child's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Left,
    Right,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Colour {
    Red,
    Black,
}

/// A node that is in a tree.
#[derive(Clone, Copy, Debug)]
struct Node {
    root: KernAddr,
    parent: Option<KernAddr>,
    left: Option<KernAddr>,
    right: Option<KernAddr>,
    colour: Colour,
}

impl Node {
    const fn child(&self, side: Side) -> Option<KernAddr> {
        match side {
            Side::Left => self.left,
            Side::Right => self.right,
        }
    }

    const fn set(&mut self, side: Side, child: Option<KernAddr>) {
        match side {
            Side::Left => self.left = child,
            Side::Right => self.right = child,
        }
    }
}

/// All trees of a VM.
#[derive(Debug, Default)]
pub(crate) struct Trees {
    /// Top nodes of the trees that are not empty.
    tops: BTreeMap<KernAddr, KernAddr>,
    nodes: BTreeMap<KernAddr, Node>,
}

impl Trees {
    /// The tree that a node is in.
    pub(crate) fn root_of(&self, node: KernAddr) -> Option<KernAddr> {
        self.nodes.get(&node).map(|node| node.root)
    }

    /// The top node.
    pub(crate) fn top(&self, root: KernAddr) -> Option<KernAddr> {
        self.tops.get(&root).copied()
    }

    /// A child of a node that is in a tree.
    pub(crate) fn child(&self, node: KernAddr, side: Side) -> Option<KernAddr> {
        self.nodes.get(&node)?.child(side)
    }

    /// The leftmost node.
    pub(crate) fn first(&self, root: KernAddr) -> Option<KernAddr> {
        self.top(root).map(|top| self.outermost(top, Side::Left))
    }

    fn outermost(&self, from: KernAddr, side: Side) -> KernAddr {
        let mut at = from;
        while let Some(next) = self.node(at).child(side) {
            at = next;
        }
        at
    }

    fn node(&self, at: KernAddr) -> &Node {
        self.nodes.get(&at).expect("a linked node")
    }

    fn node_mut(&mut self, at: KernAddr) -> &mut Node {
        self.nodes.get_mut(&at).expect("a linked node")
    }

    fn is_red(&self, at: Option<KernAddr>) -> bool {
        at.is_some_and(|at| self.node(at).colour == Colour::Red)
    }

    /// Which child of its parent a node is.
    fn side(&self, parent: KernAddr, child: KernAddr) -> Side {
        if self.node(parent).left == Some(child) {
            Side::Left
        } else {
            Side::Right
        }
    }

    /// Adds a node that is in no tree: as the only one, or below `parent`, which has no child on
    /// that side.
    pub(crate) fn insert(
        &mut self,
        root: KernAddr,
        node: KernAddr,
        parent: Option<(KernAddr, Side)>,
    ) {
        let linked = Node {
            root,
            parent: parent.map(|(parent, _)| parent),
            left: None,
            right: None,
            colour: Colour::Red,
        };
        let old = self.nodes.insert(node, linked);
        assert!(old.is_none(), "{node} is in a tree already");
        match parent {
            Some((parent, side)) => {
                let parent = self.node_mut(parent);
                assert!(parent.child(side).is_none(), "the place is taken");
                parent.set(side, Some(node));
            }
            None => {
                let old = self.tops.insert(root, node);
                assert!(old.is_none(), "the tree is not empty");
            }
        }
        self.mend_insertion(node);
    }

    /// Restores the colours above a red node whose parent may be red.
    fn mend_insertion(&mut self, mut node: KernAddr) {
        loop {
            let Some(mut parent) = self.node(node).parent else {
                self.node_mut(node).colour = Colour::Black;
                return;
            };
            if self.node(parent).colour == Colour::Black {
                return;
            }
            let top = self.node(parent).parent.expect("a red node has a parent");
            let side = self.side(top, parent);
            let uncle = self.node(top).child(side.other());
            if let Some(uncle) = uncle.filter(|uncle| self.is_red(Some(*uncle))) {
                self.node_mut(uncle).colour = Colour::Black;
                self.node_mut(parent).colour = Colour::Black;
                self.node_mut(top).colour = Colour::Red;
                node = top;
                continue;
            }
            if self.node(parent).child(side.other()) == Some(node) {
                self.rotate(parent, side);
                parent = node;
            }
            self.node_mut(parent).colour = Colour::Black;
            self.node_mut(top).colour = Colour::Red;
            self.rotate(top, side.other());
            return;
        }
    }

    /// Moves a node down to this side; its other child takes its place.
    fn rotate(&mut self, node: KernAddr, side: Side) {
        let up = self.node(node).child(side.other()).expect("there is one");
        let moved = self.node(up).child(side);
        self.node_mut(node).set(side.other(), moved);
        if let Some(moved) = moved {
            self.node_mut(moved).parent = Some(node);
        }
        self.replace(node, Some(up));
        self.node_mut(up).set(side, Some(node));
        self.node_mut(node).parent = Some(up);
    }

    /// Puts `new` where `old` hangs.
    fn replace(&mut self, old: KernAddr, new: Option<KernAddr>) {
        let Node { root, parent, .. } = *self.node(old);
        match (parent, new) {
            (Some(parent), _) => {
                let side = self.side(parent, old);
                self.node_mut(parent).set(side, new);
            }
            (None, Some(new)) => {
                self.tops.insert(root, new);
            }
            (None, None) => {
                self.tops.remove(&root);
            }
        }
        if let Some(new) = new {
            self.node_mut(new).parent = parent;
        }
    }

    /// Takes a node out of its tree, if it is in one.
    pub(crate) fn forget(&mut self, node: KernAddr) {
        if !self.nodes.contains_key(&node) {
            return;
        }
        let Node { left, right, .. } = *self.node(node);
        if let (Some(_), Some(right)) = (left, right) {
            self.swap_with_next(node, right);
        }
        // At most one child now.
        let Node {
            parent,
            left,
            right,
            colour,
            ..
        } = *self.node(node);
        let child = left.or(right);
        let side = parent.map(|parent| self.side(parent, node));
        self.replace(node, child);
        self.nodes.remove(&node);
        if let Some(child) = child {
            // An only child is red, and its parent black.
            self.node_mut(child).colour = Colour::Black;
        } else if let (Colour::Black, Some(parent), Some(side)) = (colour, parent, side) {
            self.mend_removal(parent, side);
        }
    }

    /// Exchanges a node and the next one in order, the leftmost below `right`, with their colours.
    fn swap_with_next(&mut self, node: KernAddr, right: KernAddr) {
        let next = self.outermost(right, Side::Left);
        let (above, below) = (*self.node(node), *self.node(next));
        self.replace(node, Some(next));
        let taken = self.node_mut(next);
        taken.colour = above.colour;
        taken.left = above.left;
        let parent = if next == right {
            next
        } else {
            taken.right = above.right;
            below.parent.expect("it hangs below `right`")
        };
        if next == right {
            self.node_mut(next).right = Some(node);
        } else {
            self.node_mut(parent).left = Some(node);
            self.node_mut(right).parent = Some(next);
        }
        if let Some(left) = above.left {
            self.node_mut(left).parent = Some(next);
        }
        if let Some(child) = below.right {
            self.node_mut(child).parent = Some(node);
        }
        let moved = self.node_mut(node);
        moved.parent = Some(parent);
        moved.left = None;
        moved.right = below.right;
        moved.colour = below.colour;
    }

    /// Restores the black height where a subtree below `parent` lost one.
    fn mend_removal(&mut self, mut parent: KernAddr, mut side: Side) {
        loop {
            let mut sibling = self.sibling(parent, side);
            if self.is_red(Some(sibling)) {
                self.node_mut(sibling).colour = Colour::Black;
                self.node_mut(parent).colour = Colour::Red;
                self.rotate(parent, side);
                sibling = self.sibling(parent, side);
            }
            let (near, far) = (
                self.node(sibling).child(side),
                self.node(sibling).child(side.other()),
            );
            if !self.is_red(far) {
                let Some(near) = near.filter(|near| self.is_red(Some(*near))) else {
                    self.node_mut(sibling).colour = Colour::Red;
                    if self.is_red(Some(parent)) {
                        self.node_mut(parent).colour = Colour::Black;
                        return;
                    }
                    let Some(above) = self.node(parent).parent else {
                        return;
                    };
                    side = self.side(above, parent);
                    parent = above;
                    continue;
                };
                self.node_mut(near).colour = Colour::Black;
                self.node_mut(sibling).colour = Colour::Red;
                self.rotate(sibling, side.other());
                sibling = near;
            }
            let colour = self.node(parent).colour;
            self.node_mut(sibling).colour = colour;
            self.node_mut(parent).colour = Colour::Black;
            if let Some(far) = self.node(sibling).child(side.other()) {
                self.node_mut(far).colour = Colour::Black;
            }
            self.rotate(parent, side);
            return;
        }
    }

    fn sibling(&self, parent: KernAddr, side: Side) -> KernAddr {
        let sibling = self.node(parent).child(side.other());
        sibling.expect("the black height says so")
    }

    /// Takes all nodes out, children before their parents.
    pub(crate) fn take_all(&mut self, root: KernAddr) -> Vec<KernAddr> {
        let Some(top) = self.tops.remove(&root) else {
            return Vec::new();
        };
        // Parents before children, right before left: backwards it is what is wanted.
        let mut nodes = Vec::new();
        let mut todo = vec![top];
        while let Some(at) = todo.pop() {
            let node = self.nodes.remove(&at).expect("a linked node");
            nodes.push(at);
            todo.extend(node.left.into_iter().chain(node.right));
        }
        nodes.reverse();
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: KernAddr = KernAddr::new(0x1000);

    fn at(raw: u64) -> KernAddr {
        KernAddr::new(raw)
    }

    /// Adds a node by its address.
    fn add(trees: &mut Trees, node: u64) {
        let (mut parent, mut next) = (None, trees.top(ROOT));
        while let Some(found) = next {
            let side = if node < found.raw() {
                Side::Left
            } else {
                Side::Right
            };
            parent = Some((found, side));
            next = trees.child(found, side);
        }
        trees.insert(ROOT, at(node), parent);
    }

    /// Checks a subtree; gives its black height, and adds its nodes in order.
    fn check(
        trees: &Trees,
        node: Option<KernAddr>,
        above: Option<KernAddr>,
        out: &mut Vec<u64>,
    ) -> u32 {
        let Some(found) = node else {
            return 0;
        };
        let linked = trees.node(found);
        assert_eq!((linked.root, linked.parent), (ROOT, above));
        let is_red = linked.colour == Colour::Red;
        assert!(!(is_red && trees.is_red(above)), "red below red");
        let left = check(trees, linked.left, node, out);
        out.push(found.raw());
        let right = check(trees, linked.right, node, out);
        assert_eq!(left, right, "black height");
        left + u32::from(!is_red)
    }

    fn in_order(trees: &Trees) -> Vec<u64> {
        let mut nodes = Vec::new();
        check(trees, trees.top(ROOT), None, &mut nodes);
        assert!(!trees.is_red(trees.top(ROOT)));
        assert_eq!(nodes.len(), trees.nodes.len());
        assert_eq!(trees.first(ROOT).map(KernAddr::raw), nodes.first().copied());
        nodes
    }

    #[test]
    fn a_tree_stays_sorted_and_balanced_whatever_comes_and_goes() {
        let mut trees = Trees::default();
        let mut there = std::collections::BTreeSet::new();
        let mut random = 1u64;
        for _ in 0..4000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let node = (random >> 33) % 200 + 1;
            if there.insert(node) {
                add(&mut trees, node);
            } else {
                there.remove(&node);
                trees.forget(at(node));
            }
            assert!(in_order(&trees).into_iter().eq(there.iter().copied()));
        }
        assert_eq!(trees.take_all(ROOT).len(), there.len());
        assert!(trees.nodes.is_empty());
        assert!(trees.tops.is_empty());
    }

    #[test]
    fn children_are_taken_out_before_their_parents() {
        let mut trees = Trees::default();
        for node in 1..=7 {
            add(&mut trees, node);
        }
        let nodes = trees.take_all(ROOT).into_iter().map(KernAddr::raw);
        assert_eq!(nodes.collect::<Vec<_>>(), [1, 3, 5, 7, 6, 4, 2]);
    }
}
