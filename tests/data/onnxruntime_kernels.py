"""Writes onnxruntime_kernels.json: small integer operators as ONNX Runtime computes them.

    pip install onnxruntime==1.32.0 onnx numpy && python onnxruntime_kernels.py

Data come from a fixed seed. Graph optimizations are off, so that each operator runs as it is named. ConvInteger gets
its weights as u8 with zero point 128: ONNX Runtime has no u8 x s8 ConvInteger on CPUs. QLinearConv gets u8 x s8 with
weights in -64..63: on CPUs without VNNI, ONNX Runtime multiplies u8 x s8 with sums in s16 that saturate beyond that.
QLinearAdd and QLinearMul are those of a CPU with AVX2. Layouts are ONNX's (NCHW, OIHW).
"""

import json
import pathlib

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
random = np.random.default_rng(20)


def run(op, inputs, result, domain="", **attributes):
    """Runs one node; the first input is fed, the others are constants."""
    names = [f"i{n}" for n in range(len(inputs))]
    node = helper.make_node(op, names, ["y"], domain=domain, **attributes)
    x = helper.make_tensor_value_info("i0", TYPES[inputs[0].dtype.name], inputs[0].shape)
    y = helper.make_tensor_value_info("y", result, None)
    constants = [numpy_helper.from_array(value, name) for value, name in zip(inputs[1:], names[1:])]
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], op, [x], [y], constants), opset_imports=opsets)
    model.ir_version = 8
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {"i0": inputs[0]})[0]


def flat(array):
    """Numbers as JSON writes them; an f32 is exact as the shortest decimal of its f64."""
    return np.asarray(array).reshape(-1).tolist()


# name, batch, in, out, groups, height, width, kernel, stride, dilation, pads
CONVOLUTIONS = [
    ("pointwise", 1, 24, 18, 1, 4, 5, [1, 1], [1, 1], [1, 1], [0, 0, 0, 0]),
    ("3x3, stride 2", 2, 5, 17, 1, 7, 6, [3, 3], [2, 2], [1, 1], [1, 1, 1, 1]),
    ("asymmetric pads, dilated", 1, 7, 4, 1, 6, 7, [2, 3], [1, 2], [2, 1], [0, 2, 1, 1]),
    ("grouped", 1, 6, 8, 2, 5, 5, [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
    ("depthwise", 1, 19, 19, 19, 6, 6, [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
    ("depthwise, stride 2", 1, 16, 16, 16, 7, 7, [5, 5], [2, 2], [1, 1], [2, 2, 2, 2]),
]


def convolutions():
    for name, batch, channels, out, groups, height, width, kernel, stride, dilation, pads in CONVOLUTIONS:
        attributes = {"kernel_shape": kernel, "strides": stride, "dilations": dilation, "pads": pads, "group": groups}
        x = random.integers(0, 256, (batch, channels, height, width), dtype=np.uint8)
        zero_point = np.uint8(random.integers(0, 256))
        shape = (out, channels // groups, *kernel)
        weight = random.integers(-128, 128, shape, dtype=np.int8)
        shifted = (weight.astype(np.int16) + 128).astype(np.uint8)
        inputs = [x, shifted, np.array(zero_point), np.array(np.uint8(128))]
        sums = run("ConvInteger", inputs, TensorProto.INT32, **attributes)

        small = random.integers(-64, 64, shape, dtype=np.int8)
        bias = random.integers(-5000, 5000, out, dtype=np.int32)
        x_scale, y_scale = np.float32(random.uniform(0.01, 0.05)), np.float32(random.uniform(0.05, 0.1))
        spread = 64 * 37 * np.sqrt(np.prod(shape[1:]))
        w_scale = (random.uniform(0.5, 1.5, out) * 60 * y_scale / x_scale / spread).astype(np.float32)
        y_zero = np.uint8(random.integers(60, 200))
        inputs = [x, x_scale, zero_point, small, w_scale, np.zeros(out, np.int8), y_scale, y_zero, bias]
        inputs = [np.asarray(value) for value in inputs]
        quantized = run("QLinearConv", inputs, TensorProto.UINT8, **attributes)
        yield {
            "name": name, "x_shape": list(x.shape), "w_shape": list(shape), "groups": groups,
            "kernel": kernel, "stride": stride, "dilation": dilation, "pads": pads,
            "x": flat(x), "x_zero_point": int(zero_point), "y_shape": list(sums.shape),
            "integer": {"w": flat(weight), "y": flat(sums)},
            "quantized": {
                "w": flat(small), "bias": flat(bias), "x_scale": float(x_scale), "w_scales": flat(w_scale),
                "y_scale": float(y_scale), "y_zero_point": int(y_zero), "y": flat(quantized),
            },
        }


def quantizations():
    for scale, zero_point in [(0.017, 0), (0.25, 128), (1.0, 255), (3.7, 3)]:
        scale, zero_point = np.asarray(np.float32(scale)), np.asarray(np.uint8(zero_point))
        # Random numbers beyond both ends, and every half step, where rounding shows.
        halves = (np.arange(-40, 41) * np.float32(0.5)).astype(np.float32) * scale
        x = np.concatenate([random.uniform(-300, 300, 60).astype(np.float32) * scale, halves.astype(np.float32)])
        y = run("QuantizeLinear", [x, scale, zero_point], TensorProto.UINT8)
        back = run("DequantizeLinear", [y, scale, zero_point], TensorProto.FLOAT)
        yield {"scale": float(scale), "zero_point": int(zero_point), "x": flat(x), "y": flat(y), "back": flat(back)}


def pairs(op, random):
    """Sums or products of two integers. Of all pairs those are kept whose exact result is next to the middle between two
    integers, where the order of rounding shows, and some others; every other case has scales that make many ties."""
    a, b = (axis.reshape(-1).astype(np.uint8) for axis in np.meshgrid(np.arange(256), np.arange(256)))
    for case in range(12):
        scales = random.uniform(0.01, 0.1, 3).astype(np.float32)
        if case % 2:
            scales = scales[0] * random.choice([0.5, 0.75, 1, 1.5, 2, 3], 3).astype(np.float32)
        if op == "QLinearMul":
            scales[2] *= np.float32(5)
        zeros = random.integers(0, 256, 3, dtype=np.uint8)
        inputs = [a, scales[0], zeros[0], b, scales[1], zeros[1], scales[2], zeros[2]]
        y = run(op, [np.asarray(i) for i in inputs], TensorProto.UINT8, domain="com.microsoft")
        own = [(q.astype(np.float64) - float(z)) * float(s) for q, z, s in zip((a, b), zeros, scales)]
        exact = (own[0] + own[1] if op == "QLinearAdd" else own[0] * own[1]) / float(scales[2]) + float(zeros[2])
        close = np.flatnonzero((np.abs(exact - np.floor(exact) - 0.5) < 2e-5) & (exact > -1) & (exact < 256))
        kept = np.concatenate([random.permutation(close)[:90], random.integers(0, a.size, 30)])
        yield {
            "a": flat(a[kept]), "b": flat(b[kept]), "scales": [float(s) for s in scales],
            "zero_points": [int(z) for z in zeros], "y": flat(y[kept]),
        }


document = {
    "made_by": f"onnxruntime {ort.__version__}, CPUExecutionProvider; see onnxruntime_kernels.py",
    "convolutions": list(convolutions()),
    "quantizations": list(quantizations()),
    "additions": list(pairs("QLinearAdd", np.random.default_rng(21))),
    "products": list(pairs("QLinearMul", np.random.default_rng(22))),
}
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps(document, separators=(",", ":")) + "\n")
print(path.name, path.stat().st_size, "bytes")
