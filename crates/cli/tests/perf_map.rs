//! Goal: `--perf-map` names all machine code, and no address gets out in any other way.
//! Method: start the built binary; read its map while it runs, beside the kernel's list of its
//! memory.

mod harena;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use harena::{harena, object};

/// Long enough that it does not end by itself meanwhile.
const LONG: &str = "100000s";

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harena"));
        let command = command.args(args).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("the binary starts"))
    }

    fn map(&self) -> String {
        format!("/tmp/perf-{}.map", self.0.id())
    }

    /// The map, once it is there, and the kernel's list.
    fn maps(&self) -> (String, String) {
        for _ in 0..1000 {
            if let Ok(map) = fs::read_to_string(self.map())
                && map.ends_with('\n')
            {
                let list = format!("/proc/{}/maps", self.0.id());
                return (map, fs::read_to_string(list).unwrap_or_default());
            }
            sleep(Duration::from_millis(10));
        }
        panic!("there is no map after ten seconds");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _waited_for = self.0.wait();
        let _never_written = fs::remove_file(self.map());
    }
}

/// Start, size and name of each line.
fn lines(map: &str) -> Vec<(u64, u64, &str)> {
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
    let lines = map.lines().map(|line| {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().expect("three words");
        (hex(word()), hex(word()), word())
    });
    lines.collect()
}

#[test]
fn each_function_lies_in_executable_memory_under_its_name() {
    let process = Process::start(&["run", &object("levels"), "-d", LONG, "--perf-map"]);
    let (map, memory) = process.maps();
    let executable: Vec<(u64, u64)> = memory
        .lines()
        .filter(|line| line.contains(" r-xp "))
        .map(|line| {
            let (start, rest) = line.split_once('-').unwrap();
            let (end, _) = rest.split_once(' ').unwrap();
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            (hex(start), hex(end))
        })
        .collect();
    let lines = lines(&map);
    let mut end_before = 0;
    for &(start, size, name) in &lines {
        assert!(size > 0, "{name}");
        assert!(start >= end_before, "{name} overlaps what is before it");
        end_before = start + size;
        let inside = |of: &(u64, u64)| of.0 <= start && end_before <= of.1;
        assert!(executable.iter().any(inside), "{name}: {memory}");
        assert!(name.starts_with("bpf_prog_levels_levels_"), "{name}");
    }
    for name in [
        "bpf_prog_levels_levels_enqueue[entry]",
        "bpf_prog_levels_levels_enqueue",
        "bpf_prog_levels_levels_enqueue[rare]",
        "bpf_prog_levels_levels_enqueue[shared]",
    ] {
        assert!(lines.iter().any(|line| line.2 == name), "{name}: {map}");
    }
}

/// What it prints, without the time that it took, and its map.
fn printed_and_map(args: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harena"));
    let child = command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let child = child.spawn().expect("the binary starts");
    let path = format!("/tmp/perf-{}.map", child.id());
    let output = child.wait_with_output().expect("the child is ours");
    let map = fs::read_to_string(&path).unwrap_or_default();
    let _never_written = fs::remove_file(&path);
    let text = String::from_utf8(output.stdout).expect("harena prints UTF-8");
    let kept = text.lines().filter(|line| !line.contains("\"wall_ns\""));
    (kept.collect::<Vec<_>>().join("\n"), map)
}

#[test]
fn the_map_is_all_that_changes() {
    let path = object("wild");
    let args = ["run", &path, "-d", "100ms", "--format", "json"];
    let (plain, none) = printed_and_map(&args);
    assert_eq!(none, "");
    let (printed, map) = printed_and_map(&[&args[..], &["--perf-map"]].concat());
    assert_eq!(plain, printed);
    for (start, _, name) in lines(&map) {
        assert!(!printed.contains(&format!("{start:x}")), "{name}");
        assert!(!printed.contains(&start.to_string()), "{name}");
    }
    assert!(map.contains(" bpf_prog_wild_"), "{map}");
}

#[test]
fn interpreted_programs_have_no_map() {
    let run = harena(&["run", "-d", "1ms", "--engine", "interp", "--perf-map"]);
    let note = "note: --perf-map: programs are interpreted, there is no map to write";
    run.ends_saying(0, note);
}

#[test]
fn single_programs_have_no_scheduler_in_their_names() {
    let of = object("tests/syscall");
    let process = Process::start(&["prog", "run", &of, "endless", "--perf-map"]);
    let (map, _) = process.maps();
    let names: Vec<&str> = lines(&map).into_iter().map(|line| line.2).collect();
    assert!(names.contains(&"bpf_prog_endless"), "{map}");
    assert!(names.contains(&"bpf_prog_syscall_enqueue"), "{map}");
}
