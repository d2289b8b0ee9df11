"""Objects of other quantizers, made of the lists that `qtuned export --format ...` writes.

Each function takes the path of a list. Needs nothing but the tool that it is for.
"""

import importlib
import json


def _read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def torch_qconfig_mapping(path):
    """`torch.ao.quantization.QConfigMapping` of `--format torch`.

    PyTorch has no observers `percentile`, `mse`, `entropy` and `auto`; its `HistogramObserver` stands in for them.
    """
    import warnings

    import torch
    from torch.ao import quantization as q

    qschemes = {name: getattr(torch, name) for name in (
        "per_tensor_affine", "per_tensor_symmetric", "per_channel_symmetric")}
    activation_observers = {"histogram": q.HistogramObserver, "minmax": q.MinMaxObserver}
    weight_observers = {
        "per_tensor_symmetric": q.MinMaxObserver, "per_channel_symmetric": q.PerChannelMinMaxObserver}

    def observer(kind, part, **given):
        limits = {key: part[key] for key in ("quant_min", "quant_max") if part.get(key) is not None}
        return kind.with_args(
            dtype=getattr(torch, part["dtype"]), qscheme=qschemes[part["qscheme"]], **{**given, **limits})

    def qconfig(entry):
        if entry is None:
            return None
        activation, weight = entry["activation"], entry["weight"]
        if activation["observer"] not in activation_observers:
            warnings.warn(f"PyTorch has no observer {activation['observer']}: HistogramObserver is used")
        return q.QConfig(
            activation=observer(activation_observers.get(activation["observer"], q.HistogramObserver), activation,
                                reduce_range=activation["reduce_range"]),
            weight=observer(weight_observers[weight["qscheme"]], weight, quant_min=-127, quant_max=127))

    def function(name):
        if "." not in name:
            return name  # a method, which PyTorch knows by its name
        module, attribute = name.rsplit(".", 1)
        return getattr(importlib.import_module(module), attribute)

    lists = _read(path)
    mapping = q.QConfigMapping().set_global(qconfig(lists[""]))
    for name, entry in lists["object_type"]:
        mapping.set_object_type(function(name), qconfig(entry))
    for name, entry in lists["module_name_regex"]:
        mapping.set_module_name_regex(name, qconfig(entry))
    for name, entry in lists["module_name"]:
        mapping.set_module_name(name, qconfig(entry))
    for module, name, index, entry in lists["module_name_object_type_order"]:
        mapping.set_module_name_object_type_order(module, function(name), index, qconfig(entry))
    return mapping


def nncf_ignored_scope(path):
    """`nncf.IgnoredScope` of `--format nncf`."""
    import nncf

    return nncf.IgnoredScope(**_read(path))


def onnxruntime_options(path):
    """Keyword arguments for `onnxruntime.quantization.quantize_static` of `--format onnxruntime`."""
    import numpy
    from onnxruntime.quantization import QuantFormat, QuantType

    options = _read(path)
    options["quant_format"] = QuantFormat[options["quant_format"]]
    for key in ("activation_type", "weight_type"):
        options[key] = QuantType[options[key]]
    for entries in options["extra_options"]["TensorQuantOverrides"].values():
        for entry in entries:
            entry["quant_type"] = QuantType[entry["quant_type"]]
            integer = numpy.uint8 if entry["quant_type"] == QuantType.QUInt8 else numpy.int8
            entry["scale"] = numpy.array(entry["scale"], dtype=numpy.float32)
            entry["zero_point"] = numpy.array(entry["zero_point"], dtype=integer)
    return options


def neural_compressor_op_name_dict(path):
    """`op_name_dict` of `neural_compressor.PostTrainingQuantConfig` of `--format neural-compressor`."""
    return _read(path)
