//! Weights and biases of layers in integers, in the layout of the file.

use super::{
    ExportError, Target,
    rewrite::{Quantized, Rewrite},
    tensors,
};
use crate::{
    engine::GroupQuantization,
    graph::{Constant, Node, Op},
    onnx::proto::{attribute_type, data_type},
    quant::{WeightScales, WeightScheme},
};

/// What a layer computes with; `None` for other operators.
fn parameters(node: &Node) -> Option<(&Constant, Option<&[f32]>)> {
    match &node.op {
        Op::Conv(conv) => Some((&conv.weight, conv.bias.as_deref())),
        Op::Linear(linear) => Some((&linear.weight, linear.bias.as_deref())),
        _ => None,
    }
}

/// Scales of a layer's weight.
pub(super) fn scales(node: &Node, quantization: &GroupQuantization) -> Option<WeightScales> {
    let (weight, bias) = parameters(node)?;
    let (input, channels) = (quantization.inputs.first().copied().flatten()?, *weight.dims.first()?);
    Some(match &quantization.scales {
        Some(given) => WeightScales::given(given, channels, &quantization.weight),
        None => WeightScales::of(&weight.data, bias, channels, input.scale, &quantization.weight),
    })
}

impl Quantized<'_> {
    /// Whether the weight has a scale for each output channel; also a weight of one scale has where a bias raised some.
    pub(super) fn is_per_channel(&self) -> bool {
        let per_channel = self.quantization.weight.qscheme == WeightScheme::PerChannelSymmetric;
        self.scales.as_ref().is_some_and(|scales| per_channel || !scales.raised.is_empty())
    }
}

impl Rewrite<'_> {
    /// Quantizes the weight of a layer, the file's node `main` with `folded` in it; gives the node that writes its output.
    pub(super) fn layer(&mut self, one: &Quantized<'_>, main: usize, folded: &[usize]) -> Result<usize, ExportError> {
        let source = self.source;
        let anchor = one.group.anchor;
        let node = source.model.graph.node(anchor);
        let (Some((Constant { dims, data: weight }, bias)), Some(scales)) = (parameters(node), &one.scales) else {
            return match folded {
                [] => Ok(main),
                _ => Err(self.refuse(anchor, "has something folded into it that the file cannot hold")),
            };
        };
        // What is written is the corrected bias, where there is one; the scales followed from the layer's own.
        let bias = one.quantization.bias.as_deref().or(bias);
        let row = weight.len() / dims[0].max(1);
        let mut integers = vec![0u8; weight.len()];
        // `Gemm` and `MatMul` have the output channels behind in the file.
        let attribute = |name: &str| self.file.node[main].attribute.iter().find(|a| a.name == name);
        let behind = match (self.file.node[main].op_type.as_str(), &node.op) {
            ("Conv", Op::Conv(_)) => false,
            // Over the channels of a picture they are convolutions that see one pixel.
            ("Gemm", Op::Linear(_) | Op::Conv(_)) => attribute("transB").is_none_or(|a| a.i == 0),
            ("MatMul", Op::Linear(_) | Op::Conv(_)) => true,
            ("BatchNormalization", Op::Conv(_)) => {
                self.normalization(one, main, weight, bias);
                return Ok(main);
            }
            _ => return Err(self.refuse(anchor, "has a weight, and no form in integers in ONNX; leave it in fp32")),
        };
        for (channel, weights) in weight.chunks(row.max(1)).enumerate() {
            for (at, &w) in weights.iter().enumerate() {
                let place = if behind { at * dims[0] + channel } else { channel * row + at };
                integers[place] = scales.quantize(channel, w) as u8;
            }
        }
        let mut dims: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        if self.file.node[main].op_type != "Conv" {
            dims.truncate(2);
        }
        if behind {
            dims.reverse();
        }
        let axis = i64::from(behind);
        let base = self.file.node[main].input.get(1).cloned().unwrap_or_default();
        self.check_float(anchor, &base)?;
        let stored: &[f32] =
            if one.is_per_channel() { &scales.scales } else { scales.scales.get(..1).unwrap_or_default() };
        let quantized = self.names.value(&format!("{base}_quantized"));
        self.initializers.push(tensors::bytes(quantized.clone(), dims, data_type::INT8, integers));
        let read = self.dequantize(&base, quantized, data_type::INT8, stored, axis, main);
        self.set_input(main, 1, read);

        if self.file.node[main].op_type == "MatMul" {
            return self.sum_behind(one, bias, &base, main, folded);
        }
        if let Some(bias) = bias {
            self.bias(one, bias, &base, main, 2);
        }
        // Weight and bias hold them now.
        self.file.node[main].attribute.retain(|a| !matches!(a.name.as_str(), "alpha" | "beta"));
        self.absorb(main, folded);
        Ok(main)
    }

    /// Makes the first node that is folded into a MatMul the addition of its bias, and takes the others out; gives the
    /// node that writes the layer's output.
    fn sum_behind(
        &mut self,
        one: &Quantized<'_>,
        bias: Option<&[f32]>,
        weight: &str,
        main: usize,
        folded: &[usize],
    ) -> Result<usize, ExportError> {
        let (Some((&first, others)), Some(bias)) = (folded.split_first(), bias) else {
            return match bias {
                Some(_) => {
                    let reason = "is a MatMul without an addition, which cannot hold a corrected bias";
                    Err(self.refuse(one.group.anchor, reason))
                }
                None => {
                    self.absorb(main, folded);
                    Ok(main)
                }
            };
        };
        let add = &mut self.file.node[first];
        let constant = add.input.iter().position(|name| !self.computed.contains(name));
        let at = match (add.op_type.as_str(), constant) {
            ("Add", Some(at)) => at,
            _ => {
                add.op_type = "Add".to_owned();
                add.attribute.clear();
                add.input.retain(|name| self.computed.contains(name));
                add.input.len()
            }
        };
        self.bias(one, bias, weight, first, at);
        self.absorb(first, others);
        Ok(first)
    }

    /// Gives `reader` a bias in s32 as input `at`.
    fn bias(&mut self, one: &Quantized<'_>, bias: &[f32], weight: &str, reader: usize, at: usize) {
        let (Some(scales), Some(input)) = (&one.scales, one.quantization.inputs.first().copied().flatten()) else {
            return;
        };
        let given = self.file.node[reader].input.get(at).filter(|name| !name.is_empty()).cloned();
        let base = given.unwrap_or_else(|| match weight.strip_suffix(".weight") {
            Some(module) => format!("{module}.bias"),
            None => format!("{weight}_bias"),
        });
        let steps: Vec<f32> = scales.scales.iter().map(|&s| (f64::from(input.scale) * f64::from(s)) as f32).collect();
        let dims = vec![bias.len() as i64];
        let quantized = self.names.value(&format!("{base}_quantized"));
        let integers = bias.iter().enumerate().map(|(channel, &b)| scales.quantize_bias(channel, b, input.scale));
        let read = if steps.iter().all(|step| step.is_normal()) && self.target != Target::TensorRt {
            self.initializers.push(tensors::ints(quantized.clone(), dims, &integers.collect::<Vec<_>>()));
            let stored = if one.is_per_channel() { &steps[..] } else { steps.get(..1).unwrap_or_default() };
            self.dequantize(&base, quantized, data_type::INT32, stored, 0, reader)
        } else {
            // Steps too small for an f32, or an engine that takes no integers here: the bias in f32 is as good.
            self.initializers.push(tensors::floats(quantized.clone(), dims, bias));
            quantized
        };
        self.set_input(reader, at, read);
    }

    fn set_input(&mut self, node: usize, at: usize, value: String) {
        let inputs = &mut self.file.node[node].input;
        inputs.resize(inputs.len().max(at + 1), String::new());
        inputs[at] = value;
    }

    /// Adds a DequantizeLinear of a constant before node `reader`; gives what it writes.
    fn dequantize(
        &mut self,
        base: &str,
        quantized: String,
        element_type: i32,
        scales: &[f32],
        axis: i64,
        reader: usize,
    ) -> String {
        let per_channel = scales.len() > 1;
        let dims = if per_channel { vec![scales.len() as i64] } else { vec![] };
        let scale = self.names.value(&format!("{base}_scale"));
        let zero_point = self.names.value(&format!("{base}_zero_point"));
        let zeros = vec![0; scales.len() * if element_type == data_type::INT32 { 4 } else { 1 }];
        self.initializers.push(tensors::floats(scale.clone(), dims.clone(), scales));
        self.initializers.push(tensors::bytes(zero_point.clone(), dims, element_type, zeros));
        let output = self.names.value(&format!("{base}_DequantizeLinear_Output"));
        let name = self.names.node(&format!("{base}_DequantizeLinear"));
        let mut node = tensors::node(name, "DequantizeLinear", vec![quantized, scale, zero_point], output.clone());
        if per_channel {
            node.attribute.push(tensors::int("axis", axis));
        }
        self.before[reader].push(node);
        output
    }

    /// Takes the nodes folded into `main` out: it writes what the last of them wrote.
    fn absorb(&mut self, main: usize, folded: &[usize]) {
        let Some(output) = folded.last().and_then(|&last| self.file.node[last].output.first().cloned()) else { return };
        let inner = std::iter::once(&main).chain(&folded[..folded.len() - 1]);
        let vanished: Vec<String> = inner.filter_map(|&node| self.file.node[node].output.first().cloned()).collect();
        for value in vanished {
            self.moved.insert(value, output.clone());
        }
        self.removed.extend(folded);
        self.file.node[main].output = vec![output];
    }

    /// A BatchNormalization of its own has no form in integers. It stays in f32 between its pairs, with the weight that
    /// the engine has; one with a scale a channel is the original's.
    fn normalization(&mut self, one: &Quantized<'_>, main: usize, weight: &[f32], bias: Option<&[f32]>) {
        let Some(scales) = &one.scales else { return };
        let dequantize = |(channel, &w): (usize, &f32)| scales.dequantize(channel, scales.quantize(channel, w));
        let quantized: Vec<f32> = weight.iter().enumerate().map(dequantize).collect();
        if quantized.iter().zip(weight).all(|(q, w)| (q - w).abs() <= w.abs() * 1e-6) {
            return;
        }
        let attributes = &self.file.node[main].attribute;
        let epsilon = attributes.iter().find(|a| a.name == "epsilon" && a.r#type == attribute_type::FLOAT);
        let deviation = (1.0 + f64::from(epsilon.map_or(1e-5, |a| a.f))).sqrt();
        let channels = weight.len();
        let scale: Vec<f32> = quantized.iter().map(|&q| (f64::from(q) * deviation) as f32).collect();
        let shift = bias.map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
        for (at, data) in [(1, scale), (2, shift), (3, vec![0.0; channels]), (4, vec![1.0; channels])] {
            let Some(base) = self.file.node[main].input.get(at).cloned() else { return };
            let name = self.names.value(&format!("{base}_quantized"));
            self.initializers.push(tensors::floats(name.clone(), vec![channels as i64], &data));
            self.file.node[main].input[at] = name;
        }
    }

    /// QuantizeLinear before operator set 19 reads and writes f32 alone.
    fn check_float(&self, anchor: crate::graph::NodeId, weight: &str) -> Result<(), ExportError> {
        match self.types.get(weight).copied() {
            Some(element_type) if element_type != data_type::FLOAT => {
                Err(self.refuse(anchor, "has a weight that is not 32-bit float; only 32-bit models are exported"))
            }
            _ => Ok(()),
        }
    }
}
