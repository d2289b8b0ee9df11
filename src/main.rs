//! The `qtuned` command.

fn main() {}
