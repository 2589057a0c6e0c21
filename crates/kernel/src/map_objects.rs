//! `struct bpf_map` and `struct bpf_arena` behind a map's address.
//!
//! Programs may read them, an arena's user window above all; nothing writes them later.

use harena_abi::UserAddr;
use harena_vm::{Loaded, Vm};

use crate::access::Fields;
use crate::types::bpf::bpf_arena;
use crate::types::ctype::field;

/// Fills in the kernel objects of the maps that were loaded.
pub fn write_map_objects(vm: &Vm, loaded: &Loaded) {
    for (id, number) in loaded.maps.iter().zip(1u32..) {
        let map = vm.map(*id);
        let (spec, at, mem) = (map.spec(), map.object(), vm.mem());
        mem.put(at, field!(bpf_arena, map.map_type), spec.map_type.0);
        mem.put(at, field!(bpf_arena, map.key_size), spec.key_size);
        mem.put(at, field!(bpf_arena, map.value_size), spec.value_size);
        mem.put(at, field!(bpf_arena, map.max_entries), spec.max_entries);
        mem.put(at, field!(bpf_arena, map.map_extra), spec.map_extra);
        mem.put(at, field!(bpf_arena, map.map_flags), spec.map_flags);
        mem.put(at, field!(bpf_arena, map.id), number);
        if let Some(arena) = vm.arena(*id) {
            let [start, end] = [arena.user_vm_start(), arena.user_vm_end()]
                .map(|end| end.map_or(0, UserAddr::raw));
            mem.put(at, field!(bpf_arena, user_vm_start), start);
            mem.put(at, field!(bpf_arena, user_vm_end), end);
        }
    }
}
