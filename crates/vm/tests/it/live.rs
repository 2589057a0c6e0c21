//! Random programs by three parties: both engines, and the kernel that this test runs on, where
//! `bpf(2)` works.
//!
//! The engines are compared as in `engines`; the kernel's r0 (of which it tells the lower half),
//! context, array, arena and hash map with theirs. Programs that the kernel's verifier refuses are
//! counted, and run by the engines only. `HARENA_CASES` and `HARENA_SEED` are as there.

use std::collections::BTreeMap;

use harena_bpf::isa::Insn;
use harena_bpf::{LinkedProgram, ProgType};
use harena_testkit::{LiveSymbols, SharedEnd, SharedLayout, SharedMemory};
use harena_vm::{Containment, Engine, Region};

use super::checked::{Generator, HASH_ENTRIES, HASH_KEYS, HASH_VALUE_SIZE, kfuncs};
use super::engines::{
    ARENA_PAGES, End, PRESENT, USER, VALUE_SIZE, asked, context_words, difference, run_program,
};
use super::numbers::Random;
use super::shrink::{listing, nothing, shrink_to, zeroed};

const CASES: u64 = 400;
const SEED: u64 = 0x5eed_0011;
/// No program runs into it.
const BUDGET: u64 = 10_000_000;
const PAGE_BYTES: usize = 4096;

fn kernel() -> Result<SharedMemory, String> {
    let layout = SharedLayout {
        value_bytes: VALUE_SIZE,
        arena_pages: ARENA_PAGES,
        user_vm_start: USER,
        present: PRESENT.to_vec(),
        hash_entries: HASH_ENTRIES,
        hash_keys: HASH_KEYS,
        hash_value_bytes: HASH_VALUE_SIZE,
    };
    SharedMemory::new(&LiveSymbols::read()?, layout, &kfuncs())
}

/// The context that programs of both sides find.
fn context() -> Vec<u8> {
    let words = context_words().into_iter();
    words.flat_map(|(_, word)| word.to_le_bytes()).collect()
}

/// What of an engine's end a kernel tells, too.
fn shared(end: &End) -> Result<SharedEnd, String> {
    let result = end.result.as_ref().map_err(|abort| format!("{abort:?}"))?;
    let heap = |wanted: Region| {
        let found = end.heap.iter().find(|(region, _)| *region == wanted);
        found.map_or(&[][..], |(_, bytes)| bytes)
    };
    let pages = end.arena.iter();
    Ok(SharedEnd {
        ret: u32::try_from(result.ret & 0xffff_ffff).expect("the lower half"),
        context: heap(Region::Contexts).to_vec(),
        value: end.value.clone(),
        arena: pages
            .flat_map(|page| page.clone().unwrap_or_else(|| vec![0; PAGE_BYTES]))
            .collect(),
        hash: end.hash.clone(),
    })
}

/// Where a kernel's end differs from an engine's, in few words; empty if nowhere.
fn difference_to_kernel(ours: &Result<SharedEnd, String>, theirs: &SharedEnd) -> String {
    let ours = match ours {
        Ok(ours) => ours,
        Err(abort) => return format!("result:\n  engines {abort}\n  kernel  {}", theirs.ret),
    };
    let mut text = String::new();
    if ours.ret != theirs.ret {
        text += &format!("r0:\n  engines {}\n  kernel  {}\n", ours.ret, theirs.ret);
    }
    let memory = [
        ("context", &ours.context, &theirs.context),
        ("array", &ours.value, &theirs.value),
        ("arena", &ours.arena, &theirs.arena),
    ];
    for (name, ours, theirs) in memory {
        assert_eq!(ours.len(), theirs.len(), "{name}");
        if let Some(at) = ours.iter().zip(theirs).position(|(a, b)| a != b) {
            let word = at & !7;
            let bytes = word..(word + 8).min(ours.len());
            let (ours, theirs) = (&ours[bytes.clone()], &theirs[bytes]);
            text += &format!("{name}+{word}:\n  engines {ours:02x?}\n  kernel  {theirs:02x?}\n");
        }
    }
    if ours.hash != theirs.hash {
        let (ours, theirs) = (&ours.hash, &theirs.hash);
        text += &format!("hash map:\n  engines {ours:02x?}\n  kernel  {theirs:02x?}\n");
    }
    text
}

/// What the three parties say of one program.
enum Verdict {
    Agree,
    /// The kernel did not run it: the last line of why.
    Refused(String),
    Differ(String),
}

fn judge(insns: &[Insn], functions: &[u32], kernel: &SharedMemory) -> Verdict {
    // The kernel's are sleepable, as all of this type: pages are freed at once.
    let program = LinkedProgram {
        sleepable: true,
        ..LinkedProgram::from_insns("main", ProgType::Syscall, insns.to_vec())
    };
    let [interpreted, compiled] = [Engine::Interpreter, Engine::Jit]
        .map(|engine| run_program(program.clone(), BUDGET, engine, Containment::Mask));
    if interpreted != compiled {
        return Verdict::Differ(difference(&interpreted, &compiled));
    }
    match kernel.run(insns, functions, &context()) {
        Ok(theirs) => {
            let text = difference_to_kernel(&shared(&interpreted), &theirs);
            if text.is_empty() {
                Verdict::Agree
            } else {
                Verdict::Differ(text)
            }
        }
        Err(log) => Verdict::Refused(complaint(&log)),
    }
}

/// The verifier's last words before its statistics, numbers aside.
fn complaint(log: &str) -> String {
    let is_statistics = |line: &&str| line.starts_with("processed ") || line.starts_with(" Err(");
    let mut lines = log.lines().rev().filter(|line| !line.is_empty());
    let line = lines.find(|line| !is_statistics(line)).unwrap_or_default();
    let digits = |c: char| c.is_ascii_digit();
    let words = line.split_whitespace();
    let words: Vec<_> = words.map(|word| word.trim_end_matches(digits)).collect();
    words.join(" ")
}

/// The smallest program found about which the parties still disagree.
///
/// What is left out must not make a number of what is none, such as an address, about which they
/// always disagree. So registers are zeroed first; and then what makes no difference goes.
fn disagreement(insns: &[Insn], judged: impl Fn(&[Insn]) -> Verdict) -> String {
    let text_of = |insns: &[Insn]| match judged(insns) {
        Verdict::Differ(text) => Some(text),
        Verdict::Agree | Verdict::Refused(_) => None,
    };
    if text_of(insns).is_none() {
        return "they disagree only sometimes".to_owned();
    }
    let zeroed = shrink_to(insns, zeroed, |insns| text_of(insns).is_some());
    let text = text_of(&zeroed);
    let smallest = shrink_to(&zeroed, nothing, |insns| text_of(insns) == text);
    format!("{}\n{}", text.unwrap_or_default(), listing(&smallest))
}

#[test]
fn programs_that_the_kernel_verifies_end_the_same_in_it() {
    let cases = asked("HARENA_CASES").unwrap_or(CASES);
    let start = asked("HARENA_SEED").unwrap_or(SEED);
    let kernel = match kernel() {
        Ok(kernel) => kernel,
        Err(reason) => return println!("skipped: no kernel to compare with: {reason}"),
    };
    println!("seed {start:#x}");
    let mut seeds = Random::new(start);
    let (mut accepted, mut refused) = (0u64, 0u64);
    let mut complaints = BTreeMap::new();
    for number in 0..cases {
        let seed = seeds.next();
        let program = Generator::new(seed).program();
        match judge(&program.insns, &program.functions, &kernel) {
            Verdict::Agree => accepted += 1,
            Verdict::Refused(complaint) => {
                refused += 1;
                *complaints.entry(complaint).or_insert(0u64) += 1;
            }
            Verdict::Differ(_) => panic!(
                "seed {start:#x}, program {number} (seed {seed:#x})\n{}",
                disagreement(&program.insns, |insns| {
                    judge(insns, &program.functions, &kernel)
                })
            ),
        }
    }
    println!(
        "{cases} programs for the kernel: {accepted} accepted ({} %), {refused} refused",
        accepted * 100 / cases.max(1)
    );
    let mut complaints: Vec<_> = complaints.into_iter().collect();
    complaints.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (complaint, count) in complaints.iter().take(8) {
        println!("  {count} refused: {complaint}");
    }
    println!("0 disagreements with the kernel");
    assert!(accepted * 10 > cases * 7, "too many programs were refused");
}
