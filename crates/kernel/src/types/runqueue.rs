//! A CPU's run queue, as far as schedulers read it.

use super::ctype::{Ptr, ctypes};
use super::task::task_struct;

ctypes! {
    /// A run queue.
    struct rq {
        cpu: i32,
        curr: Ptr<task_struct>,
        idle: Ptr<task_struct>,
        clock: u64,
        clock_task: u64,
    }
}
