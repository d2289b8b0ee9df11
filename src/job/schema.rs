//! The JSON Schema of job files, from the types that they are read into.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::JobSpec;

/// The JSON Schema (2020-12) of a job file: all fields with their descriptions, defaults and limits. It says of a job
/// what can be said of each field alone; [`super::load`] knows more, such as which budget a metric has.
pub fn schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<JobSpec>();
    schema.insert("title".to_owned(), "qtuned job".into());
    schema.to_value()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::schema;

    /// Calls `visit` with each property and its path.
    fn properties(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
        match schema {
            Value::Object(entries) => {
                // Conditions speak of fields that are described elsewhere.
                for (key, value) in entries.iter().filter(|(key, _)| !["if", "else"].contains(&key.as_str())) {
                    if let ("properties", Value::Object(fields)) = (key.as_str(), value) {
                        fields.iter().for_each(|(name, field)| visit(&format!("{path}.{name}"), field));
                    }
                    properties(value, &format!("{path}.{key}"), visit);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| properties(item, path, visit)),
            _ => {}
        }
    }

    #[test]
    fn every_field_is_described_in_plain_words() {
        let mut count = 0;
        properties(&schema(), "", &mut |path, field| {
            let described = field["description"].as_str().is_some_and(|text| !text.is_empty());
            assert!(described, "{path}: {field}");
            count += 1;
        });
        assert!(count > 50, "{count} fields");
        // No links of rustdoc.
        assert!(!schema().to_string().contains("[`"));
    }
}
