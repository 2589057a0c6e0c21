//! The free objects that a CPU has at hand: a magazine a size class, and the latest one freed.
//!
//! Offsets lie here, in host memory; nothing is read from the objects.

use harena_abi::ArenaOffset;

use super::table::{CLASSES, Class, PageLink};

/// Objects that a magazine holds.
pub(super) const MAGAZINE: usize = 64;

/// The slabs of one class, and the free objects at hand.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Bin {
    /// Objects in the magazine: the first ones of the array.
    pub(super) count: u32,
    /// Pages with objects in stock.
    pub(super) listed: PageLink,
    pub(super) pages: u32,
    /// Listed pages of which all objects are in stock.
    pub(super) unused: u32,
    pub(super) magazine: [ArenaOffset; MAGAZINE],
}

impl Bin {
    const fn new() -> Self {
        Self {
            count: 0,
            listed: PageLink::END,
            pages: 0,
            unused: 0,
            magazine: [ArenaOffset::new(0); MAGAZINE],
        }
    }

    /// Takes the latest object of the magazine.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<ArenaOffset> {
        let top = self.count.wrapping_sub(1);
        let at = *self.magazine.get(top as usize)?;
        self.count = top;
        Some(at)
    }

    /// Adds an object to the magazine, if there is room.
    #[inline]
    pub(super) fn push(&mut self, at: ArenaOffset) -> Option<()> {
        *self.magazine.get_mut(self.count as usize)? = at;
        self.count = self.count.wrapping_add(1);
        Some(())
    }

    /// Drops the objects that `gone` says; how many.
    fn forget(&mut self, gone: impl Fn(ArenaOffset) -> bool) -> u32 {
        let mut kept = 0;
        for index in 0..self.count as usize {
            let at = self.magazine[index];
            if !gone(at) {
                self.magazine[kept as usize] = at;
                kept += 1;
            }
        }
        let dropped = self.count - kept;
        self.count = kept;
        dropped
    }

    pub(super) fn has(&self, at: ArenaOffset) -> bool {
        self.magazine[..self.count as usize].contains(&at)
    }
}

/// One CPU's slabs.
#[derive(Debug)]
pub(super) struct Bins {
    /// The object that was freed last, if it was not allocated since, and its class. It is in no
    /// magazine: so an allocation that follows a free need not wait for the bin that the free
    /// finds through the page's tag.
    pub(super) latest: ArenaOffset,
    pub(super) latest_class: Class,
    pub(super) of: [Bin; CLASSES],
    /// Pages that go back as soon as no remote free can be at work on them.
    pub(super) dying: PageLink,
}

impl Default for Bins {
    fn default() -> Self {
        Self {
            latest: ArenaOffset::new(0),
            latest_class: Class::NONE,
            of: [const { Bin::new() }; CLASSES],
            dying: PageLink::END,
        }
    }
}

impl Bins {
    /// Takes the latest object if it is of this class, else one of the magazine.
    #[inline]
    pub(super) fn pop(&mut self, class: Class) -> Option<ArenaOffset> {
        if self.latest_class == class {
            self.latest_class = Class::NONE;
            return Some(self.latest);
        }
        self.of.get_mut(class.index())?.pop()
    }

    /// Makes an object the latest; `None` if the magazine of the one before has no room for it.
    #[inline]
    pub(super) fn push(&mut self, class: Class, at: ArenaOffset) -> Option<()> {
        if self.latest_class != Class::NONE {
            self.of
                .get_mut(self.latest_class.index())?
                .push(self.latest)?;
        }
        (self.latest, self.latest_class) = (at, class);
        Some(())
    }

    /// Drops the free objects that `gone` says; how many.
    pub(super) fn forget(&mut self, gone: impl Fn(ArenaOffset) -> bool) -> u32 {
        let dropped: u32 = self.of.iter_mut().map(|bin| bin.forget(&gone)).sum();
        if self.latest_class == Class::NONE || !gone(self.latest) {
            return dropped;
        }
        self.latest_class = Class::NONE;
        dropped + 1
    }

    pub(super) fn has(&self, class: Class, at: ArenaOffset) -> bool {
        (self.latest_class == class && self.latest == at) || self.of[class.index()].has(at)
    }

    /// Free objects that are in no stock.
    pub(super) fn held(&self) -> u64 {
        let magazines = self.of.iter().map(|bin| u64::from(bin.count));
        magazines.sum::<u64>() + u64::from(self.latest_class != Class::NONE)
    }
}
