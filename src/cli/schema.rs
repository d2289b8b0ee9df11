//! `qtuned schema`.

use anyhow::Result;
use clap::Args;

use super::print_json;
use crate::job;

/// Print the JSON Schema of job files, for editors that complete and check them
///
/// In an editor with a YAML language server, this first line of a job says where the schema is:
/// # yaml-language-server: $schema=qtuned.schema.json
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned schema > qtuned.schema.json")]
pub(super) struct SchemaArgs {}

pub(super) fn run(_: &SchemaArgs) -> Result<()> {
    print_json(&job::schema())
}
