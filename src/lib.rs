//! qtuned finds the int8 qconfig of a trained network that keeps an accuracy budget.

pub mod dataset;
