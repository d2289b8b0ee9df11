//! Elements gathered in the order in which they lie.

use super::build::*;
use crate::onnx::Reading;

/// A tensor of 12 elements a sample, flattened with the batch and gathered again at `sample·12 + indices + offset`.
fn strided(indices: &[i64], offset: (&[i64], &[i64])) -> Build {
    let build = Build::new(20, &[3, 2, 2]).ints("flat", &[1], &[-1]).ints("zero", &[], &[0]).ints("one", &[], &[1]);
    let build = build.ints("stride", &[], &[12]).ints("axes", &[2], &[1, 2]).ints("offset", offset.0, offset.1);
    let build = build.ints("indices", &[1, indices.len() as i64, 1], indices).node("Relu", &["x"], "r", &[]);
    let build = build.node("Shape", &["x"], "s", &[int("start", 0), int("end", 1)]).node("Squeeze", &["s"], "n", &[]);
    let build = build.node("Range", &["zero", "n", "one"], "k", &[]).node("Mul", &["k", "stride"], "m", &[]);
    let build = build.node("Unsqueeze", &["m", "axes"], "u", &[]).node("Add", &["u", "indices"], "a", &[]);
    let build = build.node("Add", &["a", "offset"], "i", &[]).node("Reshape", &["r", "flat"], "f", &[]);
    build.node("Gather", &["f", "i"], "y", &[int("axis", 0)])
}

/// The indices of all elements.
fn all() -> Vec<i64> {
    (0..12).collect()
}

#[test]
fn elements_in_their_order_are_a_reshape() {
    let graph = strided(&all(), (&[1, 1, 1], &[0])).import();
    assert_eq!((op_types(&graph), shape(&graph)), (vec!["Relu", "Reshape"], vec![12, 1]));
    // Constants broadcast: rows and columns of indices.
    let graph = strided(&[0, 3, 6, 9], (&[3], &[0, 1, 2])).import();
    assert_eq!(shape(&graph), [4, 3]);
    // The names that a file has stay what they are.
    let build = strided(&all(), (&[1, 1, 1], &[0])).node("Relu", &["y"], "f/strided", &[]);
    let build = build.node("Neg", &["f/strided"], "r/strided", &[]).node("Add", &["y", "r/strided"], "z", &[]);
    assert!(crate::onnx::import(&build.output("z").bytes(), None).is_ok());
}

#[test]
fn other_orders_are_none() {
    let mut exchanged = all();
    exchanged.swap(3, 4);
    for build in [
        strided(&exchanged, (&[1, 1, 1], &[0])),
        strided(&all(), (&[], &[1])),
        // Each of twelve, twelve times.
        strided(&all(), (&[1, 1, 12], &[0; 12])),
        // Samples along the second axis.
        strided(&all(), (&[1, 1, 1, 1], &[0])),
        strided(&all()[..6], (&[1, 1, 1], &[0])),
    ] {
        assert!(build.error().contains("Range"));
    }
}

#[test]
fn a_sum_of_itself_is_none() {
    let mut build = strided(&all(), (&[1, 1, 1], &[0]));
    let sum = build.graph().node.iter_mut().find(|node| node.output == ["i"]).unwrap();
    sum.input = vec!["i".to_owned(), "i".to_owned()];
    assert!(build.error().contains("its own output"));
}

#[test]
fn gathers_of_others_and_without_outputs_are_let_alone() {
    let mut build = strided(&all(), (&[1, 1, 1], &[0])).node("Gather", &["f", "i"], "none", &[]);
    build.graph().node.last_mut().unwrap().output.clear();
    assert_eq!(shape(&build.import()), [12, 1]);
    let mut build = strided(&all(), (&[1, 1, 1], &[0]));
    build.graph().node.last_mut().unwrap().domain = "some.domain".to_owned();
    assert!(build.error().contains("some.domain"));
}

#[test]
fn only_the_batch_of_the_samples_counts() {
    let mut build = strided(&all(), (&[1, 1, 1], &[0]));
    let mut other = build.graph().input[0].clone();
    other.name = "other".to_owned();
    build.graph().input.push(other);
    build.graph().node[1].input[0] = "other".to_owned();
    // One sample of the other input: the indices are constants then, those of the first sample.
    let reading = Reading { fixed: [("other".to_owned(), 0.0)].into(), ..Reading::default() };
    assert!(reading.import(&build.output("y").bytes(), None).is_err());
}
