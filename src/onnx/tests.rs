//! Whole models, built from messages, through the importer.

mod build;
mod channels;
mod errors;
mod external;
mod folding;
mod hostile;
mod integers;
mod layers;
mod operators;
mod rewrites;
mod strided;
mod views;
