//! How far each node was when, with the events. Pure.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Fate, caption, fate};
use crate::lab::record::{NodeRecord, Record};

const WIDTH: u32 = 1_100;
const HEIGHT: u32 = 620;
/// The right margin, where the nodes are named.
const NAMES: i32 = 150;
/// Room for the title and for rows of captions of events above the diagram.
const TITLE: i32 = 46;
const ROW: i32 = 15;
const MOST_ROWS: usize = 6;
/// What a letter of a caption takes, about.
const LETTER: f64 = 6.3;

/// A node that is not seen for so long, in seconds, has a gap in its line.
const GAP: f64 = 1.5;

const INK: RGBColor = RGBColor(40, 44, 52);
const FAINT: RGBColor = RGBColor(200, 204, 210);
const DEATH: RGBColor = RGBColor(190, 30, 45);

/// The diagram, as SVG.
pub fn plot(record: &Record) -> String {
    let mut svg = String::new();
    let drawn = draw(record, &SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area());
    // Text is drawn into memory, and no number here is out of range.
    drawn.expect("a drawing into memory does not fail");
    svg
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(record: &Record, area: &Area<'_>) -> Drawn {
    area.fill(&WHITE)?;
    let end = record.samples.last().map_or(1.0, |sample| sample.at).max(record.seconds).max(1.0) * 1.02;
    let captions = place_captions(record, end);
    let rows = captions.iter().map(|(row, ..)| row + 1).max().unwrap_or(0);
    let title = ("sans-serif", 20).into_font().color(&INK);
    area.draw(&Text::new(format!("{}: {}", record.scenario, record.about), (20, 14), title))?;
    let (top, right) = (TITLE + ROW * rows as i32, NAMES);
    let mut chart = ChartBuilder::on(area)
        .margin_top(top)
        .margin_right(right)
        .margin_left(10)
        .margin_bottom(8)
        .x_label_area_size(40)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..end, 0.0..100.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT.mix(0.5))
        .axis_style(INK)
        .x_desc("seconds")
        .y_desc("% of the image held")
        .x_label_formatter(&|second| format!("{second}"))
        .y_label_formatter(&|percent| format!("{percent:.0}"))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .draw()?;
    if let Some(ideal) = record.ideal_seconds.filter(|ideal| *ideal < end) {
        let line = [(ideal, 0.0), (ideal, 100.0)];
        chart.draw_series(DashedLineSeries::new(line, 2, 4, INK.mix(0.6).into()))?;
        let style = ("sans-serif", 13).into_font().color(&INK);
        chart.draw_series([Text::new("S/B", (ideal + 0.004 * end, 4.0), style)])?;
    }
    for (_, at, _, is_end) in &captions {
        let colour = if *is_end { DEATH } else { INK };
        chart.draw_series([PathElement::new(vec![(*at, 0.0), (*at, 100.0)], colour.mix(0.35))])?;
    }
    let order = by_finish(record);
    for (rank, node) in order.iter().enumerate() {
        let colour = colour(rank, order.len());
        for line in lines(record, node) {
            chart.draw_series([PathElement::new(line, colour.stroke_width(2))])?;
        }
        for event in record.events.iter().filter(|event| fate(record, &node.node, event.at) == Fate::Gone) {
            if event.nodes.contains(&node.node) {
                let cross = Cross::new((event.at, share(record, node, event.at)), 6, DEATH.stroke_width(3));
                chart.draw_series([cross])?;
            }
        }
    }
    let axis = chart.plotting_area().get_x_axis_pixel_range();
    let x_of = |at: f64| axis.start + (f64::from(axis.end - axis.start) * at / end) as i32;
    for (row, at, text, is_end) in &captions {
        let style = ("sans-serif", 12).into_font().color(if *is_end { &DEATH } else { &INK });
        area.draw(&Text::new(text.clone(), (x_of(*at) - 2, TITLE - 4 + ROW * *row as i32), style))?;
    }
    names(record, &order, area, top)
}

/// Under which caption, in which row above the diagram, at which time each event stands, and whether it is somebody's end.
fn place_captions(record: &Record, end: f64) -> Vec<(usize, f64, String, bool)> {
    let pixels = f64::from(WIDTH as i32 - NAMES - 60) / end;
    let mut free_from = [f64::MIN; MOST_ROWS];
    let place = |event: &crate::lab::record::Happening| {
        let text = caption(event);
        let row = free_from.iter().position(|free| *free <= event.at).unwrap_or(MOST_ROWS - 1);
        free_from[row] = event.at + (text.chars().count() as f64 * LETTER + 8.0) / pixels;
        let is_end = ["kill", "leave", "freeze"].iter().any(|verb| event.what.starts_with(verb));
        (row, event.at, text, is_end)
    };
    record.events.iter().map(place).collect()
}

/// The nodes, those first that were done first.
fn by_finish(record: &Record) -> Vec<&NodeRecord> {
    let mut nodes: Vec<&NodeRecord> = record.nodes.iter().filter(|node| node.asked.is_some()).collect();
    nodes.sort_by(|a, b| a.finished.unwrap_or(f64::MAX).total_cmp(&b.finished.unwrap_or(f64::MAX)));
    nodes
}

/// From dark to light blue and green, which also those can tell apart who see no red.
fn colour(rank: usize, of: usize) -> RGBColor {
    const STOPS: [(f64, f64, f64); 4] =
        [(68.0, 1.0, 84.0), (49.0, 104.0, 142.0), (53.0, 183.0, 121.0), (200.0, 190.0, 20.0)];
    let place = rank as f64 / (of.max(2) - 1) as f64 * (STOPS.len() - 1) as f64;
    let from = (place as usize).min(STOPS.len() - 2);
    let (a, b, share) = (STOPS[from], STOPS[from + 1], place - from as f64);
    let mix = |a: f64, b: f64| (a + (b - a) * share) as u8;
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// What a node held at each look, in percent; a line for each stretch in which it was seen.
fn lines(record: &Record, node: &NodeRecord) -> Vec<Vec<(f64, f64)>> {
    let percent = |held: u64| (100.0 * held as f64 / record.image_bytes as f64).min(100.0);
    let mut lines: Vec<Vec<(f64, f64)>> = Vec::new();
    let seen =
        record.samples.iter().filter_map(|sample| Some((sample.at, percent(*sample.held.get(&node.node)?))));
    let done = node.finished.map(|finished| (finished, 100.0));
    for point in seen.filter(|(at, _)| node.finished.is_none_or(|finished| *at < finished)).chain(done) {
        match lines.last_mut() {
            Some(line) if line.last().is_some_and(|last| point.0 - last.0 < GAP) => line.push(point),
            _ => lines.push(vec![point]),
        }
    }
    lines
}

/// How far a node was, in percent.
fn share(record: &Record, node: &NodeRecord, at: f64) -> f64 {
    let before = |line: &Vec<(f64, f64)>| line.iter().rfind(|(seen, _)| *seen <= at).map(|(_, share)| *share);
    lines(record, node).iter().rev().find_map(before).unwrap_or(0.0)
}

/// The nodes in the right margin, in the order in which they were done.
fn names(record: &Record, order: &[&NodeRecord], area: &Area<'_>, top: i32) -> Drawn {
    let step = ((HEIGHT as i32 - top - 60) / (order.len().max(1) as i32)).clamp(9, 20);
    let x = WIDTH as i32 - NAMES + 16;
    for (rank, node) in order.iter().enumerate() {
        let y = top + 4 + step * rank as i32;
        let swatch = [(x, y), (x + 18, y)];
        area.draw(&PathElement::new(swatch, colour(rank, order.len()).stroke_width(4)))?;
        let end = match node.finished {
            Some(finished) => format!("{}  {finished:.2} s", node.node),
            None if fate(record, &node.node, f64::MAX) == Fate::Gone => format!("{}  gone", node.node),
            None => format!("{}  not done", node.node),
        };
        let font = ("sans-serif", step.min(13)).into_font();
        let style = font.color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(end, (x + 26, y), style))?;
    }
    Ok(())
}
