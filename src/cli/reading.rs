//! How a model that comes without a job is read, where its file leaves something open.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::Args;

use crate::onnx::{Reading, SampleShapes, Sizes};

/// As `model:` of a job.
#[derive(Args, Debug)]
#[command(next_help_heading = "Where the model's file leaves something open, as in `model:` of a job")]
pub(super) struct ReadingArgs {
    /// The input that samples go to, where there are several
    #[arg(long, value_name = "NAME")]
    model_input: Option<String>,

    /// Shape of one sample in the order of the file, such as 3x224x224. Of several inputs each is given: ids=128
    #[arg(long, value_name = "[NAME=]SHAPE", value_parser = shape)]
    model_shape: Vec<Shape>,

    /// Another input, filled with a number. May be given more than once
    #[arg(long, value_name = "NAME=NUMBER", value_parser = fixed)]
    model_fixed: Vec<(String, f64)>,

    /// The output that counts, where there are several; what only others need is left out
    #[arg(long, value_name = "NAME")]
    model_output: Option<String>,
}

/// Sizes of a sample, and of which input.
#[derive(Clone, Debug)]
struct Shape(Option<String>, Sizes);

fn shape(text: &str) -> Result<Shape, &'static str> {
    let (name, text) = text.rsplit_once('=').map_or((None, text), |(name, sizes)| (Some(name.to_owned()), sizes));
    let sizes: Option<Vec<usize>> = text.split(['x', '×', ',']).map(|size| size.parse().ok()).collect();
    let sizes = sizes.map(Sizes).filter(|sizes| sizes.check().is_ok());
    sizes.map(|sizes| Shape(name, sizes)).ok_or("expected sizes without the batch, such as 3x224x224")
}

fn fixed(text: &str) -> Result<(String, f64), &'static str> {
    const EXPECTED: &str = "expected NAME=NUMBER, such as training=0";
    let (name, number) = text.rsplit_once('=').ok_or(EXPECTED)?;
    let number = number.parse().ok().filter(|number: &f64| number.is_finite()).ok_or(EXPECTED)?;
    Ok((name.to_owned(), number))
}

impl ReadingArgs {
    pub(super) fn reading(&self) -> Result<Reading> {
        Ok(Reading {
            input: self.model_input.clone(),
            shape: self.shape()?,
            fixed: self.model_fixed.iter().cloned().collect(),
            output: self.model_output.clone(),
        })
    }

    /// One without a name, or some with a name each.
    fn shape(&self) -> Result<Option<SampleShapes>> {
        if let [] | [Shape(None, _)] = self.model_shape[..] {
            return Ok(self.model_shape.first().map(|Shape(_, sizes)| SampleShapes::One(sizes.clone())));
        }
        let named = self.model_shape.iter().map(|Shape(name, sizes)| Some((name.clone()?, sizes.clone())));
        let each: Option<BTreeMap<String, Sizes>> = named.collect();
        match each.filter(|each| each.len() == self.model_shape.len()) {
            Some(each) => Ok(Some(SampleShapes::Each(each))),
            None => bail!("--model-shape: expected one shape, or one for each of several inputs by its name: ids=128"),
        }
    }

    /// A flag that is given, where one is.
    pub(super) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--model-input", self.model_input.is_some()),
            ("--model-shape", !self.model_shape.is_empty()),
            ("--model-fixed", !self.model_fixed.is_empty()),
            ("--model-output", self.model_output.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}
