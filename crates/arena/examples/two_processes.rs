//! An arena that another process uses too.
//!
//! `cargo run -p harena-arena --example two_processes`
//!
//! The first process owns the arena. It starts itself again as the second one, hands it the
//! arena through a socket (the second one's standard input), and serves its first touches on
//! a thread of its own. The two build one linked list: its pointers are user addresses, which
//! both can follow.
#![expect(clippy::print_stdout, reason = "it shows what happens")]

use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use harena_abi::bpf::BPF_F_MMAPABLE;
use harena_abi::{ArenaOffset, Cpu, UserAddr};
use harena_arena::{
    Arena, ArenaPtr, ArenaSpec, ProgramScope, ProgramTag, ScopeError, UserPtr, UserView,
};

const USER_VM_START: u64 = 0x1000_0000_0000;
const PAGE: u64 = 4096;
/// The first page: whose turn it is, and the head of the list. A node is the address of the
/// next one, and a value.
const TURN: u64 = 0;
const HEAD: u64 = 8;
const OWNERS: u64 = 0;
const PEERS: u64 = 1;
const VALUE: u64 = 8;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("second") => second(),
        Some(other) => Err(format!("unknown argument `{other}`").into()),
        None => first(Command::new(std::env::current_exe()?).arg("second")),
    }
}

/// An error is a surprise.
fn ensure(holds: bool, what: &str) -> Result<(), Box<dyn Error>> {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn at(offset: u64) -> UserAddr {
    UserAddr::new(USER_VM_START + offset)
}

/// The owner's part; `second` starts a process that plays the other one.
pub(crate) fn first(second: &mut Command) -> Result<(), Box<dyn Error>> {
    let arena = Arc::new(Arena::create(&ArenaSpec {
        max_entries: 100,
        map_flags: BPF_F_MMAPABLE,
        map_extra: USER_VM_START,
        ..ArenaSpec::default()
    })?);
    arena.alloc_pages(Some(at(0)), 1, 0)?;
    // Two nodes of the owner's: 20 behind 10.
    let pages = arena.alloc_pages(None, 2, 0)?.raw() - USER_VM_START;
    let word = |offset: u64| host(&arena, at(offset));
    word(pages).write(at(pages + PAGE).raw());
    word(pages + VALUE).write(10);
    word(pages + PAGE + VALUE).write(20);
    word(HEAD).write(at(pages).raw());
    println!("first:  two nodes, {} pages in use", arena.pages_in_use());

    let (ours, theirs) = UnixStream::pair()?;
    let mut second = second.stdin(OwnedFd::from(theirs)).spawn()?;
    let shared = share(&arena, ours);
    if shared.is_err() {
        // It may wait for its turn for ever.
        second.kill()?;
    }
    let status = second.wait()?;
    shared?;
    println!("first:  the second process has left ({status})");
    ensure(status.success(), "the second process met no surprise")
}

/// Serves the other process and takes turns with it until it has left.
fn share(arena: &Arc<Arena>, socket: UnixStream) -> Result<(), Box<dyn Error>> {
    let link = arena.share_user(socket)?;
    println!("first:  {} process has a view", arena.peer_count());

    let closer = link.closer();
    std::thread::scope(|threads| {
        let served = threads.spawn(|| link.serve());
        let turns = take_turns(arena, || served.is_finished());
        if turns.is_err() {
            closer.close();
        }
        served.join().expect("serving does not panic")?;
        turns
    })
}

/// Lets the other process append to the list, and frees a page that it has used. Should the
/// other process end, so does its link.
fn take_turns(arena: &Arena, has_ended: impl Fn() -> bool) -> Result<(), Box<dyn Error>> {
    let turn = host(arena, at(TURN));
    let peers_turn = || turn.store(PEERS, Ordering::Release).expect("aligned");
    peers_turn();
    while turn.load(Ordering::Acquire) == Some(PEERS) && !has_ended() {
        std::thread::yield_now();
    }
    let values = list(arena)?;
    println!(
        "first:  the list is {values:?} now, {} pages in use",
        arena.pages_in_use()
    );
    ensure(
        values == [10, 20, 30],
        "the peer's node is behind the owner's",
    )?;
    // The second process looks at page 50, which it has used: it is gone, and new.
    arena.free_pages(at(50 * PAGE), 1)?;
    println!("first:  page 50 is freed, {} in use", arena.pages_in_use());
    peers_turn();
    Ok(())
}

/// A word of the arena as its owner sees it.
fn host(arena: &Arena, address: UserAddr) -> ArenaPtr<'_, u64> {
    arena.ptr(ArenaOffset::of(address))
}

/// The values of the list. Another process wrote part of it: its length is bounded here, and a
/// pointer to nowhere would be recovered, since this runs as a program does.
fn list(arena: &Arena) -> Result<Vec<u64>, ScopeError> {
    let _scope = ProgramScope::enter(ProgramTag::new(1), Some(arena), Cpu::new(0))?;
    let next = |address: u64| Some(host(arena, UserAddr::new(address)).read());
    let head = host(arena, at(HEAD)).read();
    let values = std::iter::successors(Some(head), |node| next(*node))
        .take_while(|node| *node != 0)
        .take(100)
        .filter_map(|node| UserAddr::new(node).checked_add(VALUE))
        .map(|value| host(arena, value).read())
        .collect();
    Ok(values)
}

/// The other process's part; its standard input is the socket.
pub(crate) fn second() -> Result<(), Box<dyn Error>> {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let view = UserView::attach(socket)?;
    println!("second: attached at {}", view.user_vm_start());
    my_turn(&view)?;
    // Follows the owner's pointers to the end, and appends a node on a page that nobody has
    // allocated: touching it does.
    let mut last = word(&view, at(HEAD))?;
    while last.read() != 0 {
        let node = UserAddr::new(last.read());
        let value = node.checked_add(VALUE).ok_or("a pointer out of the view")?;
        println!("second: found {} at {node}", word(&view, value)?.read());
        last = word(&view, node)?;
    }
    word(&view, at(50 * PAGE + VALUE))?.write(30);
    last.write(at(50 * PAGE).raw());
    println!("second: appended 30 at {}", at(50 * PAGE));
    give_turn(&view)?;
    my_turn(&view)?;
    let value = word(&view, at(50 * PAGE + VALUE))?.read();
    println!("second: the freed page reads {value}");
    ensure(value == 0, "a page that was freed comes back zeroed")
}

/// A word of the arena as the other process sees it.
fn word(view: &UserView, address: UserAddr) -> Result<UserPtr<'_, u64>, Box<dyn Error>> {
    view.ptr(address)
        .ok_or_else(|| format!("{address} is not in the view").into())
}

fn my_turn(view: &UserView) -> Result<(), Box<dyn Error>> {
    while word(view, at(TURN))?.load(Ordering::Acquire) != Some(PEERS) {
        std::thread::yield_now();
    }
    Ok(())
}

fn give_turn(view: &UserView) -> Result<(), Box<dyn Error>> {
    let turn = word(view, at(TURN))?;
    turn.store(OWNERS, Ordering::Release)
        .ok_or("an aligned word")?;
    Ok(())
}
