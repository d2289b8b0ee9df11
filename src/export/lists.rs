//! The qconfig in the words of other quantizers, with the names of the original file.
//!
//! Each list is JSON. `python/qtuned_lists.py` makes the tools' objects of it.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{ExportError, Source};
use crate::{
    graph::{Group, GroupId, NodeId, Op, module_path},
    onnx::proto::{GraphProto, ModelProto},
    ptq::Converted,
    quant::{
        ActivationDtype, ActivationScheme, Affine, ObserverKind, QConfig, QConfigFile, TensorParameters, WeightScheme,
    },
};
use prost::Message;

/// A tool that quantizes by itself, as this qconfig says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// PyTorch's FX graph mode: `QConfigMapping`.
    Torch,
    /// NNCF: `IgnoredScope`.
    Nncf,
    /// ONNX Runtime's `quantize_static`: `nodes_to_exclude` and `TensorQuantOverrides`.
    OnnxRuntime,
    /// Neural Compressor: `op_name_dict`.
    NeuralCompressor,
}

/// The qconfig for a tool. Every name in it is one of the original file.
///
/// # Errors
/// A group that has no name which the tool could know it by.
pub fn list(source: &Source<'_>, file: &QConfigFile, restored: &Converted, tool: Tool) -> Result<Value, ExportError> {
    let proto = ModelProto::decode(source.bytes).map_err(|_| ExportError::Source)?.graph.ok_or(ExportError::Source)?;
    // A file that was restored has a mapping that fits.
    let qconfigs = file.mapping.resolve(source.groups).map_err(|error| ExportError::Model(error.to_string()))?;
    let quantized = |(qconfig, q): (Option<QConfig>, &Option<_>)| qconfig.filter(|_| q.is_some());
    let qconfigs = qconfigs.into_iter().zip(&restored.quantization).map(quantized).collect();
    let mut names: HashMap<String, usize> = HashMap::new();
    proto.node.iter().for_each(|node| *names.entry(node.name.clone()).or_default() += 1);
    let lists = Lists { source, names, proto, qconfigs, restored };
    // NNCF, which has no list of grids, puts none between a convolution and an addition by itself.
    let unrounded =
        lists.groups().find(|(id, ..)| restored.quantization[id.0].as_ref().is_some_and(|q| q.output.is_none()));
    match (unrounded, tool) {
        (_, Tool::Nncf) | (None, _) => {}
        (Some((_, group, _)), _) => {
            let reason = "is added to without being rounded (`residual: fused`), for which this tool has no word";
            return Err(lists.refuse(group.anchor, reason));
        }
    }
    match tool {
        Tool::Torch => lists.torch(),
        Tool::Nncf => lists.nncf(),
        Tool::OnnxRuntime => lists.onnx_runtime(),
        Tool::NeuralCompressor => lists.neural_compressor(),
    }
}

struct Lists<'a> {
    source: &'a Source<'a>,
    /// How many nodes of the file have a name.
    names: HashMap<String, usize>,
    proto: GraphProto,
    /// `None` for groups in fp32.
    qconfigs: Vec<Option<QConfig>>,
    restored: &'a Converted,
}

impl Lists<'_> {
    fn groups(&self) -> impl Iterator<Item = (GroupId, &Group, Option<&QConfig>)> {
        self.source.groups.ids().map(|id| (id, self.source.groups.get(id), self.qconfigs[id.0].as_ref()))
    }

    fn refuse(&self, node: NodeId, reason: &str) -> ExportError {
        let node = self.source.model.graph.node(node);
        ExportError::Node { node: node.name.clone(), op_type: node.op_type.clone(), reason: reason.to_owned() }
    }

    /// The name of a node of the graph in the file, which must tell it from all others.
    fn name(&self, node: NodeId) -> Result<String, ExportError> {
        let origin = self.source.model.origins.get(node.0).and_then(|origin| origin.first());
        let name = origin.and_then(|&at| self.proto.node.get(at)).map(|node| node.name.as_str()).unwrap_or_default();
        match self.names.get(name).copied().unwrap_or(0) {
            _ if name.is_empty() => Err(self.refuse(node, "has no name in the file by which a list could name it")),
            1 => Ok(name.to_owned()),
            _ => Err(self.refuse(node, "has a name in the file that other nodes have too")),
        }
    }

    /// PyTorch's mapping, with the keys of `QConfigMapping.to_dict`. Layers are modules; what may be a function call is
    /// known by the module that it is called in and how many of its kind come before it there.
    fn torch(&self) -> Result<Value, ExportError> {
        let graph = &self.source.model.graph;
        let (mut modules, mut calls) = (Vec::new(), Vec::new());
        let mut seen: HashMap<(String, &str), usize> = HashMap::new();
        for (_, group, qconfig) in self.groups() {
            let node = graph.node(group.anchor);
            let qconfig = json!(qconfig);
            let weight = match &node.op {
                Op::Conv(conv) => Some(&conv.weight_name),
                Op::Linear(linear) => Some(&linear.weight_name),
                _ => None,
            };
            if let Some(weight) = weight {
                let module = module_path(weight, &node.name).ok_or_else(|| {
                    self.refuse(group.anchor, "has no PyTorch module in its name or its weight's name")
                })?;
                modules.push(json!([module, qconfig]));
            } else {
                let scope = scope(&node.name)
                    .ok_or_else(|| self.refuse(group.anchor, "has no PyTorch module in its name to be called in"))?;
                let index = seen.entry((scope.clone(), group.object_type.as_str())).or_default();
                for function in functions(&group.object_type) {
                    calls.push(json!([scope, function, *index, qconfig]));
                }
                *index += 1;
                // A pool may be a module too; then that is its scope. A scope with groups of its own is none.
                let above = |id: &str| id.strip_prefix(&scope).is_some_and(|rest| rest.starts_with('.'));
                let parent = self.source.groups.all().iter().any(|group| above(&group.id));
                if group.object_type != "Add" && !scope.is_empty() && !parent {
                    modules.push(json!([scope, qconfig]));
                }
            }
            // An activation of its own behind a layer in fp32 stays in fp32 too.
            if qconfig.is_null()
                && let Some(activation) = group.activation
                && let Some(module) = module_path("", &graph.node(activation).name)
                && !self.source.groups.all().iter().any(|g| g.id == module || g.id.starts_with(&format!("{module}.")))
            {
                modules.push(json!([module, null]));
            }
        }
        let global = self.qconfigs.iter().flatten().next();
        Ok(json!({
            "": global,
            "object_type": [],
            "module_name_regex": [],
            "module_name": modules,
            "module_name_object_type_order": calls,
        }))
    }

    /// The arguments of `nncf.IgnoredScope`.
    fn nncf(&self) -> Result<Value, ExportError> {
        let fp32 = self.groups().filter(|(_, _, qconfig)| qconfig.is_none());
        let names: Vec<String> = fp32.map(|(_, group, _)| self.name(group.anchor)).collect::<Result<_, _>>()?;
        Ok(json!({"names": names, "validate": true}))
    }

    /// Arguments of `onnxruntime.quantization.quantize_static`.
    fn onnx_runtime(&self) -> Result<Value, ExportError> {
        let graph = &self.source.model.graph;
        let mut excluded = Vec::new();
        for index in 0..graph.nodes.len() {
            let node = NodeId(index);
            let fp32 = match self.source.groups.of_node(node) {
                Some(group) => self.qconfigs[group.0].is_none(),
                None => !graph.node(node).op.carries(),
            };
            if fp32 {
                excluded.push(self.name(node)?);
            }
        }
        let mut overrides = Map::new();
        for (id, group, qconfig) in self.groups() {
            let (Some(qconfig), Some(q)) = (qconfig, &self.restored.quantization[id.0]) else { continue };
            let tensor = |grid: &Affine| {
                let TensorParameters { scale, zero_point, dtype, .. } =
                    TensorParameters::new(grid, qconfig.activation.dtype);
                json!([{"quant_type": ort_type(dtype), "scale": scale, "zero_point": zero_point}])
            };
            for (value, grid) in group.inputs.iter().zip(&q.inputs) {
                let Some(grid) = grid else { continue };
                overrides.entry(self.value(graph.value(*value).name.clone())).or_insert_with(|| tensor(grid));
            }
            let last = group.activation.unwrap_or(group.anchor);
            if let Some(grid) = &q.output {
                overrides.insert(self.written(last), tensor(grid));
            }
            let folded = self.source.model.origins.get(group.anchor.0).is_none_or(|origin| origin.len() > 1);
            if let Some(scales) = super::layer::scales(graph.node(group.anchor), q).filter(|_| !folded) {
                let origin = &self.source.model.origins[group.anchor.0];
                let read = origin.first().and_then(|&at| self.proto.node.get(at)?.input.get(1));
                let stored = match qconfig.weight.qscheme {
                    WeightScheme::PerTensorSymmetric if scales.raised.is_empty() => &scales.scales[..1],
                    _ => &scales.scales[..],
                };
                let mut entries: Vec<Value> = (stored.iter())
                    .map(|scale| json!({"quant_type": "QInt8", "symmetric": true, "scale": scale, "zero_point": 0}))
                    .collect();
                if let (Some(Value::Object(first)), true) = (entries.first_mut(), stored.len() > 1) {
                    first.insert("axis".to_owned(), json!(0));
                }
                if let Some(name) = read {
                    overrides.insert(name.clone(), Value::Array(entries));
                }
            }
        }
        let first = self.qconfigs.iter().flatten().next();
        let activation = first.map_or("QUInt8", |q| ort_type(q.activation.dtype));
        let per_channel = first.is_some_and(|q| q.weight.qscheme == WeightScheme::PerChannelSymmetric);
        Ok(json!({
            "quant_format": "QDQ",
            "activation_type": activation,
            "weight_type": "QInt8",
            "per_channel": per_channel,
            "nodes_to_exclude": excluded,
            "extra_options": {"TensorQuantOverrides": overrides},
        }))
    }

    /// What the last node of a group writes in the file.
    fn written(&self, node: NodeId) -> String {
        let origin = self.source.model.origins.get(node.0).and_then(|origin| origin.last());
        let output = origin.and_then(|&at| self.proto.node.get(at)?.output.first().cloned());
        output.unwrap_or_else(|| self.source.model.graph.value(self.source.model.graph.node(node).output).name.clone())
    }

    /// The name of a value; an output that an Identity renamed has the name that its node writes.
    fn value(&self, name: String) -> String {
        let producer = self
            .source
            .model
            .graph
            .nodes
            .iter()
            .position(|node| self.source.model.graph.value(node.output).name == name);
        producer.map_or(name, |node| self.written(NodeId(node)))
    }

    /// Neural Compressor's `op_name_dict`.
    fn neural_compressor(&self) -> Result<Value, ExportError> {
        let mut dict = Map::new();
        for (_, group, qconfig) in self.groups() {
            let entry = match qconfig {
                None => json!({"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}),
                Some(QConfig { activation, weight, .. }) => {
                    let dtype = match activation.dtype {
                        ActivationDtype::Quint8 => "uint8",
                        ActivationDtype::Qint8 => "int8",
                    };
                    let scheme = match activation.qscheme {
                        ActivationScheme::PerTensorAffine => "asym",
                        ActivationScheme::PerTensorSymmetric => "sym",
                    };
                    let granularity = match weight.qscheme {
                        WeightScheme::PerTensorSymmetric => "per_tensor",
                        WeightScheme::PerChannelSymmetric => "per_channel",
                    };
                    let mut entry = json!({
                        "activation": {"dtype": [dtype], "scheme": [scheme], "granularity": ["per_tensor"]},
                        "weight": {"dtype": ["int8"], "scheme": ["sym"], "granularity": [granularity]},
                    });
                    // The tool has no others of these.
                    let algorithm = match activation.observer {
                        ObserverKind::Minmax => Some("minmax"),
                        ObserverKind::Entropy => Some("kl"),
                        ObserverKind::Histogram | ObserverKind::Percentile | ObserverKind::Mse | ObserverKind::Auto => {
                            None
                        }
                    };
                    if let Some(algorithm) = algorithm {
                        entry["activation"]["algorithm"] = json!([algorithm]);
                    }
                    entry
                }
            };
            dict.insert(self.name(group.anchor)?, entry);
        }
        Ok(Value::Object(dict))
    }
}

/// The module that a node is called in, by a name that an exporter made of scopes; empty for the outermost.
fn scope(name: &str) -> Option<String> {
    let scopes = name.strip_prefix('/')?;
    if scopes.contains('/') { module_path("", name) } else { Some(String::new()) }
}

/// PyTorch's functions that an exporter writes as this operator.
fn functions(object_type: &str) -> &'static [&'static str] {
    match object_type {
        "Add" => &["operator.add", "torch.add"],
        "GlobalAveragePool" | "ReduceMean" => &["torch.nn.functional.adaptive_avg_pool2d", "torch.mean", "mean"],
        "AveragePool" => &["torch.nn.functional.avg_pool2d"],
        _ => &[],
    }
}

fn ort_type(dtype: ActivationDtype) -> &'static str {
    match dtype {
        ActivationDtype::Quint8 => "QUInt8",
        ActivationDtype::Qint8 => "QInt8",
    }
}
