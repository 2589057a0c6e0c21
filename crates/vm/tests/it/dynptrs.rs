//! Dynptrs, strings and iterators over bits: what Linux 6.18 (x86-64, through libbpf) answers, and
//! what a verifier refuses. Where 7.3 has grown, it says so here.

use super::owned::Machine;

#[test]
fn dynptrs_do_what_linux_6_18_does() {
    let mut machine = Machine::new("dynptr");
    machine.replay(include_str!("dynptr-linux-6.18.txt"));
    let ring = machine.map("ring");
    let records = machine.vm.ringbuf_drain(ring);
    let record = |word: u64| [word.to_le_bytes(), (!word).to_le_bytes()].concat();
    assert_eq!(records, [record(5), record(7)]);
}

#[test]
fn strings_and_bits_do_what_linux_6_18_does() {
    Machine::new("strings").replay(include_str!("strings-linux-6.18.txt"));
}

#[test]
fn offsets_and_lengths_have_64_bits_as_in_7_3() {
    let e2big = u64::MAX - 6;
    let mut machine = Machine::new("dynptr");
    let (ret, out) = machine.run("errors", &[8, 1 << 32]);
    assert_eq!((ret, &out[..2]), (0, &[e2big, e2big][..]));
    assert_eq!(machine.run("sliced", &[5]).1[..2], [5, 1]);
}

#[test]
fn case_is_ignored_in_four_kfuncs_of_7_3() {
    let (ret, out) = Machine::new("strings").run("caseless", &[]);
    let enoent = u64::MAX - 1;
    assert_eq!((ret, &out[..8]), (0, &[0, 1, 1, 0, 1, 2, 2, enoent][..]));
}

/// What is said of dynptrs, by the mode that provokes it. `D` stands for an address.
const MISUSES: &[(u64, &str)] = &[
    (
        1,
        "dynptr of ring buffer record D, reserved here by `bpf_ringbuf_reserve_dynptr`, is not \
         submitted or discarded at the program's end",
    ),
    (
        2,
        "dynptr of ring buffer record D, reserved here by `bpf_ringbuf_reserve_dynptr`, is not \
         submitted or discarded at the program's end",
    ),
    (3, "`bpf_ringbuf_submit_dynptr`: D is no dynptr"),
    (
        4,
        "`bpf_ringbuf_submit_dynptr`: dynptr of ring buffer record D is not reserved",
    ),
    (
        5,
        "`bpf_dynptr_read`: dynptr of ring buffer record D is not reserved any more: it was \
         submitted or discarded by `bpf_ringbuf_submit_dynptr`",
    ),
    (6, "`bpf_dynptr_read`: D is no dynptr"),
    (7, "`bpf_dynptr_read`: D is no dynptr"),
    (
        8,
        "`bpf_dynptr_from_mem`: D is on the stack, where a dynptr points not",
    ),
    (
        9,
        "`bpf_dynptr_from_mem`: a dynptr at D, which is not on the stack",
    ),
    (
        10,
        "`bpf_dynptr_from_mem`: WRITE of 8 bytes at 0x1234: no such guest memory",
    ),
    (
        11,
        "`bpf_dynptr_read`: WRITE of 8 bytes at 0x1234: no such guest memory",
    ),
];

#[test]
fn misused_dynptrs_end_the_run() {
    let mut machine = Machine::new("dynptr");
    for (mode, message) in MISUSES {
        let error = machine.error("misuse", &[*mode]);
        let (place, text) = error.split_once(".bpf.c:").expect("a line");
        assert!(place.starts_with("program `misuse`, insn "), "{error}");
        let (_, mut text) = text.split_once("): ").expect("a message");
        if let Some((before, _)) = text.split_once(" at program `misuse`") {
            text = before;
        }
        let text: Vec<&str> = text.split_whitespace().collect();
        let address = |word: &&str| word.starts_with("0xffff88");
        let words = text.iter().map(|word| match word {
            _ if address(word) && word.ends_with(',') => "D,",
            _ if address(word) => "D",
            _ => word,
        });
        assert_eq!(words.collect::<Vec<_>>().join(" "), *message, "{mode}");
        // Nothing is left, and what is right runs.
        assert_eq!(machine.run("misuse", &[0]).0, 0);
        let ring = machine.map("ring");
        machine.vm.ringbuf_drain(ring);
    }
}

#[test]
fn iterators_over_bits_are_destroyed_once() {
    let error = |rest: &str| {
        let kfunc = |name: &str| format!("call kfunc {}", super::support::generic(name));
        let text = format!(
            "r1 = r10; r1 += -16; r2 = r10; r2 += -24; *(u64 *)(r10 - 24) = 5; r3 = 1; {}; {}",
            kfunc("bpf_iter_bits_new"),
            rest.replace("next", &kfunc("bpf_iter_bits_next"))
                .replace("destroy", &kfunc("bpf_iter_bits_destroy"))
                .replace("it;", "r1 = r10; r1 += -16;")
        );
        let mut bench = super::support::Bench::new(&text, Vec::new());
        let ended = bench.try_run(0).map(|result| result.ret);
        ended.map_err(|abort| abort.to_string())
    };
    let destroyed = "it; next; r6 = *(u32 *)(r0 + 0); it; next; r0 = *(u32 *)(r0 + 0); r6 += r0
        it; next; r6 += r0; it; destroy; r0 = r6; exit";
    assert_eq!(error(&destroyed.replace('\n', ";")), Ok(2));
    assert!(
        error("r0 = 0; exit")
            .unwrap_err()
            .contains(", created here by `bpf_iter_bits_new`, is not destroyed")
    );
    assert!(
        error("it; destroy; it; next; exit")
            .unwrap_err()
            .contains("is not created any more: it was destroyed")
    );
}

#[test]
fn who_may_not_sleep_copies_nothing_from_users() {
    for name in ["bpf_copy_from_user_str", "bpf_copy_from_user_task_str"] {
        let id = super::support::generic(name);
        let mut bench = super::support::Bench::new(&format!("call kfunc {id}; exit"), Vec::new());
        let error = bench.try_run(0).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("kfunc `{name}` is not allowed here")),
            "{error}"
        );
    }
}
