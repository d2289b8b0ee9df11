//! `qtuned data`.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use rayon::prelude::*;
use serde_json::json;

use super::{Global, JobFile, format, print, print_json};
use crate::{
    cancel::Cancel,
    dataset::{Dataset, Part, Sample, npy_header},
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

    /// Write inputs.npy (float32, batch first), labels.npy (int64) and names.txt into this folder
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
    let [height, width, channels] = dataset.shape();
    let [calibrate, search, certify] = [Part::Calibrate, Part::Search, Part::Certify].map(|part| dataset.len(part));
    let shown = dataset.labels(args.part).take(count);
    if global.json {
        let samples: Vec<_> = shown.map(|(name, label)| json!({"name": name, "label": label})).collect();
        return print_json(&json!({
            "height": height,
            "width": width,
            "channels": channels,
            "classes": dataset.classes(),
            "samples": {"calibrate": calibrate, "search": search, "certify": certify},
            "part": {"name": args.part.name(), "samples": samples},
            "written": args.write,
        }));
    }
    let mut text = format!(
        "samples: {calibrate} calibrate, {search} search, {certify} certify\n\
         each {height} high, {width} wide, {}; labels 0 to {}\n",
        format::plural(channels, "channel"),
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
    let [height, width, channels] = dataset.shape();
    let dims = match args.channels_last {
        true => [count, height, width, channels],
        false => [count, channels, height, width],
    };
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
    written(&folder.join("inputs.npy"), |file| {
        file.write_all(&npy_header("<f4", &dims))?;
        for first in (0..count).step_by(AT_ONCE) {
            let several: Vec<Sample> = (first..count.min(first + AT_ONCE))
                .into_par_iter()
                .map(|index| dataset.load(args.part, index))
                .collect::<Result<_, _>>()?;
            for sample in &several {
                let values = |channel: usize| sample.input.iter().skip(channel).step_by(channels);
                let mut write = |value: &f32| file.write_all(&value.to_le_bytes());
                match args.channels_last {
                    true => sample.input.iter().try_for_each(&mut write)?,
                    false => (0..channels).flat_map(values).try_for_each(&mut write)?,
                }
            }
        }
        Ok(())
    })
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
