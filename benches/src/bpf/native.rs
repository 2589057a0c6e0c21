//! The programs as the host's compiler makes them (`benches/native`).

/// A program of the host.
pub(super) type Native = unsafe extern "C" fn(*mut u8) -> u64;

macro_rules! natives {
    ($($name:literal: $full:ident, $plain:ident;)*) => {
        unsafe extern "C" {
            $(fn $full(memory: *mut u8) -> u64; fn $plain(memory: *mut u8) -> u64;)*
        }

        /// A program as `-O2` makes it, and without unrolled loops and vectors.
        pub(super) fn native(name: &str) -> (Native, Native) {
            match name {
                $($name => ($full, $plain),)*
                _ => unreachable!("no program is called {name}"),
            }
        }
    };
}

natives! {
    "fnv": native_fnv, plain_fnv;
    "sieve": native_sieve, plain_sieve;
    "muldiv": native_muldiv, plain_muldiv;
    "search": native_search, plain_search;
    "walk": native_walk, plain_walk;
    "bits": native_bits, plain_bits;
    "insertion": native_insertion, plain_insertion;
    "copy": native_copy, plain_copy;
}
