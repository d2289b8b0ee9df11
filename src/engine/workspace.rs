//! Memory of a run: values that are not alive at the same time share buffers.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

use super::{Representation, Slot, SlotId, Step, kind::Kind};
use crate::graph::Graph;

/// Which buffer each slot is written to, and how long the buffers are.
#[derive(Debug)]
pub(super) struct Buffers {
    buffers: Vec<Buffer>,
    /// `None` for slots that bring a tensor of their own.
    of_slot: Vec<Option<usize>>,
}

#[derive(Clone, Copy, Debug)]
struct Buffer {
    quantized: bool,
    /// Elements for one sample.
    len: usize,
}

impl Buffers {
    /// Gives each slot a buffer that is free from its step to its last use: the smallest that is large enough, else
    /// the largest, made larger, else a new one.
    pub(super) fn new(graph: &Graph, slots: &[Slot], steps: &[Step]) -> Buffers {
        let mut buffers: Vec<Buffer> = Vec::new();
        let mut of_slot = vec![None; slots.len()];
        let mut free: Vec<usize> = Vec::new();
        for step in steps {
            let slot = slots[step.output.0];
            if !matches!(step.kind, Kind::Tensor { .. }) {
                let quantized = slot.representation != Representation::Float;
                let len = graph.value(slot.value).shape.iter().product();
                let fitting = free.iter().copied().filter(|&b| buffers[b].quantized == quantized);
                let large_enough = fitting.clone().filter(|&b| buffers[b].len >= len).min_by_key(|&b| buffers[b].len);
                let buffer = large_enough.or_else(|| fitting.max_by_key(|&b| buffers[b].len)).unwrap_or_else(|| {
                    buffers.push(Buffer { quantized, len });
                    buffers.len() - 1
                });
                buffers[buffer].len = buffers[buffer].len.max(len);
                free.retain(|&b| b != buffer);
                of_slot[step.output.0] = Some(buffer);
            }
            free.extend(step.release.iter().filter_map(|slot| of_slot[slot.0]));
        }
        Buffers { buffers, of_slot }
    }

    /// Bytes of all buffers for one sample.
    pub(super) fn bytes(&self) -> u64 {
        self.buffers.iter().map(|b| b.len as u64 * if b.quantized { 1 } else { 4 }).sum()
    }
}

/// Memory for one run at a time, of any plan: flat tensors of f32 and of u8, first those of the present plan's buffers.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    tensors: Vec<Tensor>,
}

impl Workspace {
    /// A tensor for each buffer, of at least its length. Those that are there are used again; those that this plan does
    /// not need are kept for the next, which may be of another precision.
    fn fit(&mut self, buffers: &Buffers, batch: usize) -> Result<()> {
        let mut idle = std::mem::take(&mut self.tensors);
        for buffer in &buffers.buffers {
            let (dtype, len) = (if buffer.quantized { DType::U8 } else { DType::F32 }, batch * buffer.len);
            let of_type = (0..idle.len()).filter(|&i| idle[i].dtype() == dtype);
            let long_enough = of_type.clone().filter(|&i| idle[i].elem_count() >= len);
            let tensor = match long_enough.min_by_key(|&i| idle[i].elem_count()) {
                Some(index) => idle.swap_remove(index),
                None => {
                    // In place of one that is too short, so that there are never more than a plan needs.
                    if let Some(short) = of_type.max_by_key(|&i| idle[i].elem_count()) {
                        idle.swap_remove(short);
                    }
                    Tensor::zeros(len, dtype, &Device::Cpu)?
                }
            };
            self.tensors.push(tensor);
        }
        self.tensors.append(&mut idle);
        Ok(())
    }

    /// Where a slot's value is written, in storage order; `None` when it has no buffer.
    pub(super) fn slot(
        &self,
        buffers: &Buffers,
        slot: SlotId,
        batch: usize,
        shape: &[usize],
    ) -> Result<Option<Tensor>> {
        let Some(buffer) = buffers.of_slot[slot.0] else { return Ok(None) };
        let dims = stored_dims(batch, shape);
        self.tensors[buffer].narrow(0, 0, dims.iter().product())?.reshape(dims).map(Some)
    }
}

/// Workspaces between runs, one for each run that there was at the same time.
#[derive(Debug, Default)]
pub(super) struct Workspaces(Mutex<Vec<Workspace>>);

impl Workspaces {
    /// A workspace for a batch.
    pub(super) fn take(&self, buffers: &Buffers, batch: usize) -> Result<Workspace> {
        let mut workspace = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        workspace.fit(buffers, batch)?;
        Ok(workspace)
    }

    /// Takes a workspace back.
    pub(super) fn give_back(&self, workspace: Workspace) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(workspace);
    }
}

/// Dimensions in storage order of a batch of values of logical shape `shape`: pictures are channels-last.
pub(super) fn stored_dims(batch: usize, shape: &[usize]) -> Vec<usize> {
    match *shape {
        [c, h, w] => vec![batch, h, w, c],
        _ => std::iter::once(batch).chain(shape.iter().copied()).collect(),
    }
}

/// Where axis `axis` of a sample is in a tensor in storage order of this rank.
pub(super) fn stored_axis(rank: usize, axis: usize) -> usize {
    match (rank, axis) {
        (4, 0) => 3,
        (4, _) => axis,
        _ => axis + 1,
    }
}

/// A tensor in storage order as its logical shape; nothing is copied.
pub(super) fn logical(stored: &Tensor) -> Result<Tensor> {
    if stored.rank() == 4 { stored.permute((0, 3, 1, 2)) } else { Ok(stored.clone()) }
}

/// A tensor of logical shape in storage order, contiguous; nothing is copied where it is stored so.
pub(super) fn stored(logical: &Tensor) -> Result<Tensor> {
    if logical.rank() == 4 { logical.permute((0, 2, 3, 1))?.contiguous() } else { logical.contiguous() }
}
