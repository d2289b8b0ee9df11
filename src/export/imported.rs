//! The qconfig of a file that is quantized already: [`super::qdq`] backwards.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::{ExportError, ROUNDING, rewrite::computed};
use crate::{
    graph::{Graph, Group, Groups, Op},
    onnx::{
        Model,
        proto::{GraphProto, ModelProto, NodeProto, TensorProto, data_type},
    },
    quant::{
        ActivationDtype, ActivationScheme, ActivationSpec, Affine, GroupParameters, ObserverKind, Preset, QConfig,
        QConfigFile, QConfigMapping, Residual, Rounding, TensorParameters, WeightDtype, WeightScheme, WeightSpec,
    },
};

/// Operators that give what they read.
const NOTHING: [&str; 2] = ["Identity", "Dropout"];

/// The qconfig that a file of QuantizeLinear and DequantizeLinear is in; `None` when it quantizes nothing. Which
/// observer found its grids is not in a file.
///
/// A group is in int8 when all that it reads and its weight come from a DequantizeLinear, and all who read it do so
/// behind one QuantizeLinear. An addition may also read a layer as it is, where that alone keeps either from being in int8:
/// its residual is fused. `digest` is that of the file, in hexadecimal.
///
/// # Errors
/// Bytes that the model was not imported from, or a scale or zero point that is no constant.
pub fn imported(
    bytes: &[u8],
    model: &Model,
    groups: &Groups,
    digest: &str,
) -> Result<Option<QConfigFile>, ExportError> {
    let ModelProto { graph, metadata_props, .. } = ModelProto::decode(bytes).map_err(|_| ExportError::Source)?;
    let proto = graph.ok_or(ExportError::Source)?;
    if !proto.node.iter().any(|node| node.op_type == "DequantizeLinear") {
        return Ok(None);
    }
    let rounding = metadata_props.iter().find(|entry| entry.key == ROUNDING).map(|entry| rounding(&entry.value));
    let rounding = rounding.transpose()?.unwrap_or_default();
    let reader = Reader::new(&proto, &model.graph);
    let mut mapping = QConfigMapping { global: None, ..QConfigMapping::preset(Preset::default()) };
    let mut parameters = Vec::with_capacity(groups.len());
    let mut all: Vec<Option<Grids>> =
        groups.all().iter().map(|group| reader.group(model, group)).collect::<Result<_, _>>()?;
    let mut taken = vec![false; groups.len()];
    for (at, group) in groups.all().iter().enumerate() {
        let Some(Grids { inputs, output, .. }) = &all[at] else { continue };
        let Some(operand) = inputs.iter().position(Option::is_none) else { continue };
        let layer = group.fed_by.get(operand).copied().flatten().filter(|layer| {
            let others = inputs.iter().flatten().count() + 1 == inputs.len();
            others && output.is_some() && all[layer.0].as_ref().is_some_and(|layer| layer.output.is_none())
        });
        match layer {
            Some(layer) => taken[layer.0] = true,
            None => all[at] = None,
        }
    }
    for ((group, grids), taken) in groups.all().iter().zip(all).zip(taken) {
        let found = grids.filter(|grids| grids.output.is_some() || taken);
        let found = found.map(|grids| grids.qconfig(group, rounding)).transpose()?;
        mapping.module_name.push((group.id.clone(), found.as_ref().map(|(qconfig, _)| *qconfig)));
        parameters.push(found.map_or_else(|| GroupParameters::fp32(&group.id), |(_, parameters)| parameters));
    }
    Ok(Some(QConfigFile {
        job: model.graph.name.clone(),
        model_sha256: digest.to_owned(),
        trial: 0,
        score: f64::NAN,
        mapping,
        groups: parameters,
    }))
}

/// A rounding by its name.
fn rounding(name: &str) -> Result<Rounding, ExportError> {
    let known = Rounding::ALL.into_iter().find(|rounding| rounding.name() == name);
    known.ok_or_else(|| {
        let names = Rounding::ALL.map(Rounding::name).join("`, `");
        ExportError::Model(format!("metadata `{ROUNDING}` is `{name}`, expected one of `{names}`"))
    })
}

/// What a file says of a group.
struct Grids {
    /// `None` for what is read in f32.
    inputs: Vec<Option<TensorParameters>>,
    /// `None` where somebody reads it in f32.
    output: Option<TensorParameters>,
    /// Of its weight.
    scales: Option<Vec<f32>>,
}

impl Grids {
    /// The qconfig that gives these grids, and the grids.
    fn qconfig(&self, group: &Group, rounding: Rounding) -> Result<(QConfig, GroupParameters), ExportError> {
        let Grids { inputs, output, scales } = self;
        // Every group in int8 reads or writes integers.
        let first = output.iter().chain(inputs.iter().flatten()).next().ok_or(ExportError::Source)?;
        let narrow = |p: &TensorParameters| (p.quant_min, p.quant_max) != p.dtype.limits();
        let symmetric =
            first.dtype == ActivationDtype::Qint8 && inputs.iter().chain([output]).flatten().all(|p| p.zero_point == 0);
        let qscheme = match scales.as_deref() {
            Some([_]) => WeightScheme::PerTensorSymmetric,
            _ => WeightScheme::PerChannelSymmetric,
        };
        let qconfig = QConfig {
            activation: ActivationSpec {
                dtype: first.dtype,
                qscheme: match symmetric {
                    true => ActivationScheme::PerTensorSymmetric,
                    false => ActivationScheme::PerTensorAffine,
                },
                observer: ObserverKind::Histogram,
                percentile: None,
                reduce_range: false,
                quant_min: narrow(first).then_some(first.quant_min),
                quant_max: narrow(first).then_some(first.quant_max),
                rounding,
            },
            weight: WeightSpec {
                dtype: WeightDtype::Qint8,
                qscheme,
                quant_min: None,
                quant_max: None,
                bias_correction: false,
            },
            residual: match inputs.iter().all(Option::is_some) {
                true => Residual::Rounded,
                false => Residual::Fused,
            },
        };
        let affine = |p: &TensorParameters| {
            p.grid(rounding)
                .ok_or_else(|| ExportError::Model(format!("group `{}`: a grid is none of its type", group.id)))
        };
        let inputs: Vec<Option<Affine>> =
            inputs.iter().map(|p| p.as_ref().map(affine).transpose()).collect::<Result<_, _>>()?;
        let output = output.as_ref().map(affine).transpose()?;
        let parameters = GroupParameters::int8(&group.id, &qconfig, &inputs, output.as_ref(), scales.as_deref(), None);
        Ok((qconfig, parameters))
    }
}

/// A quantized file.
struct Reader<'a> {
    file: &'a GraphProto,
    constants: HashMap<&'a str, &'a TensorProto>,
    producers: HashMap<&'a str, &'a NodeProto>,
    readers: HashMap<&'a str, Vec<&'a NodeProto>>,
    computed: HashSet<String>,
}

/// The grid of a tensor in a file, in numbers of its type.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Grid {
    parameters: TensorParameters,
    /// Whether there is one scale, rather than one a channel.
    single: bool,
}

impl<'a> Reader<'a> {
    fn new(file: &'a GraphProto, graph: &Graph) -> Reader<'a> {
        let outputs = file.node.iter().flat_map(|node| node.output.iter().map(move |name| (name.as_str(), node)));
        let mut readers: HashMap<&str, Vec<&NodeProto>> = HashMap::new();
        for node in &file.node {
            node.input.iter().for_each(|name| readers.entry(name).or_default().push(node));
        }
        Reader {
            file,
            constants: file.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect(),
            producers: outputs.collect(),
            readers,
            computed: computed(file, graph),
        }
    }

    /// On which grids a group reads and writes; `None` when it is surely in fp32.
    fn group(&self, model: &Model, group: &Group) -> Result<Option<Grids>, ExportError> {
        let file_node = |at: &usize| self.file.node.get(*at).ok_or(ExportError::Source);
        let origin = model.origins.get(group.anchor.0).ok_or(ExportError::Source)?;
        let main = file_node(origin.first().ok_or(ExportError::Source)?)?;
        let last = match group.activation {
            Some(activation) => model.origins.get(activation.0).and_then(|origin| origin.first()),
            None => origin.last(),
        };
        let last = file_node(last.ok_or(ExportError::Source)?)?;
        let mut inputs = Vec::new();
        for name in main.input.iter().filter(|name| self.computed.contains(*name)) {
            match self.read(name)? {
                Some(Grid { parameters, single: true }) => inputs.push(Some(parameters)),
                None if group.fed_by.get(inputs.len()).is_some_and(Option::is_some) => inputs.push(None),
                _ => return Ok(None),
            }
        }
        let output = self.written(last.output.first().map_or("", String::as_str))?;
        if inputs.len() != group.inputs.len() {
            return Ok(None);
        }
        let has_weight = matches!(model.graph.node(group.anchor).op, Op::Conv(_) | Op::Linear(_));
        let scales = match main.op_type.as_str() {
            // In f32 between its pairs, as there is no form of it in integers.
            "BatchNormalization" => None,
            _ if has_weight => match self.weight_scales(main.input.get(1).map_or("", String::as_str))? {
                Some(scales) => Some(scales),
                None => return Ok(None),
            },
            _ => None,
        };
        Ok(Some(Grids { inputs, output, scales }))
    }

    /// Scales of a weight that comes from a DequantizeLinear.
    fn weight_scales(&self, name: &str) -> Result<Option<Vec<f32>>, ExportError> {
        let Some(node) = self.producer(name).filter(|node| node.op_type == "DequantizeLinear") else { return Ok(None) };
        Ok(Some(self.scales(node)?))
    }

    /// The grid on which a value arrives at a reader; `None` when it does in f32.
    fn read(&self, name: &str) -> Result<Option<Grid>, ExportError> {
        let Some(node) = self.producer(name).filter(|node| node.op_type == "DequantizeLinear") else { return Ok(None) };
        let Some(mut before) = node.input.first().and_then(|name| self.producer(name)) else { return Ok(None) };
        let mut clip = None;
        if before.op_type == "Clip" {
            clip = Some(before);
            let Some(quantize) = before.input.first().and_then(|name| self.producer(name)) else { return Ok(None) };
            before = quantize;
        }
        if before.op_type != "QuantizeLinear" {
            return Ok(None);
        }
        self.grid(node, clip).map(Some)
    }

    /// The grid of the one QuantizeLinear that all read a value through; `None` when somebody reads it in f32.
    fn written(&self, name: &str) -> Result<Option<TensorParameters>, ExportError> {
        let mut found: Option<TensorParameters> = None;
        let mut open = vec![name];
        let mut seen = HashSet::new();
        while let Some(name) = open.pop() {
            if !seen.insert(name) {
                continue;
            }
            if self.file.output.iter().any(|output| output.name == name) {
                return Ok(None);
            }
            for node in self.readers.get(name).into_iter().flatten() {
                let output = node.output.first().map_or("", String::as_str);
                if NOTHING.contains(&node.op_type.as_str()) {
                    open.push(output);
                    continue;
                }
                if node.op_type != "QuantizeLinear" {
                    return Ok(None);
                }
                let clip = self.readers.get(output).and_then(|readers| readers.first().copied());
                let grid = self.grid(node, clip.filter(|node| node.op_type == "Clip"))?.parameters;
                if found.replace(grid).is_some_and(|before| before != grid) {
                    return Ok(None);
                }
            }
        }
        Ok(found)
    }

    /// The grid of a QuantizeLinear or DequantizeLinear, with the Clip of its integers.
    fn grid(&self, node: &NodeProto, clip: Option<&NodeProto>) -> Result<Grid, ExportError> {
        let scales = self.scales(node)?;
        let (dtype, zeros) = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => self.integers(node, name)?,
            None => (ActivationDtype::Quint8, vec![0]),
        };
        let (Some(&scale), Some(&zero_point)) = (scales.first(), zeros.first()) else {
            return Err(self.refuse(node, "has no scale or zero point"));
        };
        if scales.iter().any(|s| *s != scale) || zeros.iter().any(|z| *z != zero_point) {
            return Err(self.refuse(node, "has different scales for channels of a value, which is not supported"));
        }
        let (mut quant_min, mut quant_max) = dtype.limits();
        if let Some(clip) = clip {
            for (at, bound) in [(1, &mut quant_min), (2, &mut quant_max)] {
                if let Some(name) = clip.input.get(at).filter(|name| !name.is_empty())
                    && let Some(&number) = self.integers(clip, name)?.1.first()
                {
                    *bound = number;
                }
            }
        }
        let parameters = TensorParameters { scale, zero_point, dtype, quant_min, quant_max };
        Ok(Grid { parameters, single: scales.len() == 1 })
    }

    /// The node that writes a value, behind those that do nothing.
    fn producer(&self, name: &str) -> Option<&'a NodeProto> {
        let mut node = *self.producers.get(name)?;
        // A graph that was imported has no cycles.
        while NOTHING.contains(&node.op_type.as_str()) {
            node = self.producers.get(node.input.first()?.as_str())?;
        }
        Some(node)
    }

    /// The scales of a node: a constant, or what a DequantizeLinear gives of constants.
    fn scales(&self, node: &NodeProto) -> Result<Vec<f32>, ExportError> {
        let producer = node.input.get(1).and_then(|name| self.producers.get(name.as_str()));
        let Some(scaled) = producer.filter(|node| node.op_type == "DequantizeLinear") else {
            return self.floats(node, 1);
        };
        let of = |name: &String| Ok(self.integers(scaled, name)?.1);
        let numbers = scaled.input.first().map_or(Ok(Vec::new()), of)?;
        let zeros = scaled.input.get(2).map_or(Ok(Vec::new()), of)?;
        match (&self.floats(scaled, 1)?[..], &zeros[..]) {
            (&[scale], [] | [_]) => {
                let zero = zeros.first().copied().unwrap_or(0);
                Ok(numbers.iter().map(|q| q.wrapping_sub(zero) as f32 * scale).collect())
            }
            _ => Err(self.refuse(scaled, "gives a scale and has several itself, which is not supported")),
        }
    }

    fn floats(&self, node: &NodeProto, at: usize) -> Result<Vec<f32>, ExportError> {
        let tensor = node.input.get(at).and_then(|name| self.constants.get(name.as_str()));
        let tensor = tensor.filter(|tensor| tensor.data_type == data_type::FLOAT && tensor.data_location == 0);
        let tensor = tensor.ok_or_else(|| self.refuse(node, "has a scale that is no constant of 32-bit floats"))?;
        Ok(match tensor.raw_data.is_empty() {
            true => tensor.float_data.clone(),
            false => tensor.raw_data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        })
    }

    /// The numbers of a constant of bytes.
    fn integers(&self, node: &NodeProto, name: &str) -> Result<(ActivationDtype, Vec<i32>), ExportError> {
        let tensor = self.constants.get(name).filter(|tensor| tensor.data_location == 0);
        let dtype = match tensor.map(|tensor| tensor.data_type) {
            Some(data_type::UINT8) => ActivationDtype::Quint8,
            Some(data_type::INT8) => ActivationDtype::Qint8,
            _ => {
                return Err(
                    self.refuse(node, "has a zero point, bound or quantized scale that is no constant of bytes")
                );
            }
        };
        let Some(tensor) = tensor else { return Err(ExportError::Source) };
        let number = |byte: &u8| match dtype {
            ActivationDtype::Quint8 => i32::from(*byte),
            ActivationDtype::Qint8 => i32::from(*byte as i8),
        };
        Ok((
            dtype,
            match tensor.raw_data.is_empty() {
                true => tensor.int32_data.clone(),
                false => tensor.raw_data.iter().map(number).collect(),
            },
        ))
    }

    fn refuse(&self, node: &NodeProto, reason: &str) -> ExportError {
        ExportError::Node { node: node.name.clone(), op_type: node.op_type.clone(), reason: reason.to_owned() }
    }
}
