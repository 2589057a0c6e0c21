//! The examples run, and find no surprise: they end with an error where they do.

#[path = "../../examples/producer_consumer.rs"]
mod producer_consumer;
#[path = "../../examples/recovery.rs"]
mod recovery;
#[expect(dead_code, reason = "the command line is not used")]
#[path = "../../examples/two_processes.rs"]
mod two_processes;

use crate::children::{child, command};

#[test]
fn a_host_and_sandboxed_code_exchange_records_in_place() {
    producer_consumer::main().expect("no surprise");
}

#[test]
fn recovery_is_shown() {
    recovery::main().expect("no surprise");
}

child!(child_second_process, {
    two_processes::second().expect("no surprise");
});

#[test]
fn two_processes_build_one_list() {
    two_processes::first(&mut command("examples::child_second_process")).expect("no surprise");
}
