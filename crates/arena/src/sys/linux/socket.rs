//! Messages between an arena's owner and the processes that have a view of it.
//!
//! [`send`], [`receive`], [`wait`] and [`Tokens`] are used by the fault handler: each is one
//! system call (again if a signal interrupted it), which allocates nothing and leaves `errno`
//! alone. The others set a link up.

// As in `harena_arena_fault`: the handler runs through here and must not panic.
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::sys::OsError;
use crate::sys::linux::memory::os_error;

/// Descriptors that one message may carry.
pub(crate) const FILES_MAX: usize = 16;

/// Whether a call may wait for the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    /// Until something happens.
    Wait,
    /// Not at all.
    DontWait,
}

/// Sends one message; a vanished receiver is an error, not a signal.
pub(crate) fn send(to: BorrowedFd<'_>, bytes: &[u8], patience: Patience) -> Result<(), OsError> {
    let flags = match patience {
        Patience::Wait => SendFlags::NOSIGNAL,
        Patience::DontWait => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    };
    let sent = again(|| rustix::net::send(to, bytes, flags));
    whole("send", bytes.len(), sent)
}

/// Receives one message, or what there is of a stream: its bytes, of which those that do not
/// fit are dropped. 0 is the end.
pub(crate) fn receive(
    from: BorrowedFd<'_>,
    bytes: &mut [u8],
    patience: Patience,
) -> Result<usize, OsError> {
    let flags = match patience {
        Patience::Wait => RecvFlags::TRUNC,
        Patience::DontWait => RecvFlags::TRUNC | RecvFlags::DONTWAIT,
    };
    let len = bytes.len();
    let got = again(|| rustix::net::recv(from, &mut *bytes, flags).map(|(_, actual)| actual));
    got.map_err(|error| os_error("recv", len, error))
}

/// Waits until something can be read, or has ended, on at least one of `files`; says on which.
pub(crate) fn wait<const N: usize>(files: [BorrowedFd<'_>; N]) -> Result<[bool; N], OsError> {
    let mut polled = files.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
    again(|| poll(&mut polled, None)).map_err(|error| os_error("poll", N, error))?;
    Ok(polled.map(|file| !file.revents().is_empty()))
}

/// Sends a message with descriptors.
pub(crate) fn send_files(
    to: BorrowedFd<'_>,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
) -> Result<(), OsError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(files)));
    let sent = again(|| {
        rustix::net::sendmsg(
            to,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    });
    whole("sendmsg", bytes.len(), sent)
}

/// Receives exactly `bytes` and what descriptors come with them; fewer bytes are the end.
pub(crate) fn receive_files(
    from: BorrowedFd<'_>,
    bytes: &mut [u8],
    files: &mut Vec<OwnedFd>,
) -> Result<usize, OsError> {
    let len = bytes.len();
    let mut got = 0;
    while got < len {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let rest = bytes.get_mut(got..).unwrap_or_default();
        let received = again(|| {
            let rest = &mut [IoSliceMut::new(rest)];
            rustix::net::recvmsg(from, rest, &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let received = received.map_err(|error| os_error("recvmsg", len, error))?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
        if received.bytes == 0 {
            break;
        }
        got = got.saturating_add(received.bytes);
    }
    Ok(got)
}

/// Two ends of a connection that keeps the bounds of messages.
pub(crate) fn packet_pair() -> Result<(OwnedFd, OwnedFd), OsError> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| os_error("socketpair", 0, error))
}

/// Ends a connection for everybody who has it; who waits on it is woken.
pub(crate) fn end(socket: BorrowedFd<'_>) {
    // Refused only where nothing is connected any more.
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}

/// A descriptor of this process that becomes readable when the process ends.
pub(crate) fn this_process() -> Result<OwnedFd, OsError> {
    pidfd_open(getpid(), PidfdFlags::empty()).map_err(|error| os_error("pidfd_open", 0, error))
}

/// Numbers that lie in a pipe; who takes one out has it until he puts it back. Who finds none
/// sleeps in the kernel. So it may be used by signal handlers.
#[derive(Debug)]
pub(crate) struct Tokens {
    out: OwnedFd,
    into: OwnedFd,
}

impl Tokens {
    /// The numbers below `count`.
    pub(crate) fn new(count: u8) -> Result<Self, OsError> {
        let (out, into) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| os_error("pipe2", 0, error))?;
        let tokens = Self { out, into };
        (0..count).try_for_each(|token| tokens.put_back(token))?;
        Ok(tokens)
    }

    /// Takes a number, or waits for one.
    pub(crate) fn take(&self) -> Result<u8, OsError> {
        let mut token = [0];
        let got = again(|| rustix::io::read(&self.out, &mut token));
        whole("read", 1, got)?;
        Ok(token[0])
    }

    /// Puts a number back. Never waits: the pipe has room for all there are.
    pub(crate) fn put_back(&self, token: u8) -> Result<(), OsError> {
        let put = again(|| rustix::io::write(&self.into, &[token]));
        whole("write", 1, put)
    }
}

fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// A message goes whole or not at all.
fn whole(call: &'static str, len: usize, done: Result<usize, Errno>) -> Result<(), OsError> {
    match done {
        Ok(bytes) if bytes == len => Ok(()),
        Ok(_) => Err(os_error(call, len, Errno::IO)),
        Err(error) => Err(os_error(call, len, error)),
    }
}
