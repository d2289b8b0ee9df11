//! `qtuned bench`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::{Global, deployment::Qconfig, format, input, print, print_json, reading::ReadingArgs};
use crate::{
    cancel::Cancel,
    engine::{Engine, Plan},
    evaluate::{Fingerprint, Latency, Protocol, Quartiles, fingerprint, latency, step_times, throughput},
    graph::{Graph, Groups, NodeId},
    kernels::{Kernels, Peak},
    onnx::Model,
    ptq::{self, Calibrated, Converted},
    quant::{Preset, QConfigMapping},
    search::Key,
};

/// Measure how fast a model runs in int8 against fp32
///
/// Both run in turn, on the same made-up input: neither data nor a database is needed, and values do not change the
/// speed. Without --qconfig every group is in int8.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned bench model.onnx\n  qtuned bench model.onnx --threads 2 --layers\n  \
                        qtuned bench model.onnx --qconfig qtuned-out/mobilenet-v2/best.qconfig.yaml\n\n\
                        One multiply-accumulate counts as two operations (OP). The peak is what one core does in a \
                        loop that stays in registers, times the threads.")]
pub(super) struct BenchArgs {
    /// The model
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,

    /// The qconfig to measure: a `*.qconfig.yaml` of a run, or a mapping as in `qconfig:` of a job
    #[arg(long, value_name = "FILE.yaml")]
    qconfig: Option<PathBuf>,

    /// Threads of one run
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,

    /// Samples in one run
    #[arg(long, default_value_t = 1, value_name = "B", value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// Runs that count, of each
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,

    /// Runs before those, thrown away
    #[arg(long, default_value_t = 10, value_name = "N")]
    warmup: u16,

    /// Show each node: time, operations a second, share of the peak
    #[arg(long)]
    layers: bool,

    #[command(flatten)]
    reading: ReadingArgs,
}

pub(super) fn run(global: &Global, args: &BenchArgs) -> Result<()> {
    let model = args.reading.reading()?.load(&args.model)?;
    let kernels = Kernels::detect()?;
    let protocol = Protocol {
        batch: args.batch.into(),
        threads: args.threads.into(),
        warmup: args.warmup.into(),
        runs: args.runs.into(),
    };
    let cancel = Cancel::default();
    let x = input::noise(&model.graph, protocol.batch, 0)?;
    let compiled = compile(&model, kernels, args.qconfig.as_deref())?;
    let plans = [&compiled.fp32, &compiled.candidate];
    let Some(taken) = latency(&compiled.candidate, &compiled.fp32, &x, kernels, protocol, &cancel)? else {
        bail!("a CPU quota throttled every try; latencies taken under it mean nothing");
    };
    let one = input::noise(&model.graph, 1, 0)?;
    // About a second a round.
    let seconds = taken.fp32().map_or(0.1, |q| q.median / 1e9) / protocol.batch as f64;
    let samples = (1.0 / seconds.max(1e-4)).clamp(8.0, 256.0) as usize;
    let rates = throughput(&plans, &one, samples, 5, &cancel)?;
    let layers = match args.layers {
        false => None,
        true => {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(protocol.threads).build()?;
            let times = pool.install(|| step_times(&plans, &x, protocol, &cancel))?;
            Some(join(&plans, &times, protocol.batch))
        }
    };
    let report = Report::new(&model, &compiled, &taken, &rates, kernels, protocol, layers);
    if global.json { print_json(&report) } else { print(&report.to_text(args)) }
}

/// Both plans, of one engine.
struct Compiled {
    candidate: Plan,
    fp32: Plan,
    /// Time of the first plans, which pack all weights.
    packing_ms: f64,
    /// Time of the candidate's plan with its last int8 group in fp32.
    switch_ms: f64,
}

fn compile(model: &Model, kernels: Kernels, qconfig: Option<&Path>) -> Result<Compiled> {
    let mapping = match qconfig {
        None => QConfigMapping::preset(Preset::default()),
        Some(path) => match Qconfig::read(path)? {
            Qconfig::Mapping(mapping) => mapping,
            Qconfig::File(file) => {
                if file.model_sha256 != Key(model.digest).to_string() {
                    bail!("{}: this qconfig was measured on another model", path.display());
                }
                let graph = Arc::new(model.graph.clone());
                let groups = Arc::new(Groups::of(&graph));
                let engine = Engine::new(graph, groups, kernels);
                let start = Instant::now();
                let restored = ptq::restore(&engine, &file).with_context(|| path.display().to_string())?;
                return Ok(timed(&engine, restored, start));
            }
        },
    };
    let calibrated = calibrate(&model.graph, kernels)?;
    let place = qconfig.map_or_else(|| "qconfig".to_owned(), |path| path.display().to_string());
    let qconfigs = mapping.resolve(calibrated.engine().groups()).with_context(|| place)?;
    let start = Instant::now();
    let converted = calibrated.convert(&qconfigs);
    Ok(timed(calibrated.engine(), converted, start))
}

fn timed(engine: &Engine, converted: Converted, start: Instant) -> Compiled {
    let fp32 = engine.fp32_plan();
    let packing_ms = start.elapsed().as_secs_f64() * 1e3;
    let mut switched = converted.quantization;
    if let Some(last) = switched.iter_mut().rfind(|group| group.is_some()) {
        *last = None;
    }
    let start = Instant::now();
    drop(engine.plan(&switched));
    let switch_ms = start.elapsed().as_secs_f64() * 1e3;
    Compiled { candidate: converted.plan, fp32, packing_ms, switch_ms }
}

/// The network calibrated on made-up inputs, which is enough to know how fast it is.
fn calibrate(graph: &Graph, kernels: Kernels) -> Result<Calibrated> {
    const SAMPLES: usize = 2;
    let load = |sample: usize| Ok(input::noise(graph, 1, sample as u64)?);
    Ok(ptq::prepare(graph.clone(), kernels).calibrate(SAMPLES, &load, &Cancel::default(), &|_| ())?)
}

/// What was measured.
#[derive(Serialize)]
struct Report {
    model: String,
    macs: u64,
    fingerprint: Fingerprint,
    runs: usize,
    fp32: Side,
    int8: Side,
    /// Median of fp32 over median of int8.
    speed_up: f64,
    peak: PeakRate,
    /// Time to pack all weights and build both plans.
    packing_ms: f64,
    /// Time to build a plan that differs in one group.
    switch_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Layer>>,
}

/// One of the two plans.
#[derive(Serialize)]
struct Side {
    /// In ns, of one run.
    #[serde(flatten)]
    quartiles: Quartiles,
    /// Samples a second of an evaluation on all cores, one thread a sample.
    evaluated_per_second: f64,
    weight_bytes: u64,
    activation_bytes: u64,
    samples_ns: Vec<u64>,
}

/// Operations a second of the threads in use.
#[derive(Clone, Copy, Serialize)]
struct PeakRate {
    fp32: f64,
    int8: f64,
}

/// One node in both plans.
#[derive(Serialize)]
struct Layer {
    name: String,
    kind: &'static str,
    /// For one run.
    macs: u64,
    fp32_ns: f64,
    int8_ns: f64,
}

/// Times by node: a conversion counts for the node that asked for it.
fn join(plans: &[&Plan; 2], times: &[Vec<f64>], batch: usize) -> Vec<Layer> {
    let mut layers: BTreeMap<NodeId, Layer> = BTreeMap::new();
    for (side, (plan, times)) in plans.iter().zip(times).enumerate() {
        for (step, time) in plan.steps().into_iter().zip(times) {
            let layer = layers.entry(step.node).or_insert_with(|| Layer {
                name: step.name.clone(),
                kind: step.kind,
                macs: 0,
                fp32_ns: 0.0,
                int8_ns: 0.0,
            });
            layer.macs = layer.macs.max(step.macs * batch as u64);
            *(if side == 0 { &mut layer.fp32_ns } else { &mut layer.int8_ns }) += time;
        }
    }
    layers.into_values().collect()
}

impl Report {
    fn new(
        model: &Model,
        compiled: &Compiled,
        taken: &Latency,
        rates: &[f64],
        kernels: Kernels,
        protocol: Protocol,
        layers: Option<Vec<Layer>>,
    ) -> Report {
        let plans = [&compiled.fp32, &compiled.candidate];
        let side = |index: usize, samples: &[u64]| Side {
            quartiles: Quartiles::of(samples).unwrap_or(Quartiles { q1: 0.0, median: 0.0, q3: 0.0 }),
            evaluated_per_second: rates[index],
            weight_bytes: plans[index].weight_bytes(),
            activation_bytes: plans[index].activation_bytes(),
            samples_ns: samples.to_vec(),
        };
        let Peak { float, integer } = kernels.peak();
        let rate = |macs: f64| macs * 2.0 * protocol.threads as f64;
        let nodes = 0..model.graph.nodes.len();
        Report {
            model: model.graph.name.clone(),
            macs: nodes.map(|node| model.graph.macs(NodeId(node))).sum::<u64>() * protocol.batch as u64,
            fingerprint: fingerprint(kernels, protocol),
            runs: protocol.runs,
            fp32: side(0, &taken.fp32_ns),
            int8: side(1, &taken.candidate_ns),
            speed_up: taken.speed_up().unwrap_or(f64::NAN),
            peak: PeakRate { fp32: rate(float), int8: rate(integer) },
            packing_ms: compiled.packing_ms,
            switch_ms: compiled.switch_ms,
            layers,
        }
    }

    fn to_text(&self, args: &BenchArgs) -> String {
        let Fingerprint { cpu, kernel, threads, batch, .. } = &self.fingerprint;
        let row = |name: &str, side: &Side, peak: f64| {
            let Quartiles { q1, median, q3 } = side.quartiles;
            let rate = rate(self.macs, median);
            vec![
                name.to_owned(),
                format::milliseconds(median),
                format!("{:.3}..{:.3}", q1 / 1e6, q3 / 1e6),
                format!("{rate:.1}"),
                share(rate * 1e9, peak),
                format!("{:.1}", side.evaluated_per_second),
                format::bytes(side.weight_bytes),
            ]
        };
        let headings = ["", ">median", ">q1..q3 ms", ">GOP/s", ">of peak", ">samples/s, all cores", ">weights"];
        let candidate = if args.qconfig.is_some() { "qconfig" } else { "int8" };
        let rows = [row("fp32", &self.fp32, self.peak.fp32), row(candidate, &self.int8, self.peak.int8)];
        let mut text = format!(
            "{}: {} MACs a run; {kernel} on {cpu}, {}, batch {batch}, {} each, in turn\n\n{}\n{candidate} is {:.2} \
             times as fast as fp32; the peak of {} is {:.0} GOP/s in fp32, {:.0} in int8\n\
             packing all weights took {:.0} ms; a plan that differs in one group takes {:.2} ms\n",
            args.model.display(),
            format::count(self.macs),
            format::plural(*threads, "thread"),
            format::plural(self.runs, "run"),
            format::table(&headings, rows),
            self.speed_up,
            format::plural(*threads, "thread"),
            self.peak.fp32 / 1e9,
            self.peak.int8 / 1e9,
            self.packing_ms,
            self.switch_ms,
        );
        if let Some(layers) = &self.layers {
            text += &format!("\n{}", self.layer_table(layers));
        }
        text
    }

    fn layer_table(&self, layers: &[Layer]) -> String {
        let speed = |macs: u64, ns: f64, peak: f64| match macs {
            0 => [format::NONE.to_owned(), format::NONE.to_owned()],
            _ => [format!("{:.1}", rate(macs, ns)), share(rate(macs, ns) * 1e9, peak)],
        };
        let row = |name: &str, kind: &str, macs: u64, fp32_ns: f64, int8_ns: f64| {
            let [fp32_rate, fp32_share] = speed(macs, fp32_ns, self.peak.fp32);
            let [int8_rate, int8_share] = speed(macs, int8_ns, self.peak.int8);
            let (name, kind, macs) = (name.to_owned(), kind.to_owned(), format::count(macs));
            let (fp32, int8) = (format!("{:.1}", fp32_ns / 1e3), format!("{:.1}", int8_ns / 1e3));
            vec![name, kind, macs, fp32, fp32_rate, fp32_share, int8, int8_rate, int8_share]
        };
        let mut rows: Vec<_> =
            layers.iter().map(|l| row(&l.name, family(l.kind), l.macs, l.fp32_ns, l.int8_ns)).collect();
        let sum = |of: fn(&Layer) -> f64| layers.iter().map(of).sum();
        rows.push(row("all", "", self.macs, sum(|l| l.fp32_ns), sum(|l| l.int8_ns)));
        let headings = ["node", "kind", ">MACs", ">fp32 µs", ">GOP/s", ">of peak", ">int8 µs", ">GOP/s", ">of peak"];
        format::table(&headings, rows)
    }
}

/// 10⁹ operations a second; a multiply-accumulate is two.
fn rate(macs: u64, ns: f64) -> f64 {
    2.0 * macs as f64 / ns.max(1.0)
}

fn share(rate: f64, peak: f64) -> String {
    format!("{:.0} %", rate / peak.max(1.0) * 100.0)
}

/// A kind without its type, which differs between the two plans.
fn family(kind: &str) -> &str {
    kind.trim_end_matches(" f32").trim_end_matches(" u8").trim_end_matches(" u8s8")
}
