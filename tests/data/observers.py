"""Writes observers.json: ranges that numpy, scipy and ONNX Runtime choose for tensors made by a formula.

    pip install numpy scipy onnxruntime onnx
    python3 tests/data/observers.py

Nothing here is shared with the implementation: percentiles are of the sorted elements, squared errors of the elements
themselves, divergences are scipy's. What is compared with which tolerance is in src/quant/observer/tests.rs.
"""

import contextlib
import io
import json
import pathlib

import numpy as np
import onnxruntime
import scipy
from onnxruntime.quantization.calibrate import HistogramCollector
from scipy.stats import entropy

N = 20_000


def bell():
    """Sums of four numbers of 16 bits of a linear congruential generator, around 0: exact in float32."""
    state, out = 1, []
    for _ in range(N):
        total = 0
        for _ in range(4):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            total += state >> 48
        out.append(total - 2 * 65535)
    return np.array(out, dtype=np.int64)


def tensors():
    b = bell()
    as_float = lambda integers, divisor: (integers.astype(np.float64) / divisor).astype(np.float32)
    return {
        "bell": as_float(b, 2**14),
        "relu": as_float(np.maximum(b, 0), 2**14),
        "tail": as_float(b * b // 2**15 * b, 2**26),
        "lopsided": as_float(np.where(b < 0, b // 8, b * np.abs(b) // 2**12), 2**14),
        "positive": as_float(np.abs(b) + 2**14, 2**14),
    }


SPECS = {  # levels are low..=high
    "affine": (False, 0, 255),
    "half": (False, 0, 127),
    "symmetric": (True, -127, 127),
}


def percentile(x, percent):
    x = np.sort(x)
    cut = int(np.floor((100 - percent) / 200 * x.size + 1e-9))
    return [float(x[cut]), float(x[-1 - cut])]


def percentile_symmetric(x, percent):
    x = np.sort(np.abs(x))
    cut = int(np.floor((100 - percent) / 100 * x.size + 1e-9))
    return float(x[-1 - cut])


def quantized(x, low, high, symmetric, lowest, highest):
    if symmetric:
        scale, zero = 2 * max(high, -low) / (highest - lowest), 0
    else:
        scale = (high - low) / (highest - lowest)
        zero = np.clip(np.rint(lowest - low / scale), lowest, highest)
    return (np.clip(np.rint(x / scale) + zero, lowest, highest) - zero) * scale


def mse(x, symmetric, lowest, highest):
    x = x.astype(np.float64)
    low, high = min(x.min(), 0), max(x.max(), 0)
    if symmetric:
        low, high = 0, max(high, -low)
    steps = lambda side: [100] if side == 0 else range(100, 0, -1)
    return min(
        (float(np.square(x - quantized(x, low * i / 100, high * j / 100, symmetric, lowest, highest)).sum()), i, j)
        for i in steps(low) for j in steps(high))


def divergence(counts, start, end, levels):
    own = counts[start:end].astype(np.float64)
    p = own.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[end:].sum()
    level = np.arange(own.size) * levels // own.size
    filled = np.bincount(level, p != 0, levels)[level]
    q = np.where(p != 0, np.bincount(level, own, levels)[level] / np.maximum(filled, 1), 0)
    return entropy(p, q)


def kullback_leibler(x, symmetric, lowest, highest):
    """The bins are those that the implementation says it has: a width of a power of two, 0 at an edge."""
    low, high = min(float(x.min()), 0), max(float(x.max()), 0)
    width = 2.0**-30
    while np.floor(high / width) - np.floor(low / width) >= 4096:
        width *= 2
    first, end = int(np.floor(low / width)), int(np.floor(high / width)) + 1
    reach = max(end, -first)
    counts = np.bincount(np.floor(x.astype(np.float64) / width).astype(np.int64) + reach, minlength=2 * reach + 1)
    counts[reach] = max(counts[reach - 1], counts[reach + 1])
    levels = highest - lowest + 1
    best = (np.inf, 0, 0)
    for t in range(reach, 0, -1):
        start, stop = (-t, t) if symmetric else (max(first, -t), min(end, t))
        inside = counts[start + reach:stop + reach].sum()
        if stop - start < levels or 2 * inside < counts.sum():
            break
        found = divergence(counts, start + reach, stop + reach, levels)
        if found < best[0]:
            best = (found, start, stop)
    return {"divergence": best[0], "width": width, "range": [best[1] * width, best[2] * width]}


def onnx_runtime(method, x, percent=None):
    collector = HistogramCollector(method, False, 2048, 256, percent, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": [x]})
        low, high = collector.compute_collection_result()["x"][:2]
    return [float(low), float(high)]


def main():
    cases = {}
    for name, x in tensors().items():
        case = {"min": float(x.min()), "max": float(x.max())}
        for percent in (99.0, 99.9):
            case[f"percentile {percent}"] = {
                "affine": percentile(x, percent),
                "symmetric": percentile_symmetric(x, percent),
                "onnxruntime": onnx_runtime("percentile", x, percent),
            }
        case["mse"] = {}
        case["entropy"] = {}
        for spec, (symmetric, lowest, highest) in SPECS.items():
            error, i, j = mse(x, symmetric, lowest, highest)
            case["mse"][spec] = {"error": error, "hundredths": [i, j]}
            case["entropy"][spec] = kullback_leibler(x, symmetric, lowest, highest)
        cases[name] = case
    made = {"numpy": np.__version__, "scipy": scipy.__version__, "onnxruntime": onnxruntime.__version__}
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps({"made with": made, "tensors": cases}, indent=1) + "\n")


main()
