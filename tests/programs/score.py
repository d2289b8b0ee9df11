"""Which samples a network is right on: `score.py QTUNED MODEL.onnx FOLDER`, a program for `measure.metric.command`. With
`--f1` behind it one number, for the metric score: F1, the mean over the classes.

Runs the network on inputs.npy with `qtuned predict` and compares with labels.npy; needs nothing but Python.
"""

import ast
import json
import pathlib
import struct
import subprocess
import sys

qtuned, model, folder, *options = sys.argv[1:]
labels = pathlib.Path(folder, "labels.npy").read_bytes()
assert labels[:8] == b"\x93NUMPY\x01\x00", labels[:8]
(length,) = struct.unpack_from("<H", labels, 8)
header = ast.literal_eval(labels[10 : 10 + length].decode())
assert header["descr"] == "<i8" and len(header["shape"]) == 1, header
labels = struct.unpack_from(f"<{header['shape'][0]}q", labels, 10 + length)

inputs = pathlib.Path(folder, "inputs.npy")
said = subprocess.run([qtuned, "predict", model, inputs, "--json"], capture_output=True, text=True, check=True).stdout
output = json.loads(said)["outputs"][0]
classes = output["shape"][1]
rows = [output["values"][at : at + classes] for at in range(0, len(output["values"]), classes)]
print("compared", len(rows), "samples", file=sys.stderr)
answers = [(row.index(max(row)), label) for row, label in zip(rows, labels, strict=True)]
if options == ["--f1"]:

    def f1(label):
        """2·TP / (2·TP + FP + FN)"""
        hits = sum(answer == right == label for answer, right in answers)
        named = sum((answer == label) + (right == label) for answer, right in answers)
        return 2 * hits / named

    present = sorted({label for _, label in answers})
    print(sum(map(f1, present)) / len(present))
else:
    print(json.dumps({"correct": [answer == label for answer, label in answers]}))
