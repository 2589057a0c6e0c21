//! What is not ours crashes, as if our handler had never been there.

use std::sync::Arc;

use harena_abi::bpf::{BPF_F_MMAPABLE, BPF_F_SEGV_ON_FAULT};
use harena_abi::{ArenaOffset, Cpu, KernAddr};
use harena_arena::{ARENA_AREA, Arena, ArenaSpec, ProgramScope, ProgramTag, Reservation};

use crate::children::{assert_segv, child, peek};
use crate::common::{self, UserMemory, arena, arena_with, offset, scope};

// ---- faults that are bugs of host code -------------------------------------------------

child!(child_lower_guard, {
    let arena = arena(4);
    let _scope = scope(&arena);
    peek(arena.host_ptr(ArenaOffset::new(0)).wrapping_sub(8));
});

child!(child_behind_upper_guard, {
    // Room behind the arena, lest something else be mapped there.
    let reservation = Arc::new(Reservation::new(2 * ARENA_AREA).expect("addresses are free"));
    let guest = KernAddr::new(0xffff_c900_0000_0000);
    let arena = Arena::create_in(&reservation, 0, guest, &common::spec(4)).expect("a valid arena");
    let _scope = scope(&arena);
    // The last byte of the guard is recovered; one further it is another bug.
    peek(reservation.base().wrapping_add(ARENA_AREA - 1));
    assert_eq!(arena.faults_recovered(), 1);
    peek(reservation.base().wrapping_add(ARENA_AREA));
});

child!(child_no_program, {
    let arena = arena(4);
    drop(scope(&arena));
    peek(arena.host_ptr(offset(1, 0)));
});

child!(child_program_without_arena, {
    let arena = arena(4);
    let _outer = scope(&arena);
    let _inner = ProgramScope::enter(ProgramTag::new(2), None, Cpu::new(0)).expect("not deep");
    peek(arena.host_ptr(offset(1, 0)));
});

child!(child_other_arena, {
    let (arena, other) = (arena(4), arena(4));
    let _scope = scope(&arena);
    peek(other.host_ptr(offset(1, 0)));
});

child!(child_call_into_arena, {
    let arena = arena(4);
    arena.alloc_pages(None, 1, 0).expect("pages are free");
    let _scope = scope(&arena);
    let target = arena.host_ptr(offset(0, 0));
    // SAFETY: none is claimed: arena memory is not executable, and the jump must crash.
    let function = unsafe { (&raw const target).cast::<extern "C" fn()>().read() };
    function();
});

#[test]
fn what_is_not_an_arena_fault_crashes() {
    for name in [
        "lower_guard",
        "behind_upper_guard",
        "no_program",
        "program_without_arena",
        "other_arena",
        "call_into_arena",
    ] {
        assert_segv(&format!("signals::child_{name}"));
    }
}

// ---- a user's faults --------------------------------------------------------------------

fn arena_with_view(flags: u32) -> (Arena, UserMemory) {
    let map_extra = 0x2000_0000_0000;
    let map_flags = BPF_F_MMAPABLE | flags;
    let arena = arena_with(ArenaSpec {
        map_flags,
        map_extra,
        ..common::spec(16)
    });
    let view = UserMemory::new(arena.map_user().expect("the address is free"), 16 * 4096);
    (arena, view)
}

child!(child_user_on_scratch, {
    let (arena, view) = arena_with_view(0);
    let host = scope(&arena);
    arena.ptr::<u64>(offset(3, 0)).write(1);
    drop(host);
    view.write(4 * 4096, 1);
    assert_eq!(arena.pages_in_use(), 1);
    view.write(3 * 4096, 1);
});

child!(child_user_segv_on_fault, {
    let (arena, view) = arena_with_view(BPF_F_SEGV_ON_FAULT);
    arena.alloc_pages(None, 1, 0).expect("pages are free");
    view.write(0, 1);
    view.write(4096, 1);
});

child!(child_user_at_the_limit, {
    let map_extra = 0x2000_0000_0000;
    let spec = ArenaSpec {
        map_extra,
        byte_limit: Some(4096),
        ..common::spec(16)
    };
    let arena = arena_with(spec);
    let view = UserMemory::new(arena.map_user().expect("the address is free"), 16 * 4096);
    view.write(0, 1);
    view.write(4096, 1);
});

child!(child_user_on_its_own_read_only_page, {
    let (_arena, view) = arena_with_view(0);
    view.write(0, 1);
    let base = core::ptr::without_provenance_mut(view.base());
    // SAFETY: the user's own view, which it may protect as it likes.
    let done = unsafe { libc::mprotect(base, 4096, libc::PROT_READ) };
    assert_eq!(done, 0);
    // Other pages are none the worse.
    view.write(4096, 1);
    view.write(0, 2);
});

#[test]
fn a_users_bad_touch_is_a_segv() {
    for name in [
        "user_on_scratch",
        "user_segv_on_fault",
        "user_at_the_limit",
        "user_on_its_own_read_only_page",
    ] {
        assert_segv(&format!("signals::child_{name}"));
    }
}
