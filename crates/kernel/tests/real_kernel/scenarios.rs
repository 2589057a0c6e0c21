//! What is done to each machine: the arena test programs, and the user side between them.

use harena_testkit::{CONTEXT_WORDS, LiveMachine};

/// One thing that happens to a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A program runs with these words at the start of its context.
    Run(&'static str, [u64; 2]),
    /// The user side writes a word of the arena.
    Write(u64, u64),
    /// The user side reads a word of the arena.
    Read(u64),
}
use Step::{Read, Run, Write};

/// A test object and what is done with it, on one machine from beginning to end.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) object: &'static [u8],
    pub(crate) steps: &'static [Step],
}

macro_rules! object {
    ($name:literal) => {
        include_bytes!(concat!("../../../../bpf/tests/", $name, ".bpf.o"))
    };
}

const PAGE: u64 = 4096;
/// A page that no program asks for by address.
const USER_PAGE: u64 = 3 * PAGE;
const OTHER_PAGE: u64 = 4 * PAGE;
const GLOBALS: u64 = 63 * PAGE;

pub(crate) const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "alloc",
        object: object!("arena_alloc"),
        steps: &[
            Run("alloc_first_fit", [0x1111, 0x2222]),
            Run("alloc_first_fit", [0x3333, 0x4444]),
            Run("alloc_at", [0, 0]),
            Run("alloc_at", [0, 0]),
            Run("alloc_errors", [0, 0]),
            Run("free_and_realloc", [0, 0]),
            Run("free_oddly", [0, 0]),
            Run("reserve", [0, 0]),
            Run("alloc_until_full", [0, 0]),
            Run("alloc_first_fit", [0, 0]),
            Read(0),
            Read(2 * PAGE),
            Read(41 * PAGE),
        ],
    },
    Scenario {
        name: "fault",
        object: object!("arena_fault"),
        steps: &[
            Run("load_empty", [0, 0]),
            Run("store_empty", [0x5555, 0]),
            Run("atomic64_empty", [0, 0]),
            Run("atomic32_empty", [0, 0]),
            Run("atomics_present", [0, 0]),
            Run("fetch_bits", [0, 0]),
            Run("straddle", [0x6666_7777_8888_9999, 0]),
            Run("outside", [0xaaaa, 0xbbbb]),
            // What the programs left behind: nothing where there was no page.
            Read(8 * PAGE),
            Read(12 * PAGE),
            Read(13 * PAGE - 8),
            Read(14 * PAGE + 24),
            Read(14 * PAGE + 32),
        ],
    },
    Scenario {
        name: "cast",
        object: object!("arena_cast"),
        steps: &[
            Run("casts", [0, 0]),
            Run("globals", [2, 0xcccc]),
            Run("globals", [1, 0xdddd]),
            Run("build_list", [0, 0]),
            Run("sum_list", [0, 0]),
            // Follow the last two links as the user would.
            Read(6 * PAGE + 16),
            Read(6 * PAGE + 24),
            // One more turn of the user's hand: the first node's value.
            Write(6 * PAGE + 8, 1000),
            Run("sum_list", [0, 0]),
            Run("arena_fields", [0, 0]),
            Read(GLOBALS),
            Read(GLOBALS + 8),
            Read(GLOBALS + 16),
        ],
    },
    Scenario {
        name: "user",
        object: object!("arena_user"),
        steps: &[
            // The user's first touch allocates the page for both.
            Write(USER_PAGE, 5),
            Run("exchange", [USER_PAGE, 6]),
            Read(USER_PAGE),
            Run("alloc_page", [USER_PAGE, 0]),
            // A page that a program allocated is there for the user.
            Run("alloc_page", [OTHER_PAGE, 0]),
            Run("exchange", [OTHER_PAGE, 7]),
            Read(OTHER_PAGE),
            // Freed for both; the user's next touch brings a new, zero page.
            Run("free_page", [USER_PAGE, 0]),
            Run("exchange", [USER_PAGE, 8]),
            Read(USER_PAGE),
            Run("exchange", [USER_PAGE, 9]),
            Read(USER_PAGE),
            // A page that a program could not read becomes the user's.
            Run("exchange", [9 * PAGE, 10]),
            Read(9 * PAGE),
            Run("exchange", [9 * PAGE, 11]),
            Run("alloc_any", [0, 0]),
            Run("alloc_any", [0, 0]),
        ],
    },
];

/// A machine that arena programs run on.
pub(crate) trait Machine {
    /// Runs a program; `None` if this machine refuses to load it.
    fn run(&mut self, program: &str, context: &mut [u64; CONTEXT_WORDS]) -> Option<u32>;
    /// Writes a word from the user side.
    fn write(&mut self, offset: u64, value: u64);
    /// Reads a word from the user side.
    fn read(&mut self, offset: u64) -> u64;
}

impl Machine for LiveMachine {
    fn run(&mut self, program: &str, context: &mut [u64; CONTEXT_WORDS]) -> Option<u32> {
        Self::run(self, program, context)
    }

    fn write(&mut self, offset: u64, value: u64) {
        Self::write(self, offset, value);
    }

    fn read(&mut self, offset: u64) -> u64 {
        Self::read(self, offset)
    }
}

/// Plays a scenario; one line for each step. A refused program's line says so.
pub(crate) fn play(scenario: &Scenario, machine: &mut dyn Machine) -> Vec<String> {
    scenario
        .steps
        .iter()
        .map(|step| play_step(step, machine))
        .collect()
}

/// What `play` says of a program that was refused.
pub(crate) const REFUSED: &str = "refused";

fn play_step(step: &Step, machine: &mut dyn Machine) -> String {
    match *step {
        Run(program, input) => {
            let mut context = [0; CONTEXT_WORDS];
            context[..2].copy_from_slice(&input);
            let Some(ret) = machine.run(program, &mut context) else {
                return format!("run {program}: {REFUSED}");
            };
            // The two words after the input are never written, by any program.
            let out: Vec<_> = context[2..]
                .iter()
                .map(|word| format!("{word:x}"))
                .collect();
            format!("run {program} {input:x?}: {ret}: {}", out.join(" "))
        }
        Write(offset, value) => {
            machine.write(offset, value);
            format!("write {offset:#x}: {value:#x}")
        }
        Read(offset) => format!("read {offset:#x}: {:#x}", machine.read(offset)),
    }
}
