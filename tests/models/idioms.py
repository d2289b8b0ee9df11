"""Writes idioms.onnx: what exporters leave around a small classifier, with the shapes that ONNX infers.

    python3 tests/models/idioms.py        (pip install onnx numpy)
"""
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
initializers = []


def const(name, array):
    initializers.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def weight(name, *shape):
    return const(name, random.standard_normal(shape).astype(np.float32) / 4)


def norm(prefix, channels):
    return [
        const(f"{prefix}.weight", 1 + 0.1 * random.standard_normal(channels).astype(np.float32)),
        weight(f"{prefix}.bias", channels),
        weight(f"{prefix}.running_mean", channels),
        const(f"{prefix}.running_var", (0.5 + random.random(channels)).astype(np.float32)),
    ]


nodes = [
    # Convolution, normalization, relu6 with constant nodes as bounds.
    helper.make_node("Conv", ["input", weight("stem.0.weight", 8, 3, 3, 3)], ["stem.0"], "/stem/stem.0/Conv",
                     kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    helper.make_node("BatchNormalization", ["stem.0", *norm("stem.1", 8)], ["stem.1"], "/stem/stem.1/BatchNormalization",
                     epsilon=1e-3),
    helper.make_node("Constant", [], ["low"], value_float=0.0),
    helper.make_node("Constant", [], ["high"], value=numpy_helper.from_array(np.float32(6))),
    helper.make_node("Clip", ["stem.1", "low", "high"], ["stem.2"], "/stem/stem.2/Clip"),
    # Depthwise with implicit padding, weights in half precision behind a cast.
    helper.make_node("Cast", [const("half", (random.standard_normal((8, 1, 3, 3)) / 4).astype(np.float16))],
                     ["block.dw.weight"], to=TensorProto.FLOAT),
    helper.make_node("Conv", ["stem.2", "block.dw.weight"], ["block.dw"], "/block/dw/Conv",
                     group=8, auto_pad="SAME_UPPER", dilations=[2, 2]),
    # Only a lower bound; a normalization that is read twice with its input; a sum.
    helper.make_node("Clip", ["block.dw", "low"], ["block.clip"], "/block/Clip"),
    helper.make_node("BatchNormalization", ["block.clip", *norm("block.bn", 8)], ["block.bn"], "/block/bn/BatchNormalization"),
    helper.make_node("Add", ["block.bn", "block.clip"], ["block.add"], "/block/Add"),
    helper.make_node("MaxPool", ["block.add"], ["pool"], "/pool/MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    helper.make_node("AveragePool", ["pool"], ["pool2"], "/pool2/AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1],
                     count_include_pad=1),
    # x.view(x.size(0), -1)
    helper.make_node("Shape", ["pool2"], ["shape"], "/Shape"),
    helper.make_node("Gather", ["shape", const("zero", np.int64(0))], ["size"], "/Gather", axis=0),
    helper.make_node("Unsqueeze", ["size", const("axes", np.array([0]))], ["sizes"], "/Unsqueeze"),
    helper.make_node("Concat", ["sizes", const("rest", np.array([-1]))], ["target"], "/Concat", axis=0),
    helper.make_node("Reshape", ["pool2", "target"], ["flat"], "/Reshape"),
    # A linear layer as MatMul and Add, dropout, another as Gemm.
    helper.make_node("MatMul", ["flat", weight("onnx::MatMul_7", 128, 16)], ["fc1.product"], "/fc1/MatMul"),
    helper.make_node("Add", [weight("fc1.bias", 16), "fc1.product"], ["fc1"], "/fc1/Add"),
    helper.make_node("Relu", ["fc1"], ["relu"], "/relu/Relu"),
    helper.make_node("Dropout", ["relu"], ["dropout"], "/dropout/Dropout"),
    helper.make_node("Gemm", ["dropout", weight("fc2.weight", 10, 16), weight("fc2.bias", 10)], ["fc2"], "/fc2/Gemm", transB=1),
    helper.make_node("Softmax", ["fc2"], ["softmax"], "/Softmax", axis=1),
    helper.make_node("Identity", ["softmax"], ["probabilities"]),
]
graph = helper.make_graph(
    nodes, "idioms",
    [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 15, 15])],
    [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
    initializers,
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="idioms.py")
onnx.checker.check_model(model)
model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
onnx.save(model, Path(__file__).with_suffix(".onnx"))
