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
    /// So many times the batch, whatever that will be when the network runs; above 0.
    Batch(i64),
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
        let data = walk(&dims, &steps).map(|at| self.data[at]).collect();
        Some(Array { dims, data })
    }

    /// The slices at `indices` of an axis, negative ones from the end; the axis becomes those of `indices`.
    pub(super) fn gathered(&self, axis: usize, indices: &Array<i64>) -> Option<Array<T>> {
        let len = *self.dims.get(axis)?;
        let chosen = indices.data.iter().map(|&index| from_end(index, len)).collect::<Option<Vec<_>>>()?;
        let mut dims = self.dims[..axis].to_vec();
        dims.extend(&indices.dims);
        dims.extend(&self.dims[axis + 1..]);
        Some(Array { dims, data: self.slices(axis, &chosen) })
    }

    /// As [`Array::gathered`] for one list of indices.
    pub(super) fn selected(&self, axis: usize, indices: &[usize]) -> Option<Array<T>> {
        let mut dims = self.dims.clone();
        let len = std::mem::replace(dims.get_mut(axis)?, indices.len());
        indices.iter().all(|&index| index < len).then(|| Array { dims, data: self.slices(axis, indices) })
    }

    /// The array with slices replaced, as ONNX `ScatterND` does: each row of `indices` is the place of one slice along the
    /// leading axes, negative from the end; of several for one place the last counts. `None` where shapes do not fit.
    pub(super) fn scattered(&self, indices: &Array<i64>, updates: &Array<T>) -> Option<Array<T>> {
        let (&depth, places) = indices.dims.split_last()?;
        let (leading, slice) = self.dims.split_at_checked(depth)?;
        if updates.dims != [places, slice].concat() {
            return None;
        }
        // Of no elements there may be any number of slices.
        if self.data.is_empty() {
            return Some(self.clone());
        }
        let size = count(slice)?;
        let mut data = self.data.to_vec();
        for place in 0..count(places)? {
            let row = indices.data.get(place * depth..(place + 1) * depth)?;
            let at =
                row.iter().zip(leading).try_fold(0, |at, (&index, &len)| Some(at * len + from_end(index, len)?))?;
            data[at * size..(at + 1) * size].copy_from_slice(&updates.data[place * size..(place + 1) * size]);
        }
        Some(Array { dims: self.dims.clone(), data: data.into() })
    }

    /// The elements of slices that are there.
    fn slices(&self, axis: usize, indices: &[usize]) -> Arc<[T]> {
        let (len, inner) = (self.dims[axis], self.dims[axis + 1..].iter().product::<usize>());
        let outer = self.data.chunks_exact((len * inner).max(1));
        outer
            .flat_map(|block| indices.iter().flat_map(move |&at| &block[at * inner..(at + 1) * inner]))
            .copied()
            .collect()
    }

    /// Arrays one after the other along an axis; `None` where another dimension differs.
    pub(super) fn concatenated(arrays: &[Array<T>], axis: usize) -> Option<Array<T>> {
        let mut dims = arrays.first()?.dims.clone();
        dims.get(axis)?;
        dims[axis] = 0;
        for array in arrays {
            let fits = array.dims.len() == dims.len() && (0..dims.len()).all(|i| i == axis || array.dims[i] == dims[i]);
            dims[axis] = dims[axis].checked_add(*array.dims.get(axis).filter(|_| fits)?)?;
        }
        let inner: usize = dims[axis + 1..].iter().product();
        let outer: usize = dims[..axis].iter().product();
        let mut data = Vec::with_capacity(arrays.iter().map(|array| array.data.len()).sum());
        for block in 0..outer {
            for array in arrays {
                let len = array.dims[axis] * inner;
                data.extend_from_slice(&array.data[block * len..(block + 1) * len]);
            }
        }
        Some(Array { dims, data: data.into() })
    }

    /// Repeats along axes of size 1, or that are not there, to `dims`; `None` where they do not broadcast to it.
    pub(super) fn expanded(&self, dims: &[usize]) -> Option<Array<T>> {
        if self.dims == dims {
            return Some(self.clone());
        }
        let missing = dims.len().checked_sub(self.dims.len())?;
        let own = |axis: usize| axis.checked_sub(missing).map_or(1, |axis| self.dims[axis]);
        if (0..dims.len()).any(|axis| own(axis) != 1 && own(axis) != dims[axis]) {
            return None;
        }
        let mut steps = vec![0; dims.len()];
        let mut step = 1;
        for axis in (0..dims.len()).rev() {
            steps[axis] = if own(axis) == 1 { 0 } else { step };
            step *= own(axis);
        }
        Some(Array { dims: dims.to_vec(), data: walk(dims, &steps).map(|at| self.data[at]).collect() })
    }

    /// `f` of each pair of elements; dimensions broadcast as in numpy.
    pub(super) fn zipped<A: Copy, U>(&self, other: &Array<A>, f: impl Fn(T, A) -> Option<U>) -> Option<Array<U>> {
        let dims = broadcast(&self.dims, &other.dims)?;
        let (a, b) = (self.expanded(&dims)?, other.expanded(&dims)?);
        let data = a.data.iter().zip(b.data.iter()).map(|(&a, &b)| f(a, b)).collect::<Option<Arc<[U]>>>()?;
        Some(Array { dims, data })
    }

    /// `f` of each element.
    pub(super) fn mapped<U>(&self, f: impl Fn(T) -> Option<U>) -> Option<Array<U>> {
        let data = self.data.iter().map(|&x| f(x)).collect::<Option<Arc<[U]>>>()?;
        Some(Array { dims: self.dims.clone(), data })
    }
}

impl Array<Int> {
    /// The numbers; `None` when the batch is among them.
    pub(super) fn fixed(&self) -> Option<Array<i64>> {
        let number = |int: &Int| match int {
            Int::Fixed(number) => Some(*number),
            Int::Batch(_) => None,
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

/// Offsets of all elements of an array of these dimensions, in row-major order, where a step along axis `i` is
/// `steps[i]` elements.
fn walk(dims: &[usize], steps: &[usize]) -> impl Iterator<Item = usize> {
    let mut at = vec![0; dims.len()];
    let mut offset = 0;
    (0..count(dims).unwrap_or(0)).map(move |_| {
        let here = offset;
        for axis in (0..dims.len()).rev() {
            at[axis] += 1;
            offset += steps[axis];
            if at[axis] < dims[axis] {
                break;
            }
            offset -= steps[axis] * dims[axis];
            at[axis] = 0;
        }
        here
    })
}

/// The dimensions that both broadcast to, as in numpy.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis]);
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (a, b) if a == b => Some(a),
            (1, b) => Some(b),
            (a, 1) => Some(a),
            _ => None,
        })
        .collect()
}

/// The indices that ONNX `Slice` takes of an axis: negative positions count from the end, and positions outside are
/// clamped.
pub(super) fn slice_indices(len: usize, start: i64, end: i64, step: i64) -> Option<Vec<usize>> {
    let signed = i64::try_from(len).ok()?;
    let at = |at: i64| if at < 0 { at.saturating_add(signed) } else { at };
    if step > 0 {
        let (start, end) = (at(start).clamp(0, signed), at(end).clamp(0, signed));
        let step = usize::try_from(step).ok()?;
        return Some((start as usize..end.max(start) as usize).step_by(step).collect());
    }
    let step = usize::try_from(step.checked_neg()?).ok().filter(|&step| step > 0)?;
    // Down to the index after `end`, which may be the one before the first.
    let (start, end) = (at(start).clamp(-1, signed - 1), at(end).clamp(-1, signed - 1));
    Some((end + 1..=start).rev().step_by(step).map(|at| at as usize).collect())
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
        let slice = |start, end, step| slice_indices(5, start, end, step);
        assert_eq!(slice(1, i64::MAX, 2), Some(vec![1, 3]));
        assert_eq!(slice(-2, 100, 1), Some(vec![3, 4]));
        assert_eq!(slice(i64::MIN, -4, 1), Some(vec![0]));
        assert_eq!(slice(3, 1, 1), Some(vec![]));
        assert_eq!(slice(0, 5, 0), None);
        assert_eq!(slice(-1, i64::MIN, -1), Some(vec![4, 3, 2, 1, 0]));
        assert_eq!(slice(100, 1, -2), Some(vec![4, 2]));
        assert_eq!(slice(4, -1, -1), Some(vec![]));
        assert_eq!(slice(0, 5, i64::MIN), None);
        assert_eq!(slice_indices(0, -1, -5, -1), Some(vec![]));
    }

    #[test]
    fn gathers_and_joins_along_any_axis() {
        let list = Array::list(vec![5, 6, 7]);
        assert_eq!(list.gathered(0, &Array::scalar(-1)), Some(Array::scalar(7)));
        assert_eq!(list.gathered(0, &Array::list(vec![0, 3])), None);
        assert_eq!(list.gathered(0, &Array::list(vec![i64::MIN])), None);
        let matrix = Array { dims: vec![2, 3], data: Arc::new([1, 2, 3, 4, 5, 6]) };
        let columns = matrix.gathered(1, &Array::list(vec![2, 0])).unwrap();
        assert_eq!((columns.dims.clone(), &columns.data[..]), (vec![2, 2], &[3, 1, 6, 4][..]));
        let joined = Array::concatenated(&[columns, matrix.clone()], 1).unwrap();
        assert_eq!((joined.dims, &joined.data[..]), (vec![2, 5], &[3, 1, 1, 2, 3, 6, 4, 4, 5, 6][..]));
        assert_eq!(Array::concatenated(&[matrix, list], 0), None);
    }

    #[test]
    fn scatters_slices_as_onnx_does() {
        let zeros = Array { dims: vec![3, 2], data: Arc::new([0; 6]) };
        let pair = |dims: &[usize], data: [i64; 2]| Array { dims: dims.to_vec(), data: Arc::new(data) };
        // Rows 2 and 0.
        let rows = zeros.scattered(&pair(&[2, 1], [-1, 0]), &Array { dims: vec![2, 2], data: Arc::new([1, 2, 3, 4]) });
        assert_eq!(rows.unwrap().data[..], [3, 4, 0, 0, 1, 2]);
        // One element, at [1, 1].
        let one = zeros.scattered(&pair(&[2], [1, 1]), &Array::scalar(7));
        assert_eq!(one.unwrap().data[..], [0, 0, 0, 7, 0, 0]);
        // The same place twice, and one outside.
        let twice = pair(&[2], [5, 6]);
        let list = Array::list(vec![1, 2, 3]);
        assert_eq!(list.scattered(&pair(&[2, 1], [1, 1]), &twice), Some(Array::list(vec![1, 6, 3])));
        assert_eq!(list.scattered(&pair(&[2, 1], [1, 3]), &twice), None);
        assert_eq!(list.scattered(&pair(&[2], [1, 1]), &twice), None);
        assert_eq!(list.scattered(&Array::scalar(1), &twice), None);
        let (empty, many) = (Array::list(Vec::<i64>::new()), Array { dims: vec![1 << 60, 0], data: Arc::new([]) });
        assert_eq!(empty.scattered(&many, &many), Some(empty));
        // Everything, by an index without entries.
        let whole = Array { dims: vec![0], data: Arc::new([]) };
        assert_eq!(list.scattered(&whole, &Array::list(vec![4, 5, 6])), Some(Array::list(vec![4, 5, 6])));
    }

    #[test]
    fn broadcasts_as_numpy_does() {
        let column = Array { dims: vec![2, 1], data: Arc::new([10, 20]) };
        let row = Array::list(vec![1, 2, 3]);
        let sum = column.zipped(&row, |a, b| Some(a + b)).unwrap();
        assert_eq!((sum.dims, &sum.data[..]), (vec![2, 3], &[11, 12, 13, 21, 22, 23][..]));
        assert_eq!(row.zipped(&Array::list(vec![1, 2]), |a, b| Some(a + b)), None);
        assert_eq!(Array::scalar(3).expanded(&[2]), Some(Array::list(vec![3, 3])));
        assert_eq!(row.expanded(&[2]), None);
    }

    #[test]
    fn counts_without_overflow() {
        assert_eq!(count(&[]), Some(1));
        assert_eq!(count(&[usize::MAX, 2]), None);
        assert_eq!(count(&[usize::MAX, 2, 0]), Some(0));
    }
}
