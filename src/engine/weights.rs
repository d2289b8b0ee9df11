//! Packed weights, each made once and shared by all plans.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::GroupQuantization;
use crate::{
    graph::{Node, NodeId, Op, Window},
    kernels::{Geometry, Kernels, PackedFloat, PackedInteger},
    quant::{WeightScales, WeightScheme, WeightSpec},
    sqnr::Energies,
};

/// A weight in s8.
#[derive(Debug)]
pub struct QuantizedWeight {
    /// As kernels read it.
    pub packed: PackedInteger,
    /// How it was quantized.
    pub scales: WeightScales,
    /// SQNR of the dequantized weight, in dB.
    pub sqnr: f64,
    /// Granularity, for its size and for people.
    pub spec: WeightSpec,
}

impl QuantizedWeight {
    /// Number of scales that are stored.
    pub fn stored_scales(&self) -> &[f32] {
        let scales = &self.scales.scales;
        match self.spec.qscheme {
            // A raised bias makes a per-tensor weight per-channel.
            WeightScheme::PerTensorSymmetric if self.scales.raised.is_empty() => &scales[..scales.len().min(1)],
            _ => scales,
        }
    }
}

/// The grid of a weight depends on its input's scale only where a bias raised a channel, but the key may as well
/// always hold it: within a job a group's input scale hardly changes.
type IntegerKey = (NodeId, WeightSpec, u32, Option<Vec<u32>>);

/// All packed weights of an engine.
#[derive(Debug)]
pub(super) struct PackedWeights {
    kernels: Kernels,
    float: Vec<OnceLock<Arc<PackedFloat>>>,
    integer: Mutex<HashMap<IntegerKey, Arc<QuantizedWeight>>>,
}

impl PackedWeights {
    pub(super) fn new(kernels: Kernels, nodes: usize) -> PackedWeights {
        PackedWeights { kernels, float: (0..nodes).map(|_| OnceLock::new()).collect(), integer: Mutex::default() }
    }

    /// The f32 weight of a convolution or linear layer.
    pub(super) fn float(&self, node: &Node, id: NodeId) -> Option<Arc<PackedFloat>> {
        let Layer { geometry, weight, bias } = layer(node)?;
        Some(self.float[id.0].get_or_init(|| Arc::new(PackedFloat::new(self.kernels, geometry, weight, bias))).clone())
    }

    /// The s8 weight of a convolution or linear layer.
    pub(super) fn integer(
        &self,
        node: &Node,
        id: NodeId,
        quantization: &GroupQuantization,
    ) -> Option<Arc<QuantizedWeight>> {
        let (layer, input) = (layer(node)?, quantization.inputs.first().copied().flatten()?);
        let given = quantization.scales.as_ref().map(|scales| scales.iter().map(|scale| scale.to_bits()).collect());
        let key = (id, quantization.weight, input.scale.to_bits(), given);
        // Packing under the lock: two threads that want the same weight must not both make it.
        let mut packed = self.integer.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(quantize(self.kernels, &layer, quantization, input.scale));
        Some(packed.entry(key).or_insert_with(make).clone())
    }
}

/// What a node that has a weight computes with.
pub(super) struct Layer<'a> {
    pub geometry: Geometry,
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
}

/// The weight of a convolution or linear layer; `None` for other operators.
pub(super) fn layer(node: &Node) -> Option<Layer<'_>> {
    match &node.op {
        Op::Conv(conv) => {
            let geometry = Geometry {
                in_channels: conv.weight.dims[1] * conv.groups,
                out_channels: conv.weight.dims[0],
                groups: conv.groups,
                window: conv.window,
            };
            Some(Layer { geometry, weight: &conv.weight.data, bias: conv.bias.as_deref() })
        }
        Op::Linear(linear) => {
            let window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };
            let (out_channels, in_channels) = (linear.weight.dims[0], linear.weight.dims[1]);
            let geometry = Geometry { in_channels, out_channels, groups: 1, window };
            Some(Layer { geometry, weight: &linear.weight.data, bias: linear.bias.as_deref() })
        }
        _ => None,
    }
}

/// See [`super::Engine::corrected_bias`].
pub(super) fn corrected_bias(node: &Node, spec: &WeightSpec, input_scale: f32, means: &[f64]) -> Option<Vec<f32>> {
    let Layer { geometry, weight, bias } = layer(node)?;
    let channels = geometry.out_channels;
    let scales = WeightScales::of(weight, bias, channels, input_scale, spec);
    let [height, width] = geometry.window.kernel;
    let (inputs, taps) = (geometry.in_channels / geometry.groups, height * width);
    let shift = |(channel, weights): (usize, &[f32])| {
        let first = channel / (channels / geometry.groups) * inputs;
        let added = weights.chunks(taps).zip(&means[first..]).map(|(taps, mean)| {
            let error = |&w: &f32| f64::from(scales.dequantize(channel, scales.quantize(channel, w))) - f64::from(w);
            taps.iter().map(error).sum::<f64>() * mean
        });
        let own = bias.and_then(|bias| bias.get(channel)).copied().unwrap_or(0.0);
        (f64::from(own) - added.sum::<f64>()) as f32
    };
    let row = (inputs * taps).max(1);
    (means.len() == geometry.in_channels).then(|| weight.chunks(row).enumerate().map(shift).collect())
}

fn quantize(
    kernels: Kernels,
    layer: &Layer<'_>,
    quantization: &GroupQuantization,
    input_scale: f32,
) -> QuantizedWeight {
    let &Layer { geometry, weight, bias } = layer;
    let (channels, spec) = (geometry.out_channels, &quantization.weight);
    let scales = match &quantization.scales {
        Some(given) => WeightScales::given(given, channels, spec),
        None => WeightScales::of(weight, bias, channels, input_scale, spec),
    };
    let row = (weight.len() / channels.max(1)).max(1);
    let mut energies = Energies::default();
    let mut integers = Vec::with_capacity(weight.len());
    for (channel, weights) in weight.chunks(row).enumerate() {
        for &w in weights {
            let q = scales.quantize(channel, w);
            energies.add(w, scales.dequantize(channel, q));
            integers.push(q);
        }
    }
    QuantizedWeight {
        packed: PackedInteger::new(kernels, geometry, &integers),
        scales,
        sqnr: energies.sqnr(),
        spec: *spec,
    }
}
