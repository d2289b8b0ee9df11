use std::fs;

use proptest::prelude::*;

use super::*;
use crate::dataset::spec::Source;

fn counts(calibrate: usize, search: Option<usize>, certify: usize, seed: u64) -> SplitCounts {
    SplitCounts { calibrate, search, certify, seed }
}

#[test]
fn a_seed_gives_the_same_samples_for_ever() {
    // Recorded jobs were measured on these. They may never change. A second implementation, in
    // Python from the ChaCha8 specification, gave the same.
    assert_eq!(permutation(1000, 0)[..8], [304, 409, 792, 428, 414, 430, 860, 861]);
    assert_eq!(permutation(1000, 1)[..8], [352, 922, 262, 129, 703, 2, 389, 634]);
    assert_eq!(permutation(60_000, 0)[..8], [22172, 18459, 26894, 39983, 4776, 26694, 52556, 16306]);
    assert_eq!(permutation(5, 0), [1, 3, 0, 2, 4]);
}

#[test]
fn the_order_is_calibrate_search_certify() {
    let order = permutation(10, 7);
    let split = by_counts(&counts(2, Some(3), 4, 7), 10, None).unwrap();
    assert_eq!(split.calibrate, order[..2]);
    assert_eq!(split.search, order[2..5]);
    assert_eq!(split.certify, order[5..9]);
    let rest = by_counts(&counts(2, None, 4, 7), 10, None).unwrap();
    assert_eq!((rest.search, rest.certify), (order[2..6].to_vec(), order[6..].to_vec()));
}

#[test]
fn calibration_images_leave_all_others_to_search_and_certify() {
    let split = by_counts(&counts(3, None, 4, 7), 10, Some(5)).unwrap();
    assert_eq!(split.calibrate, permutation(5, 7)[..3]);
    assert_eq!(split.search.len(), 6);
}

#[test]
fn too_large_counts_say_how_many_there_are() {
    let error = |counts, calibration| by_counts(&counts, 10, calibration).unwrap_err().to_string();
    let errors = [
        error(counts(4, Some(4), 4, 0), None),
        error(counts(4, None, 7, 0), None),
        error(counts(4, None, 6, 0), None),
        error(counts(6, None, 1, 0), Some(5)),
        error(counts(usize::MAX, Some(usize::MAX), usize::MAX, 0), None),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
    split asks for 12 samples, there are 10
    split asks for 11 samples, there are 10
    data.split.search: calibrate and certify take all 10 samples, none is left
    split asks for 6 samples, there are 5
    split asks for 55340232221128654845 samples, there are 10
    "#);
}

/// A csv of samples `a` to `e`, and the split that `json` makes of it.
fn by_json(json: &str) -> Result<Split, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all.csv"), "file,label\na,0\nb,0\nc,0\nd,0\ne,0\n").unwrap();
    fs::write(folder.path().join("split.json"), json).unwrap();
    let table = Table::read(&Source::Csv("all.csv".into()), folder.path(), None, None).unwrap();
    by_file(&folder.path().join("split.json"), &table, None).map_err(|error| {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        let message = format!("{error}{}", source.unwrap_or_default());
        message.replace(&format!("{}/", folder.path().display()), "")
    })
}

#[test]
fn a_file_lists_names_or_indices() {
    let split = by_json(r#"{"seed": 0, "calibration": ["e", "a"], "validation": [1, "d"], "certify": [2]}"#).unwrap();
    assert_eq!(split, Split { calibrate: vec![4, 0], search: vec![1, 3], certify: vec![2] });
    let split = by_json(r#"{"calibration": ["e"], "search": ["b"]}"#).unwrap();
    assert_eq!(split, Split { calibrate: vec![4], search: vec![1], certify: vec![] });
}

#[test]
fn mistakes_in_a_file_say_where() {
    let errors = [
        r#"{"calibration": ["a", "x"], "validation": ["b"]}"#,
        r#"{"calibration": ["a"], "validation": ["b", 0]}"#,
        r#"{"calibration": ["a", "a"], "validation": ["b"]}"#,
        r#"{"calibration": ["a"], "validation": [5]}"#,
        r#"{"calibration": ["a"], "validation": [-1]}"#,
        r#"{"calibration": [], "validation": ["b"]}"#,
        r#"{"calibration": ["a"], "validation": []}"#,
        r#"{"calibration": ["a"]}"#,
        r#"{"calibration": ["a"], "validation": ["b"], "search": ["c"]}"#,
        "{",
    ]
    .map(|json| by_json(json).unwrap_err());
    insta::assert_snapshot!(errors.join("\n"), @r#"
    split.json: calibration[1]: no sample `x` in all.csv
    split.json: validation[1]: `a` is in calibration[0] already
    split.json: calibration[1]: `a` is in calibration[0] already
    split.json: validation[0]: no sample 5, all.csv has 5
    failed to read the split file split.json: expected a sample's name or its index from 0 at line 1 column 41
    split.json: calibration: expected at least one sample, found none
    split.json: validation: expected at least one sample, found none
    failed to read the split file split.json: missing field `validation` at line 1 column 22
    failed to read the split file split.json: duplicate field `validation` at line 1 column 52
    failed to read the split file split.json: EOF while parsing an object at line 1 column 1
    "#);
}

proptest! {
    #[test]
    fn parts_are_disjoint_and_of_the_right_size(
        (calibrate, search, certify, more) in (1usize..50, 1usize..50, 0usize..50, 0usize..50),
        seed in any::<u64>(),
    ) {
        let available = calibrate + search + certify + more;
        let asked = counts(calibrate, Some(search), certify, seed);
        let split = by_counts(&asked, available, None).unwrap();
        prop_assert_eq!((split.calibrate.len(), split.search.len(), split.certify.len()), (calibrate, search, certify));
        let mut all = [split.calibrate.clone(), split.search.clone(), split.certify.clone()].concat();
        all.sort_unstable();
        all.dedup();
        prop_assert_eq!(all.len(), calibrate + search + certify);
        prop_assert!(all.iter().all(|&row| row < available));
        prop_assert_eq!(by_counts(&asked, available, None).unwrap(), split);
    }
}
