"""Runs the ONNX project's node tests through `qtuned predict`, and compares what passes with the committed table.

    pip install -r tests/conformance/requirements.txt
    cargo build --release
    python3 tests/conformance/run.py [--qtuned target/release/qtuned] [--write]

The cases are those of `onnx.backend.test`: a model of one operator (or of the operators that define it), inputs and
expected outputs. qtuned reads models with one input, whose first dimension is the batch: the case's first input is
the network's, all others are made constants of the model; where the first two have one shape, both are stacked in one
input and taken apart in the model; queries, keys and values of attention are stacked as one row. A case passes when every output is within the tolerance that the ONNX project sets for it.

`--golden` writes `cases.json.gz`: small models that pass, with their inputs and expected outputs, which `cargo test`
runs without Python.

`cases.csv` says for each case of an operator that qtuned knows whether it passes, and if not why. The exit code is 1
when an output is wrong, or when the table is no longer true; `--write` writes it.
"""
import argparse
import base64
import collections
import csv
import gzip
import io
import json
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

TABLE = Path(__file__).with_name("cases.csv")
GOLDEN = Path(__file__).with_name("cases.json.gz")
NUMBERS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL, TensorProto.UINT8,
           TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
           TensorProto.UINT32, TensorProto.UINT64, TensorProto.BFLOAT16}


class Unsupported(Exception):
    """A case that cannot be asked of qtuned."""


def tensors(case):
    """Inputs by name and expected outputs by name."""
    inputs, outputs = case.data_sets[0]
    graph = case.model.graph
    if not all(isinstance(x, (np.ndarray, np.generic, TensorProto)) for x in [*inputs, *outputs]):
        raise Unsupported("inputs or outputs are no tensors")
    array = lambda x: numpy_helper.to_array(x) if isinstance(x, TensorProto) else np.asarray(x)
    named = lambda values, infos: {info.name: array(x) for x, info in zip(values, infos)}
    for info in [*graph.input, *graph.output]:
        if info.type.tensor_type.elem_type not in NUMBERS:
            raise Unsupported("inputs or outputs are no numbers")
    return named(inputs, graph.input), named(outputs, graph.output)


def with_constants(case, inputs, computed):
    """The model with all inputs but those computed made constants."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    kept = [info for info in graph.input if info.name in computed]
    del graph.input[:]
    graph.input.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in inputs.items() if name not in computed)
    return model


def stacked_rows(case, inputs):
    """The model with its first three inputs as one row of numbers for each sample."""
    names = list(inputs)[:3]
    model = with_constants(case, inputs, set(names))
    kind = model.graph.input[0].type.tensor_type.elem_type
    rows = [inputs[name].reshape(len(inputs[name]), -1) for name in names]
    row = np.concatenate(rows, axis=1)
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("all", kind, list(row.shape)))
    constant = lambda name, numbers: model.graph.initializer.append(numpy_helper.from_array(np.int64(numbers), name))
    constant("columns", [1])
    ends = np.cumsum([part.shape[1] for part in rows])
    for index, (name, end, part) in enumerate(zip(names, ends, rows)):
        constant(f"start {index}", [end - part.shape[1]])
        constant(f"end {index}", [end])
        constant(f"shape {index}", [0, *inputs[name].shape[1:]])
        slices = ["all", f"start {index}", f"end {index}", "columns"]
        model.graph.node.insert(2 * index, helper.make_node("Slice", slices, [f"row {index}"]))
        model.graph.node.insert(2 * index + 1, helper.make_node("Reshape", [f"row {index}", f"shape {index}"], [name]))
    return model, "all", row


def variants(case, inputs):
    """Models with one input each, and what to give them."""
    if not inputs:
        raise Unsupported("no input")
    first, *others = inputs
    if inputs[first].ndim < 2:
        raise Unsupported("the input has no dimension but the batch")
    if inputs[first].size == 0:
        raise Unsupported("an input is empty")
    if [node.op_type for node in case.model.graph.node] == ["Attention"]:
        yield stacked_rows(case, inputs)
        return
    alike = others and inputs[others[0]].shape == inputs[first].shape and inputs[others[0]].dtype == inputs[first].dtype
    if not alike:
        yield with_constants(case, inputs, {first}), first, inputs[first]
    else:
        second = others[0]
        model = with_constants(case, inputs, {first, second})
        dims = list(inputs[first].shape)
        kind = model.graph.input[0].type.tensor_type.elem_type
        del model.graph.input[:]
        model.graph.input.append(helper.make_tensor_value_info("both", kind, [dims[0], 2, *dims[1:]]))
        # The spelling of Gather is the same in all operator sets.
        for index, name in enumerate([first, second]):
            model.graph.initializer.append(numpy_helper.from_array(np.int64(index), f"index {index}"))
            model.graph.node.insert(index, helper.make_node("Gather", ["both", f"index {index}"], [name], axis=1))
        yield model, "both", np.stack([inputs[first], inputs[second]], axis=1)


def run(binary, model, array):
    """Outputs by name; the message where qtuned does not take the model."""
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder, "model.onnx"), Path(folder, "input.npy")
        path.write_bytes(model.SerializeToString())
        known = array.dtype in (np.float32, np.float64, bool) or np.issubdtype(array.dtype, np.integer)
        np.save(data, array if known else array.astype(np.float32))
        done = subprocess.run([binary, "predict", path, data, "--json"], capture_output=True, text=True, timeout=60)
    if done.returncode not in (0, 1):
        raise SystemExit(f"exit code {done.returncode}: {done.stderr}")
    if done.returncode:
        message = done.stderr.strip().splitlines()[-1]
        raise Unsupported(re.sub(r"^error: (failed to import `[^`]*`: )?", "", message))
    return {o["name"]: (o["shape"], o["values"]) for o in json.loads(done.stdout)["outputs"]}


def check(binary, case):
    """The models that passed, each with its input; raises where one does not."""
    inputs, outputs = tensors(case)
    passed = []
    for model, _, array in variants(case, inputs):
        got = run(binary, model, array)
        for name, expected in outputs.items():
            if name not in got:
                raise AssertionError(f"no output {name}")
            shape, values = got[name]
            # JSON has no infinities and no NaN.
            values = np.array([np.nan if v is None else v for v in values], np.float64).reshape(shape)
            expected = np.where(np.isfinite(expected.astype(np.float64)), expected.astype(np.float64), np.nan)
            if list(expected.shape) != list(shape):
                raise AssertionError(f"shape {shape}, expected {list(expected.shape)}")
            tolerance = max(case.rtol, 1e-5 if expected.size else 0)
            if not np.allclose(values, expected, rtol=tolerance, atol=case.atol or 1e-7, equal_nan=True):
                raise AssertionError(f"differs by {np.nanmax(np.abs(values - expected)):.2e}")
        passed.append((model, array, outputs))
    return passed


def golden(case, passed, kept):
    """Keeps small models with finite outputs for `cargo test`; of each kind of attribute and shape one is enough."""
    for model, array, outputs in passed:
        data = model.SerializeToString()
        finite = all(np.isfinite(x.astype(np.float64)).all() for x in outputs.values())
        numbers = array.size + sum(x.size for x in outputs.values())
        if not finite or len(data) > 3000 or numbers > 400 or "_expanded" in case.name:
            continue
        kept.append({
            "case": case.name,
            "model": base64.b64encode(data).decode(),
            "input": {"dims": array.shape, "data": [float(np.float32(x)) for x in array.flatten()]},
            "outputs": [{"name": name, "dims": x.shape, "data": [float(np.float32(v)) for v in x.flatten()]}
                        for name, x in outputs.items()],
        })


def short(reason):
    """A reason without the names of single nodes."""
    reason = re.sub(r"^node `[^`]*` \(`([^`]*)`\): ", r"\1: ", reason)
    reason = re.sub(r"operator `([^`]*)` \(.*", r"operator \1", reason)
    return re.sub(r"\s+", " ", reason)[:120]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qtuned", default="target/release/qtuned")
    parser.add_argument("--write", action="store_true", help="write the table")
    parser.add_argument("--golden", action="store_true", help="write the cases for cargo test")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, kept = [], []
    for case in sorted(collect_testcases(None), key=lambda case: case.name):
        if case.kind != "node" or args.only not in case.name or case.model is None:
            continue
        operator = case.model.graph.node[0].op_type if len(case.model.graph.node) == 1 else "several"
        try:
            passed = check(args.qtuned, case)
            golden(case, passed, kept)
            rows.append((operator, case.name, "pass", ""))
        except Unsupported as reason:
            rows.append((operator, case.name, "unsupported", short(str(reason))))
        except AssertionError as problem:
            rows.append((operator, case.name, "wrong", short(str(problem))))
    known = {operator for operator, _, result, _ in rows if result == "pass"}
    rows = [row for row in rows if row[0] in known or row[2] != "unsupported"]
    counts = collections.defaultdict(collections.Counter)
    for operator, _, result, _ in rows:
        counts[operator][result] += 1
    for operator, results in sorted(counts.items()):
        print(f"{operator:24} {results['pass']:4} of {sum(results.values()):4}" +
              (f"   {results['wrong']} WRONG" if results["wrong"] else ""))
    total = collections.Counter(row[2] for row in rows)
    print(f"{total['pass']} of {len(rows)} cases pass, {total['wrong']} are wrong")
    for row in rows:
        if row[2] == "wrong":
            print("WRONG", *row)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("operator", "case", "result", "reason"), *rows])
    if args.golden:
        GOLDEN.write_bytes(gzip.compress(json.dumps(kept, separators=(",", ":")).encode(), mtime=0))
    if args.write:
        TABLE.write_text(text.getvalue())
    elif not args.only:
        before = {row["case"]: row["result"] for row in csv.DictReader(TABLE.read_text().splitlines())}
        now = {row[1]: row[2] for row in rows}
        changed = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
        for name in sorted(changed):
            print(f"CHANGED {name}: {before.get(name)} in {TABLE.name}, now {now.get(name)}")
        if changed:
            sys.exit(1)
    sys.exit(1 if total["wrong"] else 0)


main()
