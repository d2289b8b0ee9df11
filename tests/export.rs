//! What is exported, read back: the same qconfig, and the same bits.

use std::{fs, path::Path, sync::Arc};

use prost::Message;
use qtuned::{
    cancel::Cancel,
    engine::{Engine, Inputs},
    export::{self, Exported, Source, Target, Tool},
    graph::Groups,
    kernels::Kernels,
    onnx::{
        self, Model,
        proto::{
            AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
            StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
            attribute_type, data_type, dimension_proto::Value,
        },
    },
    ptq,
    quant::{GroupParameters, Preset, QConfig, QConfigFile, QConfigMapping, Residual, Rounding},
    search::Key,
};

const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/fashion-mnist/model.onnx");

/// Numbers between −1 and 1 that look random.
fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn input(model: &Model, seed: u32) -> Inputs {
    let [c, h, w] = model.graph.value(model.graph.inputs[0]).shape[..] else { panic!("the input is a picture") };
    Inputs::pictures(noise(c * h * w, seed), 1, [h, w, c]).unwrap()
}

/// A model in a qconfig, calibrated on noise, with groups of these indices in fp32.
struct Quantized {
    bytes: Vec<u8>,
    model: Model,
    groups: Arc<Groups>,
    file: QConfigFile,
}

impl Quantized {
    fn new(bytes: Vec<u8>, folder: &Path, preset: Preset, fp32: &[usize]) -> Quantized {
        Quantized::with(bytes, folder, preset, Residual::Rounded, fp32)
    }

    fn with(bytes: Vec<u8>, folder: &Path, preset: Preset, residual: Residual, fp32: &[usize]) -> Quantized {
        Quantized::of(bytes, folder, QConfig { residual, ..preset.qconfig() }, fp32)
    }

    fn of(bytes: Vec<u8>, folder: &Path, qconfig: QConfig, fp32: &[usize]) -> Quantized {
        let model = onnx::import(&bytes, Some(folder)).unwrap();
        let load = |sample: usize| Ok(input(&model, sample as u32));
        let prepared = ptq::prepare(model.graph.clone(), Kernels::detect().unwrap());
        let calibrated = prepared.calibrate(4, &load, &Cancel::default(), &|_| ()).unwrap();
        let groups = Arc::clone(calibrated.engine().groups());
        let ids: Vec<_> = groups.ids().filter(|id| fp32.contains(&id.0)).collect();
        let mut mapping = QConfigMapping::preset(Preset::default());
        mapping.global = Some(qconfig);
        let mapping = mapping.with_fp32(&groups, &ids);
        let converted = calibrated.convert(&mapping.resolve(&groups).unwrap());
        let parameters = groups.ids().map(|id| match &converted.quantization[id.0] {
            None => GroupParameters::fp32(&groups.get(id).id),
            Some(q) => {
                let weight = calibrated.engine().quantized_weight(id, q);
                let scales = weight.as_ref().map(|weight| &weight.scales.scales[..]);
                GroupParameters::int8(&groups.get(id).id, &qconfig, &q.inputs, q.output.as_ref(), scales, None)
            }
        });
        let file = QConfigFile {
            job: "test".to_owned(),
            model_sha256: Key(model.digest).to_string(),
            trial: 1,
            score: 0.5,
            groups: parameters.collect(),
            mapping,
        };
        Quantized { bytes, model, groups, file }
    }

    fn engine(&self) -> Engine {
        Engine::new(Arc::new(self.model.graph.clone()), Arc::clone(&self.groups), Kernels::detect().unwrap())
    }

    fn export(&self, folder: &Path) -> Exported {
        self.export_for(Target::OnnxRuntime, folder)
    }

    fn export_for(&self, target: Target, folder: &Path) -> Exported {
        let source = Source { bytes: &self.bytes, folder, model: &self.model, groups: &self.groups };
        let restored = ptq::restore(&self.engine(), &self.file).unwrap();
        export::qdq(&source, &self.file, &restored, target, "model.data").unwrap()
    }

    fn round_trip(&self, folder: &Path) -> ModelProto {
        self.round_trip_for(Target::OnnxRuntime, folder)
    }

    /// Exports, reads that back, and compares qconfigs and outputs. Gives the exported file.
    fn round_trip_for(&self, target: Target, folder: &Path) -> ModelProto {
        let exported = self.export_for(target, folder);
        let elsewhere = tempfile::tempdir().unwrap();
        if let Some(data) = &exported.data {
            fs::write(elsewhere.path().join("model.data"), data).unwrap();
        }
        let model = onnx::import(&exported.model, Some(elsewhere.path())).unwrap();
        let groups = Arc::new(Groups::of(&model.graph));
        let ids = |groups: &Groups| groups.all().iter().map(|group| group.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&groups), ids(&self.groups));
        let digest = Key(model.digest).to_string();
        let file = export::imported(&exported.model, &model, &groups, &digest).unwrap().unwrap();
        assert_eq!(file.groups, self.file.groups);
        let engine = Engine::new(Arc::new(model.graph.clone()), groups, Kernels::detect().unwrap());
        let (ours, theirs) = (ptq::restore(&self.engine(), &self.file).unwrap(), ptq::restore(&engine, &file).unwrap());
        for seed in 10..14 {
            let x = input(&self.model, seed);
            let run = |plan: &qtuned::engine::Plan| {
                plan.run(&x, false).unwrap().remove(0).flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            assert_eq!(run(&ours.plan), run(&theirs.plan));
        }
        ModelProto::decode(&exported.model[..]).unwrap()
    }
}

fn default_model() -> Vec<u8> {
    fs::read(DEFAULT).unwrap()
}

#[test]
fn the_default_model_comes_back_as_it_was() {
    for preset in [Preset::Onednn, Preset::Qnnpack, Preset::X86, Preset::Tensorrt] {
        for fp32 in [&[][..], &[1, 6, 9, 17], &[0, 18]] {
            for residual in [Residual::Rounded, Residual::Fused] {
                let quantized = Quantized::with(default_model(), Path::new("."), preset, residual, fp32);
                quantized.round_trip(Path::new("."));
            }
        }
    }
}

/// What a network in OpenVINO's rounding is, its metadata say: nodes cannot.
#[test]
fn a_rounding_comes_back_from_the_metadata() {
    for rounding in [Rounding::OpenVino, Rounding::OpenVinoStatic] {
        let mut qconfig = Preset::Openvino.qconfig();
        qconfig.activation.rounding = rounding;
        for fp32 in [&[][..], &[1, 6, 9, 17]] {
            let quantized = Quantized::of(default_model(), Path::new("."), qconfig, fp32);
            let restored = ptq::restore(&quantized.engine(), &quantized.file).unwrap();
            assert_eq!(Target::of(&restored), Target::OpenVino);
            let exported = quantized.round_trip_for(Target::OpenVino, Path::new("."));
            let entry = StringStringEntryProto { key: "qtuned.rounding".to_owned(), value: rounding.name().to_owned() };
            assert!(exported.metadata_props.contains(&entry));
            // What is not known is not taken for something else.
            let mut other = exported.clone();
            other.metadata_props.iter_mut().for_each(|entry| entry.value.push('?'));
            let bytes = other.encode_to_vec();
            let model = onnx::import(&bytes, None).unwrap();
            let refused = export::imported(&bytes, &model, &Groups::of(&model.graph), "").unwrap_err().to_string();
            let wanted =
                format!("metadata `qtuned.rounding` is `{}?`, expected one of `onnxruntime`, ", rounding.name());
            assert!(refused.starts_with(&wanted), "{refused}");
        }
    }
    let plain = Quantized::new(default_model(), Path::new("."), Preset::Onednn, &[]).export(Path::new("."));
    assert!(ModelProto::decode(&plain.model[..]).unwrap().metadata_props.is_empty() && !plain.fixed_shapes);
}

/// With `residual: fused` an addition reads what the layer writes, with no pair in between; it has one otherwise.
#[test]
fn a_fused_residual_has_no_pair() {
    for (residual, pairs) in [(Residual::Rounded, [true, true]), (Residual::Fused, [true, false])] {
        let quantized = Quantized::with(default_model(), Path::new("."), Preset::Tensorrt, residual, &[]);
        for target in [Target::OnnxRuntime, Target::OpenVino, Target::TensorRt] {
            let exported = quantized.export_for(target, Path::new("."));
            let graph = ModelProto::decode(&exported.model[..]).unwrap().graph.unwrap();
            let mut additions = 0;
            for add in graph.node.iter().filter(|node| node.op_type == "Add") {
                let behind_a_pair = |name: &String| {
                    let producer = graph.node.iter().find(|node| node.output.contains(name)).unwrap();
                    producer.op_type == "DequantizeLinear"
                };
                let mut found: Vec<bool> = add.input.iter().map(behind_a_pair).collect();
                found.sort_by_key(|pair| !pair);
                assert_eq!(found, pairs, "{} {residual:?} {target:?}", add.name);
                additions += 1;
            }
            assert!(additions > 0);
            // Each group's integers, but for those that are not rounded.
            let rounded = quantized.groups.len() - if residual == Residual::Fused { additions } else { 0 };
            assert_eq!(exported.probes.len(), rounded);
        }
        // Tools that are told every grid have no word for a sum that has none.
        let Quantized { bytes, model, groups, file } = &quantized;
        let source = Source { bytes, folder: Path::new("."), model, groups };
        let restored = ptq::restore(&quantized.engine(), file).unwrap();
        let listed = |tool| export::list(&source, file, &restored, tool).map_err(|error| error.to_string());
        assert!(listed(Tool::Nncf).is_ok());
        for tool in [Tool::Torch, Tool::OnnxRuntime, Tool::NeuralCompressor] {
            match residual {
                Residual::Rounded => assert!(listed(tool).is_ok()),
                Residual::Fused => assert!(listed(tool).unwrap_err().contains("`residual: fused`")),
            }
        }
    }
}

#[test]
fn nothing_but_what_is_listed_changes() {
    let quantized = Quantized::new(default_model(), Path::new("."), Preset::Qnnpack, &[2]);
    let exported = quantized.export(Path::new("."));
    assert!(exported.model.len() * 2 < quantized.bytes.len() + 16_000, "{} bytes", exported.model.len());
    let before = ModelProto::decode(&quantized.bytes[..]).unwrap();
    let after = ModelProto::decode(&exported.model[..]).unwrap();
    let (graph, was) = (after.graph.clone().unwrap(), before.graph.clone().unwrap());
    assert_eq!((&graph.input, &graph.output, &graph.name), (&was.input, &was.output, &was.name));
    assert_eq!(after.opset_import, before.opset_import);
    let bare = |model: ModelProto| ModelProto { graph: None, ..model };
    assert_eq!(bare(after), bare(before));
    for node in &was.node {
        match graph.node.iter().find(|n| n.name == node.name) {
            Some(kept) => assert_eq!((&kept.op_type, &kept.attribute), (&node.op_type, &node.attribute)),
            None => assert_eq!(node.op_type, "BatchNormalization"),
        }
    }
}

#[test]
fn a_network_in_fp32_is_the_original_byte_by_byte() {
    let all: Vec<usize> = (0..19).collect();
    let quantized = Quantized::new(default_model(), Path::new("."), Preset::Onednn, &all);
    assert_eq!(quantized.export(Path::new(".")).model, quantized.bytes);
}

fn tensor(name: &str, dims: &[i64], seed: u32) -> TensorProto {
    let count = dims.iter().product::<i64>() as usize;
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: data_type::FLOAT,
        raw_data: noise(count, seed).iter().flat_map(|x| x.to_le_bytes()).collect(),
        ..Default::default()
    }
}

fn node(name: &str, op_type: &str, input: &[&str], output: &str, attribute: &[AttributeProto]) -> NodeProto {
    NodeProto {
        name: name.to_owned(),
        op_type: op_type.to_owned(),
        input: input.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: attribute.to_vec(),
        ..Default::default()
    }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: attribute_type::FLOAT, f, ..Default::default() }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    let ints = ints.to_vec();
    AttributeProto { name: name.to_owned(), r#type: attribute_type::INTS, ints, ..Default::default() }
}

/// Of pictures of 3×6×6, with output `y`.
fn model(opset: i64, node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let dim = [Value::DimParam("N".to_owned()), Value::DimValue(3), Value::DimValue(6), Value::DimValue(6)];
    let dim = dim.into_iter().map(|value| DimensionProto { value: Some(value), ..Default::default() }).collect();
    let shape = Some(TensorShapeProto { dim });
    let tensor_type = Some(TensorTypeProto { elem_type: data_type::FLOAT, shape });
    let r#type = Some(TypeProto { tensor_type, ..Default::default() });
    let value = |name: &str| ValueInfoProto { name: name.to_owned(), r#type: r#type.clone(), ..Default::default() };
    let output = vec![ValueInfoProto { name: "y".to_owned(), ..Default::default() }];
    let graph = GraphProto { node, initializer, input: vec![value("x")], output, ..Default::default() };
    ModelProto {
        ir_version: 4,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
        graph: Some(graph),
        ..Default::default()
    }
}

#[test]
fn an_old_operator_set_is_raised() {
    let nodes = vec![
        node("conv", "Conv", &["x", "w"], "c", &[]),
        node("norm", "BatchNormalization", &["c", "g", "b", "m", "v"], "n", &[]),
        node("clip", "Clip", &["n"], "r", &[float("min", 0.0), float("max", 6.0)]),
        node("pool", "GlobalAveragePool", &["r"], "p", &[]),
        node("squeeze", "Squeeze", &["p"], "s", &[ints("axes", &[2, 3])]),
        node("drop", "Dropout", &["s"], "d", &[float("ratio", 0.5)]),
        node("fc", "Gemm", &["d", "fw", "fb"], "f", &[float("alpha", 0.5), float("beta", 2.0)]),
        node("soft", "Softmax", &["f"], "y", &[]),
    ];
    let mut constants = vec![tensor("w", &[4, 3, 3, 3], 1), tensor("g", &[4], 2), tensor("b", &[4], 3)];
    constants.extend([tensor("m", &[4], 4), tensor("fw", &[4, 5], 6), tensor("fb", &[5], 7)]);
    let variance = [0.5f32, 0.75, 1.0, 1.25].iter().flat_map(|x| x.to_le_bytes()).collect();
    constants.push(TensorProto { raw_data: variance, ..tensor("v", &[4], 5) });
    let bytes = model(9, nodes, constants).encode_to_vec();
    for preset in [Preset::Onednn, Preset::Qnnpack] {
        let file = Quantized::new(bytes.clone(), Path::new("."), preset, &[]).round_trip(Path::new("."));
        assert_eq!(file.opset_import[0].version, 13);
        let graph = file.graph.unwrap();
        let named = |name: &str| graph.node.iter().find(|node| node.name == name).unwrap();
        assert_eq!(named("clip").input.len(), 3);
        assert_eq!(named("squeeze").input.len(), 2);
        assert!(named("fc").attribute.is_empty());
        assert_eq!(named("soft").attribute[0].i, 1);
        assert_eq!(named("conv").output, ["n"]);
        assert!(graph.node.iter().all(|node| node.op_type != "BatchNormalization"));
    }
}

#[test]
fn an_operator_that_is_not_known_keeps_the_operator_set() {
    let nodes = vec![node("conv", "Conv", &["x", "w"], "y", &[]), node("odd", "Upsample", &["x", "w"], "unread", &[])];
    let bytes = model(9, nodes, vec![tensor("w", &[4, 3, 3, 3], 1)]).encode_to_vec();
    let quantized = Quantized::new(bytes, Path::new("."), Preset::Onednn, &[]);
    let source =
        Source { bytes: &quantized.bytes, folder: Path::new("."), model: &quantized.model, groups: &quantized.groups };
    let restored = ptq::restore(&quantized.engine(), &quantized.file).unwrap();
    let error = export::qdq(&source, &quantized.file, &restored, Target::OnnxRuntime, "d").unwrap_err();
    assert_eq!(
        error.to_string(),
        "operator set 9 has no scales for each channel, and node `odd` (`Upsample`) cannot be carried over to operator \
         set 13: convert the file with onnx.version_converter first"
    );
}

#[test]
fn sums_products_and_shared_weights() {
    let nodes = vec![
        node("a", "Conv", &["x", "w"], "a", &[ints("pads", &[1, 1, 1, 1])]),
        node("b", "Conv", &["a", "w"], "b", &[ints("pads", &[1, 1, 1, 1])]),
        node("sum", "Add", &["b", "a"], "s", &[]),
        node("relu", "Relu", &["s"], "r", &[]),
        node("max", "MaxPool", &["r"], "m", &[ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])]),
        node("same", "Identity", &["m"], "i", &[]),
        node("c", "Conv", &["i", "w"], "c", &[]),
        node("flat", "Flatten", &["c"], "f", &[]),
        node("fc", "MatMul", &["f", "fw"], "q", &[]),
        node("bias", "Add", &["q", "fb"], "y", &[]),
    ];
    let constants = vec![tensor("w", &[3, 3, 3, 3], 1), tensor("fw", &[3, 5], 2), tensor("fb", &[5], 3)];
    let bytes = model(17, nodes, constants).encode_to_vec();
    for fp32 in [&[][..], &[2], &[1, 3], &[0, 4]] {
        let file = Quantized::new(bytes.clone(), Path::new("."), Preset::Onednn, fp32).round_trip(Path::new("."));
        let graph = file.graph.unwrap();
        assert_eq!(graph.output[0].name, "y");
        let floats = graph.initializer.iter().any(|tensor| tensor.name == "w");
        assert_eq!(floats, [0, 1, 3].iter().any(|group| fp32.contains(group)));
    }
}

#[test]
fn what_is_folded_from_afar_or_ahead_is_taken_out() {
    let norm = |name: &str, input: &str, output: &str, at: &str| {
        let names = ["g", "b", "m", "v"].map(|parameter| format!("{parameter}{at}"));
        let [g, b, m, v] = names.each_ref().map(String::as_str);
        node(name, "BatchNormalization", &[input, g, b, m, v], output, &[])
    };
    let nodes = vec![
        norm("ahead", "x", "a", "3"),
        node("one", "Conv", &["a", "w"], "c", &[]),
        node("max", "MaxPool", &["c"], "p", &[ints("kernel_shape", &[2, 2])]),
        norm("afar", "p", "n", "4"),
        node("relu", "Relu", &["n"], "r", &[]),
        node("flat", "Flatten", &["r"], "f", &[]),
        node("fc", "MatMul", &["f", "fw"], "q", &[]),
        norm("near", "q", "z", "5"),
        node("scaled", "Mul", &["z", "v5"], "k", &[]),
        node("last", "Gemm", &["k", "lw"], "l", &[]),
        node("turned", "Unsqueeze", &["l", "axis"], "u", &[]),
        node("out", "Mul", &["u", "two"], "y", &[]),
    ];
    let positive = |name: &str, len: i64, seed| {
        let data = noise(len as usize, seed).iter().flat_map(|x| (x.abs() + 0.25).to_le_bytes()).collect();
        TensorProto { raw_data: data, ..tensor(name, &[len], seed) }
    };
    let mut constants = vec![tensor("w", &[4, 3, 3, 3], 1), tensor("fw", &[36, 5], 2), tensor("lw", &[5, 3], 3)];
    for channels in [3, 4, 5] {
        let [g, b, m, v] = ["g", "b", "m", "v"].map(|parameter| format!("{parameter}{channels}"));
        constants.extend([positive(&g, channels, 4), tensor(&b, &[channels], 5)]);
        constants.extend([tensor(&m, &[channels], 6), positive(&v, channels, 7)]);
    }
    constants.push(TensorProto { raw_data: 2f32.to_le_bytes().to_vec(), dims: vec![], ..tensor("two", &[1], 8) });
    constants.push(TensorProto {
        name: "axis".to_owned(),
        dims: vec![1],
        data_type: data_type::INT64,
        int64_data: vec![2],
        ..Default::default()
    });
    let bytes = model(17, nodes, constants).encode_to_vec();
    for fp32 in [&[][..], &[0], &[1], &[2], &[0, 1]] {
        let quantized = Quantized::new(bytes.clone(), Path::new("."), Preset::Onednn, fp32);
        assert_eq!(quantized.groups.len(), 3);
        let graph = quantized.round_trip(Path::new(".")).graph.unwrap();
        let has = |name: &str| graph.node.iter().any(|node| node.name == name && node.op_type != "Identity");
        assert_eq!([has("ahead"), has("afar")], [fp32.contains(&0); 2]);
        assert_eq!([has("scaled"), has("out")], [fp32.contains(&1), fp32.contains(&2)]);
        assert_eq!(graph.output[0].name, "y");
    }
}

#[test]
fn tensorrt_gets_what_it_takes() {
    let export = |preset, fp32: &[usize]| {
        let quantized = Quantized::new(default_model(), Path::new("."), preset, fp32);
        let source = Source {
            bytes: &quantized.bytes,
            folder: Path::new("."),
            model: &quantized.model,
            groups: &quantized.groups,
        };
        let restored = ptq::restore(&quantized.engine(), &quantized.file).unwrap();
        export::qdq(&source, &quantized.file, &restored, Target::TensorRt, "d")
    };
    assert_eq!(
        export(Preset::Onednn, &[]).unwrap_err().to_string(),
        "node `/features/features.0/features.0.0/Conv` (`Conv`) has activations that TensorRT does not take: it wants s8 \
         with zero point 0, as the preset `tensorrt` has"
    );
    let graph = ModelProto::decode(&export(Preset::Tensorrt, &[3]).unwrap().model[..]).unwrap().graph.unwrap();
    let types: Vec<i32> = graph.initializer.iter().map(|tensor| tensor.data_type).collect();
    assert!(!types.contains(&data_type::INT32) && !types.contains(&data_type::UINT8));
    let clips = graph.node.iter().filter(|node| node.op_type == "Clip").count();
    assert_eq!(clips, 10);
}

/// OpenVINO gets the scale before 1×1 convolutions with a stride as 1 times it, where nothing else reads the value.
#[test]
fn strides_stay_where_they_are_in_openvino() {
    let two = [ints("strides", &[2, 2])];
    let nodes = |other: &[AttributeProto]| {
        vec![
            node("a", "Conv", &["x", "w"], "a", &[]),
            node("b", "Conv", &["a", "v"], "b", &two),
            node("c", "Conv", &["a", "u"], "c", other),
            node("d", "GlobalAveragePool", &["b"], "d", &[]),
            node("e", "GlobalAveragePool", &["c"], "e", &[]),
            node("f", "Add", &["d", "e"], "y", &[]),
        ]
    };
    let constants =
        || vec![tensor("w", &[8, 3, 3, 3], 1), tensor("v", &[8, 8, 1, 1], 2), tensor("u", &[8, 8, 1, 1], 3)];
    let scale = |other: &[AttributeProto], target| {
        let bytes = model(13, nodes(other), constants()).encode_to_vec();
        let quantized = Quantized::new(bytes, Path::new("."), Preset::Onednn, &[]);
        let graph = quantized.round_trip_for(target, Path::new(".")).graph.unwrap();
        let writes = |name: &str| graph.node.iter().find(|node| node.output[0] == name).cloned();
        let constant = |name: &str| graph.initializer.iter().find(|tensor| tensor.name == name).cloned().unwrap();
        let convolution = graph.node.iter().find(|node| node.name == "b").unwrap();
        let dequantize = writes(&convolution.input[0]).unwrap();
        let quantize = writes(&dequantize.input[0]).unwrap();
        assert_eq!((&dequantize.op_type[..], &quantize.op_type[..]), ("DequantizeLinear", "QuantizeLinear"));
        writes(&dequantize.input[1]).map(|of_one| {
            assert_eq!((&of_one.op_type[..], of_one.input.len()), ("DequantizeLinear", 2));
            let one = constant(&of_one.input[0]);
            assert_eq!((one.data_type, &one.raw_data[..], &one.dims[..]), (data_type::INT8, &[1][..], &[][..]));
            assert_eq!(of_one.input[1], quantize.input[1]);
        })
    };
    assert_eq!(scale(&two, Target::OpenVino), Some(()));
    assert_eq!(scale(&two, Target::OnnxRuntime), None);
    // Then OpenVINO leaves the stride.
    assert_eq!(scale(&[], Target::OpenVino), None);
    assert_eq!(scale(&[ints("strides", &[2, 1])], Target::OpenVino), None);
}

#[test]
fn external_data_stays_external() {
    let folder = tempfile::tempdir().unwrap();
    let mut constants = vec![tensor("w", &[16, 3, 3, 3], 1), tensor("v", &[16, 16, 3, 3], 2)];
    let mut data = vec![0u8; 100];
    for constant in &mut constants {
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
        let raw = std::mem::take(&mut constant.raw_data);
        constant.data_location = 1;
        constant.external_data = vec![
            entry("location", "w.bin".to_owned()),
            entry("offset", data.len().to_string()),
            entry("length", raw.len().to_string()),
        ];
        data.extend(raw);
    }
    fs::write(folder.path().join("w.bin"), data).unwrap();
    let nodes = vec![node("a", "Conv", &["x", "w"], "a", &[]), node("b", "Conv", &["a", "v"], "y", &[])];
    let bytes = model(13, nodes, constants).encode_to_vec();
    let file = Quantized::new(bytes, folder.path(), Preset::Onednn, &[1]).round_trip(folder.path());
    let graph = file.graph.unwrap();
    let kept = graph.initializer.iter().find(|tensor| tensor.name == "v").unwrap();
    assert_eq!((kept.data_location, kept.external_data[0].value.as_str()), (1, "model.data"));
    assert!(graph.initializer.iter().all(|tensor| tensor.name != "w"));
}
