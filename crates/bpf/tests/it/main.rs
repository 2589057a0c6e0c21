//! Goal: objects as compilers write them, and as nobody would, come out as promised.
//! Method: committed objects of our own (`tests/fixtures`), a made-up kernel, golden text.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod core_reloc;
mod elf_writer;
mod globals;
mod hostile;
mod isa;
mod jump_tables;
mod kernel;
mod linking;
mod maps;
mod objects;
mod static_link;
