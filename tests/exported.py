"""Runs what qtuned exports of the default model in ONNX Runtime: `exported.py QTUNED`, with the binary to test.

Needs the PyPI packages onnx, onnxruntime and numpy. Says what is wrong and fails.
"""

import collections
import importlib.util
import json
import pathlib
import platform
import subprocess
import sys
import tempfile

import numpy
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, quantize_static

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "datasets/fashion-mnist/model.onnx"
JOB = REPOSITORY / "configs/fashion-mnist.yaml"


def check(holds, message):
    if not holds:
        sys.exit(f"exported.py: {message}")


def qtuned(*args):
    ran = subprocess.run([QTUNED, *map(str, args)], cwd=FOLDER, capture_output=True, text=True)
    check(ran.returncode == 0, f"qtuned {' '.join(map(str, args))}: {ran.stderr}")
    return ran.stdout


def operators(path):
    """What ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(FOLDER / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(FOLDER / "optimized.onnx").graph.node)


def check_file(path, fp32_layers):
    """The file is valid, its names are the original's, and ONNX Runtime runs just these layers in fp32."""
    exported, original = onnx.load(path), onnx.load(MODEL)
    onnx.checker.check_model(exported, full_check=True)
    kept = {node.name: node.op_type for node in exported.graph.node}
    lost = [node for node in original.graph.node if kept.get(node.name) != node.op_type]
    check(all(node.op_type == "BatchNormalization" for node in lost), f"{path}: lost {[node.name for node in lost]}")
    values = {name for node in exported.graph.node for name in node.output}
    folded = {name for node in original.graph.node for name in node.output} - values
    check(len(folded) == len(lost), f"{path}: lost the values {folded}")
    check(exported.graph.input == original.graph.input, f"{path}: another input")
    check([v.name for v in exported.graph.output] == [v.name for v in original.graph.output], f"{path}: other outputs")
    check(exported.producer_name == original.producer_name, f"{path}: another producer")
    ran = operators(path)
    in_fp32 = ran["Conv"] + ran["Gemm"] + ran["FusedConv"]
    check(in_fp32 == fp32_layers, f"{path}: ONNX Runtime runs {in_fp32} layers in fp32, not {fp32_layers}: {ran}")
    if fp32_layers == 0:
        check(ran["QuantizeLinear"] == 1 and ran["DequantizeLinear"] == 1, f"{path}: integers are left on the way: {ran}")


def verify(*args):
    library = next(pathlib.Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"))
    print(qtuned("verify", *args, "--engine", "onnxruntime", "--library", library, "-o", "certificate.json"), end="")
    return json.loads((FOLDER / "certificate.json").read_text())


class Noise(CalibrationDataReader):
    """What calibrates where every scale is given."""

    def __init__(self):
        self.left = iter([{"input": numpy.zeros((1, 1, 28, 28), numpy.float32)}])

    def get_next(self):
        return next(self.left, None)


def check_lists():
    """ONNX Runtime's own quantizer accepts the list, and has the scales of the qconfig then."""
    spec = importlib.util.spec_from_file_location("qtuned_lists", REPOSITORY / "python/qtuned_lists.py")
    lists = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lists)
    qtuned("export", "--format", "onnxruntime", "-o", "onnxruntime.json")
    options = lists.onnxruntime_options(FOLDER / "onnxruntime.json")
    quantize_static(str(MODEL), str(FOLDER / "by-onnxruntime.onnx"), Noise(), **options)
    theirs = onnx.load(FOLDER / "by-onnxruntime.onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in theirs.graph.initializer}
    found = 0
    for name, entries in options["extra_options"]["TensorQuantOverrides"].items():
        scale = constants.get(f"{name}_scale")
        if scale is not None and len(entries) == 1:
            check(scale == entries[0]["scale"], f"{name}: scale {scale}, not {entries[0]['scale']}")
            found += 1
    check(found >= 10, f"ONNX Runtime took over {found} scales")
    nodes = {node.name for node in theirs.graph.node}
    check(set(options["nodes_to_exclude"]) <= nodes, "nodes_to_exclude names nodes that are not there")
    names = {node.name for node in onnx.load(MODEL).graph.node}
    check(set(json.loads(qtuned("export", "--format", "nncf"))["names"]) <= names, "NNCF would not find a node")
    check(set(json.loads(qtuned("export", "--format", "neural-compressor"))) <= names, "a node is not there")
    torch = json.loads(qtuned("export", "--format", "torch"))
    check(["features.1.conv.0.0", None] in torch["module_name"], f"torch: {torch['module_name']}")


def check_several_inputs():
    """A network of two inputs for samples, a fixed one and two outputs, of which the second counts."""
    random = numpy.random.default_rng(0)
    tensor, shape = onnx.helper.make_tensor_value_info, ["N", 8, 6, 3]
    inputs = [tensor("pixels", onnx.TensorProto.UINT8, shape), tensor("factor", onnx.TensorProto.FLOAT, ["one"]),
              tensor("tokens", onnx.TensorProto.INT64, ["N", 4])]
    outputs = [tensor(name, onnx.TensorProto.FLOAT, ["N", 5]) for name in ["features", "scores"]]
    constants = {"w": random.normal(size=(5, 3, 3, 3)) / 50, "m": random.normal(size=(4, 5))}
    constants = [onnx.numpy_helper.from_array(value.astype(numpy.float32), name) for name, value in constants.items()]
    node = onnx.helper.make_node
    nodes = [
        node("Transpose", ["pixels"], ["t"], perm=[0, 3, 1, 2]), node("Cast", ["t"], ["p"], to=1),
        node("Mul", ["p", "factor"], ["s"]), node("Conv", ["s", "w"], ["c"], name="conv"), node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["g"]), node("Flatten", ["g"], ["features"]),
        node("Cast", ["tokens"], ["n"], to=1), node("MatMul", ["n", "m"], ["d"], name="tokens/product"),
        node("Add", ["features", "d"], ["scores"], name="sum"),
    ]
    graph = onnx.helper.make_graph(nodes, "several", inputs, outputs, constants)
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), FOLDER / "several.onnx")
    numpy.save(FOLDER / "pixels.npy", random.integers(0, 256, (80, 8, 6, 3), dtype=numpy.uint8))
    numpy.save(FOLDER / "tokens.npy", random.integers(-3, 4, (80, 4)))
    numpy.save(FOLDER / "labels.npy", random.integers(0, 5, 80))
    (FOLDER / "several.yaml").write_text(
        "{name: several, model: {onnx: several.onnx, fixed: {factor: 0.25}, output: scores}, "
        "data: {images: {npy: {inputs: {pixels: pixels.npy, tokens: tokens.npy}, labels: labels.npy}}, "
        "split: {calibrate: 16, search: 32, certify: 32}}, budget: {metric: agreement, max_drop: 0.9}}"
    )
    qtuned("run", "several.yaml")
    certificate = verify("several", "--trial", 1)
    engine = certificate["engine"]
    exact = certificate["warnings"] or engine["largest_difference"] == 0
    check(exact and engine["layers"], f"several inputs: {engine}")


def check_first_layer():
    """In fp32 a first layer has the same bits: what is rounded behind it in int8 would differ otherwise."""
    random = numpy.random.default_rng(0)
    value = onnx.helper.make_tensor_value_info
    constants = {"w": random.normal(size=(16, 3, 3, 3)), "b": random.normal(size=16)}
    constants = [onnx.numpy_helper.from_array(c.astype(numpy.float32), name) for name, c in constants.items()]
    node = onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    tensors = [value(name, onnx.TensorProto.FLOAT, ["N", *shape]) for name, shape in [("x", [3, 24, 24]), ("y", [16, 12, 12])]]
    graph = onnx.helper.make_graph([node], "first", tensors[:1], tensors[1:], constants)
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), FOLDER / "first.onnx")
    x = random.normal(size=(8, 3, 24, 24)).astype(numpy.float32)
    numpy.save(FOLDER / "x.npy", x)
    said = json.loads(qtuned("predict", "first.onnx", "x.npy", "--json"))
    ours = numpy.array(said["outputs"][0]["values"], numpy.float32)
    session = onnxruntime.InferenceSession(FOLDER / "first.onnx", providers=["CPUExecutionProvider"])
    differ = (ours != session.run(None, {"x": x})[0].ravel()).sum()
    # Elsewhere ONNX Runtime sums otherwise.
    exact = platform.machine() == "x86_64" and "fma" in pathlib.Path("/proc/cpuinfo").read_text().split()
    print(f"exported.py: {differ} of {ours.size} elements of a first layer in fp32 differ")
    check(differ == 0 or not exact, "a first layer in fp32 is summed in another order")


def main():
    check_first_layer()
    check_several_inputs()
    qtuned("run", JOB)
    trials = json.loads(qtuned("trials", "--json"))
    trials = trials["trials"] if isinstance(trials, dict) else trials
    chosen = next(trial for trial in trials if trial["chosen"])
    for number in {1, chosen["number"]}:
        fp32 = len(trials[number]["fp32_groups"])
        path = FOLDER / f"trial-{number}.onnx"
        qtuned("export", "--format", "onnx", "--trial", number, "-o", path)
        check_file(path, fp32)
        certificate = verify("--trial", number)
        check(certificate["engine"]["agreement"] >= 0.995, "the engines do not agree")
        # Where bytes are multiplied exactly, all-int8 is the same to the last bit.
        exact = fp32 > 0 or certificate["warnings"] or certificate["engine"]["largest_difference"] == 0
        check(exact, f"outputs differ by {certificate['engine']['largest_difference']}")
    check_lists()
    print("exported.py: ONNX Runtime agrees")


if __name__ == "__main__":
    check(len(sys.argv) == 2, "expected the path of the qtuned binary")
    QTUNED = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        FOLDER = pathlib.Path(folder)
        main()
