//! BPF arenas in user space.
