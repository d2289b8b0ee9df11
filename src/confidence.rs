//! What samples say of the whole, with a stated chance of being wrong. Pure arithmetic, no engine.
//!
//! Two questions, two wholes. While a search evaluates a qconfig, the whole is the search split: a finite set, seen in
//! random order without replacement, at which one may look after every sample ([`MeanSequence`]). When the search is
//! over, the whole is the population that the certify split was drawn from, and one looks once ([`Pairs::bound`]).
//! Candidate and fp32 are always compared sample by sample: what both get right or wrong says nothing of a drop.

mod pairs;
mod rank;
mod sequence;

pub use pairs::{Pairs, corrected, resolvable};
pub use rank::spearman;
pub use sequence::MeanSequence;
