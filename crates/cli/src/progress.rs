//! The line that moves while a simulation runs: on a terminal only, and gone afterwards.

use std::io::{IsTerminal, stderr};

use harena_abi::{Nanos, SimTime};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the line may change; more would cost time and show nothing more.
const CHANGES_PER_SECOND: u8 = 10;

/// Whether to show one at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Show {
    /// If standard error is a terminal.
    OnTerminal,
    /// Never.
    Never,
}

/// The line.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A line for a simulation of `total`.
    pub(crate) fn new(show: Show, total: Nanos) -> Self {
        if show == Show::Never || !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(
            Some(total.as_ns() / NS_PER_MS),
            ProgressDrawTarget::stderr_with_hz(CHANGES_PER_SECOND),
        );
        let style =
            ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg} events, {eta} left")
                .expect("the template is well-formed");
        bar.set_style(style);
        bar.set_message("0");
        Self(bar)
    }

    /// The simulation has come to `now`, after `events`.
    pub(crate) fn at(&self, now: SimTime, events: u64) {
        self.0.set_position(now.as_ns() / NS_PER_MS);
        self.0.set_message(events.to_string());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

const NS_PER_MS: u64 = 1_000_000;
