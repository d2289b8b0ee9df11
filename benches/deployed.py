#!/usr/bin/env python3
"""What is exported, in the engines that it is exported for: agreement with qtuned's int8 engine, and latency beside the
file that each engine's own quantizer writes.

    benches/deployed.py STEP --qtuned target/release/qtuned --models DIR --data DIR --work DIR [--only NAME ...]

STEP is one of these, in this order; each leaves its results in --work for the next:

    search    runs the job of each case: trial 1 is all-int8, the chosen one is the searched qconfig
    fused     the same with `residual: fused`
    openvino  the same with OpenVINO's rounding, of the file as it is (batch left open) and with fixed shapes
    agree     the same pictures through qtuned, ONNX Runtime and OpenVINO: how many get the same largest output; of what was
              not asked before
    peers     quantizes each model with ONNX Runtime's quantize_static and with NNCF, with the settings of the preset
    latency   all-int8, batch 1, one thread: each engine on qtuned's files, with and without `residual: fused`, and on its
              own, in an order that changes
    table     prints what was found

DIR of --models holds the ONNX files of CASES, DIR of --data labels.csv and what it names. Needs the PyPI packages onnx,
onnxruntime, openvino, nncf, numpy and pillow.
"""
import argparse
import csv
import gzip
import json
import pathlib
import random
import re
import statistics
import subprocess
import sys
import time

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PRESETS = ["onednn", "qnnpack"]
CALIBRATE = 128
# name: job, file of the model (None: that of the job), channels, scale, mean, deviation
CASES = {
    "fashion-mnist": ("fashion-mnist", None, None, 1 / 255, [0.286], [0.353]),
    "mobilenet-v2": ("mobilenet-v2", "mobilenet_v2_torchvision_imagenet.onnx", "rgb", 1 / 255,
                     [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "efficientnet-lite0": ("efficientnet-lite0", "efficientnet_lite0_imagenet.onnx", "rgb", 1, [127], [128]),
    "resnet-50": ("resnet-50", "resnet50_keras_imagenet.onnx", "bgr", 1, [103.939, 116.779, 123.68], [1]),
}


class Case:
    def __init__(self, args, name):
        self.args, self.name = args, name
        job, model, self.channels, self.scale, self.mean, self.std = CASES[name]
        self.job = REPOSITORY / "configs" / f"{job}.yaml"
        self.model = pathlib.Path(args.models).resolve() / model if model else REPOSITORY / "datasets/fashion-mnist/model.onnx"
        self.folder = pathlib.Path(args.work).resolve() / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def qtuned(self, *args):
        ran = subprocess.run([pathlib.Path(self.args.qtuned).resolve(), *map(str, args)], cwd=self.folder,
                             capture_output=True, text=True)
        if ran.returncode not in (0, 3):
            sys.exit(f"qtuned {' '.join(map(str, args))}: {ran.stderr}")
        return ran.stdout

    def save(self, what, value):
        (self.folder / f"{what}.json").write_text(json.dumps(value, indent=1) + "\n")

    def read(self, what):
        path = self.folder / f"{what}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def pictures(self):
        """Inputs as the network reads them, NCHW, and labels."""
        if self.channels is None:
            folder = REPOSITORY / "datasets/fashion-mnist"
            x = np.frombuffer(gzip.open(folder / "t10k-images-idx3-ubyte.gz").read(), np.uint8, offset=16)
            y = np.frombuffer(gzip.open(folder / "t10k-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)
            yield from self.batches(x.reshape(-1, 28, 28, 1)[2000:], y[2000:].astype(int))
            return
        from PIL import Image
        data = pathlib.Path(self.args.data)
        rows = list(csv.DictReader(open(data / "labels.csv")))
        random.Random(0).shuffle(rows)
        def picture(row):
            image = Image.open(data / row["file"]).convert("RGB")
            short = min(image.size)
            size = [max(256, round(side * 256 / short)) for side in image.size]
            image = image.resize(size, Image.BILINEAR) if short != 256 else image
            left, top = (image.size[0] - 224) // 2, (image.size[1] - 224) // 2
            pixels = np.asarray(image.crop((left, top, left + 224, top + 224)))
            return pixels[..., ::-1] if self.channels == "bgr" else pixels
        for at in range(0, len(rows), 100):
            some = rows[at : at + 100]
            yield from self.batches(np.stack([picture(row) for row in some]), np.array([int(r["label"]) for r in some]))

    def batches(self, pixels, labels):
        for at in range(0, len(pixels), 100):
            x = pixels[at : at + 100].astype(np.float32) * np.float32(self.scale)
            x = (x - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
            yield np.ascontiguousarray(x.transpose(0, 3, 1, 2)), labels[at : at + 100]


def searched(case, name, sets):
    """What the job of a case ends with."""
    sets = [*sets, f"name={name}", f"model.onnx={case.model}"]
    if case.channels:
        sets += [f"data.images.csv={pathlib.Path(case.args.data).resolve() / 'labels.csv'}"]
    return json.loads(case.qtuned("run", case.job, "--json", *(a for s in sets for a in ("--set", s))))


def export(case, ended, names):
    """Writes trials by name, and notes their groups in fp32."""
    found = case.read("search") or {}
    for name, number in names.items():
        job = ended["job"]["id"]
        case.qtuned("export", job, "--trial", number, "-o", f"{name}.yaml")
        for target in ["onnxruntime", "openvino"]:
            case.qtuned("export", job, "--trial", number, "--format", "onnx", "--target", target, "-o",
                        f"{name}.{target}.onnx")
        found[name] = {"trial": number, "fp32_groups": ended["trials"][number]["fp32_groups"]}
    case.save("search", found)


def chosen(ended):
    """Number of the trial that a job ends with: the chosen one, or where nothing quantized is within the budget the last."""
    return next(trial["number"] for trial in ended["trials"] if trial["chosen"]) or ended["trials"][-1]["number"]


def search(case):
    for preset in PRESETS:
        name = f"{case.name}-{preset}"
        ended = searched(case, name, [f"qconfig.preset={preset}"])
        export(case, ended, {f"{name}-all-int8": 1, f"{name}-searched": chosen(ended)})


def fused(case):
    for preset in PRESETS:
        name = f"{case.name}-{preset}-fused"
        ended = searched(case, name, [f'qconfig={{preset: {preset}, "": {{residual: fused}}}}'])
        export(case, ended, {name: 1, f"{name}-searched": chosen(ended)})


def openvino(case):
    weights = {"onednn": "per_channel_symmetric", "qnnpack": "per_tensor_symmetric"}
    for preset in PRESETS:
        for rounding in ["openvino", "openvino_static"]:
            name = f"{case.name}-{preset}-{rounding}"
            qconfig = (f'{{preset: openvino, "": {{activation: {{rounding: {rounding}}}, '
                       f'weight: {{qscheme: {weights[preset]}}}}}}}')
            ended = searched(case, name, [f"qconfig={qconfig}"])
            export(case, ended, {name: 1, f"{name}-searched": chosen(ended)})


def sessions(onnxruntime_files, openvino_files, threads):
    """Functions from an input to an output."""
    import onnxruntime
    import openvino

    def by_onnxruntime(path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})[0]

    def by_openvino(path):
        core = openvino.Core()
        model = core.read_model(str(path))
        # The file as it is where the qconfig rounds as OpenVINO does then.
        if not re.search("-openvino(-searched)?[.]openvino", str(path)):
            shape = model.input(0).partial_shape
            shape[0] = 1
            model.reshape(shape)
        config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                  "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(model, "CPU", config).create_infer_request()
        return lambda x: request.infer({0: x}, share_inputs=True)[0].copy()

    return [by_onnxruntime(path) for path in onnxruntime_files] + [by_openvino(path) for path in openvino_files]


def agree(case):
    known = case.read("agree") or {}
    names = [name for name in case.read("search") if name not in known]
    engines = {name: sessions([case.folder / f"{name}.onnxruntime.onnx"], [case.folder / f"{name}.openvino.onnx"], 2)
               for name in names}
    count = {name: dict(n=0, ours=0, ort=0, ov=0, same_ort=0, same_ov=0, equal_ort=0, equal_ov=0) for name in names}
    for x, labels in case.pictures():
        np.save(case.folder / "x.npy", x)
        for name in names:
            said = json.loads(case.qtuned("predict", case.model, "x.npy", "--qconfig", f"{name}.yaml", "--json"))
            ours = np.array(said["outputs"][0]["values"], np.float32).reshape(len(x), -1)
            theirs = [np.concatenate([run(x[i : i + 1]).reshape(1, -1) for i in range(len(x))]) for run in engines[name]]
            top, tops = ours.argmax(1), [other.argmax(1) for other in theirs]
            c = count[name]
            c["n"] += len(x)
            for key, of in [("ours", top), ("ort", tops[0]), ("ov", tops[1])]:
                c[key] += int((of == labels).sum())
            c["same_ort"] += int((top == tops[0]).sum())
            c["same_ov"] += int((top == tops[1]).sum())
            c["equal_ort"] += int((ours == theirs[0]).all(1).sum())
            c["equal_ov"] += int((ours == theirs[1]).all(1).sum())
    case.save("agree", known | count)
    print(json.dumps(count, indent=1))


def peers(case):
    import nncf
    import openvino
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
    import onnx

    x = next(case.pictures())[0][:32]
    prepared = case.folder / "prepared.onnx"
    quant_pre_process(str(case.model), str(prepared), skip_symbolic_shape=True)
    name = onnx.load(case.model).graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(range(len(x)))

        def get_next(self):
            return next(({name: x[i : i + 1]} for i in self.left), None)

    for preset in PRESETS:
        per_channel = preset == "onednn"
        quantize_static(str(prepared), str(case.folder / f"{preset}.by-onnxruntime.onnx"), Reader(),
                        quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                        per_channel=per_channel)
        weights = nncf.quantization.advanced_parameters.QuantizationParameters(per_channel=per_channel)
        advanced = nncf.AdvancedQuantizationParameters(weights_quantization_params=weights)
        model = openvino.Core().read_model(str(case.model))
        data = nncf.Dataset([x[i : i + 1] for i in range(len(x))])
        quantized = nncf.quantize(model, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(x),
                                  advanced_parameters=advanced)
        openvino.save_model(quantized, str(case.folder / f"{preset}.by-nncf.xml"), compress_to_fp16=False)


def latency(case):
    x = next(case.pictures())[0][:1]
    found = {}
    for preset in PRESETS:
        ours = case.folder / f"{case.name}-{preset}-all-int8"
        fused = case.folder / f"{case.name}-{preset}-fused"
        engines = sessions([f"{ours}.onnxruntime.onnx", f"{fused}.onnxruntime.onnx", case.folder / f"{preset}.by-onnxruntime.onnx"],
                           [f"{ours}.openvino.onnx", f"{fused}.openvino.onnx", case.folder / f"{preset}.by-nncf.xml"], 1)
        names = ["ort_ours", "ort_fused", "ort_own", "ov_ours", "ov_fused", "ov_own"]
        times = {name: [] for name in names}
        for round in range(130):
            # Whoever runs after a session of the same engine finds caches and branch predictors warm.
            for name, run in random.Random(round).sample(list(zip(names, engines)), len(engines)):
                start = time.perf_counter()
                run(x)
                if round >= 10:
                    times[name].append((time.perf_counter() - start) * 1e3)
        found[preset] = {name: [statistics.median(ms), *statistics.quantiles(ms, n=4)[::2]] for name, ms in times.items()}
    case.save("latency", found)
    print(case.name, json.dumps(found))


def table(case):
    count, times, searched = case.read("agree") or {}, case.read("latency") or {}, case.read("search") or {}
    for name, c in count.items():
        share = lambda key: f"{100 * c[key] / c['n']:.2f}"
        fp32 = len(searched[name]["fp32_groups"])
        print(f"| {name.replace(case.name + '-', case.name + ', ', 1)} | {fp32} | {c['n']} | {share('ours')} | {share('ort')} "
              f"| {share('ov')} | {share('same_ort')} | {share('equal_ort')} | {share('same_ov')} "
              f"| {share('equal_ov') if 'equal_ov' in c else ''} |")
    for preset, ms in times.items():
        print(f"| {case.name}, {preset} | " + " | ".join(f"{m[0]:.3f} ({m[1]:.3f}..{m[2]:.3f})" for m in ms.values())
              + f" | {ms['ort_ours'][0] / ms['ort_own'][0]:.2f} | {ms['ov_ours'][0] / ms['ov_own'][0]:.2f} "
              + f"| {ms['ov_fused'][0] / ms['ov_own'][0]:.2f} |")


if __name__ == "__main__":
    steps = {step.__name__: step for step in [search, fused, openvino, agree, peers, latency, table]}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=steps)
    for option in ["--qtuned", "--models", "--data", "--work"]:
        parser.add_argument(option, required=True)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    for name in args.only:
        steps[args.step](Case(args, name))
