"""Writes quantized/fp32.onnx, quantized/int8.onnx, quantized/x.npy and quantized/expected.json: a small network, what
ONNX Runtime's quantize_static makes of it, and what that costs, computed by NumPy and ONNX Runtime.

    pip install onnx==1.23.2 onnxruntime==1.32.0 numpy && python3 tests/models/quantized.py

The SQNRs are those of `qtuned analyze --against`: of the weight; of a layer's output when it is fed what fp32 feeds it;
of a layer's output in the quantized network; of the network's output.
"""
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

random = np.random.default_rng(7)
folder = Path(__file__).parent / "quantized"
folder.mkdir(exist_ok=True)
initializers = []


def weight(name, *shape):
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else shape[0]
    array = random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(fan_in))
    initializers.append(numpy_helper.from_array(array, name))
    return name


def conv(name, x, y, into, out, kernel, group=1, **more):
    inputs = [x, weight(f"{name}.weight", out, into // group, kernel, kernel), weight(f"{name}.bias", out)]
    pads = [kernel // 2] * 4
    return helper.make_node("Conv", inputs, [y], name, kernel_shape=[kernel] * 2, pads=pads, group=group, **more)


# Each layer with the values that it reads and the one that it gives, that of its Relu where it has one.
layers = [
    ("stem", ["x"], "stem_relu"),
    ("depthwise", ["stem_relu"], "depthwise_relu"),
    ("project", ["depthwise_relu"], "project"),
    ("sum", ["stem_relu", "project"], "sum"),
    ("pool", ["sum"], "pool"),
    ("head", ["flat"], "y"),
]
nodes = [
    conv("stem", "x", "stem", 3, 12, 3, strides=[2, 2]),
    helper.make_node("Relu", ["stem"], ["stem_relu"], "stem_relu"),
    conv("depthwise", "stem_relu", "depthwise", 12, 12, 3, group=12),
    helper.make_node("Relu", ["depthwise"], ["depthwise_relu"], "depthwise_relu"),
    conv("project", "depthwise_relu", "project", 12, 12, 1),
    helper.make_node("Add", ["stem_relu", "project"], ["sum"], "sum"),
    helper.make_node("GlobalAveragePool", ["sum"], ["pool"], "pool"),
    helper.make_node("Flatten", ["pool"], ["flat"], "flat", axis=1),
    helper.make_node("Gemm", ["flat", weight("head.weight", 10, 12), weight("head.bias", 10)], ["y"], "head", transB=1),
]
graph = helper.make_graph(
    nodes, "quantized", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])], initializers)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
model.ir_version = 8
onnx.checker.check_model(model, full_check=True)
fp32, int8 = folder / "fp32.onnx", folder / "int8.onnx"
onnx.save(model, fp32)
x = random.standard_normal((8, 3, 16, 16)).astype(np.float32)
np.save(folder / "x.npy", x)


class Reader(CalibrationDataReader):
    def __init__(self):
        self.left = iter([{"x": x[i : i + 1]} for i in range(len(x))])

    def get_next(self):
        return next(self.left, None)


quantize_static(fp32, int8, Reader(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8, per_channel=True)
quantized = onnx.shape_inference.infer_shapes(onnx.load(int8))


def values(model, names, feeds):
    """These values of a model, as it says, without an optimizer."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    have = {output.name for output in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in have)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, feeds)))


def sqnr(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    return 10 * np.log10((x**2).sum() / ((x - y) ** 2).sum())


constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
original = {tensor.name: numpy_helper.to_array(tensor) for tensor in initializers}


def dequantized(name):
    node = next(n for n in quantized.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == f"{name}_quantized")
    q, scale = (constants[i] for i in node.input[:2])
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    shape = [-1 if i == axis else 1 for i in range(q.ndim)]
    return q.astype(np.float32) * (scale.reshape(shape) if scale.size > 1 else scale)


names = sorted({name for _, reads, gives in layers for name in [*reads, gives]} - {"x"})
in_fp32 = values(model, names, {"x": x}) | {"x": x}
given = {name: "y" if gives == "y" else f"{gives}_DequantizeLinear_Output" for name, _, gives in layers}
everywhere = values(quantized, list(given.values()), {"x": x})
expected = {"output": float(sqnr(in_fp32["y"], everywhere["y"])), "groups": {}}
for name, reads, gives in layers:
    # The layer alone, from the values in f32 that are quantized for it to the one that it gives.
    part = onnx.utils.Extractor(quantized).extract_model(reads, [given[name]])
    del part.graph.input[:]
    part.graph.input.extend(helper.make_tensor_value_info(r, TensorProto.FLOAT, in_fp32[r].shape) for r in reads)
    alone = values(part, [given[name]], {r: in_fp32[r] for r in reads})[given[name]]
    group = {"local": sqnr(in_fp32[gives], alone), "accumulated": sqnr(in_fp32[gives], everywhere[given[name]])}
    if f"{name}.weight" in original:
        group["weight"] = sqnr(original[f"{name}.weight"], dequantized(f"{name}.weight"))
    expected["groups"][name] = {kind: float(db) for kind, db in group.items()}
(folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
print(json.dumps(expected, indent=1))
