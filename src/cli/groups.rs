//! `qtuned groups`.

use anyhow::Result;
use clap::Args;

use super::{Global, JobArg, format, heading, print, print_json, source::source};
use crate::{
    pipeline::GroupFacts,
    sensitivity::{GroupSensitivity, RankBy, rank},
    store::GroupRow,
};

/// Show the groups of a job's model and how much each loses in int8, the worst first
///
/// Four signal-to-noise ratios in dB, larger is better: of the weight; of the group's output when it is fed the fp32
/// input (local); of its output in the int8 network (accumulated); and of the network's output with this group alone
/// quantized (output).
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  qtuned groups\n  qtuned groups mobilenet-v2 --rank-by weight\n  qtuned groups --json"
)]
pub(super) struct GroupsArgs {
    #[command(flatten)]
    job: JobArg,

    /// Which ratio orders the groups
    #[arg(long, value_enum, default_value_t = Rank::Output, value_name = "RATIO")]
    rank_by: Rank,
}

/// [`RankBy`] on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Rank {
    /// Of the weight.
    Weight,
    /// Of the group's output, fed the fp32 input.
    Local,
    /// Of the group's output in the int8 network.
    Accumulated,
    /// Of the network's output, this group alone quantized.
    Output,
}

impl From<Rank> for RankBy {
    fn from(rank: Rank) -> RankBy {
        match rank {
            Rank::Weight => RankBy::Weight,
            Rank::Local => RankBy::Local,
            Rank::Accumulated => RankBy::Accumulated,
            Rank::Output => RankBy::Output,
        }
    }
}

pub(super) fn run(global: &Global, args: &GroupsArgs) -> Result<()> {
    let source = source(global)?;
    let job = source.job(args.job.name())?.job;
    let groups = source.groups(job.id)?;
    let groups = ranked(&groups, args.rank_by.into());
    if global.json {
        let chosen = source.trials(job.id)?.into_iter().find(|trial| trial.chosen);
        return print_json(&groups.iter().map(|group| GroupRow::new(group, chosen.as_ref())).collect::<Vec<_>>());
    }
    match groups.is_empty() {
        true => print(&format!("{}no sensitivities yet\n", heading(&job))),
        false => print(&format!("{}{}", heading(&job), table(&groups, usize::MAX))),
    }
}

/// Groups, the worst first; those that are not quantized last.
pub(super) fn ranked(groups: &[GroupFacts], by: RankBy) -> Vec<&GroupFacts> {
    let known: Vec<GroupSensitivity> = groups.iter().filter_map(|group| group.sensitivity.clone()).collect();
    let order = rank(&known, by);
    let place = |group: &&GroupFacts| {
        let id = group.sensitivity.as_ref().map(|s| s.group);
        order.iter().position(|ranked| Some(*ranked) == id).unwrap_or(usize::MAX)
    };
    let mut ranked: Vec<&GroupFacts> = groups.iter().collect();
    ranked.sort_by_key(place);
    ranked
}

/// The table of the first `most` groups, with a line that says how many more there are.
pub(super) fn table(groups: &[&GroupFacts], most: usize) -> String {
    let row = |(place, group): (usize, &&GroupFacts)| {
        let s = group.sensitivity.as_ref();
        vec![
            (place + 1).to_string(),
            group.id.clone(),
            group.object_type.clone(),
            format::count(group.macs),
            format::count(group.parameters),
            format::or_none(s.and_then(|s| s.weight), format::decibel),
            format::or_none(s.map(|s| s.local), format::decibel),
            format::or_none(s.map(|s| s.accumulated), format::decibel),
            s.map_or_else(|| "in fp32".to_owned(), |s| format::decibel(s.output)),
        ]
    };
    let headings = [">", "group", "type", ">MACs", ">parameters", ">weight", ">local", ">accumulated", ">output"];
    let mut text = format::table(&headings, groups.iter().enumerate().take(most).map(row));
    if groups.len() > most {
        let more = format::plural(groups.len() - most, "more group");
        text.push_str(&format!("and {more}; `qtuned groups` shows all\n"));
    }
    text
}
