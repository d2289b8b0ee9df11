//! What PyTorch's newer exporter writes for `as_strided` of a tensor as it lies in memory: a Gather of all its elements
//! in their order, whose indices depend on the batch. It is a reshape.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::{
    array::{Array, Known, broadcast, count},
    external::External,
    proto::{GraphProto, NodeProto, TensorProto, data_type},
    site::Budget,
    tensor::{self, MAX_RANK},
};

/// Makes such a Gather a Reshape of what it reads, where the batch is that of one of the inputs that samples go to,
/// `entries`. Every node stays where it is.
pub(super) fn simplify(file: &mut GraphProto, entries: &[&str], budget: &Budget) {
    let graph = Strided {
        constants: file.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect(),
        producers: file.node.iter().filter_map(|node| Some((node.output.first()?.as_str(), node))).collect(),
        entries,
        budget,
    };
    let change = |(at, node)| Some((at, graph.reshape(node)?));
    let changes: Vec<(usize, Reshape)> = file.node.iter().enumerate().filter_map(change).collect();
    let values = file.node.iter().flat_map(|node| &node.output).chain(file.input.iter().map(|input| &input.name));
    let mut taken: HashSet<String> =
        values.chain(file.initializer.iter().map(|tensor| &tensor.name)).cloned().collect();
    for (at, Reshape { data, shape }) in changes {
        let mut name = format!("{data}/strided");
        while !taken.insert(name.clone()) {
            name.push('_');
        }
        let node = &mut file.node[at];
        node.op_type = "Reshape".to_owned();
        node.input = vec![data, name.clone()];
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

/// What a Gather is a reshape of, and to which shape.
struct Reshape {
    data: String,
    shape: Vec<i64>,
}

/// One number a sample: `factor` times its place in the batch, in a tensor of so many axes, of which the first is the
/// batch.
struct PerSample {
    factor: i64,
    rank: usize,
}

/// Whether a node is this operator of ONNX.
fn is(node: &NodeProto, op_type: &str) -> bool {
    node.op_type == op_type && node.domain.is_empty()
}

/// A file's nodes and constants by name.
struct Strided<'a> {
    constants: HashMap<&'a str, &'a TensorProto>,
    producers: HashMap<&'a str, &'a NodeProto>,
    entries: &'a [&'a str],
    budget: &'a Budget,
}

impl<'a> Strided<'a> {
    /// `Gather(Reshape(data, [-1]), indices)` where the indices of a sample are all those of its elements.
    fn reshape(&self, gather: &NodeProto) -> Option<Reshape> {
        let [flat, indices] = &gather.input[..] else { return None };
        let first_axis = gather.attribute.iter().all(|axis| axis.i == 0);
        let flat = self.written(flat, "Reshape").filter(|_| is(gather, "Gather") && first_axis)?;
        if self.ints(flat.input.get(1)?)?.data[..] != [-1] {
            return None;
        }
        let (PerSample { factor: elements, rank }, within) = self.sum(indices)?;
        let mut shape: Vec<i64> = within.dims.iter().map(|&dim| dim as i64).collect();
        shape.splice(0..0, vec![1; rank.checked_sub(shape.len())?]);
        let whole = elements > 0 && shape[0] == 1 && within.data.iter().copied().eq(0..elements);
        // The batch, as it is in what was made flat.
        shape[0] = 0;
        whole.then_some(Reshape { data: flat.input.first()?.clone(), shape })
    }

    /// A sum of constants, which broadcast, and of one number a sample.
    fn sum(&self, name: &str) -> Option<(PerSample, Array<i64>)> {
        let (mut per_sample, mut total) = (None, Array::scalar(0i64));
        let mut open = vec![name];
        // Exporters add two or three; a file may have a sum of itself.
        for _ in 0..16 {
            let Some(name) = open.pop() else { break };
            if let Some(add) = self.written(name, "Add") {
                open.extend(add.input.iter().map(String::as_str));
            } else if let Some(numbers) = self.ints(name) {
                self.budget.spend(count(&broadcast(&total.dims, &numbers.dims)?)?).ok()?;
                total = total.zipped(&numbers, i64::checked_add)?;
            } else if per_sample.replace(self.per_sample(name)?).is_some() {
                return None;
            }
        }
        Some((per_sample.filter(|_| open.is_empty())?, total))
    }

    /// `Unsqueeze(Range(0, batch, 1) · factor, [1, 2, ...])`.
    fn per_sample(&self, name: &str) -> Option<PerSample> {
        let unsqueeze = self.written(name, "Unsqueeze")?;
        let axes = self.ints(unsqueeze.input.get(1)?)?;
        let product = self.written(unsqueeze.input.first()?, "Mul")?;
        let [a, b] = &product.input[..] else { return None };
        let (range, factor) = match self.number(b) {
            Some(factor) => (a, factor),
            None => (b, self.number(a)?),
        };
        let [start, limit, step] = &self.written(range, "Range")?.input[..] else { return None };
        let counts = self.number(start)? == 0 && self.number(step)? == 1 && self.is_batch(limit);
        let rank = Some(axes.data.len() + 1).filter(|&rank| rank <= MAX_RANK)?;
        (counts && axes.data.iter().copied().eq(1..rank as i64)).then_some(PerSample { factor, rank })
    }

    /// Whether a number is `Squeeze(Shape(entry, start = 0, end = 1))`, of an input that samples go to.
    fn is_batch(&self, name: &str) -> bool {
        let shape = self.written(name, "Squeeze").and_then(|squeeze| self.written(squeeze.input.first()?, "Shape"));
        shape.is_some_and(|shape| {
            let at = |wanted: &str| shape.attribute.iter().find(|attribute| attribute.name == wanted).map(|a| a.i);
            matches!(&shape.input[..], [input] if self.entries.contains(&input.as_str()))
                && at("start").unwrap_or(0) == 0
                && at("end") == Some(1)
        })
    }

    /// The node that writes a value, where it is this operator.
    fn written(&self, name: &str, op_type: &str) -> Option<&'a NodeProto> {
        self.producers.get(name).copied().filter(|node| is(node, op_type))
    }

    /// A constant that is one number.
    fn number(&self, name: &str) -> Option<i64> {
        let array = self.ints(name).filter(|array| array.dims.len() <= 1)?;
        <[i64; 1]>::try_from(&array.data[..]).ok().map(|[number]| number)
    }

    /// A constant in the file itself, of integers.
    fn ints(&self, name: &str) -> Option<Array<i64>> {
        let tensor = self.constants.get(name).filter(|tensor| tensor.data_type == data_type::INT64)?;
        self.budget.spend(count(&tensor::dims(&tensor.dims).ok()?)?).ok()?;
        match tensor::known(tensor, &mut External::new(None, Sha256::new())).ok()? {
            Known::Ints(array) => array.fixed(),
            Known::Floats(_) => None,
        }
    }
}
