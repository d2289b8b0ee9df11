//! How a tensor of the file lies in a value of the graph.
//!
//! The graph keeps the batch in front and pictures in one layout; files transpose and reshape at will. So a tensor is
//! kept as a value and a reading of its axes. Transposes move no element then, and most of them meet their inverse;
//! what is left is done where an operator needs its input in order.

use super::array::{Int, count};
use crate::graph::ValueId;

/// What makes up one axis of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Factor {
    /// The batch.
    Batch,
    /// This axis of the value's sample.
    Axis(usize),
}

/// The axes of a tensor, outermost first: each is the product of its factors, the first of them outermost. One
/// without factors has size 1. Axes of the value that are nowhere here have size 1 too.
pub(super) type Axes = Vec<Vec<Factor>>;

/// A tensor of the file: a value of the graph, and how its axes are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) value: ValueId,
    pub(super) axes: Axes,
}

/// The axes of a tensor that is a value as it is, of this sample rank.
pub(super) fn plain(rank: usize) -> Axes {
    std::iter::once(Factor::Batch).chain((0..rank).map(Factor::Axis)).map(|factor| vec![factor]).collect()
}

impl View {
    /// Whether the tensor is the value as it is.
    pub(super) fn is_plain(&self, rank: usize) -> bool {
        self.axes == plain(rank)
    }

    /// The dimensions of the tensor; `shape` is the value's.
    pub(super) fn dims(&self, shape: &[usize]) -> Vec<Int> {
        self.axes.iter().map(|factors| dim(factors, shape)).collect()
    }

    /// The dimensions without the batch, where that is the first one and alone.
    pub(super) fn sample(&self, shape: &[usize]) -> Option<Vec<usize>> {
        let (batch, rest) = self.axes.split_first()?;
        let rest = rest.iter().map(|factors| match dim(factors, shape) {
            Int::Fixed(dim) => usize::try_from(dim).ok(),
            Int::Batch(_) => None,
        });
        rest.collect::<Option<Vec<_>>>().filter(|_| matches!(dim(batch, shape), Int::Batch(1)))
    }

    /// Whether the first axis is the batch and others behind it, as exporters join heads to it.
    pub(super) fn joined(&self) -> bool {
        matches!(self.axes.first().map(Vec::as_slice), Some([Factor::Batch, _, ..]))
    }

    /// The tensor with what is joined to the batch as an axis of its own.
    pub(super) fn split(&self) -> View {
        let mut axes = self.axes.clone();
        if self.joined() {
            let others = axes[0].split_off(1);
            axes.insert(1, others);
        }
        View { value: self.value, axes }
    }

    /// The tensor under other dimensions, where only such of size 1 come and go, and one is joined to the batch or parted
    /// from it: no element moves. One dimension may be -1.
    pub(super) fn regrouped(&self, shape: &[usize], target: &[Int]) -> Option<View> {
        let is_open = |int: &Int| *int == Int::Fixed(-1);
        let (mut batch, mut known) = (false, 1usize);
        for int in target.iter().filter(|int| !is_open(int)) {
            let (Int::Fixed(number) | Int::Batch(number)) = *int;
            batch |= matches!(int, Int::Batch(_));
            known = known.checked_mul(usize::try_from(number).ok()?)?;
        }
        let rest = i64::try_from(count(shape)?.checked_div(known)?).ok()?;
        let open = if batch { Int::Fixed(rest) } else { Int::Batch(rest) };
        let is_one = |factor: &Factor| factor.axis().is_some_and(|axis| shape[axis] == 1);
        let mut factors = self.axes.iter().flatten().copied().filter(|factor| !is_one(factor));
        let mut axes = Axes::new();
        for int in target {
            let wanted = if is_open(int) { open } else { *int };
            let mut group = Vec::new();
            while dim(&group, shape) != wanted {
                group.push(factors.next()?);
            }
            axes.push(group);
        }
        let whole = factors.next().is_none()
            && axes.iter().all(|group| group.len() <= 1 || group[0] == Factor::Batch && group.len() == 2);
        whole.then_some(View { value: self.value, axes })
    }

    /// The value's axes in the order in which the tensor has them; those of size 1 that it has not come last.
    pub(super) fn order(&self, rank: usize) -> Vec<usize> {
        let mut order: Vec<usize> = self.axes.iter().flatten().filter_map(|factor| factor.axis()).collect();
        let missing: Vec<usize> = (0..rank).filter(|axis| !order.contains(axis)).collect();
        order.extend(missing);
        order
    }

    /// The axis of the value that axis `at` of the tensor is.
    pub(super) fn single(&self, at: usize) -> Option<usize> {
        match self.axes.get(at)?[..] {
            [Factor::Axis(axis)] => Some(axis),
            _ => None,
        }
    }

    /// The tensor's axes in another order.
    pub(super) fn transposed(&self, order: &[usize]) -> Option<View> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        let axes = order.iter().map(|&axis| self.axes.get(axis).cloned()).collect::<Option<Axes>>()?;
        sorted.into_iter().eq(0..self.axes.len()).then_some(View { value: self.value, axes })
    }
}

impl Factor {
    fn axis(self) -> Option<usize> {
        match self {
            Factor::Batch => None,
            Factor::Axis(axis) => Some(axis),
        }
    }
}

/// The size of one axis.
fn dim(factors: &[Factor], shape: &[usize]) -> Int {
    let fixed: usize = factors.iter().filter_map(|factor| factor.axis()).map(|axis| shape[axis]).product();
    if factors.contains(&Factor::Batch) { Int::Batch(fixed as i64) } else { Int::Fixed(fixed as i64) }
}

/// The shape of a value, and how a tensor lies in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reshaped {
    pub(super) shape: Vec<usize>,
    pub(super) axes: Axes,
}

/// The reading of a tensor reshaped to `target`. `before` and `after` are the dimensions of the value that the tensor
/// has before and after the batch, in its order; `batch` is the number that the file gives the batch. `None` where the
/// target does not fit, or does not say which of its dimensions the batch is in.
pub(super) fn reshaped(before: &[usize], after: &[usize], target: &[Int], batch: Option<i64>) -> Option<Reshaped> {
    let (outer, inner) = (count(before)?, count(after)?);
    let entries: Vec<Entry> = target.iter().map(Entry::of).collect::<Option<_>>()?;
    let open = entries.iter().filter(|entry| matches!(entry, Entry::Open)).count();
    if open > 1 || outer == 0 || inner == 0 {
        return None;
    }
    let reading = |at: usize| split(&entries, at, (outer, inner), batch);
    // The dimension that has the batch in it is the one that says so; else one that is the file's number for it; else
    // the open one; else one that the number divides, where exporters join the batch with what comes after it: heads
    // of attention, windows, pixels.
    if let Some(says) = entries.iter().position(|entry| matches!(entry, Entry::Batch(_))) {
        return reading(says);
    }
    let is_number = |entry: &Entry| matches!((entry, batch), (Entry::Fixed(n), Some(b)) if *n as i64 == b);
    let all = || 0..entries.len();
    let exact = all().filter(|&at| is_number(&entries[at])).find_map(reading);
    let open = || all().filter(|&at| matches!(entries[at], Entry::Open)).find_map(reading);
    let leads = |reading: &Reshaped| reading.axes.iter().any(|factors| factors.first() == Some(&Factor::Batch));
    let divided = || batch.and_then(|_| all().filter_map(reading).find(leads));
    let rest = || batch.and_then(|_| all().find_map(reading));
    exact.or_else(open).or_else(divided).or_else(rest)
}

/// One entry of a target shape.
enum Entry {
    Fixed(usize),
    Batch(usize),
    Open,
}

impl Entry {
    fn of(int: &Int) -> Option<Entry> {
        match *int {
            Int::Fixed(-1) => Some(Entry::Open),
            Int::Fixed(number) => Some(Entry::Fixed(usize::try_from(number).ok().filter(|&n| n > 0)?)),
            Int::Batch(times) => Some(Entry::Batch(usize::try_from(times).ok().filter(|&n| n > 0)?)),
        }
    }
}

/// As [`reshaped`], with the batch in dimension `at`.
fn split(entries: &[Entry], at: usize, (outer, inner): (usize, usize), batch: Option<i64>) -> Option<Reshaped> {
    // What an open dimension is follows from the others on its side of the batch.
    let side = |entries: &[Entry]| -> Option<(Vec<usize>, Option<usize>)> {
        let mut open = None;
        let dims = entries.iter().enumerate().map(|(i, entry)| match entry {
            Entry::Fixed(dim) => Some(*dim),
            Entry::Open => {
                open = Some(i);
                Some(1)
            }
            Entry::Batch(_) => None,
        });
        let dims = dims.collect::<Option<Vec<_>>>()?;
        Some((dims, open))
    };
    let (mut left, open_left) = side(&entries[..at])?;
    let (mut right, open_right) = side(&entries[at + 1..])?;
    // Elements of one sample that dimension `at` holds beside the batch; `None` where it is open.
    let held = match &entries[at] {
        Entry::Open => None,
        Entry::Batch(times) => Some(*times),
        Entry::Fixed(number) => {
            let batch = usize::try_from(batch?).ok()?;
            Some(number.checked_div(batch).filter(|times| times * batch == *number)?)
        }
    };
    let fill = |dims: &mut [usize], open: Option<usize>, total: usize| -> Option<()> {
        let rest = count(dims)?;
        if let Some(open) = open {
            dims[open] = total.checked_div(rest)?;
        }
        Some(())
    };
    let (low, high) = match held {
        // The open one on one side takes what the other sides leave.
        Some(held) if open_left.is_some() => {
            let high = inner.checked_div(count(&right)?)?;
            let low = held.checked_div(high)?;
            fill(&mut left, open_left, outer.checked_div(low)?)?;
            (low, high)
        }
        Some(held) => {
            let low = outer.checked_div(count(&left)?)?;
            let high = held.checked_div(low)?;
            fill(&mut right, open_right, inner.checked_div(high)?)?;
            (low, high)
        }
        None => (outer.checked_div(count(&left)?)?, inner.checked_div(count(&right)?)?),
    };
    let whole = |dims: &[usize], part: usize| count(dims).and_then(|n| n.checked_mul(part));
    if low == 0 || high == 0 || whole(&left, low)? != outer || whole(&right, high)? != inner {
        return None;
    }
    if held.is_some_and(|held| low * high != held) {
        return None;
    }
    let mut shape = Vec::new();
    let mut push = |size: usize| {
        shape.push(size);
        Factor::Axis(shape.len() - 1)
    };
    let mut axes: Axes = left.iter().map(|&dim| vec![push(dim)]).collect();
    let mut middle = Vec::new();
    if low > 1 {
        middle.push(push(low));
    }
    middle.push(Factor::Batch);
    if high > 1 {
        middle.push(push(high));
    }
    axes.push(middle);
    axes.extend(right.iter().map(|&dim| vec![push(dim)]));
    Some(Reshaped { shape, axes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(target: &[i64]) -> Vec<Int> {
        target.iter().map(|&dim| Int::Fixed(dim)).collect()
    }

    #[test]
    fn the_batch_is_found_where_the_target_says() {
        let to = |target: &[i64], after: &[usize], batch| reshaped(&[], after, &fixed(target), batch).map(|r| r.shape);
        assert_eq!(to(&[-1, 8], &[8, 1, 1], None), Some(vec![8]));
        assert_eq!(to(&[-1, 4], &[8, 1, 1], None), Some(vec![2, 4]));
        assert_eq!(to(&[-1, -1], &[8], None), None);
        assert_eq!(to(&[1, -1], &[8, 1, 1], Some(1)), Some(vec![8]));
        assert_eq!(to(&[1, -1], &[8, 1, 1], None), Some(vec![1, 8]));
        assert_eq!(to(&[4, 3, -1], &[3, 2, 2], Some(4)), Some(vec![3, 4]));
        assert_eq!(to(&[3], &[8], None), None);
        assert_eq!(to(&[], &[8], None), None);
        assert_eq!(to(&[1, i64::MAX, i64::MAX], &[8], Some(1)), None);
        assert_eq!(reshaped(&[], &[2, 4], &[Int::Batch(1), Int::Fixed(8)], None).unwrap().shape, [8]);
        assert_eq!(reshaped(&[], &[2, 4], &[Int::Fixed(8), Int::Batch(1)], None), None);
        assert_eq!(reshaped(&[], &[2, 4], &[Int::Batch(2), Int::Fixed(-1)], None).unwrap().shape, [2, 4]);
    }

    #[test]
    fn heads_split_off_and_join_the_batch() {
        use Factor::{Axis, Batch};
        // [197, N, 768] to [197, N·12, 64], as PyTorch exports attention.
        let target = [Int::Fixed(197), Int::Batch(12), Int::Fixed(64)];
        let split = reshaped(&[197], &[768], &target, None).unwrap();
        assert_eq!(split.shape, [197, 12, 64]);
        assert_eq!(split.axes, [vec![Axis(0)], vec![Batch, Axis(1)], vec![Axis(2)]]);
        // With the batch of the file in place of the symbol.
        assert_eq!(reshaped(&[197], &[768], &fixed(&[197, 12, 64]), Some(1)), Some(split));
        // [197, N, 12, 64] to [197·N, 768].
        let joined = reshaped(&[197], &[12, 64], &[Int::Batch(197), Int::Fixed(768)], None).unwrap();
        assert_eq!((joined.shape, joined.axes), (vec![197, 768], vec![vec![Axis(0), Batch], vec![Axis(1)]]));
        // And back, with the first dimension open.
        let back = reshaped(&[197], &[768], &[Int::Fixed(-1), Int::Batch(1), Int::Fixed(768)], None).unwrap();
        assert_eq!(back.axes, [vec![Axis(0)], vec![Batch], vec![Axis(1)]]);
    }

    #[test]
    fn dimensions_of_1_come_and_go_without_a_step() {
        use Factor::{Axis, Batch};
        let view = View { value: ValueId(1), axes: vec![vec![Batch, Axis(1)], vec![Axis(2)], vec![Axis(3)]] };
        let to = |target: &[Int]| view.regrouped(&[1, 2, 3, 4], target).map(|view| view.axes);
        let apart = vec![vec![Batch], vec![Axis(1)], vec![], vec![Axis(2)], vec![Axis(3)]];
        assert_eq!(to(&[Int::Batch(1), Int::Fixed(2), Int::Fixed(1), Int::Fixed(-1), Int::Fixed(4)]), Some(apart));
        assert_eq!(to(&fixed(&[-1, 3, 4])), Some(view.axes.clone()));
        // Nothing else is joined, and nothing split.
        assert_eq!(to(&fixed(&[-1, 2, 12])), None);
        assert_eq!(to(&fixed(&[-1, 3, 2, 2])), None);
        assert_eq!(to(&fixed(&[-1, -1, 4])), None);
        assert_eq!(to(&fixed(&[2, -1, 3, 4])), None);
        assert_eq!(to(&[Int::Batch(1), Int::Fixed(i64::MAX), Int::Fixed(i64::MAX)]), None);
        assert_eq!(to(&[]), None);
    }

    #[test]
    fn transposes_move_no_element() {
        let view = View { value: ValueId(1), axes: plain(3) }.transposed(&[0, 2, 3, 1]).unwrap();
        assert_eq!(view.dims(&[3, 5, 7]), [Int::Batch(1), Int::Fixed(5), Int::Fixed(7), Int::Fixed(3)]);
        assert_eq!((view.order(3), view.single(3), view.single(0)), (vec![1, 2, 0], Some(0), None));
        assert!(view.transposed(&[0, 3, 1, 2]).unwrap().is_plain(3));
        assert_eq!(view.transposed(&[0, 1, 2]), None);
        assert_eq!(view.transposed(&[0, 1, 2, 2]), None);
    }
}
