//! `qtuned data`.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use npyz::WriterBuilder;
use rayon::prelude::*;
use serde_json::json;

use super::{Global, JobFile, format, inspect, print, print_json};
use crate::{
    cancel::Cancel,
    dataset::{Dataset, Form, Part, Sample, npy_header},
};

/// Samples that are held in memory before they are written.
const AT_ONCE: usize = 32;

/// Show the samples of a job, and write what the network reads of them
///
/// Reads the data and not the model: names, labels, shape. With --write, the samples of one part are decoded and
/// preprocessed, and written as arrays that numpy and `qtuned predict` read.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned data job.yaml\n  qtuned data job.yaml --part calibrate --write arrays\n  \
                        qtuned data job.yaml --samples 8 --write arrays && qtuned predict model.onnx arrays/inputs.npy")]
pub(super) struct DataArgs {
    #[command(flatten)]
    job: JobFile,

    /// Of which samples
    #[arg(long, value_name = "PART", default_value = "search", value_parser = part)]
    part: Part,

    /// The first N samples of the part only
    #[arg(long, value_name = "N")]
    samples: Option<usize>,

    /// Write inputs.npy (float32, batch first; inputs.npz of arrays, by name), labels.npy (int64) and names.txt into this folder
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,

    /// Write [batch, height, width, channels] instead of [batch, channels, height, width]
    #[arg(long, requires = "write")]
    channels_last: bool,
}

fn part(name: &str) -> Result<Part, String> {
    let parts = [Part::Calibrate, Part::Search, Part::Certify];
    let named = parts.into_iter().find(|part| part.name() == name);
    named.ok_or_else(|| "expected calibrate, search or certify".to_owned())
}

pub(super) fn run(global: &Global, args: &DataArgs) -> Result<()> {
    let job = args.job.load()?;
    let dataset = Dataset::open(&job.spec.data, &job.folder, job.root.as_deref(), &Cancel::default())?;
    let count = dataset.len(args.part).min(args.samples.unwrap_or(usize::MAX));
    if let Some(folder) = &args.write {
        if count == 0 {
            bail!("expected samples in {}, found none: data.split sets none aside", args.part.name());
        }
        write(&dataset, args, count, folder)?;
    }
    let [calibrate, search, certify] = [Part::Calibrate, Part::Search, Part::Certify].map(|part| dataset.len(part));
    let shown = dataset.labels(args.part).take(count);
    if global.json {
        let samples: Vec<_> = shown.map(|(name, label)| json!({"name": name, "label": label})).collect();
        let mut facts = json!({
            "classes": dataset.classes(),
            "samples": {"calibrate": calibrate, "search": search, "certify": certify},
            "part": {"name": args.part.name(), "samples": samples},
            "written": args.write,
        });
        match dataset.form() {
            Form::Picture { height, width, channels } => {
                facts["height"] = json!(height);
                facts["width"] = json!(width);
                facts["channels"] = json!(channels);
            }
            Form::Arrays(arrays) => {
                let input = |(name, shape): &(String, Vec<usize>)| json!({"name": name, "shape": shape});
                facts["inputs"] = arrays.iter().map(input).collect();
            }
        }
        return print_json(&facts);
    }
    let each = match dataset.form() {
        Form::Picture { height, width, channels } => {
            format!("each {height} high, {width} wide, {}", format::plural(*channels, "channel"))
        }
        Form::Arrays(arrays) => {
            let input = |(name, shape): &(String, Vec<usize>)| format!("{name} of {}", inspect::shape(shape));
            format!("each {}", arrays.iter().map(input).collect::<Vec<_>>().join(", "))
        }
    };
    let mut text = format!(
        "samples: {calibrate} calibrate, {search} search, {certify} certify\n{each}; labels 0 to {}\n",
        dataset.classes().saturating_sub(1),
    );
    match &args.write {
        Some(folder) => text += &format!("{} written to {}\n", format::plural(count, "sample"), folder.display()),
        None => {
            let row =
                |(at, (name, label)): (usize, (&str, u32))| vec![at.to_string(), name.to_owned(), label.to_string()];
            text += &format::table(&[">place", "sample", ">label"], shown.enumerate().map(row));
        }
    }
    print(&text)
}

fn write(dataset: &Dataset, args: &DataArgs, count: usize, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to make the folder {}", folder.display()))?;
    let labels: Vec<_> = dataset.labels(args.part).take(count).collect();
    written(&folder.join("names.txt"), |file| {
        labels.iter().try_for_each(|(name, _)| writeln!(file, "{name}"))?;
        Ok(())
    })?;
    written(&folder.join("labels.npy"), |file| {
        file.write_all(&npy_header("<i8", &[count]))?;
        labels.iter().try_for_each(|(_, label)| file.write_all(&i64::from(*label).to_le_bytes()))?;
        Ok(())
    })?;
    match dataset.form() {
        &Form::Picture { height, width, channels } => written(&folder.join("inputs.npy"), |file| {
            let dims = match args.channels_last {
                true => [count, height, width, channels],
                false => [count, channels, height, width],
            };
            file.write_all(&npy_header("<f4", &dims))?;
            each_array(dataset, args.part, count, 0, &mut |values| {
                let channel = |channel: usize| values.iter().skip(channel).step_by(channels);
                let mut write = |value: &f32| file.write_all(&value.to_le_bytes());
                match args.channels_last {
                    true => values.iter().try_for_each(&mut write),
                    false => (0..channels).flat_map(channel).try_for_each(&mut write),
                }
            })
        }),
        Form::Arrays(_) if args.channels_last => bail!("--channels-last is for pictures; these samples are arrays"),
        Form::Arrays(arrays) => {
            let path = folder.join("inputs.npz");
            let write = || -> Result<()> {
                let mut archive = npyz::npz::NpzWriter::create(&path)?;
                for (index, (name, shape)) in arrays.iter().enumerate() {
                    let shape: Vec<u64> =
                        std::iter::once(count).chain(shape.iter().copied()).map(|n| n as u64).collect();
                    let array = archive.array::<f32>(name, Default::default())?;
                    let mut array = array.default_dtype().shape(&shape).begin_nd()?;
                    let mut write = |values: &[f32]| array.extend(values.iter().copied());
                    each_array(dataset, args.part, count, index, &mut write)?;
                    array.finish()?;
                }
                Ok(())
            };
            write().with_context(|| format!("failed to write {}", path.display()))
        }
    }
}

/// Calls `write` with what each sample gives input `index`, in order.
fn each_array(
    dataset: &Dataset,
    part: Part,
    count: usize,
    index: usize,
    write: &mut dyn FnMut(&[f32]) -> io::Result<()>,
) -> Result<()> {
    for first in (0..count).step_by(AT_ONCE) {
        let several: Vec<Sample> = (first..count.min(first + AT_ONCE))
            .into_par_iter()
            .map(|index| dataset.load(part, index))
            .collect::<Result<_, _>>()?;
        several.iter().try_for_each(|sample| write(&sample.inputs[index].data))?;
    }
    Ok(())
}

/// A file that `content` writes.
fn written(path: &Path, content: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let write = || -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        content(&mut file)?;
        Ok(file.flush()?)
    };
    write().with_context(|| format!("failed to write {}", path.display()))
}
