//! trace.
#![forbid(unsafe_code)]
