//! The tree of cgroups as programs walk over it.
//!
//! A `cgroup_subsys_state` is a cgroup as one controller sees it; the walks of the kernel go from
//! css to css. There is one cgroup, the root. Whoever adds more fills [`Hierarchy`], and the
//! walks below stay as they are.

use harena_abi::KernAddr;

use crate::places::Places;

/// Which of a cgroup's states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Controller {
    /// None: `cgrp->self`.
    Core,
    /// The cpu controller: `task_group.css`.
    Cpu,
}

/// A `cgroup_subsys_state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Css {
    pub(crate) controller: Controller,
    /// The cgroup's id.
    pub(crate) cgroup: u64,
}

/// A tree of cgroups, as each controller sees it.
pub(crate) trait Hierarchy {
    /// The css at an address, if it is exactly one's.
    fn at(&self, addr: KernAddr) -> Option<Css>;
    /// Where it lies.
    fn addr(&self, css: Css) -> KernAddr;
    /// `css->parent`.
    fn parent(&self, css: Css) -> Option<Css>;
    /// Its oldest child.
    fn first_child(&self, css: Css) -> Option<Css>;
    /// The next younger child of its parent.
    fn next_sibling(&self, css: Css) -> Option<Css>;
}

/// The root cgroup's id.
pub(crate) const ROOT_ID: u64 = 1;

/// One cgroup, the root.
impl Hierarchy for Places {
    fn at(&self, addr: KernAddr) -> Option<Css> {
        let all = [Controller::Core, Controller::Cpu].map(|controller| Css {
            controller,
            cgroup: ROOT_ID,
        });
        all.into_iter().find(|css| self.addr(*css) == addr)
    }

    fn addr(&self, css: Css) -> KernAddr {
        // Both stand first in what they are part of.
        match css.controller {
            Controller::Core => self.root_cgroup(),
            Controller::Cpu => self.task_group(),
        }
    }

    fn parent(&self, _css: Css) -> Option<Css> {
        None
    }

    fn first_child(&self, _css: Css) -> Option<Css> {
        None
    }

    fn next_sibling(&self, _css: Css) -> Option<Css> {
        None
    }
}

/// `css_next_child()`.
pub(crate) fn next_child(tree: &dyn Hierarchy, pos: Option<Css>, parent: Css) -> Option<Css> {
    match pos {
        None => tree.first_child(parent),
        Some(pos) => tree.next_sibling(pos),
    }
}

/// `css_next_descendant_pre()`: parents before their children, `root` first.
pub(crate) fn next_pre(tree: &dyn Hierarchy, pos: Option<Css>, root: Css) -> Option<Css> {
    let Some(mut pos) = pos else {
        return Some(root);
    };
    if let Some(child) = tree.first_child(pos) {
        return Some(child);
    }
    while pos != root {
        if let Some(next) = tree.next_sibling(pos) {
            return Some(next);
        }
        pos = tree.parent(pos)?;
    }
    None
}

/// `css_next_descendant_post()`: children before their parents, `root` last.
pub(crate) fn next_post(tree: &dyn Hierarchy, pos: Option<Css>, root: Css) -> Option<Css> {
    let leftmost = |mut css: Css| {
        while let Some(child) = tree.first_child(css) {
            css = child;
        }
        css
    };
    match pos {
        None => Some(leftmost(root)),
        Some(pos) if pos == root => None,
        Some(pos) => match tree.next_sibling(pos) {
            Some(next) => Some(leftmost(next)),
            None => tree.parent(pos),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parents of cgroups 2 and up.
    struct Tree(Vec<u64>);

    const fn css(cgroup: u64) -> Css {
        Css {
            controller: Controller::Core,
            cgroup,
        }
    }

    impl Tree {
        fn children(&self, of: u64) -> impl Iterator<Item = u64> {
            let numbered = (2..).zip(&self.0);
            numbered
                .filter(move |(_, parent)| **parent == of)
                .map(|(id, _)| id)
        }

        fn walk(
            &self,
            root: u64,
            next: fn(&dyn Hierarchy, Option<Css>, Css) -> Option<Css>,
        ) -> Vec<u64> {
            let first = next(self, None, css(root));
            let walk = std::iter::successors(first, |pos| next(self, Some(*pos), css(root)));
            walk.map(|css| css.cgroup).collect()
        }
    }

    impl Hierarchy for Tree {
        fn at(&self, addr: KernAddr) -> Option<Css> {
            Some(css(addr.raw()))
        }
        fn addr(&self, css: Css) -> KernAddr {
            KernAddr::new(css.cgroup)
        }
        fn parent(&self, of: Css) -> Option<Css> {
            let index = usize::try_from(of.cgroup).unwrap().checked_sub(2)?;
            Some(css(self.0[index]))
        }
        fn first_child(&self, of: Css) -> Option<Css> {
            self.children(of.cgroup).next().map(css)
        }
        fn next_sibling(&self, of: Css) -> Option<Css> {
            let parent = self.parent(of)?;
            let mut younger = self
                .children(parent.cgroup)
                .skip_while(|id| *id != of.cgroup);
            younger.nth(1).map(css)
        }
    }

    #[test]
    fn walks_are_the_kernels() {
        // 1 has 2, 3 and 7; 3 has 4 and 5; 4 has 6.
        let tree = Tree(vec![1, 1, 3, 3, 4, 1]);
        assert_eq!(tree.walk(1, next_pre), [1, 2, 3, 4, 6, 5, 7]);
        assert_eq!(tree.walk(1, next_post), [2, 6, 4, 5, 3, 7, 1]);
        assert_eq!(tree.walk(1, next_child), [2, 3, 7]);
        // What is beside the start is not visited.
        assert_eq!(tree.walk(3, next_pre), [3, 4, 6, 5]);
        assert_eq!(tree.walk(3, next_post), [6, 4, 5, 3]);
        assert_eq!(tree.walk(2, next_pre), [2]);
        assert_eq!(tree.walk(2, next_post), [2]);
        assert_eq!(tree.walk(2, next_child), [0; 0]);
    }
}
