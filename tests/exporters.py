"""Writes classifiers with random weights as exporters write them, for tests/against_onnxruntime.py and tests/searched.py.

    pip install torch torchvision onnxscript onnx                 # torch, torch-legacy
    pip install tensorflow-cpu keras tf2onnx onnx                 # keras
    pip install torch keras onnxscript onnx                       # keras with KERAS_BACKEND=torch
    pip install paddlepaddle paddle2onnx onnx                     # paddle
    python3 tests/exporters.py {torch,torch-legacy,keras,paddle} FOLDER [--only NAME] [--small]

`torch` is `torch.onnx.export(dynamo=True)`, `torch-legacy` the exporter before it, `keras` is Keras 3's
`Model.export(format="onnx")`: on TensorFlow it goes through tf2onnx, on PyTorch through the exporter of that. From
TensorFlow, GELU becomes an operator that ONNX does not have (`Erfc`), and the constants of a Normalization become
inputs: EfficientNet comes from PyTorch. ConvNeXt comes from neither. `paddle` is `paddle.onnx.export`. Weights are those that the packages draw from
seed 0; statistics of normalizations are drawn as well, so that folding them is not folding ones and zeros.

`--small` writes networks of a block or two instead. What ONNX Runtime makes of those is committed, and `cargo test`
holds it against what qtuned makes of them:

    python3 tests/exporters.py golden FOLDER                      # writes tests/conformance/exporters.json.gz
"""
import argparse
import base64
import gzip
import json
from pathlib import Path

GOLDEN = Path(__file__).parent / "conformance" / "exporters.json.gz"
TORCH = ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "mnasnet1_0", "mobilenet_v2",
         "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x1_0", "squeezenet1_1", "swin_t", "vit_b_16"]
# By the package that Keras computes with.
KERAS = {"tensorflow": ["DenseNet121", "MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetMobile",
                        "ResNet50V2", "Xception"],
         "torch": ["EfficientNetB0", "EfficientNetV2B0", "MobileNetV2", "MobileNetV3Small"]}

PADDLE = ["alexnet", "densenet121", "inception_v3", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "resnet18",
          "resnext50_32x4d", "shufflenet_v2_x0_25", "squeezenet1_1"]


def small_torch_models():
    import torch
    from torch import nn
    from torchvision.ops import SqueezeExcitation

    class Attention(nn.Module):
        """Patches, a class token, attention twice: as a module, and by its function."""
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.token = nn.Parameter(torch.randn(1, 1, 8))
            self.norm = nn.LayerNorm(8)
            self.module = nn.MultiheadAttention(8, 2, batch_first=True)
            self.project = nn.Linear(8, 24)
            self.head = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5))

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
            y = self.norm(x)
            x = x + self.module(y, y, y, need_weights=False)[0]
            q, k, v = self.project(x).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + y.transpose(1, 2).flatten(2)
            return self.head(x[:, 0])

    def conv(*args, **kwargs):
        return nn.Sequential(nn.Conv2d(*args, bias=False, **kwargs), nn.BatchNorm2d(args[1]))

    yield "convolutions", nn.Sequential(
        conv(3, 8, 3, stride=2, padding=1), nn.SiLU(), conv(8, 8, 3, padding=1, groups=8), nn.Hardswish(),
        SqueezeExcitation(8, 4), conv(8, 6, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(),
        nn.Linear(6, 5), nn.BatchNorm1d(5)), 16
    # Normalizations that are apart from their layers, or before them.
    yield "normalizations", nn.Sequential(
        nn.BatchNorm2d(3), conv(3, 6, 3), nn.Conv2d(6, 6, 1), nn.MaxPool2d(2), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 5)), 12
    yield "attention", Attention(), 12


def torch_models(folder, only, dynamo, small):
    import torch
    import torchvision

    if small:
        torch.manual_seed(0)
        models = [(name, model, size) for name, model, size in small_torch_models() if only in name]
    else:
        models = [(name, None, 224) for name in TORCH if only in name]
    for name, model, size in models:
        torch.manual_seed(0)
        model = (model or getattr(torchvision.models, name)(weights=None)).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.uniform_(module.bias, -0.2, 0.2)
        # torchvision starts some with zeros, which would make all outputs the same.
        for parameter in model.parameters():
            if not parameter.detach().any() and parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.02)
        x = (torch.zeros(2, 3, size, size),)
        path = folder / f"{name}.onnx"
        if dynamo:
            # A symbol, or a number where the model computes with it.
            batch = {0: torch.export.Dim.AUTO}
            torch.onnx.export(model, x, path, dynamo=True, dynamic_shapes=(batch,), external_data=False, verbose=False)
        else:
            torch.onnx.export(model, x, path, dynamo=False, opset_version=18, input_names=["x"],
                              dynamic_axes={"x": {0: "batch"}})
        print(path, flush=True)


def small_keras_models():
    import keras
    from keras import layers

    x = keras.Input((16, 16, 3))
    y = layers.Rescaling(1 / 2, -0.25)(x)
    y = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(y)
    y = layers.Activation("silu")(layers.BatchNormalization()(y))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = layers.ReLU(6)(layers.BatchNormalization()(y))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(4, 1, activation="relu")(gate))
    y = layers.Conv2D(6, 1)(layers.Multiply()([y, gate]))
    y = layers.BatchNormalization()(layers.MaxPooling2D(2)(y))
    y = layers.GlobalAveragePooling2D()(layers.Activation("hard_swish")(y))
    yield "convolutions", keras.Model(x, layers.Dense(5, activation="softmax")(y))

    if keras.backend.backend() != "tensorflow":
        # PyTorch's exporter fails on the function that Keras has for attention there.
        return
    x = keras.Input((12, 12, 3))
    y = layers.Reshape((9, 8))(layers.Conv2D(8, 4, strides=4)(x))
    z = layers.LayerNormalization()(y)
    y = layers.Add()([y, layers.MultiHeadAttention(2, 4)(z, z)])
    z = layers.Dense(16)(layers.LayerNormalization()(y))
    z = layers.Dense(8)(keras.ops.gelu(z, approximate=True))
    y = layers.GlobalAveragePooling1D()(layers.Add()([y, z]))
    yield "attention", keras.Model(x, layers.Dense(5)(y))


def keras_models(folder, only, small):
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    whole = ((name, getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3)))
             for name in KERAS[keras.backend.backend()] if only in name)
    for name, model in small_keras_models() if small else whole:
        numbers = np.random.default_rng(0)
        for layer in model.layers:
            # Biases start as zeros, which exporters leave out.
            for weight in layer.weights:
                if weight.name in ("bias", "beta"):
                    weight.assign(numbers.uniform(-0.2, 0.2, weight.shape))
            if isinstance(layer, keras.layers.BatchNormalization):
                low_and_high = {"gamma": (0.5, 1.5), "beta": (-0.2, 0.2), "moving_mean": (-0.2, 0.2),
                                "moving_variance": (0.5, 1.5)}
                for weight in layer.weights:
                    weight.assign(numbers.uniform(*low_and_high[weight.name], weight.shape))
        # What was never called is not exported.
        model(np.zeros((1, *model.input_shape[1:]), np.float32))
        path = folder / f"{name}.onnx"
        model.export(path, format="onnx", verbose=False)
        print(path, flush=True)


def small_paddle_models():
    from paddle import nn

    yield "convolutions", nn.Sequential(
        nn.Conv2D(3, 8, 3, stride=2, padding=1, bias_attr=False), nn.BatchNorm2D(8), nn.Hardswish(),
        nn.Conv2D(8, 8, 3, padding="same", groups=8, bias_attr=False), nn.BatchNorm2D(8), nn.Swish(),
        nn.MaxPool2D(2, ceil_mode=True), nn.Conv2D(8, 6, 1), nn.ReLU6(), nn.AdaptiveAvgPool2D(1), nn.Flatten(),
        nn.Dropout(), nn.Linear(6, 5), nn.Softmax()), 18


def paddle_models(folder, only, small):
    import paddle

    whole = ((name, None, 224) for name in PADDLE if only in name)
    for name, model, size in small_paddle_models() if small else whole:
        paddle.seed(0)
        model = model or getattr(paddle.vision.models, name)(pretrained=False)
        model.eval()
        for layer in model.sublayers():
            if isinstance(layer, paddle.nn.BatchNorm2D):
                layer._mean.set_value(paddle.uniform(layer._mean.shape, min=-0.2, max=0.2))
                layer._variance.set_value(paddle.uniform(layer._variance.shape, min=0.5, max=1.5))
        x = paddle.static.InputSpec([None, 3, size, size], "float32", "x")
        paddle.onnx.export(model, str(folder / name), input_spec=[x], opset_version=13)
        print(folder / f"{name}.onnx", flush=True)


def golden(folder):
    """Small models with an input, and ONNX Runtime's outputs."""
    import onnx
    from against_onnxruntime import made_up_input, session

    kept = []
    for path in sorted(folder.rglob("*.onnx")):
        model = onnx.load(path)
        # Of which line of Python a node is, and shapes: most of such a small file.
        del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
        for part in [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output]:
            del part.metadata_props[:]
            part.ClearField("doc_string")
        data = model.SerializeToString()
        runtime = session(path)
        name, array = made_up_input(runtime, 2)
        # Numbers of few digits.
        array = (array * 64).round() / 64
        outputs = runtime.run(None, {name: array})
        values = lambda x: {"dims": x.shape, "data": [float(v) for v in x.flatten()]}
        kept.append({
            "case": str(path.relative_to(folder).with_suffix("")),
            "model": base64.b64encode(data).decode(),
            "input": values(array),
            "outputs": [{"name": o.name, **values(x)} for o, x in zip(runtime.get_outputs(), outputs)],
        })
        print(kept[-1]["case"], len(data), "bytes")
    GOLDEN.write_bytes(gzip.compress(json.dumps(kept, separators=(",", ":")).encode(), mtime=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exporter", choices=["torch", "torch-legacy", "keras", "paddle", "golden"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--small", action="store_true", help="networks of a block or two")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.exporter == "golden":
        golden(args.folder)
    elif args.exporter == "keras":
        keras_models(args.folder, args.only, args.small)
    elif args.exporter == "paddle":
        paddle_models(args.folder, args.only, args.small)
    else:
        torch_models(args.folder, args.only, args.exporter == "torch", args.small)


main()
