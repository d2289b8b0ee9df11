"""Which samples a network is right on: `score.py QTUNED MODEL.onnx FOLDER`, a program for `measure.metric.command`.

Runs the network on inputs.npy with `qtuned predict` and compares with labels.npy; needs nothing but Python.
"""

import ast
import json
import pathlib
import struct
import subprocess
import sys

qtuned, model, folder = sys.argv[1:]
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
print(json.dumps({"correct": [row.index(max(row)) == label for row, label in zip(rows, labels, strict=True)]}))
