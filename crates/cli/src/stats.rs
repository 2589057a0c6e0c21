//! What a scheduler counted itself, found by name among its global variables.
//!
//! There is no registry of statistics in BPF; there are habits. Harena shows the integers
//! of variables called `stats` or `…_stats`, and integer variables called `nr_…`: what
//! people print in their own loaders. Names of members come from the object's BTF.

use harena_bpf::btf::Value;
use harena_report::Counts;

/// Counters beyond this are not shown; a table of a million is no report.
const COUNTERS_MAX: usize = 256;

/// Whether a global variable of this name holds statistics.
pub(crate) fn is_one(name: &str) -> bool {
    name == "stats" || name.ends_with("_stats") || name.starts_with("nr_")
}

/// Adds the counters in `value` under the variable's name.
pub(crate) fn add(counts: &mut Counts, name: &str, value: &Value) {
    // The variable's own name says nothing more than its members' names.
    if let Value::Struct(members) = value {
        for (member, value) in members {
            add_leaves(counts, member, value);
        }
    } else {
        add_leaves(counts, name, value);
    }
}

fn add_leaves(counts: &mut Counts, path: &str, value: &Value) {
    match value {
        Value::Int(number) => {
            if let Ok(number) = u64::try_from(*number)
                && counts.0.len() < COUNTERS_MAX
            {
                counts.0.push((path.to_owned(), number));
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                add_leaves(counts, &format!("{path}[{index}]"), element);
            }
        }
        Value::Struct(members) => {
            for (member, value) in members {
                add_leaves(counts, &format!("{path}.{member}"), value);
            }
        }
        Value::Bool(_)
        | Value::Pointer(_)
        | Value::Enum(..)
        | Value::Text(_)
        | Value::Float(_)
        | Value::Missing => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_statistics() {
        for (name, is) in [
            ("stats", true),
            ("levels_stats", true),
            ("nr_enqueued", true),
            ("statistics", false),
            ("slice_ns", false),
            ("xnr_", false),
        ] {
            assert_eq!(is_one(name), is, "{name}");
        }
    }

    #[test]
    fn integers_are_found_at_any_depth() {
        let stats = Value::Struct(vec![
            ("nr_direct".to_owned(), Value::Int(3)),
            ("signed".to_owned(), Value::Int(-3)),
            ("list".to_owned(), Value::Pointer(8)),
            (
                "nr_queued".to_owned(),
                Value::Array(vec![Value::Int(1), Value::Int(2)]),
            ),
            (
                "inner".to_owned(),
                Value::Struct(vec![("n".to_owned(), Value::Int(4))]),
            ),
        ]);
        let mut counts = Counts::default();
        add(&mut counts, "stats", &stats);
        add(&mut counts, "nr_all", &Value::Int(5));
        let expected = [
            ("nr_direct", 3),
            ("nr_queued[0]", 1),
            ("nr_queued[1]", 2),
            ("inner.n", 4),
            ("nr_all", 5),
        ];
        let expected = expected.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(counts.0, expected);
    }

    #[test]
    fn a_huge_table_is_cut() {
        let huge = Value::Array(vec![Value::Int(0); COUNTERS_MAX * 2]);
        let mut counts = Counts::default();
        add(&mut counts, "nr_all", &huge);
        assert_eq!(counts.0.len(), COUNTERS_MAX);
    }
}
