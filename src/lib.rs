//! qtuned finds the int8 qconfig of a trained network that keeps an accuracy budget.
//!
//! A network comes in as ONNX ([`onnx`]) and becomes a [`graph`] whose groups can each run in fp32 or int8.

pub mod evaluate;
pub mod graph;
pub mod kernels;
pub mod onnx;
pub mod pareto;
pub mod pipeline;
pub mod quant;
pub mod search;
pub mod sensitivity;
