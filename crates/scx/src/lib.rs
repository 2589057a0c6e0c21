//! scx.
#![forbid(unsafe_code)]
