//! Which groups get which qconfig: PyTorch's `QConfigMapping` in YAML.

use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeMap};
use serde_yaml::{Mapping, Value};

use super::{Preset, QConfig, QConfigError, Repair, Residual, Rounding};
use crate::graph::{GroupId, Groups};

/// A qconfig by name of what it applies to; `None` leaves a group in fp32.
///
/// Precedence, highest first, as PyTorch's: `module_name_object_type_order`, `module_name` (the longest path
/// of parents that is listed), `module_name_regex` (the first that matches from the start of the name),
/// `object_type`, global.
///
/// In YAML a qconfig is `null`, the name of a preset, or a mapping
/// `{activation: {...}, weight: {...}, residual: fused}` whose missing fields are those of the mapping's `preset`:
///
/// ```yaml
/// preset: qnnpack
/// object_type: {Add: null}
/// module_name_regex: {'features\.1[0-9]\.': {activation: {observer: minmax}}}
/// module_name: {classifier.1: null}
/// module_name_object_type_order: [[features.3.conv, Conv, 0, null]]
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct QConfigMapping {
    /// The preset that fills in missing fields, and is the global qconfig unless `""` is given.
    pub preset: Preset,
    /// For groups that nothing else names.
    pub global: Option<QConfig>,
    /// By operator: ONNX's name (`Conv`) or PyTorch's (`torch.nn.Conv2d`).
    pub object_type: Vec<(String, Option<QConfig>)>,
    /// By regular expression over group ids, anchored at the start.
    pub module_name_regex: Vec<(String, Option<QConfig>)>,
    /// By group id, alias, or a parent of the id.
    pub module_name: Vec<(String, Option<QConfig>)>,
    /// By parent module, operator, and how many groups of that operator come before it in that module.
    pub module_name_object_type_order: Vec<OrderEntry>,
}

/// Parent module, operator, how many groups of that operator come before it in that module, and its qconfig.
pub type OrderEntry = (String, String, usize, Option<QConfig>);

/// A mapping that does not fit the network.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// A name that matches no group.
    #[error("{section}: `{name}` matches no group of the model{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    NoSuchGroup {
        /// Which part of the mapping.
        section: &'static str,
        /// As given.
        name: String,
        /// The nearest name that would match.
        suggestion: Option<String>,
    },
    /// A regular expression that cannot be read.
    #[error("module_name_regex: `{pattern}` is not a regular expression: {reason}")]
    Regex {
        /// As given.
        pattern: String,
        /// Why; of what the crate regex says in several lines the last.
        reason: String,
    },
    /// Qconfigs that are for different engines.
    #[error(
        "{place}: rounding is for the network as a whole, and another qconfig rounds otherwise: set it everywhere, or `preset: openvino`"
    )]
    Rounding {
        /// Which part of the mapping.
        place: String,
    },
    /// A contradiction in one of the qconfigs.
    #[error("{place}")]
    QConfig {
        /// Which part of the mapping.
        place: String,
        /// What contradicts what.
        #[source]
        source: QConfigError,
    },
}

impl QConfigMapping {
    /// The mapping that gives every group a preset's qconfig.
    pub fn preset(preset: Preset) -> QConfigMapping {
        QConfigMapping {
            preset,
            global: Some(preset.qconfig()),
            object_type: Vec::new(),
            module_name_regex: Vec::new(),
            module_name: Vec::new(),
            module_name_object_type_order: Vec::new(),
        }
    }

    /// The qconfig of each group, in the order of `groups`.
    ///
    /// # Errors
    /// A name that matches no group (with the nearest that would), a bad regular expression, or a qconfig
    /// that contradicts itself.
    pub fn resolve(&self, groups: &Groups) -> Result<Vec<Option<QConfig>>, MappingError> {
        self.check_qconfigs()?;
        let regexes = self.regexes()?;
        self.check_names(groups, &regexes)?;
        let orders = orders(groups);
        Ok(groups.ids().map(|id| self.qconfig_of(groups, id, &regexes, &orders)).collect())
    }

    /// The same mapping with these repairs in every qconfig of it.
    pub fn repaired(mut self, repairs: &[Repair]) -> QConfigMapping {
        let named = [&mut self.object_type, &mut self.module_name_regex, &mut self.module_name];
        let named = named.into_iter().flatten().map(|(_, qconfig)| qconfig);
        let ordered = self.module_name_object_type_order.iter_mut().map(|(.., qconfig)| qconfig);
        for qconfig in std::iter::once(&mut self.global).chain(named).chain(ordered).flatten() {
            *qconfig = qconfig.repaired(repairs);
        }
        self
    }

    /// The same mapping with these groups in fp32.
    pub fn with_fp32(&self, groups: &Groups, fp32: &[GroupId]) -> QConfigMapping {
        let mut mapping = self.clone();
        let orders = orders(groups);
        for &id in fp32 {
            let group = groups.get(id);
            let (parent, index) = &orders[id.0];
            let mut ordered = false;
            for (name, object_type, order, qconfig) in &mut mapping.module_name_object_type_order {
                // This section has the last word, so the entry itself must say fp32.
                if name == parent && is_type(object_type, &group.object_type) && order == index {
                    *qconfig = None;
                    ordered = true;
                }
            }
            if ordered {
                continue;
            }
            if groups.all().iter().any(|g| parents(&g.id).any(|p| p == group.id)) {
                // Its name would take all groups below it along.
                let entry = (parent.clone(), group.object_type.clone(), *index, None);
                mapping.module_name_object_type_order.push(entry);
            } else {
                mapping.module_name.retain(|(name, _)| *name != group.id && !group.aliases.contains(name));
                mapping.module_name.push((group.id.clone(), None));
            }
        }
        mapping
    }

    fn qconfig_of(
        &self,
        groups: &Groups,
        id: GroupId,
        regexes: &[(Regex, Option<QConfig>)],
        orders: &[(String, usize)],
    ) -> Option<QConfig> {
        let group = groups.get(id);
        let (parent, index) = &orders[id.0];
        let by_order = self
            .module_name_object_type_order
            .iter()
            .find(|(name, object_type, order, _)| {
                name == parent && is_type(object_type, &group.object_type) && order == index
            })
            .map(|(.., qconfig)| *qconfig);
        let by_name = || {
            let listed = |name: &str| self.module_name.iter().find(|(n, _)| n == name).map(|(_, q)| *q);
            listed(&group.id)
                .or_else(|| group.aliases.iter().find_map(|alias| listed(alias)))
                .or_else(|| parents(&group.id).find_map(listed))
        };
        let by_regex = || regexes.iter().find(|(r, _)| matches_start(r, &group.id)).map(|(_, q)| *q);
        let by_type = || self.object_type.iter().find(|(t, _)| is_type(t, &group.object_type)).map(|(_, q)| *q);
        by_order.or_else(by_name).or_else(by_regex).or_else(by_type).unwrap_or(self.global)
    }

    fn regexes(&self) -> Result<Vec<(Regex, Option<QConfig>)>, MappingError> {
        let compile = |(pattern, qconfig): &(String, Option<QConfig>)| {
            let refused = |error: regex::Error| {
                let text = error.to_string();
                let last = text.lines().next_back().unwrap_or_default();
                let reason = last.strip_prefix("error: ").unwrap_or(last).to_owned();
                MappingError::Regex { pattern: pattern.clone(), reason }
            };
            let regex = Regex::new(pattern).map_err(refused)?;
            Ok((regex, *qconfig))
        };
        self.module_name_regex.iter().map(compile).collect()
    }

    fn check_qconfigs(&self) -> Result<(), MappingError> {
        let sections = [
            ("object_type", &self.object_type),
            ("module_name_regex", &self.module_name_regex),
            ("module_name", &self.module_name),
        ];
        let global = std::iter::once(("qconfig".to_owned(), self.global));
        let named = sections
            .into_iter()
            .flat_map(|(section, list)| list.iter().map(move |(name, q)| (format!("{section}: `{name}`"), *q)));
        let ordered = self
            .module_name_object_type_order
            .iter()
            .map(|(name, .., q)| (format!("module_name_object_type_order: `{name}`"), *q));
        let mut rounding = None;
        for (place, qconfig) in global.chain(named).chain(ordered) {
            let Some(qconfig) = qconfig else { continue };
            qconfig.check().map_err(|source| MappingError::QConfig { place: place.clone(), source })?;
            if *rounding.get_or_insert(qconfig.activation.rounding) != qconfig.activation.rounding {
                return Err(MappingError::Rounding { place });
            }
        }
        Ok(())
    }

    fn check_names(&self, groups: &Groups, regexes: &[(Regex, Option<QConfig>)]) -> Result<(), MappingError> {
        let all = groups.all();
        for (name, _) in &self.module_name {
            if groups.find(name).is_none() && !all.iter().any(|g| parents(&g.id).any(|p| p == name)) {
                let names = all.iter().flat_map(|g| std::iter::once(g.id.as_str()).chain(parents(&g.id)));
                return Err(no_such("module_name", name, names));
            }
        }
        for ((regex, _), (pattern, _)) in regexes.iter().zip(&self.module_name_regex) {
            if !all.iter().any(|g| matches_start(regex, &g.id)) {
                return Err(no_such("module_name_regex", pattern, std::iter::empty()));
            }
        }
        for (object_type, _) in &self.object_type {
            if !all.iter().any(|g| is_type(object_type, &g.object_type)) {
                return Err(no_such("object_type", object_type, all.iter().map(|g| g.object_type.as_str())));
            }
        }
        let orders = orders(groups);
        for (name, object_type, order, _) in &self.module_name_object_type_order {
            let hit = all
                .iter()
                .zip(&orders)
                .any(|(g, (parent, index))| parent == name && is_type(object_type, &g.object_type) && index == order);
            if !hit {
                let place = format!("{name}, {object_type}, {order}");
                let places: Vec<String> =
                    all.iter().zip(&orders).map(|(g, (p, i))| format!("{p}, {}, {i}", g.object_type)).collect();
                return Err(no_such("module_name_object_type_order", &place, places.iter().map(String::as_str)));
            }
        }
        Ok(())
    }
}

/// PyTorch's names for the operators that groups are formed of.
const TORCH_TYPES: [(&str, &str); 8] = [
    ("torch.nn.Conv2d", "Conv"),
    ("torch.nn.functional.conv2d", "Conv"),
    ("torch.nn.Linear", "Gemm"),
    ("torch.nn.functional.linear", "Gemm"),
    ("torch.add", "Add"),
    ("operator.add", "Add"),
    ("torch.nn.AdaptiveAvgPool2d", "GlobalAveragePool"),
    ("torch.nn.AvgPool2d", "AveragePool"),
];

fn is_type(given: &str, onnx: &str) -> bool {
    given == onnx || TORCH_TYPES.contains(&(given, onnx))
}

/// Python's `re.match`, which PyTorch uses: anchored at the start only. The leftmost match is at the start when
/// any is.
fn matches_start(regex: &Regex, name: &str) -> bool {
    regex.find(name).is_some_and(|found| found.start() == 0)
}

/// The parents of a module path, nearest first: `a.b.c` has `a.b` and `a`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(path.rsplit_once('.'), |(parent, _)| parent.rsplit_once('.')).map(|(parent, _)| parent)
}

/// For each group its parent module, and how many groups of its type come before it there.
fn orders(groups: &Groups) -> Vec<(String, usize)> {
    let mut seen: std::collections::HashMap<(String, String), usize> = std::collections::HashMap::new();
    let place = |group: &crate::graph::Group| {
        let parent = parents(&group.id).next().unwrap_or_default().to_owned();
        let count = seen.entry((parent.clone(), group.object_type.clone())).or_default();
        *count += 1;
        (parent, *count - 1)
    };
    groups.all().iter().map(place).collect()
}

fn no_such<'a>(section: &'static str, name: &str, names: impl Iterator<Item = &'a str>) -> MappingError {
    let nearest = names
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 2);
    MappingError::NoSuchGroup { section, name: name.to_owned(), suggestion: nearest.map(|(_, c)| c.to_owned()) }
}

const SECTIONS: [&str; 6] =
    ["preset", "", "object_type", "module_name_regex", "module_name", "module_name_object_type_order"];

impl<'de> Deserialize<'de> for QConfigMapping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let yaml = Mapping::deserialize(deserializer)?;
        for key in yaml.keys() {
            if !key.as_str().is_some_and(|k| SECTIONS.contains(&k)) {
                let key = serde_yaml::to_string(key).unwrap_or_default();
                return Err(D::Error::custom(format!(
                    "unknown key `{}`, expected one of `{}`",
                    key.trim(),
                    SECTIONS.map(|s| if s.is_empty() { "\"\"" } else { s }).join("`, `")
                )));
            }
        }
        let preset = match yaml.get("preset") {
            Some(name) => read_preset(name).map_err(D::Error::custom)?,
            None => Preset::default(),
        };
        let mut mapping = QConfigMapping::preset(preset);
        if let Some(global) = yaml.get("") {
            mapping.global = read_qconfig(global, preset).map_err(|e| D::Error::custom(format!("\"\": {e}")))?;
        }
        let named = |section: &'static str| {
            let Some(entries) = yaml.get(section) else { return Ok(Vec::new()) };
            let entries = entries.as_mapping().ok_or_else(|| format!("{section}: expected a mapping of names"))?;
            let read = |(name, qconfig): (&Value, &Value)| {
                let name = match name {
                    Value::String(name) => name.clone(),
                    Value::Number(number) => number.to_string(),
                    _ => return Err(format!("{section}: names must be strings")),
                };
                let qconfig = read_qconfig(qconfig, preset).map_err(|e| format!("{section}: `{name}`: {e}"))?;
                Ok((name, qconfig))
            };
            entries.iter().map(read).collect::<Result<Vec<_>, String>>()
        };
        mapping.object_type = named("object_type").map_err(D::Error::custom)?;
        mapping.module_name_regex = named("module_name_regex").map_err(D::Error::custom)?;
        mapping.module_name = named("module_name").map_err(D::Error::custom)?;
        if let Some(entries) = yaml.get("module_name_object_type_order") {
            mapping.module_name_object_type_order = read_orders(entries, preset).map_err(D::Error::custom)?;
        }
        Ok(mapping)
    }
}

fn read_preset(value: &Value) -> Result<Preset, String> {
    let names = Preset::ALL.map(Preset::name).join("`, `");
    let name = value.as_str().unwrap_or_default();
    Preset::by_name(name).ok_or_else(|| format!("preset: unknown preset `{name}`, expected one of `{names}`"))
}

/// `null`, a preset's name, or fields over those of `preset`.
fn read_qconfig(value: &Value, preset: Preset) -> Result<Option<QConfig>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(_) => Ok(Some(read_preset(value)?.qconfig())),
        Value::Mapping(fields) => {
            let base = serde_yaml::to_value(preset.qconfig()).map_err(|e| e.to_string())?;
            let Value::Mapping(mut merged) = base else { return Err("expected a mapping".to_owned()) };
            for (part, given) in fields {
                match (merged.get_mut(part), given) {
                    (Some(Value::Mapping(base)), Value::Mapping(given)) => {
                        // An explicit integer range replaces a preset's, reduce_range included.
                        if given.contains_key("reduce_range") {
                            base.remove("quant_min");
                            base.remove("quant_max");
                        } else if (given.contains_key("quant_min") || given.contains_key("quant_max"))
                            && base.contains_key("reduce_range")
                        {
                            base.insert("reduce_range".into(), false.into());
                        }
                        base.extend(given.iter().map(|(k, v)| (k.clone(), v.clone())));
                    }
                    // Its default is not written.
                    (_, Value::String(_)) if part.as_str() == Some("residual") => {
                        merged.insert(part.clone(), given.clone());
                    }
                    _ => {
                        return Err(
                            "expected `activation` and `weight`, each a mapping, and `residual`, `rounded` or `fused`"
                                .to_owned(),
                        );
                    }
                }
            }
            let qconfig: QConfig = serde_path_to_error::deserialize(Value::Mapping(merged))
                .map_err(|e| format!("{}: {}", e.path(), e.inner()))?;
            Ok(Some(qconfig))
        }
        _ => {
            Err("expected null, the name of a preset, or a mapping of `activation`, `weight` and `residual`".to_owned())
        }
    }
}

fn read_orders(entries: &Value, preset: Preset) -> Result<Vec<OrderEntry>, String> {
    let expected = || "module_name_object_type_order: expected a list of [module, type, index, qconfig]".to_owned();
    let read = |entry: &Value| {
        let [name, object_type, index, qconfig] = &entry.as_sequence().ok_or_else(expected)?[..] else {
            return Err(expected());
        };
        let (Some(name), Some(object_type), Some(index)) = (name.as_str(), object_type.as_str(), index.as_u64()) else {
            return Err(expected());
        };
        let qconfig =
            read_qconfig(qconfig, preset).map_err(|e| format!("module_name_object_type_order: `{name}`: {e}"))?;
        Ok((name.to_owned(), object_type.to_owned(), index as usize, qconfig))
    };
    entries.as_sequence().ok_or_else(expected)?.iter().map(read).collect()
}

/// A qconfig with all that a reader would take from the preset instead: a default is left out elsewhere.
fn written(qconfig: &Option<QConfig>, preset: Preset) -> Result<Value, serde_yaml::Error> {
    let mut value = serde_yaml::to_value(qconfig)?;
    if let (Some(qconfig), Value::Mapping(fields)) = (qconfig, &mut value) {
        let base = preset.qconfig();
        if base.residual != Residual::default() {
            fields.insert("residual".into(), serde_yaml::to_value(qconfig.residual)?);
        }
        if let Some(Value::Mapping(activation)) = fields.get_mut("activation")
            && base.activation.rounding != Rounding::default()
        {
            activation.insert("rounding".into(), serde_yaml::to_value(qconfig.activation.rounding)?);
        }
    }
    Ok(value)
}

impl Serialize for QConfigMapping {
    /// Every qconfig is written whole, so that what is read back does not depend on the preset's meaning.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let whole = |q: &Option<QConfig>| written(q, self.preset).map_err(serde::ser::Error::custom);
        let named = |list: &[(String, Option<QConfig>)]| -> Result<Mapping, S::Error> {
            list.iter().map(|(name, q)| Ok((name.as_str().into(), whole(q)?))).collect()
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("preset", &self.preset)?;
        map.serialize_entry("", &whole(&self.global)?)?;
        let sections = [
            ("object_type", &self.object_type),
            ("module_name_regex", &self.module_name_regex),
            ("module_name", &self.module_name),
        ];
        for (section, list) in sections.into_iter().filter(|(_, list)| !list.is_empty()) {
            map.serialize_entry(section, &named(list)?)?;
        }
        if !self.module_name_object_type_order.is_empty() {
            let entries = self.module_name_object_type_order.iter();
            let entries = entries.map(|(name, object_type, order, q)| Ok((name, object_type, order, whole(q)?)));
            map.serialize_entry("module_name_object_type_order", &entries.collect::<Result<Vec<_>, S::Error>>()?)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
