//! From nice to `p->scx.weight` (`sched_prio_to_weight[]`, `sched_weight_to_cgroup()`).

use harena_abi::scx;

/// `sched_prio_to_weight[]`, from nice -20 to 19.
const PRIO_TO_WEIGHT: [u32; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904,
    3906, 3121, 2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87,
    70, 56, 45, 36, 29, 23, 18, 15,
];

/// `WEIGHT_IDLEPRIO`.
const WEIGHT_IDLEPRIO: u32 = 3;

/// `p->scx.weight` of a task with this policy and nice value.
pub(crate) fn scx_weight(policy: u32, nice: i32) -> u32 {
    let load = if policy == scx::SCHED_IDLE {
        WEIGHT_IDLEPRIO
    } else {
        let index = usize::try_from(nice.clamp(-20, 19) + 20).expect("clamped to 0..=39");
        PRIO_TO_WEIGHT[index]
    };
    ((load * 100 + 512) / 1024).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_kernel() {
        for (nice, weight) in [
            (-20, 8668),
            (-10, 932),
            (-1, 125),
            (0, 100),
            (1, 80),
            (10, 11),
        ] {
            assert_eq!(scx_weight(scx::SCHED_NORMAL, nice), weight, "nice {nice}");
        }
        for (nice, weight) in [(11, 8), (12, 7), (13, 5), (14, 4), (15, 4), (19, 1)] {
            assert_eq!(scx_weight(scx::SCHED_NORMAL, nice), weight, "nice {nice}");
        }
        assert_eq!(
            scx_weight(scx::SCHED_IDLE, 0),
            1,
            "W = 3 is below one, and clamped"
        );
    }
}
