"""Runs what qtuned exports in OpenVINO: `as_openvino.py QTUNED [--write]`, with the binary to test.

The networks are the default model and two that are made here, with what it has not: layers without a bias, sums of two
layers, activations before sums, layers in fp32. OpenVINO's answers are those of qtuned's engine to the last bit, on a CPU
with VNNI. With `--write` those for the default model are written to tests/data/openvino, for tests/as_openvino.rs. Needs the
PyPI packages onnx, openvino and numpy. Says what is wrong and fails.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import onnx
import openvino

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "datasets/fashion-mnist/model.onnx"
JOB = REPOSITORY / "configs/fashion-mnist.yaml"
DATA = REPOSITORY / "tests/data/openvino"
SAMPLES = 128


def check(holds, message):
    if not holds:
        sys.exit(f"as_openvino.py: {message}")


def qtuned(*args):
    ran = subprocess.run([QTUNED, *map(str, args)], cwd=FOLDER, capture_output=True, text=True)
    check(ran.returncode in (0, 3), f"qtuned {' '.join(map(str, args))}: {ran.stderr}")
    return ran.stdout


def stripes(shape):
    """Numbers that f32 has exactly; tests/as_openvino.rs has them too."""
    pixels = int(numpy.prod(shape))
    x = (numpy.arange(pixels) * 31 + numpy.arange(SAMPLES)[:, None] * 97) % 181 / 64 - 0.8125
    return x.astype(numpy.float32).reshape(SAMPLES, *shape)


class Network:
    """A network whose nodes are made one after the other; weights are random, the same each time."""

    def __init__(self, name, shape):
        self.name, self.shape = name, shape
        self.random = numpy.random.default_rng(0)
        self.nodes, self.constants, self.channels = [], [], {"x": shape[0]}

    def constant(self, name, shape, spread):
        value = self.random.normal(0, spread, shape).astype(numpy.float32)
        self.constants.append(onnx.numpy_helper.from_array(value, name))
        return name

    def add(self, op, inputs, name, channels=None, **attributes):
        self.nodes.append(onnx.helper.make_node(op, inputs, [name], name, **attributes))
        self.channels[name] = channels or self.channels[inputs[0]]
        return name

    def conv(self, x, name, channels, size=1, bias=True, depthwise=False):
        groups = self.channels[x] if depthwise else 1
        shape = [channels, self.channels[x] // groups, size, size]
        weights = [self.constant(f"{name}.weight", shape, numpy.prod(shape[1:]) ** -0.5)]
        weights += [self.constant(f"{name}.bias", [channels], 0.2)] if bias else []
        return self.add("Conv", [x, *weights], name, channels, group=groups, pads=[size // 2] * 4)

    def linear(self, x, name, channels, bias=True):
        weights = [self.constant(f"{name}.weight", [channels, self.channels[x]], self.channels[x] ** -0.5)]
        weights += [self.constant(f"{name}.bias", [channels], 0.2)] if bias else []
        return self.add("Gemm", [x, *weights], name, channels, transB=1)

    def relu(self, x):
        return self.add("Relu", [x], f"{x}.relu")

    def save(self, y, shape):
        tensor = lambda name, shape: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape])
        graph = onnx.helper.make_graph(self.nodes, self.name, [tensor("x", self.shape)], [tensor(y, shape)], self.constants)
        path = FOLDER / f"{self.name}.onnx"
        onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
        numpy.save(FOLDER / f"{self.name}-x.npy", stripes(self.shape))
        numpy.save(FOLDER / f"{self.name}-labels.npy", numpy.arange(SAMPLES) % 2)
        job = FOLDER / f"{self.name}.yaml"
        job.write_text(
            f"{{model: {{onnx: {path.name}}}, budget: {{metric: sqnr, min_db: 0}}, data: {{"
            f"split: {{calibrate: 32, search: 96, certify: 0}}, "
            f"images: {{npy: {{inputs: {{x: {self.name}-x.npy}}, labels: {self.name}-labels.npy}}}}}}}}"
        )
        return path, job, stripes(self.shape)


def residuals():
    n = Network("residuals", [3, 8, 8])
    stem = n.relu(n.conv("x", "stem", 16, 3))
    apart = n.relu(n.conv(stem, "apart", 16, 3, bias=False, depthwise=True))
    one = n.add("Add", [n.conv(apart, "back", 16), stem], "one")
    both = n.relu(n.add("Add", [n.conv(one, "left", 24), n.conv(one, "right", 24, 3)], "both"))
    inner = n.relu(n.conv(both, "inner", 16, bias=False))
    three = n.add("Add", [both, n.conv(inner, "outer", 24)], "three")
    four = n.add("Add", [n.relu(n.conv(three, "active", 16)), n.conv(three, "passive", 16)], "four")
    return n.save(four, [16, 8, 8])


def linears():
    n = Network("linears", [48])
    x = n.relu(n.linear("x", "first", 64))
    x = n.linear(n.relu(n.linear(x, "without", 64, bias=False)), "plain", 64, bias=False)
    return n.save(n.linear(x, "last", 512), [512])


def answers(path, x, fixed):
    core = openvino.Core()
    model = core.read_model(path)
    if fixed:
        model.reshape([1, *x.shape[1:]])
    # On CPUs with bf16 it would run what is not in int8 in that.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return numpy.concatenate([compiled({0: x[i : i + 1]})[0].reshape(1, -1).copy() for i in range(len(x))])


def case(network, scheme, rounding, fp32):
    model, job, x = network
    name = "-".join([model.stem, scheme, rounding, *fp32])
    numpy.save(FOLDER / "x.npy", x)
    own = f"activation: {{rounding: {rounding}}}, weight: {{qscheme: {scheme}_symmetric}}"
    names = ", ".join(f"{group}: null" for group in fp32)
    qconfig = f'{{preset: openvino, "": {{{own}}}, module_name: {{{names}}}}}'
    qtuned("run", job, "--set", f"name={name}", "--set", f"qconfig={qconfig}", "--set", "search.max_trials=2")
    qtuned("export", name, "--trial", 1, "-o", f"{name}.yaml")
    qtuned("export", name, "--trial", 1, "--format", "onnx", "-o", f"{name}.onnx")
    said = json.loads(qtuned("predict", model, "x.npy", "--qconfig", f"{name}.yaml", "--json"))
    ours = numpy.array(said["outputs"][0]["values"], numpy.float32).reshape(len(x), -1)
    theirs = answers(FOLDER / f"{name}.onnx", x, rounding == "openvino_static")
    same, answer, elements = (ours == theirs).all(1).mean(), (ours.argmax(1) == theirs.argmax(1)).mean(), (ours != theirs).sum()
    print(f"{name}: the same answer to {answer:.2%} of the samples, and all bits of {same:.2%}; {elements} elements differ")
    check(same == 1 or not EXACT, f"{name}: a last bit differs")
    return theirs, answer


def main(write):
    default = MODEL, JOB, stripes([1, 28, 28])
    for scheme in ["per_channel", "per_tensor"]:
        found = {}
        for rounding in ["openvino", "openvino_static"]:
            theirs, answer = case(default, scheme, rounding, [])
            check(answer >= 0.995, f"{scheme}, {rounding}: the engines do not agree")
            found[rounding] = [[float(x) for x in row] for row in theirs]
            for network, in_fp32 in MADE:
                for fp32 in in_fp32:
                    case(network, scheme, rounding, fp32)
        if write:
            check(EXACT, "this CPU has no VNNI")
            DATA.mkdir(exist_ok=True)
            qconfig = (FOLDER / f"model-{scheme}-openvino.yaml").read_text()
            (DATA / f"{scheme}.qconfig.yaml").write_text(qconfig)
            lines = ",\n".join(f'"{rounding}": {json.dumps(rows)}' for rounding, rows in found.items())
            (DATA / f"{scheme}.json").write_text(f'{{"openvino_version": "{openvino.__version__}",\n{lines}}}\n')
    print(f"as_openvino.py: OpenVINO {openvino.__version__} gives the same bits" if EXACT else "as_openvino.py: OpenVINO agrees")


if __name__ == "__main__":
    check(len(sys.argv) in (2, 3), "expected the path of the qtuned binary")
    QTUNED = str(pathlib.Path(sys.argv[1]).resolve())
    EXACT = any(flag in pathlib.Path("/proc/cpuinfo").read_text() for flag in ["avx512_vnni", "avx_vnni"])
    with tempfile.TemporaryDirectory() as folder:
        FOLDER = pathlib.Path(folder)
        MADE = [(residuals(), [[], ["stem"], ["back"], ["inner"], ["outer"]]), (linears(), [[]])]
        main("--write" in sys.argv[2:])
