//! What the core asks of the hardware it runs on.

use harena_abi::{Cpu, Nanos, SimTime};

use crate::Event;

/// Work whose simulated cost the machine decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cost {
    /// BPF instructions executed on the current CPU.
    Insns(u64),
    /// A task's move between run queues.
    Migration,
    /// A fixed delay.
    Time(Nanos),
}

/// One-shot wakeups of the core itself; arming one again moves it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Alarm {
    /// `Core::alarm` scans for stalled tasks.
    Watchdog,
}

/// The machine under the core: time, reschedule requests, costs.
///
/// No method may call back into the core; each request is answered by a later event.
pub trait Machine {
    /// The current simulated time. Constant within one event.
    fn now(&self) -> SimTime;

    /// The CPU whose code runs now (`smp_processor_id()`).
    fn this_cpu(&self) -> Cpu;

    /// Sets `need_resched` on `cpu`; `Core::schedule(cpu)` follows at this CPU's next
    /// opportunity, after an IPI if it is another one. Idempotent until then.
    fn resched(&mut self, cpu: Cpu);

    /// Asks for `Core::irq_work(cpu)` as soon as the current event is over.
    fn irq_work(&mut self, cpu: Cpu);

    /// Asks for `Core::alarm(which)` at `at`; replaces an earlier request.
    fn arm(&mut self, which: Alarm, at: SimTime);

    /// Arms a timer of the scheduler (a BPF timer): `SchedOps::timer(key)` at `at`.
    fn timer_arm(&mut self, key: u64, cpu: Cpu, at: SimTime);

    /// Disarms it; true if it was armed.
    fn timer_cancel(&mut self, key: u64) -> bool;

    /// Charges work to the CPU whose code runs now.
    fn charge(&mut self, cost: Cost);

    /// A number of the run's seeded stream.
    fn random(&mut self) -> u64;

    /// Records what happened, for the trace and the checkers.
    fn note(&mut self, event: Event);
}
