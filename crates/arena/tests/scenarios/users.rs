//! The user's side: first touch, and the view in this process (spec section 4).

use harena_abi::bpf::{BPF_F_MMAPABLE, BPF_F_SEGV_ON_FAULT};
use harena_abi::{PAGE_SIZE, UserAddr};
use harena_arena::{AllocError, ArenaSpec, EntryState, UserMapError};

use crate::common::{ARENA_AT, UserMemory, arena, arena_with, offset, page, scope, spec, user};

#[test]
fn a_simulated_users_touch_allocates_unless_it_is_a_segv() {
    let arena = arena(8);
    arena.touch_user(UserAddr::new(ARENA_AT + 0x2abc)).unwrap();
    arena.touch_user(user(2)).unwrap();
    assert_eq!(
        (arena.entry_state(page(2)), arena.pages_in_use()),
        (EntryState::Page, 1)
    );
    assert_eq!(arena.ptr::<u64>(offset(2, 0)).read(), 0);
    assert_eq!(
        arena.alloc_pages(Some(user(2)), 1, 0),
        Err(AllocError::NoSpace { page_cnt: 1 })
    );
    assert!(arena.touch_user(user(8)).is_err());
    assert!(arena.touch_user(UserAddr::new(ARENA_AT - 1)).is_err());
    assert!(
        arena.touch_user(UserAddr::new(2 * PAGE_SIZE)).is_err(),
        "users see 64 bits"
    );
    let host = scope(&arena);
    arena.ptr::<u8>(offset(5, 0)).write(1);
    drop(host);
    assert!(
        arena.touch_user(user(5)).is_err(),
        "never a page over scratch"
    );
    assert_eq!(arena.entry_state(page(5)), EntryState::Scratch);
}

#[test]
fn with_segv_on_fault_a_user_sees_only_allocated_pages() {
    let map_flags = BPF_F_MMAPABLE | BPF_F_SEGV_ON_FAULT;
    let arena = arena_with(ArenaSpec {
        map_flags,
        ..spec(8)
    });
    assert!(arena.touch_user(user(0)).is_err());
    arena.alloc_pages(None, 1, 0).unwrap();
    arena.touch_user(user(0)).unwrap();
}

#[test]
fn a_user_thread_shares_pages_with_the_host_through_its_own_view() {
    const START: u64 = 0x2000_0000_0000;
    const LAST: u32 = 999;
    const LAST_BYTES: usize = 999 * 4096;
    let last = UserAddr::new(START + u64::from(LAST) * PAGE_SIZE);
    let arena = arena_with(ArenaSpec {
        map_extra: START,
        ..spec(LAST + 1)
    });
    arena.alloc_pages(None, 1, 0).unwrap();
    arena.ptr::<u64>(offset(0, 8)).write(7);
    let view = UserMemory::new(arena.map_user().unwrap(), LAST_BYTES + 4096);
    assert_eq!(view.base() as u64, START);
    assert!(matches!(arena.map_user(), Err(UserMapError::Busy { .. })));
    assert_eq!(view.read(8), 7, "pages that were there before the view");
    arena.alloc_pages(None, 1, 0).unwrap();
    view.write(4096, 1);
    assert_eq!(
        arena.ptr::<u64>(offset(1, 0)).read(),
        1,
        "and those that came later"
    );
    // First touch, on a thread that runs no program.
    std::thread::scope(|threads| threads.spawn(|| view.write(LAST_BYTES, 0x55)).join()).unwrap();
    assert_eq!(arena.entry_state(page(LAST)), EntryState::Page);
    assert_eq!(arena.ptr::<u64>(offset(LAST, 0)).read(), 0x55);
    assert_eq!(arena.pages_in_use(), 3);
    let taken = Err(AllocError::NoSpace { page_cnt: 1 });
    assert_eq!(arena.alloc_pages(Some(last), 1, 0), taken);
    // Freed: gone from both views; the next touch finds a new, zeroed page.
    arena.free_pages(last, 1).unwrap();
    assert_eq!(arena.entry_state(page(LAST)), EntryState::Empty);
    assert_eq!(view.read(LAST_BYTES), 0);
    assert_eq!(arena.entry_state(page(LAST)), EntryState::Page);
}

#[test]
fn user_touches_race_with_the_allocator_without_sharing_a_page() {
    const PAGES: u32 = 512;
    let arena = arena(PAGES);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for at in (0..PAGES).rev().step_by(2) {
                arena.touch_user(user(at)).unwrap();
            }
        });
        while arena.alloc_pages(None, 1, 0).is_ok() {}
    });
    assert_eq!(arena.pages_in_use(), PAGES);
    arena.free_pages(user(0), PAGES).unwrap();
    assert_eq!(arena.pages_in_use(), 0);
    assert_eq!(arena.alloc_pages(None, PAGES, 0), Ok(user(0)));
}
