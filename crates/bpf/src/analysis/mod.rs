//! What is known about a decoded program before it runs.
//!
//! | question | answer |
//! |---|---|
//! | through which registers does a program reach its arena? | [`mark`] |
//! | where does a memory operation go for certain? | [`bases`] |
//! | which of its code is dead on this kernel? | [`reached`] |
//! | how much of its frame does a function use? | [`stack_depths`] |
//! | which registers does it still need behind a call? | [`live_after`] |
//! | how many bits of each register may be set? | [`widths`] |
//! | what must be counted at once, where may execution arrive? | [`blocks`] |

mod bases;
mod blocks;
mod counted;
mod forward;
mod live;
mod space;
mod width;

pub use bases::{Base, bases, reached, stack_depths};
pub use blocks::{Arena, block_lengths as blocks};
pub use live::{RegSet, live_after, reads, writes};
pub use space::{Space, mark};
pub use width::{Widths, widths};
