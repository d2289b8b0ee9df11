//! The JSON Schema of a mapping as jobs write it: fields that are left out are those of the preset.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{ActivationSpec, Percentile, Preset, QConfigMapping, Residual, WeightSpec};

impl JsonSchema for QConfigMapping {
    fn schema_name() -> Cow<'static, str> {
        "QConfigMapping".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let preset = generator.subschema_for::<Preset>();
        let qconfig = generator.subschema_for::<Written>();
        json_schema!({
            "description": "How which groups are quantized, as PyTorch's QConfigMapping. Precedence, highest first: \
                module_name_object_type_order, module_name, module_name_regex, object_type, \"\".",
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "preset": {
                    "description": "Fills in missing fields, and is the qconfig of all groups that nothing else names.",
                    "default": Preset::default().name(),
                    "anyOf": [preset],
                },
                "": {"description": "For groups that nothing else names.", "anyOf": [qconfig]},
                "object_type": {
                    "description": "By operator: ONNX's name (Conv) or PyTorch's (torch.nn.Conv2d).",
                    "type": "object",
                    "additionalProperties": qconfig,
                },
                "module_name_regex": {
                    "description": "By regular expression over group ids, anchored at the start.",
                    "type": "object",
                    "additionalProperties": qconfig,
                },
                "module_name": {
                    "description": "By group id, alias, or a parent of the id; `qtuned inspect MODEL` shows them.",
                    "type": "object",
                    "additionalProperties": qconfig,
                },
                "module_name_object_type_order": {
                    "description": "Parent module, operator, how many groups of that operator come before it there, qconfig.",
                    "type": "array",
                    "items": {
                        "type": "array",
                        "prefixItems": [
                            {"type": "string"},
                            {"type": "string"},
                            {"type": "integer", "minimum": 0},
                            qconfig,
                        ],
                        "minItems": 4,
                        "maxItems": 4,
                    },
                },
            },
        })
    }
}

impl JsonSchema for Percentile {
    fn schema_name() -> Cow<'static, str> {
        "Percentile".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "exclusiveMinimum": 50, "maximum": 100})
    }
}

/// A qconfig as a mapping writes it.
struct Written;

impl JsonSchema for Written {
    fn schema_name() -> Cow<'static, str> {
        "QConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let preset = generator.subschema_for::<Preset>();
        let residual = generator.subschema_for::<Residual>();
        let [activation, weight] = [partial::<ActivationSpec>(generator), partial::<WeightSpec>(generator)];
        json_schema!({
            "description": "null leaves a group in fp32; the name of a preset; or what differs from the mapping's preset.",
            "anyOf": [
                {"type": "null"},
                preset,
                {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "activation": activation,
                        "weight": weight,
                        "residual": {
                            "description": "Of an addition: what it takes from the layer in int8 that alone feeds it.",
                            "default": "rounded",
                            "anyOf": [residual],
                        },
                    },
                },
            ],
        })
    }
}

/// A struct of which every field may be left out.
fn partial<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator);
    schema.remove("required");
    schema
}
