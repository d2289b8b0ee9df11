//! Trains the network that qtuned's default job quantizes, and writes it as ONNX.
//!
//! The network is a small MobileNetV2: depthwise convolutions, BatchNorm, ReLU6 and residual additions. It learns the
//! 60,000 training pictures of Fashion-MNIST on candle's automatic differentiation, is evaluated on the 10,000 test
//! pictures, and is written with the node and weight names that PyTorch would give it, so that a qconfig written with
//! PyTorch module paths finds its groups.
//!
//! ```text
//! cargo run --release --example train_fashion_mnist -- --out model.onnx --calibration-slice .
//! ```
//!
//! Activations are channels-last throughout. A 1×1 convolution is then one matrix product over all pixels, and a 3×3
//! depthwise convolution is nine multiply-adds of a shifted picture; candle would run the latter one channel at a
//! time. Depthwise convolution and BatchNorm are written here as candle custom operations with their own backward
//! passes. Given a seed, every random number and every order of summation in them is fixed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, DType, Device, Layout, Shape, Storage, Tensor, Var};
use clap::Parser;
use flate2::{Compression, GzBuilder, read::GzDecoder};
use indicatif::{ProgressBar, ProgressStyle};
use prost::Message;
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// A training step allocates and frees the same few hundred megabytes; the system allocator would give them back to
/// the kernel, and take page faults, every time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Height and width of a picture.
const SIDE: usize = 28;
/// Pixels of a picture.
const PIXELS: usize = SIDE * SIDE;
/// Kinds of clothing.
const CLASSES: usize = 10;
/// Mean of the training pixels, scaled to 0..1.
const MEAN: f32 = 0.2860;
/// Standard deviation of the training pixels, scaled to 0..1.
const STD: f32 = 0.3530;
/// BatchNorm's guard against a division by zero, PyTorch's default.
const EPSILON: f32 = 1e-5;
/// Share of a new batch in the running statistics, PyTorch's default.
const RUNNING_SHARE: f32 = 0.1;
/// Momentum of gradient descent.
const MOMENTUM: f64 = 0.9;
/// Share of the steps during which the learning rate rises.
const WARM_UP: f64 = 0.25;
/// Pictures evaluated at a time.
const EVALUATION_BATCH: usize = 500;

/// Trains a small MobileNetV2 on Fashion-MNIST and writes it as ONNX.
#[derive(Parser, Debug)]
#[command(group = clap::ArgGroup::new("work").required(true).multiple(true).args(["out", "calibration_slice"]))]
struct Arguments {
    /// Folder of the four Fashion-MNIST files (train-images-idx3-ubyte.gz and so on)
    #[arg(long, value_name = "DIR", default_value = "/usr/share/datasets/fashion-mnist")]
    data: PathBuf,

    /// Train, and write the network to this file
    #[arg(long, value_name = "FILE.onnx")]
    out: Option<PathBuf>,

    /// Write a class-balanced sample of the training pictures to this folder, as calibrate-{images-idx3,labels-idx1}-ubyte.gz
    #[arg(long, value_name = "DIR")]
    calibration_slice: Option<PathBuf>,

    /// Pictures in the calibration slice
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    calibration_pictures: u32,

    /// Passes over the training pictures
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    epochs: u32,

    /// Seed of the initial weights, the order and mirroring of pictures, and the calibration slice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Pictures a step
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..=4096))]
    batch: u32,

    /// Highest learning rate of the one-cycle schedule
    #[arg(long, value_name = "RATE", default_value_t = 1.0, value_parser = positive)]
    learning_rate: f64,

    /// Weight decay, on every parameter
    #[arg(long, value_name = "DECAY", default_value_t = 1e-4, value_parser = not_negative)]
    weight_decay: f64,

    /// Channels and stride of the first convolution
    #[arg(long, value_name = "CHANNELS:STRIDE", default_value = "16:1")]
    stem: Stem,

    /// Stages of inverted residual blocks, separated by commas
    #[arg(
        long,
        value_name = "EXPANSION:CHANNELS:REPEATS:STRIDE,…",
        value_delimiter = ',',
        default_value = "1:24:1:2,1:24:1:1,4:32:2:2,4:40:1:1"
    )]
    blocks: Vec<Stage>,

    /// Channels of the last 1×1 convolution
    #[arg(long, value_name = "CHANNELS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4096))]
    head: u32,
}

/// Parses a finite number above zero.
fn positive(text: &str) -> Result<f64> {
    let number: f64 = text.parse().context("expected a number")?;
    ensure!(number.is_finite() && number > 0.0, "expected a number above 0");
    Ok(number)
}

/// Parses a finite number of at least zero.
fn not_negative(text: &str) -> Result<f64> {
    let number: f64 = text.parse().context("expected a number")?;
    ensure!(number.is_finite() && number >= 0.0, "expected a number of at least 0");
    Ok(number)
}

/// Parses exactly `N` positive integers separated by colons.
fn integers<const N: usize>(text: &str) -> Result<[usize; N]> {
    let numbers: Vec<usize> = text
        .split(':')
        .map(|part| part.parse().with_context(|| format!("'{part}' is not a whole number")))
        .collect::<Result<_>>()?;
    ensure!(numbers.iter().all(|&n| (1..=4096).contains(&n)), "every number must lie in 1..=4096");
    let found = numbers.len();
    numbers.try_into().ok().with_context(|| format!("expected {N} numbers separated by ':', found {found}"))
}

/// The first convolution, 3×3 over the one grey channel.
#[derive(Clone, Copy, Debug)]
struct Stem {
    channels: usize,
    stride: usize,
}

impl FromStr for Stem {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let [channels, stride] = integers(text)?;
        ensure!(stride <= 2, "the stride must be 1 or 2");
        Ok(Self { channels, stride })
    }
}

/// A run of inverted residual blocks of one width, as a row of the MobileNetV2 paper's table.
#[derive(Clone, Copy, Debug)]
struct Stage {
    /// Hidden channels for one input channel; 1 leaves the first 1×1 convolution out.
    expansion: usize,
    channels: usize,
    repeats: usize,
    /// Stride of the first block; the others have stride 1.
    stride: usize,
}

impl FromStr for Stage {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let [expansion, channels, repeats, stride] = integers(text)?;
        ensure!(stride <= 2, "the stride must be 1 or 2");
        Ok(Self { expansion, channels, repeats, stride })
    }
}

/// Writes what the command line asks for.
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let training = Pictures::read(&arguments.data, "train")?;
    if let Some(folder) = &arguments.calibration_slice {
        let slice = training.balanced_sample(arguments.calibration_pictures as usize, arguments.seed)?;
        slice.write(folder, "calibrate")?;
        println!("{} training pictures for calibration: {}", slice.len(), folder.display());
    }
    if let Some(out) = &arguments.out {
        // Training must not end at a folder that does not exist.
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        ensure!(folder.is_dir(), "{} is no folder, so {} cannot be written", folder.display(), out.display());
        let test = Pictures::read(&arguments.data, "t10k")?;
        let network = train(&arguments, &training, &test)?;
        let model = onnx::model(&network)?.encode_to_vec();
        fs::write(out, &model).with_context(|| format!("{} cannot be written", out.display()))?;
        println!("{}: {} bytes", out.display(), model.len());
    }
    Ok(())
}

/// Trains a new network and reports its accuracy on the test pictures after each epoch.
fn train(arguments: &Arguments, training: &Pictures, test: &Pictures) -> Result<Network> {
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let mut network = Network::new(arguments, &mut rng)?;
    println!("{} parameters, {} multiply-adds a picture", network.parameters(), network.multiply_adds());
    let batch = arguments.batch as usize;
    ensure!(batch <= training.len(), "a batch of {batch} is more than the {} training pictures", training.len());
    let epochs = arguments.epochs as usize;
    // A last batch that is not full is dropped; the next epoch's order includes its pictures again.
    let steps = training.len() / batch;
    let schedule = OneCycle { peak: arguments.learning_rate, steps: epochs * steps };
    let mut descent = Descent::new(network.variables(), arguments.weight_decay)?;

    let progress = ProgressBar::new((epochs * steps) as u64);
    progress.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left, {msg}")?);
    progress.enable_steady_tick(Duration::from_millis(500));
    let mut order: Vec<usize> = (0..training.len()).collect();
    for epoch in 0..epochs {
        order.shuffle(&mut rng);
        let mut total_loss = 0.0;
        for (step, indices) in order.chunks_exact(batch).enumerate() {
            let mirrored: Vec<bool> = indices.iter().map(|_| rng.random()).collect();
            let logits = network.forward(&training.normalised(indices, &mirrored), Mode::Train)?;
            let loss = candle_nn::loss::cross_entropy(&logits, &training.targets(indices)?)?;
            let value = loss.to_scalar::<f32>()?;
            ensure!(value.is_finite(), "the loss is {value}: training diverged, a lower --learning-rate may help");
            descent.step(&loss.backward()?, schedule.rate(epoch * steps + step))?;
            total_loss += f64::from(value);
            progress.set_message(format!("epoch {}, loss {value:.3}", epoch + 1));
            progress.inc(1);
        }
        let correct = evaluate(&mut network, test)?;
        let accuracy = correct as f64 / test.len() as f64;
        let mean_loss = total_loss / steps as f64;
        let seconds = progress.elapsed().as_secs();
        progress.suspend(|| {
            println!("epoch {}: loss {mean_loss:.4}, test accuracy {accuracy:.4}, {seconds} s", epoch + 1);
        });
    }
    progress.finish_and_clear();
    Ok(network)
}

/// Counts the pictures whose highest logit is the right one.
fn evaluate(network: &mut Network, pictures: &Pictures) -> Result<usize> {
    let indices: Vec<usize> = (0..pictures.len()).collect();
    let mut correct = 0;
    for indices in indices.chunks(EVALUATION_BATCH) {
        let logits = network.forward(&pictures.normalised(indices, &vec![false; indices.len()]), Mode::Evaluate)?;
        let right = logits.argmax(D::Minus1)?.eq(&pictures.targets(indices)?)?;
        correct += right.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()? as usize;
    }
    Ok(correct)
}

/// Labelled pictures as the Fashion-MNIST files hold them: one byte a pixel, one byte a label.
struct Pictures {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Pictures {
    /// Reads and checks `{set}-images-idx3-ubyte.gz` and `{set}-labels-idx1-ubyte.gz`.
    fn read(folder: &Path, set: &str) -> Result<Self> {
        let (count, pixels) = read_idx(&folder.join(format!("{set}-images-idx3-ubyte.gz")), &[SIDE, SIDE])?;
        let (labelled, labels) = read_idx(&folder.join(format!("{set}-labels-idx1-ubyte.gz")), &[])?;
        ensure!(count == labelled, "the {set} set has {count} pictures but {labelled} labels");
        ensure!(count > 0, "the {set} set is empty");
        if let Some(label) = labels.iter().find(|&&label| usize::from(label) >= CLASSES) {
            bail!("the {set} set has the label {label}, but labels are 0 to {}", CLASSES - 1);
        }
        Ok(Self { pixels, labels })
    }

    /// Writes the two files that [`Pictures::read`] reads. The same pictures give the same bytes.
    fn write(&self, folder: &Path, set: &str) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
        let count = self.len();
        write_idx(&folder.join(format!("{set}-images-idx3-ubyte.gz")), &[count, SIDE, SIDE], &self.pixels)?;
        write_idx(&folder.join(format!("{set}-labels-idx1-ubyte.gz")), &[count], &self.labels)
    }

    /// Number of pictures.
    fn len(&self) -> usize {
        self.labels.len()
    }

    /// Draws `count` pictures at random, as many of each class as divides evenly, in a random order.
    fn balanced_sample(&self, count: usize, seed: u64) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(&mut rng);
        let mut by_class: Vec<Vec<usize>> = vec![Vec::new(); CLASSES];
        for index in order {
            by_class[usize::from(self.labels[index])].push(index);
        }
        let mut drawn = Vec::with_capacity(count);
        for position in 0..count {
            let class = position % CLASSES;
            let index = by_class[class].get(position / CLASSES).with_context(|| {
                format!("class {class} has {} pictures, too few for a sample of {count}", by_class[class].len())
            })?;
            drawn.push(*index);
        }
        drawn.shuffle(&mut rng);
        Ok(Self {
            pixels: drawn.iter().flat_map(|&index| &self.pixels[index * PIXELS..][..PIXELS]).copied().collect(),
            labels: drawn.iter().map(|&index| self.labels[index]).collect(),
        })
    }

    /// The network's input for some pictures, each mirrored left to right or not.
    fn normalised(&self, indices: &[usize], mirrored: &[bool]) -> Vec<f32> {
        let mut input = Vec::with_capacity(indices.len() * PIXELS);
        let normalise = |&pixel: &u8| (f32::from(pixel) / 255.0 - MEAN) / STD;
        for (&index, &mirror) in indices.iter().zip(mirrored) {
            for row in self.pixels[index * PIXELS..][..PIXELS].chunks_exact(SIDE) {
                if mirror {
                    input.extend(row.iter().rev().map(normalise));
                } else {
                    input.extend(row.iter().map(normalise));
                }
            }
        }
        input
    }

    /// The labels of some pictures, as candle's loss wants them.
    fn targets(&self, indices: &[usize]) -> Result<Tensor> {
        let labels = indices.iter().map(|&index| u32::from(self.labels[index])).collect();
        Ok(Tensor::from_vec(labels, indices.len(), &Device::Cpu)?)
    }
}

/// Reads a gzipped IDX file of bytes whose items have the shape `item`; returns how many there are, and the bytes.
fn read_idx(path: &Path, item: &[usize]) -> Result<(usize, Vec<u8>)> {
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).with_context(|| format!("{} is no gzip file", path.display()))?;
    let header = 4 * (item.len() + 2);
    ensure!(bytes.len() >= header, "{} ends within its header", path.display());
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
    let magic = 0x0800 + item.len() + 1;
    ensure!(word(0) == magic, "{} starts with {:#x}, expected {magic:#x}", path.display(), word(0));
    let count = word(4);
    for (position, &expected) in item.iter().enumerate() {
        let found = word(8 + 4 * position);
        ensure!(found == expected, "{} has items of size {found}, expected {expected}", path.display());
    }
    let size: usize = item.iter().product();
    let data = bytes.split_off(header);
    ensure!(
        data.len() == count * size,
        "{} promises {count} items of {size} bytes but holds {} bytes",
        path.display(),
        data.len()
    );
    Ok((count, data))
}

/// Writes bytes of the given shape as a gzipped IDX file without a time stamp.
fn write_idx(path: &Path, shape: &[usize], data: &[u8]) -> Result<()> {
    let mut bytes = Vec::with_capacity(4 + 4 * shape.len() + data.len());
    bytes.extend((0x0800 + u32::try_from(shape.len())?).to_be_bytes());
    for &dimension in shape {
        bytes.extend(u32::try_from(dimension)?.to_be_bytes());
    }
    bytes.extend(data);
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(&bytes)?;
    fs::write(path, encoder.finish()?).with_context(|| format!("{} cannot be written", path.display()))
}

/// Whether BatchNorm normalises by the batch and learns, or by what it has learned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Train,
    Evaluate,
}

/// How a convolution connects channels and pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// 3×3 over one input channel; the weight is [9, output].
    Grey,
    /// 1×1; the weight is [input, output].
    Pointwise,
    /// 3×3, each channel alone; the weight is [9, channels].
    Depthwise,
}

/// A convolution without bias, its BatchNorm, and ReLU6 or nothing.
struct Convolution {
    /// PyTorch's module path, such as `features.1.conv.0.0`.
    path: String,
    /// PyTorch's module path of the BatchNorm.
    norm_path: String,
    /// PyTorch's module path of the ReLU6, where there is one.
    relu6_path: Option<String>,
    kind: Kind,
    stride: usize,
    /// Height and width of the output.
    side: usize,
    weight: Var,
    gamma: Var,
    beta: Var,
    running: Statistics,
}

impl Convolution {
    /// A convolution at `path` with its BatchNorm at `norm_path`, with PyTorch's initial weights for MobileNetV2.
    fn new(
        (path, norm_path, relu6_path): (String, String, Option<String>),
        kind: Kind,
        (inputs, outputs): (usize, usize),
        (side, stride): (usize, usize),
        rng: &mut ChaCha8Rng,
    ) -> Result<Self> {
        let (rows, fan_out) = match kind {
            Kind::Grey => (9, 9 * outputs),
            Kind::Pointwise => (inputs, outputs),
            // PyTorch divides by the groups; a channel of nine inputs and nine outputs keeps its variance.
            Kind::Depthwise => (9, 9),
        };
        Ok(Self {
            path,
            norm_path,
            relu6_path,
            kind,
            stride,
            side: side.div_ceil(stride),
            weight: normal((rows, outputs), (2.0 / fan_out as f64).sqrt(), rng)?,
            gamma: Var::ones(outputs, DType::F32, &Device::Cpu)?,
            beta: Var::zeros(outputs, DType::F32, &Device::Cpu)?,
            running: Statistics { mean: vec![0.0; outputs], variance: vec![1.0; outputs] },
        })
    }

    /// Channels of the output.
    fn channels(&self) -> usize {
        self.running.mean.len()
    }

    /// Multiply-adds for one picture.
    fn multiply_adds(&self) -> usize {
        self.side * self.side * self.weight.elem_count()
    }

    /// Applies convolution, BatchNorm and ReLU6 to channels-last activations.
    fn forward(&mut self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let y = match self.kind {
            Kind::Depthwise => x.apply_op2(&self.weight, DepthwiseOp { stride: self.stride })?,
            Kind::Grey | Kind::Pointwise => {
                let (pictures, height, width, channels) = x.dims4()?;
                let pixels = x.reshape((pictures * height * width, channels))?;
                pixels.matmul(&self.weight)?.reshape((pictures, height, width, self.channels()))?
            }
        };
        let relu6 = self.relu6_path.is_some();
        match mode {
            Mode::Train => {
                let statistics = Arc::new(OnceLock::new());
                let op = NormOp { relu6, statistics: Arc::clone(&statistics) };
                let rows = y.elem_count() / self.channels();
                let y = y.apply_op3(&self.gamma, &self.beta, op)?;
                let batch = statistics.get().context("BatchNorm kept no statistics")?;
                self.running.blend(batch, rows);
                Ok(y)
            }
            Mode::Evaluate => {
                let (scale, shift) = self.running.affine(&self.gamma.to_vec1()?, &self.beta.to_vec1()?);
                let channels = self.channels();
                let y = y.broadcast_mul(&Tensor::from_vec(scale, channels, &Device::Cpu)?)?;
                let y = y.broadcast_add(&Tensor::from_vec(shift, channels, &Device::Cpu)?)?;
                Ok(if relu6 { y.clamp(0f32, 6f32)? } else { y })
            }
        }
    }

    /// The parameters that training changes.
    fn variables(&self) -> [Var; 3] {
        [self.weight.clone(), self.gamma.clone(), self.beta.clone()]
    }
}

/// An inverted residual block: widen, filter each channel, narrow, and add the input where the shapes agree.
struct Block {
    /// PyTorch's module path, such as `features.3`.
    path: String,
    layers: Vec<Convolution>,
    residual: bool,
}

impl Block {
    /// Applies the block.
    fn forward(&mut self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut y = x.clone();
        for layer in &mut self.layers {
            y = layer.forward(&y, mode)?;
        }
        Ok(if self.residual { (x + y)? } else { y })
    }
}

/// The whole network: stem, blocks, head, classifier.
struct Network {
    stem: Convolution,
    blocks: Vec<Block>,
    head: Convolution,
    /// [inputs, classes].
    classifier: Var,
    bias: Var,
}

impl Network {
    /// Builds the network of the command line with random weights.
    fn new(arguments: &Arguments, rng: &mut ChaCha8Rng) -> Result<Self> {
        /// Module paths of a Conv2dNormActivation: convolution, BatchNorm, ReLU6.
        fn activated(path: &str) -> (String, String, Option<String>) {
            (format!("{path}.0"), format!("{path}.1"), Some(format!("{path}.2")))
        }
        let Stem { channels, stride } = arguments.stem;
        let stem = Convolution::new(activated("features.0"), Kind::Grey, (1, channels), (SIDE, stride), rng)?;
        let (mut side, mut width) = (stem.side, channels);
        let mut blocks = Vec::new();
        for stage in &arguments.blocks {
            for repeat in 0..stage.repeats {
                let stride = if repeat == 0 { stage.stride } else { 1 };
                let path = format!("features.{}", blocks.len() + 1);
                let hidden = width * stage.expansion;
                let mut layers = Vec::new();
                if stage.expansion > 1 {
                    let paths = activated(&format!("{path}.conv.0"));
                    layers.push(Convolution::new(paths, Kind::Pointwise, (width, hidden), (side, 1), rng)?);
                }
                let paths = activated(&format!("{path}.conv.{}", layers.len()));
                layers.push(Convolution::new(paths, Kind::Depthwise, (hidden, hidden), (side, stride), rng)?);
                side = side.div_ceil(stride);
                let position = layers.len();
                let paths = (format!("{path}.conv.{position}"), format!("{path}.conv.{}", position + 1), None);
                layers.push(Convolution::new(paths, Kind::Pointwise, (hidden, stage.channels), (side, 1), rng)?);
                blocks.push(Block { path, layers, residual: stride == 1 && width == stage.channels });
                width = stage.channels;
            }
        }
        let outputs = arguments.head as usize;
        let paths = activated(&format!("features.{}", blocks.len() + 1));
        let head = Convolution::new(paths, Kind::Pointwise, (width, outputs), (side, 1), rng)?;
        let classifier = normal((outputs, CLASSES), 0.01, rng)?;
        let bias = Var::zeros(CLASSES, DType::F32, &Device::Cpu)?;
        Ok(Self { stem, blocks, head, classifier, bias })
    }

    /// All convolutions, in the order they run.
    fn convolutions(&self) -> impl Iterator<Item = &Convolution> {
        let blocks = self.blocks.iter().flat_map(|block| &block.layers);
        std::iter::once(&self.stem).chain(blocks).chain(std::iter::once(&self.head))
    }

    /// The parameters that training changes.
    fn variables(&self) -> Vec<Var> {
        let classifier = [self.classifier.clone(), self.bias.clone()];
        self.convolutions().flat_map(Convolution::variables).chain(classifier).collect()
    }

    /// Number of trained parameters.
    fn parameters(&self) -> usize {
        self.variables().iter().map(|variable| variable.elem_count()).sum()
    }

    /// Multiply-adds for one picture.
    fn multiply_adds(&self) -> usize {
        self.convolutions().map(Convolution::multiply_adds).sum::<usize>() + self.classifier.elem_count()
    }

    /// Logits of normalised pictures.
    fn forward(&mut self, pictures: &[f32], mode: Mode) -> Result<Tensor> {
        let mut x = self.stem.forward(&patches(pictures, self.stem.stride)?, mode)?;
        for block in &mut self.blocks {
            x = block.forward(&x, mode)?;
        }
        let x = self.head.forward(&x, mode)?.mean((1, 2))?;
        Ok(x.matmul(&self.classifier)?.broadcast_add(&self.bias)?)
    }
}

/// Normally distributed initial weights.
fn normal(shape: (usize, usize), deviation: f64, rng: &mut ChaCha8Rng) -> Result<Var> {
    let values = (0..shape.0 * shape.1)
        .map(|_| {
            // Box and Muller; 1 - u is never 0.
            let (u, v): (f64, f64) = (rng.random(), rng.random());
            (deviation * (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        })
        .collect();
    Ok(Var::from_vec(values, shape, &Device::Cpu)?)
}

/// The 3×3 surroundings of each output pixel of the stem: [pictures, height, width, 9], zero outside the picture.
fn patches(pictures: &[f32], stride: usize) -> Result<Tensor> {
    let geometry = Geometry { height: SIDE, width: SIDE, channels: 1, stride };
    let mut patches = vec![0.0; pictures.len() / PIXELS * geometry.outputs() * 9];
    patches.par_chunks_exact_mut(geometry.outputs() * 9).zip(pictures.par_chunks_exact(PIXELS)).for_each(
        |(patches, picture)| geometry.for_each_tap(|tap, output, input| patches[output * 9 + tap] = picture[input]),
    );
    let (height, width) = (geometry.output_height(), geometry.output_width());
    Ok(Tensor::from_vec(patches, (pictures.len() / PIXELS, height, width, 9), &Device::Cpu)?)
}

/// A 3×3 convolution with padding 1 over one channels-last picture.
#[derive(Clone, Copy)]
struct Geometry {
    height: usize,
    width: usize,
    channels: usize,
    stride: usize,
}

impl Geometry {
    /// Rows of the output.
    fn output_height(&self) -> usize {
        self.height.div_ceil(self.stride)
    }

    /// Columns of the output.
    fn output_width(&self) -> usize {
        self.width.div_ceil(self.stride)
    }

    /// Numbers in the input.
    fn inputs(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Numbers in the output.
    fn outputs(&self) -> usize {
        self.output_height() * self.output_width() * self.channels
    }

    /// Calls `visit(tap, output, input)` for each output pixel and each of the nine taps that lies in the picture,
    /// where `output` and `input` are the positions of the two pixels' first channels.
    #[inline(always)]
    fn for_each_tap(&self, mut visit: impl FnMut(usize, usize, usize)) {
        for y in 0..self.output_height() {
            for x in 0..self.output_width() {
                let output = (y * self.output_width() + x) * self.channels;
                for tap in 0..9 {
                    // One row above the picture wraps around to a huge number, which is outside as well.
                    let row = (y * self.stride + tap / 3).wrapping_sub(1);
                    let column = (x * self.stride + tap % 3).wrapping_sub(1);
                    if row < self.height && column < self.width {
                        visit(tap, output, (row * self.width + column) * self.channels);
                    }
                }
            }
        }
    }
}

/// The numbers of a contiguous tensor on the CPU.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| candle_core::Error::msg("expected a contiguous tensor"))?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Calls `work` with the numbers of each tensor, without copying those that are contiguous.
fn with_numbers<const N: usize, T>(
    tensors: [&Tensor; N],
    work: impl FnOnce([&[f32]; N]) -> candle_core::Result<T>,
) -> candle_core::Result<T> {
    let mut contiguous = Vec::with_capacity(N);
    for tensor in tensors {
        contiguous.push(tensor.contiguous()?);
    }
    let guards: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else {
            return Err(candle_core::Error::msg("expected a tensor on the CPU"));
        };
        *slice = numbers(storage, layout)?;
    }
    work(slices)
}

/// 3×3 depthwise convolution of [pictures, height, width, channels] with [9, channels], padding 1.
struct DepthwiseOp {
    stride: usize,
}

/// Pictures whose weight gradients are summed before they are added to the others', so that the order of summation
/// does not depend on the number of threads.
const PICTURES_A_SUM: usize = 8;

impl DepthwiseOp {
    /// The geometry of an input shape.
    fn geometry(&self, dimensions: &[usize]) -> candle_core::Result<Geometry> {
        let &[_, height, width, channels] = dimensions else {
            return Err(candle_core::Error::msg("a depthwise convolution expects four dimensions"));
        };
        Ok(Geometry { height, width, channels, stride: self.stride })
    }
}

impl CustomOp2 for DepthwiseOp {
    fn name(&self) -> &'static str {
        "depthwise-3x3"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let geometry = self.geometry(x_layout.dims())?;
        let (x, weight) = (numbers(x, x_layout)?, numbers(weight, weight_layout)?);
        let (pictures, channels) = (x_layout.dims()[0], geometry.channels);
        let mut y = vec![0f32; pictures * geometry.outputs()];
        y.par_chunks_exact_mut(geometry.outputs()).zip(x.par_chunks_exact(geometry.inputs())).for_each(|(y, x)| {
            geometry.for_each_tap(|tap, output, input| {
                let weight = &weight[tap * channels..][..channels];
                for ((y, x), weight) in y[output..][..channels].iter_mut().zip(&x[input..][..channels]).zip(weight) {
                    *y += x * weight;
                }
            });
        });
        let shape = (pictures, geometry.output_height(), geometry.output_width(), channels);
        Ok((CpuStorage::F32(y), shape.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        y_gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let geometry = self.geometry(x.dims())?;
        let channels = geometry.channels;
        let (x_gradient, weight_gradient) = with_numbers([x, weight, y_gradient], |[x, weight, y_gradient]| {
            let mut x_gradient = vec![0f32; x.len()];
            let sums: Vec<Vec<f32>> = x_gradient
                .par_chunks_mut(PICTURES_A_SUM * geometry.inputs())
                .zip(x.par_chunks(PICTURES_A_SUM * geometry.inputs()))
                .zip(y_gradient.par_chunks(PICTURES_A_SUM * geometry.outputs()))
                .map(|((x_gradient, x), y_gradient)| {
                    let mut sum = vec![0f32; weight.len()];
                    let pictures = x_gradient
                        .chunks_exact_mut(geometry.inputs())
                        .zip(x.chunks_exact(geometry.inputs()))
                        .zip(y_gradient.chunks_exact(geometry.outputs()));
                    for ((x_gradient, x), y_gradient) in pictures {
                        geometry.for_each_tap(|tap, output, input| {
                            let y_gradient = &y_gradient[output..][..channels];
                            let weight = &weight[tap * channels..][..channels];
                            let x_gradient = &mut x_gradient[input..][..channels];
                            for ((x_gradient, y_gradient), weight) in x_gradient.iter_mut().zip(y_gradient).zip(weight)
                            {
                                *x_gradient += y_gradient * weight;
                            }
                            let sum = &mut sum[tap * channels..][..channels];
                            for ((sum, y_gradient), x) in sum.iter_mut().zip(y_gradient).zip(&x[input..][..channels]) {
                                *sum += y_gradient * x;
                            }
                        });
                    }
                    sum
                })
                .collect();
            let mut weight_gradient = vec![0f32; weight.len()];
            for sum in sums {
                weight_gradient.iter_mut().zip(sum).for_each(|(total, sum)| *total += sum);
            }
            Ok((x_gradient, weight_gradient))
        })?;
        let x_gradient = Tensor::from_vec(x_gradient, x.shape(), &Device::Cpu)?;
        let weight_gradient = Tensor::from_vec(weight_gradient, weight.shape(), &Device::Cpu)?;
        Ok((Some(x_gradient), Some(weight_gradient)))
    }
}

/// Mean and variance of each channel.
#[derive(Debug)]
struct Statistics {
    mean: Vec<f32>,
    variance: Vec<f32>,
}

/// Pixels whose sums are taken together, for the same reason as [`PICTURES_A_SUM`].
const PIXELS_A_SUM: usize = 512;

impl Statistics {
    /// Mean and (biased) variance over all pixels of all pictures, merged as Chan, Golub and LeVeque do.
    fn of(x: &[f32], channels: usize) -> Self {
        let parts: Vec<(usize, Vec<f32>, Vec<f32>)> = x
            .par_chunks(PIXELS_A_SUM * channels)
            .map(|x| {
                let pixels = x.len() / channels;
                let mut mean = vec![0f32; channels];
                for x in x.chunks_exact(channels) {
                    mean.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
                }
                mean.iter_mut().for_each(|sum| *sum /= pixels as f32);
                let mut squares = vec![0f32; channels];
                for x in x.chunks_exact(channels) {
                    for ((squares, x), mean) in squares.iter_mut().zip(x).zip(&mean) {
                        *squares += (x - mean) * (x - mean);
                    }
                }
                (pixels, mean, squares)
            })
            .collect();
        let mut total = 0.0;
        let (mut mean, mut squares) = (vec![0f64; channels], vec![0f64; channels]);
        for (pixels, part_mean, part_squares) in parts {
            let pixels = pixels as f64;
            let merged = total + pixels;
            for channel in 0..channels {
                let difference = f64::from(part_mean[channel]) - mean[channel];
                mean[channel] += difference * pixels / merged;
                squares[channel] +=
                    f64::from(part_squares[channel]) + difference * difference * total * pixels / merged;
            }
            total = merged;
        }
        Self {
            mean: mean.iter().map(|&mean| mean as f32).collect(),
            variance: squares.iter().map(|&squares| (squares / total) as f32).collect(),
        }
    }

    /// Moves running statistics towards those of a batch of `rows` pixels, whose variance is made unbiased.
    fn blend(&mut self, batch: &Self, rows: usize) {
        let unbiased = rows as f32 / (rows - 1) as f32;
        for (running, batch) in self.mean.iter_mut().zip(&batch.mean) {
            *running += RUNNING_SHARE * (batch - *running);
        }
        for (running, batch) in self.variance.iter_mut().zip(&batch.variance) {
            *running += RUNNING_SHARE * (unbiased * batch - *running);
        }
    }

    /// 1 / standard deviation of each channel.
    fn inverse_deviation(&self) -> Vec<f32> {
        self.variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt()).collect()
    }

    /// The scale and shift of each channel that normalise it and then apply `gamma` and `beta`.
    fn affine(&self, gamma: &[f32], beta: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let scale: Vec<f32> =
            gamma.iter().zip(self.inverse_deviation()).map(|(gamma, inverse)| gamma * inverse).collect();
        let shift = beta.iter().zip(&self.mean).zip(&scale).map(|((beta, mean), scale)| beta - mean * scale).collect();
        (scale, shift)
    }
}

/// BatchNorm over the last dimension, by the statistics of the batch, and ReLU6 where wanted.
struct NormOp {
    relu6: bool,
    /// Set by the forward pass; read by the backward pass and for the running statistics.
    statistics: Arc<OnceLock<Statistics>>,
}

impl NormOp {
    /// The gradient that reaches the normalised value: none where ReLU6 cut it off.
    #[inline(always)]
    fn passed(&self, y: f32, y_gradient: f32) -> f32 {
        if self.relu6 && !(y > 0.0 && y < 6.0) { 0.0 } else { y_gradient }
    }
}

impl CustomOp3 for NormOp {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        beta: &CpuStorage,
        beta_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = numbers(x, x_layout)?;
        let (gamma, beta) = (numbers(gamma, gamma_layout)?, numbers(beta, beta_layout)?);
        let channels = gamma.len();
        let statistics = Statistics::of(x, channels);
        let (scale, shift) = statistics.affine(gamma, beta);
        let (low, high) = if self.relu6 { (0.0, 6.0) } else { (f32::NEG_INFINITY, f32::INFINITY) };
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(PIXELS_A_SUM * channels).zip(x.par_chunks(PIXELS_A_SUM * channels)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(&scale).zip(&shift) {
                    *y = (x * scale + shift).max(low).min(high);
                }
            }
        });
        if self.statistics.set(statistics).is_err() {
            return Err(candle_core::Error::msg("a BatchNorm operation ran twice"));
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        y: &Tensor,
        y_gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let statistics =
            self.statistics.get().ok_or_else(|| candle_core::Error::msg("BatchNorm ran backward before forward"))?;
        let inverse = statistics.inverse_deviation();
        let mean = &statistics.mean;
        let gradients = with_numbers([x, gamma, y, y_gradient], |[x, gamma, y, y_gradient]| {
            let channels = gamma.len();
            let chunk = PIXELS_A_SUM * channels;
            let sums: Vec<(Vec<f32>, Vec<f32>)> = x
                .par_chunks(chunk)
                .zip(y.par_chunks(chunk))
                .zip(y_gradient.par_chunks(chunk))
                .map(|((x, y), y_gradient)| {
                    let (mut sum, mut sum_x) = (vec![0f32; channels], vec![0f32; channels]);
                    let pixels =
                        x.chunks_exact(channels).zip(y.chunks_exact(channels)).zip(y_gradient.chunks_exact(channels));
                    for ((x, y), y_gradient) in pixels {
                        let sums = sum.iter_mut().zip(&mut sum_x);
                        for ((((x, y), y_gradient), mean), (sum, sum_x)) in
                            x.iter().zip(y).zip(y_gradient).zip(mean).zip(sums)
                        {
                            let gradient = self.passed(*y, *y_gradient);
                            *sum += gradient;
                            *sum_x += gradient * (x - mean);
                        }
                    }
                    (sum, sum_x)
                })
                .collect();
            let (mut beta_gradient, mut gamma_gradient) = (vec![0f32; channels], vec![0f32; channels]);
            for (sum, sum_x) in sums {
                beta_gradient.iter_mut().zip(sum).for_each(|(total, sum)| *total += sum);
                gamma_gradient.iter_mut().zip(sum_x).for_each(|(total, sum)| *total += sum);
            }
            gamma_gradient.iter_mut().zip(&inverse).for_each(|(total, inverse)| *total *= inverse);

            // x_gradient = a · passed + b · x + c for each channel.
            let rows = (x.len() / channels) as f32;
            let a: Vec<f32> = gamma.iter().zip(&inverse).map(|(gamma, inverse)| gamma * inverse).collect();
            let b: Vec<f32> = (0..channels).map(|i| -a[i] * inverse[i] * gamma_gradient[i] / rows).collect();
            let c: Vec<f32> = (0..channels).map(|i| -a[i] * beta_gradient[i] / rows - b[i] * mean[i]).collect();
            let mut x_gradient = vec![0f32; x.len()];
            x_gradient
                .par_chunks_mut(chunk)
                .zip(x.par_chunks(chunk))
                .zip(y.par_chunks(chunk))
                .zip(y_gradient.par_chunks(chunk))
                .for_each(|(((x_gradient, x), y), y_gradient)| {
                    let pixels = x_gradient
                        .chunks_exact_mut(channels)
                        .zip(x.chunks_exact(channels))
                        .zip(y.chunks_exact(channels))
                        .zip(y_gradient.chunks_exact(channels));
                    for (((x_gradient, x), y), y_gradient) in pixels {
                        let coefficients = a.iter().zip(&b).zip(&c);
                        for ((((x_gradient, x), y), y_gradient), ((a, b), c)) in
                            x_gradient.iter_mut().zip(x).zip(y).zip(y_gradient).zip(coefficients)
                        {
                            *x_gradient = a * self.passed(*y, *y_gradient) + b * x + c;
                        }
                    }
                });
            Ok((x_gradient, gamma_gradient, beta_gradient))
        });
        let (x_gradient, gamma_gradient, beta_gradient) = gradients?;
        Ok((
            Some(Tensor::from_vec(x_gradient, x.shape(), &Device::Cpu)?),
            Some(Tensor::from_vec(gamma_gradient, gamma.shape(), &Device::Cpu)?),
            Some(Tensor::from_vec(beta_gradient, beta.shape(), &Device::Cpu)?),
        ))
    }
}

/// Smith's one-cycle schedule: up along half a cosine, then down to nothing along another.
struct OneCycle {
    peak: f64,
    steps: usize,
}

impl OneCycle {
    /// The learning rate of a step.
    fn rate(&self, step: usize) -> f64 {
        let done = (step + 1) as f64 / self.steps as f64;
        let (from, to, way) = if done < WARM_UP {
            (self.peak / 25.0, self.peak, done / WARM_UP)
        } else {
            (self.peak, 0.0, (done - WARM_UP) / (1.0 - WARM_UP))
        };
        to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * way).cos())
    }
}

/// Stochastic gradient descent with Nesterov's momentum and weight decay, as PyTorch defines them.
struct Descent {
    parameters: Vec<(Var, Tensor)>,
    weight_decay: f64,
}

impl Descent {
    /// Descent that has not moved yet.
    fn new(variables: Vec<Var>, weight_decay: f64) -> Result<Self> {
        let parameters = variables
            .into_iter()
            .map(|variable| {
                let velocity = variable.zeros_like()?;
                Ok((variable, velocity))
            })
            .collect::<Result<_>>()?;
        Ok(Self { parameters, weight_decay })
    }

    /// Moves every parameter against its gradient.
    fn step(&mut self, gradients: &GradStore, rate: f64) -> Result<()> {
        for (variable, velocity) in &mut self.parameters {
            let gradient = gradients.get(variable.as_tensor()).context("a parameter has no gradient")?;
            // Detached: a velocity that remembered its graph would keep every past step alive.
            let gradient = (gradient + (variable.as_tensor() * self.weight_decay)?)?.detach();
            *velocity = ((&*velocity * MOMENTUM)? + &gradient)?;
            let direction = (gradient + (&*velocity * MOMENTUM)?)?;
            variable.set(&(variable.as_tensor() - (direction * rate)?)?.detach())?;
        }
        Ok(())
    }
}

/// The trained network as an ONNX model, as PyTorch's exporter would name its parts.
mod onnx {
    use anyhow::Result;
    use candle_core::Var;

    use qtuned::onnx::proto::{
        AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
        TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, data_type, dimension_proto,
    };

    use super::{CLASSES, Convolution, EPSILON, Kind, Network, SIDE};

    /// Names of ReLU6's two bounds.
    const RELU6_BOUNDS: [&str; 2] = ["relu6.minimum", "relu6.maximum"];

    /// The whole model. BatchNorm is left as it is, for the importer to fold.
    pub(super) fn model(network: &Network) -> Result<ModelProto> {
        let mut graph = Graph::default();
        let mut value = graph.convolution(&network.stem, "input")?;
        for block in &network.blocks {
            let entry = value.clone();
            for layer in &block.layers {
                value = graph.convolution(layer, &value)?;
            }
            if block.residual {
                value = graph.node("Add", &block.path, &[&entry, &value], Vec::new());
            }
        }
        value = graph.convolution(&network.head, &value)?;
        value = graph.node("GlobalAveragePool", "", &[&value], Vec::new());
        value = graph.node("Flatten", "", &[&value], vec![integer("axis", 1)]);
        graph.tensor("classifier.1.weight", &[CLASSES, network.head.channels()], &transposed(&network.classifier)?);
        graph.tensor("classifier.1.bias", &[CLASSES], &network.bias.to_vec1()?);
        graph.node(
            "Gemm",
            "classifier.1",
            &[&value, "classifier.1.weight", "classifier.1.bias"],
            vec![integer("transB", 1)],
        );
        for (name, bound) in RELU6_BOUNDS.into_iter().zip([0.0, 6.0]) {
            graph.tensor(name, &[], &[bound]);
        }
        if let Some(last) = graph.nodes.last_mut() {
            last.output = vec!["logits".to_owned()];
        }
        Ok(ModelProto {
            ir_version: 8,
            producer_name: "qtuned train_fashion_mnist".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
            graph: Some(GraphProto {
                name: "fashion-mnist".to_owned(),
                node: graph.nodes,
                initializer: graph.tensors,
                input: vec![activation("input", &[1, SIDE, SIDE])],
                output: vec![activation("logits", &[CLASSES])],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        })
    }

    /// Nodes and weights, as they are added.
    #[derive(Default)]
    struct Graph {
        nodes: Vec<NodeProto>,
        tensors: Vec<TensorProto>,
    }

    impl Graph {
        /// Adds a node for the module at `path` and returns the name of its output.
        fn node(&mut self, op_type: &str, path: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
            let name = format!("{}/{op_type}", scope(path));
            let output = format!("{name}_output_0");
            self.nodes.push(NodeProto {
                input: inputs.iter().map(|&input| input.to_owned()).collect(),
                output: vec![output.clone()],
                name,
                op_type: op_type.to_owned(),
                attribute,
                ..NodeProto::default()
            });
            output
        }

        /// Adds a weight.
        fn tensor(&mut self, name: &str, dimensions: &[usize], values: &[f32]) {
            self.tensors.push(TensorProto {
                dims: dimensions.iter().map(|&dimension| dimension as i64).collect(),
                data_type: data_type::FLOAT,
                name: name.to_owned(),
                raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                ..TensorProto::default()
            });
        }

        /// Adds a convolution, its BatchNorm and its ReLU6.
        fn convolution(&mut self, layer: &Convolution, input: &str) -> Result<String> {
            let channels = layer.channels();
            let (group, side) = match layer.kind {
                Kind::Grey => (1, 3),
                Kind::Pointwise => (1, 1),
                Kind::Depthwise => (channels, 3),
            };
            let weight = format!("{}.weight", layer.path);
            let inputs = layer.weight.elem_count() / channels / (side * side);
            self.tensor(&weight, &[channels, inputs, side, side], &transposed(&layer.weight)?);
            let attributes = vec![
                integers("dilations", &[1, 1]),
                integer("group", group as i64),
                integers("kernel_shape", &[side as i64; 2]),
                integers("pads", &[(side / 2) as i64; 4]),
                integers("strides", &[layer.stride as i64; 2]),
            ];
            let mut value = self.node("Conv", &layer.path, &[input, &weight], attributes);
            let mut inputs = vec![value];
            for (suffix, values) in [
                ("weight", &layer.gamma.to_vec1()?),
                ("bias", &layer.beta.to_vec1()?),
                ("running_mean", &layer.running.mean),
                ("running_var", &layer.running.variance),
            ] {
                let name = format!("{}.{suffix}", layer.norm_path);
                self.tensor(&name, &[channels], values);
                inputs.push(name);
            }
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            value = self.node("BatchNormalization", &layer.norm_path, &inputs, vec![real("epsilon", EPSILON)]);
            if let Some(path) = &layer.relu6_path {
                value = self.node("Clip", path, &[&value, RELU6_BOUNDS[0], RELU6_BOUNDS[1]], Vec::new());
            }
            Ok(value)
        }
    }

    /// PyTorch's scope of a module path: `features.1.conv.0.0` is `/features/features.1/conv/conv.0/conv.0.0`.
    fn scope(path: &str) -> String {
        let (mut scope, mut module) = (String::new(), String::new());
        for part in path.split('.').filter(|part| !part.is_empty()) {
            if part.starts_with(|first: char| first.is_ascii_digit()) {
                module = format!("{module}.{part}");
            } else {
                module = part.to_owned();
            }
            scope = format!("{scope}/{module}");
        }
        scope
    }

    /// The numbers of a matrix, column by column: here outputs come last, in ONNX first.
    fn transposed(weight: &Var) -> Result<Vec<f32>> {
        Ok(weight.t()?.flatten_all()?.to_vec1()?)
    }

    /// An attribute of one integer.
    fn integer(name: &str, value: i64) -> AttributeProto {
        AttributeProto { name: name.to_owned(), r#type: attribute_type::INT, i: value, ..AttributeProto::default() }
    }

    /// An attribute of several integers.
    fn integers(name: &str, values: &[i64]) -> AttributeProto {
        AttributeProto {
            name: name.to_owned(),
            r#type: attribute_type::INTS,
            ints: values.to_vec(),
            ..AttributeProto::default()
        }
    }

    /// An attribute of one real number.
    fn real(name: &str, value: f32) -> AttributeProto {
        AttributeProto { name: name.to_owned(), r#type: attribute_type::FLOAT, f: value, ..AttributeProto::default() }
    }

    /// A float input or output whose first dimension is the free `N`.
    fn activation(name: &str, dimensions: &[usize]) -> ValueInfoProto {
        let mut dim = vec![dimension_proto::Value::DimParam("N".to_owned())];
        dim.extend(dimensions.iter().map(|&size| dimension_proto::Value::DimValue(size as i64)));
        let dim = dim.into_iter().map(|value| DimensionProto { value: Some(value), ..Default::default() }).collect();
        let tensor = TensorTypeProto { elem_type: data_type::FLOAT, shape: Some(TensorShapeProto { dim }) };
        let r#type = Some(TypeProto { tensor_type: Some(tensor), ..Default::default() });
        ValueInfoProto { name: name.to_owned(), r#type, ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parameter of standard normal numbers.
    fn random(shape: &[usize], seed: u64) -> Var {
        let numbers = normal((1, shape.iter().product()), 1.0, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        Var::from_tensor(&numbers.reshape(shape).unwrap()).unwrap()
    }

    /// Compares candle's gradients of `loss` with central differences, for every number of every variable.
    fn check_gradients(variables: &[&Var], loss: impl Fn() -> Tensor) {
        let gradients = loss().backward().unwrap();
        let value = || f64::from(loss().to_scalar::<f32>().unwrap());
        for variable in variables {
            let gradient: Vec<f32> = gradients.get(variable).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let start: Vec<f32> = variable.flatten_all().unwrap().to_vec1().unwrap();
            let place = |numbers: Vec<f32>| {
                variable.set(&Tensor::from_vec(numbers, variable.shape(), &Device::Cpu).unwrap()).unwrap();
            };
            for position in 0..start.len() {
                let moved = |by: f32| {
                    let mut numbers = start.clone();
                    numbers[position] += by;
                    place(numbers);
                    value()
                };
                let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                let found = f64::from(gradient[position]);
                assert!((slope - found).abs() < 2e-2 * (1.0 + slope.abs()), "slope {slope}, gradient {found}");
            }
            place(start);
        }
    }

    #[test]
    fn depthwise_convolution_is_candles_grouped_one() {
        for stride in [1, 2] {
            let (x, weight) = (random(&[2, 5, 6, 3], 1), random(&[9, 3], 2));
            let y = x.apply_op2(&weight, DepthwiseOp { stride }).unwrap();
            let x = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
            let weight = weight.t().unwrap().reshape((3, 1, 3, 3)).unwrap();
            let expected = x.conv2d(&weight, 1, stride, 1, 3).unwrap().permute((0, 2, 3, 1)).unwrap();
            let worst = (y - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < 1e-5, "stride {stride}: off by {worst}");
        }
    }

    #[test]
    fn depthwise_gradients_are_slopes() {
        for stride in [1, 2] {
            let (x, weight) = (random(&[9, 3, 4, 2], 3), random(&[9, 2], 4));
            check_gradients(&[&x, &weight], || {
                let y = x.apply_op2(&weight, DepthwiseOp { stride }).unwrap();
                y.sqr().unwrap().mean_all().unwrap()
            });
        }
    }

    #[test]
    fn batch_norm_gradients_are_slopes() {
        let (x, gamma, beta) = (random(&[2, 2, 3, 2], 5), random(&[2], 6), random(&[2], 7));
        let weight = random(&[2, 2, 3, 2], 8);
        check_gradients(&[&x, &gamma, &beta], || {
            let op = NormOp { relu6: false, statistics: Arc::default() };
            (x.apply_op3(&gamma, &beta, op).unwrap() * weight.as_tensor()).unwrap().mean_all().unwrap()
        });
    }

    #[test]
    fn relu6_passes_gradients_only_between_its_bounds() {
        let op = NormOp { relu6: true, statistics: Arc::default() };
        assert_eq!([0.0, 0.5, 6.0].map(|y| op.passed(y, 2.0)), [0.0, 2.0, 0.0]);
    }

    #[test]
    fn merged_statistics_are_those_of_all_pixels() {
        let x: Vec<f32> = random(&[2 * PIXELS_A_SUM + 7, 1], 9).flatten_all().unwrap().to_vec1().unwrap();
        let found = Statistics::of(&x, 1);
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!((f64::from(found.mean[0]) - mean).abs() < 1e-5);
        assert!((f64::from(found.variance[0]) - variance).abs() < 1e-5);
    }

    #[test]
    fn the_learning_rate_rises_to_its_peak_and_falls_to_nothing() {
        let schedule = OneCycle { peak: 1.0, steps: 400 };
        assert!(schedule.rate(0) < 0.05);
        assert!((schedule.rate(99) - 1.0).abs() < 1e-12);
        assert!(schedule.rate(399).abs() < 1e-12);
    }

    #[test]
    fn a_sample_is_balanced_and_survives_its_files() {
        let labels: Vec<u8> = (0..60).map(|index| index % 10).collect();
        let pictures = Pictures { pixels: labels.iter().flat_map(|&label| [label; PIXELS]).collect(), labels };
        let sample = pictures.balanced_sample(40, 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        sample.write(folder.path(), "calibrate").unwrap();
        let read = Pictures::read(folder.path(), "calibrate").unwrap();
        assert_eq!((&read.pixels, &read.labels), (&sample.pixels, &sample.labels));
        for class in 0..10 {
            assert_eq!(read.labels.iter().filter(|&&label| label == class).count(), 4);
        }
        assert!(read.labels.iter().enumerate().all(|(index, &label)| read.pixels[index * PIXELS] == label));
        assert!(pictures.balanced_sample(70, 1).is_err());
    }
}
