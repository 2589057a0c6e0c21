//! The examples run, and find no surprise: they end with an error where they do.

#[path = "../../examples/producer_consumer.rs"]
mod producer_consumer;
#[path = "../../examples/recovery.rs"]
mod recovery;

#[test]
fn a_host_and_sandboxed_code_exchange_records_in_place() {
    producer_consumer::main().expect("no surprise");
}

#[test]
fn recovery_is_shown() {
    recovery::main().expect("no surprise");
}
