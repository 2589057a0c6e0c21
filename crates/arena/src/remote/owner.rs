//! The owner's side: handing the arena's memory to another process, and serving its touches.
//!
//! Nothing that comes from the peer is trusted. Its descriptors are only polled, read without
//! waiting and written to without waiting; whatever it says that is not a touch of a page of
//! the window ends its link, and nothing else.
//!
//! Touches are served under the arena's lock, and pages are freed under it. So between the
//! look at an entry and the moment its page is in the file nobody frees the page: a freed
//! page is never put back into the file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use harena_abi::{Errno, PAGE_SIZE};

use crate::arena::Arena;
use crate::remote::SLOTS;
use crate::remote::wire::{
    Answer, GOODBYE, Hello, PACKET_LEN, Touch, WELCOME_LEN, Welcome, WireError,
};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::sys::{self, FILES_MAX, OsError, Patience};

/// Other processes that may have a view of one arena at a time.
pub const PEERS_MAX: u32 = 16;

/// Descriptors that come with a peer's welcome: its pidfd and its slots.
const WELCOME_FILES: usize = 1 + SLOTS;
const _: () = assert!(WELCOME_FILES <= FILES_MAX);
/// The connection, the peer's pidfd, its slots.
const WAITED: usize = 2 + SLOTS;

/// Why an arena could not be shared with another process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShareError {
    /// No start is known: give `map_extra` or set the window first.
    #[error("the arena has no user window")]
    NoWindow,
    /// A child made by fork has no arena.
    #[error("the arena belongs to another process")]
    Forked,
    /// [`PEERS_MAX`] others have a view.
    #[error("{PEERS_MAX} processes have a view of the arena already")]
    TooManyPeers,
    /// A peer would reach more pages than were allocated.
    #[error("memory files have huge pages here: set transparent_hugepage/shmem_enabled to never")]
    HugePages,
    /// The other side closed the connection.
    #[error("the other process is gone")]
    PeerGone,
    /// The other side could not map the arena.
    #[error("the other process could not map the arena: errno {errno}")]
    Refused {
        /// Its error number: `EBUSY` if something lies at the arena's addresses.
        errno: i32,
    },
    /// The other side said something else than it should.
    #[error("the other process")]
    Nonsense(#[source] WireError),
    /// The system refused.
    #[error("sharing an arena")]
    Os(#[source] OsError),
}

/// Why a link ended that the peer did not leave in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkError {
    /// The process ended, or let go of its connection.
    #[error("the other process is gone")]
    PeerGone,
    /// It said something else than it should.
    #[error("the other process")]
    Nonsense(#[source] WireError),
    /// A child made by fork has no arena.
    #[error("the arena belongs to another process")]
    Forked,
    /// The system refused.
    #[error("serving another process")]
    Os(#[source] OsError),
}

/// The owner's end of another process's view. While nobody serves it, that process waits at
/// its first touches; when it is dropped, they crash it.
#[must_use = "the other process waits until it is served"]
#[derive(Debug)]
pub struct PeerLink {
    arena: Arc<Arena>,
    connection: Arc<Connection>,
    process: OwnedFd,
    slots: [OwnedFd; SLOTS],
    _seat: Seat,
}

/// Ends a link from another thread than the one that serves it.
#[derive(Clone, Debug)]
pub struct LinkCloser {
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    closed: AtomicBool,
}

/// One of the arena's [`PEERS_MAX`] places.
#[derive(Debug)]
struct Seat(Arc<Arena>);

impl Seat {
    fn take(arena: &Arc<Arena>) -> Option<Self> {
        let one_more = |peers: u32| peers.checked_add(1).filter(|sum| *sum <= PEERS_MAX);
        // Relaxed: a count, which orders nothing.
        let taken = arena
            .shared
            .peers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Self(Arc::clone(arena)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.shared.peers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Arena {
    /// Hands the arena's memory to the process at the other end of `socket`, which calls
    /// [`crate::UserView::attach`]. Waits for its answer: give the socket a read timeout if it
    /// may not come. Then let a thread of its own [`PeerLink::serve`] the peer.
    pub fn share_user(self: &Arc<Self>, socket: UnixStream) -> Result<PeerLink, ShareError> {
        let placed = self.shared.placed.get().ok_or(ShareError::NoWindow)?;
        if !self.shared.is_owner() {
            return Err(ShareError::Forked);
        }
        let seat = Seat::take(self).ok_or(ShareError::TooManyPeers)?;
        if sys::files_have_huge_pages().map_err(ShareError::Os)? {
            return Err(ShareError::HugePages);
        }
        let hello = Hello {
            map_flags: self.spec().map_flags,
            user_start: placed.user_start,
            byte_size: self.spec().byte_size(),
        };
        let this_process = sys::this_process().map_err(ShareError::Os)?;
        self.shared.set_file_shared();
        let files = [self.shared.file.as_fd(), this_process.as_fd()];
        sys::send_files(socket.as_fd(), &hello.encode(), &files).map_err(gone_or_os)?;
        let (process, slots) = welcome(&socket)?;
        Ok(PeerLink {
            arena: Arc::clone(self),
            connection: Arc::new(Connection {
                socket,
                closed: AtomicBool::new(false),
            }),
            process,
            slots,
            _seat: seat,
        })
    }

    /// Other processes that have a view now.
    #[must_use]
    pub fn peer_count(&self) -> u32 {
        self.shared.peers.load(Ordering::Relaxed)
    }

    /// What becomes of a peer's touch of a page of the window.
    pub(super) fn serve_touch(&self, touch: Touch) -> Answer {
        let Some(placed) = self.shared.placed.get() else {
            return Answer::Segv;
        };
        // Held until the page is in the file: see the header.
        let Ok(space) = self.space.lock(sys::thread_key()) else {
            return Answer::Again;
        };
        let offset = u64::from(touch.page) * PAGE_SIZE;
        let address = placed.user_start.checked_add(offset);
        let allocated = address.is_some_and(|address| self.touch_user(address).is_ok());
        // The memory may be lacking, as at the byte limit.
        let there = allocated && self.shared.file.populate(offset, PAGE_SIZE).is_ok();
        drop(space);
        if there { Answer::Ready } else { Answer::Segv }
    }
}

fn welcome(socket: &UnixStream) -> Result<(OwnedFd, [OwnedFd; SLOTS]), ShareError> {
    let mut bytes = [0; WELCOME_LEN];
    let mut files = Vec::with_capacity(WELCOME_FILES);
    let len = sys::receive_files(socket.as_fd(), &mut bytes, &mut files).map_err(gone_or_os)?;
    if len < WELCOME_LEN {
        return Err(ShareError::PeerGone);
    }
    let welcome = Welcome::decode(&bytes).map_err(ShareError::Nonsense)?;
    if welcome.errno != 0 {
        let errno = welcome.errno;
        return Err(ShareError::Refused { errno });
    }
    let expected = WELCOME_FILES;
    let count = files.len();
    let nonsense = ShareError::Nonsense(WireError::Files { count, expected });
    let mut files = files.into_iter();
    let process = files.next().ok_or(nonsense)?;
    let slots: Vec<OwnedFd> = files.collect();
    let slots = slots.try_into().map_err(|_wrong: Vec<OwnedFd>| nonsense)?;
    Ok((process, slots))
}

impl PeerLink {
    /// Serves the peer until it detaches, or until the link is closed; an error if it ends
    /// otherwise. Blocks: run it on a thread of its own.
    pub fn serve(self) -> Result<(), LinkError> {
        loop {
            let [connection, process, slots @ ..] =
                sys::wait(self.waited()).map_err(LinkError::Os)?;
            // Acquire: pairs with the Release in `close`.
            if self.connection.closed.load(Ordering::Acquire) {
                return Ok(());
            }
            if !self.arena.shared.is_owner() {
                return Err(LinkError::Forked);
            }
            if connection {
                return self.last_words();
            }
            for (slot, _) in self.slots.iter().zip(slots).filter(|(_, ready)| *ready) {
                self.serve_slot(slot.as_fd())?;
            }
            if process {
                return Err(LinkError::PeerGone);
            }
        }
    }

    /// A way to end the link while another thread serves it.
    #[must_use]
    pub fn closer(&self) -> LinkCloser {
        LinkCloser {
            connection: Arc::clone(&self.connection),
        }
    }

    fn waited(&self) -> [BorrowedFd<'_>; WAITED] {
        let first = [self.connection.socket.as_fd(), self.process.as_fd()];
        std::array::from_fn(|index| match first.get(index) {
            Some(file) => *file,
            None => self.slots[index - first.len()].as_fd(),
        })
    }

    fn last_words(&self) -> Result<(), LinkError> {
        let mut byte = [0];
        let socket = self.connection.socket.as_fd();
        let len = sys::receive(socket, &mut byte, Patience::DontWait).map_err(link_error)?;
        match (len, byte) {
            (0, _) => Err(LinkError::PeerGone),
            (_, [GOODBYE]) => Ok(()),
            (_, [kind]) => {
                let kind = u32::from(kind);
                Err(LinkError::Nonsense(WireError::Kind { kind, page: 0 }))
            }
        }
    }

    fn serve_slot(&self, slot: BorrowedFd<'_>) -> Result<(), LinkError> {
        let mut bytes = [0; PACKET_LEN];
        let len = sys::receive(slot, &mut bytes, Patience::DontWait).map_err(link_error)?;
        if len == 0 {
            return Err(LinkError::PeerGone);
        }
        let touch = Touch::decode(bytes, len, self.arena.spec().max_entries);
        let touch = touch.map_err(LinkError::Nonsense)?;
        let answer = self.arena.serve_touch(touch);
        let sent = sys::send(slot, &answer.encode(touch), Patience::DontWait);
        sent.map_err(|error| {
            if error.errno == Errno::EAGAIN as i32 {
                LinkError::Nonsense(WireError::Unread)
            } else {
                link_error(error)
            }
        })
    }
}

impl Drop for PeerLink {
    fn drop(&mut self) {
        // Closing is not enough where a child made by fork has the descriptors too. That child
        // must not end its parent's links.
        if self.arena.shared.is_owner() {
            for slot in &self.slots {
                sys::end(slot.as_fd());
            }
        }
    }
}

impl LinkCloser {
    /// Ends the link: [`PeerLink::serve`] returns. What the peer touches from then on crashes
    /// it, unless the page is there.
    pub fn close(&self) {
        // Release: who is woken by the end sees why; pairs with the Acquire in `serve`.
        self.connection.closed.store(true, Ordering::Release);
        sys::end(self.connection.socket.as_fd());
    }
}

fn gone_or_os(error: OsError) -> ShareError {
    if error.is_disconnect() {
        ShareError::PeerGone
    } else {
        ShareError::Os(error)
    }
}

fn link_error(error: OsError) -> LinkError {
    if error.is_disconnect() {
        LinkError::PeerGone
    } else {
        LinkError::Os(error)
    }
}
