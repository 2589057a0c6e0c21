//! Several object files linked to one do what one file with all of the source does.

use harena_abi::KernAddr;
use harena_bpf::{LinkedObject, ObjectFile, link_objects};
use harena_vm::{ProgId, Region, RunArgs, Vm};

use super::objects::{CTX_SIZE, link_bytes, read};
use super::support::{KFUNCS, TestHost, config};

/// A loaded object and a context for its programs.
pub(super) struct Machine {
    vm: Vm,
    object: LinkedObject,
    progs: Vec<ProgId>,
    ctx: KernAddr,
}

impl Machine {
    pub(super) fn new(object: LinkedObject) -> Self {
        let mut vm = Vm::new(config(2)).expect("address space");
        let progs = vm.load(&object, KFUNCS).expect("loads").programs;
        let ctx = vm.mem().alloc(Region::Contexts, CTX_SIZE, 8).expect("room");
        Self {
            vm,
            object,
            progs,
            ctx,
        }
    }

    /// Runs a program: its return value and what it leaves in the context.
    pub(super) fn run(&mut self, name: &str, words: &[u64; 4]) -> (u64, Vec<u64>) {
        let index = self.object.programs.iter().position(|p| p.name == name);
        let prog = self.progs[index.unwrap_or_else(|| panic!("no program {name}"))];
        self.vm.write_args(self.ctx, words).expect("room");
        let mut host = TestHost::default();
        let ret = self.vm.run(prog, &RunArgs::new(self.ctx), &mut host);
        let out = (4..16u64).map(|word| {
            let at = self.ctx.checked_add(word * 8).expect("inside");
            self.vm.mem().read_u64(at).expect("the context")
        });
        (ret.expect("ends").ret, out.collect())
    }
}

fn linked(files: &[&str]) -> LinkedObject {
    let contents: Vec<Vec<u8>> = files.iter().map(|file| read(file)).collect();
    let files = files.iter().zip(&contents);
    let files: Vec<_> = files
        .map(|(name, bytes)| ObjectFile { name, bytes })
        .collect();
    link_bytes("linked", &link_objects(&files).expect("they fit"))
}

fn assert_same(object: LinkedObject) {
    let mut ours = Machine::new(object);
    let mut whole = Machine::new(link_bytes("whole", &read("link_whole")));
    for round in 0..40u64 {
        for name in ["all_of_it", "scaled", "arena_of_both"] {
            let words = [round, round * 7 + 1, round * 3, 0];
            let (found, expected) = (ours.run(name, &words), whole.run(name, &words));
            assert_eq!(found, expected, "{name} in round {round}");
        }
    }
    assert_eq!(ours.vm.violations().len(), whole.vm.violations().len());
}

#[test]
fn two_files_do_what_one_does_in_either_order() {
    assert_same(linked(&["link_main", "link_lib"]));
    assert_same(linked(&["link_lib", "link_main"]));
}

#[test]
fn the_strong_definitions_are_the_ones_that_run() {
    for files in [["link_main", "link_lib"], ["link_lib", "link_main"]] {
        let mut machine = Machine::new(linked(&files));
        let (ret, out) = machine.run("all_of_it", &[1, 2, 4, 0]);
        assert_eq!(ret, 0);
        // 3 * (2 * factors[2]) + (500 + 2), and the main file's own static of that name.
        assert_eq!(out[..2], [3 * 10 + 502, 101]);
        // The library's function and variable, where the main file has weak ones.
        assert_eq!((out[2], out[7]), (2 ^ 7, 20));
        // 0 + 1 + 2 + 3 times the limit; one call so far; 't' of "beta".
        assert_eq!(out[3..7], [6 * 42, 1, 42, u64::from(b't')]);
        assert_eq!(machine.run("scaled", &[5, 0, 0, 0]).1[..2], [15, 503]);
        let (_, out) = machine.run("arena_of_both", &[6, 0, 0, 0]);
        assert_eq!(out[..4], [77 + 12, 77 + 12 + 5, 9 + 7, 6]);
    }
}

#[test]
fn a_linked_file_can_be_linked_again() {
    let both = ["link_main", "link_lib"].map(read);
    let names = ["main", "lib"];
    let files: Vec<_> = names
        .into_iter()
        .zip(&both)
        .map(|(name, bytes)| ObjectFile { name, bytes })
        .collect();
    let once = link_objects(&files).expect("they fit");
    let again = ObjectFile {
        name: "once",
        bytes: &once,
    };
    let twice = link_objects(&[again]).expect("it fits");
    assert_same(link_bytes("twice", &twice));
}

#[test]
fn a_report_names_the_file_that_the_code_came_from() {
    let mut machine = Machine::new(linked(&["link_main", "link_lib"]));
    let (_, out) = machine.run("all_of_it", &[1, 2, 4, 0]);
    assert_ne!(out, [0; 12]);
    let lines = machine.object.programs.iter().flat_map(|program| {
        let last = u32::try_from(program.insns.len()).expect("short");
        (0..last).filter_map(|slot| Some(program.lines.at(slot)?.file.to_owned()))
    });
    let files: std::collections::BTreeSet<String> = lines.collect();
    for file in ["link_main", "link_lib"] {
        let file = format!("bpf/tests/{file}.bpf.c");
        assert!(files.iter().any(|one| one.ends_with(&file)), "{files:?}");
    }
}
