//! What nodes compute.

use std::sync::Arc;

use super::{Constant, Function, Window};

/// What a node computes. Tensors are `[batch, channels, height, width]`, `[batch, features]` or of another rank; axes
/// are counted without the batch, which no operator touches: 0 is the first after it.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Two-dimensional convolution (ONNX `Conv`, also a BatchNormalization that could not be folded,
    /// as a 1×1 depthwise convolution).
    Conv(Conv),
    /// Product of the last axis with a constant weight (ONNX `Gemm`, `MatMul`).
    Linear(Linear),
    /// Sum of two values. Their shapes are the same, or broadcast as in numpy.
    Add,
    /// Product of two values, element by element, of shapes as for [`Op::Add`].
    Mul,
    /// `min(max(x, min), max)` (ONNX `Relu`, `Clip`).
    Clip {
        /// Lower bound; may be -inf.
        min: f32,
        /// Upper bound; may be +inf.
        max: f32,
    },
    /// A function of every element.
    Map(Function),
    /// Largest element of a window; padding never wins.
    MaxPool(Window),
    /// Mean of a window.
    AveragePool {
        /// The window.
        window: Window,
        /// Whether padding counts as zeros (ONNX `count_include_pad`).
        count_include_pad: bool,
    },
    /// Mean over all pixels: `[n, c, h, w]` to `[n, c, 1, 1]`.
    GlobalAveragePool,
    /// New shape for each sample, elements in row-major (NCHW) order; the target is the output's shape.
    Reshape,
    /// Axis `i` of the output is axis `order[i]` of the input.
    Transpose {
        /// A permutation.
        order: Vec<usize>,
    },
    /// Slices of an axis (ONNX `Slice`, `Split`, `Gather` with constant indices, and channel shuffles).
    Select {
        /// The axis.
        axis: usize,
        /// Which slices, in order.
        indices: Arc<[usize]>,
    },
    /// Values one after the other along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// `exp(x) / Σ exp(x)` over one axis, or the logarithm of it.
    Softmax {
        /// The axis.
        axis: usize,
        /// Whether the logarithm is meant.
        log: bool,
    },
    /// Standardizes one axis (ONNX `LayerNormalization` and its like).
    Normalize(Normalize),
    /// Product of two matrices, the last two axes of both; the axes before them broadcast.
    MatMul,
    /// `softmax(scale · q·kᵀ)·v` of matrices, the last two axes of queries, keys and values (ONNX `Attention`). The axes
    /// before them are the same, but that several matrices of queries, one after the other, may share keys and values.
    Attention {
        /// Factor of the scores.
        scale: f32,
        /// Whether keys are `[count, depth]` as queries are, rather than `[depth, count]`.
        keys_in_rows: bool,
    },
    /// A function of two values, element by element, of shapes as for [`Op::Add`].
    Binary(Binary),
    /// The second value where the first is not 0, else the third; shapes broadcast.
    Where,
    /// One number of all along some axes; they stay with size 1, or are gone: the output's shape tells.
    Reduce {
        /// Which number.
        kind: Reduction,
        /// The axes, ascending.
        axes: Vec<usize>,
    },
    /// The number added around each sample.
    Pad {
        /// For each axis, how many elements before and after.
        pads: Vec<[usize; 2]>,
        /// What they are.
        value: f32,
    },
    /// Each slice of the output along an axis is a weighted sum of slices of the input (ONNX `Resize`, and the zeros
    /// between the elements that a `ConvTranspose` sees).
    Resample {
        /// The axis.
        axis: usize,
        /// For each slice of the output, which slices of the input, and their weights.
        taps: Arc<[Vec<(usize, f32)>]>,
    },
    /// `x / (bias + alpha/size · Σ x²)^beta`, the sum over neighbouring channels (ONNX `LRN`).
    LocalResponse {
        /// Channels in the sum.
        size: usize,
        /// Factor of the sum.
        alpha: f32,
        /// Exponent.
        beta: f32,
        /// Summand.
        bias: f32,
    },
    /// The same tensor for every sample. Its input tells how many samples there are.
    Constant(Constant),
    /// Repeats along axes of size 1, to the output's shape.
    Expand,
}

/// Parameters of [`Op::Conv`]: ONNX `Conv` of rank 4.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// `[out_channels, in_channels / groups, kernel_height, kernel_width]`.
    pub weight: Constant,
    /// One a output channel.
    pub bias: Option<Arc<[f32]>>,
    /// Name of the weight in the source file.
    pub weight_name: String,
    /// Number of groups; depthwise when it equals both channel counts.
    pub groups: usize,
    /// Where the window moves; the kernel size is the weight's.
    pub window: Window,
}

/// Parameters of [`Op::Linear`]: `y = x·weightᵀ + bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `[out_features, in_features]`.
    pub weight: Constant,
    /// One an output feature.
    pub bias: Option<Arc<[f32]>>,
    /// Name of the weight in the source file.
    pub weight_name: String,
}

/// Parameters of [`Op::Normalize`]: `(x − mean) / √(variance + epsilon) · scale + shift`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    /// The axis.
    pub axis: usize,
    /// Summand under the root.
    pub epsilon: f32,
    /// Whether the mean is taken off; without, the variance is the mean of squares (ONNX `RMSNormalization`).
    pub centered: bool,
    /// One an element of the axis.
    pub scale: Option<Arc<[f32]>>,
    /// One an element of the axis.
    pub shift: Option<Arc<[f32]>>,
}

/// A function of two elements. Truth values are 1 and 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a − b`.
    Sub,
    /// `a / b`.
    Div,
    /// `a^b`.
    Power,
    /// The smaller.
    Min,
    /// The larger.
    Max,
    /// The rest of a division, of the divisor's sign.
    Modulo,
    /// The rest of a division, of the dividend's sign.
    Remainder,
    /// `a` above 0, else `b·a`.
    PRelu,
    /// `a = b`.
    Equal,
    /// `a < b`.
    Less,
    /// `a ≤ b`.
    LessOrEqual,
    /// `a > b`.
    Greater,
    /// `a ≥ b`.
    GreaterOrEqual,
    /// Both are true.
    And,
    /// One is true.
    Or,
    /// One is true and the other is not.
    Xor,
}

impl Binary {
    /// The value at `a` and `b`.
    #[inline(always)]
    pub fn apply(self, a: f32, b: f32) -> f32 {
        let truth = |truth: bool| f32::from(truth);
        match self {
            Binary::Sub => a - b,
            Binary::Div => a / b,
            Binary::Power => a.powf(b),
            Binary::Min => a.min(b),
            Binary::Max => a.max(b),
            Binary::Modulo => a - b * (a / b).floor(),
            Binary::Remainder => a % b,
            Binary::PRelu if a < 0.0 => a * b,
            Binary::PRelu => a,
            Binary::Equal => truth(a == b),
            Binary::Less => truth(a < b),
            Binary::LessOrEqual => truth(a <= b),
            Binary::Greater => truth(a > b),
            Binary::GreaterOrEqual => truth(a >= b),
            Binary::And => truth(a != 0.0 && b != 0.0),
            Binary::Or => truth(a != 0.0 || b != 0.0),
            Binary::Xor => truth((a != 0.0) != (b != 0.0)),
        }
    }
}

/// What [`Op::Reduce`] makes of many numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// `Σ x`.
    Sum,
    /// The mean.
    Mean,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// `Π x`.
    Product,
    /// `Σ |x|`.
    L1,
    /// `√Σ x²`.
    L2,
    /// `Σ x²`.
    SumSquare,
    /// `ln Σ x`.
    LogSum,
    /// `ln Σ exp(x)`.
    LogSumExp,
}

impl Op {
    /// What it computes, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv(_) => "conv",
            Op::Linear(_) => "linear",
            Op::Add => "add",
            Op::Mul => "mul",
            Op::Clip { .. } => "clip",
            Op::Map(function) => function.name(),
            Op::MaxPool(_) => "max pool",
            Op::AveragePool { .. } | Op::GlobalAveragePool => "average pool",
            Op::Reshape => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Select { .. } => "select",
            Op::Concat { .. } => "concat",
            Op::Softmax { .. } => "softmax",
            Op::Normalize(_) => "normalize",
            Op::MatMul => "matmul",
            Op::Attention { .. } => "attention",
            Op::Binary(_) => "binary",
            Op::Where => "where",
            Op::Reduce { .. } => "reduce",
            Op::Pad { .. } => "pad",
            Op::Resample { .. } => "resample",
            Op::LocalResponse { .. } => "lrn",
            Op::Constant(_) => "constant",
            Op::Expand => "expand",
        }
    }

    /// Whether it gives the same on integers as on the numbers that they stand for, with its input's grid.
    pub fn carries(&self) -> bool {
        matches!(self, Op::MaxPool(_) | Op::Reshape | Op::Clip { .. } | Op::Transpose { .. } | Op::Select { .. })
    }
}
