use super::*;
use crate::evaluate::Score;

const BUDGET: Budget = Budget::Drop { max_drop: 0.01, kind: DropKind::Absolute };
/// The same where a score is one number, as large as how many samples are right.
const OF_SCORE: Budget = Budget::Drop { max_drop: 1.0, kind: DropKind::Absolute };

fn ids(ids: &[usize]) -> Vec<GroupId> {
    ids.iter().map(|&i| GroupId(i)).collect()
}

fn measured(fp32_groups: Vec<GroupId>, groups: usize, correct: u64) -> Trial {
    Trial {
        key: Key([0; 32]),
        repairs: Vec::new(),
        int8_groups: groups - fp32_groups.len(),
        fp32_groups,
        evaluation: Evaluation {
            score: Score::Count { correct, total: 100 },
            correct: (0..100).map(|i| i < correct).collect(),
            seconds: 2.0,
        },
        latency: None,
        weight_bytes: 0,
        activation_bytes: 0,
    }
}

fn search(strategy: StrategyKind, groups: usize, refine: bool) -> Search {
    // Worst first: the last group of the network, then the others in their order.
    let ranking = std::iter::once(groups - 1).chain(0..groups - 1).map(GroupId).collect();
    let limits = Limits { until: Until::Budget, max_trials: 100, max_seconds: None };
    Search { ranking, budget: BUDGET, limits, strategy, repairs: Vec::new(), refine }
}

/// Plays a search against a network of which `right` says how many samples are right with these groups in fp32, and
/// `wins` how much a further group wins. Gives the sets that were measured, and why it ended.
fn play(
    search: &Search,
    right: &dyn Fn(&[GroupId]) -> u64,
    wins: &dyn Fn(GroupId) -> f64,
) -> (Vec<Vec<GroupId>>, Finish) {
    let (trials, finish) = play_repaired(search, &|candidate| right(&candidate.fp32), wins);
    (trials.into_iter().map(|candidate| candidate.fp32).collect(), finish)
}

/// As [`play`], against a network of which `right` looks at the repairs too.
fn play_repaired(
    search: &Search,
    right: &dyn Fn(&Candidate) -> u64,
    wins: &dyn Fn(GroupId) -> f64,
) -> (Vec<Candidate>, Finish) {
    let mut findings = Findings::default();
    let groups = search.ranking.len();
    for _ in 0..1000 {
        let proposal = search.propose(&findings);
        // The same facts, the same proposal.
        assert_eq!(proposal, search.propose(&findings));
        let Findings { trials, ranked, screened } = &mut findings;
        match proposal {
            Proposal::Measure(candidate) => {
                assert!(candidate.fp32.is_sorted(), "{candidate:?}");
                assert!(trials.iter().all(|t| t.candidate() != candidate), "{candidate:?} is measured twice");
                let correct = right(&candidate);
                let mut trial = Trial { repairs: candidate.repairs, ..measured(candidate.fp32, groups, correct) };
                if search.budget == OF_SCORE {
                    trial.evaluation.score = Score::Number { value: correct as f64, total: 100 };
                    trial.evaluation.correct.clear();
                }
                trials.push(trial);
            }
            Proposal::Rank(base) => {
                assert!(ranked.iter().all(|r| r.base != base), "{base:?} is ranked twice");
                let left = (0..groups).map(GroupId).filter(|group| !base.fp32.contains(group));
                let mut gains: Vec<Gain> = left.map(|group| Gain { group, output: wins(group) }).collect();
                gains.sort_by(|a, b| b.output.total_cmp(&a.output));
                ranked.push(Ranked { base, gains });
            }
            Proposal::Screen(base) => {
                assert!(trials.iter().any(|t| t.candidate() == base), "{base:?} was not measured");
                assert_ne!(search.budget, OF_SCORE, "a number says nothing of single samples");
                assert!(screened.iter().all(|s| s.base != base), "{base:?} is screened twice");
                let left = (0..groups).map(GroupId).filter(|group| !base.fp32.contains(group));
                let with = |group| Candidate { fp32: history::with(&base.fp32, group), ..base.clone() };
                let samples = |group| right(&with(group)) as i64 - right(&base) as i64;
                let mut won: Vec<Won> = left.map(|group| Won { group, samples: samples(group) }).collect();
                won.sort_by_key(|won| -won.samples);
                screened.push(Screened { base, won });
            }
            Proposal::Finished(finish) => {
                return (findings.trials.iter().map(Trial::candidate).collect(), finish);
            }
        }
    }
    panic!("the search does not end");
}

fn holds(fp32: &[GroupId], group: usize) -> bool {
    fp32.contains(&GroupId(group))
}

#[test]
fn greedy_takes_the_worst_group_back_until_within_the_budget() {
    let search = search(StrategyKind::Greedy, 4, false);
    let right = |fp32: &[GroupId]| 85 + 5 * u64::from(fp32.len() == 4) + 2 * fp32.len().min(3) as u64;
    let (sets, finish) = play(&search, &right, &|_| 0.0);
    assert_eq!(sets, [ids(&[0, 1, 2, 3]), ids(&[]), ids(&[3]), ids(&[0, 3]), ids(&[0, 1, 3])]);
    assert_eq!(finish, Finish::Exhausted);
    let right = |fp32: &[GroupId]| if fp32.len() >= 2 { 90 } else { 80 };
    let (sets, finish) = play(&search, &right, &|_| 0.0);
    assert_eq!((sets.len(), finish), (4, Finish::WithinBudget));
}

#[test]
fn limits_end_a_search() {
    let mut greedy = search(StrategyKind::Greedy, 3, false);
    let right = |fp32: &[GroupId]| if fp32.len() == 3 { 90 } else { 10 };
    greedy.limits.max_trials = 3;
    assert_eq!(play(&greedy, &right, &|_| 0.0), (vec![ids(&[0, 1, 2]), ids(&[]), ids(&[2])], Finish::MaxTrials));
    greedy.limits = Limits { until: Until::Budget, max_trials: 100, max_seconds: Some(5.0) };
    assert_eq!(play(&greedy, &right, &|_| 0.0).1, Finish::MaxTime);
    greedy.limits = Limits { until: Until::Exhausted, max_trials: 100, max_seconds: None };
    let (sets, finish) = play(&greedy, &|_| 90, &|_| 0.0);
    assert_eq!((sets.len(), finish), (4, Finish::Exhausted));
}

#[test]
fn bisect_needs_few_trials_for_a_long_chain() {
    let search = search(StrategyKind::Bisect, 64, false);
    for enough in [1, 2, 3, 5, 8, 13, 31, 40, 63] {
        let right = |fp32: &[GroupId]| if fp32.len() >= enough { 90 } else { 70 };
        let (sets, finish) = play(&search, &right, &|_| 0.0);
        assert!(sets.iter().any(|set| set.len() == enough), "{enough}: {sets:?}");
        assert_eq!(finish, Finish::WithinBudget, "{enough}");
        assert!(sets.len() <= 2 + 2 * 6 + 1, "{enough}: {} trials", sets.len());
    }
    let (sets, finish) = play(&search, &|fp32| if fp32.len() == 64 { 90 } else { 70 }, &|_| 0.0);
    assert_eq!(finish, Finish::Exhausted, "{sets:?}");
}

#[test]
fn bisect_looks_at_the_neighbour_of_the_last_that_failed() {
    // Nine are enough, ten are not, eleven and more are: more groups are not always better.
    let right = |fp32: &[GroupId]| if fp32.len() == 9 || fp32.len() >= 11 { 90 } else { 70 };
    let (sets, finish) = play(&search(StrategyKind::Bisect, 20, false), &right, &|_| 0.0);
    let sizes: Vec<usize> = sets[2..].iter().map(Vec::len).collect();
    assert_eq!((&sizes[..], finish), (&[1, 2, 4, 8, 16, 12, 10, 11, 9][..], Finish::WithinBudget));
}

#[test]
fn adaptive_follows_the_gains_and_skips_ahead() {
    // Only group 2 matters, which the ranking has in the middle.
    let only = |fp32: &[GroupId]| if holds(fp32, 2) { 90 } else { 80 };
    let wins = |group: GroupId| if group.0 == 2 { 30.0 } else { 20.0 - group.0 as f64 };
    let (sets, finish) = play(&search(StrategyKind::Adaptive, 6, false), &only, &wins);
    assert_eq!(sets[2..], [ids(&[2])]);
    assert_eq!(finish, Finish::WithinBudget);
    // Each group wins one sample of thirty that are missing: the sets grow faster than one by one.
    let slow = |fp32: &[GroupId]| 60 + fp32.len().min(30) as u64;
    let (sets, finish) = play(&search(StrategyKind::Adaptive, 40, false), &slow, &|group| -(group.0 as f64));
    assert!(sets.len() < 20 && sets.last().is_some_and(|set| (29..33).contains(&set.len())), "{sets:?}");
    assert_eq!(finish, Finish::WithinBudget);
    // One sample is missing, which only the group that the gains have last wins.
    let near = |fp32: &[GroupId]| if fp32.len() == 200 { 90 } else { 88 + u64::from(holds(fp32, 3)) };
    let (sets, finish) = play(&search(StrategyKind::Adaptive, 200, false), &near, &|group| -(group.0 as f64));
    assert_eq!((&sets[2..], finish), (&[ids(&[3])][..], Finish::WithinBudget));
    // Nothing is enough.
    let (_, finish) = play(&search(StrategyKind::Adaptive, 5, false), &|f| if f.len() == 5 { 90 } else { 9 }, &wins);
    assert_eq!(finish, Finish::Exhausted);
}

#[test]
fn refine_puts_back_what_was_not_needed_and_swaps_two_for_one() {
    // Greedy takes 4, 0, 1, 2; group 2 alone would be enough.
    let right = |fp32: &[GroupId]| if holds(fp32, 2) { 90 } else { 80 };
    let (sets, finish) = play(&search(StrategyKind::Greedy, 5, true), &right, &|_| 0.0);
    assert_eq!(finish, Finish::WithinBudget);
    assert!(sets.contains(&ids(&[2])), "{sets:?}");
    // 4 and 0 are enough together, and so is 3 alone, which the ranking has last: no other single group is tried.
    let right = |fp32: &[GroupId]| if holds(fp32, 3) || holds(fp32, 4) && holds(fp32, 0) { 90 } else { 80 };
    let (sets, _) = play(&search(StrategyKind::Greedy, 5, true), &right, &|_| 0.0);
    assert_eq!(sets[2..], [ids(&[4]), ids(&[0, 4]), ids(&[0]), ids(&[3])]);
    // Nothing to refine when everything may stay in int8.
    assert_eq!(play(&search(StrategyKind::Greedy, 5, true), &|_| 90, &|_| 0.0).0.len(), 2);
}

#[test]
fn every_strategy_searches_by_a_number() {
    use StrategyKind::{Adaptive, Bisect, Greedy, LatencyAware};
    let by_score = |strategy, groups, refine| Search { budget: OF_SCORE, ..search(strategy, groups, refine) };
    // Groups 2 and 5 are needed, which the ranking has in the middle, and which win most.
    let right = |fp32: &[GroupId]| 80 + 5 * u64::from(holds(fp32, 2)) + 5 * u64::from(holds(fp32, 5));
    let wins = |group: GroupId| if [2, 5].contains(&group.0) { 30.0 } else { 10.0 - group.0 as f64 };
    for strategy in [Greedy, Bisect, LatencyAware, Adaptive] {
        let (sets, finish) = play(&by_score(strategy, 8, true), &right, &wins);
        assert_eq!(finish, Finish::WithinBudget, "{strategy:?}");
        assert!(sets.contains(&ids(&[2, 5])), "{strategy:?}: {sets:?}");
        let (_, finish) = play(&by_score(strategy, 8, true), &|f| if f.len() == 8 { 90 } else { 10 }, &wins);
        assert_eq!(finish, Finish::Exhausted, "{strategy:?}");
    }
    let (sets, _) = play(&by_score(Adaptive, 8, false), &right, &wins);
    assert_eq!(sets[2..], [ids(&[2]), ids(&[2, 5])]);
    // Far from the budget several at once.
    let slow = |fp32: &[GroupId]| 60 + fp32.len().min(30) as u64;
    let (sets, finish) = play(&by_score(Adaptive, 40, false), &slow, &|group| -(group.0 as f64));
    assert!(sets.len() < 20 && finish == Finish::WithinBudget, "{sets:?}");
    // Two for one: what wins less than one that was not enough is not tried.
    let right = |fp32: &[GroupId]| if holds(fp32, 3) || holds(fp32, 4) && holds(fp32, 0) { 90 } else { 80 };
    let swaps = |best: usize| {
        let wins = move |group: GroupId| if group.0 == best { 9.0 } else { group.0 as f64 };
        play(&by_score(Greedy, 5, true), &right, &wins).0.split_off(2)
    };
    let strategy = [ids(&[4]), ids(&[0, 4]), ids(&[0])];
    assert_eq!(swaps(3), [&strategy[..], &[ids(&[3])]].concat());
    assert_eq!(swaps(1), [&strategy[..], &[ids(&[1])]].concat());
    assert_eq!(swaps(4), strategy);
}

#[test]
fn repairs_are_tried_before_any_group_goes_back_to_fp32() {
    use Repair::{BiasCorrection, ObserverAuto};
    for strategy in [StrategyKind::Greedy, StrategyKind::Bisect, StrategyKind::Adaptive] {
        let search = Search { repairs: vec![ObserverAuto, BiasCorrection], ..search(strategy, 4, true) };
        let with = |repairs: &[Repair], fp32: &[usize]| Candidate { repairs: repairs.to_vec(), fp32: ids(fp32) };
        let start = [with(&[], &[0, 1, 2, 3]), with(&[], &[]), with(&[ObserverAuto], &[])];
        // The first is enough.
        let right = |c: &Candidate| if c.repairs.is_empty() && c.fp32.len() < 4 { 80 } else { 90 };
        let (trials, finish) = play_repaired(&search, &right, &|_| 0.0);
        assert_eq!((&trials[..], finish), (&start[..], Finish::WithinBudget), "{strategy:?}");
        // The second does harm; one group is needed beside the first.
        let right = |c: &Candidate| match (c.fp32.len(), c.repairs.len()) {
            (4, _) => 90,
            (in_fp32, 1) => 85 + 5 * in_fp32.min(1) as u64,
            (_, repairs) => 80 - repairs as u64,
        };
        let (trials, finish) = play_repaired(&search, &right, &|group| group.0 as f64);
        assert_eq!((&trials[..3], finish), (&start[..], Finish::WithinBudget), "{strategy:?}");
        let rest = [with(&[ObserverAuto, BiasCorrection], &[]), with(&[ObserverAuto], &[3])];
        assert_eq!(trials[3..], rest, "{strategy:?}");
        // None of them is needed.
        assert_eq!(play_repaired(&search, &|_| 90, &|_| 0.0).0.len(), 2);
        // fp32 itself is not measured again with repairs.
        let (trials, finish) = play_repaired(&search, &|c| if c.fp32.len() == 4 { 90 } else { 10 }, &|_| 0.0);
        assert_eq!(finish, Finish::Exhausted);
        assert_eq!(trials.iter().filter(|c| c.fp32.len() == 4).count(), 1, "{trials:?}");
    }
}

#[test]
fn the_time_left_follows_from_what_groups_have_won() {
    let mut search = search(StrategyKind::Greedy, 20, false);
    let trials = |counts: &[(usize, u64)]| Findings {
        trials: counts.iter().map(|&(fp32, right)| measured(ids(&(0..fp32).collect::<Vec<_>>()), 20, right)).collect(),
        ..Findings::default()
    };
    // Of 90 samples 89 must be right. Each trial takes two seconds.
    let left = |search: &Search, counts: &[(usize, u64)]| search.seconds_left(&trials(counts));
    assert_eq!(left(&search, &[(20, 90), (0, 80)]), None);
    // Nine are missing; two groups won four, and two more would do, then one.
    let so_far = [(20, 90), (0, 80), (1, 82), (2, 84)];
    assert_eq!(left(&search, &so_far), Some(3.0 * 2.0));
    assert_eq!(left(&search, &[(20, 90), (0, 80), (1, 82), (2, 89)]), None);
    // Nothing is won: all the others may be needed.
    assert_eq!(left(&search, &[(20, 90), (0, 80), (1, 80)]), Some(18.0 * 2.0));
    search.limits.max_trials = 5;
    assert_eq!(left(&search, &so_far), Some(2.0));
    search.limits.max_seconds = Some(9.0);
    assert_eq!(left(&search, &so_far), Some(1.0));
    search.limits = Limits { until: Until::Exhausted, max_trials: 100, max_seconds: None };
    assert_eq!(left(&search, &so_far), Some(17.0 * 2.0));
    search.limits.until = Until::Budget;
    search.strategy = StrategyKind::Adaptive;
    assert_eq!(left(&search, &so_far), Some(2.0 * 2.0));
    search.strategy = StrategyKind::Bisect;
    assert_eq!(left(&search, &so_far), Some(6.0 * 2.0));
}

#[test]
fn keys_survive_a_round_trip_as_text() {
    let key = Key(std::array::from_fn(|i| i as u8 * 7));
    assert_eq!(key.to_string().parse(), Ok(key));
    assert_eq!("12".parse::<Key>(), Err(KeyError));
}
