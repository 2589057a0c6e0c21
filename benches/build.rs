//! Compiles the native peers of the BPF programs.

fn main() {
    #[cfg(feature = "peers")]
    native();
}

#[cfg(feature = "peers")]
fn native() {
    println!("cargo::rerun-if-changed=native");
    println!("cargo::rerun-if-changed=../bpf/bench");
    let compile = |name: &str, flags: &[&str]| {
        let mut build = cc::Build::new();
        build
            .include("../bpf/bench")
            .file(format!("native/{name}.c"))
            .opt_level(2)
            .flag("-fno-strict-aliasing")
            .flag("-Wno-parentheses")
            .flag_if_supported("-falign-loops=64");
        for flag in flags {
            build.flag_if_supported(flag);
        }
        build.compile(name);
    };
    compile("native", &[]);
    // Clang's and GCC's names for the same.
    compile(
        "plain",
        &[
            "-fno-unroll-loops",
            "-fno-vectorize",
            "-fno-slp-vectorize",
            "-fno-tree-vectorize",
            "-fno-tree-slp-vectorize",
            "-fno-builtin",
        ],
    );
}
