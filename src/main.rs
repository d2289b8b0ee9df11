//! The `qtuned` command.

use std::process::ExitCode;

use clap::Parser;
use qtuned::cli::{self, Cli};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::exit(cli::run(Cli::parse()))
}
