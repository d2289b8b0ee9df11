//! qtuned finds the int8 qconfig of a trained network that keeps an accuracy budget.
//!
//! A network comes in as ONNX ([`onnx`]) and becomes a [`graph`] whose groups can each run in fp32 or int8.

pub mod graph;
pub mod onnx;
