//! Any sequence of operations by program, host and user agrees with a plain model.

use harena_abi::{PageIndex, UserAddr};
use harena_arena::{Arena, EntryState};
use proptest::prelude::*;

use crate::common::{arena, offset, scope, user};

const PAGES: u32 = 24;

#[derive(Debug, Clone, Copy)]
enum Op {
    AllocBest { count: u32 },
    AllocAt { first: u32, count: u32 },
    Free { first: u32, count: u32 },
    FreeLater { first: u32, count: u32 },
    Drain,
    Reserve { first: u32, count: u32 },
    UserTouch { page: u32 },
    HostWrite { page: u32, value: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let range = || (0..PAGES, 1..8u32);
    prop_oneof![
        (1..8u32).prop_map(|count| Op::AllocBest { count }),
        range().prop_map(|(first, count)| Op::AllocAt { first, count }),
        range().prop_map(|(first, count)| Op::Free { first, count }),
        range().prop_map(|(first, count)| Op::FreeLater { first, count }),
        Just(Op::Drain),
        range().prop_map(|(first, count)| Op::Reserve { first, count }),
        (0..PAGES).prop_map(|page| Op::UserTouch { page }),
        (0..PAGES, 1..u64::MAX).prop_map(|(page, value)| Op::HostWrite { page, value }),
    ]
}

/// What a page holds, and whether the allocator may hand it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    free: bool,
    state: EntryState,
    value: u64,
}

#[derive(Debug)]
struct Model {
    pages: Vec<Page>,
    scratch: u64,
    later: Vec<(u32, u32)>,
    faults: u64,
}

const EMPTY: Page = Page {
    free: true,
    state: EntryState::Empty,
    value: 0,
};

impl Model {
    fn range(&mut self, first: u32, count: u32) -> &mut [Page] {
        &mut self.pages[first as usize..(first + count).min(PAGES) as usize]
    }

    fn fill(&mut self, first: u32, count: u32) {
        let page = Page {
            free: false,
            state: EntryState::Page,
            value: 0,
        };
        self.range(first, count).fill(page);
    }

    fn drain(&mut self) {
        for (first, count) in std::mem::take(&mut self.later) {
            self.range(first, count).fill(EMPTY);
        }
    }

    fn all_free(&mut self, first: u32, count: u32) -> bool {
        first + count <= PAGES && self.range(first, count).iter().all(|page| page.free)
    }

    fn has_free_run(&mut self, count: u32) -> bool {
        (0..PAGES).any(|first| self.all_free(first, count))
    }

    fn write(&mut self, page: u32, value: u64) {
        let slot = &mut self.pages[page as usize];
        if slot.state == EntryState::Page {
            slot.value = value;
            return;
        }
        self.faults += u64::from(slot.state == EntryState::Empty);
        slot.state = EntryState::Scratch;
        self.scratch = value;
    }
}

fn page_of(address: UserAddr) -> u32 {
    let bytes = address.offset_from(user(0)).expect("inside the window");
    u32::try_from(bytes / 4096).expect("inside the window")
}

/// Does `op` to both, and says whether they agree on its result.
fn apply(arena: &Arena, model: &mut Model, op: Op) -> bool {
    match op {
        Op::AllocBest { count } => {
            model.drain();
            let expected = model.has_free_run(count);
            match arena.alloc_pages(None, count, 0) {
                Ok(at) => {
                    let fits = model.all_free(page_of(at), count);
                    model.fill(page_of(at), count);
                    fits
                }
                Err(_) => !expected,
            }
        }
        Op::AllocAt { first, count } => {
            // A range outside the window is refused before deferred frees are worked off.
            if first + count <= PAGES {
                model.drain();
            }
            let expected = model.all_free(first, count);
            if expected {
                model.fill(first, count);
            }
            arena.alloc_pages(Some(user(first)), count, 0).is_ok() == expected
        }
        Op::Free { first, count } => {
            model.drain();
            model.range(first, count).fill(EMPTY);
            arena.free_pages(user(first), count).is_ok()
        }
        Op::FreeLater { first, count } => {
            model.later.push((first, count));
            arena.free_pages_deferred(user(first), count);
            true
        }
        Op::Drain => {
            model.drain();
            arena.drain_deferred().is_ok()
        }
        Op::Reserve { first, count } => {
            if first + count <= PAGES {
                model.drain();
            }
            let expected = model.all_free(first, count);
            if expected {
                model
                    .range(first, count)
                    .iter_mut()
                    .for_each(|page| page.free = false);
            }
            arena.reserve_pages(user(first), count).is_ok() == expected
        }
        Op::UserTouch { page } => {
            let state = model.pages[page as usize].state;
            if state == EntryState::Empty {
                model.fill(page, 1);
            }
            arena.touch_user(user(page)).is_ok() == (state != EntryState::Scratch)
        }
        Op::HostWrite { page, value } => {
            arena.ptr::<u64>(offset(page, 8)).write(value);
            model.write(page, value);
            true
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_sequence_of_operations_agrees_with_the_model(ops in prop::collection::vec(op(), 1..60)) {
        let arena = arena(PAGES);
        let _scope = scope(&arena);
        let mut model =
            Model { pages: vec![EMPTY; PAGES as usize], scratch: 0, later: Vec::new(), faults: 0 };
        for op in ops {
            prop_assert!(apply(&arena, &mut model, op), "{op:?} differs; {model:?}");
            for (number, page) in (0..PAGES).zip(&model.pages) {
                let index = PageIndex::new(number).expect("inside the window");
                prop_assert_eq!(arena.entry_state(index), page.state, "page {} after {:?}", number, op);
                let expected = match page.state {
                    EntryState::Page => page.value,
                    EntryState::Scratch => model.scratch,
                    EntryState::Empty | EntryState::Busy => continue,
                };
                let seen = arena.ptr::<u64>(offset(number, 8)).read();
                prop_assert_eq!(seen, expected, "page {} after {:?}", number, op);
            }
        }
        prop_assert_eq!(arena.faults_recovered(), model.faults);
        let in_use = model.pages.iter().filter(|page| page.state == EntryState::Page).count();
        prop_assert_eq!(arena.pages_in_use() as usize, in_use);
    }
}
