//! Views of an arena in other processes (spec sections 1, 3 and 4).
//!
//! Each `peer_*` test is the body of such a process. Its standard input is the connection to
//! the owner, which is the test that started it. The two take turns through two words of the
//! arena's first page, so that nothing depends on time.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};

use harena_abi::bpf::{BPF_F_MMAPABLE, BPF_F_SEGV_ON_FAULT};
use harena_abi::{ArenaOffset, Errno, UserAddr};
use harena_arena::{
    Arena, ArenaSpec, AttachError, EntryState, LinkCloser, LinkError, ShareError, UserPtr, UserView,
};

use crate::children::{self, Forbidden, Running, child as peer, exit, forbid, fork};
use crate::common::{arena, arena_with, offset, page, scope, spec, user};

mod hostile;
mod signals;

/// Where the owner says how far it is, and where the peer says it.
const OWNER_AT: u32 = 0;
const PEER_AT: u32 = 8;

// ---- the owner's side of a test ------------------------------------------------------------

struct Peer {
    arena: Arc<Arena>,
    process: Running,
    served: JoinHandle<Result<(), LinkError>>,
    closer: LinkCloser,
}

/// Starts a process with the body `name`, connected to the stream that is returned.
fn start(name: &str) -> (Running, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("sockets are to be had");
    (start_with(name, theirs), ours)
}

fn start_with(name: &str, connection: UnixStream) -> Running {
    let mut command = children::command(&format!("remote::{name}"));
    command
        .stdin(OwnedFd::from(connection))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    Running::start(&mut command)
}

impl Peer {
    fn start(arena: &Arc<Arena>, name: &str) -> Self {
        let (process, socket) = start(name);
        let link = arena.share_user(socket).expect("the peer attaches");
        let closer = link.closer();
        let served = Builder::new().spawn(move || link.serve());
        Self {
            arena: Arc::clone(arena),
            process,
            served: served.expect("threads are to be had"),
            closer,
        }
    }

    fn step(&self, step: u64) {
        let word = self.arena.ptr::<u64>(offset(0, OWNER_AT));
        word.store(step, Ordering::Release).expect("aligned");
    }

    /// Waits until the peer has come to `step`; it must not end before.
    fn await_step(&mut self, step: u64) {
        let word = self.arena.ptr::<u64>(offset(0, PEER_AT));
        while word.load(Ordering::Acquire).expect("aligned") < step {
            let ended = self.process.ended();
            assert_eq!(ended, None, "the peer ended before step {step}");
            std::thread::yield_now();
        }
    }

    /// How the process ended, what it printed, and how the link ended.
    fn wait(mut self) -> (ExitStatus, String, Result<(), LinkError>) {
        let (status, shown) = self.process.wait();
        let served = self.served.join().expect("serve does not panic");
        (status, shown, served)
    }

    fn passes(self) {
        let (status, shown, served) = self.wait();
        assert!(status.success(), "{status}\n{shown}");
        assert_eq!(served, Ok(()), "it detached");
    }

    fn dies_of(self, signal: i32) {
        let (status, shown, served) = self.wait();
        assert_eq!(status.signal(), Some(signal), "{status}\n{shown}");
        assert_eq!(served, Err(LinkError::PeerGone));
    }
}

/// An arena whose first page is there for the two words.
fn shared_arena(spec: ArenaSpec) -> Arc<Arena> {
    let arena = Arc::new(arena_with(spec));
    assert_eq!(arena.alloc_pages(Some(user(0)), 1, 0), Ok(user(0)));
    arena
}

// ---- the peer's side -----------------------------------------------------------------------

fn connection() -> UnixStream {
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    UnixStream::from(socket.expect("standard input is the connection"))
}

fn attach() -> UserView {
    UserView::attach(connection()).expect("the arena's addresses are free here")
}

fn word(view: &UserView, page: u32, byte: u32) -> UserPtr<'_, u64> {
    let offset = u64::from(offset(page, byte).raw());
    let address = view.user_vm_start().checked_add(offset);
    view.ptr(address.expect("below 2^64"))
        .expect("in the window")
}

fn reach(view: &UserView, step: u64) {
    let at = word(view, 0, PEER_AT);
    at.store(step, Ordering::Release).expect("aligned");
}

fn await_owner(view: &UserView, step: u64) {
    while word(view, 0, OWNER_AT).load(Ordering::Acquire) < Some(step) {
        std::thread::yield_now();
    }
}

// ---- first touch ---------------------------------------------------------------------------

peer!(peer_touches, {
    let view = attach();
    assert_eq!(view.user_vm_start(), user(0));
    assert_eq!(view.byte_size(), 1000 * 4096);
    assert_eq!(word(&view, 999, 8).read(), 0, "a load allocates too");
    word(&view, 5, 0).write(0x55);
    reach(&view, 1);
    await_owner(&view, 1);
    assert_eq!(word(&view, 5, 0).read(), 0x66);
    assert!(view.ptr::<u64>(user(1000)).is_none());
    let straddling = UserAddr::new(user(1000).raw() - 7);
    assert!(view.ptr::<u64>(straddling).is_none());
    assert!(view.ptr::<u8>(UserAddr::new(user(0).raw() - 1)).is_none());
});

#[test]
fn a_first_touch_by_another_process_allocates_and_both_see_what_is_written() {
    let arena = shared_arena(spec(1000));
    let mut peer = Peer::start(&arena, "peer_touches");
    assert_eq!(arena.peer_count(), 1);
    peer.await_step(1);
    for touched in [5, 999] {
        assert_eq!(arena.entry_state(page(touched)), EntryState::Page);
    }
    assert_eq!(arena.pages_in_use(), 3);
    assert_eq!(arena.ptr::<u64>(offset(5, 0)).read(), 0x55);
    arena.ptr::<u64>(offset(5, 0)).write(0x66);
    peer.step(1);
    peer.passes();
    assert_eq!(arena.peer_count(), 0);
    // The allocator knows of the pages.
    assert!(arena.alloc_pages(Some(user(5)), 1, 0).is_err());
    arena.free_pages(user(0), 1000).expect("they are unmapped");
    assert_eq!(arena.pages_in_use(), 0);
}

peer!(peer_writes_a_list, {
    const NODES: u32 = 5;
    let view = attach();
    let mut next = 0;
    for node in (1..=NODES).rev() {
        word(&view, node, 16).write(next);
        word(&view, node, 24).write(u64::from(node) * 100);
        next = word(&view, node, 16).address().raw();
    }
    word(&view, 0, 64).write(next);
    reach(&view, 1);
});

#[test]
fn the_host_follows_pointers_that_another_process_stored() {
    let arena = shared_arena(spec(16));
    let mut peer = Peer::start(&arena, "peer_writes_a_list");
    peer.await_step(1);
    let _host = scope(&arena);
    let mut values = Vec::new();
    let mut next = arena.ptr::<u64>(offset(0, 64)).read();
    while next != 0 && values.len() < 10 {
        let node = arena.ptr::<u64>(ArenaOffset::of(UserAddr::new(next)));
        values.push(node.index(1).read());
        next = node.read();
    }
    assert_eq!(values, [100, 200, 300, 400, 500]);
    assert_eq!(arena.faults_recovered(), 0);
    peer.passes();
}

peer!(peer_reads_allocated, {
    let view = attach();
    await_owner(&view, 1);
    assert_eq!(word(&view, 7, 8).read(), 77);
    assert_eq!(word(&view, 8, 8).read(), 0);
    word(&view, 8, 16).write(88);
    reach(&view, 1);
});

#[test]
fn another_process_sees_pages_that_the_program_allocates() {
    let flags = BPF_F_MMAPABLE | BPF_F_SEGV_ON_FAULT;
    for map_flags in [BPF_F_MMAPABLE, flags] {
        let arena = shared_arena(ArenaSpec {
            map_flags,
            ..spec(16)
        });
        let mut peer = Peer::start(&arena, "peer_reads_allocated");
        arena.alloc_pages(Some(user(7)), 2, 0).expect("free");
        // The first has its page in the file already, the second has not.
        arena.ptr::<u64>(offset(7, 8)).write(77);
        peer.step(1);
        peer.await_step(1);
        assert_eq!(arena.ptr::<u64>(offset(8, 16)).read(), 88);
        assert_eq!(arena.pages_in_use(), 3);
        peer.passes();
    }
}

// ---- free ----------------------------------------------------------------------------------

peer!(peer_has_a_page_freed, {
    let view = attach();
    await_owner(&view, 1);
    word(&view, 3, 8).write(33);
    reach(&view, 1);
    await_owner(&view, 2);
    assert_eq!(word(&view, 3, 8).read(), 0, "a new page");
    word(&view, 3, 16).write(34);
    reach(&view, 2);
});

#[test]
fn a_page_that_the_program_frees_is_gone_from_another_process() {
    let arena = shared_arena(spec(16));
    let mut peer = Peer::start(&arena, "peer_has_a_page_freed");
    peer.step(1);
    peer.await_step(1);
    assert_eq!(arena.ptr::<u64>(offset(3, 8)).read(), 33);
    arena.free_pages(user(3), 1).expect("it is unmapped");
    assert_eq!(arena.entry_state(page(3)), EntryState::Empty);
    peer.step(2);
    peer.await_step(2);
    assert_eq!(arena.entry_state(page(3)), EntryState::Page);
    assert_eq!(arena.ptr::<u64>(offset(3, 8)).read(), 0);
    assert_eq!(arena.ptr::<u64>(offset(3, 16)).read(), 34);
    peer.passes();
}

#[test]
fn with_segv_on_fault_a_touch_after_the_free_is_a_segv() {
    let map_flags = BPF_F_MMAPABLE | BPF_F_SEGV_ON_FAULT;
    let arena = shared_arena(ArenaSpec {
        map_flags,
        ..spec(16)
    });
    arena.alloc_pages(Some(user(3)), 1, 0).expect("free");
    let mut peer = Peer::start(&arena, "peer_has_a_page_freed");
    peer.step(1);
    peer.await_step(1);
    arena.free_pages(user(3), 1).expect("it is unmapped");
    peer.step(2);
    peer.dies_of(libc::SIGSEGV);
    assert_eq!(arena.pages_in_use(), 1);
}

// ---- refused touches -----------------------------------------------------------------------

peer!(peer_touches_page_3, {
    let view = attach();
    await_owner(&view, 1);
    word(&view, 3, 0).write(1);
});

#[test]
fn a_touch_of_a_scratch_page_is_a_segv() {
    let arena = shared_arena(spec(16));
    let host = scope(&arena);
    arena.ptr::<u64>(offset(3, 0)).write(9);
    drop(host);
    let peer = Peer::start(&arena, "peer_touches_page_3");
    peer.step(1);
    peer.dies_of(libc::SIGSEGV);
    assert_eq!(arena.entry_state(page(3)), EntryState::Scratch);
}

#[test]
fn a_touch_at_the_byte_limit_is_a_segv() {
    let arena = shared_arena(ArenaSpec {
        byte_limit: Some(4096),
        ..spec(16)
    });
    let peer = Peer::start(&arena, "peer_touches_page_3");
    peer.step(1);
    peer.dies_of(libc::SIGSEGV);
    assert_eq!(arena.pages_in_use(), 1);
    assert_eq!(arena.entry_state(page(3)), EntryState::Empty);
}

#[test]
fn with_segv_on_fault_a_touch_of_an_empty_page_is_a_segv() {
    let map_flags = BPF_F_MMAPABLE | BPF_F_SEGV_ON_FAULT;
    let arena = shared_arena(ArenaSpec {
        map_flags,
        ..spec(16)
    });
    let peer = Peer::start(&arena, "peer_touches_page_3");
    peer.step(1);
    peer.dies_of(libc::SIGSEGV);
}

// ---- one side ends -------------------------------------------------------------------------

peer!(peer_touches_for_ever, {
    let view = attach();
    for round in 0.. {
        for at in 1..256 {
            let place = word(&view, at, 0);
            place.fetch_add(1, Ordering::Relaxed).expect("aligned");
        }
        reach(&view, round);
    }
});

#[test]
fn a_peer_that_is_killed_harms_nobody() {
    let arena = shared_arena(spec(256));
    for _ in 0..4 {
        let mut peer = Peer::start(&arena, "peer_touches_for_ever");
        peer.await_step(1);
        // It goes on touching: its pages are taken away all the time.
        for _ in 0..50 {
            arena.free_pages(user(1), 255).expect("they are unmapped");
        }
        peer.process.kill();
        peer.dies_of(libc::SIGKILL);
        arena.free_pages(user(1), 255).expect("they are unmapped");
        assert_eq!((arena.pages_in_use(), arena.peer_count()), (1, 0));
        arena.ptr::<u64>(offset(0, PEER_AT)).write(0);
    }
    assert_eq!(arena.alloc_pages(None, 255, 0), Ok(user(1)));
    for at in 1..256 {
        assert_eq!(arena.ptr::<u64>(offset(at, 0)).read(), 0);
    }
}

peer!(peer_outlives_its_link, {
    let view = attach();
    word(&view, 3, 0).write(33);
    reach(&view, 1);
    await_owner(&view, 1);
    assert_eq!(word(&view, 3, 0).read(), 33, "what is there stays");
    reach(&view, 2);
    word(&view, 4, 0).write(1);
});

#[test]
fn when_the_owner_closes_the_link_a_touch_is_what_it_is_without_us() {
    let arena = shared_arena(spec(16));
    let mut peer = Peer::start(&arena, "peer_outlives_its_link");
    peer.await_step(1);
    peer.closer.close();
    while arena.peer_count() > 0 {
        std::thread::yield_now();
    }
    peer.step(1);
    peer.await_step(2);
    let (status, shown, served) = peer.wait();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}\n{shown}");
    assert_eq!(served, Ok(()));
    assert_eq!(arena.entry_state(page(4)), EntryState::Empty);
}

// An owner that serves until its peer is attached, and then ends without a word. A child made
// by fork lives on, and has all its descriptors.
peer!(peer_that_is_the_owner, {
    let arena = shared_arena(spec(1000));
    let link = arena.share_user(connection()).expect("the peer attaches");
    let served = Builder::new().spawn(move || link.serve());
    let word = arena.ptr::<u64>(offset(0, PEER_AT));
    while word.load(Ordering::Acquire) == Some(0) {
        std::thread::yield_now();
    }
    assert!(served.is_ok());
    let child = fork(|| {
        // SAFETY: no preconditions.
        unsafe { libc::pause() }
    });
    eprintln!("forked {child}");
    exit(0)
});

/// A process of which this test knows but the number.
struct Stray(libc::pid_t);

impl Drop for Stray {
    fn drop(&mut self) {
        // SAFETY: it only waits to be killed, so that the number is still its own.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }
}

#[test]
fn when_the_owner_dies_a_touch_crashes_though_its_child_lives() {
    let (mut owner, peer_end) = start("peer_that_is_the_owner");
    let mut peer = start_with("peer_waits_for_the_end", peer_end);
    let stderr = owner.stderr().expect("it was piped");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    let child = lines.find_map(|line| line.ok()?.strip_prefix("forked ")?.parse().ok());
    let _child = Stray(child.expect("it says whom it forked"));
    let (status, _) = owner.wait();
    assert!(status.success(), "{status}");
    let (status, shown) = peer.wait();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}\n{shown}");
}

peer!(peer_waits_for_the_end, {
    let view = attach();
    reach(&view, 1);
    // One page after the other, until one is not served any more.
    for at in (1..1000).cycle() {
        word(&view, at, 8).write(1);
        // Away with it, so that there is always a page to touch.
        // SAFETY: the view is this test's own, and no reference into it exists.
        let gone = unsafe {
            let at = view.base().wrapping_add(at as usize * 4096).cast();
            libc::madvise(at, 4096, libc::MADV_REMOVE)
        };
        assert_eq!(gone, 0);
    }
});

// ---- several at once -----------------------------------------------------------------------

peer!(peer_of_two, {
    let view = attach();
    // Which of the two this is, is decided by who comes first.
    let me = word(&view, 0, 64)
        .fetch_add(1, Ordering::AcqRel)
        .expect("aligned");
    let mine = 1 + u32::try_from(me).expect("one of two");
    let other = 3 - mine;
    word(&view, mine, 8).write(me + 10);
    word(&view, 0, 72)
        .fetch_add(1, Ordering::AcqRel)
        .expect("aligned");
    await_owner(&view, 1);
    assert_eq!(word(&view, other, 8).read(), u64::from(other) + 9);
    word(&view, 0, 80)
        .fetch_add(1, Ordering::AcqRel)
        .expect("aligned");
    await_owner(&view, 2);
    assert_eq!(word(&view, 1, 8).read(), 0, "freed");
    assert_eq!(word(&view, 2, 8).read(), 0, "freed");
});

#[test]
fn two_processes_share_an_arena_with_the_host() {
    let arena = shared_arena(spec(16));
    let mut peers = [
        Peer::start(&arena, "peer_of_two"),
        Peer::start(&arena, "peer_of_two"),
    ];
    assert_eq!(arena.peer_count(), 2);
    let both_at = |peers: &mut [Peer; 2], byte| {
        let word = arena.ptr::<u64>(offset(0, byte));
        while word.load(Ordering::Acquire) != Some(2) {
            for peer in &mut *peers {
                assert_eq!(peer.process.ended(), None);
            }
            std::thread::yield_now();
        }
    };
    both_at(&mut peers, 72);
    assert_eq!(arena.ptr::<u64>(offset(1, 8)).read(), 10);
    assert_eq!(arena.ptr::<u64>(offset(2, 8)).read(), 11);
    peers[0].step(1);
    both_at(&mut peers, 80);
    arena.free_pages(user(1), 2).expect("they are unmapped");
    peers[0].step(2);
    peers.into_iter().for_each(Peer::passes);
    assert_eq!(arena.pages_in_use(), 3);
}

/// More than may wait for the owner at a time.
const THREADS: u32 = 20;
const PAGES_EACH: u32 = 40;

peer!(peer_with_threads, {
    let view = attach();
    let start = std::sync::Barrier::new(THREADS as usize);
    std::thread::scope(|threads| {
        for me in 0..THREADS {
            let (view, start) = (&view, &start);
            threads.spawn(move || {
                start.wait();
                for at in 0..PAGES_EACH {
                    // The same page for all, then one of its own.
                    let shared = word(view, 1 + at, 0);
                    shared.fetch_add(1, Ordering::Relaxed).expect("aligned");
                    let own = 1 + PAGES_EACH * (1 + me) + at;
                    word(view, own, 0).write(u64::from(own));
                }
            });
        }
    });
    reach(&view, 1);
});

#[test]
fn many_threads_of_a_process_touch_the_same_page_and_others_at_once() {
    const PAGES: u32 = 1 + PAGES_EACH * (1 + THREADS);
    let arena = shared_arena(spec(PAGES));
    let mut peer = Peer::start(&arena, "peer_with_threads");
    peer.await_step(1);
    assert_eq!(arena.pages_in_use(), PAGES);
    for at in 1..PAGES {
        let expected = if at <= PAGES_EACH { THREADS } else { at };
        let value = arena.ptr::<u64>(offset(at, 0)).read();
        assert_eq!(value, u64::from(expected), "page {at}");
    }
    peer.passes();
}

// ---- attaching -----------------------------------------------------------------------------

#[test]
fn a_second_view_in_a_process_is_busy() {
    let start = 0x3000_0000_0000;
    let arena = Arc::new(arena_with(ArenaSpec {
        map_extra: start,
        ..spec(16)
    }));
    let try_once = || {
        let (ours, theirs) = UnixStream::pair().expect("sockets are to be had");
        std::thread::scope(|threads| {
            let view = threads.spawn(|| UserView::attach(theirs));
            (arena.share_user(ours), view.join().expect("no panic"))
        })
    };
    let (link, view) = try_once();
    let view = view.expect("the addresses are free");
    let (second, refused) = try_once();
    let start = UserAddr::new(start);
    assert_eq!(refused.unwrap_err(), AttachError::Busy { start });
    let errno = Errno::EBUSY as i32;
    assert_eq!(second.unwrap_err(), ShareError::Refused { errno });
    assert!(arena.map_user().is_err(), "nor this arena's own view");
    // A process may have a view of its own arena, too.
    let link = link.expect("the first one attached");
    std::thread::scope(|threads| {
        let served = threads.spawn(|| link.serve());
        word(&view, 2, 0).write(22);
        assert_eq!(arena.ptr::<u64>(offset(2, 0)).read(), 22);
        drop(view);
        assert_eq!(served.join().expect("no panic"), Ok(()));
    });
    assert_eq!(arena.peer_count(), 0);
}

#[test]
fn an_arena_without_window_cannot_be_shared() {
    let arena = Arc::new(arena_with(ArenaSpec {
        map_extra: 0,
        ..spec(4)
    }));
    let (ours, _theirs) = UnixStream::pair().expect("sockets are to be had");
    let refused = arena.share_user(ours).unwrap_err();
    assert_eq!(refused, ShareError::NoWindow);
}

peer!(peer_without_userfaultfd, {
    forbid(Forbidden {
        call: libc::SYS_userfaultfd,
        only: None,
        errno: libc::EPERM,
    });
    let refused = UserView::attach(connection()).unwrap_err();
    assert!(matches!(refused, AttachError::Watch(_)), "{refused:?}");
    assert!(refused.to_string().contains("userfaultfd"), "{refused}");
});

#[test]
fn where_userfaultfd_is_forbidden_both_sides_are_told() {
    let arena = Arc::new(arena(4));
    let (mut process, socket) = start("peer_without_userfaultfd");
    let errno = Errno::EOPNOTSUPP as i32;
    let refused = arena.share_user(socket).unwrap_err();
    assert_eq!(refused, ShareError::Refused { errno });
    let (status, shown) = process.wait();
    assert!(status.success(), "{status}\n{shown}");
    assert_eq!(arena.peer_count(), 0);
}
