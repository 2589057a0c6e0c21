//! Goal: benchmarks do not rot. Method: every case runs with few operations; contenders that
//! disagree are an error, and so is a case that gives no row. Times are not looked at.

use harena_bench::{Scale, Suite, arena};

#[test]
fn every_arena_case_gives_equal_results_for_all_contenders() {
    let mut suite = Suite::new("arena", Scale::Small, None);
    arena::run(&mut suite).expect("contenders agree");
    let rows = suite.into_rows();
    for group in [
        "access:",
        "program:",
        "report:",
        "recovery:",
        "mechanism:",
        "pages:",
        "slab:",
        "arena:",
        "budget:",
    ] {
        assert!(
            rows.iter().any(|row| row.case.starts_with(group)),
            "{group} gave no row"
        );
    }
    for row in &rows {
        let value = row.value.expect("measured");
        assert!(value.is_finite(), "{row:?}");
        if row
            .peer
            .as_ref()
            .is_some_and(|peer| peer.contains("skipped"))
        {
            println!("{}: {}", row.case, row.peer.as_deref().unwrap_or_default());
        }
    }
}

#[test]
fn a_filter_leaves_other_cases_out() {
    let mut suite = Suite::new("arena", Scale::Small, Some("cmask of 64".to_owned()));
    arena::run(&mut suite).expect("contenders agree");
    let rows = suite.into_rows();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows.iter().all(|row| row.case.contains("cmask of 64")));
}
