//! BPF execution.
