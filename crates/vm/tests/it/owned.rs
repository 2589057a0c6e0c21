//! Objects of a program's own types: who owns them, the lists, trees and maps they are in, and what
//! a verifier refuses.
//!
//! What `owned.bpf.c` does was played on Linux 6.18 (x86-64, through libbpf), whose answers are
//! kept in `owned-linux-6.18.txt`: a call and its arguments, `r0`, and what it left in the context.

use std::fmt::Write as _;

use harena_bpf::{Contained, LinkedObject, ObjectFile, SpecialKind, link_objects};
use harena_vm::{Abort, MapId, Region, RunArgs, RunResult, UpdateFlags, Vm};

use super::objects::{CTX_SIZE, link, link_bytes, read};
use super::support::{KFUNCS, TestHost, config};

/// A test object in a machine of two CPUs.
pub(super) struct Machine {
    pub(super) vm: Vm,
    pub(super) host: TestHost,
    object: LinkedObject,
    maps: Vec<MapId>,
    progs: Vec<harena_vm::ProgId>,
    ctx: harena_abi::KernAddr,
}

impl Machine {
    pub(super) fn new(file: &str) -> Self {
        Self::of(link(file))
    }

    fn of(object: LinkedObject) -> Self {
        let mut vm = Vm::new(config(2)).expect("address space");
        let loaded = vm.load(&object, KFUNCS).expect("loads");
        assert_eq!(vm.jit_refused(), None);
        let ctx = vm.mem().alloc(Region::Contexts, CTX_SIZE, 8).expect("room");
        Self {
            vm,
            host: TestHost::default(),
            object,
            maps: loaded.maps,
            progs: loaded.programs,
            ctx,
        }
    }

    pub(super) fn map(&self, name: &str) -> MapId {
        let index = self.object.maps.iter().position(|map| map.name == name);
        self.maps[index.expect("it is there")]
    }

    pub(super) fn try_run(&mut self, name: &str, args: &[u64]) -> Result<RunResult, Abort> {
        let index = self.object.programs.iter().position(|p| p.name == name);
        let prog = self.progs[index.expect("it is there")];
        let mut words = [0; 16];
        words[..args.len()].copy_from_slice(args);
        self.vm.write_args(self.ctx, &words).expect("room");
        self.vm.run(prog, &RunArgs::new(self.ctx), &mut self.host)
    }

    /// r0 and what the program left in `out`.
    pub(super) fn run(&mut self, name: &str, args: &[u64]) -> (i32, [u64; 12]) {
        let ret = self.try_run(name, args).expect("ends").ret;
        let mut out = [0; 12];
        for (word, n) in out.iter_mut().zip(4..) {
            let at = self.ctx.checked_add(n * 8).expect("inside");
            *word = self.vm.mem().read_u64(at).expect("the context");
        }
        let ret = u32::try_from(ret & 0xffff_ffff).expect("the low half");
        (ret.cast_signed(), out)
    }

    pub(super) fn error(&mut self, name: &str, args: &[u64]) -> String {
        let error = self.try_run(name, args).expect_err(name);
        error.to_string()
    }

    /// Plays the calls of a transcript, and fails where an answer is another one.
    pub(super) fn replay(&mut self, transcript: &str) {
        for line in transcript.lines() {
            let (call, _) = line.split_once(": ").expect("a call and its answer");
            let mut parts = call.split(':');
            let name = parts.next().expect("a name");
            let args: Vec<u64> = parts.map(|arg| arg.parse().expect("a number")).collect();
            let (ret, out) = self.run(name, &args);
            let mut ours = format!("{call}: {ret}:");
            for word in out {
                write!(ours, " {word:x}").expect("a string has room");
            }
            assert_eq!(ours, line);
        }
    }
}

#[test]
fn objects_lists_trees_and_kptrs_do_what_linux_6_18_does() {
    let mut machine = Machine::new("owned");
    // Where the recorded machine ran the programs.
    machine.host.cpu = 1;
    machine.replay(include_str!("owned-linux-6.18.txt"));
}

#[test]
fn fields_say_what_they_hold_and_where_they_lie() {
    let object = link("owned");
    let named = |name: &str| object.maps.iter().find(|map| map.name == name).unwrap();
    let fields = |name: &str| {
        let fields = named(name).special_fields.iter();
        let kinds = fields.map(|field| (field.kind, field.offset));
        kinds.collect::<Vec<_>>()
    };
    use SpecialKind::{KptrPercpu, KptrRef, ListHead, RbRoot, SpinLock};
    assert_eq!(
        fields("shelves"),
        [
            (SpinLock, 8),
            (ListHead, 16),
            (KptrRef, 32),
            (KptrRef, 40),
            (KptrPercpu, 48)
        ]
    );
    // Visible variables have no place but in the symbol table.
    let mut kinds: Vec<_> = fields(".data.A").iter().map(|(kind, _)| *kind).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [SpinLock, ListHead, RbRoot]);
    let mut places: Vec<_> = fields(".data.A").iter().map(|(_, at)| *at).collect();
    places.dedup();
    assert_eq!(places.len(), 3);
    let root = &named(".data.B").special_fields;
    let root = root.iter().find(|field| field.kind == RbRoot).unwrap();
    let Some(Contained { type_id, .. }) = root.contains else {
        panic!("it says what it holds");
    };
    assert_eq!(object.btf.name_of(type_id), "leaf");
    let list = named("racks").special_fields[1];
    let held = list.contains.unwrap();
    assert_eq!(object.btf.name_of(held.type_id), "item");
    assert_eq!(held.node_offset, 16);
}

#[test]
fn what_a_map_owns_goes_with_its_elements_and_with_the_maps() {
    let mut machine = Machine::new("owned");
    for _ in 0..3 {
        assert_eq!(machine.run("fill_shelf", &[1]).0, 0);
        assert_eq!(machine.run("fill_rack", &[1]).0, 0);
    }
    let counted = machine.vm.objects_owned();
    // Three items in each list, and of all others the last ones.
    assert_eq!(counted, 2 * (3 + 1 + 2 + 1));
    let shelves = machine.map("shelves");
    let key = 1u32.to_le_bytes();
    let Machine { vm, host, .. } = &mut machine;
    vm.map_delete(shelves, &key, host).unwrap();
    assert_eq!(vm.objects_owned(), 7);
    let racks = machine.map("racks");
    let Machine { vm, host, .. } = &mut machine;
    let empty = [0; 56];
    vm.map_update(racks, &key, &empty, UpdateFlags::Exist, host)
        .unwrap();
    assert_eq!(vm.objects_owned(), 0);
    assert_eq!(machine.run("fill_shelf", &[2]).0, 0);
    assert_eq!(machine.run("fill_rack", &[0]).0, 0);
    assert_eq!(machine.run("grow", &[1]).0, 0);
    assert_eq!(machine.vm.objects_owned(), 11);
    let Machine { vm, host, .. } = &mut machine;
    vm.free_map_fields(host);
    assert_eq!(vm.objects_owned(), 0);
    // The maps are still good.
    assert_eq!(machine.run("look_at_rack", &[0]), (0, [0; 12]));
    assert_eq!(machine.run("fill_rack", &[0]).1[0], 0);
}

#[test]
fn a_copy_per_cpu_is_cleared_before_it_comes_back() {
    let mut machine = Machine::new("owned");
    for _ in 0..3 {
        assert_eq!(machine.run("fill_rack", &[0]).0, 0);
        machine.host.cpu = 1;
        assert_eq!(machine.run("count", &[0]).1[..2], [0, 1]);
        machine.host.cpu = 0;
        assert_eq!(machine.run("count", &[0]).1[..2], [3, 1]);
        assert_eq!(machine.run("count", &[0]).1[..2], [6, 1]);
    }
}

/// The addresses in a message as letters, in the order that they come.
fn lettered(message: &str) -> String {
    let mut known: Vec<&str> = Vec::new();
    let mut text = String::new();
    for (index, part) in message.split("0xffff88").enumerate() {
        if index == 0 {
            text.push_str(part);
            continue;
        }
        let end = part.find(|c: char| !c.is_ascii_hexdigit());
        let (digits, rest) = part.split_at(end.unwrap_or(part.len()));
        let number = known.iter().position(|known| *known == digits);
        let number = number.unwrap_or(known.len());
        if number == known.len() {
            known.push(digits);
        }
        text.push(char::from(b'A' + u8::try_from(number).expect("a few")));
        text.push_str(rest);
    }
    text
}

/// Without the places of instructions.
fn without_places(message: &str) -> String {
    let mut text = String::new();
    let mut rest = message;
    while let Some(start) = rest.find("program `") {
        let (before, place) = rest.split_at(start);
        text.push_str(before);
        let line = place.find(" @ disowned.bpf.c:").expect("a line");
        let end = line + place[line..].find(')').expect("a parenthesis");
        text.push('…');
        rest = &place[end + 1..];
    }
    text + rest
}

/// What is said, and in which modes.
const MISUSES: &[(&str, &[u64])] = &[
    (
        "thing object A, acquired here by `bpf_obj_new_impl`, is not released at the program's end",
        &[1],
    ),
    (
        "`bpf_obj_drop_impl`: object A is not acquired any more: it was released by \
             `bpf_obj_drop_impl` at …",
        &[2],
    ),
    ("`bpf_obj_drop_impl`: object A is not acquired", &[3]),
    (
        "`bpf_rbtree_add_impl`: bpf_spin_lock A is not locked any more: it was unlocked by \
         `bpf_spin_unlock` at …",
        &[4, 5],
    ),
    (
        "`bpf_rbtree_add_impl`: object A is not acquired any more: it was released by \
             `bpf_rbtree_add_impl` at …",
        &[6],
    ),
    (
        "`bpf_rbtree_add_impl`: A is byte 8 of struct `other`, \
         expected is the node at byte 8 of struct `thing`",
        &[7],
    ),
    (
        "`bpf_rbtree_add_impl`: A is byte 40 of struct `thing`, \
         expected is the node at byte 8 of struct `thing`",
        &[8],
    ),
    (
        "`bpf_rbtree_add_impl`: A is no bpf_rb_root in a map value or an object",
        &[9],
    ),
    (
        "`bpf_rbtree_remove`: not allowed in the callback that compares nodes",
        &[10],
    ),
    (
        "`bpf_spin_unlock`: not the callback's own is bpf_spin_lock A, locked by \
             `bpf_spin_lock` at …",
        &[11],
    ),
    (
        "`bpf_obj_drop_impl`: not the callback's own is thing object A, acquired by \
             `bpf_obj_new_impl` at …",
        &[12],
    ),
    (
        "`bpf_obj_new_impl`: not allowed while a lock is held: bpf_spin_lock A, locked by \
             `bpf_spin_lock` at …",
        &[13],
    ),
    (
        "bpf_spin_lock A, locked here by `bpf_spin_lock`, is not unlocked at the program's end",
        &[14],
    ),
    (
        "`bpf_rbtree_add_impl`: A lies in no object, \
         expected is the node at byte 8 of struct `thing`",
        &[15],
    ),
    (
        "`bpf_refcount_acquire_impl`: struct `thing` has no `bpf_refcount`",
        &[16],
    ),
    (
        "`bpf_obj_new_impl`: type [1] (`int (*)[2]`) of the program is no struct",
        &[17],
    ),
    (
        "`bpf_obj_drop_impl`: object A is not acquired any more: it was released by \
             `bpf_rbtree_add_impl` at …",
        &[18],
    ),
    (
        "thing object A, acquired here by `bpf_rbtree_remove`, is not released at the program's end",
        &[19],
    ),
    (
        "`bpf_kptr_xchg`: A is a `other`, the kptr is for a `thing`",
        &[21],
    ),
    (
        "`bpf_percpu_obj_new_impl`: struct `thing` has special fields, which a per-CPU object \
             cannot have",
        &[22],
    ),
    (
        "0x1234 is not the address of a function of this program",
        &[23],
    ),
    (
        "`bpf_kptr_xchg`: A is no kptr in a map value or an object",
        &[24],
    ),
];

#[test]
fn misuse_ends_the_run_with_what_and_where() {
    let mut machine = Machine::new("disowned");
    for (message, modes) in MISUSES {
        for mode in *modes {
            let error = machine.error("misuse", &[*mode, 3]);
            let text = without_places(&lettered(&error));
            assert_eq!(text, format!("…: {message}"), "{mode}");
            // Nothing is left, and what is right runs.
            machine.vm.free_map_fields(&mut machine.host);
            assert_eq!(machine.vm.objects_owned(), 0, "{mode}");
            assert_eq!(machine.run("misuse", &[0]).0, 0, "{mode}");
        }
    }
    let error = machine.error("misuse", &[1]);
    assert!(
        error.contains("program `misuse`, insn ") && error.contains("disowned.bpf.c:"),
        "{error}"
    );
}

/// Opaque bytes are nobody's truth, and a pointer that a program makes up is one owner too many.
#[test]
fn programs_that_write_where_they_may_not_harm_nobody() {
    let mut machine = Machine::new("disowned");
    for _ in 0..10 {
        assert_eq!(machine.run("misuse", &[20, 9]).0, 0);
    }
    assert_eq!(machine.vm.objects_owned(), 0);
    for key in [3, 1, 2] {
        assert_eq!(machine.run("forge", &[key]).0, 0);
        let slots = machine.map("slots");
        let Machine { vm, host, .. } = &mut machine;
        vm.map_update(slots, &[0; 4], &[0; 8], UpdateFlags::Any, host)
            .unwrap();
        // It was in the tree, too, which it left.
        assert_eq!(vm.objects_owned(), 0);
    }
    assert_eq!(machine.run("misuse", &[0]).0, 0);
    assert_eq!(machine.vm.objects_owned(), 0);
}

/// Objects own each other to any depth, and dropping them is the program's work.
#[test]
fn a_deep_nest_is_dropped_without_recursion_and_counts() {
    let mut machine = Machine::new("disowned");
    let depth = 200_000;
    let shallow = machine.try_run("nest", &[0]).unwrap().insns;
    let result = machine.try_run("nest", &[depth]).unwrap();
    assert_eq!(machine.vm.objects_owned(), 0);
    // Each object costs when it is allocated and when it is dropped.
    assert!(result.insns > shallow + depth * 32, "{}", result.insns);
    // Over the limit it is dropped all the same, by the time the run has ended.
    let mut config = config(1);
    config.insn_budget = 50_000;
    let mut vm = Vm::new(config).expect("address space");
    let object = link("disowned");
    let loaded = vm.load(&object, KFUNCS).expect("loads");
    let nest = object.programs.iter().position(|p| p.name == "nest");
    let nest = loaded.programs[nest.expect("it is there")];
    let ctx = vm.mem().alloc(Region::Contexts, CTX_SIZE, 8).expect("room");
    vm.write_args(ctx, &[100_000]).expect("room");
    let ended = vm.run(nest, &RunArgs::new(ctx), &mut TestHost::default());
    let error = ended.unwrap_err().to_string();
    assert!(
        error.contains("instruction budget of 50000 used up"),
        "{error}"
    );
    assert_eq!(vm.objects_owned(), 0);
}

#[test]
fn lists_and_trees_survive_static_linking() {
    let bytes = read("owned");
    let file = ObjectFile {
        name: "owned",
        bytes: &bytes,
    };
    let linked = link_objects(&[file]).expect("it fits");
    let mut machine = Machine::of(link_bytes("linked", &linked));
    machine.host.cpu = 1;
    machine.replay(include_str!("owned-linux-6.18.txt"));
}

#[test]
fn what_linux_7_added_works_by_its_names() {
    let mut machine = Machine::new("owned7");
    let einval = u64::MAX - 21;
    for _ in 0..3 {
        let (ret, out) = machine.run("middle", &[]);
        assert_eq!((ret, &out[..8]), (0, &[1, 0, einval, 3, 0, 1, 1, 3][..]));
        let (ret, out) = machine.run("tree_of_two", &[]);
        assert_eq!((ret, &out[..3]), (0, &[1, 1, 2][..]));
        assert_eq!(machine.run("late", &[]).1[..2], [5, 1]);
        assert_eq!(machine.vm.objects_owned(), 0);
    }
}

#[test]
fn objects_have_the_sizes_that_the_kernel_allocates() {
    let mut machine = Machine::new("owned7");
    // 4088 bytes, 4089, none at all, a copy per CPU.
    assert_eq!(machine.run("sizes", &[0]).1[..4], [0, 1, 1, 0]);
    assert!(
        machine
            .error("sizes", &[1])
            .ends_with("struct `large_copies` has 513 bytes, more than 512")
    );
    assert_eq!(machine.vm.objects_owned(), 0);
}

#[test]
fn kptrs_go_with_the_object_or_the_element_that_makes_room() {
    let mut machine = Machine::new("owned7");
    assert_eq!(machine.run("pair", &[0, 0]).1[..2], [1, 1]);
    assert_eq!(machine.vm.objects_owned(), 0);
    for key in 0..5u64 {
        assert_eq!(machine.run("pair", &[key, 1]).1[..2], [1, 1]);
        let pairs = usize::try_from(key + 1).unwrap().min(2);
        assert_eq!(machine.vm.objects_owned(), 2 * pairs);
    }
}
