//! The nodes of a file with pairs of QuantizeLinear and DequantizeLinear among them.

use std::collections::{HashMap, HashSet};

use super::{ExportError, Probe, Source, Target, tensors};
use crate::{
    engine::GroupQuantization,
    graph::{Graph, Group, GroupId, NodeId},
    onnx::{
        Names,
        proto::{GraphProto, NodeProto, TensorProto, data_type},
    },
    ptq::Converted,
    quant::{ActivationDtype, Affine, QConfigFile, TensorParameters, WeightScales},
};

/// A group that runs in integers.
pub(super) struct Quantized<'a> {
    id: GroupId,
    pub(super) group: &'a Group,
    pub(super) quantization: &'a GroupQuantization,
    /// Type of its activations.
    pub(super) dtype: ActivationDtype,
    /// Scales of its weight, where it has one.
    pub(super) scales: Option<WeightScales>,
}

/// The groups that run in integers, in topological order.
pub(super) fn quantized<'a>(source: &Source<'a>, file: &QConfigFile, restored: &'a Converted) -> Vec<Quantized<'a>> {
    let mut all = Vec::new();
    for ((id, written), quantization) in source.groups.ids().zip(&file.groups).zip(&restored.quantization) {
        let Some(quantization) = quantization else { continue };
        let Some(written) = written.inputs.iter().chain([&written.output]).flatten().next() else { continue };
        let group = source.groups.get(id);
        let scales = super::layer::scales(source.model.graph.node(group.anchor), quantization);
        all.push(Quantized { id, group, quantization, dtype: written.dtype, scales });
    }
    all
}

/// A file while it is rewritten.
pub(super) struct Rewrite<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) target: Target,
    pub(super) file: GraphProto,
    pub(super) names: Names,
    /// Names of values that depend on the network's input.
    pub(super) computed: HashSet<String>,
    /// What readers of a value read now.
    pub(super) moved: HashMap<String, String>,
    /// Nodes that are folded into others.
    pub(super) removed: HashSet<usize>,
    /// Nodes added before and behind each node.
    pub(super) before: Vec<Vec<NodeProto>>,
    pub(super) after: Vec<Vec<NodeProto>>,
    pub(super) initializers: Vec<TensorProto>,
    /// What a DequantizeLinear behind a group writes.
    dequantized: HashMap<String, Dequantized>,
    /// Pairs put before groups: what they quantize, on which grid, and what the last writes.
    pairs: HashMap<(String, GridKey), String>,
    /// Types of the file's constants.
    pub(super) types: HashMap<String, i32>,
}

/// Bits of a grid.
type GridKey = (u32, [u8; 3]);

/// A value that a DequantizeLinear behind a group writes.
struct Dequantized {
    grid: Affine,
    dtype: ActivationDtype,
    /// What the DequantizeLinear reads.
    integers: String,
    /// Channels, or features.
    channels: usize,
    /// The node behind which it stands.
    last: usize,
    /// The same value from a DequantizeLinear for layers in f32, where one was made.
    for_float: Option<String>,
}

/// Nodes that are folded into a layer.
struct Folded {
    /// Those that follow it and each other, in order.
    behind: Vec<usize>,
    /// Those before it, or behind others that pass its channels on.
    apart: Vec<usize>,
}

/// Where a group is in the file.
struct Place {
    /// Its operator.
    main: usize,
    /// The operator's inputs that are values.
    inputs: Vec<usize>,
    /// The node that writes what is quantized.
    last: usize,
    /// What the QuantizeLinear behind it writes; `None` where an addition takes the sum as it is.
    integers: Option<String>,
}

/// The graph with these groups in integers.
pub(super) fn rewrite(
    source: &Source<'_>,
    file: GraphProto,
    quantized: &[Quantized<'_>],
    target: Target,
) -> Result<(GraphProto, Vec<Probe>), ExportError> {
    let original = Original { live: live(&file.node, &file), read: read(&file) };
    let mut rewrite = Rewrite::new(source, file, target);
    let mut places = Vec::with_capacity(quantized.len());
    for one in quantized {
        let place = rewrite.layer_and_output(one)?;
        places.push(place);
    }
    rewrite.follow();
    for (one, place) in quantized.iter().zip(&places) {
        rewrite.inputs(one, place);
    }
    match target {
        Target::OnnxRuntime => rewrite.keep_float(&places.iter().map(|place| place.main).collect()),
        Target::OpenVino => rewrite.keep_strides(),
        Target::TensorRt => {}
    }
    let probe = |(one, place): (&Quantized<'_>, Place)| {
        Some(Probe { group: one.id, value: place.integers?, element_type: element_type(one.dtype) })
    };
    let probes = quantized.iter().zip(places).filter_map(probe).collect();
    Ok((rewrite.finish(&original), probes))
}

/// What the original needs.
struct Original {
    /// Nodes that its outputs depend on.
    live: HashSet<usize>,
    /// Names that its nodes read.
    read: HashSet<String>,
}

impl<'a> Rewrite<'a> {
    fn new(source: &'a Source<'a>, file: GraphProto, target: Target) -> Rewrite<'a> {
        let values = file.node.iter().flat_map(|node| &node.output).map(String::as_str);
        let values = values.chain(file.initializer.iter().map(|tensor| tensor.name.as_str()));
        let values = values.chain(file.input.iter().map(|input| input.name.as_str()));
        let mut names = Names::new(values);
        for node in &file.node {
            names.node(&node.name);
        }
        let types = file.initializer.iter().map(|tensor| (tensor.name.clone(), tensor.data_type)).collect();
        let count = file.node.len();
        Rewrite {
            source,
            target,
            computed: computed(&file, &source.model.graph),
            file,
            names,
            moved: HashMap::new(),
            removed: HashSet::new(),
            before: vec![Vec::new(); count],
            after: vec![Vec::new(); count],
            initializers: Vec::new(),
            dequantized: HashMap::new(),
            pairs: HashMap::new(),
            types,
        }
    }

    /// Why a node cannot be written.
    pub(super) fn refuse(&self, node: NodeId, reason: impl Into<String>) -> ExportError {
        let node = self.source.model.graph.node(node);
        ExportError::Node { node: node.name.clone(), op_type: node.op_type.clone(), reason: reason.into() }
    }

    /// Refuses what the target does not run.
    fn check_target(&self, one: &Quantized<'_>) -> Result<(), ExportError> {
        if self.target != Target::TensorRt {
            return Ok(());
        }
        for grid in one.quantization.inputs.iter().chain([&one.quantization.output]).flatten() {
            let TensorParameters { zero_point, quant_min, quant_max, .. } = TensorParameters::new(grid, one.dtype);
            if one.dtype != ActivationDtype::Qint8 || zero_point != 0 || quant_min > -127 || quant_max < 127 {
                let reason = "has activations that TensorRT does not take: it wants s8 with zero point 0, as the preset \
                              `tensorrt` has";
                return Err(self.refuse(one.group.anchor, reason));
            }
        }
        Ok(())
    }

    /// Quantizes a group's weight, and what the group writes.
    fn layer_and_output(&mut self, one: &Quantized<'_>) -> Result<Place, ExportError> {
        self.check_target(one)?;
        let origins = &self.source.model.origins;
        let anchor = one.group.anchor;
        let whole = || self.refuse(anchor, "is not a node of the file by itself; leave its group in fp32");
        let (&main, folded) = origins.get(anchor.0).and_then(|nodes| nodes.split_first()).ok_or_else(whole)?;
        if main >= self.file.node.len() || folded.iter().any(|&node| node >= self.file.node.len()) {
            return Err(ExportError::Source);
        }
        let folded = self.folded(main, folded);
        if folded.apart.iter().any(|&node| self.passed(node).is_none()) {
            return Err(self.refuse(anchor, "is apart from what is folded into it; leave its group in fp32"));
        }
        let inputs: Vec<usize> = (self.file.node[main].input.iter().enumerate())
            .filter(|(_, name)| self.computed.contains(*name))
            .map(|(at, _)| at)
            .collect();
        if inputs.len() != one.group.inputs.len() {
            return Err(self.refuse(anchor, "reads other values in the file than in the network"));
        }
        let written = self.layer(one, main, &folded.behind)?;
        folded.apart.into_iter().for_each(|node| self.pass(node));
        let last = match one.group.activation.and_then(|node| origins.get(node.0)?.first()) {
            Some(&activation) if activation < self.file.node.len() => activation,
            _ => written,
        };
        let Some(output) = self.file.node[last].output.first().cloned() else { return Err(ExportError::Source) };
        let Some(grid) = one.quantization.output else { return Ok(Place { main, inputs, last, integers: None }) };
        let (raw, dequantized) = if self.file.output.iter().any(|value| value.name == output) {
            // What leaves the network keeps its name; what is quantized gets a new one.
            let raw = self.names.value(&format!("{output}_QuantizeLinear_Input"));
            self.file.node[last].output[0].clone_from(&raw);
            (raw, output.clone())
        } else {
            let dequantized = self.names.value(&format!("{output}_DequantizeLinear_Output"));
            self.moved.insert(output.clone(), dequantized.clone());
            (output.clone(), dequantized)
        };
        let nodes = self.pair(&output, &raw, grid, one.dtype, dequantized.clone());
        let integers = nodes.last().and_then(|node| node.input.first().cloned()).unwrap_or_default();
        self.after[last].extend(nodes);
        let channels = self.source.model.graph.value(one.group.output).shape.first().copied().unwrap_or(1);
        let value = Dequantized { grid, dtype: one.dtype, integers: integers.clone(), channels, last, for_float: None };
        self.dequantized.insert(dequantized, value);
        Ok(Place { main, inputs, last, integers: Some(integers) })
    }

    /// What is folded into node `main`: of those that are, nodes that only pass values on may stand between.
    fn folded(&self, main: usize, folded: &[usize]) -> Folded {
        let mut written: HashSet<&String> = self.file.node[main].output.iter().take(1).collect();
        let (mut behind, mut apart) = (Vec::new(), Vec::new());
        for &next in folded {
            for node in &self.file.node {
                let passes = matches!(node.op_type.as_str(), "Identity" | "Dropout");
                if passes && node.input.first().is_some_and(|input| written.contains(input)) {
                    written.extend(node.output.first());
                }
            }
            if self.file.node[next].input.iter().any(|input| written.contains(input)) {
                written = self.file.node[next].output.iter().take(1).collect();
                behind.push(next);
            } else {
                apart.push(next);
            }
        }
        Folded { behind, apart }
    }

    /// The one input of a node that is a value.
    fn passed(&self, node: usize) -> Option<&String> {
        let mut computed = self.file.node[node].input.iter().filter(|name| self.computed.contains(*name));
        computed.next().filter(|_| computed.next().is_none())
    }

    /// Takes out a node that a layer elsewhere does: who reads it reads what it reads.
    fn pass(&mut self, node: usize) {
        let (Some(input), Some(output)) = (self.passed(node).cloned(), self.file.node[node].output.first().cloned())
        else {
            return;
        };
        if self.file.output.iter().any(|value| value.name == output) {
            // What leaves the network keeps its name.
            let node = &mut self.file.node[node];
            node.op_type = "Identity".to_owned();
            node.input = vec![input];
            node.attribute.clear();
        } else {
            self.moved.insert(output, input);
            self.removed.insert(node);
        }
    }

    /// Has every node read what has moved.
    fn follow(&mut self) {
        for node in &mut self.file.node {
            for input in &mut node.input {
                // To what it is folded into, past what is folded elsewhere, behind its pair.
                while let Some(now) = self.moved.get(input) {
                    input.clone_from(now);
                }
            }
        }
    }

    /// Quantizes what a group reads where it is not on the wanted grid yet.
    fn inputs(&mut self, one: &Quantized<'_>, place: &Place) {
        debug_assert!(place.main <= place.last || self.removed.contains(&place.last));
        for (&at, grid) in place.inputs.iter().zip(&one.quantization.inputs) {
            let &Some(grid) = grid else { continue };
            let value = self.file.node[place.main].input[at].clone();
            if self.dequantized.get(&value).is_some_and(|d| d.grid == grid) {
                continue;
            }
            let key = (value.clone(), (grid.scale.to_bits(), [grid.zero_point, grid.quant_min, grid.quant_max]));
            let dequantized = match self.pairs.get(&key) {
                Some(dequantized) => dequantized.clone(),
                None => {
                    let dequantized = self.names.value(&format!("{value}_DequantizeLinear_Output"));
                    let nodes = self.pair(&value, &value, grid, one.dtype, dequantized.clone());
                    self.before[place.main].extend(nodes);
                    self.pairs.insert(key, dequantized.clone());
                    dequantized
                }
            };
            self.file.node[place.main].input[at] = dequantized;
        }
    }

    /// Has groups in f32 read what is dequantized with a scale for each channel, all the same.
    ///
    /// ONNX Runtime runs whatever is between DequantizeLinear and QuantizeLinear in integers, and quantizes the weights
    /// of layers there itself, which would undo what the qconfig says; only a scale that is no single number keeps it
    /// from that.
    fn keep_float(&mut self, integer: &HashSet<usize>) {
        let groups = self.source.groups.all().iter();
        let origins = groups.filter_map(|group| self.source.model.origins.get(group.anchor.0)?.first().copied());
        let float: HashSet<usize> = origins.filter(|node| !integer.contains(node)).collect();
        let producers: HashMap<String, usize> = (self.file.node.iter().enumerate())
            .flat_map(|(at, node)| node.output.iter().map(move |output| (output.clone(), at)))
            .collect();
        for layer in 0..self.file.node.len() {
            let is_layer = matches!(self.file.node[layer].op_type.as_str(), "Conv" | "ConvTranspose" | "Gemm");
            if integer.contains(&layer) || self.removed.contains(&layer) || !(is_layer || float.contains(&layer)) {
                continue;
            }
            for at in 0..self.file.node[layer].input.len() {
                self.keep_input_float(layer, at, &producers);
            }
        }
    }

    fn keep_input_float(&mut self, layer: usize, at: usize, producers: &HashMap<String, usize>) {
        // ONNX Runtime moves a DequantizeLinear behind what only passes values on.
        let (mut reader, mut at) = (layer, at);
        // Nodes that no output depends on may be in a circle.
        for _ in 0..self.file.node.len() {
            let Some(value) = self.file.node[reader].input.get(at).cloned() else { break };
            if self.dequantized.contains_key(&value) {
                self.file.node[reader].input[at] = self.for_float(&value);
                break;
            }
            match producers.get(&value) {
                Some(&before) if PASSES_ON.contains(&self.file.node[before].op_type.as_str()) => {
                    (reader, at) = (before, 0);
                }
                _ => break,
            }
        }
    }

    /// The name of `value` from a DequantizeLinear with a scale for each channel.
    fn for_float(&mut self, value: &str) -> String {
        let Some(Dequantized { for_float: Some(name), .. }) = self.dequantized.get(value) else {
            return self.add_for_float(value).unwrap_or_else(|| value.to_owned());
        };
        name.clone()
    }

    fn add_for_float(&mut self, value: &str) -> Option<String> {
        let Dequantized { grid, dtype, integers, channels, last, .. } = self.dequantized.get(value)?;
        let (grid, dtype, integers, channels, last) = (*grid, *dtype, integers.clone(), *channels, *last);
        let base = value.strip_suffix("_DequantizeLinear_Output").unwrap_or(value);
        let scale = self.names.value(&format!("{base}_scale_per_channel"));
        let zero_point = self.names.value(&format!("{base}_zero_point_per_channel"));
        let output = self.names.value(&format!("{value}_per_channel"));
        let name = self.names.node(&format!("{base}_DequantizeLinear_per_channel"));
        let dims = vec![channels as i64];
        self.initializers.push(tensors::floats(scale.clone(), dims.clone(), &vec![grid.scale; channels]));
        let zero = (i32::from(grid.zero_point) - dtype.u8_offset()) as u8;
        self.initializers.push(tensors::bytes(zero_point.clone(), dims, element_type(dtype), vec![zero; channels]));
        let mut node = tensors::node(name, "DequantizeLinear", vec![integers, scale, zero_point], output.clone());
        node.attribute.push(tensors::int("axis", 1));
        self.after[last].push(node);
        self.dequantized.get_mut(value)?.for_float = Some(output.clone());
        Some(output)
    }

    /// The nodes that quantize `input` and write `output`; their names say that they belong to `value`.
    fn pair(
        &mut self,
        value: &str,
        input: &str,
        grid: Affine,
        dtype: ActivationDtype,
        output: String,
    ) -> Vec<NodeProto> {
        let element_type = element_type(dtype);
        let (lowest, highest) = dtype.limits();
        let number = |stored: u8| i32::from(stored) - dtype.u8_offset();
        let scale = self.names.value(&format!("{value}_scale"));
        let zero_point = self.names.value(&format!("{value}_zero_point"));
        self.initializers.push(tensors::floats(scale.clone(), vec![], &[grid.scale]));
        // The low byte is the number in either type.
        let byte = |stored: u8| vec![number(stored) as u8];
        self.initializers.push(tensors::bytes(zero_point.clone(), vec![], element_type, byte(grid.zero_point)));
        let mut integers = self.names.value(&format!("{value}_QuantizeLinear_Output"));
        let name = self.names.node(&format!("{value}_QuantizeLinear"));
        let inputs = vec![input.to_owned(), scale.clone(), zero_point.clone()];
        let mut nodes = vec![tensors::node(name, "QuantizeLinear", inputs, integers.clone())];
        let narrow = number(grid.quant_min) > lowest || number(grid.quant_max) < highest;
        if narrow && self.target != Target::TensorRt {
            let clipped = self.names.value(&format!("{value}_Clip_Output"));
            let mut inputs = vec![integers];
            for (bound, stored) in [("quant_min", grid.quant_min), ("quant_max", grid.quant_max)] {
                let name = self.names.value(&format!("{value}_{bound}"));
                self.initializers.push(tensors::bytes(name.clone(), vec![], element_type, byte(stored)));
                inputs.push(name);
            }
            let name = self.names.node(&format!("{value}_Clip"));
            nodes.push(tensors::node(name, "Clip", inputs, clipped.clone()));
            integers = clipped;
        }
        let name = self.names.node(&format!("{value}_DequantizeLinear"));
        nodes.push(tensors::node(name, "DequantizeLinear", vec![integers, scale, zero_point], output));
        nodes
    }

    /// Puts the nodes together, and leaves out nodes and constants that were needed and are not any more.
    fn finish(self, original: &Original) -> GraphProto {
        let Rewrite { mut file, removed, before, after, initializers, .. } = self;
        let opaque = file.node.iter().flat_map(|node| &node.attribute).any(|a| a.g.is_some() || !a.graphs.is_empty());
        let mut nodes = Vec::new();
        let mut origins = Vec::new();
        let own = std::mem::take(&mut file.node).into_iter().enumerate();
        for (((index, node), before), after) in own.zip(before).zip(after) {
            let node = (!removed.contains(&index)).then_some(node);
            origins.extend(before.iter().map(|_| None).chain(node.iter().map(|_| Some(index))));
            origins.extend(after.iter().map(|_| None));
            nodes.extend(before.into_iter().chain(node).chain(after));
        }
        let originals = file.initializer.len();
        file.initializer.extend(initializers);
        if opaque {
            // Graphs within nodes may read anything.
            file.node = nodes;
            return file;
        }
        let live = live(&nodes, &file);
        let kept = nodes.into_iter().zip(origins).enumerate().filter(|(at, (_, origin))| {
            let died = !live.contains(at) && origin.is_none_or(|origin| original.live.contains(&origin));
            !died
        });
        file.node = kept.map(|(_, (node, _))| node).collect();
        let read = read(&file);
        let outputs: HashSet<&String> = file.output.iter().map(|value| &value.name).collect();
        let mut dropped = HashSet::new();
        for (at, tensor) in file.initializer.iter().enumerate() {
            let unused = !read.contains(&tensor.name) && !outputs.contains(&tensor.name);
            // An original that nothing ever read stays.
            if unused && (at >= originals || original.read.contains(&tensor.name)) {
                dropped.insert(tensor.name.clone());
            }
        }
        file.initializer.retain(|tensor| !dropped.contains(&tensor.name));
        // Old files list initializers as inputs too.
        file.input.retain(|input| !dropped.contains(&input.name));
        let written: HashSet<&String> = file.node.iter().flat_map(|node| &node.output).collect();
        let inputs: HashSet<&String> = file.input.iter().map(|input| &input.name).collect();
        let constants: HashSet<&String> = file.initializer.iter().map(|tensor| &tensor.name).collect();
        file.value_info.retain(|value| {
            let name = &value.name;
            written.contains(name) || inputs.contains(name) || constants.contains(name)
        });
        file
    }
}

/// Operators that give the values of their first input, or some of them.
const PASSES_ON: [&str; 10] =
    ["Dropout", "Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"];

/// ONNX's name of a type of activations.
fn element_type(dtype: ActivationDtype) -> i32 {
    match dtype {
        ActivationDtype::Quint8 => data_type::UINT8,
        ActivationDtype::Qint8 => data_type::INT8,
    }
}

/// Names that nodes read.
fn read(file: &GraphProto) -> HashSet<String> {
    file.node.iter().flat_map(|node| &node.input).cloned().collect()
}

/// The nodes that the outputs depend on, as indices.
fn live(nodes: &[NodeProto], file: &GraphProto) -> HashSet<usize> {
    let outputs = nodes.iter().enumerate().flat_map(|(at, node)| node.output.iter().map(move |name| (name, at)));
    let producers: HashMap<&String, usize> = outputs.collect();
    let mut live = HashSet::new();
    let mut open: Vec<&String> = file.output.iter().map(|value| &value.name).collect();
    while let Some(name) = open.pop() {
        if let Some(&at) = producers.get(name)
            && live.insert(at)
        {
            open.extend(&nodes[at].input);
        }
    }
    live
}

/// Names of the values that depend on the graph's inputs.
pub(super) fn computed(file: &GraphProto, graph: &Graph) -> HashSet<String> {
    let mut readers: HashMap<&str, Vec<&NodeProto>> = HashMap::new();
    // A shape is known without the values.
    for node in file.node.iter().filter(|node| node.op_type != "Shape") {
        node.input.iter().for_each(|name| readers.entry(name).or_default().push(node));
    }
    let mut open: Vec<&str> = graph.inputs.iter().map(|&input| graph.value(input).name.as_str()).collect();
    let mut computed: HashSet<String> = open.iter().map(|&name| name.to_owned()).collect();
    while let Some(name) = open.pop() {
        for output in readers.remove(name).into_iter().flatten().flat_map(|node| &node.output) {
            if !output.is_empty() && computed.insert(output.clone()) {
                open.push(output);
            }
        }
    }
    computed
}
