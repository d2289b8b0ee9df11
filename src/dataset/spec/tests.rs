use super::*;

fn parse(yaml: &str) -> Result<DataSpec, String> {
    serde_yaml::from_str(yaml).map_err(|e| e.to_string())
}

#[test]
fn the_example_of_the_manual_reads_and_writes_back() {
    let spec = parse(
        "images: {csv: data/labels.csv}
preprocess: {resize: {short_side: 256, interpolation: bilinear}, center_crop: 224, channels: rgb,
  scale: 0.00392156862745098, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
split: {calibrate: 128, search: 572, certify: 300, seed: 0}",
    )
    .unwrap();
    let written = serde_yaml::to_string(&spec).unwrap();
    insta::assert_snapshot!(written, @r#"
        images:
          csv: data/labels.csv
        preprocess:
          orientation: upright
          resize:
            short_side: 256
            interpolation: bilinear
          center_crop: 224
          channels: rgb
          scale: 0.00392156862745098
          mean:
          - 0.485
          - 0.456
          - 0.406
          std:
          - 0.229
          - 0.224
          - 0.225
        cache_mib: 1024
        split:
          calibrate: 128
          search: 572
          certify: 300
          seed: 0
        "#);
    assert_eq!(parse(&written).unwrap(), spec);
}

#[test]
fn defaults_are_written_out() {
    let spec = parse(
        "images: {npz: {file: test.npz}}
calibration_images: {idx: {images: a.gz, labels: b.gz}}
split: {calibrate: 8}",
    )
    .unwrap();
    let written = serde_yaml::to_string(&spec).unwrap();
    insta::assert_snapshot!(written, @r#"
        images:
          npz:
            file: test.npz
            images: x
            labels: y
        calibration_images:
          idx:
            images: a.gz
            labels: b.gz
        preprocess:
          orientation: upright
          scale: 1.0
          mean:
          - 0.0
          std:
          - 1.0
        cache_mib: 1024
        split:
          calibrate: 8
          certify: 0
          seed: 0
        "#);
    assert_eq!(parse(&written).unwrap(), spec);
}

#[test]
fn every_form_reads_back_as_written() {
    for (images, preprocess, split) in [
        ("{image_folder: val}", "{center_crop: [224, 192]}", "{file: split.json}"),
        ("{npy: {images: x.npy, labels: y.npy}}", "{orientation: stored}", "{calibrate: 1}"),
        ("{safetensors: {file: a.safetensors, labels: y}}", "{}", "{calibrate: 1}\nlabel_map: names.txt"),
        ("{parquet: {path: data, images: picture}}", "{}", "{calibrate: 1}\ncache_mib: 0"),
        ("{csv: a.csv}", "{resize: {size: 32}}", "{calibrate: 1, search: 2}"),
        ("{csv: a.csv}", "{resize: {size: [3, 4], interpolation: lanczos}}", "{calibrate: 1}"),
    ] {
        let yaml = format!("images: {images}\npreprocess: {preprocess}\nsplit: {split}");
        let spec = parse(&yaml).unwrap();
        assert_eq!(parse(&serde_yaml::to_string(&spec).unwrap()).unwrap(), spec);
    }
}

#[test]
fn mistakes_say_what_was_expected() {
    let with = |images: &str, preprocess: &str, split: &str| {
        parse(&format!("images: {images}\npreprocess: {preprocess}\nsplit: {split}")).unwrap_err()
    };
    let errors = [
        with("{csv: a, image_folder: b}", "{}", "{calibrate: 1}"),
        with("{}", "{}", "{calibrate: 1}"),
        with("{tar: a}", "{}", "{calibrate: 1}"),
        with("{csv: a}", "{resize: {}}", "{calibrate: 1}"),
        with("{csv: a}", "{resize: {short_side: 1, size: 1}}", "{calibrate: 1}"),
        with("{csv: a}", "{resize: {short_side: 0}}", "{calibrate: 1}"),
        with("{csv: a}", "{center_crop: [1, 2, 3]}", "{calibrate: 1}"),
        with("{csv: a}", "{center_crop: 100000}", "{calibrate: 1}"),
        with("{csv: a}", "{crop: 1}", "{calibrate: 1}"),
        with("{csv: a}", "{}", "{}"),
        with("{csv: a}", "{}", "{calibrate: 0}"),
        with("{csv: a}", "{}", "{calibrate: 1, search: 0}"),
        with("{csv: a}", "{}", "{file: a, seed: 1}"),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
        expected exactly one of csv, idx, npz, npy, safetensors, parquet and image_folder, found csv and image_folder
        expected one of csv, idx, npz, npy, safetensors, parquet and image_folder
        images: unknown field `tar`, expected one of `csv`, `idx`, `npz`, `npy`, `safetensors`, `parquet`, `image_folder` at line 1 column 10
        preprocess: expected one of short_side and size at line 2 column 13
        preprocess: expected one of short_side and size, found both at line 2 column 13
        preprocess: expected a side from 1 to 16384, found 0 at line 2 column 13
        preprocess: expected a number or [height, width] at line 2 column 13
        preprocess: expected a side from 1 to 16384, found 100000 at line 2 column 13
        preprocess: unknown field `crop`, expected one of `orientation`, `resize`, `center_crop`, `channels`, `scale`, `mean`, `std` at line 2 column 14
        expected calibrate (a count) or file
        expected calibrate of at least 1, found 0
        expected search of at least 1, found 0
        expected either file, or calibrate, search, certify and seed, found both
        "#);
}
