//! Case files: sections that begin with `-- NAME`, and `#` comments.
//!
//! | section | holds |
//! |---|---|
//! | `asm` | text for our assembler |
//! | `raw` | instructions, one 64-bit number a line |
//! | `mem` | what r1 points to, in hexadecimal bytes |
//! | `result` | r0 |
//! | `error` | the message, for a program without a result |

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use harena_bpf::isa::{self, Insn};
use harena_conformance::decode_hex;

/// What a program must come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    Result(u64),
    Error(String),
}

/// One case.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) insns: Vec<Insn>,
    pub(crate) memory: Vec<u8>,
    pub(crate) expected: Expected,
}

impl Case {
    /// The program's bytes.
    pub(crate) fn program(&self) -> Vec<u8> {
        self.insns.iter().flat_map(|insn| insn.to_bytes()).collect()
    }
}

/// All cases, by name.
pub(crate) fn all() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let entries = fs::read_dir(&folder).expect("the folder is there");
    let mut cases: Vec<Case> = entries
        .map(|entry| {
            let path = entry.expect("it can be read").path();
            let name = path.file_name().expect("an entry has a name");
            let name = name.to_string_lossy();
            let name = name.strip_suffix(".data");
            let name = name.unwrap_or_else(|| panic!("{} is no case", path.display()));
            let text = fs::read_to_string(&path).expect("a case is text");
            parse(name, &text).unwrap_or_else(|what| panic!("{name}: {what}"))
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// One of them.
pub(crate) fn named(name: &str) -> Case {
    let found = all().into_iter().find(|case| case.name == name);
    found.unwrap_or_else(|| panic!("there is no case {name}"))
}

fn parse(name: &str, text: &str) -> Result<Case, String> {
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    let mut section = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("-- ") {
            if sections.insert(name, String::new()).is_some() {
                return Err(format!("two sections {name}"));
            }
            section = Some(name);
            continue;
        }
        let line = line.split('#').next().unwrap_or_default().trim();
        match section.and_then(|name| sections.get_mut(name)) {
            Some(body) if !line.is_empty() => {
                body.push_str(line);
                body.push('\n');
            }
            None if !line.is_empty() => return Err(format!("`{line}` before any section")),
            Some(_) | None => {}
        }
    }
    let mut take = |name| sections.remove(name);
    let insns = match (take("asm"), take("raw")) {
        (Some(text), None) => isa::asm(&text).map_err(|error| error.to_string())?,
        (None, Some(text)) => text.lines().map(raw).collect::<Result<_, _>>()?,
        _ => return Err("neither asm nor raw, or both".to_owned()),
    };
    let memory = take("mem").unwrap_or_default();
    let expected = match (take("result"), take("error")) {
        (Some(text), None) => Expected::Result(number(text.trim())?),
        (None, Some(text)) => Expected::Error(text.trim().to_owned()),
        _ => return Err("neither result nor error, or both".to_owned()),
    };
    if let Some(name) = sections.keys().next() {
        return Err(format!("no section is called {name}"));
    }
    Ok(Case {
        name: name.to_owned(),
        insns,
        memory: decode_hex(memory.as_bytes()).map_err(|error| error.to_string())?,
        expected,
    })
}

fn raw(line: &str) -> Result<Insn, String> {
    Ok(Insn::from_bytes(number(line)?.to_le_bytes()))
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("`{text}`: {error}"))
}

#[test]
fn cases_that_are_none_are_refused() {
    let refused = |text: &str| parse("bad", text).unwrap_err();
    assert_eq!(refused("exit"), "`exit` before any section");
    assert_eq!(refused("-- asm\n-- asm"), "two sections asm");
    assert_eq!(refused("-- mem\n00"), "neither asm nor raw, or both");
    assert_eq!(refused("-- asm\nexit"), "neither result nor error, or both");
    let extra = "-- asm\nexit\n-- result\n0\n-- no register offset\n1";
    assert_eq!(refused(extra), "no section is called no register offset");
    let number = "-- raw\n0x95z\n-- result\n0";
    assert_eq!(refused(number), "`0x95z`: invalid digit found in string");
}
