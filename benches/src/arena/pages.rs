//! Page alloc and free against the kernel's own arenas.
//!
//! The kernel's side is `bpf/tests/arena_pages.bpf.c`, whose loops run inside one call of the
//! program, so that the call itself (a microsecond) is lost among its operations. Both sides
//! touch the same pages in the same way and draw the same random sizes. The kernel's arena is
//! mapped by a user, as it is for every program with a loader, so one of ours is too, and only
//! that one has a target: an arena without a user has less to do than the kernel's.

use harena_abi::{ArenaOffset, UserAddr};
use harena_arena::Arena;
use harena_testkit::{CONTEXT_WORDS, LiveMachine, LiveSymbols};

use super::common::{arena, arena_at};
use crate::harness::{BenchError, Contender, Numbers, Suite, Turn, race, timed};

const OBJECT: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../bpf/tests/arena_pages.bpf.o"
));
/// As many as in the object.
const PAGES: u32 = 65536;
const SLOTS: u32 = 64;
/// The most pages of an allocation in the churn.
const CHURN_PAGES_MAX: u32 = 16;

/// Our user's view lies where the kernel's does not, which is mapped at the object's address.
const VIEW_AT: u64 = 0x3000_0000_0000;
const VIEWED: &str = "harena, user's view mapped";
const KERNEL: &str = "kernel's arena, user's view mapped";

/// With a user's view, a pair takes at most this part of the kernel's.
const PAIR_MAX: f64 = 0.25;

/// Whether pages are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Touch {
    None,
    EachPage,
}

/// What is done with pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pattern {
    /// Alloc and free, of this many.
    Pairs(u32),
    /// A random slot gets a random number of pages.
    Churn,
}

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    let loads = [
        (Pattern::Pairs(1), 1000),
        (Pattern::Pairs(16), 200),
        (Pattern::Pairs(512), 10),
        (Pattern::Churn, 500),
    ];
    let wanted: Vec<_> = loads
        .into_iter()
        .flat_map(|(pattern, ops)| {
            [Touch::None, Touch::EachPage].map(|touch| (pattern, touch, ops))
        })
        .filter(|(pattern, touch, _)| suite.wants(&case_of(*pattern, *touch)))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut kernel = load_into_kernel();
    for (pattern, touch, ops) in wanted {
        compare(suite, &mut kernel, (pattern, touch), ops)?;
    }
    Ok(())
}

/// The loops in the running kernel, or why they are not.
fn load_into_kernel() -> Result<LiveMachine, String> {
    let symbols = LiveSymbols::read()?;
    let machine = LiveMachine::load(OBJECT, &symbols)?;
    let refusal = machine.refusals().next();
    match refusal.map(|(program, log)| format!("`{program}` refused: {log}")) {
        None => Ok(machine),
        Some(why) => Err(why),
    }
}

fn case_of(pattern: Pattern, touch: Touch) -> String {
    let what = match pattern {
        Pattern::Pairs(1) => "alloc and free 1 page".to_owned(),
        Pattern::Pairs(pages) => format!("alloc and free {pages} pages"),
        Pattern::Churn => format!("churn of 1 to {CHURN_PAGES_MAX} pages"),
    };
    let how = match touch {
        Touch::None => "untouched",
        Touch::EachPage => "each touched",
    };
    format!("pages: {what}, {how}")
}

fn compare(
    suite: &mut Suite,
    kernel: &mut Result<LiveMachine, String>,
    (pattern, touch): (Pattern, Touch),
    ops: u64,
) -> Result<(), BenchError> {
    let case = case_of(pattern, touch);
    let (viewed, unviewed) = (arena_at(PAGES, VIEW_AT)?, arena(PAGES)?);
    viewed
        .map_user()
        .map_err(BenchError::setup("a user's view"))?;
    let work = |arena: &Arena, ops| match pattern {
        Pattern::Pairs(pages) => pairs(arena, pages, touch, ops),
        Pattern::Churn => churn(arena, touch, ops),
    };
    let mut contenders = vec![
        Contender::timed(VIEWED, |ops| work(&viewed, ops)),
        Contender::timed("harena, no user", |ops| work(&unviewed, ops)),
    ];
    let missing = kernel.as_ref().err().cloned();
    if let Ok(machine) = kernel {
        contenders.push(Contender::new(KERNEL, move |ops| {
            kernel_turn(machine, pattern, touch, ops)
        }));
    }
    let medians = race(&case, suite.plan(ops, 4), &mut contenders)?;
    let kernel = medians.get(2);
    for ours in medians.iter().take(2) {
        match (kernel, &missing) {
            (Some(kernel), _) => {
                let both = [ours.clone(), kernel.clone()];
                let target = (ours.name == VIEWED).then_some(PAIR_MAX);
                suite.first_against_others(&case, &both, |_| target);
            }
            (None, why) => suite.skipped(&case, ours, KERNEL, why.as_deref().unwrap_or("")),
        }
    }
    Ok(())
}

fn kernel_turn(
    machine: &mut LiveMachine,
    pattern: Pattern,
    touch: Touch,
    ops: u64,
) -> Result<Turn, BenchError> {
    let (program, pages) = match pattern {
        Pattern::Pairs(pages) => ("pairs", pages),
        Pattern::Churn => ("churn", CHURN_PAGES_MAX),
    };
    let mut context = [0; CONTEXT_WORDS];
    context[0] = ops;
    context[1] = u64::from(pages);
    context[2] = u64::from(touch == Touch::EachPage);
    let mut returned = None;
    let turn = timed(|| {
        returned = machine.run(program, &mut context);
        context[4]
    });
    if returned == Some(0) {
        return Ok(turn);
    }
    let error = format!("`{program}` returned {returned:?}");
    Err(BenchError::setup("the kernel's arena")(error))
}

fn pairs(arena: &Arena, pages: u32, touch: Touch, ops: u64) -> u64 {
    let mut sum = 0;
    for round in 0..ops {
        let first = alloc(arena, pages);
        if touch == Touch::EachPage {
            sum += touch_each(arena, first, pages, round);
        }
        free(arena, first, pages);
        sum += 1;
    }
    sum
}

fn churn(arena: &Arena, touch: Touch, ops: u64) -> u64 {
    let mut slots: [Option<(UserAddr, u32)>; SLOTS as usize] = [None; SLOTS as usize];
    let mut numbers = Numbers::new(1);
    let mut sum = 0;
    for round in 0..ops {
        let slot = &mut slots[numbers.below(SLOTS) as usize];
        if let Some((first, pages)) = slot.take() {
            free(arena, first, pages);
        }
        let pages = 1 + numbers.below(CHURN_PAGES_MAX);
        let first = alloc(arena, pages);
        *slot = Some((first, pages));
        if touch == Touch::EachPage {
            sum += touch_each(arena, first, pages, round);
        }
        sum += u64::from(pages);
    }
    for (first, pages) in slots.into_iter().flatten() {
        free(arena, first, pages);
    }
    sum
}

fn alloc(arena: &Arena, pages: u32) -> UserAddr {
    arena
        .alloc_pages(None, pages, 0)
        .expect("the arena has pages, and no limit")
}

fn free(arena: &Arena, first: UserAddr, pages: u32) {
    arena
        .free_pages(first, pages)
        .expect("nobody else holds the lock");
}

/// Writes the first word of each page, and reads the very first.
fn touch_each(arena: &Arena, first: UserAddr, pages: u32, value: u64) -> u64 {
    let word = arena.ptr::<u64>(ArenaOffset::of(first));
    for page in 0..pages {
        word.index(page * 512).write(value);
    }
    word.read()
}
