//! Kfuncs on CPUs and cids: numbers, topology, performance, kicks, clock and counters.

use harena_abi::KernAddr;
use harena_scx::Form;
use harena_vm::Abort;

use super::{Kf, context, kfuncs};
use crate::reg::{as_s32, as_u32, from_s32};

const CPU: Option<Form> = Some(Form::Cpu);

kfuncs! {
    context::ANY, None, No {
        scx_bpf_nr_cpu_ids "u32 (void)" => |k, _| Ok(k.cx.core.kf_nr_cids().into());
        scx_bpf_nr_node_ids "u32 (void)" => |k, _| Ok(k.cx.core.kf_nr_node_ids().into());
        scx_bpf_nr_cids "u32 (void)" => |k, _| Ok(k.cx.core.kf_nr_cids().into());
        scx_bpf_nr_online_cids "u32 (void)"
            => |k, _| Ok(k.cx.core.kf_nr_online_cids().into());
        scx_bpf_cid_to_cpu "s32 (s32 cid)" => |k, [cid, ..]| {
            let (core, machine) = k.core();
            Ok(from_s32(core.kf_cid_to_cpu(machine, as_s32(cid))))
        };
        scx_bpf_cpu_to_cid "s32 (s32 cpu)" => |k, [cpu, ..]| {
            let (core, machine) = k.core();
            Ok(from_s32(core.kf_cpu_to_cid(machine, as_s32(cpu))))
        };
        scx_bpf_this_cid "s32 (void)" => |k, _| {
            let (core, machine) = k.core();
            Ok(from_s32(core.kf_this_cid(machine)))
        };
        scx_bpf_cid_topo "void (s32 cid, struct scx_cid_topo *out__uninit, size_t out__sz)"
            => cid_topo;
        scx_bpf_kick_cid "void (s32 cid, u64 flags)" => |k, [cid, flags, ..]| {
            let (core, machine) = k.core();
            core.kf_kick_cid(machine, as_s32(cid), flags);
            Ok(0)
        };
        scx_bpf_cidperf_cap "u32 (s32 cid)" => |k, [cid, ..]| {
            let (core, machine) = k.core();
            match core.kf_cid_to_cpu(machine, as_s32(cid)) {
                cpu @ 0.. => Ok(core.kf_cpuperf_cap(machine, cpu).into()),
                _ => Ok(0),
            }
        };
        scx_bpf_cidperf_cur "u32 (s32 cid)" => |k, [cid, ..]| {
            let (core, machine) = k.core();
            match core.kf_cid_to_cpu(machine, as_s32(cid)) {
                cpu @ 0.. => Ok(core.kf_cpuperf_cur(machine, cpu).into()),
                _ => Ok(0),
            }
        };
        scx_bpf_cidperf_set "s32 (s32 cid, u32 perf)" => |k, [cid, perf, ..]| {
            let (core, machine) = k.core();
            Ok(from_s32(match core.kf_cid_to_cpu(machine, as_s32(cid)) {
                cpu @ 0.. => core.kf_cpuperf_set(machine, cpu, as_u32(perf)),
                errno => errno,
            }))
        };
        scx_bpf_now "u64 (void)" => |k, _| {
            let (core, machine) = k.core();
            Ok(core.kf_now(machine).as_ns())
        };
        scx_bpf_events "void (struct scx_event_stats *events, size_t events__sz)"
            => events;
        scx_bpf_sub_caps "s32 (u64 cgroup_id, u64 caps, struct scx_cmask *out__arena__nullable)"
            => sub_caps;
    }
    context::ANY, CPU, No {
        scx_bpf_cpu_node "int (s32 cpu)" => |k, [cpu, ..]| {
            let (core, machine) = k.core();
            Ok(from_s32(core.kf_cpu_node(machine, as_s32(cpu))))
        };
        scx_bpf_cpuperf_cap "u32 (s32 cpu)" => |k, [cpu, ..]| {
            let (core, machine) = k.core();
            Ok(core.kf_cpuperf_cap(machine, as_s32(cpu)).into())
        };
        scx_bpf_cpuperf_cur "u32 (s32 cpu)" => |k, [cpu, ..]| {
            let (core, machine) = k.core();
            Ok(core.kf_cpuperf_cur(machine, as_s32(cpu)).into())
        };
        scx_bpf_cpuperf_set "void (s32 cpu, u32 perf)" => |k, [cpu, perf, ..]| {
            let (core, machine) = k.core();
            core.kf_cpuperf_set(machine, as_s32(cpu), as_u32(perf));
            Ok(0)
        };
    }
    context::INIT_CIDS, Some(Form::Cid), Yes {
        scx_bpf_cid_override
            "void (const s32 *cpu_to_cid__arena, u32 cpu_to_cid__sz, const s32 *shard_start__arena, u32 shard_start__sz)"
            => cid_override;
    }
}

/// Most bytes of an override table: one `s32` per CPU a mask can hold.
const OVERRIDE_BYTES_MAX: u64 = 4 * crate::types::mask::NR_CPUS as u64;
// So it may be read unchecked.
const _: () = assert!(OVERRIDE_BYTES_MAX <= harena_arena::HALF_GUARD);

fn cid_override(
    k: &mut Kf<'_, '_, '_>,
    [cids, cids_size, shards, shards_size, _]: [u64; 5],
) -> Result<u64, Abort> {
    let cids = s32_table(k, cids, as_u32(cids_size).into())?;
    let shards = s32_table(k, shards, as_u32(shards_size).into())?;
    let (core, machine) = k.core();
    core.kf_cid_override(machine, &cids, &shards);
    Ok(0)
}

/// An array of `s32` in the arena, read in place: what is not there is scratch. A size that is
/// no table's gives as many entries as fit; the core refuses the count.
fn s32_table(k: &Kf<'_, '_, '_>, at: u64, size: u64) -> Result<Vec<i32>, Abort> {
    let count = as_u32(size.min(OVERRIDE_BYTES_MAX) / 4);
    let (arena, offset) = k.in_arena(at)?;
    let table = arena.ptr::<i32>(offset);
    Ok((0..count).map(|i| table.index(i).read()).collect())
}

/// The root scheduler holds every capability on every cid; there are no others.
fn sub_caps(k: &mut Kf<'_, '_, '_>, [_cgroup, _caps, out, ..]: [u64; 5]) -> Result<u64, Abort> {
    if out != 0 {
        let nr_cids = k.cx.core.kf_nr_cids();
        let (arena, offset) = k.in_arena(out)?;
        crate::cmasks::write(arena, offset, nr_cids, |_| true);
    }
    Ok(0)
}

/// Writes as much of `bytes` as the caller has room for.
fn put_out(k: &Kf<'_, '_, '_>, out: u64, size: u64, bytes: &[u8]) -> Result<u64, Abort> {
    let len = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len());
    k.mem()
        .write_bytes(KernAddr::new(out), &bytes[..len])
        .map_err(|fault| k.bad_memory(&fault))?;
    Ok(0)
}

fn cid_topo(k: &mut Kf<'_, '_, '_>, [cid, out, size, ..]: [u64; 5]) -> Result<u64, Abort> {
    let (core, machine) = k.core();
    let t = core.kf_cid_topo(machine, as_s32(cid));
    let fields = [
        t.core_cid,
        t.core_idx,
        t.llc_cid,
        t.llc_idx,
        t.node_cid,
        t.node_idx,
        t.shard_cid,
        t.shard_idx,
    ];
    let bytes: Vec<u8> = fields.iter().flat_map(|f| f.to_le_bytes()).collect();
    put_out(k, out, size, &bytes)
}

fn events(k: &mut Kf<'_, '_, '_>, [out, size, ..]: [u64; 5]) -> Result<u64, Abort> {
    let stats = k.cx.core.kf_events();
    let bytes: Vec<u8> = stats.iter().flat_map(|(_, n)| n.to_le_bytes()).collect();
    put_out(k, out, size, &bytes)
}
