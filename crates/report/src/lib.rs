//! Results of a run, of a single program's too, and what an object holds, as text for people and
//! JSON for programs.
//!
//! Both structs are plain data: whoever ran something fills them in, and this crate only
//! shows them. Equal data gives equal bytes; nothing here asks for the time, the terminal
//! or the locale. Strings of foreign files are escaped in text ([`escape`]).
//!
//! ```
//! use harena_report::Results;
//!
//! let results = Results { seed: 7, ..Results::default() };
//! assert!(results.to_text().contains("seed        7"));
//! assert!(results.to_json().contains("\"seed\": 7"));
//! ```
#![forbid(unsafe_code)]

mod disassembly;
mod escape;
mod hex;
mod inspection;
mod program_run;
mod results;
mod table;
mod text;
mod units;

pub use disassembly::{Disassembly, FunctionInfo, InsnInfo, NativeCode, NativeInsn, NativeShared};
pub use escape::{escape, escape_lines};
pub use inspection::{
    ArenaInfo, ExternInfo, Inspection, MapInfo, OpInfo, OpsInfo, ProgramInfo, Unsupported,
};
pub use program_run::ProgramRun;
pub use results::{
    ArenaUse, Counts, CpuUse, Exit, Group, Latency, Machine, Output, Results, Scheduler,
    SourceLine, Stall, Tracing, Violation, Workload,
};

/// What this writes.
fn text(write: impl FnOnce(&mut String) -> std::fmt::Result) -> String {
    let mut out = String::new();
    write(&mut out).expect("writing to a String cannot fail");
    out
}

/// Pretty JSON with a line break at its end.
fn json(value: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value)
        .expect("these structs hold no map with other keys than strings, and writing to a String cannot fail");
    text.push('\n');
    text
}
