//! What the preprocessing of a model's samples may be: the usual ones are tried, and the one with the highest accuracy is
//! the guess.

use std::path::Path;

use super::{PipelineError, SplitSamples, run::pool};
use crate::{
    cancel::Cancel,
    dataset::{
        Channels, DataSpec, Dataset, DatasetError, Form, Part, Preprocess, Recognized, Resize, ResizeTo, Size,
        SplitCounts, SplitSpec,
    },
    evaluate::{EvaluateError, Metric, evaluate},
    kernels::Kernels,
    onnx::Model,
    ptq,
};

/// Samples that each guess is tried on, at most.
pub const TRIED: usize = 64;

/// ImageNet's mean and standard deviation, of red, green and blue, as fractions of 255.
const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// ImageNet's mean in 0..255, of blue, green and red: Caffe's preprocessing, and that of the first Keras models.
const CAFFE: [f64; 3] = [103.939, 116.779, 123.68];

/// 1 / 255.
const TO_ONE: f64 = 0.003_921_568_627_450_98;

/// One way to preprocess.
#[derive(Clone, Debug, PartialEq)]
pub struct Guess {
    /// What it is, in a few words.
    pub name: &'static str,
    /// The preprocessing.
    pub preprocess: Preprocess,
    /// Share of the tried samples that fp32 gets right with it; `None` when that cannot be told.
    pub top1: Option<f64>,
}

/// A model and a data set, and how they may fit together.
#[derive(Clone, Debug)]
pub struct Guesses {
    /// The likeliest first.
    pub guesses: Vec<Guess>,
    /// Samples that they were tried on.
    pub tried: usize,
    /// Why accuracies tell nothing, where they do not.
    pub untold: Option<String>,
    /// Samples in the data set, without those for calibration where these are apart.
    pub samples: usize,
    /// Samples for calibration, where these are apart.
    pub calibration: Option<usize>,
    /// One more than the largest label.
    pub classes: u32,
}

/// Tries the usual ways to preprocess on some samples, on `threads` threads.
///
/// # Errors
/// Data that cannot be read, or a model that reads no pictures.
pub fn guess(model: &Model, data: &Recognized, threads: usize, cancel: &Cancel) -> Result<Guesses, PipelineError> {
    let graph = &model.graph;
    let shapes: Vec<&[usize]> = graph.inputs.iter().map(|&input| &graph.value(input).shape[..]).collect();
    let (&[&[channels, height, width]], &[file_input]) = (&shapes[..], &model.inputs[..]) else {
        return Err(PipelineError::NoPictures { inputs: shapes.into_iter().map(<[usize]>::to_vec).collect() });
    };
    let base = Path::new("");
    let spec = |preprocess: Preprocess, samples: usize| DataSpec {
        calibration_images: data.calibration.clone(),
        preprocess,
        ..DataSpec::new(
            data.images.clone(),
            SplitSpec::Counts(SplitCounts { calibrate: 1, search: Some(samples), certify: 0, seed: 0 }),
        )
    };
    let open = |preprocess: Preprocess, samples: usize| Dataset::open(&spec(preprocess, samples), base, None, cancel);
    let channels = usual_channels(channels);
    let plain = Preprocess { channels, ..Preprocess::default() };
    let all = {
        let split = SplitSpec::Counts(SplitCounts { calibrate: 1, search: None, certify: 0, seed: 0 });
        Dataset::open(&DataSpec { split, ..spec(plain.clone(), 1) }, base, None, cancel)?
    };
    let calibration = data.calibration.is_some();
    let samples = all.len(Part::Search) + usize::from(!calibration);
    let tried = TRIED.min(all.len(Part::Search));
    let first = open(plain.clone(), tried)?;
    let fits = picture(&first)[..2] == [height, width] && (0..tried).all(|i| first.load(Part::Search, i).is_ok());
    let geometry = if fits { plain } else { resized(plain, height, width) };
    let own = moments(&open(geometry.clone(), tried)?, tried)?;
    let mut guesses = usual(&geometry, file_input.integer, own);
    let pool = pool(threads)?;
    let plan = ptq::prepare(graph.clone(), Kernels::detect()?).engine().fp32_plan();
    let mut untold = None;
    for guess in &mut guesses {
        let dataset = open(guess.preprocess.clone(), tried)?;
        let samples = SplitSamples { dataset: &dataset, model, part: Part::Search, order: None };
        let measured = pool.install(|| evaluate(&plan, &samples, Metric::Top1, None, None, cancel, &|_, _| ()));
        match measured {
            Ok((evaluation, _)) => guess.top1 = Some(evaluation.score.value()),
            Err(EvaluateError::Cancelled(cancelled)) => return Err(cancelled.into()),
            // Such as labels that the network does not have.
            Err(error) => drop(untold.get_or_insert(error.to_string())),
        }
    }
    // A stable sort: among equals the more usual one comes first.
    guesses.sort_by(|a, b| b.top1.unwrap_or(0.0).total_cmp(&a.top1.unwrap_or(0.0)));
    let calibration = calibration.then(|| count(data, cancel)).transpose()?;
    Ok(Guesses { guesses, tried, untold, samples, calibration, classes: all.classes() })
}

/// How many samples the source for calibration has.
fn count(data: &Recognized, cancel: &Cancel) -> Result<usize, DatasetError> {
    let Some(source) = &data.calibration else { return Ok(0) };
    let split = SplitSpec::Counts(SplitCounts { calibrate: 1, search: None, certify: 0, seed: 0 });
    let spec = DataSpec::new(source.clone(), split);
    Ok(Dataset::open(&spec, Path::new(""), None, cancel)?.len(Part::Search) + 1)
}

fn usual_channels(count: usize) -> Option<Channels> {
    match count {
        1 => Some(Channels::Gray),
        3 => Some(Channels::Rgb),
        _ => None,
    }
}

/// As torchvision's classifiers are evaluated, where the input is that large and square.
fn resized(plain: Preprocess, height: usize, width: usize) -> Preprocess {
    let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
    let size = Size { height: side(height), width: side(width) };
    let interpolation = Default::default();
    if height != width || height < 128 {
        return Preprocess { resize: Some(Resize { to: ResizeTo::Size(size), interpolation }), ..plain };
    }
    let short = side(height * 8 / 7);
    let resize = Some(Resize { to: ResizeTo::ShortSide(short), interpolation });
    Preprocess { resize, center_crop: Some(size), ..plain }
}

/// Height, width and channels of the pictures; none of samples that are arrays, which are not recognized.
fn picture(dataset: &Dataset) -> [usize; 3] {
    match *dataset.form() {
        Form::Picture { height, width, channels } => [height, width, channels],
        Form::Arrays(_) => [0; 3],
    }
}

/// Mean and standard deviation of each channel, as fractions of 255, rounded to three digits.
fn moments(dataset: &Dataset, samples: usize) -> Result<(Vec<f64>, Vec<f64>), PipelineError> {
    let channels = picture(dataset)[2].max(1);
    let (mut sums, mut squares, mut pixels) = (vec![0.0; channels], vec![0.0; channels], 0.0);
    for index in 0..samples {
        for pixel in dataset.load(Part::Search, index)?.inputs[0].data.chunks_exact(channels) {
            for (channel, &value) in pixel.iter().enumerate() {
                sums[channel] += f64::from(value) / 255.0;
                squares[channel] += (f64::from(value) / 255.0).powi(2);
            }
            pixels += 1.0;
        }
    }
    let rounded = |value: f64| (value * 1e3).round() / 1e3;
    let means: Vec<f64> = sums.iter().map(|sum| sum / pixels).collect();
    let deviation = |(square, mean): (&f64, &f64)| rounded((square / pixels - mean * mean).max(0.0).sqrt()).max(0.001);
    let deviations = squares.iter().zip(&means).map(deviation).collect();
    Ok((means.into_iter().map(rounded).collect(), deviations))
}

/// The usual ways, the most usual first.
fn usual(geometry: &Preprocess, integer: bool, own: (Vec<f64>, Vec<f64>)) -> Vec<Guess> {
    let guess = |name, scale: f64, mean: &[f64], std: &[f64]| {
        let preprocess = Preprocess { scale, mean: mean.to_vec(), std: std.to_vec(), ..geometry.clone() };
        Guess { name, preprocess, top1: None }
    };
    let raw = guess("pixels as they are, 0 to 255", 1.0, &[0.0], &[1.0]);
    let colour = geometry.channels == Some(Channels::Rgb);
    let reversed = |guess: Guess, name| {
        let preprocess = Preprocess { channels: Some(Channels::Bgr), ..guess.preprocess };
        Guess { name, preprocess, ..guess }
    };
    if integer {
        let mut guesses = vec![raw.clone()];
        guesses.extend(colour.then(|| reversed(raw, "pixels as they are, 0 to 255, blue first")));
        return guesses;
    }
    let mut guesses = Vec::new();
    if colour {
        guesses.push(guess("0 to 1, then ImageNet's mean and deviation", TO_ONE, &IMAGENET.0, &IMAGENET.1));
    }
    let own = guess("0 to 1, then mean and deviation of the samples tried", TO_ONE, &own.0, &own.1);
    let zero = [guess("0 to 1", TO_ONE, &[0.0], &[1.0]), guess("-1 to 1", TO_ONE, &[0.5], &[0.5])];
    // Of gray pictures there is no set that all others are normalized as.
    guesses.extend(if colour {
        zero.into_iter().chain([own]).collect()
    } else {
        [own].into_iter().chain(zero).collect::<Vec<_>>()
    });
    guesses.push(raw);
    if colour {
        let name = "0 to 255 minus ImageNet's mean, blue first";
        guesses.push(reversed(guess(name, 1.0, &CAFFE, &[1.0]), name));
    }
    guesses
}
