//! Values known while importing: weights, and the small integers that exporters compute shapes with.

use std::sync::Arc;

/// A value known while importing. Arrays share their data, so cloning one is cheap.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Known {
    /// A tensor of floats of any width.
    Floats(Array<f32>),
    /// A tensor of integers or booleans.
    Ints(Array<Int>),
}

/// An integer known while importing, or the one number that is not: the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Int {
    /// A number.
    Fixed(i64),
    /// The batch, whatever it will be when the network runs.
    Batch,
}

/// Elements in row-major order; their number is the product of `dims`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array<T> {
    pub(super) dims: Vec<usize>,
    pub(super) data: Arc<[T]>,
}

impl<T: Copy> Array<T> {
    /// A one-dimensional array.
    pub(super) fn list(data: Vec<T>) -> Array<T> {
        Array { dims: vec![data.len()], data: data.into() }
    }

    /// An array without dimensions.
    pub(super) fn scalar(value: T) -> Array<T> {
        Array { dims: Vec::new(), data: Arc::new([value]) }
    }

    /// The same elements under other dimensions; `None` where their numbers differ.
    pub(super) fn reshaped(&self, dims: Vec<usize>) -> Option<Array<T>> {
        (count(&dims)? == self.data.len()).then(|| Array { dims, data: self.data.clone() })
    }

    /// Dimension `i` of the result is dimension `order[i]` of this array; `None` where `order` is no permutation.
    pub(super) fn transposed(&self, order: &[usize]) -> Option<Array<T>> {
        let rank = self.dims.len();
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..rank) {
            return None;
        }
        let mut strides = vec![1; rank];
        for axis in (1..rank).rev() {
            strides[axis - 1] = strides[axis] * self.dims[axis];
        }
        let dims: Vec<usize> = order.iter().map(|&axis| self.dims[axis]).collect();
        let steps: Vec<usize> = order.iter().map(|&axis| strides[axis]).collect();
        let mut at = vec![0; rank];
        let mut offset = 0;
        let mut data = Vec::with_capacity(self.data.len());
        for _ in 0..self.data.len() {
            data.push(self.data[offset]);
            for axis in (0..rank).rev() {
                at[axis] += 1;
                offset += steps[axis];
                if at[axis] < dims[axis] {
                    break;
                }
                offset -= steps[axis] * dims[axis];
                at[axis] = 0;
            }
        }
        Some(Array { dims, data: data.into() })
    }

    /// The elements of a one-dimensional array at `indices`, negative ones from the end.
    pub(super) fn gathered(&self, indices: &Array<i64>) -> Option<Array<T>> {
        let [len] = self.dims[..] else { return None };
        let data = indices.data.iter().map(|&index| Some(self.data[from_end(index, len)?]));
        Some(Array { dims: indices.dims.clone(), data: data.collect::<Option<Arc<[T]>>>()? })
    }

    /// Every `step`-th element of a one-dimensional array from `start` to before `end`, with negative
    /// positions from the end and positions outside clamped, as in ONNX `Slice`.
    pub(super) fn sliced(&self, start: i64, end: i64, step: usize) -> Option<Array<T>> {
        let [len] = self.dims[..] else { return None };
        let signed = i64::try_from(len).ok()?;
        let clamp = |at: i64| if at < 0 { at.saturating_add(signed) } else { at }.clamp(0, signed) as usize;
        let (start, end) = (clamp(start), clamp(end));
        let chosen = self.data.get(start..end.max(start))?;
        (step > 0).then(|| Array::list(chosen.iter().step_by(step).copied().collect()))
    }

    /// `f` of each pair of elements, where the dimensions are the same or one side has a single element.
    pub(super) fn zipped<U>(&self, other: &Array<T>, f: impl Fn(T, T) -> Option<U>) -> Option<Array<U>> {
        let (dims, data): (_, Option<Arc<[U]>>) = match (&self.data[..], &other.data[..]) {
            (a, b) if self.dims == other.dims => (&self.dims, a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()),
            (a, &[b]) if other.dims.len() <= self.dims.len() => (&self.dims, a.iter().map(|&a| f(a, b)).collect()),
            (&[a], b) if self.dims.len() <= other.dims.len() => (&other.dims, b.iter().map(|&b| f(a, b)).collect()),
            _ => return None,
        };
        Some(Array { dims: dims.clone(), data: data? })
    }
}

impl Array<Int> {
    /// The numbers; `None` when the batch is among them.
    pub(super) fn fixed(&self) -> Option<Array<i64>> {
        let number = |int: &Int| match int {
            Int::Fixed(number) => Some(*number),
            Int::Batch => None,
        };
        Some(Array { dims: self.dims.clone(), data: self.data.iter().map(number).collect::<Option<Arc<[i64]>>>()? })
    }
}

impl Known {
    /// Dimensions.
    pub(super) fn dims(&self) -> &[usize] {
        match self {
            Known::Floats(array) => &array.dims,
            Known::Ints(array) => &array.dims,
        }
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        match self {
            Known::Floats(array) => array.data.len(),
            Known::Ints(array) => array.data.len(),
        }
    }

    /// The same elements under other dimensions.
    pub(super) fn reshaped(&self, dims: Vec<usize>) -> Option<Known> {
        Some(match self {
            Known::Floats(array) => Known::Floats(array.reshaped(dims)?),
            Known::Ints(array) => Known::Ints(array.reshaped(dims)?),
        })
    }
}

/// Product of dimensions, when it fits.
pub(super) fn count(dims: &[usize]) -> Option<usize> {
    // A zero anywhere makes the product zero, even where the others alone would not fit.
    if dims.contains(&0) { Some(0) } else { dims.iter().try_fold(1, |n: usize, &dim| n.checked_mul(dim)) }
}

/// An index or axis that counts from the end when negative; `None` outside `0..len`.
pub(super) fn from_end(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(i64::try_from(len).ok()?)? } else { index };
    usize::try_from(index).ok().filter(|&index| index < len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_any_rank() {
        let matrix = Array { dims: vec![2, 3], data: Arc::new([1, 2, 3, 4, 5, 6]) };
        let turned = matrix.transposed(&[1, 0]).unwrap();
        assert_eq!((turned.dims, &turned.data[..]), (vec![3, 2], &[1, 4, 2, 5, 3, 6][..]));
        let cube = Array { dims: vec![2, 1, 2], data: Arc::new([1, 2, 3, 4]) };
        let turned = cube.transposed(&[2, 0, 1]).unwrap();
        assert_eq!((turned.dims, &turned.data[..]), (vec![2, 2, 1], &[1, 3, 2, 4][..]));
        assert_eq!(matrix.transposed(&[0, 0]), None);
        assert_eq!(matrix.transposed(&[0]), None);
        assert_eq!(Array::scalar(7).transposed(&[]), Some(Array::scalar(7)));
    }

    #[test]
    fn slices_as_onnx_does() {
        let list = Array::list(vec![0, 1, 2, 3, 4]);
        assert_eq!(list.sliced(1, i64::MAX, 2), Some(Array::list(vec![1, 3])));
        assert_eq!(list.sliced(-2, 100, 1), Some(Array::list(vec![3, 4])));
        assert_eq!(list.sliced(i64::MIN, -4, 1), Some(Array::list(vec![0])));
        assert_eq!(list.sliced(3, 1, 1), Some(Array::list(vec![])));
        assert_eq!(list.sliced(0, 5, 0), None);
    }

    #[test]
    fn gathers_from_either_end() {
        let list = Array::list(vec![5, 6, 7]);
        assert_eq!(list.gathered(&Array::scalar(-1)), Some(Array::scalar(7)));
        assert_eq!(list.gathered(&Array::list(vec![0, 3])), None);
        assert_eq!(list.gathered(&Array::list(vec![i64::MIN])), None);
    }

    #[test]
    fn counts_without_overflow() {
        assert_eq!(count(&[]), Some(1));
        assert_eq!(count(&[usize::MAX, 2]), None);
        assert_eq!(count(&[usize::MAX, 2, 0]), Some(0));
    }
}
