use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    graph::{Constant, Conv, Graph, Linear, Node, Op, Value, ValueId, Window},
    quant::{
        ActivationDtype, ActivationScheme, ActivationSpec, ObserverKind, Residual, Rounding, WeightDtype, WeightScheme,
        WeightSpec,
    },
};

/// A network of 1×1 layers over one pixel, one after another, as an exporter would name them. `features.1` has a
/// weight of its own and layers below it; the Add has no weight and so no module path.
fn network() -> Groups {
    let layers = [
        ("Conv_0", "features.0.weight"),
        ("Conv_1", "features.1.conv.0.weight"),
        ("Conv_2", "features.1.conv.1.weight"),
        ("Gemm_3", "features.1.weight"),
        ("Conv_4", "features.10.weight"),
        ("Gemm_5", "classifier.1.weight"),
        ("Add_6", ""),
    ];
    let mut values = vec![Value { name: "input".into(), shape: vec![1, 1, 1] }];
    let mut nodes = Vec::new();
    for (index, (name, weight_name)) in layers.into_iter().enumerate() {
        values.push(Value { name: format!("out_{index}"), shape: vec![1, 1, 1] });
        let weight = |dims: &[usize]| Constant { dims: dims.to_vec(), data: Arc::from([1.0]) };
        let weight_name = weight_name.to_owned();
        let op_type = name.split('_').next().unwrap();
        let (op_type, op) = match op_type {
            "Conv" => {
                let window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };
                let weight = weight(&[1, 1, 1, 1]);
                ("Conv", Op::Conv(Conv { weight, bias: None, weight_name, groups: 1, window }))
            }
            "Gemm" => ("Gemm", Op::Linear(Linear { weight: weight(&[1, 1]), bias: None, weight_name })),
            _ => ("Add", Op::Add),
        };
        let inputs = vec![ValueId(index); if matches!(op, Op::Add) { 2 } else { 1 }];
        nodes.push(Node { name: name.into(), op_type: op_type.into(), op, inputs, output: ValueId(index + 1) });
    }
    let outputs = vec![ValueId(layers.len())];
    Groups::of(&Graph { name: "network".into(), values, nodes, inputs: vec![ValueId(0)], outputs })
}

fn parse(yaml: &str) -> QConfigMapping {
    serde_yaml::from_str(yaml).unwrap()
}

fn refused(yaml: &str) -> String {
    serde_yaml::from_str::<QConfigMapping>(yaml).unwrap_err().to_string()
}

/// For each group its id and the name of the preset it runs with; `fp32`, or `other`.
fn resolved(mapping: &QConfigMapping) -> Vec<String> {
    let groups = network();
    let name = |qconfig: &Option<QConfig>| match qconfig {
        None => "fp32",
        // x86 and fbgemm are the same qconfig.
        Some(q) => Preset::ALL.into_iter().find(|p| p.qconfig() == *q).map_or("other", Preset::name),
    };
    let qconfigs = mapping.resolve(&groups).unwrap();
    groups.all().iter().zip(&qconfigs).map(|(g, q)| format!("{} {}", g.id, name(q))).collect()
}

fn resolved_yaml(yaml: &str) -> Vec<String> {
    resolved(&parse(yaml))
}

fn error(yaml: &str) -> String {
    parse(yaml).resolve(&network()).unwrap_err().to_string()
}

#[test]
fn each_section_overrides_those_below_it() {
    let global = "preset: qnnpack\n'': tensorrt\n";
    let object_type = format!("{global}object_type: {{Conv: x86}}\n");
    let regex = format!("{object_type}module_name_regex: {{'features.1': onednn}}\n");
    let name = format!("{regex}module_name: {{features.1.conv: null}}\n");
    let order = format!("{name}module_name_object_type_order: [[features.1.conv, Conv, 1, qnnpack]]\n");
    assert_eq!(
        resolved_yaml(global),
        [
            "features.0 tensorrt",
            "features.1.conv.0 tensorrt",
            "features.1.conv.1 tensorrt",
            "features.1 tensorrt",
            "features.10 tensorrt",
            "classifier.1 tensorrt",
            "Add_6 tensorrt"
        ]
    );
    assert_eq!(
        resolved_yaml(&object_type),
        [
            "features.0 x86",
            "features.1.conv.0 x86",
            "features.1.conv.1 x86",
            "features.1 tensorrt",
            "features.10 x86",
            "classifier.1 tensorrt",
            "Add_6 tensorrt"
        ]
    );
    assert_eq!(
        resolved_yaml(&regex),
        [
            "features.0 x86",
            "features.1.conv.0 onednn",
            "features.1.conv.1 onednn",
            "features.1 onednn",
            "features.10 onednn",
            "classifier.1 tensorrt",
            "Add_6 tensorrt"
        ]
    );
    assert_eq!(
        resolved_yaml(&name),
        [
            "features.0 x86",
            "features.1.conv.0 fp32",
            "features.1.conv.1 fp32",
            "features.1 onednn",
            "features.10 onednn",
            "classifier.1 tensorrt",
            "Add_6 tensorrt"
        ]
    );
    assert_eq!(
        resolved_yaml(&order),
        [
            "features.0 x86",
            "features.1.conv.0 fp32",
            "features.1.conv.1 qnnpack",
            "features.1 onednn",
            "features.10 onednn",
            "classifier.1 tensorrt",
            "Add_6 tensorrt"
        ]
    );
}

#[test]
fn the_longest_listed_parent_wins_and_a_prefix_is_no_parent() {
    // features.1 is a parent of features.1.conv.0 but not of features.10.
    let got = resolved_yaml(
        "module_name: {features: tensorrt, features.1: qnnpack, features.1.conv.1: null, classifier: x86}",
    );
    assert_eq!(
        got,
        [
            "features.0 tensorrt",
            "features.1.conv.0 qnnpack",
            "features.1.conv.1 fp32",
            "features.1 qnnpack",
            "features.10 tensorrt",
            "classifier.1 x86",
            "Add_6 onednn"
        ]
    );
}

#[test]
fn a_name_may_be_an_alias() {
    let aliases = ["Conv_0", "features.0.weight", "out_0"];
    for alias in aliases {
        assert_eq!(resolved_yaml(&format!("module_name: {{{alias}: null}}"))[0], "features.0 fp32", "{alias}");
    }
    // The id itself comes before an alias, and an alias before a parent.
    assert_eq!(resolved_yaml("module_name: {Conv_0: null, features.0: x86}")[0], "features.0 x86");
    assert_eq!(resolved_yaml("module_name: {features: null, Conv_0: x86}")[0], "features.0 x86");
}

#[test]
fn regular_expressions_are_anchored_at_the_start_only() {
    let fp32 = |pattern: &str| -> Vec<String> {
        let got = resolved_yaml(&format!("module_name_regex: {{'{pattern}': null}}"));
        got.iter().filter_map(|line| line.strip_suffix(" fp32")).map(str::to_owned).collect()
    };
    assert_eq!(fp32(r"features\.1"), ["features.1.conv.0", "features.1.conv.1", "features.1", "features.10"]);
    assert_eq!(fp32(r"features\.1$"), ["features.1"]);
    assert_eq!(fp32(r"features\.0|.*conv"), ["features.0", "features.1.conv.0", "features.1.conv.1"]);
    assert_eq!(fp32(r".*\.1"), ["features.1.conv.0", "features.1.conv.1", "features.1", "features.10", "classifier.1"]);
    assert_eq!(fp32("(?x) classifier # the head"), ["classifier.1"]);
    assert_eq!(
        error(r"module_name_regex: {'conv\.0': null}"),
        r"module_name_regex: `conv\.0` matches no group of the model"
    );
    // The first that matches decides.
    let got = resolved_yaml(r"module_name_regex: {'features\.0': x86, 'features': tensorrt, 'f': null}");
    assert_eq!(got[..2], ["features.0 x86", "features.1.conv.0 tensorrt"]);
}

#[test]
fn object_types_may_be_pytorchs() {
    let got = resolved_yaml("object_type: {torch.nn.Conv2d: null, operator.add: x86, torch.nn.Linear: tensorrt}");
    assert_eq!(got[2..5], ["features.1.conv.1 fp32", "features.1 tensorrt", "features.10 fp32"]);
    assert_eq!(got[5..], ["classifier.1 tensorrt", "Add_6 x86"]);
    let got = resolved_yaml("module_name_object_type_order: [[features, torch.nn.Conv2d, 1, null]]");
    assert_eq!(got.iter().filter(|line| line.ends_with(" fp32")).collect::<Vec<_>>(), ["features.10 fp32"]);
}

#[test]
fn an_order_counts_groups_of_one_type_in_one_module() {
    for (entry, group) in [
        ("[features, Conv, 0, null]", "features.0 fp32"),
        ("[features, Conv, 1, null]", "features.10 fp32"),
        ("[features, Gemm, 0, null]", "features.1 fp32"),
        ("[features.1.conv, Conv, 1, null]", "features.1.conv.1 fp32"),
        ("[classifier, Gemm, 0, null]", "classifier.1 fp32"),
        ("['', Add, 0, null]", "Add_6 fp32"),
    ] {
        let got = resolved_yaml(&format!("module_name_object_type_order: [{entry}]"));
        assert_eq!(got.iter().filter(|line| line.ends_with(" fp32")).collect::<Vec<_>>(), [group], "{entry}");
    }
}

#[test]
fn presets_are_found_by_name_and_the_default_is_onednn() {
    assert_eq!(parse("{}"), QConfigMapping::preset(Preset::Onednn));
    for preset in Preset::ALL {
        let expected = QConfigMapping::preset(preset);
        assert_eq!(parse(&format!("preset: {}", preset.name())), expected);
        assert_eq!(parse(&format!("preset: {0}\n'': {0}", preset.name())), expected);
        assert_eq!(parse(&format!("'': {}", preset.name())).global, Some(preset.qconfig()));
    }
    assert_eq!(parse("preset: x86\n'': null").global, None);
    assert_eq!(parse("preset: x86\n'': null").preset, Preset::X86);
}

#[test]
fn missing_fields_are_those_of_the_mappings_preset() {
    let conv = |yaml: &str| parse(yaml).object_type[0].1.unwrap();
    let base = Preset::Qnnpack.qconfig();
    let got = conv("preset: qnnpack\nobject_type: {Conv: {activation: {observer: minmax}}}");
    let activation = ActivationSpec { observer: ObserverKind::Minmax, ..base.activation };
    assert_eq!(got, QConfig { activation, ..base });
    let got = conv("preset: qnnpack\nobject_type: {Conv: {weight: {qscheme: per_channel_symmetric}}}");
    let weight = WeightSpec { qscheme: WeightScheme::PerChannelSymmetric, ..base.weight };
    assert_eq!(got, QConfig { weight, ..base });
    assert_eq!(conv("preset: tensorrt\nobject_type: {Conv: {}}"), Preset::Tensorrt.qconfig());
    // An integer range replaces reduce_range, and the other way round.
    let got = conv("preset: x86\nobject_type: {Conv: {activation: {quant_max: 200}}}").activation;
    assert_eq!((got.reduce_range, got.range()), (false, (0, 200)));
    let got = conv("preset: tensorrt\nobject_type: {Conv: {activation: {reduce_range: true}}}").activation;
    assert_eq!((got.quant_min, got.quant_max, got.range()), (None, None, (-64, 63)));
}

#[test]
fn with_fp32_overrides_every_section() {
    let groups = network();
    let qnnpack_everywhere = "preset: qnnpack\nobject_type: {Conv: qnnpack}\nmodule_name_regex: {'.*': qnnpack}\n\
        module_name: {features.1: qnnpack, Conv_0: qnnpack, features.10: qnnpack, features: qnnpack}\n\
        module_name_object_type_order: [[features.1.conv, Conv, 1, qnnpack], [features, Gemm, 0, qnnpack]]";
    for yaml in ["preset: qnnpack", qnnpack_everywhere] {
        let mapping = parse(yaml);
        for chosen in 0..1u32 << groups.len() {
            let fp32: Vec<GroupId> = groups.ids().filter(|id| chosen & (1 << id.0) != 0).collect();
            let got = mapping.with_fp32(&groups, &fp32).resolve(&groups).unwrap();
            let expected: Vec<Option<QConfig>> =
                groups.ids().map(|id| (!fp32.contains(&id)).then(|| Preset::Qnnpack.qconfig())).collect();
            assert_eq!(got, expected, "{yaml}: {fp32:?}");
            // One at a time, in any order, is the same as all at once.
            let step = |mapping: QConfigMapping, id: &GroupId| mapping.with_fp32(&groups, &[*id]);
            assert_eq!(fp32.iter().rev().fold(mapping.clone(), step).resolve(&groups).unwrap(), expected);
        }
    }
}

#[test]
fn errors_name_the_section_and_suggest_the_nearest_name() {
    for (yaml, message) in [
        (
            "module_name: {clasifier.1: null}",
            "module_name: `clasifier.1` matches no group of the model; did you mean `classifier.1`?",
        ),
        (
            "module_name: {feature: null}",
            "module_name: `feature` matches no group of the model; did you mean `features`?",
        ),
        ("module_name: {backbone.stem: null}", "module_name: `backbone.stem` matches no group of the model"),
        ("object_type: {conv: null}", "object_type: `conv` matches no group of the model; did you mean `Conv`?"),
        ("object_type: {torch.nn.AvgPool2d: null}", "object_type: `torch.nn.AvgPool2d` matches no group of the model"),
        (
            "module_name_object_type_order: [[features.1.conv, Conv, 2, null]]",
            "module_name_object_type_order: `features.1.conv, Conv, 2` matches no group of the model; did you mean \
             `features.1.conv, Conv, 0`?",
        ),
        ("module_name_regex: {'head': null}", "module_name_regex: `head` matches no group of the model"),
        ("module_name_regex: {'(': null}", "module_name_regex: `(` is not a regular expression: unclosed group"),
        (
            "module_name_regex: {'features)|(x': null}",
            "module_name_regex: `features)|(x` is not a regular expression: unopened group",
        ),
        ("object_type: {Conv: {weight: {quant_min: 3}}}", "object_type: `Conv`"),
        ("'': {weight: {quant_max: 300}}", "qconfig"),
        (
            "module_name_object_type_order: [[features, Conv, 0, {weight: {quant_max: 0}}]]",
            "module_name_object_type_order: `features`",
        ),
    ] {
        assert_eq!(error(yaml), message, "{yaml}");
    }
    let source = parse("'': {weight: {quant_max: 300}}").resolve(&network()).unwrap_err();
    assert_eq!(
        std::error::Error::source(&source).unwrap().to_string(),
        "weight: quant_min -127 and quant_max 300 must satisfy -128 <= quant_min < quant_max <= 127"
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    for (yaml, message) in [
        (
            "qconfig: x86",
            "unknown key `qconfig`, expected one of `preset`, `\"\"`, `object_type`, `module_name_regex`, \
             `module_name`, `module_name_object_type_order`",
        ),
        (
            "preset: qnnpak",
            "preset: unknown preset `qnnpak`, expected one of `onednn`, `x86`, `fbgemm`, `qnnpack`, `tensorrt`, \
             `openvino`",
        ),
        (
            "module_name: {a.b: fast}",
            "module_name: `a.b`: preset: unknown preset `fast`, expected one of `onednn`, `x86`, `fbgemm`, `qnnpack`, \
             `tensorrt`, `openvino`",
        ),
        ("object_type: [Conv]", "object_type: expected a mapping of names"),
        (
            "object_type: {Conv: 3}",
            "object_type: `Conv`: expected null, the name of a preset, or a mapping of `activation`, `weight` and `residual`",
        ),
        (
            "object_type: {Conv: {weights: {}}}",
            "object_type: `Conv`: expected `activation` and `weight`, each a mapping, and `residual`, `rounded` or `fused`",
        ),
        (
            "'': {activation: {observer: median}}",
            "\"\": activation.observer: unknown variant `median`, expected one of `minmax`, `histogram`, \
             `percentile`, `mse`, `entropy`, `auto`",
        ),
        (
            "'': {weight: {bits: 4}}",
            "\"\": weight.bits: unknown field `bits`, expected one of `dtype`, `qscheme`, `quant_min`, `quant_max`, \
             `bias_correction`",
        ),
        (
            "module_name_object_type_order: [[features, Conv, null]]",
            "module_name_object_type_order: expected a list of [module, type, index, qconfig]",
        ),
        (
            "module_name_object_type_order: [[features, Conv, -1, null]]",
            "module_name_object_type_order: expected a list of [module, type, index, qconfig]",
        ),
    ] {
        assert_eq!(refused(yaml), message, "{yaml}");
    }
}

fn qconfig() -> impl Strategy<Value = Option<QConfig>> {
    use ObserverKind::{Auto, Entropy, Histogram, Minmax, Mse};
    let others =
        prop::sample::select(vec![Minmax, Histogram, Mse, Entropy, Auto]).prop_map(|observer| (observer, None));
    let percentile = prop::option::of((50.001f64..=100.0).prop_map(|percent| percent.try_into().unwrap()));
    let observer = prop_oneof![others, percentile.prop_map(|percentile| (ObserverKind::Percentile, percentile))];
    let dtype = prop_oneof![Just(ActivationDtype::Quint8), Just(ActivationDtype::Qint8)];
    let scheme = prop_oneof![Just(ActivationScheme::PerTensorAffine), Just(ActivationScheme::PerTensorSymmetric)];
    let bound = || prop::option::of(-128i32..=255);
    let rounding = prop_oneof![Just(Rounding::OnnxRuntime), Just(Rounding::OpenVino), Just(Rounding::OpenVinoStatic)];
    let activation = (dtype, scheme, observer, any::<bool>(), bound(), bound(), rounding).prop_map(
        |(dtype, qscheme, (observer, percentile), reduce_range, quant_min, quant_max, rounding)| ActivationSpec {
            dtype,
            qscheme,
            observer,
            percentile,
            reduce_range,
            quant_min,
            quant_max,
            rounding,
        },
    );
    let scheme = prop_oneof![Just(WeightScheme::PerTensorSymmetric), Just(WeightScheme::PerChannelSymmetric)];
    let weight = (scheme, bound(), bound(), any::<bool>());
    let weight = weight.prop_map(|(qscheme, quant_min, quant_max, bias_correction)| WeightSpec {
        dtype: WeightDtype::Qint8,
        qscheme,
        quant_min,
        quant_max,
        bias_correction,
    });
    let residual = prop_oneof![Just(Residual::Rounded), Just(Residual::Fused)];
    prop::option::of((activation, weight, residual).prop_map(|(activation, weight, residual)| QConfig {
        activation,
        weight,
        residual,
    }))
}

/// Sections name each thing once; names include what YAML would read as something else.
fn named() -> impl Strategy<Value = Vec<(String, Option<QConfig>)>> {
    let name = prop_oneof![
        "[a-z0-9_.]{1,12}",
        Just("12".to_owned()),
        Just("null".to_owned()),
        Just("features\\.[0-9]: '#".to_owned())
    ];
    prop::collection::vec((name, qconfig()), 0..4).prop_map(|mut entries| {
        let mut seen = std::collections::HashSet::new();
        entries.retain(|(name, _)| seen.insert(name.clone()));
        entries
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn yaml_survives_a_round_trip(
        preset in prop::sample::select(Preset::ALL.to_vec()),
        global in qconfig(),
        (object_type, module_name_regex, module_name) in (named(), named(), named()),
        module_name_object_type_order in prop::collection::vec(("[a-z.0-9]{0,9}", "[A-Z][a-z]{1,9}", 0usize..9, qconfig()), 0..3),
    ) {
        let mapping =
            QConfigMapping { preset, global, object_type, module_name_regex, module_name, module_name_object_type_order };
        let yaml = serde_yaml::to_string(&mapping).unwrap();
        prop_assert_eq!(serde_yaml::from_str::<QConfigMapping>(&yaml).unwrap(), mapping, "{}", yaml);
    }
}
