//! The order in which groups go back to fp32 when time counts, too.

use crate::{graph::GroupId, sensitivity::GroupSensitivity};

/// What a group takes in a run of one sample, in ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupTime {
    /// In the network with every group quantized.
    pub int8_ns: f64,
    /// In the fp32 network.
    pub fp32_ns: f64,
}

/// Share of the mean group's time that int8 is taken to save at least: less cannot be told from nothing.
const LEAST_SAVING: f64 = 0.01;

/// Groups by the noise on the network's output that they cost for each nanosecond that int8 saves on them, most first;
/// ties keep topological order. A group that saves little may as well be in fp32; one that saves much must do harm before
/// it is. `times` has one entry for every group of the network.
///
/// With a limit on the noise, to keep in int8 what saves most is a knapsack. Noises of single groups add up roughly, and
/// then this order, cut where the limit is, is its solution but for one group. Where to cut is found by trials.
/// Boundaries of precision cost no pass of their own (an epilogue writes what the next step reads), so that times add up.
pub fn by_noise_for_time(sensitivities: &[GroupSensitivity], times: &[GroupTime]) -> Vec<GroupId> {
    let time = |id: GroupId| times.get(id.0).copied().unwrap_or(GroupTime { int8_ns: 0.0, fp32_ns: 0.0 });
    let all: f64 = sensitivities.iter().map(|s| time(s.group).fp32_ns).sum();
    let least = (LEAST_SAVING * all / sensitivities.len().max(1) as f64).max(1.0);
    let ratio = |s: &GroupSensitivity| {
        let noise = 10f64.powf(-s.output / 10.0);
        noise / (time(s.group).fp32_ns - time(s.group).int8_ns).max(least)
    };
    let mut order: Vec<&GroupSensitivity> = sensitivities.iter().collect();
    order.sort_by(|a, b| ratio(b).total_cmp(&ratio(a)).then(a.group.cmp(&b.group)));
    order.into_iter().map(|s| s.group).collect()
}

#[cfg(test)]
mod tests {
    use super::{GroupTime, by_noise_for_time};
    use crate::{graph::GroupId, sensitivity::GroupSensitivity};

    #[test]
    fn what_harms_much_and_saves_little_goes_first() {
        let sensitivity = |group, output| GroupSensitivity {
            group: GroupId(group),
            weight: None,
            local: 0.0,
            accumulated: 0.0,
            output,
            range: (0.0, 1.0),
        };
        let time = |int8_ns, fp32_ns| GroupTime { int8_ns, fp32_ns };
        let times = [time(10.0, 30.0), time(0.0, 0.0), time(100.0, 1100.0), time(5.0, 4.0), time(1.0, 101.0)];
        // Group 1 is in fp32 already. 0: 10⁻² / 20; 2: 10⁻¹ / 1000; 3: saves nothing, 10⁻⁴ / the least; 4: nothing lost.
        let sensitivities =
            [sensitivity(0, 20.0), sensitivity(2, 10.0), sensitivity(3, 40.0), sensitivity(4, f64::INFINITY)];
        assert_eq!(by_noise_for_time(&sensitivities, &times), [0, 2, 3, 4].map(GroupId));
        let harmful = [sensitivity(0, 20.0), sensitivity(2, -20.0), sensitivity(3, 40.0)];
        assert_eq!(by_noise_for_time(&harmful, &times), [2, 0, 3].map(GroupId));
    }
}
