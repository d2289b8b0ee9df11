//! Stable ids of groups: the PyTorch module path, read from the names that exporters leave behind.

/// The PyTorch module path that a weight or node name speaks of, when one can be read.
///
/// `features.3.conv.0.0.weight` is the parameter of module `features.3.conv.0.0`. TorchScript-based
/// exporters name a node by its scopes, `/features/features.3/conv/conv.0/conv.0.0/Conv`: a scope that
/// repeats the previous one with an index replaces it, any other is one level deeper.
///
/// ```
/// use qtuned::graph::module_path;
/// assert_eq!(module_path("layer1.0.conv1.weight", ""), Some("layer1.0.conv1".to_owned()));
/// assert_eq!(module_path("onnx::Conv_497", "/layer1/layer1.0/conv1/Conv"), Some("layer1.0.conv1".to_owned()));
/// assert_eq!(module_path("W17", "node_12"), None);
/// ```
pub fn module_path(weight_name: &str, node_name: &str) -> Option<String> {
    if let Some(path) = weight_name.strip_suffix(".weight")
        && !path.is_empty()
        && !path.contains("::")
    {
        return Some(path.to_owned());
    }
    let mut scopes: Vec<&str> = node_name.strip_prefix('/')?.split('/').collect();
    scopes.pop();
    let mut path: Vec<&str> = Vec::new();
    for scope in scopes {
        let deepens =
            path.last().is_none_or(|last| !scope.strip_prefix(last).is_some_and(|rest| rest.starts_with('.')));
        if !deepens {
            path.pop();
        }
        path.push(scope);
    }
    (!path.is_empty()).then(|| path.join("."))
}

#[cfg(test)]
mod tests {
    use super::module_path;

    #[test]
    fn reads_scopes_of_nested_sequentials() {
        let name = "/features/features.1/conv/conv.0/conv.0.0/Conv";
        assert_eq!(module_path("onnx::Conv_538", name).as_deref(), Some("features.1.conv.0.0"));
        assert_eq!(module_path("", "/classifier/classifier.1/Gemm").as_deref(), Some("classifier.1"));
        assert_eq!(module_path("", "/layer10/layer1/Conv").as_deref(), Some("layer10.layer1"));
        assert_eq!(module_path("", "Conv_3"), None);
        assert_eq!(module_path("", "/Conv"), None);
        assert_eq!(module_path(".weight", ""), None);
    }
}
