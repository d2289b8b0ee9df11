//! Raises every error that docs/errors.md lists, and looks that none is missing there.

mod bench;
mod onnx_file;

use std::{collections::BTreeMap, fs, path::Path};

use bench::{Bench, write_npy};
use onnx_file::{BATCH, Build, Number, Open, int, ints, value};
use qtuned::{
    cancel::Cancel,
    dataset::{Dataset, npy_header},
    job,
    onnx::proto::{StringStringEntryProto, TensorProto, data_type},
};

/// The enums of errors that models, data and jobs can raise, and where they are.
const ENUMS: [(&str, &str); 14] = [
    ("src/job/load.rs", "JobError"),
    ("src/quant/mapping.rs", "MappingError"),
    ("src/quant/qconfig.rs", "QConfigError"),
    ("src/pipeline/run.rs", "PipelineError"),
    ("src/pipeline/form.rs", "FormError"),
    ("src/dataset/error.rs", "DatasetError"),
    ("src/onnx/error.rs", "OnnxError"),
    ("src/onnx/error.rs", "TensorError"),
    ("src/ptq.rs", "CalibrationError"),
    ("src/sensitivity.rs", "SensitivityError"),
    ("src/evaluate/accuracy.rs", "EvaluateError"),
    ("src/ptq.rs", "RestoreError"),
    ("src/export.rs", "ExportError"),
    ("src/verify.rs", "VerifyError"),
];

/// A folder with `m.onnx`, `job.yaml` and pictures that fit together, and what raises an error there.
type Raise = fn(&Bench) -> String;

/// Each variant, and how to raise it. A new one needs a line here and a line in the table.
const RAISED: &[(&str, Raise)] = &[
    ("JobError::Read", |b| b.refused(&["validate", "nowhere.yaml"])),
    ("JobError::Invalid", |b| {
        b.write("job.yaml", "name: a\nmodel: {onnx: m.onnx}\nbudget: {max_dorp: 0.1}\n");
        b.refused(&["validate", "job.yaml"])
    }),
    ("JobError::Set", |b| b.refused(&["validate", "job.yaml", "--set", "budget"])),
    ("PipelineError::Mapping", |b| b.job("qconfig={module_name: {fc: null}}")),
    ("MappingError::NoSuchGroup", |b| b.job("qconfig={module_name: {make_y_x: null}}")),
    ("MappingError::Regex", |b| b.job("qconfig={module_name_regex: {'(': null}}")),
    ("MappingError::QConfig", |b| {
        b.job("qconfig={preset: x86, module_name: {make_y_c: {activation: {reduce_range: true, quant_max: 200}}}}")
    }),
    ("MappingError::Rounding", |b| {
        b.job("qconfig={'': {activation: {rounding: openvino}}, module_name: {make_y_c: onednn}}")
    }),
    ("QConfigError::Range", |b| b.job("qconfig={'': {activation: {quant_min: 10, quant_max: 5}}}")),
    ("QConfigError::ReduceRangeTwice", |b| b.job("qconfig={'': {activation: {reduce_range: true, quant_max: 200}}}")),
    ("QConfigError::PercentileUnused", |b| b.job("qconfig={'': {activation: {observer: minmax, percentile: 99}}}")),
    ("QConfigError::RoundingRange", |b| {
        b.job("qconfig={'': {activation: {rounding: openvino_static, reduce_range: true}}}")
    }),
    ("QConfigError::RoundingResidual", |b| b.job("qconfig={'': {residual: fused, activation: {rounding: openvino}}}")),
    ("QConfigError::OneSidedWeight", |b| b.job("qconfig={'': {weight: {quant_min: 0}}}")),
    ("PipelineError::NothingToQuantize", |b| b.job("qconfig={'': null}")),
    ("FormError::Shape", |b| b.job("data.preprocess.center_crop=8")),
    ("FormError::SeveralInputs", |b| {
        two_inputs().write(b.path().join("m.onnx"));
        b.job("name=b")
    }),
    ("FormError::NoArray", |b| {
        two_inputs().write(b.path().join("m.onnx"));
        b.arrays("x", &[3, 10, 12])
    }),
    ("FormError::NoInput", |b| b.arrays("y", &[3, 10, 12])),
    ("FormError::ArrayShape", |b| b.arrays("x", &[4])),
    ("PipelineError::NoPictures", |b| {
        vector().node("Relu", &["x"], "y", &[]).write(b.path().join("m.onnx"));
        b.refused(&["init", "m.onnx", "labels.csv", "-o", "-"])
    }),
    ("PipelineError::Unresolvable", |b| b.refused(&["validate", "job.yaml", "--strict"])),
    ("PipelineError::Program", |b| b.run(&["measure.latency={command: ['false', '{model}']}"])),
    ("PipelineError::Baseline", |b| {
        b.labels(|_| 1);
        // All weights are such that the first output is the largest.
        let mut first = Build::new(&[picture_input()], &["y"]);
        first = first.classifier("x", 3, "y");
        first.graph().initializer[0].float_data = (0..54).map(|i| if i < 27 { 1.0 } else { -1.0 }).collect();
        first.write(b.path().join("m.onnx"));
        b.run(&["budget.drop=relative", "budget.metric=top1"])
    }),
    ("PipelineError::BaselineScore", |b| {
        let program = "measure.metric.command=[sh, -c, 'echo -0.5', sh, '{model}']";
        b.run(&["budget={metric: score, max_drop: 0.1, drop: relative}", program])
    }),
    ("DatasetError::Read", |b| {
        fs::remove_file(b.path().join("labels.csv")).unwrap();
        b.refused(&["validate", "job.yaml"])
    }),
    ("DatasetError::Decode", |b| {
        (0..24).for_each(|index| b.write(&format!("{index}.png"), "no picture"));
        b.refused(&["validate", "job.yaml"]).replace(&first_picture(b), "3.png")
    }),
    ("DatasetError::Csv", |b| {
        b.write("labels.csv", "file,label\n0.png,1,2\n");
        b.refused(&["validate", "job.yaml"])
    }),
    ("DatasetError::SplitFile", |b| {
        b.write("split.json", "{\"calibration\": 3}");
        b.job("data.split={file: split.json}")
    }),
    ("DatasetError::Malformed", |b| {
        b.write("labels.csv", "file,label\n0.png,cat\n");
        b.refused(&["validate", "job.yaml"])
    }),
    ("DatasetError::Picture", |b| {
        let odd = all_but_first(b, &[]);
        odd.iter().for_each(|name| image::RgbImage::new(5, 5).save(b.path().join(name)).unwrap());
        let text = b.run(&[]);
        odd.iter().fold(text, |text, name| text.replace(&format!("{name}: expected"), "3.png: expected"))
    }),
    ("DatasetError::Key", |b| b.job("data.preprocess.mean=[1, 2]")),
    ("DatasetError::TooFewSamples", |b| b.job("data.split={calibrate: 17, search: 100}")),
    ("DatasetError::Outside", |b| {
        let job = job::load(&b.path().join("job.yaml"), &[]).unwrap();
        fs::create_dir(b.path().join("inner")).unwrap();
        let root = b.path().join("inner");
        Dataset::open(&job.spec.data, b.path(), Some(&root), &Cancel::default()).err().unwrap().to_string()
    }),
    ("CalibrationError::Sample", |b| {
        b.apart();
        b.write("calibrate/1.png", "no picture");
        b.run(&[APART])
    }),
    ("EvaluateError::Sample", |b| {
        b.apart();
        all_but_first(b, &[APART]).iter().for_each(|name| b.write(name, "no picture"));
        b.run(&[APART])
    }),
    ("EvaluateError::Label", |b| {
        b.labels(|_| 9);
        b.run(&["budget.metric=top1"])
    }),
    ("OnnxError::Read", |b| b.refused(&["inspect", "nowhere.onnx"])),
    ("OnnxError::File", |b| {
        b.write("m.onnx", "nothing");
        b.refused(&["inspect", "m.onnx"])
    }),
    ("OnnxError::Decode", |b| {
        b.write("m.onnx", "\u{1}\u{2}");
        b.refused(&["inspect", "m.onnx"])
    }),
    ("OnnxError::Model", |b| {
        let inputs = ["x", "z"].map(|name| value(name, data_type::FLOAT, &[BATCH, Number(4)]));
        Build::new(&inputs, &["y"]).node("Add", &["x", "z"], "y", &[]).write(b.path().join("m.onnx"));
        b.refused(&["inspect", "m.onnx", "--model-input", "x"])
    }),
    ("OnnxError::Opset", |b| {
        let mut old = vector().node("Relu", &["x"], "y", &[]);
        old.model.opset_import[0].version = 6;
        b.model(old)
    }),
    ("OnnxError::Unsupported", |b| {
        b.model(vector().node("odd::Strange", &["x"], "other", &[]).node("Relu", &["other"], "y", &[]))
    }),
    ("OnnxError::Node", |b| b.model(vector().floats("w", &[3, 2], &[0.5; 6]).node("MatMul", &["x", "w"], "y", &[]))),
    ("OnnxError::Tensor", |b| b.constant(|w| w.float_data.truncate(7))),
    ("TensorError::NegativeDimension", |b| b.constant(|w| w.dims[1] = -2)),
    ("TensorError::TooLarge", |b| b.constant(|w| w.dims = vec![1 << 40, 4])),
    ("TensorError::Length", |b| b.constant(|w| w.float_data.truncate(7))),
    ("TensorError::ElementType", |b| b.constant(|w| w.data_type = 14)),
    ("TensorError::NotHalf", |b| {
        b.constant(|w| {
            w.data_type = data_type::FLOAT16;
            w.float_data.clear();
            w.int32_data = vec![65_536; 8];
        })
    }),
    ("TensorError::NotFinite", |b| b.constant(|w| w.float_data[1] = f32::NAN)),
    ("TensorError::ExternalKey", |b| b.external(&[])),
    ("TensorError::Outside", |b| b.external(&[("location", "../w.bin")])),
    ("TensorError::ExternalShort", |b| {
        b.write("w.bin", "12345678");
        b.external(&[("location", "w.bin")])
    }),
    ("TensorError::Overlap", |b| {
        b.write("w.bin", &"0".repeat(40));
        let external = |name: &str, offset: &str| TensorProto {
            name: name.to_owned(),
            ..external(&[("location", "w.bin"), ("offset", offset)])
        };
        let mut build = vector();
        build.graph().initializer.extend([external("w", "0"), external("v", "4")]);
        b.model(build.node("MatMul", &["x", "w"], "a", &[]).node("MatMul", &["x", "v"], "c", &[]).node(
            "Add",
            &["a", "c"],
            "y",
            &[],
        ))
    }),
    ("TensorError::ExternalRead", |b| b.external(&[("location", "w.bin")])),
    ("CalibrationError::NotFinite", |b| {
        let mut large = Build::new(&[picture_input()], &["y"]).classifier("x", 3, "y");
        large.graph().initializer[0].float_data = vec![3e38; 54];
        large.write(b.path().join("m.onnx"));
        b.run(&[])
    }),
    ("SensitivityError::NotFinite", |b| {
        quotient().write(b.path().join("m.onnx"));
        b.dark(".");
        b.run(&[])
    }),
    ("RestoreError::Mapping", |b| b.restored("mapping:\n", "mapping:\n  module_name: {make_y_z: null}\n")),
    ("RestoreError::Group", |b| b.restored("id: make_y_c", "id: make_y_z")),
    ("RestoreError::Parameters", |b| b.restored("scale: ", "scale: -")),
    ("ExportError::Node", |b| {
        // Two nodes of the file that are one operator of the engine, and quantized as one.
        let build = Build::new(&[picture_input()], &["y"]).classifier("x", 3, "means");
        let build = build.node("Sigmoid", &["means"], "s", &[]).node("Mul", &["s", "means"], "y", &[]);
        build.write(b.path().join("m.onnx"));
        b.exported()
    }),
    ("ExportError::Opset", |b| {
        let mut build =
            Build::new(&[picture_input()], &["y"]).classifier("x", 3, "means").node("Erf", &["means"], "y", &[]);
        build.model.opset_import[0].version = 11;
        build.write(b.path().join("m.onnx"));
        b.exported()
    }),
    ("VerifyError::OnnxRuntime", |b| {
        b.chosen();
        b.refused(&["verify", "a", "--engine", "onnxruntime", "--library", "nowhere.so"])
    }),
    ("EvaluateError::NotFinite", |b| {
        quotient().write(b.path().join("m.onnx"));
        b.apart();
        b.dark(".");
        b.run(&[APART])
    }),
];

/// Calibrates with the pictures of [`Scene::apart`].
const APART: &str = "data.calibration_images={csv: calibrate/labels.csv}";

/// What the tests do in a folder.
trait Scene {
    fn write(&self, name: &str, text: &str);
    fn refused(&self, args: &[&str]) -> String;
    fn job(&self, set: &str) -> String;
    fn run(&self, sets: &[&str]) -> String;
    fn model(&self, build: Build) -> String;
    fn constant(&self, change: fn(&mut TensorProto)) -> String;
    fn arrays(&self, input: &str, shape: &[usize]) -> String;
    fn external(&self, entries: &[(&str, &str)]) -> String;
    fn labels(&self, label: fn(u32) -> u32);
    fn apart(&self);
    fn dark(&self, folder: &str);
    fn chosen(&self) -> String;
    fn restored(&self, from: &str, to: &str) -> String;
    fn exported(&self) -> String;
}

impl Scene for Bench {
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    /// What a command that fails says, in one line.
    fn refused(&self, args: &[&str]) -> String {
        let done = self.qtuned(args);
        assert!([1, 2].contains(&done.code), "{args:?}: {} {}{}", done.code, done.stdout, done.stderr);
        // What a job was doing is told before.
        let last = done.stderr.trim_end().lines().last().unwrap_or_default().to_owned();
        let text = last.strip_prefix("error: ").unwrap_or_else(|| panic!("{args:?}: {}{}", done.stdout, done.stderr));
        text.to_owned()
    }

    fn job(&self, set: &str) -> String {
        self.refused(&["validate", "job.yaml", "--set", set])
    }

    fn run(&self, sets: &[&str]) -> String {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let done = self.qtuned(&[&["run", "job.yaml"], &sets[..]].concat());
        assert_eq!(done.code, 1, "{sets:?}: {}{}", done.stdout, done.stderr);
        done.stdout + &done.stderr
    }

    fn model(&self, build: Build) -> String {
        build.write(self.path().join("m.onnx"));
        self.refused(&["inspect", "m.onnx"])
    }

    /// A model with a constant of [4, 2] that is changed.
    fn constant(&self, change: fn(&mut TensorProto)) -> String {
        let mut build = vector().floats("w", &[4, 2], &[0.5; 8]).node("MatMul", &["x", "w"], "y", &[]);
        change(&mut build.graph().initializer[0]);
        self.model(build)
    }

    /// What the job says with an array of 24 samples for one input.
    fn arrays(&self, input: &str, shape: &[usize]) -> String {
        let dims = [&[24], shape].concat();
        write_npy(&self.path().join("x.npy"), &dims, &vec![0.5; dims.iter().product()]);
        let labels = [npy_header("<i8", &[24]), vec![0; 8 * 24]].concat();
        fs::write(self.path().join("y.npy"), labels).unwrap();
        self.job(&format!(
            "data={{images: {{npy: {{inputs: {{{input}: x.npy}}, labels: y.npy}}}}, split: {{calibrate: 4}}}}"
        ))
    }

    fn external(&self, entries: &[(&str, &str)]) -> String {
        let mut build = vector().node("MatMul", &["x", "w"], "y", &[]);
        build.graph().initializer.push(external(entries));
        self.model(build)
    }

    fn labels(&self, label: fn(u32) -> u32) {
        let lines: String = (0..24).map(|index| format!("{index}.png,{}\n", label(index))).collect();
        self.write("labels.csv", &format!("file,label\n{lines}"));
    }

    /// Bright pictures for calibration in a folder of their own.
    fn apart(&self) {
        fs::create_dir(self.path().join("calibrate")).unwrap();
        for index in 0..4u8 {
            let picture = image::RgbImage::from_pixel(12, 10, image::Rgb([200, 100 + index, 50]));
            picture.save(self.path().join(format!("calibrate/{index}.png"))).unwrap();
        }
        self.write("calibrate/labels.csv", "file,label\n0.png,0\n1.png,0\n2.png,0\n3.png,0\n");
    }

    /// A job that chooses all-int8, and its qconfig.
    fn chosen(&self) -> String {
        let sets = ["budget.max_drop=0.99", "search.max_trials=2", "data.split={calibrate: 4, search: 16, certify: 4}"];
        let done = self.qtuned(&[&["run", "job.yaml"], &sets.map(|set| ["--set", set]).concat()[..]].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
        fs::read_to_string(self.path().join("qtuned-out/a/best.qconfig.yaml")).unwrap()
    }

    /// What reading a qconfig file says in which something is changed.
    fn restored(&self, from: &str, to: &str) -> String {
        let written = self.chosen();
        assert!(written.contains(from), "{written}");
        self.write("q.yaml", &written.replacen(from, to, 1));
        self.refused(&["export", "m.onnx", "q.yaml", "--format", "onnx", "-o", "out.onnx"])
    }

    fn exported(&self) -> String {
        self.chosen();
        self.refused(&["export", "a", "--format", "onnx", "-o", "out.onnx"])
    }

    fn dark(&self, folder: &str) {
        for index in 0..24 {
            image::RgbImage::new(12, 10).save(self.path().join(format!("{folder}/{index}.png"))).unwrap();
        }
    }
}

fn scene() -> Bench {
    let bench = Bench::new();
    Build::new(&[picture_input()], &["y"]).classifier("x", 3, "y").write(bench.path().join("m.onnx"));
    for index in 0..24u32 {
        let colour = |x: u32, y: u32| image::Rgb([(x * 19 + index * 10) as u8, (y * 23) as u8, (index * 9) as u8]);
        image::RgbImage::from_fn(12, 10, colour).save(bench.path().join(format!("{index}.png"))).unwrap();
    }
    bench.labels(|index| index % 2);
    bench.write(
        "job.yaml",
        "{name: a, model: {onnx: m.onnx}, data: {images: {csv: labels.csv}, split: {calibrate: 4, search: 16}}, budget: \
         {metric: agreement, max_drop: 0.01}, search: {max_trials: 3}, measure: {latency: {runs: 2, warmup: 0}}}",
    );
    bench
}

/// A classifier of pictures, whose second input is a factor.
fn two_inputs() -> Build {
    Build::new(&[picture_input(), value("z", data_type::FLOAT, &[BATCH, Number(2)])], &["y"])
        .classifier("x", 3, "features")
        .node("Mul", &["features", "z"], "y", &[])
}

fn picture_input() -> qtuned::onnx::proto::ValueInfoProto {
    value("x", data_type::FLOAT, &[BATCH, Number(3), Number(10), Number(12)])
}

fn vector() -> Build {
    Build::new(&[value("x", data_type::FLOAT, &[BATCH, Number(4)])], &["y"])
}

/// A network whose output is 0 / 0 on a black picture.
fn quotient() -> Build {
    let build = Build::new(&[picture_input()], &["y"]).classifier("x", 3, "means");
    let build = build.node("ReduceMean", &["means"], "mean", &[ints("axes", &[1])]);
    let mut build = build.node("Div", &["means", "mean"], "y", &[]);
    build.graph().initializer[0].float_data = (0..54).map(|i| (i % 5) as f32 / 4.0 + 0.25).collect();
    build
}

fn external(entries: &[(&str, &str)]) -> TensorProto {
    let entry =
        |(key, value): &(&str, &str)| StringStringEntryProto { key: (*key).to_owned(), value: (*value).to_owned() };
    TensorProto {
        name: "w".to_owned(),
        dims: vec![4, 2],
        data_type: data_type::FLOAT,
        data_location: 1,
        external_data: entries.iter().map(entry).collect(),
        ..Default::default()
    }
}

/// The picture that a data set is opened with: the first of the search split.
fn first_picture(bench: &Bench) -> String {
    let done = bench.qtuned(&["validate", "job.yaml"]);
    let (_, after) = done.stderr.split_once("the picture ").unwrap_or(("", "0.png"));
    after.split(':').next().unwrap().trim().to_owned()
}

/// All pictures but that which a data set is opened with.
fn all_but_first(bench: &Bench, sets: &[&str]) -> Vec<String> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let job = job::load(&bench.path().join("job.yaml"), &sets).unwrap();
    let data = Dataset::open(&job.spec.data, bench.path(), None, &Cancel::default()).unwrap();
    let first = data.labels(qtuned::dataset::Part::Search).next().unwrap().0.to_owned();
    (0..24).map(|index| format!("{index}.png")).filter(|name| *name != first).collect()
}

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md")).unwrap()
}

/// The rows of the tables: variant and example.
fn listed() -> BTreeMap<String, String> {
    let cells = |line: &str| {
        let cells: Vec<String> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
        let [variant, example, advice] = &cells[..] else { panic!("three cells: {line}") };
        assert!(advice.len() > 10, "{line}");
        (variant.clone(), example.trim_matches('`').trim().to_owned())
    };
    page().lines().filter(|line| line.starts_with("| ") && line.contains("::")).map(cells).collect()
}

/// The variants that are said to have other causes.
fn of_other_causes() -> Vec<String> {
    let page = page();
    let (_, rest) = page.split_once("## Errors of other causes").unwrap();
    rest.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The variants of an enum, as its source has them.
fn variants(file: &str, name: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let (_, body) = text.split_once(&format!("pub enum {name} {{\n")).unwrap_or_else(|| panic!("{name} is in {file}"));
    let body = body.split("\n}").next().unwrap();
    let is_variant = |line: &&str| line.starts_with("    ") && line[4..].starts_with(|c: char| c.is_ascii_uppercase());
    let word = |line: &str| line.trim().chars().take_while(|c| c.is_alphanumeric()).collect::<String>();
    body.lines().filter(is_variant).map(|line| format!("{name}::{}", word(line))).collect()
}

#[test]
fn every_error_is_listed_once() {
    let (listed, others) = (listed(), of_other_causes());
    let known: Vec<String> = ENUMS.iter().flat_map(|(file, name)| variants(file, name)).collect();
    assert!(known.len() > 50, "{known:?}");
    let named = |variant: &String| listed.contains_key(variant) as usize + others.contains(variant) as usize;
    let missing: Vec<&String> = known.iter().filter(|variant| named(variant) != 1).collect();
    assert!(missing.is_empty(), "these want exactly one place in docs/errors.md: {missing:?}");
    let unknown: Vec<&String> = listed.keys().chain(&others).filter(|variant| !known.contains(variant)).collect();
    assert!(unknown.is_empty(), "docs/errors.md has what is no error: {unknown:?}");
    let raised: Vec<&str> = RAISED.iter().map(|(variant, _)| *variant).collect();
    let unraised: Vec<&String> = listed.keys().filter(|variant| !raised.contains(&variant.as_str())).collect();
    assert!(unraised.is_empty(), "no line of RAISED raises {unraised:?}");
}

#[test]
fn every_error_reads_as_its_example() {
    let listed = listed();
    let mut wrong = Vec::new();
    for (variant, raise) in RAISED {
        let bench = scene();
        let expected = listed.get(*variant).map_or("no row", String::as_str);
        let folder = bench.path().display().to_string();
        let found = raise(&bench).replace(&format!("{folder}/"), "");
        if !found.contains(expected) {
            wrong.push(format!("{variant}\n  expected: {expected}\n  found:    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_command_is_given_is_held_against_the_model() {
    // An array is neither a model nor a data set of a job; it is refused in the same way.
    let bench = scene();
    write_npy(&bench.path().join("x.npy"), &[1, 3], &[0.0; 3]);
    let refused = bench.refused(&["predict", "m.onnx", "x.npy"]);
    assert_eq!(refused, "x.npy: expected an array of batch×3×10×12, found 1×3");
    let open = Build::new(&[value("x", data_type::FLOAT, &[BATCH, Open("k")])], &["y"]);
    let refused = bench.model(open.node("Flatten", &["x"], "y", &[int("axis", 1)]));
    assert!(refused.ends_with("model.shape says the shape of a sample"), "{refused}");
}
