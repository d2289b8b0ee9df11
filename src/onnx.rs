//! ONNX files: untrusted bytes to a [`crate::graph::Graph`].

pub mod proto;
