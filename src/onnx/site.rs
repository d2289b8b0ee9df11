//! One node as the lowering and folding functions see it: typed attributes and resolved inputs.

use std::{cell::Cell, collections::HashMap, sync::Arc};

use super::{
    array::{Array, Int, Known, from_end},
    error::{OnnxError, TensorError},
    lower::head_axes,
    proto::{AttributeProto, NodeProto, TensorProto, attribute_type},
    view::{Axes, Factor, View},
};
use crate::graph::{Value, ValueId, module_path};

/// Why a node was not taken.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The operator is not supported; collected, so that the user learns of all of them at once.
    Unsupported,
    /// The operator is supported, but not like this.
    Reason(String),
    /// An error that already says where it happened.
    Error(OnnxError),
    /// The node can be taken once this input lies like that.
    Rearrange(usize, Form),
    /// The node can be taken once this input, a constant, is a value that is the same for every sample: these are its
    /// elements in one sample, and how the tensor lies there.
    Store(usize, Array<f32>, Axes),
}

/// How an operator needs a tensor to lie in its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// As it is: the batch in front, and the axes of the sample as they are in the file.
    Plain,
    /// The value's axes in the tensor's order, wherever the batch is.
    Ordered,
    /// As [`Form::Ordered`], and the last axis is the one that is stored last.
    Rows,
    /// As [`Form::Plain`], and the last axis is the one that is stored last.
    Matrices,
    /// `[batch, channels, length]` as pictures of one row.
    Row,
    /// `[batch, length, heads·depth]` as so many matrices, one a head.
    Heads(usize),
}

impl<T: Into<String>> From<T> for Refusal {
    fn from(reason: T) -> Refusal {
        Refusal::Reason(reason.into())
    }
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    /// Computed when the network runs.
    Value(View),
    /// A value known now, and the name that it had where it was stored.
    Known(Known, Arc<str>),
    /// The output of an operator that is not supported.
    Unknown,
    /// An output other than an operator's first; none of them is supported.
    Extra,
}

/// An input of a node.
#[derive(Clone)]
pub(super) struct Input<'a> {
    /// The name the node reads.
    pub(super) name: &'a str,
    /// What it stands for.
    pub(super) slot: Slot,
}

/// Elements that may still be copied or computed.
///
/// A file can name one large tensor in many nodes. What is done with each use, and the memory it takes,
/// must not grow beyond a small multiple of the file.
pub(super) struct Budget(Cell<u64>);

/// A constant that the network computes with: all finite, at least one.
pub(super) struct Weight {
    /// Where its name comes from; the one that tells the PyTorch module when one of them does.
    pub(super) name: String,
    /// The elements.
    pub(super) array: Array<f32>,
}

/// One node, and what is known around it.
pub(super) struct Site<'a> {
    pub(super) node: &'a NodeProto,
    pub(super) inputs: Vec<Option<Input<'a>>>,
    /// Version of the ONNX operator set.
    pub(super) opset: i64,
    /// The number that the file gives the batch, when it gives one.
    pub(super) batch: Option<i64>,
    /// Whether its computed inputs hold integers: some operators mean something else then.
    pub(super) integer: bool,
    pub(super) budget: &'a Budget,
    values: &'a [Value],
    attributes: HashMap<&'a str, &'a AttributeProto>,
}

impl Budget {
    /// For a model of this many bytes.
    pub(super) fn for_bytes(bytes: u64) -> Budget {
        Budget(Cell::new((1 << 24) + bytes.saturating_mul(2)))
    }

    /// Takes `elements` off.
    pub(super) fn spend(&self, elements: usize) -> Result<(), Refusal> {
        let left = self.0.get().checked_sub(elements as u64);
        self.0.set(left.ok_or("the model's constants are read and copied too often for its size")?);
        Ok(())
    }
}

impl<'a> Site<'a> {
    pub(super) fn new(
        node: &'a NodeProto,
        inputs: Vec<Option<Input<'a>>>,
        (opset, batch, integer): (i64, Option<i64>, bool),
        budget: &'a Budget,
        values: &'a [Value],
    ) -> Site<'a> {
        Site { node, inputs, opset, batch, integer, budget, values, attributes: node.attributes() }
    }

    fn input(&self, index: usize) -> Option<&Input<'a>> {
        self.inputs.get(index)?.as_ref()
    }

    /// Input `index`, which must be given.
    pub(super) fn slot(&self, index: usize) -> Result<&Slot, Refusal> {
        Ok(&self.input(index).ok_or_else(|| format!("input {index} is missing"))?.slot)
    }

    /// Input `index` as it lies in its value, and the value's shape.
    pub(super) fn view(&self, index: usize) -> Result<(&View, &'a [usize]), Refusal> {
        match self.slot(index)? {
            Slot::Value(view) => Ok((view, &self.values[view.value.0].shape)),
            _ => Err(format!("input {index} is constant, where only the network's values are supported").into()),
        }
    }

    /// Input `index` as a value that is that tensor as it is, with its sample shape.
    pub(super) fn value(&self, index: usize) -> Result<(ValueId, &'a [usize]), Refusal> {
        let (view, shape) = self.view(index)?;
        if view.is_plain(shape.len()) { Ok((view.value, shape)) } else { Err(Refusal::Rearrange(index, Form::Plain)) }
    }

    /// Input `index` with the value's axes in order.
    pub(super) fn ordered(&self, index: usize) -> Result<(&View, &'a [usize]), Refusal> {
        let (view, shape) = self.view(index)?;
        let in_order = view.axes.iter().flatten().filter(|&&factor| factor != Factor::Batch).count() == shape.len()
            && view.order(shape.len()).into_iter().eq(0..shape.len());
        if in_order { Ok((view, shape)) } else { Err(Refusal::Rearrange(index, Form::Ordered)) }
    }

    /// Input `index` as a value of channels, height and width. Samples of channels and length are pictures of one
    /// row: their view is that of [`row_axes`].
    pub(super) fn picture(&self, index: usize) -> Result<(&View, [usize; 3]), Refusal> {
        let (view, shape) = self.view(index)?;
        match (view.axes.len(), shape) {
            (4, &[c, h, w]) if view.is_plain(3) => Ok((view, [c, h, w])),
            (3, &[c, 1, w]) if view.axes == row_axes() => Ok((view, [c, 1, w])),
            (4, _) => Err(Refusal::Rearrange(index, Form::Plain)),
            (3, _) => Err(Refusal::Rearrange(index, Form::Row)),
            (rank, _) => Err(format!(
                "input {index} has {rank} dimensions; only [batch, channels, height, width] and [batch, channels, \
                 length] are supported"
            )
            .into()),
        }
    }

    /// Input `index` as matrices, its last two axes, for each sample: the last axis is the one that is stored last. Its
    /// first axis may be the batch and matrices joined.
    pub(super) fn matrices(&self, index: usize) -> Result<(&View, &'a [usize]), Refusal> {
        let (view, shape) = self.view(index)?;
        let joined = view.joined();
        let axes = matrix_axes(view.axes.len() + usize::from(joined), shape.len())
            .map(|axes| if joined { join_leading(axes) } else { axes });
        let hidden = (shape.len() + 1).saturating_sub(view.axes.len() + usize::from(joined));
        let fits = shape.len() != 3 && axes.as_ref() == Some(&view.axes) && shape[..hidden].iter().all(|&dim| dim == 1);
        if fits { Ok((view, shape)) } else { Err(Refusal::Rearrange(index, Form::Matrices)) }
    }

    /// Input `index`, `[batch, length, heads·depth]`, as `[1, heads, length, depth]`, which lies as [`head_axes`] say.
    pub(super) fn heads(&self, index: usize, heads: usize) -> Result<(&View, &'a [usize]), Refusal> {
        let (view, shape) = self.view(index)?;
        let fits = matches!(*shape, [1, found, ..] if found == heads) && view.axes == head_axes();
        if fits { Ok((view, shape)) } else { Err(Refusal::Rearrange(index, Form::Heads(heads))) }
    }

    /// The dimensions of input `index`, constant or not.
    pub(super) fn dims(&self, index: usize) -> Result<Vec<Int>, Refusal> {
        match self.slot(index)? {
            Slot::Known(known, _) => Ok(known.dims().iter().map(|&dim| Int::Fixed(dim as i64)).collect()),
            _ => {
                let (view, shape) = self.view(index)?;
                Ok(view.dims(shape))
            }
        }
    }

    /// Input `index` as a constant; `None` when it is not given.
    pub(super) fn known(&self, index: usize) -> Result<Option<&Known>, Refusal> {
        match self.input(index).map(|input| &input.slot) {
            None => Ok(None),
            Some(Slot::Known(known, _)) => Ok(Some(known)),
            Some(_) => Err(format!("input {index} is computed, where only a constant is supported").into()),
        }
    }

    /// Input `index` as integers, the batch possibly among them; `None` when it is not given.
    pub(super) fn ints_input(&self, index: usize) -> Result<Option<&Array<Int>>, Refusal> {
        match self.known(index)? {
            None => Ok(None),
            Some(Known::Ints(array)) => Ok(Some(array)),
            Some(Known::Floats(_)) => Err(format!("input {index} has floats, not integers").into()),
        }
    }

    /// Input `index` as numbers; `None` when it is not given.
    pub(super) fn numbers(&self, index: usize) -> Result<Option<Array<i64>>, Refusal> {
        let Some(array) = self.ints_input(index)? else { return Ok(None) };
        Ok(Some(array.fixed().ok_or_else(|| format!("input {index} depends on the batch"))?))
    }

    /// Input `index` as a single number; `None` when it is not given.
    pub(super) fn float_input(&self, index: usize) -> Result<Option<f32>, Refusal> {
        match self.floats_input(index)?.as_deref() {
            None => Ok(None),
            Some(&[number]) => Ok(Some(number)),
            Some(_) => Err(format!("input {index} is not a single float").into()),
        }
    }

    /// Input `index` as numbers, whatever their type; `None` when it is not given.
    pub(super) fn floats_input(&self, index: usize) -> Result<Option<Vec<f32>>, Refusal> {
        if self.known(index)?.is_none() {
            return Ok(None);
        }
        let array = self.constant(index)?;
        self.budget.spend(array.data.len())?;
        Ok(Some(array.data.to_vec()))
    }

    /// Input `index`, a constant that must be given, as the network computes with it; may not be finite.
    pub(super) fn constant(&self, index: usize) -> Result<Array<f32>, Refusal> {
        match self.known(index)? {
            None => Err(format!("input {index} is missing").into()),
            Some(Known::Floats(array)) => Ok(array.clone()),
            Some(Known::Ints(array)) => {
                self.budget.spend(array.data.len())?;
                let fixed = array.fixed().ok_or_else(|| format!("input {index} depends on the batch"))?;
                fixed.mapped(|x| Some(x as f32)).ok_or_else(|| format!("input {index} has no numbers").into())
            }
        }
    }

    /// Name of input `index` in the file.
    pub(super) fn input_name(&self, index: usize) -> &'a str {
        self.input(index).map_or("", |input| input.name)
    }

    /// What `Slice` takes, of a tensor of this rank: axis, start, end and step.
    pub(super) fn slices(&self, rank: usize) -> Result<Vec<(usize, i64, i64, i64)>, Refusal> {
        let (starts, ends, axes, steps) = if self.opset < 10 {
            let list = |name| Ok::<_, Refusal>(self.ints(name)?.map(<[i64]>::to_vec));
            (list("starts")?, list("ends")?, list("axes")?, None)
        } else {
            let list = |index| Ok::<_, Refusal>(self.numbers(index)?.map(|array| array.data.to_vec()));
            (list(1)?, list(2)?, list(3)?, list(4)?)
        };
        let (starts, ends) = (starts.ok_or("its starts are missing")?, ends.ok_or("its ends are missing")?);
        let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return Err("its starts, ends, axes and steps are not equally many".into());
        }
        (0..starts.len()).map(|i| Ok((axis(axes[i], rank)?, starts[i], ends[i], steps[i]))).collect()
    }

    /// Input `index` as what the network computes with; `None` when it is not given.
    pub(super) fn weight(&self, index: usize) -> Result<Option<Weight>, Refusal> {
        let Some(known) = self.known(index)? else { return Ok(None) };
        let (Some(Input { name, slot: Slot::Known(_, origin) }), Known::Floats(array)) = (self.input(index), known)
        else {
            return Err(format!("input {index} has integers, not floats").into());
        };
        self.budget.spend(array.data.len())?;
        if array.data.is_empty() {
            return Err(format!("input {index} (`{name}`) has no elements").into());
        }
        if let Some(at) = array.data.iter().position(|x| !x.is_finite()) {
            return Err(Refusal::Error(TensorError::NotFinite(at).of(name)));
        }
        // Exporters store equal tensors once and give them their other names by Identity: the name that is
        // read says more than the name of the storage, unless only that one is a module's.
        let name = [*name, origin].into_iter().find(|name| module_path(name, "").is_some()).unwrap_or(name);
        Ok(Some(Weight { name: name.to_owned(), array: array.clone() }))
    }

    /// Input `index` as weights that must be given.
    pub(super) fn required_weight(&self, index: usize) -> Result<Weight, Refusal> {
        Ok(self.weight(index)?.ok_or_else(|| format!("input {index} is missing"))?)
    }

    /// The axes of Squeeze and its like, an attribute before operator set `since` and an input from then on.
    pub(super) fn axes(&self, since: i64, index: usize) -> Result<Option<Vec<i64>>, Refusal> {
        if self.opset < since {
            return Ok(self.ints("axes")?.map(<[i64]>::to_vec));
        }
        Ok(self.numbers(index)?.map(|axes| axes.data.to_vec()))
    }

    /// Attribute `name` as an integer.
    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64, Refusal> {
        Ok(self.attribute(name, attribute_type::INT)?.map_or(default, |a| a.i))
    }

    /// Attribute `name` as a flag, off when it is not given.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        Ok(self.int(name, 0)? != 0)
    }

    /// Attribute `name` as a float.
    pub(super) fn float(&self, name: &str, default: f32) -> Result<f32, Refusal> {
        Ok(self.attribute(name, attribute_type::FLOAT)?.map_or(default, |a| a.f))
    }

    /// Attribute `name` as integers.
    pub(super) fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, Refusal> {
        Ok(self.attribute(name, attribute_type::INTS)?.map(|a| &a.ints[..]))
    }

    /// Attribute `name` as floats.
    pub(super) fn floats(&self, name: &str) -> Result<Option<&'a [f32]>, Refusal> {
        Ok(self.attribute(name, attribute_type::FLOATS)?.map(|a| &a.floats[..]))
    }

    /// Attribute `name` as a tensor.
    pub(super) fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>, Refusal> {
        Ok(self.attribute(name, attribute_type::TENSOR)?.and_then(|a| a.t.as_ref()))
    }

    /// Attribute `name` as text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        let Some(attribute) = self.attribute(name, attribute_type::STRING)? else { return Ok(None) };
        Ok(Some(std::str::from_utf8(&attribute.s).map_err(|_| format!("attribute `{name}` is not text"))?))
    }

    /// Whether attribute `name` is given, of any type.
    pub(super) fn has_attribute(&self, name: &str) -> bool {
        self.attributes.contains_key(name)
    }

    fn attribute(&self, name: &str, kind: i32) -> Result<Option<&'a AttributeProto>, Refusal> {
        match self.attributes.get(name) {
            Some(attribute) if attribute.r#type != kind => {
                Err(format!("attribute `{name}` has type {}, where {kind} is expected", attribute.r#type).into())
            }
            found => Ok(found.copied()),
        }
    }
}

/// How `[batch, channels, length]` lies in a picture of one row.
pub(super) fn row_axes() -> Vec<Vec<Factor>> {
    vec![vec![Factor::Batch], vec![Factor::Axis(0)], vec![Factor::Axis(2)]]
}

/// How a tensor of `rank` dimensions lies in a value whose sample has at least as many axes; those before are 1.
fn matrix_axes(rank: usize, sample: usize) -> Option<Axes> {
    let hidden = (sample + 1).checked_sub(rank)?;
    let mut axes = vec![vec![Factor::Batch]];
    axes.extend((hidden..sample).map(|axis| vec![Factor::Axis(axis)]));
    Some(axes)
}

/// The first axis and the one behind it as one.
pub(super) fn join_leading(mut axes: Axes) -> Axes {
    if axes.len() > 1 {
        let second = axes.remove(1);
        axes[0].extend(second);
    }
    axes
}

/// `axis` counted from the front, of `rank` dimensions.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, Refusal> {
    Ok(from_end(axis, rank).ok_or_else(|| format!("axis {axis} is outside its {rank} dimensions"))?)
}
