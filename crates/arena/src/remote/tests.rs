//! Goal: a peer or an owner that says anything else than it should harms only its own link;
//! and no page that was freed comes back into the file, whatever races.
//!
//! Method: the other side is played by hand, over the same sockets, in this process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use harena_abi::bpf::BPF_F_MMAPABLE;
use harena_abi::{PAGE_SIZE, PageIndex, UserAddr};
use harena_arena_fault::EntryState;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};

use super::wire::{Answer, Hello, PACKET_LEN, Touch, WELCOME_LEN, Welcome};
use super::*;
use crate::arena::Arena;
use crate::spec::ArenaSpec;
use crate::sys::{self, Patience};

const PAGES: u32 = 64;

fn arena_at(map_extra: u64) -> Arc<Arena> {
    let spec = ArenaSpec {
        max_entries: PAGES,
        map_flags: BPF_F_MMAPABLE,
        map_extra,
        ..ArenaSpec::default()
    };
    Arc::new(Arena::create(&spec).expect("a valid arena"))
}

fn arena() -> Arc<Arena> {
    arena_at(0x1000_0000_0000)
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("sockets are to be had")
}

fn borrowed(files: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    files.iter().map(AsFd::as_fd).collect()
}

/// What an honest peer sends with its welcome; and its ends of the slots.
fn honest_files() -> (Vec<OwnedFd>, Vec<OwnedFd>) {
    let pairs = (0..SLOTS).map(|_| sys::packet_pair().expect("sockets are to be had"));
    let (ours, theirs): (Vec<_>, Vec<_>) = pairs.unzip();
    let process = sys::this_process().expect("a pidfd");
    (std::iter::once(process).chain(theirs).collect(), ours)
}

/// The link to a peer that is played by hand: the connection, and its ends of the slots.
fn link(arena: &Arc<Arena>) -> (PeerLink, UnixStream, Vec<OwnedFd>) {
    let (ours, theirs) = pair();
    let (files, slots) = honest_files();
    let welcome = Welcome { errno: 0 }.encode();
    sys::send_files(theirs.as_fd(), &welcome, &borrowed(&files)).expect("it is connected");
    let link = arena.share_user(ours).expect("an honest welcome");
    (link, theirs, slots)
}

fn still_works(arena: &Arc<Arena>) {
    let (link, peer, slots) = link(arena);
    let touch = Touch { page: 3 };
    sys::send(slots[0].as_fd(), &touch.encode(), Patience::Wait).expect("it is connected");
    sys::send(peer.as_fd(), &[wire::GOODBYE], Patience::Wait).expect("it is connected");
    // The goodbye is looked at first: nothing was touched.
    assert_eq!(link.serve(), Ok(()));
    assert_eq!((arena.pages_in_use(), arena.peer_count()), (0, 0));
}

// ---- nonsense from a peer ------------------------------------------------------------------

#[test]
fn a_welcome_that_is_none_is_refused() {
    let arena = arena();
    let welcome = Welcome { errno: 0 }.encode();
    let mut other_version = welcome;
    other_version[8] = 200;
    let cases: [(&[u8], usize, ShareError); 5] = [
        (b"", 0, ShareError::PeerGone),
        (&welcome[..WELCOME_LEN - 1], 1 + SLOTS, ShareError::PeerGone),
        (&[0xff; 64], 0, ShareError::Nonsense(WireError::Magic)),
        (
            &other_version,
            1 + SLOTS,
            ShareError::Nonsense(WireError::Version { theirs: 200 }),
        ),
        (
            &Welcome { errno: 13 }.encode(),
            0,
            ShareError::Refused { errno: 13 },
        ),
    ];
    for (bytes, count, error) in cases {
        let (ours, theirs) = pair();
        let (files, _slots) = honest_files();
        let files = borrowed(&files);
        if count > 0 {
            sys::send_files(theirs.as_fd(), bytes, &files[..count]).expect("it is connected");
        } else if !bytes.is_empty() {
            sys::send(theirs.as_fd(), bytes, Patience::Wait).expect("it is connected");
        }
        theirs
            .shutdown(std::net::Shutdown::Write)
            .expect("it is connected");
        assert_eq!(arena.share_user(ours).unwrap_err(), error);
    }
    still_works(&arena);
}

#[test]
fn a_welcome_with_too_few_or_too_many_slots_is_refused() {
    let arena = arena();
    for count in [1, SLOTS, SLOTS + 2, sys::FILES_MAX] {
        let (ours, theirs) = pair();
        let one = sys::this_process().expect("a pidfd");
        let files = vec![one.as_fd(); count];
        let welcome = Welcome { errno: 0 }.encode();
        sys::send_files(theirs.as_fd(), &welcome, &files).expect("it is connected");
        let expected = 1 + SLOTS;
        let nonsense = ShareError::Nonsense(WireError::Files { count, expected });
        assert_eq!(arena.share_user(ours).unwrap_err(), nonsense);
    }
    still_works(&arena);
}

#[test]
fn a_request_that_is_none_ends_the_link_alone() {
    let arena = arena();
    let expected = PACKET_LEN;
    let beyond = Touch { page: PAGES }.encode();
    let unknown = [9, 0, 0, 0, 1, 0, 0, 0];
    let cases: [(&[u8], WireError); 4] = [
        (&[1], WireError::Length { len: 1, expected }),
        (
            &[1; 4000],
            WireError::Length {
                len: 4000,
                expected,
            },
        ),
        (
            &beyond,
            WireError::Page {
                page: PAGES,
                max_entries: PAGES,
            },
        ),
        (&unknown, WireError::Kind { kind: 9, page: 1 }),
    ];
    let (other, other_peer, _other_slots) = link(&arena);
    for (bytes, error) in cases {
        let (link, _peer, slots) = link(&arena);
        sys::send(slots[SLOTS - 1].as_fd(), bytes, Patience::Wait).expect("it is connected");
        assert_eq!(link.serve(), Err(LinkError::Nonsense(error)));
        assert_eq!(arena.pages_in_use(), 0);
    }
    let (link, peer, _slots) = link(&arena);
    sys::send(peer.as_fd(), &[7], Patience::Wait).expect("it is connected");
    let kind = WireError::Kind { kind: 7, page: 0 };
    assert_eq!(link.serve(), Err(LinkError::Nonsense(kind)));
    sys::send(other_peer.as_fd(), &[wire::GOODBYE], Patience::Wait).expect("it is connected");
    assert_eq!(other.serve(), Ok(()));
    still_works(&arena);
}

#[test]
fn a_peer_that_sends_other_descriptors_than_sockets_is_let_go() {
    let arena = arena();
    let (ours, theirs) = pair();
    let file = || rustix::fs::memfd_create(c"junk", MemfdFlags::CLOEXEC).expect("a file");
    let files: Vec<OwnedFd> = (0..=SLOTS).map(|_| file()).collect();
    let welcome = Welcome { errno: 0 }.encode();
    sys::send_files(theirs.as_fd(), &welcome, &borrowed(&files)).expect("it is connected");
    let link = arena.share_user(ours).expect("their number is right");
    assert!(matches!(link.serve(), Err(LinkError::Os(_))));
    still_works(&arena);
}

#[test]
fn a_peer_that_does_not_read_its_answers_is_let_go() {
    let arena = arena();
    let (link, _peer, slots) = link(&arena);
    std::thread::scope(|threads| {
        let served = threads.spawn(|| link.serve());
        let touch = Touch { page: 0 }.encode();
        while sys::send(slots[0].as_fd(), &touch, Patience::Wait).is_ok() {}
        let unread = LinkError::Nonsense(WireError::Unread);
        assert_eq!(served.join().expect("no panic"), Err(unread));
    });
    arena.free_pages(UserAddr::new(0), PAGES).expect("unmapped");
    still_works(&arena);
}

#[test]
fn a_peer_that_lets_go_of_a_connection_is_gone() {
    let arena = arena();
    let (first, peer, slots) = link(&arena);
    drop(peer);
    assert_eq!(first.serve(), Err(LinkError::PeerGone));
    drop(slots);
    let (second, _peer, slots) = link(&arena);
    drop(slots);
    assert_eq!(second.serve(), Err(LinkError::PeerGone));
    still_works(&arena);
}

#[test]
fn an_answer_says_what_became_of_the_touch() {
    let arena = arena();
    let (link, peer, slots) = link(&arena);
    let ask = |slot: usize, page: u32| {
        let (slot, touch) = (slots[slot].as_fd(), Touch { page });
        sys::send(slot, &touch.encode(), Patience::Wait).expect("it is connected");
        let mut bytes = [0; PACKET_LEN];
        let len = sys::receive(slot, &mut bytes, Patience::Wait).expect("it is connected");
        Answer::decode(bytes, len, touch).expect("an answer")
    };
    std::thread::scope(|threads| {
        let served = threads.spawn(|| link.serve());
        assert_eq!(ask(0, 1), Answer::Ready);
        assert_eq!(ask(SLOTS - 1, 1), Answer::Ready);
        assert_eq!(arena.pages_in_use(), 1);
        // A hook runs with the lock held: the peer has to come again.
        let traced = arena.alloc_pages_traced(None, 1, || {
            assert_eq!(ask(1, 2), Answer::Again);
        });
        assert!(traced.is_ok());
        sys::send(peer.as_fd(), &[wire::GOODBYE], Patience::Wait).expect("it is connected");
        assert_eq!(served.join().expect("no panic"), Ok(()));
    });
}

#[test]
fn only_so_many_peers_at_a_time() {
    let arena = arena();
    let links: Vec<_> = (0..PEERS_MAX).map(|_| link(&arena)).collect();
    let (ours, _theirs) = pair();
    let refused = arena.share_user(ours).unwrap_err();
    assert_eq!(refused, ShareError::TooManyPeers);
    drop(links);
    still_works(&arena);
}

// ---- nonsense from an owner ----------------------------------------------------------------

#[test]
fn a_peer_does_not_map_what_is_no_arena() {
    let good = Hello {
        map_flags: BPF_F_MMAPABLE,
        user_start: UserAddr::new(0x5000_0000_0000),
        byte_size: PAGE_SIZE,
    };
    let start = UserAddr::new;
    let geometries = [
        Hello {
            byte_size: 0,
            ..good
        },
        Hello {
            byte_size: 100,
            ..good
        },
        Hello {
            byte_size: 2 << 32,
            ..good
        },
        Hello {
            user_start: start(0),
            ..good
        },
        Hello {
            user_start: start(0x1001),
            ..good
        },
        Hello {
            map_flags: 0,
            ..good
        },
        Hello {
            byte_size: 8192,
            user_start: start(0x1_ffff_f000),
            ..good
        },
        Hello {
            user_start: start(u64::MAX - 4095),
            byte_size: 8192,
            ..good
        },
    ];
    let sealed = SealFlags::SHRINK | SealFlags::GROW;
    for hello in geometries {
        let error = attach_to(hello, hello.byte_size, sealed);
        assert!(
            matches!(error, AttachError::Geometry { .. }),
            "{hello:?}: {error:?}"
        );
    }
    for (len, seals) in [
        (PAGE_SIZE, SealFlags::GROW),
        (PAGE_SIZE, SealFlags::empty()),
        (PAGE_SIZE - 1, sealed),
        (2 * PAGE_SIZE, sealed),
    ] {
        let error = attach_to(good, len, seals);
        assert!(matches!(error, AttachError::Os(_)), "{len}: {error:?}");
    }
}

/// What comes of attaching to an owner that sends this, with such a file.
fn attach_to(hello: Hello, file_len: u64, seals: SealFlags) -> AttachError {
    let (ours, theirs) = pair();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create(c"junk", flags).expect("a file");
    rustix::fs::ftruncate(&memory, file_len).expect("a length");
    rustix::fs::fcntl_add_seals(&memory, seals).expect("seals");
    let owner = sys::this_process().expect("a pidfd");
    let files = [memory.as_fd(), owner.as_fd()];
    sys::send_files(ours.as_fd(), &hello.encode(), &files).expect("it is connected");
    UserView::attach(theirs).expect_err("no arena")
}

#[test]
fn a_peer_without_owner_is_told() {
    let (ours, theirs) = pair();
    drop(ours);
    let error = UserView::attach(theirs).unwrap_err();
    assert_eq!(error, AttachError::OwnerGone);
    let (ours, theirs) = pair();
    sys::send(ours.as_fd(), &[1; 32], Patience::Wait).expect("it is connected");
    let error = UserView::attach(theirs).unwrap_err();
    assert_eq!(error, AttachError::Nonsense(WireError::Magic));
}

// ---- what a hostile peer leaves in holes ----------------------------------------------------

#[test]
fn what_a_peer_writes_into_holes_is_wiped_by_every_way_to_a_page() {
    let arena = arena();
    let (_link, _peer, _slots) = link(&arena);
    let file = arena.shared.file.as_fd();
    let scribble = || {
        let bytes = vec![0xee; 4096];
        for page in 0..u64::from(PAGES) {
            rustix::io::pwrite(file, &bytes, page * PAGE_SIZE).expect("it has the descriptor");
        }
    };
    let read = |page: u32| {
        arena
            .ptr::<u64>(harena_abi::ArenaOffset::new(page * 4096))
            .read()
    };
    scribble();
    arena.alloc_pages(None, 4, 0).expect("pages are free");
    assert_eq!([0, 1, 2, 3].map(read), [0; 4]);
    let start = arena.user_vm_start().expect("it is fixed");
    let fifth = start.checked_add(5 * PAGE_SIZE).expect("below 2^64");
    arena.touch_user(fifth).expect("it may be allocated");
    assert_eq!(read(5), 0);
    assert_eq!(arena.serve_touch(Touch { page: 6 }), Answer::Ready);
    assert_eq!(read(6), 0);
    arena.free_pages(start, PAGES).expect("unmapped");
    scribble();
    arena.alloc_pages(None, PAGES, 0).expect("pages are free");
    assert!((0..PAGES).all(|page| read(page) == 0));
    // It cannot make the file longer either: its memory stays bounded.
    let end = u64::from(PAGES) * PAGE_SIZE;
    assert!(rustix::io::pwrite(file, &[1], end).is_err());
    let grow = rustix::fs::fallocate(file, FallocateFlags::empty(), end, PAGE_SIZE);
    assert!(grow.is_err());
}

// ---- races ---------------------------------------------------------------------------------

/// The generator of Steele, Lea and Flood (2014): a seed is all its state.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % u64::from(end)).expect("below a u32")
    }
}

/// Pages of the first `count` that the file has although no entry says so.
fn strays(arena: &Arena, count: u32) -> Vec<u32> {
    let file = arena.shared.file.as_fd();
    let is_data = |page: u32| {
        let at = u64::from(page) * PAGE_SIZE;
        rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) == Ok(at)
    };
    let is_page = |page| {
        let page = PageIndex::new(page).expect("in the window");
        arena.entry_state(page) == EntryState::Page
    };
    (0..count)
        .filter(|page| is_data(*page) && !is_page(*page))
        .collect()
}

#[test]
fn pages_that_were_freed_are_not_in_the_file_whatever_raced() {
    const EPOCHS: u32 = 300;
    const STEPS: u32 = 100;
    /// Few, so that touches and frees meet.
    const HOT: u32 = 4;
    const TOUCHERS: u64 = 2;
    const SEED: u64 = 20_261_125;
    println!("seed={SEED}");
    let arena = arena_at(0x6000_0000_0000);
    let (ours, theirs) = pair();
    let (link, view) = std::thread::scope(|threads| {
        let view = threads.spawn(|| UserView::attach(theirs));
        (arena.share_user(ours), view.join().expect("no panic"))
    });
    let (link, view) = (link.expect("it attaches"), view.expect("it attaches"));
    let start = view.user_vm_start();
    let at = |page: u32| {
        let address = start.checked_add(u64::from(page) * PAGE_SIZE);
        address.expect("below 2^64")
    };
    let served = std::thread::Builder::new().spawn(move || link.serve());
    let barrier = Barrier::new(3);
    let done = AtomicU32::new(0);
    let mut found = Vec::new();
    std::thread::scope(|threads| {
        for number in 1..=TOUCHERS {
            let (view, barrier, done) = (&view, &barrier, &done);
            threads.spawn(move || {
                let mut random = Random(SEED + number);
                for epoch in 0..EPOCHS {
                    while done.load(Ordering::Relaxed) <= epoch {
                        let place = view.ptr::<u64>(at(random.below(HOT))).expect("inside");
                        place.fetch_add(1, Ordering::Relaxed).expect("aligned");
                    }
                    barrier.wait();
                    barrier.wait();
                }
            });
        }
        let mut random = Random(SEED);
        // A panic in here would leave the others at the barrier.
        for epoch in 0..EPOCHS {
            for _ in 0..STEPS {
                let page = at(random.below(HOT));
                match random.below(16) {
                    // Taken, if it is there.
                    0 => drop(arena.alloc_pages(Some(page), 1, 0)),
                    _ => arena.free_pages(page, 1).expect("unmapped"),
                }
            }
            done.store(epoch + 1, Ordering::Relaxed);
            barrier.wait();
            found.extend(strays(&arena, HOT).into_iter().map(|page| (epoch, page)));
            barrier.wait();
        }
    });
    assert_eq!(found, [], "epochs, and pages that came back");
    drop(view);
    let served = served.expect("threads are to be had").join();
    assert_eq!(served.expect("no panic"), Ok(()));
    arena.free_pages(start, PAGES).expect("unmapped");
    let resident = arena.shared.file.resident().expect("a file");
    assert_eq!((arena.pages_in_use(), resident), (0, 0));
}
