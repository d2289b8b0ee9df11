"""Runs and searches every model of a folder: fp32 against ONNX Runtime, every group in int8, and a short search.

    pip install onnx onnxruntime numpy
    cargo build --release
    python3 tests/searched.py FOLDER LABELS.csv [--qtuned target/release/qtuned] [--limit 1e-4] [--preprocess YAML]

LABELS.csv is a csv file of pictures as a job names it; a dozen is enough. Of each model: the largest relative error of an
fp32 output, as tests/against_onnxruntime.py has it; the SQNR of the all-int8 output; and how a search of three trials
ends, on eight pictures, with the metric `agreement`, which needs no labels that fit. The exit code is 1 when a model does
not run, an error is above the limit, or a search does not end.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from against_onnxruntime import made_up_input, compare, session

JOB = """
name: {name}
model: {{onnx: {model}}}
data:
  images: {{csv: {labels}}}
  preprocess: {preprocess}
  split: {{calibrate: 4, search: 8, seed: 0}}
budget: {{metric: agreement, max_drop: 0.01}}
sensitivity: {{rank_by: local, samples: 1}}
search: {{max_trials: 3, refine: false}}
measure: {{latency: {{runs: 3, warmup: 1}}}}
"""


def preprocess(path):
    """ImageNet's, to the size that the model reads."""
    _, array = made_up_input(session(path), 1)
    # Keras has the channels last.
    height, width = array.shape[1:3] if array.shape[3] <= 4 else array.shape[2:]
    short = max(height, width, round(height * 8 / 7)) if height == width else None
    resize = f"{{short_side: {short}}}" if short else f"{{size: [{height}, {width}]}}"
    return (f"{{resize: {resize}, center_crop: [{height}, {width}], channels: rgb, scale: 0.00392156862745098, "
            "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}")


def search(binary, path, labels, given):
    """How a search ends in a few words, and whether it does."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job.yaml")
        job.write_text(JOB.format(name=path.stem, model=json.dumps(str(path.resolve())),
                                  labels=json.dumps(str(labels.resolve())), preprocess=given or preprocess(path)))
        began = time.time()
        done = subprocess.run([binary, "run", "job.yaml", "--json"], capture_output=True, text=True, cwd=folder)
        seconds = time.time() - began
        if done.returncode not in (0, 3):
            return f"search: {(done.stderr.strip().splitlines() or ['?'])[-1]}", False
        trials = json.loads(done.stdout)["trials"]
        scores = ", ".join(f"{trial['score']:.2f}" for trial in trials)
        groups = trials[0]["int8_groups"], trials[1]["int8_groups"]
        return f"search: {len(trials)} trials in {seconds:.0f} s, {max(groups)} groups, agreement {scores}", True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--qtuned", default="target/release/qtuned", type=Path)
    parser.add_argument("--limit", type=float, default=1e-4)
    parser.add_argument("--preprocess", help="as in a job, for all models")
    args = parser.parse_args()
    paths = [args.folder] if args.folder.is_file() else sorted(args.folder.rglob("*.onnx"))
    if not paths:
        sys.exit(f"{args.folder}: no .onnx file")
    failed = 0
    for path in paths:
        line, error = compare(args.qtuned.resolve(), path, 1)
        found, ended = search(args.qtuned.resolve(), path, args.labels, args.preprocess)
        good = error is not None and error <= args.limit and ended
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {path.stem:24} {line}   {found}", flush=True)
    print(f"{len(paths) - failed} of {len(paths)} models agree within {args.limit:g}, run in int8 and are searched")
    sys.exit(1 if failed else 0)


main()
