//! What a peer's signal handlers see, and what its children have.

use harena_abi::bpf::{BPF_F_MMAPABLE, BPF_F_SEGV_ON_FAULT};
use harena_arena::{ArenaSpec, EntryState, LinkError, UninstallError, uninstall_fault_handler};

use super::{Peer, attach, await_owner, peer, reach, shared_arena, word};
use crate::children::{HANDLED, WRONG, exit, fork, wait};
use crate::common::{UserMemory, offset, page, spec, user};

// ---- fork ----------------------------------------------------------------------------------

/// Runs `body` in a child made by fork: how it ended.
fn forked(body: impl FnOnce()) -> i32 {
    wait(fork(|| {
        body();
        0
    }))
}

peer!(peer_that_forks, {
    let view = attach();
    word(&view, 1, 0).write(11);
    for at in [1, 2] {
        let status = forked(|| word(&view, at, 0).write(66));
        assert!(libc::WIFSIGNALED(status), "{status:#x}");
        assert_eq!(libc::WTERMSIG(status), libc::SIGSEGV);
    }
    // SAFETY: the copy is dropped in the child, which has no other.
    let copy = || drop(unsafe { std::ptr::read(&raw const view) });
    assert_eq!(forked(copy), 0);
    // The child's end was not this process's.
    word(&view, 3, 0).write(33);
    reach(&view, 1);
});

#[test]
fn a_child_of_a_peer_has_no_view_and_no_say() {
    let arena = shared_arena(spec(16));
    let mut peer = Peer::start(&arena, "signals::peer_that_forks");
    peer.await_step(1);
    assert_eq!(arena.ptr::<u64>(offset(1, 0)).read(), 11);
    assert_eq!(arena.entry_state(page(2)), EntryState::Empty);
    assert_eq!(arena.ptr::<u64>(offset(3, 0)).read(), 33);
    peer.passes();
}

// ---- signals -------------------------------------------------------------------------------

/// Installs what an application may have for a signal.
fn set_action(signal: i32, handler: usize) {
    // SAFETY: plain integers, for which zero is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: a valid action; the handlers only exit.
    let done = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
}

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// What a handler sees of a touch of page 3: the signal, its address, and the mask that the
/// kernel would have set.
extern "C" fn sees_page_3(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel's argument.
    let info = unsafe { &*info };
    // SAFETY: SIGSEGV and SIGBUS carry an address.
    let address = unsafe { info.si_addr() }.addr() as u64;
    let right = address == user(3).raw() && info.si_code == 2 && info.si_signo == signal;
    // SAFETY: plain integers.
    let mut mask: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: with a null set the call only asks.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask) };
    let blocked = [libc::SIGTERM, libc::SIGUSR1, signal].map(|other| {
        // SAFETY: the set was filled above.
        unsafe { libc::sigismember(&raw const mask, other) == 1 }
    });
    let right = right && blocked == [false, true, true];
    exit(if right { HANDLED } else { WRONG })
}

fn block(signal: i32) {
    // SAFETY: plain integers.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is initialised and the signal number valid.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: the set is initialised.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

#[expect(clippy::fn_to_numeric_cast_any, reason = "sigaction wants the address")]
fn handler() -> usize {
    let handler: Handler = sees_page_3;
    handler as usize
}

peer!(peer_has_a_segv_handler, {
    block(libc::SIGUSR1);
    set_action(libc::SIGSEGV, handler());
    let view = attach();
    await_owner(&view, 1);
    word(&view, 3, 0).write(1);
});

peer!(peer_ignores_segv, {
    set_action(libc::SIGSEGV, libc::SIG_IGN);
    let view = attach();
    await_owner(&view, 1);
    word(&view, 3, 0).write(1);
});

peer!(peer_blocks_segv, {
    set_action(libc::SIGSEGV, handler());
    block(libc::SIGSEGV);
    let view = attach();
    await_owner(&view, 1);
    word(&view, 3, 0).write(1);
});

#[test]
fn a_refused_touch_is_a_segv_as_the_kernel_raises_it() {
    let map_flags = BPF_F_MMAPABLE | BPF_F_SEGV_ON_FAULT;
    let refusing = || {
        shared_arena(ArenaSpec {
            map_flags,
            ..spec(16)
        })
    };
    let peer = Peer::start(&refusing(), "signals::peer_has_a_segv_handler");
    peer.step(1);
    let (status, shown, served) = peer.wait();
    assert_eq!(status.code(), Some(HANDLED), "{status}\n{shown}");
    assert_eq!(served, Err(LinkError::PeerGone));
    // Where it is ignored or blocked, it ends the process nevertheless.
    for name in ["signals::peer_ignores_segv", "signals::peer_blocks_segv"] {
        let peer = Peer::start(&refusing(), name);
        peer.step(1);
        peer.dies_of(libc::SIGSEGV);
    }
}

peer!(peer_has_a_bus_handler, {
    block(libc::SIGUSR1);
    set_action(libc::SIGBUS, handler());
    let view = attach();
    // A served touch does not reach it.
    word(&view, 2, 0).write(2);
    reach(&view, 1);
    await_owner(&view, 1);
    word(&view, 3, 0).write(1);
});

#[test]
fn without_owner_the_former_bus_handler_sees_the_touch() {
    let arena = shared_arena(spec(16));
    let mut peer = Peer::start(&arena, "signals::peer_has_a_bus_handler");
    peer.await_step(1);
    peer.closer.close();
    while arena.peer_count() > 0 {
        std::thread::yield_now();
    }
    peer.step(1);
    let (status, shown, _) = peer.wait();
    assert_eq!(status.code(), Some(HANDLED), "{status}\n{shown}");
}

peer!(peer_has_a_bus_error_of_its_own, {
    let view = attach();
    reach(&view, 1);
    // SAFETY: makes a file.
    let file = unsafe { libc::memfd_create(c"empty".as_ptr(), 0) };
    let (access, flags) = (libc::PROT_READ, libc::MAP_SHARED);
    // SAFETY: without MAP_FIXED the kernel picks unused addresses. The file is empty: any touch
    // is a SIGBUS, and not of the view.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, flags, file, 0) };
    assert_ne!(base, libc::MAP_FAILED);
    UserMemory::new(base.cast(), 4096).read(0);
});

peer!(peer_is_sent_a_bus_error, {
    // Not that of the standard library, which lets a signal pass that no touch has raised.
    set_action(libc::SIGBUS, libc::SIG_DFL);
    let view = attach();
    reach(&view, 1);
    // SAFETY: `raise` has no preconditions.
    unsafe { libc::raise(libc::SIGBUS) };
});

#[test]
fn a_bus_error_that_is_not_ours_crashes() {
    for name in [
        "signals::peer_has_a_bus_error_of_its_own",
        "signals::peer_is_sent_a_bus_error",
    ] {
        let arena = shared_arena(spec(16));
        let mut peer = Peer::start(&arena, name);
        peer.await_step(1);
        peer.dies_of(libc::SIGBUS);
    }
}

peer!(peer_removes_the_handler, {
    set_action(libc::SIGBUS, handler());
    let view = attach();
    reach(&view, 1);
    assert_eq!(uninstall_fault_handler(), Err(UninstallError::InUse));
    drop(view);
    // Another one on top may forward to it.
    set_action(libc::SIGBUS, libc::SIG_IGN);
    assert_eq!(uninstall_fault_handler(), Err(UninstallError::NotOnTop));
});

peer!(peer_puts_the_former_handler_back, {
    set_action(libc::SIGBUS, handler());
    let view = attach();
    reach(&view, 1);
    drop(view);
    assert_eq!(uninstall_fault_handler(), Ok(()));
    // SAFETY: plain integers, for which zero is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null second argument only asks.
    unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut action) };
    assert_eq!(action.sa_sigaction, handler());
    assert_eq!(uninstall_fault_handler(), Ok(()), "nothing to do");
});

#[test]
fn the_handler_can_be_removed_when_no_view_is_left() {
    for name in ["removes_the_handler", "puts_the_former_handler_back"] {
        let arena = shared_arena(spec(16));
        let mut peer = Peer::start(&arena, &format!("signals::peer_{name}"));
        peer.await_step(1);
        peer.passes();
    }
}
