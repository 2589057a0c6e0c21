//! Typed places and slices: bounds, wrapping, atomics, and a program's list followed by the host.

use core::mem::offset_of;
use std::sync::atomic::Ordering;

use harena_abi::{ArenaOffset, Errno};
use harena_arena::{EntryState, SliceError};

use crate::common::{arena, offset, page, scope, user};

#[test]
fn a_slice_lies_inside_the_window_or_is_refused() {
    let arena = arena(1);
    let end = |back| ArenaOffset::new(0u32.wrapping_sub(back));
    assert_eq!(arena.slice::<u64>(end(32), 4).unwrap().len(), 4);
    assert_eq!(arena.slice::<u8>(end(1), 1).unwrap().len(), 1);
    assert!(arena.slice::<u64>(end(1), 0).unwrap().is_empty());
    let refused = SliceError {
        offset: 0xffff_ffe0,
        len: 5,
        size: 8,
    };
    assert_eq!(arena.slice::<u64>(end(32), 5).unwrap_err(), refused);
    assert_eq!(refused.errno(), Errno::EFAULT);
    // 4 GiB of bytes exactly, but for one; and more than 4 GiB, which 32 bits would hide.
    assert!(arena.slice::<u8>(ArenaOffset::new(0), u32::MAX).is_ok());
    assert!(arena.slice::<u64>(ArenaOffset::new(0), 1 << 29).is_ok());
    assert!(arena.slice::<u64>(ArenaOffset::new(8), 1 << 29).is_err());
    assert!(arena.slice::<u64>(ArenaOffset::new(0), u32::MAX).is_err());
    assert!(arena.ptr::<u16>(end(2)).slice(2).is_err());
}

#[test]
fn values_of_a_slice_are_read_written_and_copied_in_order() {
    let arena = arena(2);
    arena.alloc_pages(None, 2, 0).unwrap();
    // Across the border of two pages, at an odd offset.
    let slice = arena.slice::<u32>(offset(0, 4083), 8).unwrap();
    assert!(slice.iter().all(|value| value == 0));
    slice.copy_from(&[1, 2, 3, 4, 5, 6, 7, 8]);
    slice.write(2, 30);
    assert_eq!(slice.read(2), 30);
    let mut back = [0; 8];
    slice.copy_to(&mut back);
    assert_eq!(back, [1, 2, 30, 4, 5, 6, 7, 8]);
    assert_eq!(slice.iter().len(), 8);
    assert_eq!(slice.into_iter().sum::<u32>(), 63);
    let middle = slice.part(2..5).unwrap();
    assert_eq!(middle.iter().collect::<Vec<_>>(), [30, 4, 5]);
    middle.fill(9);
    assert_eq!(slice.iter().collect::<Vec<_>>(), [1, 2, 9, 9, 9, 6, 7, 8]);
    assert_eq!(slice.first().offset(), offset(0, 4083));
}

#[test]
fn indices_outside_a_slice_are_refused() {
    let arena = arena(1);
    let slice = arena.slice::<u16>(offset(0, 0), 4).unwrap();
    assert_eq!(slice.get(3).map(|place| place.offset()), Some(offset(0, 6)));
    for index in [4, u32::MAX] {
        assert!(slice.get(index).is_none());
    }
    let reversed = core::ops::Range { start: 3, end: 2 };
    for range in [0..5, 5..5, reversed, 0..u32::MAX] {
        assert!(slice.part(range.clone()).is_none(), "{range:?}");
    }
    assert!(
        slice
            .part(4..4)
            .is_some_and(|empty| empty.iter().next().is_none())
    );
}

#[test]
fn no_slice_begins_in_the_upper_guard() {
    let arena = arena(1);
    let behind = arena.ptr::<u64>(ArenaOffset::new(u32::MAX - 7)).index(3);
    assert_eq!(behind.offset().raw(), 16, "the low half");
    let refused = |len| SliceError {
        offset: (1 << 32) + 16,
        len,
        size: 8,
    };
    for len in [0, 1, u32::MAX] {
        assert_eq!(behind.slice(len).err(), Some(refused(len)));
    }
}

#[test]
#[should_panic(expected = "index 4 of an arena slice of 4")]
fn the_hosts_own_bad_index_panics() {
    let arena = arena(1);
    let slice = arena.slice::<u16>(offset(0, 0), 4).unwrap();
    slice.write(4, 1);
}

#[test]
fn a_slice_over_empty_pages_is_recovered_page_by_page() {
    let arena = arena(4);
    arena.alloc_pages(Some(user(1)), 1, 0).unwrap();
    let slice = arena.slice::<u64>(offset(0, 0), 3 * 512).unwrap();
    arena.ptr::<u64>(offset(1, 8)).write(5);
    let _scope = scope(&arena);
    assert_eq!(slice.iter().sum::<u64>(), 5);
    assert_eq!(arena.faults_recovered(), 2);
    assert_eq!(arena.entry_state(page(2)), EntryState::Scratch);
    assert_eq!(arena.entry_state(page(3)), EntryState::Empty);
}

#[test]
fn small_atomics_work_on_their_own_bytes() {
    let arena = arena(1);
    arena.alloc_pages(None, 1, 0).unwrap();
    let word = arena.ptr::<u32>(offset(0, 4));
    word.write(0xffff_ffff);
    let byte = arena.ptr::<u8>(offset(0, 5));
    assert_eq!(byte.fetch_add(1, Ordering::Relaxed), Some(0xff));
    assert_eq!(word.read(), 0xffff_00ff, "no carry into a neighbour");
    let half = arena.ptr::<u16>(offset(0, 6));
    assert_eq!(half.compare_exchange(0xffff, 7), Some(0xffff));
    assert_eq!(half.fetch_or(8, Ordering::Relaxed), Some(7));
    assert_eq!(word.read(), 0x000f_00ff);
    assert_eq!(half.byte_add(1).load(Ordering::Relaxed), None);
    let slice = arena.slice::<u32>(offset(0, 0), 4).unwrap();
    let counter = slice.get(3).unwrap();
    assert_eq!(counter.fetch_add(2, Ordering::Relaxed), Some(0));
    assert_eq!(slice.read(3), 2);
}

/// `struct node { struct node __arena *next; __u32 value; };`
#[repr(C)]
struct Node {
    next: u64,
    value: u32,
}

#[test]
fn the_host_follows_a_list_even_where_it_leads_nowhere() {
    let arena = arena(4);
    arena.alloc_pages(Some(user(0)), 1, 0).unwrap();
    let _scope = scope(&arena);
    let head = arena.ptr::<u8>(offset(0, 16));
    let second = arena.ptr::<u8>(offset(0, 640));
    // A field behind the window's end lies in the guard; its low half names a place at the start.
    let last = arena.ptr::<u8>(ArenaOffset::new(u32::MAX - 7));
    assert_eq!(
        last.field::<u32>(offset_of!(Node, value)).offset(),
        offset(0, 0)
    );
    // Only the low 32 bits of a stored pointer count; the next one leads to an empty page.
    let garbage = 0xdead_beef_0000_0000 | u64::from(second.offset().raw());
    let next = offset_of!(Node, next);
    head.field::<u64>(next).write(garbage);
    second.field::<u64>(next).write(user(3).raw() | 0x123);
    let mut places = Vec::new();
    let mut at = Some(head);
    while let Some(node) = at {
        places.push(node.offset());
        at = node.field::<u64>(next).follow();
    }
    assert_eq!(places, [head.offset(), second.offset(), offset(3, 0x123)]);
    assert_eq!(arena.faults_recovered(), 1);
    assert_eq!(head.user_addr(&arena).raw(), user(0).raw() + 16);
}
