//! A process that was handed an arena's memory and plays foul. Nonsense on its connection is
//! tried in the crate's own tests, where its bytes are known.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Builder;

use harena_arena::ShareError;

use super::{OWNER_AT, PEER_AT, connection, peer, shared_arena, start};
use crate::common::{UserMemory, offset, scope, spec, user};

// ---- a hostile process ---------------------------------------------------------------------

/// Receives the owner's hello as bytes, and the memory file that comes with it.
fn steal_file(socket: &UnixStream) -> OwnedFd {
    let mut bytes = [0_u8; 64];
    let mut control = [0_u64; 16];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: plain integers and pointers, for which zero is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message describes buffers that outlive the call.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    assert!(len > 0);
    // SAFETY: the message was filled by the call above.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    assert!(!first.is_null());
    // SAFETY: the kernel wrote this control message.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: it carries descriptors, of which the first is the memory file.
    let file = unsafe { data.cast::<i32>().read_unaligned() };
    // SAFETY: the descriptor was made for this process by the call above.
    unsafe { OwnedFd::from_raw_fd(file) }
}

peer!(peer_writes_into_holes, {
    let socket = connection();
    let file = steal_file(&socket);
    let (access, len) = (libc::PROT_READ | libc::PROT_WRITE, 16 * 4096);
    // SAFETY: without MAP_FIXED the kernel picks unused addresses.
    let base = unsafe {
        let file = file.as_raw_fd();
        libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file, 0)
    };
    assert_ne!(base, libc::MAP_FAILED);
    let stolen = UserMemory::new(base.cast(), len);
    let scribble = |mark| {
        for at in (4096 + 8..len).step_by(4096) {
            stolen.write(at, mark);
        }
    };
    scribble(0xee);
    let owner_at = || stolen.read(OWNER_AT as usize);
    let reach = |step| stolen.write(PEER_AT as usize, step);
    let await_owner = |step| {
        while owner_at() < step {
            std::thread::yield_now();
        }
    };
    reach(1);
    await_owner(1);
    // What is allocated it sees; what is not, it may fill, to no effect.
    assert_eq!(stolen.read(3 * 4096 + 8), 7);
    reach(2);
    await_owner(2);
    assert_eq!(stolen.read(3 * 4096 + 8), 0, "freed");
    scribble(0xdd);
    reach(3);
    await_owner(3);
    assert_eq!(stolen.read(4 * 4096 + 8), 0, "allocated since");
});

#[test]
fn what_a_hostile_process_writes_into_holes_is_not_seen() {
    let arena = shared_arena(spec(16));
    let (mut process, socket) = start("hostile::peer_writes_into_holes");
    // It never answers, and has the file all the same.
    let shared = {
        let arena = Arc::clone(&arena);
        Builder::new().spawn(move || arena.share_user(socket))
    };
    let mut await_step = |step| {
        let word = arena.ptr::<u64>(offset(0, PEER_AT));
        while word.load(Ordering::Acquire).expect("aligned") < step {
            assert_eq!(process.ended(), None, "it ended before step {step}");
            std::thread::yield_now();
        }
    };
    let step = |step| arena.ptr::<u64>(offset(0, OWNER_AT)).write(step);
    await_step(1);
    arena.alloc_pages(Some(user(3)), 1, 0).expect("free");
    let at_3 = arena.ptr::<u64>(offset(3, 8));
    assert_eq!(at_3.read(), 0);
    at_3.write(7);
    step(1);
    await_step(2);
    // Scratch is out of its reach, and what it writes is no scratch.
    let host = scope(&arena);
    let wild = arena.ptr::<u64>(offset(9, 8));
    assert_eq!(wild.read(), 0);
    drop(host);
    arena.free_pages(user(3), 1).expect("it is unmapped");
    step(2);
    await_step(3);
    arena.alloc_pages(Some(user(1)), 15, 0).expect("free");
    for at in 1..16 {
        assert_eq!(arena.ptr::<u64>(offset(at, 8)).read(), 0, "page {at}");
    }
    step(3);
    let (status, shown) = process.wait();
    assert!(status.success(), "{status}\n{shown}");
    let shared = shared.expect("threads are to be had").join();
    let refused = shared.expect("no panic").unwrap_err();
    assert_eq!(refused, ShareError::PeerGone);
}
