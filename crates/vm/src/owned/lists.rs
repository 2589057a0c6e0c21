//! Doubly linked lists of nodes in objects, by address.

use std::collections::BTreeMap;

use harena_abi::KernAddr;

/// Which end of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Front,
    Back,
}

/// A node that is in a list.
#[derive(Clone, Copy, Debug)]
struct Link {
    head: KernAddr,
    prev: Option<KernAddr>,
    next: Option<KernAddr>,
}

/// A list that is not empty.
#[derive(Clone, Copy, Debug)]
struct List {
    front: KernAddr,
    back: KernAddr,
}

/// All lists of a VM.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    lists: BTreeMap<KernAddr, List>,
    links: BTreeMap<KernAddr, Link>,
}

impl Lists {
    /// The list that a node is in.
    pub(crate) fn head_of(&self, node: KernAddr) -> Option<KernAddr> {
        self.links.get(&node).map(|link| link.head)
    }

    /// The first or last node.
    pub(crate) fn end(&self, head: KernAddr, end: End) -> Option<KernAddr> {
        let list = self.lists.get(&head)?;
        Some(match end {
            End::Front => list.front,
            End::Back => list.back,
        })
    }

    /// Adds a node, which is in no list, at an end.
    pub(crate) fn push(&mut self, head: KernAddr, node: KernAddr, end: End) {
        let (prev, next) = match end {
            End::Front => (None, self.end(head, End::Front)),
            End::Back => (self.end(head, End::Back), None),
        };
        self.insert(node, Link { head, prev, next });
    }

    /// Adds a node, which is in no list, behind one that is in a list.
    pub(crate) fn insert_after(&mut self, prev: KernAddr, node: KernAddr) {
        let link = self.links[&prev];
        let link = Link {
            prev: Some(prev),
            ..link
        };
        self.insert(node, link);
    }

    fn insert(&mut self, node: KernAddr, link: Link) {
        let old = self.links.insert(node, link);
        assert!(old.is_none(), "{node} is in a list already");
        let list = self.lists.entry(link.head).or_insert(List {
            front: node,
            back: node,
        });
        match link.prev {
            Some(prev) => linked(&mut self.links, prev).next = Some(node),
            None => list.front = node,
        }
        match link.next {
            Some(next) => linked(&mut self.links, next).prev = Some(node),
            None => list.back = node,
        }
    }

    /// Takes a node out of its list, if it is in one.
    pub(crate) fn forget(&mut self, node: KernAddr) {
        let Some(link) = self.links.remove(&node) else {
            return;
        };
        if let Some(prev) = link.prev {
            linked(&mut self.links, prev).next = link.next;
        }
        if let Some(next) = link.next {
            linked(&mut self.links, next).prev = link.prev;
        }
        let list = self.lists.get_mut(&link.head).expect("it has this node");
        match (link.prev, link.next) {
            (None, None) => {
                self.lists.remove(&link.head);
            }
            (None, Some(next)) => list.front = next,
            (Some(prev), None) => list.back = prev,
            (Some(_), Some(_)) => {}
        }
    }

    /// Takes all nodes out, front to back.
    pub(crate) fn take_all(&mut self, head: KernAddr) -> Vec<KernAddr> {
        let mut next = self.lists.remove(&head).map(|list| list.front);
        let mut nodes = Vec::new();
        while let Some(node) = next {
            let link = self.links.remove(&node).expect("a linked node");
            nodes.push(node);
            next = link.next;
        }
        nodes
    }
}

fn linked(links: &mut BTreeMap<KernAddr, Link>, node: KernAddr) -> &mut Link {
    links.get_mut(&node).expect("a linked node")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(raw: u64) -> KernAddr {
        KernAddr::new(raw)
    }

    fn nodes(lists: &Lists, head: KernAddr) -> Vec<u64> {
        let forward: Vec<u64> = walk(lists, lists.end(head, End::Front), |link| link.next);
        let mut back = walk(lists, lists.end(head, End::Back), |link| link.prev);
        back.reverse();
        assert_eq!(forward, back);
        forward
    }

    fn walk(
        lists: &Lists,
        from: Option<KernAddr>,
        step: fn(&Link) -> Option<KernAddr>,
    ) -> Vec<u64> {
        let nodes = std::iter::successors(from, |node| step(&lists.links[node]));
        nodes.map(KernAddr::raw).collect()
    }

    #[test]
    fn nodes_come_and_go_at_both_ends_and_in_the_middle() {
        let mut lists = Lists::default();
        let (a, b) = (at(0x10), at(0x20));
        for node in [3, 4, 5] {
            lists.push(a, at(node), End::Back);
        }
        lists.push(a, at(2), End::Front);
        lists.push(b, at(1), End::Front);
        assert_eq!(nodes(&lists, a), [2, 3, 4, 5]);
        assert_eq!(
            (lists.head_of(at(4)), lists.head_of(at(1))),
            (Some(a), Some(b))
        );
        lists.forget(at(4));
        lists.insert_after(at(2), at(4));
        lists.insert_after(at(5), at(6));
        assert_eq!(nodes(&lists, a), [2, 4, 3, 5, 6]);
        for node in [2, 6, 9] {
            lists.forget(at(node));
        }
        assert_eq!(nodes(&lists, a), [4, 3, 5]);
        assert_eq!(lists.take_all(a), [at(4), at(3), at(5)]);
        assert_eq!((nodes(&lists, a), lists.head_of(at(3))), (vec![], None));
        lists.forget(at(1));
        assert!(lists.lists.is_empty());
        assert!(lists.links.is_empty());
    }
}
