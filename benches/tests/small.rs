//! Goal: benchmarks do not rot. Method: every case runs with few operations; contenders that
//! disagree are an error, and so is a case that is missing or has too few rows. A peer that this
//! system does not let us have is a row that says so. Times are not looked at.

use harena_bench::{Row, Scale, Suite, arena, bpf};

/// Cases, small objects apart, and the rows that each has at least: its subjects and peers.
const CASES: [(&str, usize); 27] = [
    ("access: array, in sequence", 1),
    ("access: array, at random", 1),
    ("access: pointers handed in, at random", 1),
    ("access: list, each word points to the next", 1),
    ("access: cmask of 64 cids, find the next", 2),
    ("access: cmask of 1024 cids, find the next", 2),
    ("access: cmask of 8192 cids, find the next", 2),
    ("program: enter and leave", 1),
    ("report: drain one", 1),
    ("recovery: host fault, scratch slots free", 2),
    ("recovery: host fault in a storm", 1),
    ("recovery: program fault", 1),
    // The peer that removes guards is only there where the kernel has them.
    ("recovery: a user's first touch", 1),
    ("mechanism: one page", 8),
    ("mechanism: one call for 64 pages", 3),
    ("mechanism: 4 GiB window", 1),
    ("pages: alloc and free 1 page, untouched", 2),
    ("pages: alloc and free 1 page, each touched", 2),
    ("pages: alloc and free 16 pages, untouched", 2),
    ("pages: alloc and free 16 pages, each touched", 2),
    ("pages: alloc and free 512 pages, untouched", 2),
    ("pages: alloc and free 512 pages, each touched", 2),
    ("pages: churn of 1 to 16 pages, untouched", 2),
    ("pages: churn of 1 to 16 pages, each touched", 2),
    ("arena: create and destroy, 4 GiB", 1),
    ("budget: 1000 scattered pages", 4),
    ("budget: 1000 faults on other pages", 4),
];

/// Who small objects are compared with.
const ALLOCATORS: &[&str] = if cfg!(feature = "peers") {
    &["glibc", "mimalloc", "jemalloc", "talc", "buddy"]
} else {
    &["glibc"]
};

fn slab_cases() -> Vec<String> {
    let mut cases = Vec::new();
    for threads in ["1 thread", "2 threads"] {
        for pattern in ["pair", "FIFO of 1000", "churn of 1000"] {
            for size in [16, 32, 64, 128, 256, 512, 1024] {
                cases.push(format!("slab: {pattern}, {size} bytes, {threads}"));
            }
        }
        cases.push(format!("slab: churn of 1000, 16 to 1024 bytes, {threads}"));
    }
    cases
}

fn rows_of<'a>(rows: &'a [Row], case: &str) -> Vec<&'a Row> {
    rows.iter().filter(|row| row.case == case).collect()
}

/// A row has a value, and a peer of which there is a value too, or the reason why there is none.
fn check_row(row: &Row) {
    let value = row.value.expect("measured");
    assert!(value.is_finite(), "{row:?}");
    if row.peer.is_some() && !is_skipped(row) {
        assert!(row.peer_value.is_some(), "{row:?}");
    }
}

fn is_skipped(row: &Row) -> bool {
    row.peer
        .as_ref()
        .is_some_and(|peer| peer.contains("(skipped: "))
}

#[test]
fn every_arena_case_gives_equal_results_for_all_contenders() {
    let mut suite = Suite::new("arena", Scale::Small, None);
    arena::run(&mut suite).expect("contenders agree");
    let rows = suite.into_rows();
    rows.iter().for_each(check_row);
    for row in rows.iter().filter(|row| is_skipped(row)) {
        println!("{}: {}", row.case, row.peer.as_deref().unwrap_or_default());
    }
    for (case, least) in CASES {
        let found = rows_of(&rows, case).len();
        assert!(found >= least, "{case}: {found} rows instead of {least}");
    }
    for row in rows.iter().filter(|row| row.case.starts_with("pages:")) {
        let peer = row.peer.as_ref().expect("the kernel, or why not");
        assert!(peer.starts_with("kernel's arena"), "{row:?}");
    }
    for case in slab_cases() {
        let rows = rows_of(&rows, &case);
        let peers: Vec<_> = rows.iter().filter_map(|row| row.peer.as_deref()).collect();
        assert_eq!(peers, ALLOCATORS, "{case}");
    }
    let is_known = |row: &Row| {
        CASES.iter().any(|(case, _)| row.case == *case) || slab_cases().contains(&row.case)
    };
    let unknown: Vec<_> = rows.iter().filter(|row| !is_known(row)).collect();
    assert!(unknown.is_empty(), "not in the list: {unknown:?}");
}

/// The eight programs over plain memory and over an arena, and what else the suite has.
fn bpf_cases() -> Vec<(String, usize)> {
    let names = [
        "fnv",
        "sieve",
        "muldiv",
        "search",
        "walk",
        "bits",
        "insertion",
        "copy",
    ];
    let peers = cfg!(feature = "peers");
    let mut cases = vec![
        ("call: a program that does nothing".to_owned(), 2),
        ("load: levels, from its file's bytes".to_owned(), 2),
        ("compile: 1000 instructions".to_owned(), 2),
        ("in an arena: loads".to_owned(), 1),
        ("in an arena: stores".to_owned(), 1),
    ];
    for name in names {
        // Native code, rbpf and solana-sbpf in both races, if they are there.
        cases.push((format!("program: {name}"), if peers { 7 } else { 2 }));
        cases.push((format!("in an arena: {name}"), 1));
    }
    if peers {
        cases.push(("geometric mean".to_owned(), 6));
    }
    cases
}

#[test]
fn every_bpf_case_gives_equal_results_for_all_contenders() {
    let mut suite = Suite::new("bpf", Scale::Small, None);
    bpf::run(&mut suite).expect("contenders agree");
    let rows = suite.into_rows();
    rows.iter().for_each(check_row);
    let cases = bpf_cases();
    for (case, least) in &cases {
        let found = rows_of(&rows, case).len();
        assert!(found >= *least, "{case}: {found} rows instead of {least}");
    }
    let is_known = |row: &Row| cases.iter().any(|(case, _)| row.case == *case);
    let unknown: Vec<_> = rows.iter().filter(|row| !is_known(row)).collect();
    assert!(unknown.is_empty(), "not in the list: {unknown:?}");
}

#[test]
fn a_filter_leaves_other_cases_out() {
    let mut suite = Suite::new("arena", Scale::Small, Some("cmask of 64".to_owned()));
    arena::run(&mut suite).expect("contenders agree");
    let rows = suite.into_rows();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows.iter().all(|row| row.case.contains("cmask of 64")));
}
