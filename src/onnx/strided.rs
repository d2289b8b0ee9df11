//! What PyTorch's newer exporter writes for `as_strided` of a tensor as it lies in memory: a Gather of all its elements
//! in their order, whose indices depend on the batch. It is a reshape.

use std::{cell::Cell, collections::HashMap};

use super::proto::{GraphProto, NodeProto, TensorProto, data_type};

/// Numbers of constants that may be read, whatever a file repeats.
const NUMBERS: usize = 1 << 24;

/// Makes such a Gather a Reshape of what it reads. Every node stays where it is.
pub(super) fn simplify(file: &mut GraphProto) {
    let mut changes = Vec::new();
    {
        let graph = Strided {
            constants: file.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect(),
            producers: (file.node.iter().flat_map(|node| node.output.first().map(|name| (name.as_str(), node))))
                .collect(),
            inputs: file.input.iter().map(|input| input.name.as_str()).collect(),
            left: Cell::new(NUMBERS),
        };
        for (at, node) in file.node.iter().enumerate().filter(|(_, node)| node.op_type == "Gather") {
            if let Some((input, shape)) = graph.reshape(node) {
                changes.push((at, input.to_owned(), shape));
            }
        }
    }
    for (at, input, shape) in changes {
        let node = &mut file.node[at];
        let name = format!("{}/shape", node.output[0]);
        node.op_type = "Reshape".to_owned();
        node.input = vec![input, name.clone()];
        node.attribute.clear();
        file.initializer.push(TensorProto {
            name,
            dims: vec![shape.len() as i64],
            data_type: data_type::INT64,
            int64_data: shape,
            ..Default::default()
        });
    }
}

/// A file's nodes and constants by name.
struct Strided<'a> {
    constants: HashMap<&'a str, &'a TensorProto>,
    producers: HashMap<&'a str, &'a NodeProto>,
    inputs: Vec<&'a str>,
    /// How many numbers may still be read.
    left: Cell<usize>,
}

impl<'a> Strided<'a> {
    /// What a Gather is a reshape of, and to which shape.
    fn reshape(&self, node: &'a NodeProto) -> Option<(&'a str, Vec<i64>)> {
        let axis = node.attribute.iter().find(|attribute| attribute.name == "axis").map_or(0, |attribute| attribute.i);
        let [data, indices] = &node.input[..] else { return None };
        let flat = self.written(data, "Reshape").filter(|_| axis == 0)?;
        if self.ints(flat.input.get(1)?)?.1 != [-1] {
            return None;
        }
        // A sum of constants and of one number a sample.
        let (mut open, mut sum, mut stride) = (vec![indices.as_str()], Vec::new(), None);
        let mut dims: Vec<i64> = Vec::new();
        for _ in 0..16 {
            let Some(name) = open.pop() else { break };
            if let Some(add) = self.written(name, "Add") {
                open.extend(add.input.iter().map(String::as_str));
            } else if let Some((shape, numbers)) = self.ints(name) {
                sum.push(numbers);
                dims = if shape.len() > dims.len() || shape.iter().product::<i64>() > dims.iter().product() {
                    shape
                } else {
                    dims
                };
            } else if stride.replace(self.per_sample(name)?).is_some() {
                return None;
            }
        }
        let (stride, rank) = stride.filter(|_| open.is_empty())?;
        let (&first, rest) = dims.split_first()?;
        let whole = first == 1 && dims.len() == rank && rest.iter().product::<i64>() == stride;
        let at = |numbers: &Vec<i64>, i: usize| match numbers[..] {
            [one] => Some(one),
            _ => numbers.get(i).copied().filter(|_| numbers.len() as i64 == stride),
        };
        let in_order = (0..usize::try_from(stride).ok()?.min(NUMBERS))
            .all(|i| sum.iter().try_fold(0i64, |total, numbers| total.checked_add(at(numbers, i)?)) == Some(i as i64));
        // 0 is the batch, as it is in what was made flat.
        let shape = std::iter::once(0).chain(rest.iter().copied()).collect();
        (whole && in_order && stride < NUMBERS as i64).then_some((flat.input.first()?.as_str(), shape))
    }

    /// The factor and rank of `Unsqueeze(Range(0, batch, 1) · factor)`.
    fn per_sample(&self, name: &str) -> Option<(i64, usize)> {
        let unsqueeze = self.written(name, "Unsqueeze")?;
        let axes = self.ints(unsqueeze.input.get(1)?)?.1;
        if !axes.iter().copied().eq(1..=axes.len() as i64) {
            return None;
        }
        let product = self.written(unsqueeze.input.first()?, "Mul")?;
        let [a, b] = &product.input[..] else { return None };
        let (range, factor) = match self.ints(b) {
            Some((_, factor)) => (a, factor),
            None => (b, self.ints(a)?.1),
        };
        let range = self.written(range, "Range")?;
        let [start, limit, step] = &range.input[..] else { return None };
        let numbers = |name| self.ints(name).map(|(_, numbers)| numbers);
        let counts = numbers(start)? == [0] && numbers(step)? == [1] && self.is_batch(limit);
        let &[factor] = &factor[..] else { return None };
        counts.then_some((factor, axes.len() + 1))
    }

    /// Whether a number is the leading dimension of an input.
    fn is_batch(&self, name: &str) -> bool {
        let Some(shape) =
            self.written(name, "Squeeze").and_then(|squeeze| self.written(squeeze.input.first()?, "Shape"))
        else {
            return false;
        };
        let at = |wanted: &str| shape.attribute.iter().find(|attribute| attribute.name == wanted).map(|a| a.i);
        let of_input = shape.input.first().is_some_and(|name| self.inputs.contains(&name.as_str()));
        of_input && at("start").unwrap_or(0) == 0 && at("end") == Some(1)
    }

    fn written(&self, name: &str, op_type: &str) -> Option<&'a NodeProto> {
        self.producers.get(name).copied().filter(|node| node.op_type == op_type && node.domain.is_empty())
    }

    /// Dimensions and numbers of a constant in the file itself.
    fn ints(&self, name: &str) -> Option<(Vec<i64>, Vec<i64>)> {
        let tensor = self.constants.get(name).filter(|t| t.data_type == data_type::INT64 && t.data_location == 0)?;
        let count = tensor.int64_data.len() + tensor.raw_data.len() / 8;
        self.left.set(self.left.get().checked_sub(count)?);
        let numbers: Vec<i64> = match tensor.raw_data.is_empty() {
            true => tensor.int64_data.clone(),
            false => tensor.raw_data.as_chunks::<8>().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect(),
        };
        let whole = tensor.dims.iter().try_fold(1i64, |product, &dim| product.checked_mul(dim));
        (whole == Some(numbers.len() as i64)).then(|| (tensor.dims.clone(), numbers))
    }
}
