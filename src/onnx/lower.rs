//! ONNX operators to the graph's: one function each, from a node and what is known around it.
//!
//! The functions only look; `import.rs` makes the values and nodes that they ask for, and brings inputs in order where
//! they say that they need it.

mod align;
mod attention;
mod joins;
mod layers;
mod normalize;
mod pairs;
mod pointwise;
mod pools;
mod products;
mod reduce;
mod resize;
mod selects;
mod shapes;
mod window;

pub(super) use attention::head_axes;
pub(super) use pairs::binary_function;
pub(super) use pointwise::function as unary_function;

use super::{
    array::Known,
    draft::Lowered,
    fold,
    proto::data_type,
    site::{Refusal, Site, Slot},
    view::{Axes, View},
};
use crate::graph::{Function, Op, SampleShape, ValueId};

/// What becomes of a node.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// Nothing can be said: an input comes from an operator that is not supported.
    Unknown,
    /// Its output is a value that is there.
    View(View),
    /// Its output is known now.
    Known(Known),
    /// It is computed in steps: the first reads `inputs`, each other one the step before it. The output lies in the
    /// last step's value as `axes` say, or is that value.
    Steps { inputs: Vec<ValueId>, steps: Vec<Step>, axes: Option<Axes> },
    /// It has several outputs.
    Several(Vec<Outcome>),
}

/// One operator, and the shape it writes.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    pub(super) op: Lowered,
    pub(super) shape: SampleShape,
}

impl Step {
    fn new(op: Op, shape: impl Into<SampleShape>) -> Step {
        Step { op: Lowered::Op(op), shape: shape.into() }
    }
}

/// Lowers a node at least one of whose inputs is computed.
pub(super) type Lowering = fn(&Site<'_>) -> Result<Outcome, Refusal>;

/// How to lower an operator.
pub(super) fn lowering(op_type: &str) -> Option<Lowering> {
    Some(match op_type {
        "Add" | "Div" | "Mul" | "Sub" => pairs::arithmetic,
        "And" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Max" | "Min" | "Mod" | "Or"
        | "Pow" | "PRelu" | "Xor" => pairs::binary,
        "Attention" => attention::attention,
        "AveragePool" => pools::average,
        "BatchNormalization" => normalize::batch,
        "Cast" => cast,
        "Clip" => pointwise::clip,
        "Concat" => joins::concat,
        "ConstantOfShape" => joins::constant_of_shape,
        "Conv" => layers::conv,
        "ConvTranspose" => layers::conv_transpose,
        "DepthToSpace" => shapes::depth_to_space,
        "Dropout" => dropout,
        "Expand" => joins::expand,
        "Flatten" => shapes::flatten,
        "Gather" => selects::gather,
        "Gemm" => products::gemm,
        "GlobalAveragePool" => pools::global_average,
        "GlobalMaxPool" => pools::global_max,
        "GroupNormalization" => normalize::group,
        "Identity" => |site| Ok(Outcome::View(site.view(0)?.0.clone())),
        "InstanceNormalization" => normalize::instance,
        "LRN" => pools::local_response,
        "LayerNormalization" | "RMSNormalization" => normalize::layer,
        "LogSoftmax" | "Softmax" => pointwise::softmax,
        "MatMul" => products::mat_mul,
        "MaxPool" => pools::max,
        "Mean" | "Sum" => pairs::sum,
        "Pad" => selects::pad,
        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
        | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => reduce::reduce,
        "Relu" => pointwise::relu,
        "Reshape" => shapes::reshape,
        "Resize" | "Upsample" => resize::resize,
        "Shape" => shape,
        "Slice" => selects::slice,
        "SpaceToDepth" => shapes::space_to_depth,
        "Split" => selects::split,
        "Squeeze" => shapes::squeeze,
        "Tile" => selects::tile,
        "Transpose" => shapes::transpose,
        "Unsqueeze" => shapes::unsqueeze,
        "Where" => pairs::choose,
        other if pointwise::is_function(other) => pointwise::map,
        _ => return None,
    })
}

impl Outcome {
    /// A single operator that reads one value, which is the tensor as it is; so is its output.
    fn one(input: ValueId, op: Op, shape: impl Into<SampleShape>) -> Outcome {
        Outcome::chain(input, vec![Step::new(op, shape)])
    }

    /// Operators one after the other, on a value that is the tensor as it is.
    fn chain(input: ValueId, steps: Vec<Step>) -> Outcome {
        Outcome::Steps { inputs: vec![input], steps, axes: None }
    }

    /// Operators one after the other, whose output lies in its value as the input does.
    fn like(view: &View, steps: Vec<Step>) -> Outcome {
        Outcome::Steps { inputs: vec![view.value], steps, axes: Some(view.axes.clone()) }
    }

    /// The output lies in its value like this.
    fn with_axes(view: &View, steps: Vec<Step>, axes: Axes) -> Outcome {
        match steps.is_empty() {
            true => Outcome::View(View { value: view.value, axes }),
            false => Outcome::Steps { inputs: vec![view.value], steps, axes: Some(axes) },
        }
    }
}

/// All values are f32, whatever they are in the file: a conversion between floats is nothing.
fn cast(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, shape) = site.view(0)?;
    let to = i32::try_from(site.int("to", 0)?).unwrap_or(0);
    let map = |function| Step::new(Op::Map(function), shape);
    Ok(match to {
        to if data_type::FLOATS.contains(&to) => Outcome::View(view.clone()),
        data_type::BOOL => Outcome::like(view, vec![map(Function::Not), map(Function::Not)]),
        to if data_type::INTS.contains(&to) => Outcome::like(view, vec![map(Function::Truncate)]),
        _ => return Err(Refusal::Unsupported),
    })
}

/// Dropout in inference does nothing.
fn dropout(site: &Site<'_>) -> Result<Outcome, Refusal> {
    if site.numbers(2)?.is_some_and(|mode| mode.data.iter().any(|&mode| mode != 0)) {
        return Err("it is in training mode".into());
    }
    Ok(Outcome::View(site.view(0)?.0.clone()))
}

/// The shape of a value is known now, but for the batch.
fn shape(site: &Site<'_>) -> Result<Outcome, Refusal> {
    fold::shape(site, site.dims(0)?)?.map(Outcome::Known).ok_or(Refusal::Unsupported)
}

/// Whether an input is constant, for operators that take one in either place.
fn is_known(site: &Site<'_>, index: usize) -> Result<bool, Refusal> {
    Ok(matches!(site.slot(index)?, Slot::Known(..)))
}
