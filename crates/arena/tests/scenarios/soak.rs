//! The soak runs for a few seconds, and finds what it must. (For longer: `cargo xtask soak arena`.)

#[expect(dead_code, reason = "the command line is not used")]
#[path = "../../examples/soak/main.rs"]
mod random;

use std::time::Duration;

use random::{Hosts, Settings};

const SETTINGS: Settings = Settings {
    length: Duration::from_secs(2),
    seed: 0x50a4,
    threads: 4,
    hosts: Hosts::Fair,
};

#[test]
fn all_operations_at_random_agree_with_the_model() {
    random::soak(SETTINGS).expect("no violation");
}

#[test]
fn canary_the_soak_finds_writes_to_pages_of_others() {
    let found = random::soak(Settings {
        length: Duration::ZERO,
        seed: 7,
        hosts: Hosts::Unfair,
        ..SETTINGS
    });
    let error = found.expect_err("hosts write where they must not");
    assert!(error.contains("violations"), "{error}");
}
