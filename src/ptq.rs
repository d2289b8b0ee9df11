//! Post-training quantization: prepare, calibrate, convert, as three types, so that a wrong order does not
//! compile. Calibrated once, a network converts to any qconfig without reading data again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rayon::prelude::*;

use crate::{
    cancel::{Cancel, Cancelled},
    engine::{Engine, EngineError, GroupQuantization, Inputs, Plan},
    graph::{Graph, GroupId, Groups, ValueId},
    kernels::Kernels,
    quant::{
        ActivationSpec, Affine, MappingError, Precision, QConfig, QConfigFile, Residual, TensorParameters,
        TensorStatistics, WeightSpec,
    },
};

/// Why a sample could not be had.
pub type SampleError = Box<dyn std::error::Error + Send + Sync>;

/// Gives the network's inputs for a sample, a batch of one.
pub type LoadSample<'a> = dyn Fn(usize) -> Result<Inputs, SampleError> + Sync + 'a;

/// A network whose group inputs and outputs will be observed.
#[derive(Debug)]
pub struct Prepared {
    engine: Arc<Engine>,
    observed: Vec<bool>,
    /// Values that a layer with a weight reads: their means are kept by channel.
    read_by_weights: Vec<bool>,
}

/// A network whose tensors have been observed.
#[derive(Debug)]
pub struct Calibrated {
    engine: Arc<Engine>,
    statistics: Vec<Option<TensorStatistics>>,
    /// Means by channel, of values that a layer with a weight reads.
    means: Vec<Option<Vec<f64>>>,
    /// Affine parameters by value and spec: the histogram search is worth doing once.
    grids: Mutex<HashMap<(ValueId, ActivationSpec), Affine>>,
    /// Corrected biases by group, spec and scale of the input.
    biases: Mutex<HashMap<BiasKey, Option<Arc<[f32]>>>>,
}

/// What a corrected bias follows from, besides the statistics.
type BiasKey = (GroupId, WeightSpec, u32);

/// A network in one qconfig, ready to run.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The plan.
    pub plan: Plan,
    /// The qconfig of each group; `None` in fp32.
    pub qconfigs: Vec<Option<QConfig>>,
    /// How each group runs; `None` in fp32.
    pub quantization: Vec<Option<GroupQuantization>>,
}

/// What keeps a network from being calibrated.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// A sample could not be read.
    #[error("reading a calibration sample failed")]
    Sample(#[source] SampleError),
    /// The network could not be run.
    #[error("running the fp32 network failed")]
    Engine(#[from] EngineError),
    /// A value is NaN or infinite, or there is none.
    #[error("value `{0}` is not finite in fp32: the network cannot be quantized")]
    NotFinite(String),
    /// There was nothing to observe.
    #[error("calibration needs at least one sample")]
    NoSamples,
    /// The work was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What keeps a written qconfig from being used.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Its mapping does not fit the network.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// It lists other groups than the network has.
    #[error("group {place} is `{got}` where the model has `{expected}`")]
    Group {
        /// Counted from 1.
        place: usize,
        /// In the file.
        got: String,
        /// In the network.
        expected: String,
    },
    /// A group's parameters contradict themselves or the network.
    #[error("group `{group}`: {problem}")]
    Parameters {
        /// Its id.
        group: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// The network as a written qconfig says, without calibration.
///
/// # Errors
/// A file that does not fit the network.
pub fn restore(engine: &Engine, file: &QConfigFile) -> Result<Converted, RestoreError> {
    let groups = engine.groups();
    let mut qconfigs = file.mapping.resolve(groups)?;
    let name = |id: Option<&String>| id.map_or("nothing", |id| id).to_owned();
    let ids = |place: usize| (groups.all().get(place).map(|g| &g.id), file.groups.get(place).map(|g| &g.id));
    if let Some(place) = (0..groups.len().max(file.groups.len())).find(|&place| ids(place).0 != ids(place).1) {
        let (expected, got) = ids(place);
        return Err(RestoreError::Group { place: place + 1, got: name(got), expected: name(expected) });
    }
    let mut quantization = Vec::with_capacity(groups.len());
    for ((group, written), qconfig) in groups.all().iter().zip(&file.groups).zip(&mut qconfigs) {
        let wrong = |problem| RestoreError::Parameters { group: group.id.clone(), problem };
        if written.precision == Precision::Fp32 {
            *qconfig = None;
            quantization.push(None);
            continue;
        }
        let qconfig = qconfig.ok_or_else(|| wrong("it is in int8, but the mapping leaves it in fp32"))?;
        let no_grid = || wrong("a scale, zero point or range is not one of its dtype");
        let grid = |given: &Option<TensorParameters>| match given {
            Some(parameters) => parameters.grid(qconfig.activation.rounding).map(Some).ok_or_else(no_grid),
            None => Ok(None),
        };
        let inputs = written.inputs.iter().map(grid).collect::<Result<Vec<_>, _>>()?;
        let output = grid(&written.output)?;
        if inputs.len() != group.inputs.len() {
            return Err(wrong("it has another number of inputs"));
        }
        let channels = engine.quantized_channels(group);
        let scales = match (&written.weight, channels) {
            (Some(weight), Some(channels)) => {
                if weight.scales.len() != 1 && weight.scales.len() != channels {
                    return Err(wrong("it has another number of scales than its weight has output channels"));
                }
                if !weight.scales.iter().all(|scale| scale.is_normal() && *scale > 0.0) {
                    return Err(wrong("a scale of its weight is not above 0"));
                }
                Some(weight.scales.clone().into())
            }
            _ => None,
        };
        let bias = written.weight.as_ref().map(|w| &w.bias[..]).filter(|bias| !bias.is_empty());
        if bias.is_some_and(|bias| Some(bias.len()) != channels || bias.iter().any(|b| !b.is_finite())) {
            return Err(wrong("its bias is not one finite number an output channel"));
        }
        let bias = bias.map(Arc::from);
        quantization.push(Some(GroupQuantization { inputs, output, weight: qconfig.weight, scales, bias }));
    }
    check_residuals(groups, &qconfigs, &quantization)?;
    Ok(Converted { plan: engine.plan(&quantization), qconfigs, quantization })
}

/// What has no grid is what an addition takes as it is, and its qconfig says so.
fn check_residuals(
    groups: &Groups,
    qconfigs: &[Option<QConfig>],
    quantization: &[Option<GroupQuantization>],
) -> Result<(), RestoreError> {
    let mut taken = vec![false; groups.len()];
    let of = |id: GroupId| quantization[id.0].as_ref();
    let wrong = |id: GroupId, problem| RestoreError::Parameters { group: groups.get(id).id.clone(), problem };
    for id in groups.ids() {
        let Some(q) = of(id) else { continue };
        let layers = fusable(groups, id, qconfigs, &|layer| of(layer).is_some());
        let without = q.inputs.iter().enumerate().filter(|(_, grid)| grid.is_none()).map(|(at, _)| at);
        match (&without.collect::<Vec<_>>()[..], &layers[..]) {
            ([], []) => {}
            ([], _) => return Err(wrong(id, "its `residual` is `fused`, but each of its inputs has a grid")),
            (&[operand], layers) => match layers.iter().find(|(at, _)| *at == operand) {
                Some((_, layer)) => taken[layer.0] = true,
                None => return Err(wrong(id, "an input without a grid is no sum that it takes by `residual: fused`")),
            },
            _ => return Err(wrong(id, "more than one of its inputs has no grid")),
        }
    }
    for id in groups.ids() {
        match of(id).map(|q| q.output.is_none()) {
            Some(true) if !taken[id.0] => return Err(wrong(id, "it has no grid of its output")),
            Some(false) if taken[id.0] => {
                return Err(wrong(id, "its output has a grid, though an addition takes its sum by `residual: fused`"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The layers whose sum an addition may take without rounding, and for which operand: those that alone feed it, where both
/// are in int8 and its qconfig says [`Residual::Fused`].
fn fusable(
    groups: &Groups,
    addition: GroupId,
    qconfigs: &[Option<QConfig>],
    int8: &dyn Fn(GroupId) -> bool,
) -> Vec<(usize, GroupId)> {
    let fused = qconfigs[addition.0].is_some_and(|qconfig| qconfig.residual == Residual::Fused);
    let operands = groups.get(addition).fed_by.into_iter().enumerate();
    operands.filter_map(|(at, layer)| Some((at, layer.filter(|&layer| fused && int8(layer))?))).collect()
}

/// Forms the groups of a graph and marks what is to be observed.
pub fn prepare(graph: Graph, kernels: Kernels) -> Prepared {
    let groups = Groups::of(&graph);
    let mut observed = vec![false; graph.values.len()];
    let mut read_by_weights = observed.clone();
    for group in groups.all() {
        group.inputs.iter().chain([&group.output]).for_each(|v| observed[v.0] = true);
        if group.parameters > 0 {
            group.inputs.iter().for_each(|v| read_by_weights[v.0] = true);
        }
    }
    let engine = Arc::new(Engine::new(Arc::new(graph), Arc::new(groups), kernels));
    Prepared { engine, observed, read_by_weights }
}

impl Prepared {
    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Runs `samples` samples in fp32 and keeps the statistics of every observed tensor. Samples run in parallel
    /// on the current rayon pool. Statistics merge exactly and means are summed in the order of samples, so threads change
    /// nothing; memory does not grow with their number. `progress` hears how many are done.
    ///
    /// # Errors
    /// A sample that cannot be read or run, or a value that is not finite.
    pub fn calibrate(
        self,
        samples: usize,
        load: &LoadSample<'_>,
        cancel: &Cancel,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Calibrated, CalibrationError> {
        let plan = self.engine.fp32_plan();
        let mut total: Vec<Option<TensorStatistics>> = vec![None; self.observed.len()];
        let mut means: Vec<Option<Vec<f64>>> = vec![None; self.observed.len()];
        let at_once = rayon::current_num_threads().max(1);
        for first in (0..samples).step_by(at_once) {
            cancel.check()?;
            let several: Vec<_> = (first..samples.min(first + at_once))
                .into_par_iter()
                .map(|sample| self.observe(&plan, &load(sample).map_err(CalibrationError::Sample)?))
                .collect::<Result<_, _>>()?;
            progress((first + several.len()) as u64);
            for Observation { value, statistics, means: by_channel } in several.into_iter().flatten() {
                match &mut total[value.0] {
                    Some(sum) => sum.merge(&statistics),
                    empty => *empty = Some(statistics),
                }
                match (&mut means[value.0], by_channel) {
                    (Some(sum), Some(more)) => sum.iter_mut().zip(more).for_each(|(sum, mean)| *sum += mean),
                    (sum, more) => *sum = sum.take().or(more),
                }
            }
        }
        if samples == 0 {
            return Err(CalibrationError::NoSamples);
        }
        means.iter_mut().flatten().flatten().for_each(|sum| *sum /= samples as f64);
        let (grids, biases) = (Mutex::default(), Mutex::default());
        Ok(Calibrated { engine: self.engine, statistics: total, means, grids, biases })
    }

    fn observe(&self, plan: &Plan, x: &Inputs) -> Result<Vec<Observation>, CalibrationError> {
        let mut seen = Vec::new();
        let mut broken = None;
        plan.run_seen(x, false, &mut |s| {
            if self.observed[s.value.0] && broken.is_none() {
                let (value, x) = (s.value, s.to_floats()?);
                let means = self.read_by_weights[value.0].then(|| means(&x, self.channels(value)));
                match TensorStatistics::of(&x) {
                    Some(statistics) => seen.push(Observation { value, statistics, means }),
                    None => broken = Some(value),
                }
            }
            Ok(())
        })?;
        match broken {
            Some(value) => Err(CalibrationError::NotFinite(self.engine.graph().value(value).name.clone())),
            None => Ok(seen),
        }
    }
}

impl Prepared {
    /// Channels of a value: the last dimension of how it is stored.
    fn channels(&self, value: ValueId) -> usize {
        match self.engine.graph().value(value).shape[..] {
            [channels, _, _] => channels,
            ref shape => shape.last().copied().unwrap_or(1),
        }
    }
}

/// What one sample says of one value.
struct Observation {
    value: ValueId,
    statistics: TensorStatistics,
    means: Option<Vec<f64>>,
}

/// The mean of each channel of a value, channels last.
fn means(x: &[f32], channels: usize) -> Vec<f64> {
    let mut sums = vec![0.0; channels];
    for pixel in x.chunks_exact(channels.max(1)) {
        sums.iter_mut().zip(pixel).for_each(|(sum, &v)| *sum += f64::from(v));
    }
    let pixels = (x.len() / channels.max(1)).max(1) as f64;
    sums.iter_mut().for_each(|sum| *sum /= pixels);
    sums
}

impl Calibrated {
    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Smallest and largest element observed in a value.
    pub fn range(&self, value: ValueId) -> Option<(f32, f32)> {
        self.statistics[value.0].as_ref().map(|s| (s.min, s.max))
    }

    /// The network with each group as its qconfig says; `None` runs in fp32.
    ///
    /// A group's input keeps the grid of the int8 group that writes it, also through operators that only carry
    /// values; an input that comes from fp32 is quantized as the reading group's qconfig says. A layer whose sum an
    /// addition takes as it is ([`Residual::Fused`]) has no grid of its output.
    ///
    /// # Panics
    /// When there is not one qconfig a group.
    pub fn convert(&self, qconfigs: &[Option<QConfig>]) -> Converted {
        let quantization = self.quantization(qconfigs);
        Converted { plan: self.engine.plan(&quantization), qconfigs: qconfigs.to_vec(), quantization }
    }

    /// How each group runs with these qconfigs, as [`Calibrated::convert`] has it.
    ///
    /// # Panics
    /// When there is not one qconfig a group.
    pub fn quantization(&self, qconfigs: &[Option<QConfig>]) -> Vec<Option<GroupQuantization>> {
        let (graph, groups) = (self.engine.graph(), self.engine.groups());
        assert_eq!(qconfigs.len(), groups.len());
        // The grid on which a value arrives, where an int8 group wrote it.
        let mut written: Vec<Option<Affine>> = vec![None; graph.values.len()];
        let mut quantization: Vec<Option<GroupQuantization>> = vec![None; groups.len()];
        // Operands of additions, and layers, that are not rounded.
        let mut operands: Vec<Option<usize>> = vec![None; groups.len()];
        let mut sums = vec![false; groups.len()];
        for id in groups.ids().filter(|id| qconfigs[id.0].is_some()) {
            let layers = fusable(groups, id, qconfigs, &|layer| qconfigs[layer.0].is_some());
            if let Some((operand, layer)) = layers.into_iter().max_by_key(|(_, layer)| *layer) {
                operands[id.0] = Some(operand);
                sums[layer.0] = true;
            }
        }
        for (index, node) in graph.nodes.iter().enumerate() {
            match groups.of_node(crate::graph::NodeId(index)) {
                Some(id) if groups.get(id).anchor.0 == index => {
                    let Some(qconfig) = &qconfigs[id.0] else { continue };
                    let group = groups.get(id);
                    let grid = |(operand, value): (usize, &ValueId)| {
                        let sum = operands[id.0] == Some(operand);
                        (!sum).then(|| written[value.0].unwrap_or_else(|| self.grid(*value, &qconfig.activation)))
                    };
                    let inputs: Vec<Option<Affine>> = group.inputs.iter().enumerate().map(grid).collect();
                    let bias = self.corrected_bias(id, &qconfig.weight, inputs.first().and_then(Option::as_ref));
                    let output = (!sums[id.0]).then(|| self.grid(group.output, &qconfig.activation));
                    written[group.output.0] = output;
                    let weight = qconfig.weight;
                    quantization[id.0] = Some(GroupQuantization { inputs, output, weight, scales: None, bias });
                }
                None if node.op.carries() => written[node.output.0] = written[node.inputs[0].0],
                _ => {}
            }
        }
        quantization
    }

    fn corrected_bias(&self, id: GroupId, spec: &WeightSpec, input: Option<&Affine>) -> Option<Arc<[f32]>> {
        let group = self.engine.groups().get(id);
        let (scale, means) = (input?.scale, self.means[group.inputs.first()?.0].as_ref()?);
        if !spec.bias_correction {
            return None;
        }
        let mut biases = self.biases.lock().unwrap_or_else(PoisonError::into_inner);
        let correct = || self.engine.corrected_bias(id, spec, scale, means).map(Arc::from);
        biases.entry((id, *spec, scale.to_bits())).or_insert_with(correct).clone()
    }

    fn grid(&self, value: ValueId, spec: &ActivationSpec) -> Affine {
        let mut grids = self.grids.lock().unwrap_or_else(PoisonError::into_inner);
        *grids.entry((value, *spec)).or_insert_with(|| {
            let statistics = self.statistics[value.0].as_ref().expect("inputs and outputs of groups are observed");
            statistics.affine(spec)
        })
    }
}
