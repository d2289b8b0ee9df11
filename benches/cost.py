#!/usr/bin/env python3
"""Measures and draws what a search costs as the work grows: with the samples of the search split, and with the groups.

    benches/cost.py --qtuned target/release/qtuned --models DIR --data DIR --split FILE.json --out FOLDER [--rounds N]

The other arguments are those of cases.py. Writes FOLDER/cost.json and FOLDER/cost.svg, and prints a table in Markdown.
Samples: the cases in SAMPLES with more and more of them. Groups: one network of which more and more blocks are quantized
and the rest is fp32 from the start. Everything is run as often as --rounds says, in turn, and the fastest of each is
kept: on a machine with other work, the least is what the search itself takes. Needs matplotlib.
"""
import argparse
import json
import pathlib

import matplotlib
from cases import run

SAMPLES = {case: [250, 400, 550, 700, 872] for case in ("mobilenet-v2-per-tensor", "efficientnet-lite0-half-range")}
# Blocks of MobileNetV2 that stay in fp32, as a regular expression.
GROUPS = {"blocks 0 to 4": r"features\.([5-9]|1[0-8])|classifier", "blocks 0 to 9": r"features\.1[0-8]|classifier",
          "blocks 0 to 14": r"features\.1[5-8]|classifier", "all": None}
PARTS = ["calibrate", "fp32", "rank", "trials", "latency"]


def points(args):
    whole = json.loads(pathlib.Path(args.split).read_text())
    for case, counts in SAMPLES.items():
        for count in counts:
            # The first of them, so that each is a part of the next.
            file = pathlib.Path(args.out) / f"split-{count}.json"
            file.write_text(json.dumps({**whole, "validation": whole["validation"][:count]}))
            yield case, "samples", count, [f"data.split.file={file.resolve()}"]
    for name, rest in GROUPS.items():
        mapping = f", module_name_regex: {{'{rest}': null}}" if rest else ""
        activation = "activation: {observer: minmax}, weight: {bias_correction: true}"
        sets = [f"qconfig={{preset: qnnpack, \"\": {{{activation}}}{mapping}}}"]
        yield "mobilenet-v2-per-tensor", "groups", name, sets


def measured(args, case, sets):
    args.set = sets
    result = run(args, case)
    trials = result["trials"]
    seconds = {part: result["seconds"].get(part, 0.0) for part in PARTS}
    chosen = next(trial for trial in trials if trial["chosen"])
    return {"groups": trials[1]["int8_groups"], "wall_s": result["wall_s"], "seconds": seconds, "trials": len(trials),
            "samples": trials[0]["total"], "seen": sum(trial["total"] for trial in trials),
            "in_fp32": len(chosen["fp32_groups"]) if chosen["int8_groups"] else None}


def draw(results, path):
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "cost", "svg.fonttype": "none"})
    from matplotlib import pyplot
    panels = [(case, "samples") for case in SAMPLES] + [("mobilenet-v2-per-tensor", "groups")]
    figure, all_axes = pyplot.subplots(1, len(panels), figsize=(13, 4), layout="constrained")
    for axes, (case, kind) in zip(all_axes, panels):
        chosen = [r for r in results if (r["case"], r["kind"]) == (case, kind)]
        chosen.sort(key=lambda r: r[kind])
        x = [r[kind] for r in chosen]
        axes.stackplot(x, [[r["seconds"][part] for r in chosen] for part in PARTS], labels=PARTS, alpha=0.75)
        axes.plot(x, [r["wall_s"] for r in chosen], "ko-", label="wall")
        for r in chosen:
            axes.annotate(f"{r['trials']} trials", (r[kind], r["wall_s"]), xytext=(0, 6), textcoords="offset points",
                          ha="center", fontsize=7)
        axes.set(title=case, xlabel="samples of the search split" if kind == "samples" else "groups in the search",
                 ylabel="seconds", ylim=(0, 1.15 * max(r["wall_s"] for r in chosen)))
        axes.margins(x=0.1)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(PARTS) + 1, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("qtuned", "models", "data", "split", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    folder = pathlib.Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    best = {}
    for _ in range(args.rounds):
        for case, kind, label, sets in points(args):
            result = {"case": case, "kind": kind, "label": str(label), **measured(args, case, sets)}
            key = (case, kind, str(label))
            if key not in best or result["wall_s"] < best[key]["wall_s"]:
                best[key] = result
    for file in folder.glob("split-*.json"):
        file.unlink()
    results = list(best.values())
    (folder / "cost.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, folder / "cost.svg")
    print("| case | samples | groups | wall s | " + " | ".join(PARTS) + " | trials | samples seen, of a full pass "
          "| groups in fp32 |\n|" + "---|" * (7 + len(PARTS)))
    for r in results:
        parts = " | ".join(f"{r['seconds'][part]:.1f}" for part in PARTS)
        print(f"| {r['case']} | {r['samples']} | {r['groups']} | {r['wall_s']:.1f} | {parts} | {r['trials']} "
              f"| {r['seen'] / r['samples']:.1f} | {r['in_fp32']} |")


if __name__ == "__main__":
    main()
