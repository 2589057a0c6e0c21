//! What a run acquires it gives back, once; else it ends with an error that says where.

use harena_abi::{Errno, KernAddr};
use harena_bpf::{LinkedMap, MapType, SpecialField, SpecialKind};
use harena_vm::Object;

use super::support::{ACQUIRE, Bench, RELEASE, RUN_AGAIN, SLEEPS, generic, map, object, program};

/// A program's text with the engine's kfuncs by their names: `call rcu_read_lock`.
fn text(text: &str) -> String {
    let mut text = text.to_owned();
    for kfunc in harena_vm::generic_kfuncs() {
        let id = generic(kfunc.name);
        text = text.replace(
            &format!("call {};", kfunc.name),
            &format!("call kfunc {id};"),
        );
    }
    for (name, id) in [
        ("test_acquire", ACQUIRE),
        ("test_release", RELEASE),
        ("test_sleeps", SLEEPS),
        ("test_run_again", RUN_AGAIN),
    ] {
        text = text.replace(&format!("call {name};"), &format!("call kfunc {id};"));
    }
    text
}

/// Memory for two things of any kind.
fn data() -> Vec<LinkedMap> {
    use SpecialKind::{KptrRef, ResSpinLock, SpinLock};
    let field = |kind, offset| SpecialField {
        kind,
        offset,
        size: 8,
        target: None,
        contains: None,
    };
    vec![LinkedMap {
        special_fields: [KptrRef, ResSpinLock, SpinLock]
            .into_iter()
            .flat_map(|kind| [field(kind, 0), field(kind, 8)])
            .collect(),
        ..map(MapType::ARRAY, 4, 16, 1)
    }]
}

fn bench(source: &str) -> Bench {
    Bench::new(&text(source), data())
}

/// The error of a program, with `D` for the address of the data and `F` for the frame pointer.
fn error(source: &str) -> String {
    let mut bench = bench(source);
    let error = bench.try_run(0).expect_err(source).to_string();
    let data = bench.vm.map(bench.loaded.maps[0]).value_addr();
    let data = data.expect("an array has one").raw();
    // Nothing is left: what is fine runs afterwards, and ends the same way again.
    assert_eq!(bench.try_run(0).expect_err(source).to_string(), error);
    let word = |offset| bench.vm.mem().read_u32(KernAddr::new(data + offset));
    assert_eq!((word(0), word(8)), (Ok(0), Ok(0)), "{source}");
    let frame = frame_pointer();
    error
        .replace(&format!("{data:#x}"), "D")
        .replace(&format!("{:#x}", data + 8), "D+8")
        .replace(&format!("{:#x}", frame - 8), "F-8")
        .replace(&format!("{:#x}", frame - 16), "F-16")
}

fn frame_pointer() -> u64 {
    Bench::new("r0 = r10; exit", Vec::new()).run(0)
}

#[test]
fn what_is_given_back_is_no_error() {
    for source in [
        "r1 = 0x70; call test_acquire; r1 = r0; call test_release; r0 = 0; exit",
        "r1 = 0; call test_acquire; exit",
        // Two references to one object.
        "r1 = 0x70; call test_acquire; r1 = 0x70; call test_acquire; r1 = 0x70
         call test_release; r1 = 0x70; call test_release; r0 = 0; exit",
        // Handed over to a map and taken out of it.
        "r1 = 0x70; call test_acquire; r2 = r0; r1 = map_value(0, 0) ll; call 194
         r1 = map_value(0, 0) ll; r2 = 0; call 194; r1 = r0; call test_release; r0 = 0; exit",
        "r1 = map_value(0, 0) ll; call 93; r1 = map_value(0, 0) ll; call 94; r0 = 0; exit",
        "call bpf_rcu_read_lock; call bpf_rcu_read_lock; call bpf_rcu_read_unlock
         call bpf_rcu_read_unlock; call bpf_preempt_disable; call bpf_preempt_enable; r0 = 0; exit",
        "r1 = r10; r1 += -8; call bpf_local_irq_save; r1 = r10; r1 += -8
         call bpf_local_irq_restore; r0 = 0; exit",
        "r1 = map_value(0, 0) ll; call bpf_res_spin_lock; r1 = map_value(0, 8) ll
         r2 = r10; r2 += -8; call bpf_res_spin_lock_irqsave; r1 = map_value(0, 8) ll; r2 = r10
         r2 += -8; call bpf_res_spin_unlock_irqrestore; r1 = map_value(0, 0) ll
         call bpf_res_spin_unlock; r0 = 0; exit",
    ] {
        let source = source.replace('\n', "; ");
        let mut bench = bench(&source);
        assert_eq!((bench.run(0), bench.run(0)), (0, 0), "{source}");
        assert!(bench.host.given_back.is_empty());
    }
}

#[test]
fn a_reference_is_released_once() {
    assert_eq!(
        error("r1 = 0x70; call test_acquire; r0 = 0; exit"),
        "program `main`, insn 1: test_object 0x70, acquired here by `test_acquire`, is not \
         released at the program's end"
    );
    assert_eq!(
        error(
            "r1 = 0x70; call test_acquire; r1 = 0x70; call test_release; r1 = 0x70; call test_release; exit"
        ),
        "program `main`, insn 5: `test_release`: test_object 0x70 is not acquired any more: it was \
         released by `test_release` at program `main`, insn 3"
    );
    assert_eq!(
        error("r1 = 0x70; call test_release; exit"),
        "program `main`, insn 1: `test_release`: test_object 0x70 is not acquired"
    );
    assert_eq!(
        error("r1 = 0; call test_release; exit"),
        "program `main`, insn 1: `test_release`: test_object 0x0 is not acquired"
    );
}

#[test]
fn a_map_takes_over_only_what_is_held() {
    let swap = "r1 = map_value(0, 8) ll; r2 = 0x70; call 194; r0 = 0; exit";
    assert_eq!(
        error(swap),
        "program `main`, insn 3: `bpf_kptr_xchg`: kptr 0x70 is not acquired"
    );
    let stored = "r1 = 0x70; call test_acquire; r1 = map_value(0, 8) ll; r2 = r0; call 194
        r1 = 0x70; call test_release; exit"
        .replace('\n', ";");
    let mut bench = bench(&stored);
    assert_eq!(
        bench.try_run(0).unwrap_err().to_string(),
        "program `main`, insn 7: `test_release`: test_object 0x70 is not acquired any more: it was \
         released by `bpf_kptr_xchg` at program `main`, insn 5"
    );
    // It is the map's, so nobody gives it back.
    assert!(bench.host.given_back.is_empty());
    // What was in the map is the program's.
    let taken = "r1 = map_value(0, 8) ll; r2 = 0; call 194; r0 = 0; exit";
    let mut bench = Bench::new(&text(taken), data());
    let at = bench.vm.map(bench.loaded.maps[0]).value_addr().unwrap();
    bench
        .vm
        .mem()
        .write_u64(at.checked_add(8).unwrap(), 0x70)
        .unwrap();
    assert_eq!(
        bench.try_run(0).unwrap_err().to_string(),
        "program `main`, insn 3: kptr 0x70, acquired here by `bpf_kptr_xchg`, is not released at \
         the program's end"
    );
    assert_eq!(bench.host.given_back, [(Object::Kptr, 0x70)]);
}

#[test]
fn the_host_gets_back_what_is_left_newest_first() {
    let source =
        "r1 = 0x70; call test_acquire; r1 = 0x80; call test_acquire; r0 = *(u64 *)(r10 + 0); exit";
    let object = |addr| (Object::Reference("test_object"), addr);
    let mut bench = bench(&source.replace("r0 = *(u64 *)(r10 + 0)", "call 250"));
    let error = bench.try_run(0).unwrap_err().to_string();
    // The error that ended the run stays.
    assert_eq!(error, "program `main`, insn 4: helper 250 is not supported");
    assert_eq!(bench.host.given_back, [object(0x80), object(0x70)]);
}

#[test]
fn an_exception_releases_nothing() {
    assert_eq!(
        error("r1 = 0x70; call test_acquire; r1 = 77; call bpf_throw; exit"),
        "program `main`, insn 1: test_object 0x70, acquired here by `test_acquire`, is not \
         released at the program's end"
    );
}

#[test]
fn records_are_submitted_or_discarded() {
    let ring = || vec![map(MapType::RINGBUF, 0, 0, 4096)];
    let reserve = "r1 = map(0) ll; r2 = 8; r3 = 0; call 131";
    let mut bench = Bench::new(&format!("{reserve}; r0 = 0; exit"), ring());
    let error = bench.try_run(0).unwrap_err().to_string();
    let (start, end) = error.split_once("0x").unwrap();
    assert_eq!(start, "program `main`, insn 4: ring buffer record ");
    assert!(
        end.ends_with(
            ", reserved here by `bpf_ringbuf_reserve`, is not submitted or discarded at the \
             program's end"
        ),
        "{error}"
    );
    // Discarded, so that later records are not held up.
    let output =
        "*(u64 *)(r10 - 8) = 3; r1 = map(0) ll; r2 = r10; r2 += -8; r3 = 8; r4 = 0; call 130";
    let mut bench = Bench::new(&format!("{reserve}; {output}; exit"), ring());
    bench.try_run(0).unwrap_err();
    let records = bench.vm.ringbuf_drain(bench.loaded.maps[0]);
    assert_eq!(records, [3u64.to_le_bytes().to_vec()]);
    let twice =
        format!("{reserve}; r6 = r0; r1 = r6; r2 = 0; call 132; r1 = r6; r2 = 0; call 133; exit");
    let error = Bench::new(&twice, ring())
        .try_run(0)
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with(
            " is not reserved any more: it was submitted or discarded by `bpf_ringbuf_submit` at \
             program `main`, insn 8"
        ),
        "{error}"
    );
}

#[test]
fn locks_are_unlocked_once_by_who_holds_them() {
    let lock = "r1 = map_value(0, 0) ll; call 93";
    let unlock = "r1 = map_value(0, 0) ll; call 94";
    for (source, message) in [
        (
            format!("{lock}; r0 = 0; exit"),
            "program `main`, insn 2: bpf_spin_lock D, locked here by `bpf_spin_lock`, is not \
             unlocked at the program's end",
        ),
        (
            format!("{unlock}; exit"),
            "program `main`, insn 2: `bpf_spin_unlock`: bpf_spin_lock D is not locked",
        ),
        (
            format!("{lock}; {unlock}; {unlock}; exit"),
            "program `main`, insn 8: `bpf_spin_unlock`: bpf_spin_lock D is not locked any more: it \
             was unlocked by `bpf_spin_unlock` at program `main`, insn 5",
        ),
        (
            format!("{lock}; {lock}; exit"),
            "program `main`, insn 5: `bpf_spin_lock`: already held is bpf_spin_lock D, locked by \
             `bpf_spin_lock` at program `main`, insn 2",
        ),
        (
            format!("{lock}; r1 = map_value(0, 8) ll; call 93; exit"),
            "program `main`, insn 5: `bpf_spin_lock`: not allowed while a lock is held: \
             bpf_spin_lock D, locked by `bpf_spin_lock` at program `main`, insn 2",
        ),
        (
            format!("{lock}; call 5; {unlock}; exit"),
            "program `main`, insn 3: `bpf_ktime_get_ns`: not allowed while a lock is held: \
             bpf_spin_lock D, locked by `bpf_spin_lock` at program `main`, insn 2",
        ),
        (
            format!("{lock}; r1 = 0x70; call test_acquire; {unlock}; exit"),
            "program `main`, insn 4: `test_acquire`: not allowed while a lock is held: \
             bpf_spin_lock D, locked by `bpf_spin_lock` at program `main`, insn 2",
        ),
        (
            format!("{lock}; r1 = map_value(0, 0) ll; call bpf_res_spin_unlock; exit"),
            "program `main`, insn 5: `bpf_res_spin_unlock`: bpf_res_spin_lock D is not locked",
        ),
    ] {
        assert_eq!(error(&source), message);
    }
}

#[test]
fn resilient_locks_say_deadlock_and_end_in_order() {
    let lock = |at: u32| format!("r1 = map_value(0, {at}) ll; call bpf_res_spin_lock;");
    let unlock = |at: u32| format!("r1 = map_value(0, {at}) ll; call bpf_res_spin_unlock;");
    let source = format!(
        "{} {} r6 = r0; {} r0 = r6; exit",
        lock(0),
        lock(0),
        unlock(0)
    );
    assert_eq!(bench(&source).run(0), Errno::EDEADLK.as_reg());
    assert_eq!(
        error(&format!("{} r0 = 0; exit", lock(0))),
        "program `main`, insn 2: bpf_res_spin_lock D, locked here by `bpf_res_spin_lock`, is not \
         unlocked at the program's end"
    );
    assert_eq!(
        error(&format!("{} {} {} exit", lock(0), lock(8), unlock(0))),
        "program `main`, insn 8: `bpf_res_spin_unlock`: bpf_res_spin_lock D is unlocked out of \
         order: still held is bpf_res_spin_lock D+8, locked by `bpf_res_spin_lock` at program \
         `main`, insn 5"
    );
    assert_eq!(
        error(&format!("{} call test_sleeps; exit", lock(0))),
        "program `main`, insn 3: `test_sleeps`: not allowed while a lock is held: \
         bpf_res_spin_lock D, locked by `bpf_res_spin_lock` at program `main`, insn 2"
    );
    let flags = |at: i32| format!("r1 = map_value(0, 0) ll; r2 = r10; r2 += {at};");
    assert_eq!(
        error(&format!(
            "{} call bpf_res_spin_lock_irqsave; {} call bpf_res_spin_unlock_irqrestore; exit",
            flags(-8),
            flags(-16)
        )),
        "program `main`, insn 9: `bpf_res_spin_unlock_irqrestore`: F-16 are not the irq flags of \
         bpf_res_spin_lock D, locked by `bpf_res_spin_lock_irqsave` at program `main`, insn 4"
    );
}

#[test]
fn sections_are_balanced_and_nobody_sleeps_in_them() {
    for (enter, leave, name) in [
        ("bpf_rcu_read_lock", "bpf_rcu_read_unlock", "RCU section"),
        (
            "bpf_preempt_disable",
            "bpf_preempt_enable",
            "section without preemption",
        ),
    ] {
        assert_eq!(
            error(&format!("call {enter}; r0 = 0; exit")),
            format!(
                "program `main`, insn 0: {name}, entered here by `{enter}`, is not left at the \
                 program's end"
            )
        );
        assert_eq!(
            error(&format!("call {leave}; exit")),
            format!("program `main`, insn 0: `{leave}`: {name} is not entered")
        );
        assert_eq!(
            error(&format!("call {enter}; call {leave}; call {leave}; exit")),
            format!(
                "program `main`, insn 2: `{leave}`: {name} is not entered any more: it was left by \
                 `{leave}` at program `main`, insn 1"
            )
        );
        assert_eq!(
            error(&format!(
                "call {enter}; call test_sleeps; call {leave}; exit"
            )),
            format!(
                "program `main`, insn 1: `test_sleeps`: may sleep, which is not allowed inside \
                 {name}, entered by `{enter}` at program `main`, insn 0"
            )
        );
    }
}

#[test]
fn irq_flags_are_restored_once_in_order() {
    let flags = |at: i32| format!("r1 = r10; r1 += {at};");
    let save = |at| format!("{} call bpf_local_irq_save;", flags(at));
    let restore = |at| format!("{} call bpf_local_irq_restore;", flags(at));
    for (source, message) in [
        (
            format!("{} r0 = 0; exit", save(-8)),
            "program `main`, insn 2: section without interrupts, with flags at F-8, entered here \
             by `bpf_local_irq_save`, is not left at the program's end",
        ),
        (
            format!("{} exit", restore(-8)),
            "program `main`, insn 2: `bpf_local_irq_restore`: section without interrupts, with \
             flags at F-8 is not entered",
        ),
        (
            format!("{} {} exit", save(-8), save(-8)),
            "program `main`, insn 5: `bpf_local_irq_save`: already held is section without \
             interrupts, with flags at F-8, entered by `bpf_local_irq_save` at program `main`, \
             insn 2",
        ),
        (
            format!("{} {} {} exit", save(-8), save(-16), restore(-8)),
            "program `main`, insn 8: `bpf_local_irq_restore`: section without interrupts, with \
             flags at F-8 is left out of order: still held is section without interrupts, with \
             flags at F-16, entered by `bpf_local_irq_save` at program `main`, insn 5",
        ),
        (
            format!("{} call test_sleeps; {} exit", save(-8), restore(-8)),
            "program `main`, insn 3: `test_sleeps`: may sleep, which is not allowed inside section \
             without interrupts, with flags at F-8, entered by `bpf_local_irq_save` at program \
             `main`, insn 2",
        ),
    ] {
        assert_eq!(error(&source), message);
    }
}

#[test]
fn iterators_are_destroyed_once_and_not_used_afterwards() {
    let it = "r1 = r10; r1 += -8;";
    let new = format!("{it} r2 = 0; r3 = 3; call bpf_iter_num_new;");
    let next = format!("{it} call bpf_iter_num_next;");
    let destroy = format!("{it} call bpf_iter_num_destroy;");
    for (source, message) in [
        (
            format!("{new} r0 = 0; exit"),
            "program `main`, insn 4: bpf_iter_num F-8, created here by `bpf_iter_num_new`, is not \
             destroyed at the program's end",
        ),
        (
            // One whose creation failed, too.
            format!("{it} r2 = 3; r3 = 0; call bpf_iter_num_new; exit"),
            "program `main`, insn 4: bpf_iter_num F-8, created here by `bpf_iter_num_new`, is not \
             destroyed at the program's end",
        ),
        (
            format!("{next} exit"),
            "program `main`, insn 2: `bpf_iter_num_next`: bpf_iter_num F-8 is not created",
        ),
        (
            format!("{new} {destroy} {next} exit"),
            "program `main`, insn 10: `bpf_iter_num_next`: bpf_iter_num F-8 is not created any \
             more: it was destroyed by `bpf_iter_num_destroy` at program `main`, insn 7",
        ),
        (
            format!("{new} {destroy} {destroy} exit"),
            "program `main`, insn 10: `bpf_iter_num_destroy`: bpf_iter_num F-8 is not created any \
             more: it was destroyed by `bpf_iter_num_destroy` at program `main`, insn 7",
        ),
        (
            format!("{new} {new} exit"),
            "program `main`, insn 9: `bpf_iter_num_new`: already held is bpf_iter_num F-8, created \
             by `bpf_iter_num_new` at program `main`, insn 4",
        ),
    ] {
        assert_eq!(error(&source), message);
    }
}

#[test]
fn a_callback_gives_back_its_own_and_nothing_else() {
    let round = "r1 = 1; r2 = func(f) ll; r3 = 0; r4 = 0; call 181;";
    assert_eq!(
        error(&format!(
            "{round} r0 = 0; exit; f: r1 = 0x70; call test_acquire; r0 = 0; exit"
        )),
        "program `main`, function `main+8`, insn 9: test_object 0x70, acquired here by `test_acquire`, \
         is not released at the callback's end"
    );
    assert_eq!(
        error(&format!(
            "r1 = 0x70; call test_acquire; {round} r0 = 0; exit; f: r1 = 0x70; call test_release; r0 = 0; exit"
        )),
        "program `main`, function `main+10`, insn 11: `test_release`: not the callback's own is \
         test_object 0x70, acquired by `test_acquire` at program `main`, insn 1"
    );
    // Nor does one sleep in the section of its caller.
    assert_eq!(
        error(&format!(
            "call bpf_rcu_read_lock; {round} r0 = 0; exit; f: call test_sleeps; r0 = 0; exit"
        )),
        "program `main`, function `main+9`, insn 9: `test_sleeps`: may sleep, which is not allowed \
         inside RCU section, entered by `bpf_rcu_read_lock` at program `main`, insn 0"
    );
}

#[test]
fn the_callback_of_a_drain_gives_back_its_own_and_nothing_else() {
    let error = |source: &str| {
        let ring = map(MapType::USER_RINGBUF, 0, 0, 4096);
        let mut bench = Bench::new(&text(source), vec![ring]);
        let m = bench.loaded.maps[0];
        bench.vm.user_ringbuf_submit(m, &[0; 8]).unwrap();
        bench.try_run(0).expect_err(source).to_string()
    };
    let drain = "r1 = map(0) ll; r2 = func(f) ll; r3 = 0; r4 = 0; call 209;";
    assert_eq!(
        error(&format!(
            "{drain} r0 = 0; exit; f: r1 = 0x70; call test_acquire; r0 = 0; exit"
        )),
        "program `main`, function `main+9`, insn 10: test_object 0x70, acquired here by \
         `test_acquire`, is not released at the callback's end"
    );
    assert_eq!(
        error(&format!(
            "r1 = 0x70; call test_acquire; {drain} r0 = 0; exit; f: r1 = 0x70; call test_release; r0 = 0; exit"
        )),
        "program `main`, function `main+11`, insn 12: `test_release`: not the callback's own is \
         test_object 0x70, acquired by `test_acquire` at program `main`, insn 1"
    );
}

#[test]
fn a_run_inside_another_has_books_of_its_own() {
    let outer = "r1 = 0x70; call test_acquire; r1 = 0; call test_run_again; r6 = r0; r1 = 0x70
        call test_release; r0 = r6; exit"
        .replace('\n', ";");
    let run = |inner: &str| {
        let mut bench = Bench::new("exit", Vec::new());
        let programs = vec![
            program("outer", &text(&outer)),
            program("inner", &text(inner)),
        ];
        let object = object(programs, Vec::new());
        bench.loaded = bench.vm.load(&object, super::support::KFUNCS).unwrap();
        bench.host.again = Some(bench.loaded.programs[1]);
        let ended = bench.try_run(0).map(|result| result.ret);
        (
            ended.map_err(|abort| abort.to_string()),
            bench.host.given_back,
        )
    };
    assert_eq!(run("r0 = 7; exit"), (Ok(7), Vec::new()));
    let object = |addr| (Object::Reference("test_object"), addr);
    assert_eq!(
        run("r1 = 0x70; call test_release; r0 = 7; exit"),
        (
            Err(
                "program `inner`, insn 1: `test_release`: test_object 0x70 is not acquired"
                    .to_owned()
            ),
            vec![object(0x70)]
        )
    );
    assert_eq!(
        run("r1 = 0x80; call test_acquire; r0 = 7; exit"),
        (
            Err(
                "program `inner`, insn 1: test_object 0x80, acquired here by `test_acquire`, is \
                 not released at the program's end"
                    .to_owned()
            ),
            vec![object(0x80), object(0x70)]
        )
    );
}

#[test]
fn locks_are_what_the_types_say() {
    assert_eq!(
        error("r1 = map_value(0, 4) ll; call bpf_res_spin_lock; exit")
            .rsplit_once("`: ")
            .map(|(_, what)| what.trim_start_matches("0xffff8803")),
        Some("40000004 is no bpf_res_spin_lock in a map value or an object")
    );
    let of_the_other_sort = |text: &str, kind: SpecialKind| {
        let mut maps = data();
        maps[0].special_fields.retain(|field| field.kind == kind);
        let mut bench = Bench::new(&self::text(text), maps);
        bench.try_run(0).expect_err(text).to_string()
    };
    let lock = "r1 = map_value(0, 0) ll; call bpf_res_spin_lock; exit";
    assert!(of_the_other_sort(lock, SpecialKind::SpinLock).contains("is no bpf_res_spin_lock"));
    let lock = "r1 = map_value(0, 0) ll; call 93; exit";
    assert!(of_the_other_sort(lock, SpecialKind::ResSpinLock).contains("is no bpf_spin_lock"));
}
