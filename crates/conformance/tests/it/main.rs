//! Goal: every instruction up to cpu v4 means what the instruction set says, in both engines.
//! Method: one file a case, in the conformance tests' format with our assembler's text; all of
//! them in process, a handful through the built plugin.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod case;
mod cases;
mod coverage;
#[path = "../../../bpf/tests/it/elf_writer.rs"]
#[expect(dead_code, reason = "the parser's own tests use more of it")]
mod elf_writer;
mod plugin;
