//! Files that leave something open, or say it in an unusual way: what goes in, what comes out, and of which size.

mod bench;
mod onnx_file;

use std::fs;

use bench::{Bench, write_npy};
use onnx_file::{BATCH, Build, Number, Open, int, ints, value, weight};
use qtuned::onnx::proto::data_type;
use serde_json::Value;

/// Numbers that are whole.
fn pixels(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 29 + i / 7) % 256) as f32).collect()
}

/// What [`Build::classifier`] computes of one sample `[c, h, w]`.
fn classify(x: &[f32], [channels, height, width]: [usize; 3]) -> Vec<f64> {
    let w = weight(channels);
    let sum = |o: usize| {
        let mut sum = 0.0;
        for at in 0..height * width {
            let (row, column) = (at / width, at % width);
            let mut y = 0.0;
            for i in 0..channels * 9 {
                let (channel, tap) = (i / 9, i % 9);
                let (r, c) = ((row + tap / 3).wrapping_sub(1), (column + tap % 3).wrapping_sub(1));
                if r < height && c < width {
                    y += f64::from(w[o * channels * 9 + i]) * f64::from(x[(channel * height + r) * width + c]);
                }
            }
            sum += y.max(0.0);
        }
        sum / (height * width) as f64
    };
    vec![sum(0), sum(1)]
}

fn outputs(found: &Value, at: usize) -> Vec<f64> {
    found["outputs"][at]["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn assert_near(found: &[f64], expected: &[f64]) {
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-4 * b.abs().max(1.0);
    assert!(found.len() == expected.len() && found.iter().zip(expected).all(near), "{found:?}\n{expected:?}");
}

/// The error of a command that fails, without what is in front of it.
fn refused(bench: &Bench, args: &[&str]) -> String {
    let done = bench.qtuned(args);
    assert!(done.code != 0 && done.stderr.lines().count() == 1, "{args:?}: {}{}", done.stdout, done.stderr);
    let text = done.stderr.trim_end();
    text.strip_prefix("error: failed to import `m.onnx`: ").unwrap_or(text).to_owned()
}

#[test]
fn other_inputs_are_filled_with_numbers() {
    let bench = Bench::new();
    let inputs = [
        value("x", data_type::FLOAT, &[BATCH, Number(4)]),
        value("factor", data_type::FLOAT, &[Open("one"), Number(4)]),
        value("offset", data_type::INT64, &[]),
    ];
    Build::new(&inputs, &["y"])
        .node("Mul", &["x", "factor"], "product", &[])
        .node("Cast", &["offset"], "number", &[int("to", 1)])
        .node("Add", &["product", "number"], "y", &[])
        .write(bench.path().join("m.onnx"));
    write_npy(&bench.path().join("x.npy"), &[2, 4], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let predict = ["predict", "m.onnx", "x.npy"];
    let fixed = ["--model-fixed", "factor=3", "--model-fixed", "offset=2"];
    let found = bench.json(&[&predict[..], &fixed].concat());
    assert_near(&outputs(&found, 0), &[2.0, 5.0, 8.0, 11.0, 14.0, 17.0, 20.0, 23.0]);

    let scalar = "input `offset` has no dimensions, and so no batch; model.fixed gives it a number";
    assert_eq!(refused(&bench, &predict), scalar);
    let refused = |more: &[&str]| refused(&bench, &[&predict, more].concat());
    assert_eq!(
        refused(&["--model-input", "x", "--model-fixed", "offset=2"]),
        "input `factor` has no value: samples go to `x`, and every other input needs a number (model.fixed)"
    );
    let names = "it has 3 inputs: `x`, `factor`, `offset`";
    assert_eq!(refused(&["--model-input", "z"]), format!("the graph has no input `z`; {names}"));
    assert_eq!(refused(&["--model-fixed", "z=1"]), format!("the graph has no input `z`; {names}"));
    assert_eq!(refused(&["--model-fixed", "offset=0.5"]), "input `offset` holds integers; 0.5 is none");
    let twice = refused(&["--model-input", "x", "--model-fixed", "x=1"]);
    assert_eq!(twice, "input `x` is fixed; samples cannot go there");
    assert_eq!(bench.qtuned(&[&predict[..], &["--model-fixed", "offset"]].concat()).code, 2);
}

#[test]
fn one_of_several_outputs_counts() {
    let bench = Bench::new();
    Build::new(&[value("x", data_type::FLOAT, &[BATCH, Number(3), Number(6), Number(5)])], &["aux", "y", "other"])
        .classifier("x", 3, "y")
        .classifier("x", 3, "aux")
        .node("odd::Strange", &["x"], "other", &[])
        .write(bench.path().join("m.onnx"));
    let x = pixels(90);
    write_npy(&bench.path().join("x.npy"), &[1, 3, 6, 5], &x);
    assert!(refused(&bench, &["inspect", "m.onnx"]).contains("operator `Strange`"));
    let found = bench.json(&["predict", "m.onnx", "x.npy", "--model-output", "y"]);
    assert_eq!((found["outputs"].as_array().unwrap().len(), &found["outputs"][0]["name"]), (1, &"y".into()));
    assert_near(&outputs(&found, 0), &classify(&x, [3, 6, 5]));
    // What only the others need is not there.
    let found = bench.json(&["inspect", "m.onnx", "--model-output", "y"]);
    assert_eq!((&found["output_names"], &found["inputs"][0]["name"]), (&serde_json::json!(["y"]), &"x".into()));
    assert!(!found["groups"].to_string().contains("aux"), "{found}");
    assert_eq!(
        refused(&bench, &["inspect", "m.onnx", "--model-output", "z"]),
        "the graph has no output `z`; it has 3 outputs: `aux`, `y`, `other`"
    );
}

#[test]
fn sizes_that_are_open_are_said() {
    let bench = Bench::new();
    let dims = [BATCH, Number(3), Open("height"), Open("width")];
    Build::new(&[value("x", data_type::FLOAT, &dims)], &["y"])
        .classifier("x", 3, "y")
        .write(bench.path().join("m.onnx"));
    let x = pixels(2 * 3 * 9 * 7);
    write_npy(&bench.path().join("x.npy"), &[2, 3, 9, 7], &x);
    let predict = ["predict", "m.onnx", "x.npy"];
    let ask = "model.shape says the shape of a sample";
    assert_eq!(
        refused(&bench, &predict),
        format!("input `x` has dimension 2 `height`; all but the leading batch must be positive numbers: {ask}")
    );
    let found = bench.json(&[&predict[..], &["--model-shape", "3x9x7"]].concat());
    let expected = [classify(&x[..189], [3, 9, 7]), classify(&x[189..], [3, 9, 7])].concat();
    assert_near(&outputs(&found, 0), &expected);
    let refused = |shape| refused(&bench, &[&predict[..], &["--model-shape", shape]].concat());
    assert_eq!(refused("1x9x7"), "input `x` has dimension 1 of 3 in the file; model.shape is 1×9×7");
    assert_eq!(refused("9x7"), "input `x` has 3 dimensions besides the batch; model.shape is 9×7");
    assert!(refused("3x9x8").ends_with("x.npy: expected an array of batch×3×9×8, found 2×3×9×7"));
    for shape in ["3x0x7", "3xx7", "", "3x9x99999999999"] {
        assert_eq!(bench.qtuned(&[&predict[..], &["--model-shape", shape]].concat()).code, 2, "{shape}");
    }
}

/// Channels last, as many as given, of a type.
fn channels_last(elem_type: i32, [channels, height, width]: [i64; 3]) -> Build {
    let dims = [BATCH, Number(height), Number(width), Number(channels)];
    let build = Build::new(&[value("x", elem_type, &dims)], &["y"]);
    let build = build.node("Transpose", &["x"], "t", &[ints("perm", &[0, 3, 1, 2])]);
    match elem_type {
        data_type::FLOAT => build.classifier("t", channels as usize, "y"),
        _ => build.node("Cast", &["t"], "f", &[int("to", 1)]).classifier("f", channels as usize, "y"),
    }
}

#[test]
fn pictures_may_have_their_channels_last_be_gray_and_not_square() {
    for elem_type in [data_type::FLOAT, data_type::UINT8] {
        for (channels, height, width) in [(1usize, 10usize, 8usize), (3, 8, 12), (2, 9, 5)] {
            let bench = Bench::new();
            channels_last(elem_type, [channels as i64, height as i64, width as i64]).write(bench.path().join("m.onnx"));
            let x = pixels(channels * height * width);
            write_npy(&bench.path().join("x.npy"), &[1, height, width, channels], &x);
            let planes: Vec<f32> = (0..channels).flat_map(|c| x.iter().skip(c).step_by(channels).copied()).collect();
            let found = bench.json(&["predict", "m.onnx", "x.npy"]);
            assert_near(&outputs(&found, 0), &classify(&planes, [channels, height, width]));
            let facts = bench.json(&["inspect", "m.onnx"]);
            let input = &facts["inputs"][0];
            assert_eq!((&input["channels_last"], input["integer"] == true), (&true.into(), elem_type != 1));
        }
    }
}

#[test]
fn integers_may_go_in() {
    for elem_type in [data_type::UINT8, data_type::INT8, data_type::INT32, data_type::INT64] {
        let bench = Bench::new();
        Build::new(&[value("x", elem_type, &[BATCH, Number(2), Number(5), Number(6)])], &["y"])
            .node("Cast", &["x"], "f", &[int("to", 1)])
            .classifier("f", 2, "y")
            .write(bench.path().join("m.onnx"));
        let x = pixels(60);
        write_npy(&bench.path().join("x.npy"), &[1, 2, 5, 6], &x);
        assert_near(&outputs(&bench.json(&["predict", "m.onnx", "x.npy"]), 0), &classify(&x, [2, 5, 6]));
        // Indices of a table.
        Build::new(&[value("x", elem_type, &[BATCH, Number(3)])], &["y"])
            .floats("table", &[4, 2], &[0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0])
            .node("Gather", &["table", "x"], "rows", &[])
            .node("Flatten", &["rows"], "y", &[int("axis", 1)])
            .write(bench.path().join("m.onnx"));
        write_npy(&bench.path().join("x.npy"), &[1, 3], &[3.0, 0.0, 2.0]);
        let found = bench.qtuned(&["predict", "m.onnx", "x.npy", "--json"]);
        if found.code == 0 {
            let found = serde_json::from_str(&found.stdout).unwrap();
            assert_near(&outputs(&found, 0), &[3.5, 4.0, 0.5, 1.0, 2.5, 3.0]);
        } else {
            // A table that is read by what flows in is no operator that there is; it is said in one sentence.
            assert_eq!(found.stderr.lines().count(), 1, "{}", found.stderr);
        }
    }
}

#[test]
fn any_batch_runs_whatever_the_file_says() {
    let x = pixels(4 * 2 * 4 * 4);
    let expected: Vec<f64> = x.chunks(32).flat_map(|x| classify(x, [2, 4, 4])).collect();
    for batch in [BATCH, Number(1), Number(4), Number(3)] {
        let bench = Bench::new();
        let rows = match batch {
            Number(number) => number,
            Open(_) => -1,
        };
        Build::new(&[value("x", data_type::FLOAT, &[batch, Number(2), Number(4), Number(4)])], &["y"])
            .classifier("x", 2, "flat")
            // As exporters write it for a batch that they take for fixed.
            .longs("shape", &[rows, 2])
            .node("Reshape", &["flat", "shape"], "y", &[])
            .write(bench.path().join("m.onnx"));
        for count in [1, 2, 4] {
            write_npy(&bench.path().join("x.npy"), &[count, 2, 4, 4], &x[..count * 32]);
            let found = bench.json(&["predict", "m.onnx", "x.npy"]);
            assert_eq!(found["outputs"][0]["shape"], serde_json::json!([count, 2]));
            assert_near(&outputs(&found, 0), &expected[..count * 2]);
        }
        let timed = bench.json(&["bench", "m.onnx", "--batch", "3", "--runs", "2", "--warmup", "0"]);
        assert_eq!(timed["fingerprint"]["batch"], 3);
    }
}

#[test]
fn a_job_says_all_of_this_and_runs() {
    let bench = Bench::new();
    let inputs = [
        value("flag", data_type::FLOAT, &[Number(1)]),
        value("pixels", data_type::UINT8, &[Number(1), Open("h"), Open("w"), Number(3)]),
    ];
    Build::new(&inputs, &["features", "y"])
        .node("Transpose", &["pixels"], "t", &[ints("perm", &[0, 3, 1, 2])])
        .node("Cast", &["t"], "f", &[int("to", 1)])
        .node("Mul", &["f", "flag"], "scaled", &[])
        .classifier("scaled", 3, "y")
        .classifier("f", 3, "features")
        .write(bench.path().join("m.onnx"));
    let mut csv = "file,label\n".to_owned();
    for index in 0u32..24 {
        let colour = |x: u32, y: u32| image::Rgb([(x * 19 + index * 10) as u8, (y * 23) as u8, (index * 9) as u8]);
        image::RgbImage::from_fn(12, 10, colour).save(bench.path().join(format!("{index}.png"))).unwrap();
        csv += &format!("{index}.png,{}\n", index % 2);
    }
    fs::write(bench.path().join("labels.csv"), csv).unwrap();
    let job = "{name: all, model: {onnx: m.onnx, input: pixels, shape: [10, 12, 3], fixed: {flag: 0.5}, output: y},
        data: {images: {csv: labels.csv}, split: {calibrate: 4, search: 20}}, budget: {metric: agreement, max_drop: 0.5},
        search: {max_trials: 4}, measure: {latency: {runs: 3, warmup: 0}}}";
    fs::write(bench.path().join("job.yaml"), job).unwrap();
    let valid = bench.json(&["validate", "job.yaml"]);
    assert_eq!(valid["model"]["output_names"], serde_json::json!(["y"]));
    let done = bench.qtuned(&["run", "job.yaml"]);
    assert!([0, 3].contains(&done.code), "{}", done.stderr);
    let lock = fs::read_to_string(bench.path().join("qtuned-out/all/job.lock.yaml")).unwrap();
    for part in ["input: pixels", "flag: 0.5", "output: y"] {
        assert!(lock.contains(part), "{part} in\n{lock}");
    }
    // Another command reads the model as the job says.
    let groups = bench.json(&["groups"]);
    let analyzed = bench.json(&["analyze", "job.yaml"]);
    assert_eq!(groups.as_array().unwrap().len(), analyzed["groups"].as_array().unwrap().len());
    bench.told(&["export", "--format", "onnxruntime"]);

    // With another number it is another measurement.
    let trials = bench.json(&["trials"]);
    bench.qtuned(&["run", "job.yaml", "--set", "model.fixed={flag: 2}"]);
    let others = bench.json(&["trials"]);
    assert_ne!(trials[0]["key"], others[0]["key"]);

    let refuse = |set: &str| {
        let done = bench.qtuned(&["validate", "job.yaml", "--set", set]);
        assert!(done.code != 0 && done.stderr.lines().count() == 1, "{}", done.stderr);
        done.stderr
    };
    assert!(refuse("model.output=z").contains("the graph has no output `z`; it has 2 outputs: `features`, `y`"));
    assert!(
        refuse("model.shape=[10, 12, 0]").contains("model.shape: expected a whole number from 1 to 1048576, found 0")
    );
    assert!(refuse("model.shape=[]").contains("model.shape: expected the 1 to 7 sizes of a sample"));
    assert!(refuse("model.shape=[8, 8, 3]").contains("samples of 10×12 pixels with 3 channels do not fit"));
    assert!(refuse("model.input=flag").contains("input `flag` is fixed; samples cannot go there"));
}
