"""Compares what qtuned computes with ONNX Runtime, for every model of a folder.

    pip install onnx onnxruntime numpy
    cargo build --release
    python3 tests/against_onnxruntime.py FOLDER [--qtuned target/release/qtuned] [--batch 2] [--limit 1e-4] [--shape 3x320x320]

Each model runs in fp32 in both, on the same standard normal input; the relative error of an output is the largest
difference over the largest magnitude. It also runs with every group in int8, calibrated on that input, and the SQNR
against fp32 is shown: it has no limit, for what int8 costs depends on the network. The exit code is 1 when a model
fails or an error is above the limit.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

# The types of inputs that qtuned reads as numbers.
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
          "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int32)": np.int32, "tensor(int64)": np.int64}


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def made_up_input(runtime, batch, shape=None):
    """Of the first input's shape; where the file fixes the batch, that many. `shape` says sizes that are open."""
    described = runtime.get_inputs()[0]
    dims = [dim if isinstance(dim, int) and dim > 0 else None for dim in described.shape]
    dims[0] = dims[0] or batch
    if shape:
        dims = [dims[0], *(own or given for own, given in zip(dims[1:], map(int, shape.split("x"))))]
    if None in dims:
        sys.exit(f"{described.name}: shape {described.shape} is open")
    numbers = np.random.default_rng(0).standard_normal(dims)
    dtype = DTYPES[described.type]
    return described.name, (numbers * 32 if np.issubdtype(dtype, np.integer) else numbers).astype(dtype)


def predict(binary, model, array, *options):
    """Outputs by name, or the last line of what went wrong."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, array if array.dtype != np.float16 else array.astype(np.float32))
        file.flush()
        done = subprocess.run([binary, "predict", model, file.name, "--json", *options], capture_output=True, text=True)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    outputs = json.loads(done.stdout)["outputs"]
    return {o["name"]: np.array(o["values"], np.float32).reshape(o["shape"]) for o in outputs}, None


def sqnr(reference, got):
    noise = np.square(reference.astype(np.float64) - got).sum()
    return 10 * np.log10(np.square(reference.astype(np.float64)).sum() / noise) if noise else float("inf")


def compare(binary, path, batch, shape=None):
    """A line of the table, and the largest relative error; None where the model does not run."""
    try:
        runtime = session(path)
    except Exception as error:  # Their types are ONNX Runtime's own.
        return f"ONNX Runtime: {' '.join(str(error).split())[:160]}", None
    name, array = made_up_input(runtime, batch, shape)
    options = ["--model-shape", shape] if shape else []
    expected = dict(zip((o.name for o in runtime.get_outputs()), runtime.run(None, {name: array})))
    got, problem = predict(binary, path, array, *options)
    if problem:
        return problem, None
    worst = 0.0
    for output, values in expected.items():
        values = values.astype(np.float32)
        if output not in got or got[output].shape != values.shape:
            return f"output {output} has shape {got.get(output, np.empty(0)).shape}, not {values.shape}", None
        error = np.abs(got[output] - values).max() / max(np.abs(values).max(), np.finfo(np.float32).tiny)
        # A NaN is an error of its own.
        worst = max(worst, float(error)) if np.isfinite(error) else float("inf")
    integer, problem = predict(binary, path, array, "--preset", "onednn", *options)
    first = next(iter(expected))
    int8 = problem or f"int8 {sqnr(got[first], integer[first]):6.1f} dB"
    return f"relative error {worst:.1e}   {int8}", None if problem else worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--qtuned", default="target/release/qtuned")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--shape", help="of a sample, where files leave it open, such as 3x320x320")
    parser.add_argument("--limit", type=float, default=1e-4)
    args = parser.parse_args()
    paths = [args.folder] if args.folder.is_file() else sorted(args.folder.rglob("*.onnx"))
    if not paths:
        sys.exit(f"{args.folder}: no .onnx file")
    failed = 0
    for path in paths:
        line, error = compare(args.qtuned, path, args.batch, args.shape)
        good = error is not None and error <= args.limit
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {path.stem:40} {line}", flush=True)
    print(f"{len(paths) - failed} of {len(paths)} models agree within {args.limit:g}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
