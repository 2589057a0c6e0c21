//! What is known about a decoded program before it runs.

mod space;

pub use space::{Space, mark};
