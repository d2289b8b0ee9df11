//! `qtuned init`.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{Global, available_threads, format, inspect, print, print_json, reading::ReadingArgs};
use crate::{
    cancel::Cancel,
    dataset::recognize,
    graph::ValueId,
    job::{self, JobSpec},
    onnx::{FileInput, Model, Reading},
    output,
    pipeline::{self, Guess, Guesses},
};

/// Write a job for a model and labelled samples, with comments
///
/// Finds the model's input and the kind of data, and guesses the preprocessing: the usual ways are tried on some samples,
/// and the one that fp32 is right with most often is written. It is marked as a guess: look at it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned init model.onnx data/                   a folder of classes, IDX files, a CSV file or an NPZ archive
  qtuned init model.onnx labels.csv -o job.yaml
  qtuned init detector.onnx data.npz --model-shape 3x320x320 -o -")]
pub(super) struct InitArgs {
    /// The model
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,

    /// Labelled samples: a file, or a folder
    #[arg(value_name = "DATA")]
    data: PathBuf,

    /// The job to write; NAME.yaml in this folder when not given, `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write over a file that is there
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    reading: ReadingArgs,
}

pub(super) fn run(global: &Global, args: &InitArgs) -> Result<()> {
    let reading = args.reading.reading()?;
    let model = reading.load(&args.model)?;
    let found = recognize(&args.data)?;
    let guesses = pipeline::guess(&model, &found, available_threads(), &Cancel::default())?;
    let name = name(&args.model);
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.yaml")));
    let to_stdout = path == Path::new("-");
    if !to_stdout && !args.force && path.exists() {
        bail!("{} is there already; --force writes over it, -o names another file", path.display());
    }
    let folder = match to_stdout {
        true => PathBuf::new(),
        false => path.parent().unwrap_or(Path::new("")).to_owned(),
    };
    // The job without a comment, for the paths in it.
    let in_text = || "the path of a file is no text, which a job is";
    let onnx = serde_json::to_value(&args.model).with_context(in_text)?;
    let images = serde_json::to_value(&found.images).with_context(in_text)?;
    let calibration = serde_json::to_value(&found.calibration).with_context(in_text)?;
    let written = json!({
        "name": name,
        "model": {"onnx": onnx},
        "data": {"images": images, "calibration_images": calibration, "split": {"calibrate": 1}},
        "budget": {"max_drop": 0.01},
    });
    let mut spec = job::parse(&written.to_string(), &[]).context("no job can be written for these files")?;
    for (_, path) in spec.files_mut() {
        *path = relative(&folder, path)?;
    }
    let text = Draft { spec: &spec, reading: &reading, model: &model, guesses: &guesses }.yaml()?;
    job::parse(&text, &[]).context("the job that was written is not valid")?;
    if to_stdout {
        return print(&text);
    }
    output::write(&path, text.as_bytes())?;
    let best = &guesses.guesses[0];
    if global.json {
        let tried = |guess: &Guess| json!({"name": guess.name, "preprocess": guess.preprocess, "top1": guess.top1});
        return print_json(&json!({
            "job": path,
            "samples": guesses.samples,
            "classes": guesses.classes,
            "tried": guesses.tried,
            "guesses": guesses.guesses.iter().map(tried).collect::<Vec<_>>(),
        }));
    }
    let right = best.top1.map(|top1| {
        format!(" (fp32 is right on {:.1} % of {})", top1 * 100.0, format::plural(guesses.tried, "sample"))
    });
    print(&format!(
        "{} is written\nits preprocessing is a guess: {}{}\nnext: qtuned validate {}\n",
        path.display(),
        best.name,
        right.unwrap_or_default(),
        path.display()
    ))
}

/// What a job is written of.
struct Draft<'a> {
    /// Its name, and where its files are.
    spec: &'a JobSpec,
    reading: &'a Reading,
    model: &'a Model,
    guesses: &'a Guesses,
}

impl Draft<'_> {
    fn yaml(&self) -> Result<String> {
        let Draft { spec, reading, model, guesses } = self;
        let graph = &model.graph;
        let input = |(&input, file): (&ValueId, &FileInput)| {
            let input = graph.value(input);
            let layout = if file.channels_last { ", in the file with the channels last" } else { "" };
            let kind = if file.integer { "integers" } else { "floats" };
            format!("{} of {} {kind}{layout}", comment(&input.name), inspect::shape(&input.shape))
        };
        let inputs: Vec<String> = graph.inputs.iter().zip(&model.inputs).map(input).collect();
        let outputs: Vec<String> = graph
            .outputs
            .iter()
            .map(|&output| format!("{} ({})", graph.value(output).name, inspect::shape(&graph.value(output).shape)))
            .collect();
        let several = match outputs.len() {
            1 => "",
            _ => "; the metric reads the first, `output: NAME` names another",
        };
        let mut yaml = format!(
            "# Written by `qtuned init`. `qtuned schema` describes every field; save what it prints and name the file here:\n\
             # yaml-language-server: $schema=qtuned.schema.json\n\
             name: {}\n\
             model:\n  # Input {}; output {}{several}.\n  onnx: {}\n",
            scalar(&spec.name),
            inputs.join(", "),
            comment(&outputs.join(", ")),
            scalar(&spec.model.onnx.to_string_lossy()),
        );
        if let Some(input) = &reading.input {
            yaml += &format!("  input: {}\n", scalar(input));
        }
        if let Some(shape) = &reading.shape {
            yaml += &format!("  shape: {}\n", serde_json::to_string(shape)?);
        }
        if !reading.fixed.is_empty() {
            yaml += &format!("  fixed: {}\n", serde_json::to_string(&reading.fixed)?);
        }
        if let Some(output) = &reading.output {
            yaml += &format!("  output: {}\n", scalar(output));
        }
        yaml += "data:\n";
        let classes = if guesses.classes == 1 { "class" } else { "classes" };
        yaml += &format!("  # {}, {} {classes}.\n", format::plural(guesses.samples, "sample"), guesses.classes);
        yaml += &format!("  images: {}\n", flow(&serde_json::to_value(&spec.data.images)?));
        if let Some(calibration) = &spec.data.calibration_images {
            let source = flow(&serde_json::to_value(calibration)?);
            yaml += &format!(
                "  # Samples to calibrate with, apart from those to test with.\n  calibration_images: {source}\n"
            );
        }
        yaml += &self.preprocess()?;
        yaml += &self.split();
        yaml += "# onednn, x86, fbgemm, qnnpack, tensorrt or openvino; `module_name: {NAME: null}` keeps a layer in fp32.\n\
                 qconfig: {preset: onednn}\n\
                 # The largest drop of accuracy: 0.01 is one point.\n\
                 budget: {metric: top1, max_drop: 0.01}\n";
        Ok(yaml)
    }

    /// The likeliest preprocessing, and the others as comments.
    fn preprocess(&self) -> Result<String> {
        let Guesses { guesses, tried, untold, .. } = self.guesses;
        let accuracy = |guess: &Guess| guess.top1.map_or("untold".to_owned(), |top1| format!("{:.1} %", top1 * 100.0));
        let [best, others @ ..] = &guesses[..] else { return Ok(String::new()) };
        let mut text = format!("  # GUESS, look at it: {}.\n", best.name);
        text += &match untold {
            Some(why) => format!("  # Accuracy does not tell: {}.\n", comment(why)),
            None => format!(
                "  # fp32 is right on {} of the {tried} samples tried so. Others that were tried:\n",
                accuracy(best)
            ),
        };
        let chance = 1.0 / f64::from(self.guesses.classes.max(1));
        if untold.is_none() && best.top1.is_some_and(|top1| top1 < (3.0 * chance).min(0.5 + chance / 2.0)) {
            text += "  # None of them is much better than chance: the right one is probably another.\n";
        }
        for other in others {
            text += &format!(
                "  #   {:>6}  {}\n  #           {}\n",
                accuracy(other),
                other.name,
                flow(&serde_json::to_value(&other.preprocess)?)
            );
        }
        Ok(text + &format!("  preprocess: {}\n", flow(&serde_json::to_value(&best.preprocess)?)))
    }

    fn split(&self) -> String {
        let Guesses { samples, calibration, .. } = *self.guesses;
        let calibrate = match calibration {
            Some(count) => count.min(256),
            None => (samples / 8).clamp(1, 128),
        };
        let left = if calibration.is_some() { samples } else { samples - calibrate };
        let (certify, why) = match left {
            0..400 => (0, "  # Too few samples to set some aside that only the final certificate sees.\n"),
            _ => (left / 3, "  # Observers see `calibrate`, trials `search`; the final certificate `certify`, once.\n"),
        };
        format!("{why}  split: {{calibrate: {calibrate}, search: {}, certify: {certify}, seed: 0}}\n", left - certify)
    }
}

/// A text as a part of a comment, which ends with its line.
fn comment(text: &str) -> String {
    format::printable(text).replace('\n', "\u{fffd}")
}

/// A value in one line of YAML.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let entry = |(key, value): (&String, &Value)| format!("{}: {}", scalar(key), flow(value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A text in YAML, in quotes where it needs some.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || "/.".contains(c));
    let word =
        matches!(text.to_lowercase().as_str(), "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n");
    // A number such as .5 or .inf is none to whoever reads a path.
    match starts && text.chars().all(plain) && !word && text.parse::<f64>().is_err() && !text.ends_with('.') {
        true => text.to_owned(),
        false => serde_json::to_string(text).unwrap_or_default(),
    }
}

/// A name for a job: that of the model's file, or of its folder where the file is called `model`.
fn name(model: &Path) -> String {
    let words = |part: Option<&std::ffi::OsStr>| {
        let usable = |c: char| if c.is_alphanumeric() || "-_.+".contains(c) { c } else { '-' };
        let text: String = part.unwrap_or_default().to_string_lossy().chars().map(usable).take(60).collect();
        text.trim_matches(['-', '.']).to_owned()
    };
    let file = words(model.file_stem());
    let whole = std::path::absolute(model).unwrap_or_else(|_| model.to_owned());
    let folder = words(whole.parent().and_then(Path::file_name));
    match (file.as_str(), folder.is_empty()) {
        ("model" | "", false) => folder,
        ("", true) => "job".to_owned(),
        _ => file,
    }
}

/// A path as it is said from a folder: through common parents where these are not the root.
fn relative(folder: &Path, path: &Path) -> Result<PathBuf> {
    let whole = |path: &Path| {
        let named = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        std::path::absolute(named).with_context(|| format!("{}: this path is not one", path.display()))
    };
    let (from, to) = (whole(folder)?, whole(path)?);
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let rest = |path: &Path| path.components().skip(common).collect::<PathBuf>();
    let above = from.components().skip(common).count();
    let odd = |path: &Path| path.components().any(|part| matches!(part, Component::ParentDir));
    // `a/../b` is not what its text says where `a` is a link.
    if common <= 1 || odd(&from) || odd(&to) {
        return Ok(to);
    }
    let mut relative: PathBuf = std::iter::repeat_n("..", above).collect();
    relative.push(rest(&to));
    Ok(relative)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_said_from_the_job() {
        let said =
            |folder: &str, path: &str| relative(Path::new(folder), Path::new(path)).unwrap().display().to_string();
        assert_eq!(said("/a/b", "/a/b/c/m.onnx"), "c/m.onnx");
        assert_eq!(said("/a/b", "/a/d/m.onnx"), "../d/m.onnx");
        assert_eq!(said("/a/b", "/d/m.onnx"), "/d/m.onnx");
        assert_eq!(said("", "m.onnx"), "m.onnx");
        assert_eq!(said("/a/b", "/a/d/../m.onnx"), "/a/d/../m.onnx");
    }

    #[test]
    fn texts_read_back() {
        for text in ["a/b.csv", "x y", "null", "3", "", "a: b", "'", "-", "#", "é", "../m.onnx", ".5", "on", "1e5"] {
            let yaml = format!("{{k: {}}}", scalar(text));
            let read: serde_json::Value = serde_yaml::from_str(&yaml).unwrap();
            assert_eq!(read["k"], text, "{yaml}");
        }
    }

    #[test]
    fn names_are_those_of_files() {
        assert_eq!(name(Path::new("/x/fashion mnist/model.onnx")), "fashion-mnist");
        assert_eq!(name(Path::new("/x/y/mobile net.onnx")), "mobile-net");
        assert_eq!(name(Path::new("/x/y/-.onnx")), "y");
    }
}
