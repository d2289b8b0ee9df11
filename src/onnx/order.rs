//! Which nodes are needed, and in what order they can run.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
};

use super::{error::OnnxError, proto::GraphProto};

/// The nodes that the outputs depend on, as indices, each after those it reads.
///
/// A file in topological order keeps its order; another one is sorted, which is more lenient than ONNX.
pub(super) fn live_nodes(graph: &GraphProto) -> Result<Vec<usize>, OnnxError> {
    let producers = producers(graph)?;
    let live = live(graph, &producers);
    let mut readers: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut waiting: HashMap<usize, usize> = HashMap::new();
    let mut ready = BinaryHeap::new();
    for &index in &live {
        let read: HashSet<usize> =
            graph.node[index].input.iter().filter_map(|name| producers.get(name.as_str()).copied()).collect();
        if read.is_empty() {
            ready.push(Reverse(index));
        }
        waiting.insert(index, read.len());
        for producer in read {
            readers.entry(producer).or_default().push(index);
        }
    }
    let mut order = Vec::with_capacity(live.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for reader in readers.remove(&index).unwrap_or_default() {
            if let Some(count) = waiting.get_mut(&reader) {
                *count -= 1;
                if *count == 0 {
                    ready.push(Reverse(reader));
                }
            }
        }
    }
    if order.len() < live.len() {
        let done: HashSet<usize> = order.into_iter().collect();
        let stuck = live.into_iter().filter(|index| !done.contains(index)).min().unwrap_or_default();
        let node = &graph.node[stuck];
        let name = if node.name.is_empty() { &node.op_type } else { &node.name };
        return Err(OnnxError::Model(format!("node `{name}` depends on its own output")));
    }
    Ok(order)
}

/// For each value that a node writes, that node. Names must mean one thing each.
fn producers(graph: &GraphProto) -> Result<HashMap<&str, usize>, OnnxError> {
    let mut constants: HashSet<&str> = HashSet::new();
    for tensor in &graph.initializer {
        if tensor.name.is_empty() {
            return Err(OnnxError::Model("an initializer has no name".to_owned()));
        }
        if !constants.insert(&tensor.name) {
            return Err(twice(&tensor.name));
        }
    }
    // An initializer may be listed as an input too, as in old files; then it is a default, and constant here.
    let mut inputs: HashSet<&str> = HashSet::new();
    for input in &graph.input {
        if !inputs.insert(&input.name) {
            return Err(twice(&input.name));
        }
    }
    let mut producers = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        for name in node.output.iter().map(String::as_str).filter(|name| !name.is_empty()) {
            if constants.contains(name) || inputs.contains(name) || producers.insert(name, index).is_some() {
                return Err(twice(name));
            }
        }
    }
    Ok(producers)
}

fn twice(name: &str) -> OnnxError {
    OnnxError::Model(format!("value `{name}` is defined twice"))
}

/// The nodes that the outputs depend on, in the file's order.
fn live(graph: &GraphProto, producers: &HashMap<&str, usize>) -> Vec<usize> {
    let mut live = vec![false; graph.node.len()];
    let mut open: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    while let Some(name) = open.pop() {
        if let Some(&index) = producers.get(name)
            && !live[index]
        {
            live[index] = true;
            open.extend(graph.node[index].input.iter().map(String::as_str));
        }
    }
    (0..graph.node.len()).filter(|&index| live[index]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{NodeProto, TensorProto, ValueInfoProto};

    fn graph(nodes: &[(&str, &[&str], &[&str])]) -> GraphProto {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let value = |name: &str| ValueInfoProto { name: name.to_owned(), ..Default::default() };
        let node = |&(name, input, output): &(&str, &[&str], &[&str])| NodeProto {
            name: name.to_owned(),
            input: names(input),
            output: names(output),
            ..Default::default()
        };
        GraphProto {
            node: nodes.iter().map(node).collect(),
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        }
    }

    #[test]
    fn sorts_and_drops() {
        let scrambled = graph(&[
            ("c", &["b", "a"], &["y"]),
            ("dead", &["a"], &["z"]),
            ("b", &["a"], &["b"]),
            ("a", &["x"], &["a"]),
        ]);
        assert_eq!(live_nodes(&scrambled).unwrap(), [3, 2, 0]);
        let sorted = graph(&[("a", &["x", "x"], &["a"]), ("b", &["x"], &["b"]), ("c", &["a", "b", "a"], &["y"])]);
        assert_eq!(live_nodes(&sorted).unwrap(), [0, 1, 2]);
    }

    #[test]
    fn refuses_cycles_and_double_names() {
        let message = |graph: &GraphProto| live_nodes(graph).unwrap_err().to_string();
        let cycle = graph(&[("a", &["x", "b"], &["a"]), ("b", &["a"], &["b"]), ("c", &["b"], &["y"])]);
        assert_eq!(message(&cycle), "node `a` depends on its own output");
        let own = graph(&[("a", &["y"], &["y"])]);
        assert_eq!(message(&own), "node `a` depends on its own output");
        assert_eq!(message(&graph(&[("a", &["x"], &["y", "y"])])), "value `y` is defined twice");
        assert_eq!(message(&graph(&[("a", &["x"], &["x"])])), "value `x` is defined twice");
        let mut constants = graph(&[]);
        constants.initializer = vec![TensorProto { name: "w".to_owned(), ..Default::default() }; 2];
        assert_eq!(message(&constants), "value `w` is defined twice");
        constants.initializer[0].name.clear();
        assert_eq!(message(&constants), "an initializer has no name");
    }

    #[test]
    fn long_chains_need_no_stack() {
        let names: Vec<String> = (0..200_000).map(|i| if i == 0 { "x".to_owned() } else { format!("v{i}") }).collect();
        let mut chain = graph(&[]);
        chain.node = (1..names.len())
            .rev()
            .map(|i| NodeProto {
                input: vec![names[i - 1].clone()],
                output: vec![names[i].clone()],
                ..Default::default()
            })
            .collect();
        chain.output[0].name = names[names.len() - 1].clone();
        let order = live_nodes(&chain).unwrap();
        assert!(order.is_sorted_by(|a, b| a > b));
    }
}
