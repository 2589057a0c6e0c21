//! Goal: what a program, its host and its user can observe of the engine.
//! Method: programs written as assembly text, run against a host that only counts; all of them
//! by both engines, and random ones whose ends are compared.
#![expect(clippy::duplicate_mod, reason = "the same tests for another engine")]

mod engines;

/// All tests for one engine.
macro_rules! tests_of {
    ($engine:expr) => {
        pub(crate) const ENGINE: harena_vm::Engine = $engine;

        #[path = "arena.rs"]
        mod arena;
        #[path = "hostile.rs"]
        mod hostile;
        #[path = "insns.rs"]
        mod insns;
        #[path = "maps.rs"]
        mod maps;
        #[path = "objects.rs"]
        mod objects;
        #[path = "random.rs"]
        mod random;
        #[path = "reports.rs"]
        mod reports;
        #[path = "streams.rs"]
        mod streams;
        #[path = "support.rs"]
        pub(crate) mod support;
    };
}

#[path = "."]
mod interpreter {
    tests_of!(harena_vm::Engine::Interpreter);
}

#[path = "."]
mod jit {
    tests_of!(harena_vm::Engine::Jit);
}
