//! Moves that are one move.

use super::{Change, Drafts};
use crate::graph::Op;

/// A reshape of a reshape is the last one alone.
pub(super) fn join_reshapes(drafts: &Drafts<'_>, at: usize) -> Option<Change> {
    let Op::Reshape = drafts.op(at)? else { return None };
    let (Op::Reshape, inputs) = drafts.written(*drafts.all[at].inputs.first()?)? else { return None };
    Some(Change { kind: "reshapes joined", op: Op::Reshape, inputs: inputs.to_vec() })
}

/// Channels of a picture split in two, exchanged and joined: they are selected in another order.
pub(super) fn channel_shuffle(drafts: &Drafts<'_>, at: usize) -> Option<Change> {
    let Op::Reshape = drafts.op(at)? else { return None };
    let (Op::Transpose { order }, &[split]) = drafts.written(*drafts.all[at].inputs.first()?)? else { return None };
    let (Op::Reshape, &[x]) = drafts.written(split)? else { return None };
    let (&[groups, each, h, w], &[channels, height, width]) = (drafts.shape(split), drafts.shape(x)) else {
        return None;
    };
    let same = drafts.shape(drafts.all[at].output) == drafts.shape(x) && (h, w) == (height, width);
    if !same || order[..] != [1, 0, 2, 3] || groups * each != channels {
        return None;
    }
    let indices = (0..channels).map(|channel| channel % groups * each + channel / groups).collect();
    Some(Change { kind: "channel shuffle", op: Op::Select { axis: 0, indices }, inputs: vec![x] })
}
