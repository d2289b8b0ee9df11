//! The two pictures of a job as SVG, for documents and slides. They say the same as the page's, without its switches.

use std::ops::Range;

use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{JobReport, TrialReport};
use crate::{
    evaluate::{Metric, plain},
    quant::Precision,
    sensitivity::RankBy,
    store::GroupRow,
};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const WIDTH: u32 = 960;
const FONT: &str = "system-ui, sans-serif";
/// Colours of Okabe and Ito, which people with any colour vision tell apart.
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(213, 94, 0);
const GREEN: RGBColor = RGBColor(0, 125, 92);
const GRAY: RGBColor = RGBColor(110, 118, 129);
const INK: RGBColor = RGBColor(31, 35, 40);
/// The most characters of a name that fit beside a row.
const NAME: usize = 38;

/// The drawing library refused.
#[derive(Debug, thiserror::Error)]
#[error("failed to draw: {0}")]
pub struct DrawError(String);

fn refused(error: impl std::fmt::Display) -> DrawError {
    DrawError(error.to_string())
}

/// Accuracy against latency: every trial with its interval and quartiles, the front, the budget and the choice.
///
/// # Errors
/// Whatever keeps it from being drawn.
pub(super) fn trials(report: &JobReport) -> Result<String, DrawError> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, 560)).into_drawing_area();
        draw_trials(report, &area)?;
        area.present().map_err(refused)?;
    }
    Ok(text)
}

/// The SQNR of every layer, the worst first: four marks a layer, and which layers the chosen qconfig leaves in fp32.
///
/// # Errors
/// Whatever keeps it from being drawn.
pub(super) fn groups(report: &JobReport) -> Result<String, DrawError> {
    let mut text = String::new();
    {
        let height = 144 + 22 * u32::try_from(report.groups.len()).unwrap_or(u32::MAX / 32).min(10_000);
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw_groups(report, &area)?;
        area.present().map_err(refused)?;
    }
    Ok(text)
}

fn draw_trials(report: &JobReport, area: &Area<'_>) -> Result<(), DrawError> {
    area.fill(&WHITE).map_err(refused)?;
    heading(area, report, "accuracy against latency")?;
    let (name, scale, unit) = axis(report.budget.metric);
    let points: Vec<Point<'_>> = report.trials.iter().filter_map(|trial| Point::new(trial, scale)).collect();
    let budget = report.budget.least_score.map(|least| least * scale).filter(|least| least.is_finite());
    let x = span(points.iter().flat_map(|p| [p.quartiles.0, p.quartiles.1, p.ms]));
    let y = span(points.iter().flat_map(|p| [p.interval.0, p.interval.1, p.score]).chain(budget));
    let (Some(x), Some(y)) = (x, y) else {
        return label(area, "no trial with a latency yet", (WIDTH as i32 / 2, 280), HPos::Center, 16, &GRAY);
    };
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .margin_top(92)
        .margin_right(28)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(x.clone(), y)
        .map_err(refused)?;
    grid(&mut chart, "median latency, ms", &if unit.is_empty() { name.to_owned() } else { format!("{name}, {unit}") })?;

    if let Some(least) = budget {
        chart
            .draw_series(DashedLineSeries::new([(x.start, least), (x.end, least)], 6, 5, ORANGE.stroke_width(2)))
            .map_err(refused)?;
        let at = chart.backend_coord(&(x.end, least));
        let least = if unit.is_empty() { plain(least) } else { format!("{least:.2} {unit}") };
        label(area, &format!("budget: at least {least}"), (at.0 - 4, at.1 + 10), HPos::Right, 13, &ORANGE)?;
    }
    let mut front: Vec<(f64, f64)> = points.iter().filter(|p| p.trial.on_front).map(|p| (p.ms, p.score)).collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0));
    // A front is a staircase: until the next point the score of the last is the best that can be had.
    let corners =
        front.iter().zip(front.iter().skip(1)).flat_map(|(a, b)| [*a, (b.0, a.1)]).chain(front.last().copied());
    chart.draw_series([PathElement::new(corners.collect::<Vec<_>>(), BLUE.stroke_width(2))]).map_err(refused)?;
    for p in &points {
        let faint = if p.kind() == Kind::Dominated { GRAY.mix(0.35) } else { p.kind().colour().mix(0.55) };
        let across = PathElement::new(vec![(p.quartiles.0, p.score), (p.quartiles.1, p.score)], faint);
        let along = PathElement::new(vec![(p.ms, p.interval.0), (p.ms, p.interval.1)], faint);
        chart.draw_series([across, along]).map_err(refused)?;
    }
    for p in &points {
        let at = chart.backend_coord(&(p.ms, p.score));
        mark(area, p.kind().mark(), at, p.kind().colour())?;
        if p.kind() != Kind::Dominated {
            label(area, &p.trial.number.to_string(), (at.0 + 9, at.1 - 10), HPos::Left, 13, &INK)?;
        }
    }
    legend(area, [Kind::Chosen, Kind::Front, Kind::Fp32, Kind::Dominated].map(|k| (k.mark(), k.colour(), k.name())))
}

fn draw_groups(report: &JobReport, area: &Area<'_>) -> Result<(), DrawError> {
    area.fill(&WHITE).map_err(refused)?;
    heading(area, report, "signal to noise of every layer in int8")?;
    let mut groups: Vec<&GroupRow> = report.groups.iter().collect();
    let rank = |group: &GroupRow| group.decibel(report.rank_by).unwrap_or(f64::INFINITY);
    groups.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
    let kinds = [RankBy::Output, RankBy::Accumulated, RankBy::Local, RankBy::Weight];
    let finite = groups.iter().flat_map(|group| kinds.map(|kind| group.decibel(kind)));
    let Some(x) = span(finite.flatten().chain([0.0])) else {
        return label(area, "no sensitivity analysis yet", (WIDTH as i32 / 2, 90), HPos::Center, 16, &GRAY);
    };
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .margin_top(90)
        .margin_right(28)
        .x_label_area_size(38)
        .y_label_area_size(300)
        .build_cartesian_2d(x.clone(), groups.len() as f64..0.0)
        .map_err(refused)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.12))
        .axis_style(INK.mix(0.4))
        .label_style((FONT, 13).into_font().color(&GRAY))
        .x_desc("SQNR, dB")
        .draw()
        .map_err(refused)?;
    for (row, group) in groups.iter().enumerate() {
        let (left, y) = chart.backend_coord(&(x.start, row as f64 + 0.5));
        let fp32 = group.chosen == Some(Precision::Fp32);
        let name = shortened(&group.id);
        let name = if fp32 { format!("▲ fp32  {name}") } else { name };
        label(area, &name, (left - 10, y), HPos::Right, 13, if fp32 { &ORANGE } else { &INK })?;
        let right = chart.backend_coord(&(x.end, 0.0)).0;
        let line = PathElement::new(vec![(left, y), (right, y)], INK.mix(0.1));
        area.draw(&line).map_err(refused)?;
        // The one that decides the order is drawn over the others.
        let last = [report.rank_by];
        for kind in kinds.into_iter().filter(|kind| *kind != report.rank_by).chain(last) {
            let (shape, colour, _) = look(kind);
            match group.decibel(kind) {
                Some(db) if db.is_finite() => mark(area, shape, (chart.backend_coord(&(db, 0.0)).0, y), colour)?,
                Some(_) if kind == report.rank_by => label(area, "∞", (right - 4, y), HPos::Right, 15, &colour)?,
                _ => {}
            }
        }
    }
    legend(area, kinds.map(look))
}

/// What a trial is in the picture.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Chosen,
    Front,
    Fp32,
    Dominated,
}

/// Shapes that are told apart without colour.
#[derive(Clone, Copy)]
enum Mark {
    Circle,
    Diamond,
    Triangle,
    Cross,
    Square,
}

impl Kind {
    fn colour(self) -> RGBColor {
        match self {
            Kind::Chosen => ORANGE,
            Kind::Front => BLUE,
            Kind::Fp32 => INK,
            Kind::Dominated => GRAY,
        }
    }

    fn mark(self) -> Mark {
        match self {
            Kind::Chosen => Mark::Diamond,
            Kind::Front => Mark::Circle,
            Kind::Fp32 => Mark::Triangle,
            Kind::Dominated => Mark::Cross,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Chosen => "chosen",
            Kind::Front => "on the front",
            Kind::Fp32 => "fp32",
            Kind::Dominated => "beaten by another",
        }
    }
}

/// How an SQNR is drawn, and its name.
fn look(kind: RankBy) -> (Mark, RGBColor, &'static str) {
    match kind {
        RankBy::Output => (Mark::Circle, BLUE, "output"),
        RankBy::Accumulated => (Mark::Triangle, ORANGE, "accumulated"),
        RankBy::Local => (Mark::Square, GREEN, "local"),
        RankBy::Weight => (Mark::Cross, GRAY, "weight"),
    }
}

/// A trial in the units of the axes.
struct Point<'a> {
    trial: &'a crate::store::TrialSummary,
    ms: f64,
    quartiles: (f64, f64),
    score: f64,
    interval: (f64, f64),
}

impl Point<'_> {
    /// `None` for a trial that has no place in the picture: without a latency, or with a score that is infinite.
    fn new(report: &TrialReport, scale: f64) -> Option<Point<'_>> {
        let trial = &report.summary;
        let ms = trial.median_ns? / 1e6;
        let score = trial.score * scale;
        let (low, high) = report.interval.map_or((score, score), |[low, high]| (low * scale, high * scale));
        let quartiles = (trial.q1_ns.map_or(ms, |ns| ns / 1e6), trial.q3_ns.map_or(ms, |ns| ns / 1e6));
        score.is_finite().then_some(Point { trial, ms, quartiles, score, interval: (low, high) })
    }

    fn kind(&self) -> Kind {
        match (self.trial.chosen, self.trial.number, self.trial.on_front) {
            (true, ..) => Kind::Chosen,
            (_, 0, _) => Kind::Fp32,
            (_, _, true) => Kind::Front,
            _ => Kind::Dominated,
        }
    }
}

/// An axis over the finite ones of these values, with room at both ends; `None` when there are none.
fn span(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    let ends = values
        .filter(|v| v.is_finite())
        .fold(None, |ends: Option<(f64, f64)>, v| Some(ends.map_or((v, v), |(low, high)| (low.min(v), high.max(v)))));
    let (low, high) = ends?;
    let room = ((high - low) * 0.06).max(high.abs() * 1e-3).max(1e-9);
    Some(low - room..high + room)
}

fn grid(chart: &mut Chart<'_, '_>, x: &str, y: &str) -> Result<(), DrawError> {
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.1))
        .axis_style(INK.mix(0.4))
        .label_style((FONT, 13).into_font().color(&GRAY))
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .x_desc(x)
        .y_desc(y)
        .draw()
        .map_err(refused)
}

fn heading(area: &Area<'_>, report: &JobReport, what: &str) -> Result<(), DrawError> {
    label(area, &format!("{}: {what}", shortened(&report.job.name)), (20, 24), HPos::Left, 19, &INK)?;
    let fingerprint = report.trials.iter().rev().find_map(|trial| trial.summary.fingerprint.as_ref());
    let machine = fingerprint.map_or_else(String::new, |f| {
        format!(
            " · {}, {} kernels, threads: {}, batch: {}",
            printable(&f.cpu),
            printable(&f.kernel),
            f.threads,
            f.batch
        )
    });
    label(area, &format!("{}{machine}", shortened(&report.model)), (20, 46), HPos::Left, 13, &GRAY)
}

fn legend<const N: usize>(area: &Area<'_>, entries: [(Mark, RGBColor, &str); N]) -> Result<(), DrawError> {
    let mut x = 26;
    for (shape, colour, name) in entries {
        mark(area, shape, (x, 70), colour)?;
        label(area, name, (x + 11, 70), HPos::Left, 13, &INK)?;
        x += 40 + 7 * name.len() as i32;
    }
    Ok(())
}

fn label(area: &Area<'_>, text: &str, at: (i32, i32), side: HPos, size: i32, ink: &RGBColor) -> Result<(), DrawError> {
    let style = (FONT, size).into_font().color(ink).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(printable(text), at, style)).map_err(refused)
}

fn mark(area: &Area<'_>, mark: Mark, (x, y): (i32, i32), colour: RGBColor) -> Result<(), DrawError> {
    let polygon = |corners: &[(i32, i32)]| {
        Polygon::new(corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect::<Vec<_>>(), colour.filled())
    };
    let drawn = match mark {
        Mark::Circle => area.draw(&Circle::new((x, y), 5, colour.filled())),
        Mark::Diamond => area.draw(&polygon(&[(0, -9), (9, 0), (0, 9), (-9, 0)])),
        Mark::Triangle => area.draw(&polygon(&[(0, -6), (6, 5), (-6, 5)])),
        Mark::Square => area.draw(&polygon(&[(-4, -4), (4, -4), (4, 4), (-4, 4)])),
        Mark::Cross => area.draw(&Cross::new((x, y), 4, colour.stroke_width(2))),
    };
    drawn.map_err(refused)
}

/// What an axis of scores is called, what a score is multiplied by there, and the unit that it has then.
fn axis(metric: Metric) -> (&'static str, f64, &'static str) {
    match metric {
        Metric::Top1 => ("top-1", 100.0, "%"),
        Metric::Top5 => ("top-5", 100.0, "%"),
        Metric::Agreement => ("agreement with fp32", 100.0, "%"),
        Metric::Sqnr => ("SQNR of the output", 1.0, "dB"),
        Metric::Score => ("score", 1.0, ""),
    }
}

/// Text without characters that XML has no way to write.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || "\u{fffe}\u{ffff}".contains(c) { '\u{fffd}' } else { c }).collect()
}

/// A name that is too long, without a part of it, mostly of its beginning: names differ in their ends.
fn shortened(name: &str) -> String {
    let characters: Vec<char> = name.chars().collect();
    match characters.len() > NAME {
        true => {
            let (start, end) = (&characters[..NAME / 4], &characters[characters.len() - NAME * 3 / 4..]);
            format!("{}…{}", String::from_iter(start), String::from_iter(end))
        }
        false => name.to_owned(),
    }
}
