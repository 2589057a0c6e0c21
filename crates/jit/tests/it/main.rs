//! Golden code.
