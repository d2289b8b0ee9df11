//! `qtuned verify`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use sha2::{Digest, Sha256};

use super::{
    Global,
    deployment::{Deployment, DeploymentArgs, read_model},
    format, print, print_json,
};
use crate::{
    cancel::Cancel,
    dataset::{Dataset, Part},
    engine::{Engine, Plan},
    evaluate::{Gate, Protocol, fingerprint, outputs},
    export::{self, Exported, Target},
    graph::Groups,
    job, output,
    pipeline::{SplitSamples, check_form},
    ptq,
    quant::Rounding,
    search::Key,
    verify::{
        self, Accuracy, Certificate, Comparison, Hashes, LayerComparison, Network, OnnxRuntime, Reread, Tolerance,
    },
};

/// Check that a quantized network behaves where it is deployed as it was measured
///
/// Evaluates the qconfig on the certify split, which no search has seen, and writes certificate.json. With an engine,
/// the exported file runs there on the same samples: outputs, largest outputs, accuracy and latency are compared. Where
/// they differ, the command fails and says at which layer first.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned verify
  qtuned verify mobilenet-v2 --engine onnxruntime --library .venv/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.32.0
  qtuned verify model.onnx best.qconfig.yaml --data job.yaml

The Python package `onnxruntime` has the library in its folder `capi`.")]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    deployment: DeploymentArgs,

    /// A job file whose data is used; that of the job when not given
    #[arg(long, value_name = "JOB.yaml")]
    data: Option<PathBuf>,

    /// The engine that runs the exported file
    #[arg(long, value_enum, value_name = "ENGINE")]
    engine: Option<Peer>,

    /// The library of ONNX Runtime
    #[arg(long, value_name = "FILE", env = "ORT_DYLIB_PATH", default_value = "libonnxruntime.so")]
    library: PathBuf,

    /// Least share of samples for which both engines have the same largest output
    #[arg(long, value_name = "SHARE", default_value_t = 0.995)]
    min_agreement: f64,

    /// Largest difference of the accuracies of both engines
    #[arg(long, value_name = "SHARE", default_value_t = 0.002)]
    max_difference: f64,

    /// The file to write; certificate.json when not given, of a job in the folder of its results, where its report finds it
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Name of the file of external data of the exported model.
const DATA: &str = "model.onnx.data";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    /// ONNX Runtime on the CPU
    Onnxruntime,
}

pub(super) fn run(global: &Global, args: &VerifyArgs) -> Result<()> {
    let deployment = args.deployment.find(global)?.read()?;
    let cancel = Cancel::default();
    let dataset = open_data(args, &deployment, &cancel)?;
    let samples = SplitSamples { dataset: &dataset, model: &deployment.model, part: Part::Certify, order: None };
    let labels: Vec<u32> = dataset.labels(Part::Certify).map(|(_, label)| label).collect();
    let (engine, restored) = deployment.restore()?;
    let latency = deployment.spec.as_ref().map(|spec| spec.measure.latency.clone()).unwrap_or_default();
    let protocol = Protocol { batch: 1, threads: latency.threads, warmup: latency.warmup, runs: latency.runs };
    let accuracy = |plan: &Plan| -> Result<_> {
        let _gate = Gate::compute(&cancel)?;
        let outputs = outputs(plan, &samples, &cancel)?;
        Ok((Accuracy::of(outputs.iter().map(Vec::as_slice), &labels), outputs))
    };
    let (fp32, _) = accuracy(&engine.fp32_plan())?;
    let (int8, ours) = accuracy(&restored.plan)?;
    let folder = Folder::new()?;
    let exported = export::qdq(&deployment.source(), &deployment.qconfig, &restored, Target::OnnxRuntime, DATA)?;
    let files = folder.write(&exported)?;
    let reread = {
        let (bytes, model) = read_model(&files.0, &deployment.reading)?;
        let groups = Arc::new(Groups::of(&model.graph));
        let qconfig = export::imported(&bytes, &model, &groups, &Key(model.digest).to_string())?;
        let engine = Engine::new(Arc::new(model.graph), groups, engine.kernels());
        let plan = match qconfig {
            Some(qconfig) => ptq::restore(&engine, &qconfig).context("the exported file")?.plan,
            None => engine.fp32_plan(),
        };
        Reread::of(&accuracy(&plan)?.1, &ours)
    };
    let comparison = match args.engine {
        None => None,
        Some(Peer::Onnxruntime) => {
            let runtime = OnnxRuntime::load(&args.library)?;
            let network = |path| Network { path, model: &deployment.model, reading: &deployment.reading };
            let (model, probed) = (network(&files.0), network(&files.1));
            let mut comparison = verify::compare(&runtime, model, &samples, &labels, &ours, &cancel)?;
            comparison.layers =
                verify::compare_layers(&runtime, probed, &exported, (&restored, &deployment.groups), &samples)?;
            let (x, _) = crate::evaluate::Samples::load(&samples, 0).map_err(|error| anyhow::anyhow!(error))?;
            [comparison.qtuned_ns, comparison.engine_ns] =
                verify::latency(&runtime, model, &restored.plan, &x, protocol, &cancel)?;
            Some(comparison)
        }
    };
    let mut warnings = Vec::new();
    if !verify::multiplies_exactly() {
        warnings.push("this CPU has no VNNI: engines that multiply bytes by vpmaddubsw may saturate here".to_owned());
    }
    if Rounding::of(&restored.qconfigs).is_openvino() {
        warnings.push("the qconfig rounds as OpenVINO does, to the last bit; ONNX Runtime rounds otherwise".to_owned());
    }
    let mut certificate = Certificate {
        schema: verify::SCHEMA,
        qtuned: env!("CARGO_PKG_VERSION").to_owned(),
        job: deployment.qconfig.job.clone(),
        trial: deployment.qconfig.trial,
        sha256: Hashes {
            model: deployment.qconfig.model_sha256.clone(),
            qconfig: deployment.qconfig_sha256.clone(),
            exported: Key(Sha256::digest(&exported.model).into()).to_string(),
            certify: Key(dataset.digest(Part::Certify, &cancel)?).to_string(),
        },
        fingerprint: fingerprint(engine.kernels(), protocol),
        fp32,
        int8,
        reread,
        engine: comparison,
        problems: Vec::new(),
        warnings,
    };
    certificate.judge(Tolerance { agreement: args.min_agreement, accuracy: args.max_difference });
    let json = serde_json::to_string_pretty(&certificate)?;
    let results = deployment.spec.as_ref().and_then(|spec| spec.output.clone()).filter(|folder| folder.is_dir());
    let path = args.output.clone().unwrap_or_else(|| results.unwrap_or_default().join(verify::FILE));
    output::write(&path, format!("{json}\n").as_bytes())?;
    match global.json {
        true => print_json(&certificate)?,
        false => print(&told(&certificate, &path))?,
    }
    match &certificate.problems[..] {
        [] => Ok(()),
        problems => bail!("the exported network behaves otherwise: {}", problems.join("; ")),
    }
}

/// The data of the job that is named, or else of the job that measured the qconfig.
fn open_data(args: &VerifyArgs, deployment: &Deployment, cancel: &Cancel) -> Result<Dataset> {
    let dataset = match (&args.data, &deployment.spec) {
        (Some(path), _) => {
            let job = job::load(path, &[])?;
            Dataset::open(&job.spec.data, &job.folder, None, cancel)?
        }
        (None, Some(spec)) => Dataset::open(&spec.data, Path::new("/"), None, cancel)?,
        (None, None) => bail!("--data is needed: a model and a qconfig do not say what to evaluate them on"),
    };
    check_form(&deployment.model, dataset.form())?;
    if dataset.len(Part::Certify) == 0 {
        bail!("the data has no certify split: data.split.certify of the job sets samples aside");
    }
    Ok(dataset)
}

/// A folder for the exported file, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        let path = std::env::temp_dir().join(format!("qtuned-verify-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("failed to make {}", path.display()))?;
        Ok(Folder(path))
    }

    /// Writes the exported model, and that with the layers as outputs.
    fn write(&self, exported: &Exported) -> Result<(PathBuf, PathBuf)> {
        let (model, probed) = (self.0.join("model.onnx"), self.0.join("probed.onnx"));
        output::write(&model, &exported.model)?;
        output::write(&probed, &exported.probed()?)?;
        if let Some(data) = &exported.data {
            output::write(&self.0.join(DATA), data)?;
        }
        Ok((model, probed))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the folder for temporary files harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is told in the end.
fn told(certificate: &Certificate, path: &Path) -> String {
    let Accuracy { total, .. } = certificate.int8;
    let mut rows = vec![row("qtuned, fp32", certificate.fp32, None), row("qtuned, qconfig", certificate.int8, None)];
    if let Some(engine) = &certificate.engine {
        rows[1] = row("qtuned, qconfig", certificate.int8, engine.qtuned_ns);
        rows.push(row(&engine.name, engine.accuracy, engine.engine_ns));
    }
    let mut text = format::table(&["", ">top-1", ">median"], rows);
    let Reread { same, .. } = certificate.reread;
    text += &format!("the exported file, read again, gives the same bits on {same} of {total} samples\n");
    if let Some(Comparison { agree, agreement, largest_difference, sqnr_db, layers, .. }) = &certificate.engine {
        let worst = layers.iter().min_by(|a, b| a.equal.total_cmp(&b.equal));
        text += &format!(
            "the same largest output on {agree} of {total} samples ({:.2} %); outputs differ by {largest_difference:.3} at \
             most, SQNR {}\n",
            agreement * 100.0,
            format::decibel(sqnr_db.unwrap_or(f64::INFINITY)),
        );
        if let Some(LayerComparison { group, equal, largest_step }) = worst {
            let share = equal * 100.0;
            text += &format!(
                "of the integers in between, {share:.2} % are the same in the worst layer, {group}, and the largest \
                 difference there is {largest_step}\n"
            );
        }
    }
    for warning in &certificate.warnings {
        text += &format!("warning: {warning}\n");
    }
    text + &format!("{} says so\n", path.display())
}

fn row(name: &str, accuracy: Accuracy, ns: Option<f64>) -> Vec<String> {
    let share = format!("{:.2} %", accuracy.top1 * 100.0);
    vec![name.to_owned(), share, format::or_none(ns, format::milliseconds)]
}
