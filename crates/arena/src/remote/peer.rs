//! The other process's side: its view of an arena, and what a touch of an absent page does.
//!
//! The view is one mapping of the whole window, readable and writable, at the arena's user
//! addresses; it is made once, and there is no call that splits, moves or resizes it. Until
//! touches of absent pages are watched it is inaccessible, so that no stray touch can put a
//! page into the file.
//!
//! [`Remote::touch`] runs in the fault handler: system calls on descriptors that were opened
//! when the view was made, nothing else. Why that is safe is argued in `mod.rs`.

// As in `harena_arena_fault`: the handler runs through here and must not panic.
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use harena_abi::{Errno, PAGE_SIZE, UserAddr};
use harena_arena_fault::{ArenaId, REGISTRY};

use crate::remote::wire::{
    Answer, GOODBYE, HELLO_LEN, Hello, PACKET_LEN, Touch, Welcome, WireError,
};
use crate::remote::{SLOT_COUNT, SLOTS};
use crate::spec::ArenaSpec;
use crate::sys::{
    self, AddressRange, FaultSignal, MemFile, OsError, PAGE, Patience, Protection, Span, Tokens,
    Watch,
};

/// Descriptors that come with the owner's hello: the memory file and its pidfd.
const HELLO_FILES: usize = 2;

/// Why this process could not get a view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AttachError {
    /// The other side closed the connection.
    #[error("the arena's owner is gone")]
    OwnerGone,
    /// The other side said something else than it should.
    #[error("the arena's owner")]
    Nonsense(#[source] WireError),
    /// No arena has such a window.
    #[error("a user window of {byte_size:#x} bytes at {start}, map_flags {map_flags:#x}")]
    Geometry {
        /// `user_vm_start`, as received.
        start: UserAddr,
        /// As received.
        byte_size: u64,
        /// As received.
        map_flags: u32,
    },
    /// Something lies at the arena's addresses, perhaps a view of it.
    #[error("addresses from {start} are in use")]
    Busy {
        /// `user_vm_start`.
        start: UserAddr,
    },
    /// Touches of absent pages cannot be watched.
    #[error("userfaultfd is needed: Linux 5.11, and a sandbox that allows the call")]
    Watch(#[source] OsError),
    /// Too many arenas and views are alive in this process.
    #[error("too many arenas and views in this process")]
    TooManyViews,
    /// The system refused.
    #[error("view of another process's arena")]
    Os(#[source] OsError),
}

impl AttachError {
    /// The error number that `mmap` would give.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::OwnerGone | Self::Nonsense(_) | Self::Geometry { .. } => Errno::EINVAL,
            Self::Busy { .. } => Errno::EBUSY,
            Self::Watch(_) => Errno::EOPNOTSUPP,
            Self::TooManyViews | Self::Os(_) => Errno::ENOMEM,
        }
    }
}

/// A view of an arena that lives in another process: its pages, at the addresses that pointers
/// in the arena name. A first touch allocates the page in the arena, or is a `SIGSEGV`; so is
/// a touch at the arena's limit. When the owner is gone, pages that were there stay, and a
/// touch of another one ends the process with `SIGBUS`.
///
/// A child made by fork does not have the view. System calls (`read` into the view) do not
/// allocate, but fail with `EFAULT`.
#[derive(Debug)]
pub struct UserView {
    id: ArenaId,
    map_flags: u32,
    /// In an `Arc` for its stable address, which the registry knows.
    remote: Arc<Remote>,
}

/// What the fault handler needs to know. Its address is what the registry hands to it.
#[derive(Debug)]
pub(crate) struct Remote {
    range: AddressRange,
    _watch: Watch,
    /// A child made by fork has our memory, but neither the view nor a say.
    process: i32,
    socket: UnixStream,
    owner: OwnedFd,
    slots: [OwnedFd; SLOTS],
    free_slots: Tokens,
}

/// What became of a touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touched {
    /// Run the instruction again.
    Again,
    /// The owner refuses: a SIGSEGV.
    Segv,
    /// Nobody can serve it.
    NoOwner,
}

impl UserView {
    /// Maps the arena whose owner is at the other end of `socket`, having called
    /// [`crate::Arena::share_user`]. Something else at its addresses, such as a view that this
    /// process has already, is `EBUSY`.
    pub fn attach(socket: UnixStream) -> Result<Self, AttachError> {
        match receive_hello(&socket) {
            Ok((hello, files)) => {
                let told = socket.try_clone();
                let done = Self::attach_to(hello, files, socket);
                if let (Err(error), Ok(socket)) = (&done, told) {
                    refuse(&socket, *error);
                }
                done
            }
            Err(error) => {
                refuse(&socket, error);
                Err(error)
            }
        }
    }

    fn attach_to(
        hello: Hello,
        [memory, owner]: [OwnedFd; HELLO_FILES],
        socket: UnixStream,
    ) -> Result<Self, AttachError> {
        let (range, watch) = map(hello, memory)?;
        let this_process = sys::this_process().map_err(AttachError::Os)?;
        let (slots, theirs) = slots()?;
        let remote = Arc::new(Remote {
            range,
            _watch: watch,
            process: sys::process_id(),
            socket,
            owner,
            slots,
            free_slots: Tokens::new(SLOT_COUNT).map_err(AttachError::Os)?,
        });
        let payload = Arc::as_ptr(&remote).cast_mut().cast::<()>();
        let start = remote.range.base().expose_provenance();
        let id = REGISTRY
            .publish_view(start, remote.range.len(), payload)
            .ok_or(AttachError::TooManyViews)?;
        let files = std::iter::once(&this_process).chain(&theirs);
        let files: Vec<BorrowedFd<'_>> = files.map(AsFd::as_fd).collect();
        // Published before: see `uninstall_handler`.
        let installed = sys::install_handler(FaultSignal::Bus).map_err(AttachError::Os);
        let welcomed = installed.and_then(|()| {
            let welcome = Welcome { errno: 0 }.encode();
            sys::send_files(remote.socket.as_fd(), &welcome, &files).map_err(gone_or_os)
        });
        if let Err(error) = welcomed {
            // Without a word to the owner, who waits for a welcome: it gets a refusal.
            REGISTRY.retire(id);
            return Err(error);
        }
        Ok(Self {
            id,
            map_flags: hello.map_flags,
            remote,
        })
    }

    /// The first address.
    #[must_use]
    pub fn user_vm_start(&self) -> UserAddr {
        UserAddr::new(self.remote.range.base().addr() as u64)
    }

    /// Bytes of the window.
    #[must_use]
    pub fn byte_size(&self) -> u64 {
        self.remote.range.len() as u64
    }

    /// The arena's `BPF_F_*`.
    #[must_use]
    pub fn map_flags(&self) -> u32 {
        self.map_flags
    }

    /// The first byte. Others change what lies there: read and write it through
    /// [`UserView::ptr`], or volatile or atomic; never make a reference.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.remote.range.base()
    }
}

impl Drop for UserView {
    fn drop(&mut self) {
        if self.remote.process != sys::process_id() {
            // The child of a fork: the connection is its parent's, and there is no mapping. What
            // the registry points to must stay (see `Arena::drop`).
            REGISTRY.abandon(self.id);
            let _for_ever = Arc::into_raw(Arc::clone(&self.remote));
            return;
        }
        // Before the slots end, so that the owner finds it first. It may be gone already.
        let socket = self.remote.socket.as_fd();
        let _ = sys::send(socket, &[GOODBYE], Patience::DontWait);
        // Handlers that wait for the owner stop; `retire` waits for them.
        for slot in &self.remote.slots {
            sys::end(slot.as_fd());
        }
        REGISTRY.retire(self.id);
    }
}

impl Remote {
    /// Called by the fault handler: the page at `offset` was touched and the file lacks it.
    pub(crate) fn touch(&self, offset: usize) -> Touched {
        let Ok(page) = u32::try_from(offset / PAGE) else {
            return Touched::NoOwner;
        };
        if self.process != sys::process_id() {
            return Touched::NoOwner;
        }
        let Ok(slot) = self.free_slots.take() else {
            return Touched::NoOwner;
        };
        let answer = self.ask(usize::from(slot), Touch { page });
        if self.free_slots.put_back(slot).is_err() {
            return Touched::NoOwner;
        }
        match answer {
            Some(Answer::Ready | Answer::Again) => Touched::Again,
            Some(Answer::Segv) => Touched::Segv,
            None => Touched::NoOwner,
        }
    }

    /// The owner's answer, unless it is gone or talks nonsense.
    fn ask(&self, slot: usize, touch: Touch) -> Option<Answer> {
        let slot = self.slots.get(slot)?.as_fd();
        sys::send(slot, &touch.encode(), Patience::Wait).ok()?;
        let [answered, _owner_is_gone] = sys::wait([slot, self.owner.as_fd()]).ok()?;
        if !answered {
            return None;
        }
        let mut bytes = [0; PACKET_LEN];
        let len = sys::receive(slot, &mut bytes, Patience::DontWait).ok()?;
        Answer::decode(bytes, len, touch).ok()
    }
}

type Slots = [OwnedFd; SLOTS];

/// Both ends of all slots.
#[expect(clippy::expect_used, reason = "sets up; no handler comes here")]
fn slots() -> Result<(Slots, Slots), AttachError> {
    let mut ours = Vec::with_capacity(SLOTS);
    let mut theirs = Vec::with_capacity(SLOTS);
    for _ in 0..SLOTS {
        let (mine, other) = sys::packet_pair().map_err(AttachError::Os)?;
        ours.push(mine);
        theirs.push(other);
    }
    let all = |slots: Vec<OwnedFd>| Slots::try_from(slots).expect("one was pushed per slot");
    Ok((all(ours), all(theirs)))
}

fn receive_hello(socket: &UnixStream) -> Result<(Hello, [OwnedFd; HELLO_FILES]), AttachError> {
    let mut bytes = [0; HELLO_LEN];
    let mut files = Vec::with_capacity(HELLO_FILES);
    let len = sys::receive_files(socket.as_fd(), &mut bytes, &mut files).map_err(gone_or_os)?;
    if len < HELLO_LEN {
        return Err(AttachError::OwnerGone);
    }
    let hello = Hello::decode(&bytes).map_err(AttachError::Nonsense)?;
    let expected = HELLO_FILES;
    let count = files.len();
    let files = files.try_into().map_err(|_wrong: Vec<OwnedFd>| {
        AttachError::Nonsense(WireError::Files { count, expected })
    })?;
    Ok((hello, files))
}

/// Maps the file at the arena's addresses, watched.
fn map(hello: Hello, memory: OwnedFd) -> Result<(AddressRange, Watch), AttachError> {
    let Hello {
        map_flags,
        user_start: start,
        byte_size,
    } = hello;
    let geometry = AttachError::Geometry {
        start,
        byte_size,
        map_flags,
    };
    let spec = ArenaSpec {
        max_entries: u32::try_from(byte_size / PAGE_SIZE).unwrap_or(u32::MAX),
        map_flags,
        map_extra: start.raw(),
        ..ArenaSpec::default()
    };
    if start.is_null() || !byte_size.is_multiple_of(PAGE_SIZE) || spec.validate().is_err() {
        return Err(geometry);
    }
    let file = MemFile::adopt(memory, byte_size).map_err(AttachError::Os)?;
    let as_usize = |n: u64| usize::try_from(n).map_err(|_too_big| geometry);
    let (address, len) = (as_usize(start.raw())?, as_usize(byte_size)?);
    let range = AddressRange::reserve_at(address, len).map_err(|error| {
        if error.errno == Errno::EEXIST as i32 {
            AttachError::Busy { start }
        } else {
            AttachError::Os(error)
        }
    })?;
    let all = Span { offset: 0, len };
    range
        .map_file(all, &file, 0, Protection::None)
        .and_then(|()| range.dont_fork(all))
        .map_err(AttachError::Os)?;
    let watch = Watch::new(&range).map_err(AttachError::Watch)?;
    range
        .protect(all, Protection::ReadWrite)
        .map_err(AttachError::Os)?;
    Ok((range, watch))
}

/// Tells the owner; should it be gone, nobody wants to know.
fn refuse(socket: &UnixStream, error: AttachError) {
    let errno = error.errno() as i32;
    let _ = sys::send(
        socket.as_fd(),
        &Welcome { errno }.encode(),
        Patience::DontWait,
    );
}

fn gone_or_os(error: OsError) -> AttachError {
    if error.is_disconnect() {
        AttachError::OwnerGone
    } else {
        AttachError::Os(error)
    }
}
