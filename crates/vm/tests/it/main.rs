//! Goal: what a program, its host and its user can observe of the engine.
//! Method: programs written as assembly text, run against a host that only counts; all of them
//! by both engines, and random ones whose ends are compared.
#![expect(clippy::duplicate_mod, reason = "the same tests for another engine")]

mod checked;
mod engines;
mod live;
mod numbers;
mod shrink;
mod sweep;

#[path = "."]
mod interpreter {
    const ENGINE: harena_vm::Engine = harena_vm::Engine::Interpreter;
    #[path = "suite.rs"]
    pub(crate) mod suite;
}

#[path = "."]
mod jit {
    const ENGINE: harena_vm::Engine = harena_vm::Engine::Jit;
    #[path = "suite.rs"]
    mod suite;
}
