use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::{
    evaluate::{Evaluation, Score},
    graph::GroupId,
    job::{Job, LockedHashes, parse},
    quant::{Preset, QConfigFile, QConfigMapping},
    search::{Candidate, Findings, Finish, Proposal, Search, StrategyKind},
    store::{JobState, SystemClock},
};

fn lock(folder: &TempDir, max_drop: f64) -> JobLock {
    let text = format!(
        "{{name: a, model: {{onnx: m}}, data: {{images: {{csv: a}}, split: {{calibrate: 1}}}}, \
         budget: {{max_drop: {max_drop}}}}}"
    );
    let mut spec = parse(&text, &[]).unwrap();
    spec.output = Some(folder.path().join("out"));
    let hash = "a".repeat(64);
    let sha256 = LockedHashes { model: hash.clone(), calibrate: hash.clone(), search: hash.clone(), certify: hash };
    JobLock::new(&Job { spec, folder: "/".into(), root: None }, sha256)
}

/// The flow with made-up measurements in place of the engine: a group in fp32 wins ten samples of a hundred.
fn flow(lock: JobLock, stop_after: usize) -> impl FnOnce(&mut dyn Ledger) -> Result<Outcome, Stopped> {
    move |ledger| {
        let search = Search {
            ranking: (0..4).map(GroupId).collect(),
            budget: lock.job.budget.budget(),
            limits: lock.job.search.limits(),
            strategy: StrategyKind::Greedy,
            repairs: vec![],
            refine: false,
        };
        let mut findings = Findings::default();
        loop {
            let fp32 = match search.propose(&findings) {
                Proposal::Measure(Candidate { fp32, .. }) => fp32,
                Proposal::Rank(fp32) | Proposal::Screen(fp32) => panic!("greedy ranks nothing anew: {fp32:?}"),
                Proposal::Finished(finish) => {
                    let trials = findings.trials;
                    let chosen = pareto::choose(&trials, &search.budget).unwrap();
                    let front = pareto::front(&trials);
                    let within_budget = chosen != 0;
                    return Ok(Outcome { within_budget, trials, front, chosen, finish, certificate: None });
                }
            };
            let trials = &mut findings.trials;
            if trials.len() == stop_after {
                return Err(Stopped::Cancelled);
            }
            let key = Key([fp32.len() as u8; 32]);
            let right = 60 + 10 * fp32.len();
            let made = || Trial {
                key,
                int8_groups: 4 - fp32.len(),
                evaluation: Evaluation {
                    score: Score::Count { correct: right as u64, total: 100 },
                    correct: (0..100).map(|i| i < right).collect(),
                    seconds: 1.0,
                },
                repairs: vec![],
                fp32_groups: fp32.clone(),
                latency: None,
                weight_bytes: 1,
                activation_bytes: 1,
            };
            let known = ledger.trial(&key).map_err(Stopped::Failed)?;
            let trial = known.unwrap_or_else(made);
            let file = QConfigFile {
                job: "a".into(),
                model_sha256: "a".repeat(64),
                trial: trials.len(),
                score: trial.evaluation.score.value(),
                mapping: QConfigMapping::preset(Preset::Onednn),
                groups: vec![],
            };
            let fp32_names = fp32.iter().map(|g| g.0.to_string()).collect();
            let facts = TrialFacts { fp32_names, drop: None, qconfig_json: "{}".into(), file };
            ledger.record_trial(trials.len(), &trial, &facts).map_err(Stopped::Failed)?;
            trials.push(trial);
        }
    }
}

async fn store(folder: &TempDir) -> Store {
    Store::open(&folder.path().join("qtuned.db"), Arc::new(SystemClock)).await.unwrap()
}

/// Runs a flow that shows nothing and is not asked to stop.
async fn go(
    run: &Run,
    flow: impl FnOnce(&mut dyn Ledger) -> Result<Outcome, Stopped> + Send + 'static,
) -> Result<Ran, RunError> {
    run.go(Arc::new(progress::Silent), &Cancel::default(), move |ledger, _, _| flow(ledger)).await
}

fn best(folder: &TempDir) -> QConfigFile {
    let text = std::fs::read_to_string(folder.path().join("out/best.qconfig.yaml")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_stopped_job_continues_and_ends_as_one_that_was_not() {
    let folder = TempDir::new().unwrap();
    let store = store(&folder).await;
    let lock = lock(&folder, 0.15);
    let run = Run::begin(&store, &lock).await.unwrap();
    let ran = go(&run, flow(lock.clone(), 2)).await.unwrap();
    assert_eq!((ran.exit, ran.outcome.is_none()), (Exit::Interrupted, true));
    assert_eq!(best(&folder).trial, 0);
    assert_eq!(store.find_job(None).await.unwrap().state, JobState::Interrupted);

    let run = Run::begin(&store, &lock).await.unwrap();
    assert_eq!(run.job.continued, Some(2));
    let ran = go(&run, flow(lock, 99)).await.unwrap();
    let outcome = ran.outcome.unwrap();
    assert_eq!((ran.exit, outcome.finish, outcome.chosen), (Exit::Success, Finish::WithinBudget, 4));
    assert_eq!(best(&folder).trial, 4);
    let row = store.find_job(None).await.unwrap();
    assert_eq!((row.state, row.trials, row.chosen), (JobState::Succeeded, 5, Some(4)));
    assert!(folder.path().join("out/trials.csv").exists() && folder.path().join("out/job.lock.yaml").exists());
}

#[tokio::test]
async fn without_a_qconfig_within_the_budget_fp32_is_chosen() {
    let folder = TempDir::new().unwrap();
    let store = store(&folder).await;
    let lock = lock(&folder, 0.05);
    let ran = go(&Run::begin(&store, &lock).await.unwrap(), flow(lock, 99)).await.unwrap();
    assert_eq!((ran.exit, ran.exit.code()), (Exit::NothingWithinBudget, 3));
    assert_eq!(best(&folder).trial, 0);
    assert_eq!(store.find_job(None).await.unwrap().within_budget, Some(false));
}

#[tokio::test]
async fn a_flow_that_fails_or_breaks_off_fails_the_job() {
    let folder = TempDir::new().unwrap();
    let store = store(&folder).await;
    let lock = lock(&folder, 0.05);
    let run = Run::begin(&store, &lock).await.unwrap();
    let error = go(&run, |_| Err(Stopped::Failed("no such luck".into()))).await.unwrap_err();
    assert_eq!(one_line(&error), "no such luck");
    let row = store.find_job(None).await.unwrap();
    assert_eq!((row.state, row.error.as_deref()), (JobState::Failed, Some("no such luck")));
    let error = go(&run, |_| panic!("a mistake")).await.unwrap_err();
    assert!(error.to_string().contains("a mistake"), "{error}");
}
