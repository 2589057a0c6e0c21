//! Loading the committed objects and running them.

use harena_abi::Nanos;
use harena_bpf::btf::Value;
use harena_bpf::{GlobalValue, Object};
use harena_kernel::{BpfScheduler, LoadError, LoadOptions};
use harena_sim::{Outcome, SimConfig, Simulation, Workload, parse_topology};
use harena_vm::Engine;

/// The committed object `bpf/{name}.bpf.o`.
pub(crate) fn object(name: &str) -> Object {
    let path = format!("{}/../../bpf/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    Object::parse(&format!("{name}.bpf.o"), &bytes).unwrap()
}

/// Settings as a command line would give them.
pub(crate) fn options(sets: &[(&str, &str)]) -> LoadOptions {
    LoadOptions {
        sets: sets
            .iter()
            .map(|(path, value)| ((*path).to_owned(), GlobalValue::from_text(value)))
            .collect(),
        ..LoadOptions::default()
    }
}

/// The error of loading `name`, which must fail.
pub(crate) fn load_error(name: &str) -> LoadError {
    load_error_with(name, |_| {})
}

/// The same with other options.
pub(crate) fn load_error_with(name: &str, change: impl FnOnce(&mut LoadOptions)) -> LoadError {
    let mut options = LoadOptions::default();
    change(&mut options);
    let topology = parse_topology("1n1l4c1t").unwrap();
    BpfScheduler::load(object(name), &options, &topology)
        .map(|_| ())
        .expect_err("must not load")
}

/// What to run.
pub(crate) struct Run<'a> {
    pub(crate) name: &'a str,
    pub(crate) sets: &'a [(&'a str, &'a str)],
    pub(crate) topology: &'a str,
    pub(crate) workload: Workload,
    pub(crate) ms: u64,
}

impl<'a> Run<'a> {
    /// A mixed workload on 8 CPUs for a moment.
    pub(crate) fn mixed(name: &'a str) -> Self {
        Self {
            name,
            sets: &[],
            topology: "2n1l2c2t",
            workload: Workload::mixed(),
            ms: 300,
        }
    }

    /// Runs it to its end.
    pub(crate) fn go(self) -> (Outcome, BpfScheduler) {
        self.go_with(|_| {})
    }

    /// Runs it with other load options, in both engines, which must agree.
    pub(crate) fn go_with(self, change: impl FnOnce(&mut LoadOptions)) -> (Outcome, BpfScheduler) {
        let mut options = options(self.sets);
        change(&mut options);
        let interpreted = self.once(&LoadOptions {
            engine: Engine::Interpreter,
            ..options.clone()
        });
        let compiled = self.once(&LoadOptions {
            engine: Engine::Jit,
            ..options
        });
        assert_eq!(compiled.1.jit_refused(), None);
        assert_eq!(interpreted.0.digest, compiled.0.digest);
        assert_eq!(interpreted.0.exit, compiled.0.exit);
        assert_eq!(interpreted.0.events, compiled.0.events);
        assert_eq!(interpreted.1.insns(), compiled.1.insns());
        assert_eq!(interpreted.1.violations(), compiled.1.violations());
        assert_eq!(interpreted.1.abort(), compiled.1.abort());
        assert!(interpreted.1.tracing().eq(compiled.1.tracing()));
        compiled
    }

    #[expect(
        clippy::large_stack_frames,
        reason = "a whole simulation, once per test"
    )]
    fn once(&self, options: &LoadOptions) -> (Outcome, BpfScheduler) {
        let topology = parse_topology(self.topology).unwrap();
        let (scheduler, image) = BpfScheduler::load(object(self.name), options, &topology).unwrap();
        let mut config = SimConfig::new(topology, self.workload.clone());
        config.duration = Nanos::from_ms(self.ms);
        config.checks = harena_sim::CheckTier::Full;
        let mut simulation = Simulation::new(config, scheduler, image, None).unwrap();
        let outcome = simulation.run(&mut |_| {}).unwrap();
        (outcome, simulation.into_parts().0)
    }
}

/// A workload of one task group.
pub(crate) fn workload(tasks: &str) -> Workload {
    let text = format!("{{ \"tasks\": {{ {tasks} }} }}");
    Workload::parse("test.json", text.as_bytes()).unwrap()
}

/// An integer global.
pub(crate) fn int(scheduler: &BpfScheduler, path: &str) -> i128 {
    let value = scheduler.global(path).unwrap();
    let Value::Int(value) = value else {
        panic!("{path} is {value}");
    };
    value
}
