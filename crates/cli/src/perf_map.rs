//! `--perf-map`: where machine code lies, for Linux `perf`.
//!
//! `perf` looks for `/tmp/perf-PID.map`, with a line `START SIZE name` for each symbol, numbers in
//! hexadecimal. This is the only output in which addresses of this process may stand.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use harena_vm::CodeRange;

use crate::{Failure, output};

/// Writes the map, with `prefix` before each symbol. It is left there: `perf report` comes later.
pub(crate) fn write(ranges: &[CodeRange], prefix: &str) -> Result<(), Failure> {
    if ranges.is_empty() {
        output::complain("note: --perf-map: programs are interpreted, there is no map to write");
        return Ok(());
    }
    let path = PathBuf::from(format!("/tmp/perf-{}.map", std::process::id()));
    let cannot = || format!("cannot write `{}`", path.display());
    // What lies there is of an earlier process with this number, or somebody's trap.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Failure::bad_input(cannot(), error));
        }
        Ok(()) | Err(_) => {}
    }
    File::create_new(&path)
        .and_then(|mut file| file.write_all(text(ranges, prefix).as_bytes()))
        .map_err(|error| Failure::bad_input(cannot(), error))
}

fn text(ranges: &[CodeRange], prefix: &str) -> String {
    let mut text = String::new();
    for range in ranges {
        let name: String = prefix
            .chars()
            .chain(range.symbol.chars())
            .map(plain)
            .collect();
        writeln!(text, "{:x} {:x} {name}", range.start, range.len)
            .expect("writing to a String cannot fail");
    }
    text
}

/// Names come from foreign files and may hold anything.
const fn plain(c: char) -> char {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '[' | ']' => c,
        _ => '_',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_lines() {
        let range = CodeRange {
            start: 0x7f00_0000_1000,
            len: 31,
            symbol: "a b\nc[rare]".to_owned(),
        };
        let line = "7f0000001000 1f bpf_prog_x_a_b_c[rare]\n";
        assert_eq!(text(&[range], "bpf_prog_x_"), line);
    }
}
