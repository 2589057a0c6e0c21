//! Resource walls: limits of the process and forbidden system calls give an error at creation or
//! a documented fallback, never an abort. (The limit of mappings: see shortage.rs.)

use std::io::Write;
use std::os::unix::process::ExitStatusExt;

use harena_abi::Errno;
use harena_arena::{AllocError, Arena, ArenaSpec, CreateError, EntryState};

use crate::children::{
    self, Argument, DONE, Forbidden, GUARD_MARKERS, assert_exit, case, child, exit, forbid,
};
use crate::common::{UserMemory, arena, arena_with, offset, page, scope, spec, user};

const PAGES: u32 = 600;

fn set_limit(resource: libc::__rlimit_resource_t, bytes: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: valid for a write.
    let done = unsafe { libc::getrlimit(resource, &raw mut limit) };
    assert_eq!(done, 0);
    limit.rlim_cur = bytes.min(limit.rlim_max);
    // SAFETY: a valid limit, of this process only.
    let done = unsafe { libc::setrlimit(resource, &raw const limit) };
    assert_eq!(done, 0);
}

/// A line of `/proc/self/status` in bytes.
fn status_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
        * 1024
}

/// Everything works: alloc, fault, free, and a user's view.
fn assert_works(arena: &Arena) {
    let _scope = scope(arena);
    for round in 0..3 {
        let at = arena.alloc_pages(None, 5, 0).expect("pages are free");
        assert_eq!(at, user(0));
        arena.ptr::<u64>(offset(4, 0)).write(1);
        arena.ptr::<u64>(offset(PAGES - 1, 0)).write(2);
        assert_eq!(arena.ptr::<u64>(offset(4, 0)).read(), 1);
        assert_eq!(arena.entry_state(page(PAGES - 1)), EntryState::Scratch);
        arena.free_pages(user(0), PAGES).expect("they are there");
        assert_eq!(arena.entry_state(page(4)), EntryState::Empty);
        assert_eq!(arena.faults_recovered(), round + 1);
    }
}

fn os_error(refused: Result<Arena, CreateError>) -> harena_arena::OsError {
    match refused {
        Err(CreateError::Os(error)) => error,
        other => panic!("{other:?}"),
    }
}

// ---- memory --------------------------------------------------------------------------------

child!(child_address_space, {
    // From nothing to more than enough: each step is an arena or an error.
    let now = status_bytes("VmSize:");
    let (mut refused, mut made) = (0, 0);
    for step in 0..60u64 {
        // Fine steps at the start of what is needed behind the 4 GiB, coarse ones before.
        let more = if step < 10 {
            step << 29
        } else {
            (4 << 30) + ((step - 10) << 20)
        };
        set_limit(libc::RLIMIT_AS, now + more);
        match Arena::create(&spec(PAGES)) {
            Ok(arena) => {
                assert_works(&arena);
                made += 1;
            }
            Err(error) => {
                assert_eq!(error.errno(), Errno::ENOMEM);
                refused += 1;
            }
        }
    }
    assert!(refused >= 8, "{refused}");
    assert!(made >= 20, "{made}");
    exit(DONE);
});

child!(child_address_space_later, {
    let arena = arena(PAGES);
    // What an arena does later takes no more addresses.
    set_limit(libc::RLIMIT_AS, status_bytes("VmSize:"));
    assert_works(&arena);
    exit(DONE);
});

child!(child_data, {
    // Private writable memory is refused, as it may be with `vm.overcommit_memory=2`. An arena
    // has 20 MiB of it, of which this limit does not count the last 8, since they replace
    // addresses that were reserved before.
    for more in [1 << 20, 8 << 20] {
        set_limit(libc::RLIMIT_DATA, status_bytes("VmData:") + more);
        let error = os_error(Arena::create(&spec(PAGES)));
        assert_eq!((error.call, error.errno), ("mmap", libc::ENOMEM));
    }
    set_limit(libc::RLIMIT_DATA, status_bytes("VmData:") + (16 << 20));
    assert_works(&arena(PAGES));
    exit(DONE);
});

child!(child_claims, {
    // The list of claims of 4 GiB is 8 MiB, which is refused rather than aborted for.
    let arena = arena(1 << 20);
    set_limit(libc::RLIMIT_DATA, status_bytes("VmData:") + (1 << 20));
    let refused = arena.alloc_pages(None, 1 << 20, 0);
    let Err(AllocError::Os(error)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((error.call, error.errno), ("allocation", libc::ENOMEM));
    assert_eq!(arena.pages_in_use(), 0);
    arena.alloc_pages(None, 100, 0).expect("a short list");
    arena.free_pages(user(0), 1 << 20).expect("bounded lists");
    exit(DONE);
});

#[test]
fn limits_of_memory_give_errors() {
    for name in ["address_space", "address_space_later", "data", "claims"] {
        assert_exit(&format!("walls::child_{name}"), DONE);
    }
}

// ---- files ---------------------------------------------------------------------------------

child!(child_files, {
    // Two descriptors an arena: its pages, and its scratch page.
    set_limit(libc::RLIMIT_NOFILE, 16);
    let mut arenas = Vec::new();
    let error = loop {
        match Arena::create(&spec(16)) {
            Ok(arena) => arenas.push(arena),
            Err(error) => break os_error(Err(error)),
        }
        assert!(arenas.len() < 16);
    };
    assert_eq!((error.call, error.errno), ("memfd_create", libc::EMFILE));
    assert!(arenas.len() >= 4, "{}", arenas.len());
    arenas.pop();
    assert_works(&arena(PAGES));
    exit(DONE);
});

child!(child_file_size, {
    // Beyond this limit a truncation raises SIGXFSZ, which ends a process.
    set_limit(libc::RLIMIT_FSIZE, 100 * 4096);
    let error = os_error(Arena::create(&spec(101)));
    assert_eq!((error.call, error.errno), ("ftruncate", libc::EFBIG));
    drop(arena(100));
    exit(DONE);
});

#[test]
fn limits_of_files_give_errors() {
    assert_exit("walls::child_files", DONE);
    assert_exit("walls::child_file_size", DONE);
}

// ---- forbidden system calls ----------------------------------------------------------------

/// What a container may forbid, and whether an arena can do without.
const FORBIDDEN: [(&str, Forbidden, Need); 8] = [
    (
        "memfd_create",
        always(libc::SYS_memfd_create, libc::EPERM),
        Need::Creation,
    ),
    (
        "ftruncate",
        always(libc::SYS_ftruncate, libc::EPERM),
        Need::Creation,
    ),
    ("mmap", always(libc::SYS_mmap, libc::ENOMEM), Need::Creation),
    (
        "madvise",
        always(libc::SYS_madvise, libc::EPERM),
        Need::Creation,
    ),
    (
        "userfaultfd",
        always(libc::SYS_userfaultfd, libc::EPERM),
        Need::Nothing,
    ),
    ("guard markers", GUARD_MARKERS, Need::Nothing),
    ("mprotect(PROT_EXEC)", MPROTECT_EXEC, Need::Nothing),
    (
        "fallocate",
        always(libc::SYS_fallocate, libc::EPERM),
        Need::Free,
    ),
];

const EXEC: u64 = libc::PROT_EXEC as u64;
const MPROTECT_EXEC: Forbidden = Forbidden {
    call: libc::SYS_mprotect,
    only: Some(Argument {
        index: 2,
        mask: EXEC,
        value: EXEC,
    }),
    errno: libc::EACCES,
};

/// What needs the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    Nothing,
    Creation,
    Free,
}

const fn always(call: libc::c_long, errno: i32) -> Forbidden {
    Forbidden {
        call,
        only: None,
        errno,
    }
}

child!(child_forbidden, {
    let case = case();
    let rows = FORBIDDEN.into_iter();
    let (_, what, need) = rows
        .clone()
        .find(|(name, ..)| *name == case)
        .expect("a row");
    forbid(what);
    match need {
        Need::Nothing => assert_works(&arena(PAGES)),
        Need::Creation => {
            let error = os_error(Arena::create(&spec(PAGES)));
            assert_eq!(error.errno, what.errno, "{error}");
        }
        Need::Free => {
            let arena = arena(PAGES);
            arena.alloc_pages(None, 3, 0).expect("pages are free");
            arena.ptr::<u64>(offset(1, 0)).write(7);
            // Memory that cannot be given back stays allocated, with what it holds.
            assert!(arena.free_pages(user(0), 3).is_err());
            assert_eq!(arena.pages_in_use(), 3);
            assert_eq!(arena.ptr::<u64>(offset(1, 0)).read(), 7);
        }
    }
    exit(DONE);
});

#[test]
fn forbidden_system_calls_give_errors_or_are_done_without() {
    for (name, ..) in FORBIDDEN {
        let (status, shown) = children::run_case("walls::child_forbidden", name);
        assert_eq!(status.code(), Some(DONE), "{name}: {status}\n{shown}");
    }
}

// ---- locked memory -------------------------------------------------------------------------

fn lock_all(flags: libc::c_int) {
    // SAFETY: the call changes no memory.
    let done = unsafe { libc::mlockall(flags) };
    assert_eq!(done, 0, "as root, or with a limit");
}

fn with_view() -> Arena {
    let arena = arena_with(ArenaSpec {
        map_extra: 0x2000_0000_0000,
        ..spec(PAGES)
    });
    let base = arena.map_user().expect("the address is free");
    let view = UserMemory::new(base, PAGES as usize * 4096);
    view.write(7 * 4096, 7);
    assert_eq!(arena.ptr::<u64>(offset(7, 0)).read(), 7);
    arena.free_pages(user(7), 1).expect("it is there");
    arena
}

child!(child_locked, {
    // Locked before, in between and afterwards: guard markers are refused in locked memory.
    let early = arena(PAGES);
    assert_works(&early);
    let markers = early.has_guard_markers();
    lock_all(libc::MCL_CURRENT | libc::MCL_FUTURE);
    let late = arena(PAGES);
    assert_eq!(late.has_guard_markers(), markers);
    assert_works(&late);
    drop(with_view());
    let early = {
        let scope = scope(&early);
        early.alloc_pages(Some(user(2)), 2, 0).expect("it is free");
        early.ptr::<u64>(offset(550, 0)).write(1);
        early.free_pages(user(2), 1).expect("it is there");
        early.ptr::<u64>(offset(2, 0)).write(1);
        assert_eq!(early.entry_state(page(2)), EntryState::Scratch);
        drop(scope);
        early
    };
    // A storm: scratch is taken back in locked memory too.
    let _scope = scope(&early);
    for at in 0..PAGES {
        early.ptr::<u64>(offset(at, 0)).write(1);
    }
    assert!(early.scratch_count() <= harena_arena::SCRATCH_MAX);
    early.free_pages(user(0), PAGES).expect("all go");
    assert_eq!(early.pages_in_use(), 0);
    exit(DONE);
});

child!(child_locked_unprivileged, {
    lock_all(libc::MCL_FUTURE);
    set_limit(libc::RLIMIT_MEMLOCK, 64 << 20);
    // Without the privilege 4 GiB count against the limit.
    // SAFETY: takes integers only.
    let dropped = unsafe { libc::setresuid(65_534, 65_534, 65_534) };
    assert_eq!(dropped, 0);
    let error = os_error(Arena::create(&spec(PAGES)));
    assert_eq!((error.call, error.errno), ("mmap", libc::EAGAIN));
    exit(DONE);
});

fn is_root() -> bool {
    // SAFETY: the function has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn arenas_work_in_a_process_that_locks_its_memory() {
    if is_root() {
        assert_exit("walls::child_locked", DONE);
        assert_exit("walls::child_locked_unprivileged", DONE);
    } else {
        eprintln!("skipped: mlockall of an arena needs a privilege");
    }
}

// ---- a cgroup ------------------------------------------------------------------------------

const CGROUP_BYTES: u64 = 64 << 20;

child!(child_cgroup, {
    // With a byte limit below the cgroup's, the arena's own limit is met first.
    let arena = arena_with(ArenaSpec {
        byte_limit: Some(CGROUP_BYTES / 4),
        ..spec(1 << 20)
    });
    let limit = u32::try_from(CGROUP_BYTES / 4 / 4096).expect("few pages");
    for at in 0..limit {
        arena
            .alloc_pages(Some(user(at * 3)), 1, 0)
            .expect("below the limit");
        arena.ptr::<u64>(offset(at * 3, 0)).write(1);
    }
    let full = Err(AllocError::Limit { page_cnt: 1 });
    assert_eq!(arena.alloc_pages(None, 1, 0), full);
    // Faults do not use memory.
    let _scope = scope(&arena);
    for at in 0..20_000u32 {
        arena.ptr::<u64>(offset(at * 50 + 1, 0)).write(1);
    }
    assert_eq!(arena.pages_in_use(), limit);
    exit(DONE);
});

child!(child_cgroup_without_limit, {
    let arena = arena(1 << 20);
    for at in 0..1 << 20 {
        arena.alloc_pages(Some(user(at)), 1, 0).expect("no limit");
        arena.ptr::<u64>(offset(at, 0)).write(1);
    }
});

/// Where the memory controller may be, and its files for a limit of memory and of swap: version
/// 1 has a hierarchy of its own, version 2 one for all controllers.
const HIERARCHIES: [(&str, &str, &str); 2] = [
    (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
    ),
    ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
];

/// A memory cgroup for one child.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    /// A group, or why there is none: no privilege, or a controller that is not handed down.
    fn new() -> std::io::Result<Self> {
        let [first, second] = HIERARCHIES.map(|hierarchy| move || Self::in_hierarchy(hierarchy));
        first().or_else(|_| second())
    }

    fn in_hierarchy((root, memory, swap): (&str, &str, &str)) -> std::io::Result<Self> {
        let name = format!("harena-test-{}", std::process::id());
        let path = std::path::Path::new(root).join(name);
        std::fs::create_dir(&path)?;
        let made = Self(path);
        // Not created: in a hierarchy without the controller the file is not there.
        let set = |file, bytes: u64| {
            let file = std::fs::File::options().write(true).open(made.0.join(file));
            file.and_then(|mut file| file.write_all(bytes.to_string().as_bytes()))
        };
        set(memory, CGROUP_BYTES)?;
        // Version 1 limits the sum of both. Without accounting of swap neither file is there.
        let swap_bytes = if swap == "memory.swap.max" {
            0
        } else {
            CGROUP_BYTES
        };
        if let Err(error) = set(swap, swap_bytes) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
        Ok(made)
    }

    /// Runs a child in it, by way of a shell that joins first.
    fn run(&self, name: &str) -> std::process::ExitStatus {
        let child = children::command(name);
        let mut shell = std::process::Command::new("/bin/sh");
        let script = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";
        shell.args(["-c", script, "sh"]).arg(&self.0);
        shell.arg(child.get_program()).args(child.get_args());
        shell.output().expect("a shell is there").status
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel empties it a moment after the child is gone. One that stays harms nobody.
        for _ in 0..500 {
            let busy = std::fs::remove_dir(&self.0)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy);
            if !busy {
                return;
            }
            std::thread::sleep(core::time::Duration::from_millis(10));
        }
    }
}

#[test]
fn a_byte_limit_keeps_an_arena_within_its_cgroup() {
    let cgroup = match Cgroup::new() {
        Ok(cgroup) => cgroup,
        Err(error) => return eprintln!("skipped: no memory cgroup can be made here: {error}"),
    };
    let status = cgroup.run("walls::child_cgroup");
    assert_eq!(status.code(), Some(DONE), "{status}");
    // Documented: without a byte limit the kernel kills the process.
    let status = cgroup.run("walls::child_cgroup_without_limit");
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
}
