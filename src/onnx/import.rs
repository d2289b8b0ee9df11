//! The walk over a file's nodes: from names to values, and from operators to drafts.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use prost::Message;
use sha2::{Digest, Sha256};

use super::{
    FileInput, Model, affine,
    arrange::arrange,
    array::{Array, count},
    draft::{Draft, Lowered, Names},
    error::{OnnxError, UnsupportedOperator, UnsupportedOperators},
    external::External,
    fold::folding,
    input::{self, Entry},
    lower::{Lowering, Outcome, Step, lowering},
    order,
    proto::{GraphProto, ModelProto, NodeProto, data_type},
    quantized,
    reading::Reading,
    rewrite::{self, Rewrite},
    site::{Budget, Form, Input, Refusal, Site, Slot},
    strided, tensor,
    view::{Axes, View, plain},
};
use crate::graph::{Constant, Graph, Node, Op, Value, ValueId};

/// Oldest operator set: older ones broadcast by attributes.
const OLDEST: i64 = 7;

/// Newest operator set whose changes have been read. A later one may change what an operator means, and
/// a wrong answer is worse than none.
const NEWEST: i64 = 28;

/// The graph, for each node the file's nodes that it comes from, and what was done on the way.
type Finished = (Graph, Vec<Vec<usize>>, Vec<Rewrite>);

/// The graph's inputs come first among the values, and this first among them.
const INPUT: ValueId = ValueId(0);

/// Imports a file's bytes.
pub(super) fn import(bytes: &[u8], folder: Option<&Path>, reading: &Reading) -> Result<Model, OnnxError> {
    let mut proto = ModelProto::decode(bytes).map_err(OnnxError::Decode)?;
    let opset = opset(&proto)?;
    let mut file = proto.graph.take().ok_or_else(|| OnnxError::Model("the file has no graph".to_owned()))?;
    let quantized = quantized::strip(&mut file, folder)?;
    reading.choose_output(&mut file)?;
    let (entries, fixed) = input::entries(&file, reading)?;
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    strided::simplify(&mut file, &names, &Budget::for_bytes(bytes.len() as u64));
    let order = order::live_nodes(&file)?;
    let mut external = External::new(folder, Sha256::new_with_prefix(bytes));
    let mut slots = constants(&mut file, &order, &mut external)?;
    let total = bytes.len() as u64 + external.bytes;
    let budget = Budget::for_bytes(total);
    let batch = entries.iter().find_map(|entry| entry.batch);
    let (mut inputs, mut values, mut integers) = (Vec::new(), Vec::new(), HashSet::new());
    for (index, Entry { value, axes, name, integer, batch: _ }) in entries.into_iter().enumerate() {
        inputs.push(FileInput { channels_last: axes != plain(value.shape.len()), integer });
        values.push(value);
        slots.insert(name.clone(), Slot::Value(View { value: ValueId(index), axes }));
        integers.extend(integer.then_some(name));
    }
    for (name, known) in fixed {
        let origin = Arc::from(name.as_str());
        slots.insert(name, Slot::Known(known, origin));
    }
    let mut walk = Walk {
        file: &file,
        domains: proto.opset_import.iter().map(|set| (set.domain.as_str(), set.version)).collect(),
        opset,
        batch,
        budget: &budget,
        names: Names::new(file.node.iter().flat_map(|node| &node.output).map(String::as_str)),
        values,
        inputs: inputs.len(),
        drafts: Vec::new(),
        unsupported: Vec::new(),
        seen: HashSet::new(),
        arranged: HashMap::new(),
        rewrites: Vec::new(),
        integers,
        slots,
    };
    walk.nodes(&order)?;
    let (graph, origins, rewrites) = walk.finish(&quantized)?;
    Ok(Model {
        graph,
        origins,
        rewrites,
        inputs,
        opset,
        producer: [proto.producer_name, proto.producer_version].join(" ").trim().to_owned(),
        ir_version: proto.ir_version,
        bytes: total,
        digest: external.hasher.finalize().into(),
    })
}

/// Version of the ONNX operator set.
fn opset(proto: &ModelProto) -> Result<i64, OnnxError> {
    let mut versions = proto.opset_import.iter().filter(|set| is_onnx(&set.domain)).map(|set| set.version);
    let found = versions.next().ok_or_else(|| OnnxError::Model("the file names no ONNX operator set".to_owned()))?;
    if versions.any(|other| other != found) {
        return Err(OnnxError::Model("the file names two ONNX operator sets".to_owned()));
    }
    let supported = (OLDEST..=NEWEST).contains(&found);
    if supported { Ok(found) } else { Err(OnnxError::Opset { found, oldest: OLDEST, newest: NEWEST }) }
}

fn is_onnx(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// The initializers that are read, by name. Their bytes are given up as they are converted.
fn constants(
    file: &mut GraphProto,
    order: &[usize],
    external: &mut External<'_>,
) -> Result<HashMap<String, Slot>, OnnxError> {
    let initializers = std::mem::take(&mut file.initializer);
    let inputs = order.iter().flat_map(|&index| &file.node[index].input);
    let read: HashSet<&String> = inputs.chain(file.output.iter().map(|output| &output.name)).collect();
    let mut slots = HashMap::new();
    for tensor in initializers.into_iter().filter(|tensor| read.contains(&tensor.name)) {
        let known = tensor::known(&tensor, external).map_err(|error| error.of(&tensor.name))?;
        let origin = Arc::from(tensor.name.as_str());
        slots.insert(tensor.name, Slot::Known(known, origin));
    }
    Ok(slots)
}

/// What is known and built while going through the nodes.
struct Walk<'a> {
    file: &'a GraphProto,
    /// Operator sets by domain.
    domains: HashMap<&'a str, i64>,
    opset: i64,
    batch: Option<i64>,
    budget: &'a Budget,
    names: Names,
    slots: HashMap<String, Slot>,
    values: Vec<Value>,
    /// How many of the values are the graph's inputs.
    inputs: usize,
    drafts: Vec<Draft>,
    unsupported: Vec<UnsupportedOperator>,
    /// Domains and operators that `unsupported` has.
    seen: HashSet<(&'a str, &'a str)>,
    /// Tensors that were brought into a form.
    arranged: HashMap<(ValueId, Axes, Form), View>,
    rewrites: Vec<Rewrite>,
    /// Names of computed tensors that hold integers.
    integers: HashSet<String>,
}

impl<'a> Walk<'a> {
    /// Goes through all nodes even after an error, so that all unsupported operators are found. They are the
    /// error that is reported: while there are any, another one is the lesser problem.
    fn nodes(&mut self, order: &[usize]) -> Result<(), OnnxError> {
        let own_names = self.node_names(order);
        let mut first_error = None;
        for (&index, name) in order.iter().zip(own_names) {
            let node = &self.file.node[index];
            let outcome = match self.outcome(index, &name) {
                Ok(outcome) => self.accept(index, &name, outcome),
                Err(refusal) => Err(refusal),
            };
            let Err(refusal) = outcome else { continue };
            self.bind(node, Slot::Unknown);
            match refusal {
                Refusal::Unsupported => self.unsupported(node, name),
                Refusal::Error(error) => drop(first_error.get_or_insert(error)),
                refusal => {
                    let reason = reason(refusal);
                    let op_type = node.op_type.clone();
                    first_error.get_or_insert(OnnxError::Node { node: name, op_type, reason });
                }
            }
        }
        if !self.unsupported.is_empty() {
            return Err(OnnxError::Unsupported(UnsupportedOperators(std::mem::take(&mut self.unsupported))));
        }
        first_error.map_or(Ok(()), Err)
    }

    /// A unique name for each node: its own where it has one, else made up from operator and position.
    fn node_names(&mut self, order: &[usize]) -> Vec<String> {
        let mut own = vec![String::new(); order.len()];
        for named in [true, false] {
            for (own, &index) in own.iter_mut().zip(order) {
                let NodeProto { name, op_type, .. } = &self.file.node[index];
                if name.is_empty() != named {
                    let wish = if named { name } else { &format!("{op_type}_{index}") };
                    *own = self.names.node(wish);
                }
            }
        }
        own
    }

    fn outcome(&mut self, origin: usize, name: &str) -> Result<Outcome, Refusal> {
        let file = self.file;
        let node = &file.node[origin];
        if !is_onnx(&node.domain) {
            return Err(Refusal::Unsupported);
        }
        let inputs = node.input.iter().map(|name| self.resolve(name)).collect::<Result<Vec<_>, _>>()?;
        let (lowering, folding) = (lowering(&node.op_type), folding(&node.op_type));
        let has = |wanted: fn(&Slot) -> bool| inputs.iter().flatten().any(|input| wanted(&input.slot));
        let (unknown, computed) =
            (has(|slot| matches!(slot, Slot::Unknown)), has(|slot| matches!(slot, Slot::Value(_))));
        if unknown {
            // Behind an unsupported operator all that can be said is whether this one could be supported: one
            // that is only known on constants could not where another input is computed.
            let supported = lowering.is_some() || (folding.is_some() && !computed);
            return if supported { Ok(Outcome::Unknown) } else { Err(Refusal::Unsupported) };
        }
        if !computed && let Some(folding) = folding {
            let site = Site::new(node, inputs.clone(), (self.opset, self.batch, false), self.budget, &self.values);
            // What depends on the batch may still be a constant for every sample.
            match folding(&site) {
                Ok(Some(known)) => return Ok(Outcome::Known(known)),
                Ok(None) | Err(Refusal::Reason(_)) if matches!(&*node.op_type, "Expand" | "ConstantOfShape") => {}
                Ok(None) => return Err(Refusal::Unsupported),
                Err(refusal) => return Err(refusal),
            }
        }
        self.lower(origin, name, inputs, lowering.ok_or(Refusal::Unsupported)?)
    }

    /// Whether a node reads computed integers.
    fn has_integers(&self, node: &NodeProto) -> bool {
        node.input.iter().any(|name| self.integers.contains(name))
    }

    /// Whether what a node computes are integers.
    fn gives_integers(&self, node: &NodeProto) -> bool {
        match node.op_type.as_str() {
            "Cast" => {
                node.attributes().get("to").is_some_and(|to| data_type::INTS.iter().any(|&i| i64::from(i) == to.i))
            }
            "And" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Not" | "Or" | "Xor" => false,
            // The condition does not count.
            "Where" => node.input.iter().skip(1).any(|name| self.integers.contains(name)),
            _ => self.has_integers(node),
        }
    }

    /// Lowers a node, and brings its inputs in order as it asks for.
    fn lower(
        &mut self,
        origin: usize,
        name: &str,
        mut inputs: Vec<Option<Input<'a>>>,
        lowering: Lowering,
    ) -> Result<Outcome, Refusal> {
        let file = self.file;
        let node = &file.node[origin];
        // Each input is brought in order once or twice; a limit keeps a mistake from being a loop without end.
        let integer = self.has_integers(node);
        for _ in 0..4 * inputs.len() + 4 {
            let site = Site::new(node, inputs.clone(), (self.opset, self.batch, integer), self.budget, &self.values);
            let outcome = lowering(&site);
            drop(site);
            let (index, slot) = match outcome {
                Err(Refusal::Rearrange(index, form)) => {
                    let Some(Some(Input { slot: Slot::Value(view), .. })) = inputs.get(index) else { break };
                    let view = view.clone();
                    (index, self.arranged(&view, form, name)?)
                }
                Err(Refusal::Store(index, array, axes)) => (index, self.stored(array, axes, name)?),
                outcome => return outcome,
            };
            if let Some(Some(input)) = inputs.get_mut(index) {
                input.slot = Slot::Value(slot);
            }
        }
        Err("its inputs cannot be brought in the order that it needs".into())
    }

    /// A tensor in a form, made once.
    fn arranged(&mut self, view: &View, form: Form, name: &str) -> Result<View, Refusal> {
        let key = (view.value, view.axes.clone(), form);
        if let Some(arranged) = self.arranged.get(&key) {
            return Ok(arranged.clone());
        }
        let outcome = arrange(view, &self.values[view.value.0].shape, form)?;
        let wish = self.values[view.value.0].name.clone();
        let arranged = match outcome {
            Outcome::Steps { inputs, steps, axes } => {
                let label = format!("{name}/arranged");
                let moves = steps.iter().any(|step| matches!(step.op, Lowered::Op(Op::Transpose { .. })));
                let op_type = if moves { "Transpose" } else { "Reshape" };
                self.push_steps((None, &label, op_type), &wish, inputs, steps, axes)?
            }
            Outcome::View(view) => view,
            _ => return Err("it cannot be brought in order".into()),
        };
        self.arranged.insert(key, arranged.clone());
        Ok(arranged)
    }

    /// A constant as a value that is the same for every sample.
    fn stored(&mut self, Array { dims, data }: Array<f32>, axes: Axes, name: &str) -> Result<View, Refusal> {
        let step = Step { op: Lowered::Op(Op::Constant(Constant { dims: dims.clone(), data })), shape: dims };
        let name = format!("{name}/constant");
        self.push_steps((None, &name, "Constant"), &name, vec![INPUT], vec![step], Some(axes))
    }

    fn resolve(&self, name: &'a str) -> Result<Option<Input<'a>>, Refusal> {
        if name.is_empty() {
            return Ok(None);
        }
        match self.slots.get(name) {
            None => Err(format!("it reads `{name}`, which nothing provides").into()),
            Some(Slot::Extra) => {
                Err(format!("it reads `{name}`; outputs of an operator other than the first are not supported").into())
            }
            Some(slot) => Ok(Some(Input { name, slot: slot.clone() })),
        }
    }

    /// Makes the values and drafts that an outcome asks for.
    fn accept(&mut self, origin: usize, name: &str, outcome: Outcome) -> Result<(), Refusal> {
        let file = self.file;
        let node = &file.node[origin];
        let outcomes = match outcome {
            Outcome::Several(outcomes) => outcomes,
            one => vec![one],
        };
        self.bind(node, Slot::Extra);
        // Shapes and other constants that a node reads say nothing about what it computes.
        let computes = outcomes.iter().any(|outcome| !matches!(outcome, Outcome::Known(_)));
        if computes && self.gives_integers(node) {
            self.integers.extend(node.output.iter().cloned());
        }
        for (outcome, output) in outcomes.into_iter().zip(&node.output).filter(|(_, output)| !output.is_empty()) {
            let slot = match outcome {
                Outcome::Unknown | Outcome::Several(_) => Slot::Unknown,
                Outcome::View(view) => {
                    self.rewrites.push(Rewrite { kind: "moves no element", node: name.to_owned() });
                    Slot::Value(view)
                }
                Outcome::Known(known) => {
                    let mut origins = node.input.iter().filter_map(|input| match self.slots.get(input) {
                        Some(Slot::Known(_, origin)) => Some(origin.clone()),
                        _ => None,
                    });
                    let origin = origins.next().unwrap_or_else(|| Arc::from(output.as_str()));
                    if node.op_type != "Constant" {
                        self.rewrites.push(Rewrite { kind: "constant", node: name.to_owned() });
                    }
                    Slot::Known(known, origin)
                }
                Outcome::Steps { inputs, steps, axes } => {
                    // Where it takes several operators none of them is the node.
                    let origin = (steps.len() == 1).then_some(origin);
                    Slot::Value(self.push_steps((origin, name, &node.op_type), output, inputs, steps, axes)?)
                }
            };
            self.slots.insert(output.clone(), slot);
        }
        Ok(())
    }

    /// Makes a value and a draft for each step. The last value is named as is wished where that is the name of an
    /// output, and nothing else has it yet.
    fn push_steps(
        &mut self,
        (origin, name, op_type): (Option<usize>, &str, &str),
        output: &str,
        mut inputs: Vec<ValueId>,
        steps: Vec<Step>,
        axes: Option<Axes>,
    ) -> Result<View, Refusal> {
        let last = steps.len().saturating_sub(1);
        let mut rank = 0;
        for (at, Step { op, shape }) in steps.into_iter().enumerate() {
            if count(&shape).is_none_or(|elements| !(1..=tensor::MAX_ELEMENTS).contains(&elements)) {
                return Err(format!("its output of shape {shape:?} is too large").into());
            }
            if shape.is_empty() {
                return Err("it leaves no dimension but the batch, which is not supported".into());
            }
            if shape.len() >= tensor::MAX_RANK {
                return Err(format!("its output of shape {shape:?} has too many dimensions").into());
            }
            let id = ValueId(self.values.len());
            rank = shape.len();
            let value = match at == last {
                true => self.names.output(output),
                false => self.names.value(&format!("{output}/{at}")),
            };
            self.values.push(Value { name: value, shape });
            let name = if at == 0 { self.names.own(name) } else { self.names.node(&format!("{name}/{at}")) };
            if let Lowered::Also(_, also) = op {
                inputs.push(also);
            }
            self.drafts.push(Draft { origin, name, op_type: op_type.to_owned(), op, inputs, output: id });
            inputs = vec![id];
        }
        let value = *inputs.first().ok_or("it computes nothing")?;
        Ok(View { value, axes: axes.unwrap_or_else(|| plain(rank)) })
    }

    /// Gives the first output its meaning.
    fn bind(&mut self, node: &NodeProto, first: Slot) {
        let slots = std::iter::once(first).chain(std::iter::repeat(Slot::Extra));
        for (output, slot) in node.output.iter().zip(slots).filter(|(output, _)| !output.is_empty()) {
            self.slots.insert(output.clone(), slot);
        }
    }

    fn unsupported(&mut self, node: &'a NodeProto, name: String) {
        if self.seen.insert((&node.domain, &node.op_type)) {
            let onnx = is_onnx(&node.domain);
            self.unsupported.push(UnsupportedOperator {
                op_type: node.op_type.clone(),
                node: name,
                domain: if onnx { "ai.onnx".to_owned() } else { node.domain.clone() },
                opset: if onnx { self.opset } else { self.domains.get(&*node.domain).copied().unwrap_or(0) },
            });
        }
    }

    /// Folds what is to be folded, but no scale into the weights of `quantized`, drops what nothing reads, and closes the graph.
    fn finish(mut self, quantized: &HashSet<String>) -> Result<Finished, OnnxError> {
        let outputs = self.outputs()?;
        let Walk { file, budget, mut names, slots, mut values, inputs, mut drafts, mut rewrites, .. } = self;
        // The slots share the weights; with them gone, folding can change weights in place.
        drop(slots);
        prune(&mut drafts, values.len(), &outputs);
        rewrite::apply(&mut drafts, &values, &outputs, &mut rewrites);
        let (mut nodes, origins) =
            affine::fold(drafts, &mut values, &outputs, quantized, &mut names, budget, &mut rewrites)?;
        let mut renamed = HashSet::new();
        for (id, output) in outputs.iter().zip(&file.output) {
            // An identity may stand between the last operator and the name that the world knows.
            if renamed.insert(*id) {
                values[id.0].name.clone_from(&output.name);
            }
        }
        let mut outputs = outputs;
        let values = compact(values, inputs, &mut nodes, &mut outputs);
        let inputs = (0..inputs).map(ValueId).collect();
        Ok((Graph { name: file.name.clone(), values, nodes, inputs, outputs }, origins, rewrites))
    }

    /// The values that leave the graph, as they are in the file.
    fn outputs(&mut self) -> Result<Vec<ValueId>, OnnxError> {
        if self.file.output.is_empty() {
            return Err(OnnxError::Model("the graph has no output".to_owned()));
        }
        let mut outputs = Vec::new();
        for output in &self.file.output {
            let found = match self.slots.get(&output.name) {
                Some(Slot::Value(view)) => {
                    let view = view.clone();
                    match self.arranged(&view, Form::Plain, &output.name) {
                        Ok(View { value, .. }) if value.0 < self.inputs => Err("is its input".to_owned()),
                        Ok(view) => Ok(view.value),
                        Err(refusal) => Err(format!("cannot be given: {}", reason(refusal))),
                    }
                }
                Some(Slot::Known(..)) => Err("is constant".to_owned()),
                Some(Slot::Extra) => Err("is not the first output of its operator, which is not supported".to_owned()),
                Some(Slot::Unknown) | None => Err("is written by no node".to_owned()),
            };
            let id =
                found.map_err(|reason| OnnxError::Model(format!("output `{}` of the graph {reason}", output.name)))?;
            outputs.push(id);
        }
        Ok(outputs)
    }
}

/// What a refusal says to people.
fn reason(refusal: Refusal) -> String {
    match refusal {
        Refusal::Reason(reason) => reason,
        Refusal::Error(error) => error.to_string(),
        Refusal::Unsupported => "it is not supported".to_owned(),
        Refusal::Rearrange(..) | Refusal::Store(..) => {
            "its inputs cannot be brought in the order that it needs".to_owned()
        }
    }
}

/// Drops the drafts that no output depends on; a value of which only the shape is read has some.
pub(super) fn prune(drafts: &mut Vec<Draft>, values: usize, outputs: &[ValueId]) {
    let mut needed = vec![false; values];
    for id in outputs {
        needed[id.0] = true;
    }
    let mut keep = vec![false; drafts.len()];
    for (keep, draft) in keep.iter_mut().zip(drafts.iter()).rev() {
        *keep = needed[draft.output.0];
        if *keep {
            draft.inputs.iter().for_each(|id| needed[id.0] = true);
        }
    }
    let mut keep = keep.into_iter();
    drafts.retain(|_| keep.next().unwrap_or(true));
}

/// Drops the values that no node writes, but the inputs, and numbers the others in the order of the nodes.
fn compact(values: Vec<Value>, inputs: usize, nodes: &mut [Node], outputs: &mut [ValueId]) -> Vec<Value> {
    let mut values: Vec<Option<Value>> = values.into_iter().map(Some).collect();
    let mut renumbered: Vec<ValueId> = (0..values.len()).map(ValueId).collect();
    let mut kept: Vec<Value> = values.iter_mut().take(inputs).filter_map(Option::take).collect();
    for node in nodes {
        node.inputs.iter_mut().for_each(|id| *id = renumbered[id.0]);
        renumbered[node.output.0] = ValueId(kept.len());
        kept.extend(values[node.output.0].take());
        node.output = renumbered[node.output.0];
    }
    outputs.iter_mut().for_each(|id| *id = renumbered[id.0]);
    kept
}
