//! qtuned finds the int8 qconfig of a trained network that keeps an accuracy budget.
//!
//! A network comes in as ONNX ([`onnx`]) and becomes a [`graph`] whose groups can each run in fp32 or int8. A
//! [`job`] says what is searched; the next qconfig of a [`search`] follows from its trials, which the [`store`]
//! keeps.

pub mod cancel;
pub mod cli;
pub mod confidence;
pub mod dataset;
pub mod engine;
pub mod evaluate;
pub mod export;
pub mod graph;
pub mod job;
pub mod kernels;
pub mod onnx;
pub mod output;
pub mod pareto;
pub mod pipeline;
pub mod ptq;
pub mod quant;
pub mod report;
pub mod runner;
pub mod search;
pub mod sensitivity;
pub mod server;
pub mod sqnr;
pub mod store;
pub mod verify;
