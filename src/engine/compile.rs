//! Graph and quantization to a plan.
//!
//! First, backwards: how does each value want to be stored, by those who read it? Then, forwards: each node
//! writes what its readers want, and where one wants something else a conversion is added once.

use std::{collections::HashMap, sync::Arc};

use super::{
    Engine, GroupQuantization, Plan, Program, Representation, Slot, SlotId, Step,
    kind::{AverageWindow, IntegerSum, Kind, Pair, Table},
    weights::layer,
    workspace::{Buffers, stored_axis},
};
use crate::{
    graph::{Broadcast, Graph, Group, GroupId, Groups, Node, NodeId, Op, ValueId, broadcast},
    kernels::{FloatEpilogue, Form, Geometry, IntegerEpilogue},
    quant::{Affine, FakeQuantize, LayerSteps, Rounding, requantization_multiplier},
};

pub(super) fn compile(engine: &Engine, quantization: &[Option<GroupQuantization>], rounding: Rounding) -> Plan {
    assert_eq!(quantization.len(), engine.groups.len());
    let graph = &engine.graph;
    let sums = unrounded(graph, &engine.groups, quantization);
    let wants = wants(graph, &engine.groups, quantization, &sums);
    let mut taken = vec![false; engine.groups.len()];
    for (group, operand) in engine.groups.all().iter().zip(&sums) {
        operand.and_then(|operand| group.fed_by[operand]).into_iter().for_each(|layer| taken[layer.0] = true);
    }
    let mut builder = Builder {
        graph,
        slots: graph.inputs.iter().map(|&value| Slot { value, representation: Representation::Float }).collect(),
        of_value: vec![Vec::new(); graph.values.len()],
        steps: Vec::new(),
        rounding,
    };
    for (slot, value) in graph.inputs.iter().enumerate() {
        builder.of_value[value.0].push(SlotId(slot));
    }
    let mut weight_bytes = 0;
    for index in 0..graph.nodes.len() {
        let node = NodeId(index);
        match engine.groups.of_node(node) {
            Some(id) if engine.groups.get(id).anchor == node => {
                let group = engine.groups.get(id);
                let wanted = &wants[group.output.0];
                weight_bytes += match &quantization[id.0] {
                    Some(q) => {
                        let output = q.output.filter(|_| !taken[id.0]);
                        builder.integer_group(engine, id, q, (output, sums[id.0]), wanted)
                    }
                    None => builder.float_group(engine, group.anchor, Some(group), wanted),
                };
            }
            // The activation of a group: its anchor has done its work.
            Some(_) => {}
            None => weight_bytes += builder.other(engine, node, &wants[graph.node(node).output.0]),
        }
    }
    let last = NodeId(graph.nodes.len().saturating_sub(1));
    let outputs = graph.outputs.iter().map(|&v| builder.slot(v, Representation::Float, last)).collect();
    builder.finish(engine, outputs, weight_bytes)
}

/// For each addition, its operand whose sum is not rounded before: none by `residual: rounded`, but OpenVINO rounds no sum of
/// a convolution in integers that alone feeds an addition, of two that of the first. It adds where the other operand lies,
/// and so keeps apart a convolution that reads that.
fn unrounded(graph: &Graph, groups: &Groups, quantization: &[Option<GroupQuantization>]) -> Vec<Option<usize>> {
    let operand = |(group, q): (&Group, &Option<GroupQuantization>)| {
        let q = q.as_ref().filter(|_| group.fed_by.iter().any(Option::is_some))?;
        if let Some(operand) = q.inputs.iter().position(Option::is_none) {
            return Some(operand);
        }
        let is_taken = |operand: &usize| {
            let layer = group.fed_by[*operand].filter(|layer| quantization[layer.0].is_some());
            layer.map(|layer| groups.get(layer)).is_some_and(|layer| {
                let is_convolution = matches!(graph.node(layer.anchor).op, Op::Conv(_));
                is_convolution && !layer.inputs.contains(&group.inputs[1 - operand])
            })
        };
        let openvino = q.output.is_some_and(|grid| grid.rounding.is_openvino());
        (0..2).find(is_taken).filter(|_| openvino)
    };
    groups.all().iter().zip(quantization).map(operand).collect()
}

/// For each value, the representations that its readers want, without repetition. `sums` are operands that are not rounded.
fn wants(
    graph: &Graph,
    groups: &Groups,
    quantization: &[Option<GroupQuantization>],
    sums: &[Option<usize>],
) -> Vec<Vec<Representation>> {
    let mut wants: Vec<Vec<Representation>> = vec![Vec::new(); graph.values.len()];
    fn want(list: &mut Vec<Representation>, representation: Representation) {
        if !list.contains(&representation) {
            list.push(representation);
        }
    }
    graph.outputs.iter().for_each(|v| want(&mut wants[v.0], Representation::Float));
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        match groups.of_node(NodeId(index)) {
            Some(id) if groups.get(id).anchor.0 == index => {
                for (i, input) in node.inputs.iter().enumerate() {
                    let grid = quantization[id.0].as_ref().and_then(|q| q.inputs[i]).filter(|_| sums[id.0] != Some(i));
                    want(&mut wants[input.0], grid.map_or(Representation::Float, Representation::Quantized));
                }
            }
            Some(_) => {}
            None if node.op.carries() => {
                for representation in wants[node.output.0].clone() {
                    want(&mut wants[node.inputs[0].0], representation);
                }
            }
            None => node.inputs.iter().for_each(|v| want(&mut wants[v.0], Representation::Float)),
        }
    }
    wants
}

struct Builder<'a> {
    graph: &'a Graph,
    slots: Vec<Slot>,
    of_value: Vec<Vec<SlotId>>,
    steps: Vec<Step>,
    rounding: Rounding,
}

impl Builder<'_> {
    fn find(&self, value: ValueId, representation: Representation) -> Option<SlotId> {
        self.of_value[value.0].iter().copied().find(|s| self.slots[s.0].representation == representation)
    }

    fn push(
        &mut self,
        node: NodeId,
        kind: Kind,
        inputs: Vec<SlotId>,
        value: ValueId,
        to: Representation,
        is_node: bool,
    ) -> SlotId {
        let output = SlotId(self.slots.len());
        self.slots.push(Slot { value, representation: to });
        self.of_value[value.0].push(output);
        self.steps.push(Step { node, end: node, kind, inputs, output, is_node, release: Vec::new() });
        output
    }

    /// The slot that holds `value` so, converted on behalf of `node` where there is none yet.
    fn slot(&mut self, value: ValueId, representation: Representation, node: NodeId) -> SlotId {
        if let Some(slot) = self.find(value, representation) {
            return slot;
        }
        match representation {
            Representation::Quantized(grid) => {
                let float = self.slot(value, Representation::Float, node);
                self.push(node, Kind::Quantize(grid), vec![float], value, representation, false)
            }
            Representation::Float => {
                let from = self.of_value[value.0].first().copied().expect("a value is written before it is read");
                let Representation::Quantized(grid) = self.slots[from.0].representation else { return from };
                self.push(node, Kind::Dequantize(grid), vec![from], value, representation, false)
            }
        }
    }

    /// Adds a group that runs in integers; gives the bytes of its weight. `rounded` is the grid to which it rounds, and `sum`
    /// the operand whose sum is not.
    fn integer_group(
        &mut self,
        engine: &Engine,
        id: GroupId,
        q: &GroupQuantization,
        (rounded, sum): (Option<Affine>, Option<usize>),
        wanted: &[Representation],
    ) -> u64 {
        let group = engine.groups.get(id);
        let node = self.graph.node(group.anchor);
        let mut slot = |(operand, (&value, &grid)): (usize, (&ValueId, &Option<Affine>))| {
            self.slot(value, grid.filter(|_| sum != Some(operand)).into(), group.anchor)
        };
        let mut inputs: Vec<SlotId> = group.inputs.iter().zip(&q.inputs).enumerate().map(&mut slot).collect();
        let (min, max) = clip(self.graph, group);
        let grids: Vec<Affine> = q.inputs.iter().copied().flatten().collect();
        let input = grids[0];
        // Only the sum of a layer has no grid.
        let output = q.output.unwrap_or(input);
        let (low, high) = output.clip(min, max);
        let mut bytes = 0;
        let kind = match &node.op {
            Op::Add | Op::Mul => match sum {
                Some(operand) => {
                    let addend = q.inputs[1 - operand].unwrap_or(input);
                    Kind::AddSum { layer: q.inputs[operand], addend, grid: output, low, high }
                }
                None => {
                    let (pair, per_channel) = pair(self.graph, node);
                    // What it makes of a row for all pixels is not known.
                    let rounding = if per_channel.is_some() { Rounding::OnnxRuntime } else { output.rounding };
                    let grid = Affine { rounding, ..output };
                    let mut operands = [input, grids[1]];
                    if rounding.is_openvino() && pair == Pair::Add && is_second_rescaled(self.graph, group) {
                        inputs.swap(0, 1);
                        operands.swap(0, 1);
                    }
                    let [a, b] = operands;
                    Kind::PairInteger { pair, per_channel, a, b, grid, low, high }
                }
            },
            &Op::Map(function) => {
                Kind::MapInteger(Arc::new(Table::new(input, output, [low, high], |x| function.apply(x))))
            }
            &Op::Concat { axis } => {
                let whole = (low, high) == (output.quant_min, output.quant_max);
                let table = |&input: &Affine| {
                    let same = whole && input == output;
                    (!same).then(|| Arc::new(Table::new(input, output, [low, high], |x| x)))
                };
                let axis = stored_axis(self.graph.value(node.output).shape.len() + 1, axis);
                Kind::ConcatInteger { axis, tables: grids.iter().map(table).collect(), grid: output }
            }
            op => match average(op) {
                Some(window) => Kind::AverageInteger { window, input, grid: output, low, high },
                None => {
                    let weight = engine.weights.integer(node, group.anchor, q).expect("other groups have a weight");
                    let own_bias = layer(node).and_then(|l| l.bias);
                    let bias = q.bias.as_deref().or(own_bias);
                    let openvino = output.rounding.is_openvino();
                    let unit = rounded.filter(|_| !openvino).map_or(1.0, |grid| grid.scale);
                    let multipliers: Vec<f32> = (weight.scales.scales.iter())
                        .map(|&s| requantization_multiplier(input.scale, s, unit))
                        .collect();
                    let in_steps = |c: usize| bias.map_or(0, |b| weight.scales.quantize_bias(c, b[c], input.scale));
                    let constant = |(c, sum): (usize, &i32)| {
                        let bias = if openvino { 0 } else { in_steps(c) };
                        bias - i32::from(input.zero_point) * sum
                    };
                    let constants = weight.packed.sums().iter().enumerate().map(constant).collect();
                    let LayerSteps { multipliers, biases, steps } = match openvino {
                        true => {
                            let in_units = |(c, m): (usize, &f32)| bias.map(|_| in_steps(c) as f32 * m);
                            let biases = multipliers.iter().enumerate().filter_map(in_units).collect();
                            match (rounded, &node.op) {
                                (None, _) => LayerSteps::unrounded(multipliers, biases),
                                (Some(grid), Op::Linear(_)) => {
                                    // On a grid without negative numbers ReLU does nothing.
                                    let is_activated = group.activation.is_some() && grid.zero_point != 0;
                                    LayerSteps::of_linear(multipliers, biases, &grid, is_activated)
                                }
                                (Some(grid), _) => LayerSteps::of_convolution(multipliers, biases, &grid),
                            }
                        }
                        false => LayerSteps { multipliers, biases: Vec::new(), steps: FakeQuantize::IDENTITY },
                    };
                    let form = match rounded {
                        Some(grid) => Form::Rounded { grid, low, high },
                        None => Form::Float { min, max },
                    };
                    let epilogue = Arc::new(IntegerEpilogue { constants, multipliers, biases, steps, form });
                    bytes = group.parameters - own_bias.map_or(0, |b| b.len() as u64)
                        + 4 * (bias.map_or(0, <[f32]>::len) + weight.stored_scales().len()) as u64;
                    Kind::ConvInteger { weight, zero_point: input.zero_point, epilogue, sum: None }
                }
            },
        };
        let own = rounded.into();
        let to = if wanted.contains(&own) { own } else { Representation::Float };
        // The sum of a layer first.
        let inputs = match sum {
            Some(operand) => vec![inputs[operand], inputs[1 - operand]],
            None => inputs,
        };
        self.push(group.anchor, kind, inputs, group.output, to, true);
        bytes
    }

    /// Adds a group in fp32, or a layer that forms no group; gives the bytes of its weight.
    fn float_group(&mut self, engine: &Engine, id: NodeId, group: Option<&Group>, wanted: &[Representation]) -> u64 {
        let node = self.graph.node(id);
        let inputs = node.inputs.iter().map(|&v| self.slot(v, Representation::Float, id)).collect();
        let (min, max) = group.map_or((f32::NEG_INFINITY, f32::INFINITY), |g| clip(self.graph, g));
        let to = match *wanted {
            [quantized @ Representation::Quantized(_)] if !matches!(node.op, Op::Concat { .. }) => quantized,
            _ => Representation::Float,
        };
        let grid = match to {
            Representation::Quantized(grid) => Some(grid),
            Representation::Float => None,
        };
        let epilogue = FloatEpilogue { min, max, grid };
        let kind = match &node.op {
            Op::Add | Op::Mul => {
                let (pair, per_channel) = pair(self.graph, node);
                Kind::PairFloat { pair, per_channel, epilogue }
            }
            &Op::Map(function) => Kind::MapFloat { function, epilogue },
            &Op::Concat { axis } => {
                Kind::ConcatFloat { axis: stored_axis(self.graph.value(node.output).shape.len() + 1, axis), epilogue }
            }
            op => match average(op) {
                Some(window) => Kind::AverageFloat { window, epilogue },
                None => {
                    // OpenVINO has what quantizes behind a layer in the layer, and compiles it with nothing else.
                    let in_layer = |grid: Affine| match grid.rounding {
                        Rounding::OpenVinoStatic => Affine { rounding: Rounding::OpenVino, ..grid },
                        _ => grid,
                    };
                    let epilogue = FloatEpilogue { grid: epilogue.grid.map(in_layer), ..epilogue };
                    let packed = engine.weights.float(node, id).expect("other groups have a weight");
                    // Of one channel both orders are the same.
                    let &Geometry { in_channels, groups, .. } = packed.geometry();
                    let is_first = matches!(op, Op::Conv(_)) && groups == 1 && (2..8).contains(&in_channels);
                    let by_channel = is_first && !self.rounding.is_openvino();
                    Kind::ConvFloat { packed, by_channel, epilogue, sum: None }
                }
            },
        };
        self.push(id, kind, inputs, group.map_or(node.output, |g| g.output), to, true);
        4 * self.graph.parameters(id)
    }

    /// Adds a node that belongs to no group.
    fn other(&mut self, engine: &Engine, id: NodeId, wanted: &[Representation]) -> u64 {
        let node = self.graph.node(id);
        let input = *node.inputs.first().expect("every operator reads a value");
        let tensor =
            || Kind::Tensor { op: Arc::new(node.op.clone()), shape: self.graph.value(node.output).shape.clone() };
        if !node.op.carries() {
            if matches!(node.op, Op::Conv(_) | Op::Linear(_) | Op::Map(_)) {
                return self.float_group(engine, id, None, wanted);
            }
            let kind = tensor();
            let inputs = node.inputs.iter().map(|&v| self.slot(v, Representation::Float, id)).collect();
            self.push(id, kind, inputs, node.output, Representation::Float, true);
            return 0;
        }
        // On integers when a reader wants them and the input is there on that very grid.
        let to = (wanted.iter().copied())
            .find(|&r| r != Representation::Float && self.find(input, r).is_some())
            .unwrap_or(Representation::Float);
        let kind = match (&node.op, to) {
            (Op::MaxPool(window), _) => Kind::MaxPool(*window),
            (&Op::Clip { min, max }, Representation::Float) => Kind::ClipFloat(FloatEpilogue { min, max, grid: None }),
            (&Op::Clip { min, max }, Representation::Quantized(grid)) => {
                let (low, high) = grid.clip(min, max);
                Kind::ClipInteger { low, high }
            }
            _ => tensor(),
        };
        let from = self.slot(input, to, id);
        self.push(id, kind, vec![from], node.output, to, true);
        0
    }

    fn finish(self, engine: &Engine, outputs: Vec<SlotId>, weight_bytes: u64) -> Plan {
        let fused = fuse(&self.steps, &outputs);
        let program = |steps| Arc::new(Program::new(self.graph, &self.slots, steps, &outputs));
        Plan {
            graph: engine.graph.clone(),
            kernels: engine.kernels,
            program: program(fused),
            shown: program(self.steps),
            slots: self.slots.into(),
            outputs,
            weight_bytes,
            workspaces: engine.workspaces.clone(),
        }
    }
}

impl Program {
    /// Notes the last use of every slot, and shares buffers out.
    fn new(graph: &Graph, slots: &[Slot], mut steps: Vec<Step>, outputs: &[SlotId]) -> Program {
        let mut seen = vec![false; slots.len()];
        outputs.iter().for_each(|s| seen[s.0] = true);
        for step in steps.iter_mut().rev() {
            for input in &step.inputs {
                if !std::mem::replace(&mut seen[input.0], true) {
                    step.release.push(*input);
                }
            }
        }
        let buffers = Buffers::new(graph, slots, &steps);
        Program { steps, buffers }
    }
}

/// The steps with additions done by a convolution that alone feeds them. It rounds to its own grid first, if it has one,
/// so that this changes no bit.
fn fuse(steps: &[Step], outputs: &[SlotId]) -> Vec<Step> {
    let mut readers: HashMap<SlotId, usize> = HashMap::new();
    steps.iter().flat_map(|step| &step.inputs).chain(outputs).for_each(|&slot| *readers.entry(slot).or_default() += 1);
    let mut fused: Vec<Option<Step>> = Vec::with_capacity(steps.len());
    let mut written: HashMap<SlotId, usize> = HashMap::new();
    for step in steps {
        let mut step = step.clone();
        // The later of two convolutions: the other operand is there by then.
        let feeds = step.inputs.iter().enumerate().filter(|(_, slot)| readers[slot] == 1);
        let done_by = feeds.filter_map(|(operand, slot)| {
            let at = *written.get(slot)?;
            let conv = fused[at].as_ref()?;
            Some((at, operand, conv.node, conv.inputs[0], with_sum(&conv.kind, &step.kind, operand)?))
        });
        if let Some((at, operand, node, input, kind)) = done_by.max_by_key(|&(at, ..)| at) {
            step = Step { kind, inputs: vec![input, step.inputs[1 - operand]], node, ..step };
            fused[at] = None;
        }
        written.insert(step.output, fused.len());
        fused.push(Some(step));
    }
    fused.into_iter().flatten().collect()
}

/// A convolution that also does an addition whose `operand`th operand it feeds; `None` for all other pairs of steps.
fn with_sum(conv: &Kind, add: &Kind, operand: usize) -> Option<Kind> {
    match (conv, add) {
        (
            Kind::ConvFloat { packed, by_channel: false, epilogue, sum: None },
            Kind::PairFloat { pair: Pair::Add, per_channel: None, epilogue: sum },
        ) if epilogue.grid.is_none() => {
            let dense = !packed.geometry().is_depthwise();
            dense.then(|| Kind::ConvFloat {
                packed: packed.clone(),
                by_channel: false,
                epilogue: *epilogue,
                sum: Some(*sum),
            })
        }
        (
            Kind::ConvInteger { weight, zero_point, epilogue, sum: None },
            &Kind::AddSum { layer, addend, grid, low, high },
        ) if operand == 0 && matches!(epilogue.form, Form::Float { .. }) => Some(Kind::ConvInteger {
            weight: weight.clone(),
            zero_point: *zero_point,
            epilogue: epilogue.clone(),
            sum: Some(IntegerSum { layer, addend, addend_first: false, grid, low, high }),
        }),
        (
            Kind::ConvInteger { weight, zero_point, epilogue, sum: None },
            &Kind::PairInteger { pair: Pair::Add, per_channel: None, a, b, grid, low, high },
        ) => {
            let addend_first = operand == 1;
            let addend = if addend_first { a } else { b };
            let dense = !weight.packed.geometry().is_depthwise() && epilogue.biases.is_empty();
            dense.then(|| Kind::ConvInteger {
                weight: weight.clone(),
                zero_point: *zero_point,
                epilogue: epilogue.clone(),
                sum: Some(IntegerSum { layer: None, addend, addend_first, grid, low, high }),
            })
        }
        _ => None,
    }
}

/// Whether OpenVINO brings the second operand of an addition in integers to steps of the first, and not the first to those of
/// the second: that which a layer feeds alone, else that which nothing else reads, else the first (`getNotEmpty` of its
/// `EltwiseBaseTransformation`).
fn is_second_rescaled(graph: &Graph, group: &Group) -> bool {
    let consumers = graph.consumers();
    let is_shared = |operand: usize| consumers[group.inputs[operand].0].len() > 1;
    match group.fed_by {
        [None, Some(_)] => true,
        [None, None] => is_shared(0) && !is_shared(1),
        _ => false,
    }
}

/// What a group's activation clips to.
fn clip(graph: &Graph, group: &Group) -> (f32, f32) {
    match group.activation.map(|id| &graph.node(id).op) {
        Some(&Op::Clip { min, max }) => (min, max),
        _ => (f32::NEG_INFINITY, f32::INFINITY),
    }
}

/// How a sum or product that forms a group is computed.
fn pair(graph: &Graph, node: &Node) -> (Pair, Option<usize>) {
    let per_channel = match broadcast(graph, node) {
        Some(Broadcast::PerChannel(operand)) => Some(operand),
        Some(Broadcast::None) | None => None,
    };
    (if node.op == Op::Mul { Pair::Mul } else { Pair::Add }, per_channel)
}

fn average(op: &Op) -> Option<AverageWindow> {
    match *op {
        Op::GlobalAveragePool => Some(AverageWindow { window: None, count_include_pad: false }),
        Op::AveragePool { window, count_include_pad } => {
            Some(AverageWindow { window: Some(window), count_include_pad })
        }
        _ => None,
    }
}
