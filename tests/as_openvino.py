"""Runs what qtuned exports of the default model in OpenVINO: `as_openvino.py QTUNED [--write]`, with the binary to test.

Its answers are those of qtuned's int8 engine to the last bit, on a CPU with VNNI. With `--write` they are written to
tests/data/openvino, for tests/as_openvino.rs. Needs the PyPI packages openvino and numpy. Says what is wrong and fails.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import openvino

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "datasets/fashion-mnist/model.onnx"
JOB = REPOSITORY / "configs/fashion-mnist.yaml"
DATA = REPOSITORY / "tests/data/openvino"
# Stripes of numbers that f32 has exactly; tests/as_openvino.rs has them too.
SAMPLES, PIXELS = 128, 28 * 28
INPUT = (numpy.arange(PIXELS) * 31 + numpy.arange(SAMPLES)[:, None] * 97) % 181 / 64 - 0.8125
INPUT = INPUT.astype(numpy.float32).reshape(SAMPLES, 1, 28, 28)


def check(holds, message):
    if not holds:
        sys.exit(f"as_openvino.py: {message}")


def qtuned(*args):
    ran = subprocess.run([QTUNED, *map(str, args)], cwd=FOLDER, capture_output=True, text=True)
    check(ran.returncode in (0, 3), f"qtuned {' '.join(map(str, args))}: {ran.stderr}")
    return ran.stdout


def answers(path, fixed):
    core = openvino.Core()
    model = core.read_model(path)
    if fixed:
        model.reshape([1, 1, 28, 28])
    # On CPUs with bf16 it would run what is not in int8 in that.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return numpy.concatenate([compiled({0: INPUT[i : i + 1]})[0].copy() for i in range(SAMPLES)])


def case(scheme, rounding):
    name = f"{scheme}-{rounding}"
    qconfig = f'{{preset: openvino, "": {{activation: {{rounding: {rounding}}}, weight: {{qscheme: {scheme}_symmetric}}}}}}'
    qtuned("run", JOB, "--set", f"name={name}", "--set", f"qconfig={qconfig}", "--set", "search.max_trials=2")
    qtuned("export", name, "--trial", 1, "-o", f"{name}.yaml")
    qtuned("export", name, "--trial", 1, "--format", "onnx", "-o", f"{name}.onnx")
    said = json.loads(qtuned("predict", MODEL, "x.npy", "--qconfig", f"{name}.yaml", "--json"))
    ours = numpy.array(said["outputs"][0]["values"], numpy.float32).reshape(SAMPLES, -1)
    theirs = answers(FOLDER / f"{name}.onnx", rounding == "openvino_static")
    same, answer = (ours == theirs).all(1).mean(), (ours.argmax(1) == theirs.argmax(1)).mean()
    print(f"{name}: the same answer to {answer:.2%} of the samples, and all bits of {same:.2%}")
    return theirs, same, answer


def main(write):
    numpy.save(FOLDER / "x.npy", INPUT)
    exact = any(flag in pathlib.Path("/proc/cpuinfo").read_text() for flag in ["avx512_vnni", "avx_vnni"])
    for scheme in ["per_channel", "per_tensor"]:
        found = {}
        for rounding in ["openvino", "openvino_static"]:
            theirs, same, answer = case(scheme, rounding)
            check(answer >= 0.995, f"{scheme}, {rounding}: the engines do not agree")
            check(same == 1 or not exact, f"{scheme}, {rounding}: a last bit differs")
            found[rounding] = [[float(x) for x in row] for row in theirs]
        if write:
            check(exact, "this CPU has no VNNI")
            DATA.mkdir(exist_ok=True)
            qconfig = (FOLDER / f"{scheme}-openvino.yaml").read_text()
            (DATA / f"{scheme}.qconfig.yaml").write_text(qconfig)
            lines = ",\n".join(f'"{rounding}": {json.dumps(rows)}' for rounding, rows in found.items())
            (DATA / f"{scheme}.json").write_text(f'{{"openvino_version": "{openvino.__version__}",\n{lines}}}\n')
    print(f"as_openvino.py: OpenVINO {openvino.__version__} gives the same bits" if exact else "as_openvino.py: OpenVINO agrees")


if __name__ == "__main__":
    check(len(sys.argv) in (2, 3), "expected the path of the qtuned binary")
    QTUNED = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        FOLDER = pathlib.Path(folder)
        main("--write" in sys.argv[2:])
