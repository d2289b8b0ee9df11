#!/usr/bin/env python3
"""Runs the jobs in configs/cases and prints them as a table, beside the peers' figures where they are given.

    benches/cases.py --qtuned target/release/qtuned --models DIR --data DIR --split FILE.json [--peers DIR]
                     [--cases NAME ...] [--set PATH=VALUE ...] [--out FILE.json]

DIR of --models holds the three ONNX files that the cases name, DIR of --data the file labels.csv, FILE.json which of
its pictures calibrate and which are searched. DIR of --peers holds one JSON file a case, CASE.json, as an NNCF run with
accuracy control leaves it: search.wall_s, search.reverted_ops, int8_top1 and final_top1 are read.

Wall times are those of the stages that the job announces: one pass of fp32 over the search split and the calibration are
told apart, because every tool has them. Python's standard library is enough.
"""
import argparse
import json
import pathlib
import re
import subprocess
import tempfile
import time

CASES = pathlib.Path(__file__).resolve().parent.parent / "configs" / "cases"
STAGES = [
    (r"calibrating", "calibrate"),
    (r"measuring sensitivities|ranking again|looking which answers", "rank"),
    (r"trial 0 \(fp32\): evaluating", "fp32"),
    (r"trial \d+.*: evaluating", "trials"),
    (r"trial \d+: taking latencies|taking the latencies of", "latency"),
    (r"certifying", "certify"),
]


def run(args, case):
    """One case: seconds by stage, and what the job recorded."""
    text = (CASES / f"{case}.yaml").read_text()
    onnx = re.search(r"onnx: .*/([^/}]+)}", text).group(1)
    seconds = {"open": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        command = [str(pathlib.Path(args.qtuned).resolve()), "run", str(CASES / f"{case}.yaml"), "--json"]
        sets = [f"model.onnx={pathlib.Path(args.models).resolve() / onnx}",
                f"data.images.csv={pathlib.Path(args.data).resolve() / 'labels.csv'}",
                f"data.split.file={pathlib.Path(args.split).resolve()}", *args.set]
        for value in sets:
            command += ["--set", value]
        out = open(pathlib.Path(folder) / "stdout", "w+")
        child = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.PIPE, text=True)
        start = last = time.monotonic()
        stage = "open"
        for line in child.stderr:
            found = next((name for pattern, name in STAGES if re.match(pattern, line)), None)
            if found:
                now = time.monotonic()
                seconds[stage] = seconds.get(stage, 0.0) + now - last
                stage, last = found, now
        child.wait()
        now = time.monotonic()
        seconds[stage] = seconds.get(stage, 0.0) + now - last
        if child.returncode not in (0, 3):
            raise SystemExit(f"{case}: qtuned ended with {child.returncode}")
        out.seek(0)
        return {"case": case, "exit": child.returncode, "wall_s": now - start, "seconds": seconds, **json.load(out)}


def row(result, peer):
    trials = result["trials"]
    fp32, int8 = trials[0], trials[1]
    chosen = next(trial for trial in trials if trial["chosen"])
    seconds = result["seconds"]
    apart = seconds.get("calibrate", 0.0) + seconds.get("fp32", 0.0)
    samples = sum(trial["total"] for trial in trials) / fp32["total"]
    ms = lambda trial: trial["median_ns"] / 1e6
    peer_text = "-"
    if peer:
        search = peer["search"]
        ratio = result["wall_s"] / search["wall_s"]
        peer_text = (f"{search['wall_s']:.0f} s, {search['reverted_ops']} ops, {peer['int8_top1']:.4f} to "
                     f"{peer['final_top1']:.4f} ({ratio:.2f} of it)")
    return [
        result["case"], f"{fp32['score']:.4f}", f"{int8['score']:.4f}",
        f"{chosen['score']:.4f}" if chosen["int8_groups"] else "fp32", str(len(chosen["fp32_groups"])),
        str(len(trials)), f"{samples:.1f}", f"{result['wall_s']:.1f}", f"{result['wall_s'] - apart:.1f}",
        " ".join(f"{name} {value:.1f}" for name, value in seconds.items()),
        f"{ms(int8):.2f} to {ms(chosen):.2f} of {ms(fp32):.2f}", peer_text,
    ]


HEADINGS = ["case", "fp32", "all int8", "chosen", "groups in fp32", "trials", "full evaluations' worth", "wall s",
            "without fp32 pass and calibration", "seconds by stage", "latency ms, int8 to chosen of fp32", "NNCF"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("qtuned", "models", "data", "split"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--peers")
    parser.add_argument("--cases", nargs="*", default=sorted(path.stem for path in CASES.glob("*.yaml")))
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out")
    args = parser.parse_args()
    results = []
    print("| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS), flush=True)
    for case in args.cases:
        result = run(args, case)
        results.append(result)
        file = pathlib.Path(args.peers) / f"{case}.json" if args.peers else None
        peer = json.loads(file.read_text()) if file and file.exists() else None
        print("| " + " | ".join(row(result, peer)) + " |", flush=True)
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
