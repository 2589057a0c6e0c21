//! How a user names a machine: a short string, or a file that lists its CPUs.
//!
//! The string is a chain of counts, each *per unit of the one before it*:
//!
//! | string | nodes | LLCs | cores | CPUs |
//! |---|---|---|---|---|
//! | `8c` or `8` | 1 | 1 | 8 | 8 |
//! | `2l4c` | 1 | 2 | 2x4 = 8 | 8 |
//! | `4c2t` | 1 | 1 | 4 | 4x2 = 8 |
//! | `2n4l8c2t` | 2 | 2x4 = 8 | 8x8 = 64 | 64x2 = 128 |
//!
//! `n` nodes, `l` LLCs in each node, `c` cores in each LLC, `t` threads in each core;
//! what is left out is 1, but cores must be said. CPUs are numbered as on most x86
//! machines: the first threads of all cores, then the second ones. So in `4c2t` CPUs 1
//! and 5 share a core.
//!
//! The file says the same per CPU, in order, as JSON with comments:
//!
//! ```json
//! { "cpus": [
//!     { "core": 0, "llc": 0, "node": 0, "capacity": 1024 },
//!     { "core": 1, "llc": 0, "node": 0, "capacity": 512 },
//! ] }
//! ```
//!
//! Only `core` is required; `llc` and `node` default to 0, `capacity` to 1024.

use std::collections::BTreeMap;

use harena_scx::{CpuTopology, Topology};
use jsonc_parser::ast::{Object, Value};

use crate::json::{self, JsonError};

/// CPUs of the largest machine, the kernel's `NR_CPUS` on x86.
pub const MAX_CPUS: u32 = 8192;

/// Capacity of the biggest CPU of a machine.
pub const CAPACITY_MAX: u32 = 1024;

/// A machine that could not be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TopologyError {
    /// The string is not of the form above.
    #[error(
        "topology `{text}`, character {column}: {problem} (such as `8c`, `2l4c` or `2n4l8c2t`: \
         nodes, LLCs per node, cores per LLC, threads per core)"
    )]
    Spec {
        /// What was given.
        text: String,
        /// Where it goes wrong, counted from 1.
        column: usize,
        /// What is wrong.
        problem: String,
    },
    /// Too many CPUs.
    #[error("a machine of {cpus} CPUs is larger than {MAX_CPUS}")]
    TooBig {
        /// How many were asked for.
        cpus: u64,
    },
    /// The file is no JSON object.
    #[error("topology file")]
    Json(#[from] JsonError),
    /// The file says something impossible.
    #[error("topology file, line {line}: {problem}")]
    File {
        /// Line.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

/// The machine used when none is named: 8 CPUs that share one LLC.
#[must_use]
pub fn default_topology() -> Topology {
    regular([1, 1, 8, 1]).expect("8 CPUs are no more than MAX_CPUS")
}

/// The machine that `spec` describes.
///
/// # Errors
/// [`TopologyError::Spec`] with the position, or [`TopologyError::TooBig`].
pub fn parse_topology(spec: &str) -> Result<Topology, TopologyError> {
    const UNITS: [char; 4] = ['n', 'l', 'c', 't'];
    const CORES: usize = 2;
    let fail = |column: usize, problem: &str| TopologyError::Spec {
        text: spec.to_owned(),
        column,
        problem: problem.to_owned(),
    };
    let mut counts = [None; 4];
    let mut next_unit = 0;
    let mut number: Option<u64> = None;
    let mut number_column = 1;
    for (column, c) in spec.chars().enumerate().map(|(at, c)| (at + 1, c)) {
        if let Some(digit) = c.to_digit(10) {
            number_column = if number.is_none() {
                column
            } else {
                number_column
            };
            let value = number.unwrap_or(0) * 10 + u64::from(digit);
            if value > u64::from(MAX_CPUS) {
                return Err(fail(number_column, "this number is too big"));
            }
            number = Some(value);
            continue;
        }
        let Some(unit) = UNITS.iter().position(|&u| u == c) else {
            return Err(fail(
                column,
                &format!("`{c}` is neither a digit nor a unit"),
            ));
        };
        match number.take() {
            None => return Err(fail(column, &format!("`{c}` needs a number before it"))),
            Some(0) => return Err(fail(number_column, "there is at least 1 of each")),
            Some(_) if unit < next_unit => {
                return Err(fail(column, &format!("`{c}` comes twice or out of order")));
            }
            Some(value) => counts[unit] = Some(value),
        }
        next_unit = unit + 1;
    }
    let end = spec.chars().count() + 1;
    match number {
        Some(0) => return Err(fail(number_column, "there is at least 1 of each")),
        Some(value) if next_unit == 0 => counts[CORES] = Some(value),
        Some(_) => return Err(fail(end, "the last number has no unit")),
        None if counts[CORES].is_none() => return Err(fail(end, "the number of cores is missing")),
        None => {}
    }
    regular(counts.map(|count| count.unwrap_or(1)))
}

/// Nodes, LLCs per node, cores per LLC, threads per core; each at most `MAX_CPUS`.
fn regular([nodes, llcs, cores, threads]: [u64; 4]) -> Result<Topology, TopologyError> {
    let cpus = nodes * llcs * cores * threads;
    let all_cores = match u32::try_from(cpus) {
        Ok(n) if n <= MAX_CPUS => nodes * llcs * cores,
        _ => return Err(TopologyError::TooBig { cpus }),
    };
    let small = |n: u64| u32::try_from(n).expect("no more units than CPUs");
    let cpus = (0..threads).flat_map(|_| 0..all_cores).map(|core| {
        let llc = core / cores;
        CpuTopology {
            core: small(core),
            llc: small(llc),
            node: small(llc / llcs),
            capacity: CAPACITY_MAX,
        }
    });
    Ok(Topology::new(cpus.collect()).expect("every count is at least 1"))
}

/// The machine that a topology file describes.
///
/// # Errors
/// [`TopologyError::Json`], [`TopologyError::File`] or [`TopologyError::TooBig`].
pub fn parse_topology_file(bytes: &[u8]) -> Result<Topology, TopologyError> {
    let document = json::parse(bytes)?;
    let fail = |line: usize, problem: String| TopologyError::File { line, problem };
    let mut cpus: Option<Vec<(usize, CpuTopology)>> = None;
    for property in &document.root.properties {
        let line = document.lines.of_node(property);
        if property.name.as_str() != "cpus" {
            let problem = format!("unknown key `{}`", property.name.as_str());
            return Err(fail(line, problem));
        }
        if cpus.is_some() {
            return Err(fail(line, "`cpus` comes twice".to_owned()));
        }
        let list = json::array(&property.value).map_err(|problem| fail(line, problem))?;
        let read = |value: &Value<'_>| {
            let line = document.lines.of_node(value);
            let cpu = json::object(value).and_then(cpu_of);
            cpu.map(|cpu| (line, cpu)).map_err(|p| fail(line, p))
        };
        cpus = Some(list.elements.iter().map(read).collect::<Result<_, _>>()?);
    }
    let cpus = cpus.unwrap_or_default();
    if cpus.len() > MAX_CPUS as usize {
        let cpus = cpus.len() as u64;
        return Err(TopologyError::TooBig { cpus });
    }
    check_nesting(&cpus).map_err(|(line, problem)| fail(line, problem))?;
    Topology::new(cpus.into_iter().map(|(_, cpu)| cpu).collect())
        .ok_or_else(|| fail(1, "a machine needs at least one entry in `cpus`".to_owned()))
}

fn cpu_of(object: &Object<'_>) -> Result<CpuTopology, String> {
    let (mut core, mut llc, mut node, mut capacity) = (None, None, None, None);
    for property in &object.properties {
        let key = property.name.as_str();
        let (slot, least, most) = match key {
            "core" => (&mut core, 0, MAX_CPUS - 1),
            "llc" => (&mut llc, 0, MAX_CPUS - 1),
            "node" => (&mut node, 0, MAX_CPUS - 1),
            "capacity" => (&mut capacity, 1, CAPACITY_MAX),
            _ => return Err(format!("unknown key `{key}`")),
        };
        let value = json::integer(&property.value).map_err(|p| format!("`{key}`: {p}"))?;
        let value = u32::try_from(value)
            .ok()
            .filter(|v| (least..=most).contains(v));
        let value = value.ok_or_else(|| format!("`{key}` must be {least} to {most}"))?;
        if slot.replace(value).is_some() {
            return Err(format!("`{key}` comes twice"));
        }
    }
    Ok(CpuTopology {
        core: core.ok_or("`core` is missing")?,
        llc: llc.unwrap_or(0),
        node: node.unwrap_or(0),
        capacity: capacity.unwrap_or(CAPACITY_MAX),
    })
}

/// A core lies in one LLC and has one capacity; an LLC lies in one node.
fn check_nesting(cpus: &[(usize, CpuTopology)]) -> Result<(), (usize, String)> {
    let mut core_at = BTreeMap::new();
    let mut llc_at = BTreeMap::new();
    for &(line, cpu) in cpus {
        let place = (cpu.llc, cpu.capacity);
        if *core_at.entry(cpu.core).or_insert(place) != place {
            let problem = format!("threads of core {} differ in llc or capacity", cpu.core);
            return Err((line, problem));
        }
        if *llc_at.entry(cpu.llc).or_insert(cpu.node) != cpu.node {
            return Err((line, format!("llc {} lies in two nodes", cpu.llc)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use harena_abi::Cpu;

    use super::*;

    fn place(t: &Topology, cpu: u32) -> (u32, u32, u32) {
        let c = t.get(Cpu::new(cpu)).unwrap();
        (c.core, c.llc, c.node)
    }

    #[test]
    fn counts_are_per_parent() {
        assert_eq!(parse_topology("8").unwrap(), default_topology());
        assert_eq!(parse_topology("8c").unwrap(), default_topology());
        let t = parse_topology("2n4l8c2t").unwrap();
        assert_eq!(t.nr_cpus(), 128);
        assert_eq!(place(&t, 0), (0, 0, 0));
        assert_eq!(place(&t, 63), (63, 7, 1));
        assert_eq!(place(&t, 64), (0, 0, 0), "second thread of the first core");
        assert_eq!(place(&t, 31 + 64), (31, 3, 0));
        assert_eq!(parse_topology("8192").unwrap().nr_cpus(), MAX_CPUS);
    }

    #[test]
    fn a_bad_string_names_the_character() {
        for (spec, at) in [
            ("", 1),
            ("x", 1),
            ("2n4x", 4),
            ("c", 1),
            ("2c4l", 4),
            ("2c2c", 4),
            ("0c", 1),
            ("2n", 3),
            ("4c2", 4),
            ("2n0l4c", 3),
            ("8c\u{e9}", 3),
            ("99999c", 1),
            ("18446744073709551616", 1),
            ("-1c", 1),
        ] {
            match parse_topology(spec) {
                Err(TopologyError::Spec { column, .. }) => assert_eq!(column, at, "{spec}"),
                other => panic!("{spec}: {other:?}"),
            }
        }
        let too_big = parse_topology("8192n8192l8192c8192t");
        assert_eq!(
            too_big,
            Err(TopologyError::TooBig {
                cpus: 8192u64.pow(4)
            })
        );
    }

    #[test]
    fn a_file_lists_cpus() {
        let text = br#"{ "cpus": [ // big and little
            { "core": 0 }, { "core": 1, "llc": 1, "node": 0, "capacity": 512 },
        ] }"#;
        let t = parse_topology_file(text).unwrap();
        assert_eq!(t.nr_cpus(), 2);
        assert_eq!(t.get(Cpu::new(1)).unwrap().capacity, 512);
    }

    #[test]
    fn a_bad_file_names_the_line() {
        for (text, at, part) in [
            ("{}", 1, "at least one"),
            ("{\"cpus\": []}", 1, "at least one"),
            ("{\n\"cpu\": []}", 2, "unknown key `cpu`"),
            ("{\"cpus\": [\n{}]}", 2, "`core` is missing"),
            ("{\"cpus\": [\n{\"core\": 0},\n7]}", 3, "expected an object"),
            ("{\"cpus\": [{\"core\": 1.5}]}", 1, "expected an integer"),
            (
                "{\"cpus\": [{\"core\": 0, \"capacity\": 0}]}",
                1,
                "1 to 1024",
            ),
            (
                "{\"cpus\": [{\"core\": 0},\n{\"core\":0,\"llc\":1}]}",
                2,
                "core 0",
            ),
            (
                "{\"cpus\": [{\"core\": 0},\n{\"core\":1,\"node\":1}]}",
                2,
                "llc 0",
            ),
        ] {
            match parse_topology_file(text.as_bytes()) {
                Err(TopologyError::File { line, problem }) => {
                    assert_eq!(line, at, "{text}");
                    assert!(problem.contains(part), "{text}: {problem}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(
            parse_topology_file(b"{\"cpus\": [\xff"),
            Err(TopologyError::Json(JsonError::Utf8 { line: 1 }))
        ));
    }
}
