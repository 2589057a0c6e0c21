//! Bytes that no compiler wrote: a program or a typed error, never a panic, in bounded time.

use crate::kernel::{core_kernel, kernel};
use crate::objects::{CORE, OBJECTS, SCHED};
use harena_bpf::{GlobalValue, Object};

/// Does everything that can be done with an object.
fn exercise(bytes: &[u8]) {
    let Ok(mut object) = Object::parse("hostile.o", bytes) else {
        return;
    };
    let names: Vec<String> = object.globals().map(str::to_owned).collect();
    for name in names {
        drop(object.global_info(&name));
        drop(object.global_value(&name));
        drop(object.set_global(&name, &GlobalValue::Int(1)));
    }
    drop(object.link(&kernel()));
    drop(object.problems(&core_kernel()));
}

#[test]
fn truncation_at_every_byte() {
    for whole in [OBJECTS, SCHED, CORE] {
        for len in 0..whole.len() {
            exercise(&whole[..len]);
        }
    }
}

#[test]
fn flipped_bytes() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    for whole in [OBJECTS, SCHED, CORE] {
        for _ in 0..4000 {
            let mut bytes = whole.to_vec();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = match random(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => bytes[at].wrapping_add(1),
                    _ => u8::try_from(random(256)).unwrap(),
                };
            }
            exercise(&bytes);
        }
    }
}
