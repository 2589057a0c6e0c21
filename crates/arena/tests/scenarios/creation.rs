//! Geometry and creation errors (spec section 1).

use std::sync::{Arc, Barrier};

use harena_abi::bpf::{BPF_F_MMAPABLE, BPF_F_NO_USER_CONV, BPF_F_SEGV_ON_FAULT};
use harena_abi::{ArenaOffset, Errno, KernAddr, UserAddr};
use harena_arena::{
    ARENA_AREA, AllocError, Arena, ArenaSpec, EntryState, HALF_GUARD, Reservation, UserMapError,
};

use crate::common::{ARENA_AT, arena, arena_with, offset, page, scope, spec, user};

#[test]
fn creation_errors_are_the_kernels() {
    let refused = |change: fn(&mut ArenaSpec)| {
        let mut bad = spec(16);
        change(&mut bad);
        Arena::create(&bad).expect_err("must be refused").errno()
    };
    assert_eq!(refused(|spec| spec.key_size = 4), Errno::EINVAL);
    assert_eq!(refused(|spec| spec.value_size = 8), Errno::EINVAL);
    assert_eq!(refused(|spec| spec.max_entries = 0), Errno::EINVAL);
    assert_eq!(refused(|spec| spec.map_flags = 0), Errno::EINVAL);
    assert_eq!(
        refused(|spec| spec.map_flags = BPF_F_SEGV_ON_FAULT),
        Errno::EINVAL
    );
    assert_eq!(refused(|spec| spec.map_flags |= 1), Errno::EINVAL);
    assert_eq!(refused(|spec| spec.map_extra += 8), Errno::EINVAL);
    assert_eq!(
        refused(|spec| spec.max_entries = (1 << 20) + 1),
        Errno::E2BIG
    );
    assert_eq!(refused(|spec| spec.map_extra = 0xffff_f000), Errno::ERANGE);
    assert_eq!(
        refused(|spec| spec.map_extra = u64::MAX - 0xfff),
        Errno::ERANGE
    );
}

#[test]
fn all_known_flags_and_a_single_page_are_accepted() {
    let map_flags = BPF_F_MMAPABLE | BPF_F_SEGV_ON_FAULT | BPF_F_NO_USER_CONV;
    let arena = arena_with(ArenaSpec {
        map_flags,
        ..spec(1)
    });
    assert_eq!(arena.alloc_pages(None, 1, 0), Ok(user(0)));
}

#[test]
fn an_arena_of_4_gib_can_be_used_at_both_ends() {
    let arena = arena(1 << 20);
    for at in [0, (1 << 20) - 1] {
        assert_eq!(arena.alloc_pages(Some(user(at)), 1, 0), Ok(user(at)));
        let last = arena.ptr::<u64>(offset(at, 4088));
        last.write(u64::from(at) + 1);
        assert_eq!(last.read(), u64::from(at) + 1);
    }
    assert_eq!(
        arena.user_vm_end(),
        Some(UserAddr::new(ARENA_AT + (1 << 32)))
    );
}

#[test]
fn only_the_low_half_of_user_vm_start_counts_on_the_host_side() {
    let start = 0x7_8000_3000;
    let arena = arena_with(ArenaSpec {
        map_extra: start,
        ..spec(4)
    });
    assert_eq!(arena.alloc_pages(None, 1, 0), Ok(UserAddr::new(start)));
    assert_eq!(arena.entry_state(page(0x80003)), EntryState::Page);
    assert_eq!(arena.entry_state(page(0)), EntryState::Empty);
    let at = ArenaOffset::new(0x8000_3008);
    let kern = arena.kern_vm_start().checked_add(0x8000_3008).unwrap();
    assert_eq!(arena.offset_of(kern), Some(at));
    assert_eq!(arena.kern_addr(at), kern);
    assert_eq!(arena.user_addr(at), UserAddr::new(start + 8));
}

#[test]
fn two_arenas_share_a_reservation_with_guest_addresses_of_their_own() {
    let reservation = Arc::new(Reservation::new(3 * ARENA_AREA).unwrap());
    let create = |offset: usize| {
        let guest = KernAddr::new(0xffff_c900_0000_0000 + offset as u64);
        Arena::create_in(&reservation, offset, guest, &spec(8))
    };
    let first = create(0).unwrap();
    let second = create(ARENA_AREA).unwrap();
    assert_eq!(
        create(4096).unwrap_err().errno(),
        Errno::EINVAL,
        "overlaps the first"
    );
    assert_eq!(
        create(2 * ARENA_AREA + 4096).unwrap_err().errno(),
        Errno::EINVAL,
        "too long"
    );
    let guest = 0xffff_c900_0000_0000 + ARENA_AREA as u64 + HALF_GUARD;
    assert_eq!(second.kern_vm_start(), KernAddr::new(guest));
    first.alloc_pages(None, 1, 0).unwrap();
    first.ptr::<u32>(offset(0, 0)).write(1);
    let running = scope(&second);
    assert_eq!(
        second.ptr::<u32>(offset(0, 0)).read(),
        0,
        "another arena, another page"
    );
    drop(running);
    reservation.commit(2 * ARENA_AREA, 4096).unwrap();
    drop(first);
    create(0).expect("the first arena's area is free again");
}

#[test]
fn the_user_window_is_fixed_by_the_first_mapping() {
    let arena = arena_with(ArenaSpec {
        map_extra: 0,
        ..spec(4)
    });
    assert_eq!(arena.user_vm_start(), None);
    assert_eq!(arena.alloc_pages(None, 1, 0), Err(AllocError::NoWindow));
    let crossing = arena
        .set_user_window(UserAddr::new(0xffff_f000))
        .unwrap_err();
    assert_eq!(crossing.errno(), Errno::ERANGE);
    let unaligned = arena.set_user_window(UserAddr::new(0x1008)).unwrap_err();
    assert_eq!(unaligned.errno(), Errno::EINVAL);
    arena.set_user_window(user(0)).unwrap();
    arena.set_user_window(user(0)).unwrap();
    assert_eq!(
        arena.set_user_window(user(1)).unwrap_err().errno(),
        Errno::EBUSY
    );
    assert_eq!(arena.alloc_pages(None, 1, 0), Ok(user(0)));
}

#[test]
fn threads_that_set_the_same_window_at_the_same_time_agree() {
    for _ in 0..200 {
        let arena = arena_with(ArenaSpec {
            map_extra: 0,
            ..spec(4)
        });
        let start = Barrier::new(2);
        let set = |to: u32| {
            start.wait();
            arena
                .set_user_window(user(to))
                .map_err(|error| error.errno())
        };
        std::thread::scope(|threads| {
            let other = threads.spawn(|| set(0));
            assert_eq!(set(0), Ok(()));
            assert_eq!(other.join().unwrap(), Ok(()));
        });
        assert_eq!(
            arena.set_user_window(user(1)).unwrap_err().errno(),
            Errno::EBUSY
        );
    }
}

#[test]
fn the_user_window_comes_before_the_first_fault() {
    let arena = arena_with(ArenaSpec {
        map_extra: 0,
        ..spec(4)
    });
    let running = scope(&arena);
    arena.ptr::<u8>(offset(0, 0)).write(1);
    drop(running);
    let late = arena.set_user_window(user(0)).unwrap_err();
    assert_eq!(late, UserMapError::Late { start: user(0) });
    assert_eq!(late.errno(), Errno::EBUSY);
}
