//! The tree as it really carried data, in steps. Pure.
//!
//! Each frame shows what was delivered since the one before: an arrow for each pair between which it was more than a trickle, as wide as its
//! rate. Nodes stand where the heaviest of their sources, over the whole run, puts them below the registry.

use std::collections::BTreeMap;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Fate, caption, fate};
use crate::lab::record::{ORIGIN, Record};

/// A frame, and how many there are at most, and in a row.
const FRAME: (i32, i32) = (370, 330);
const FRAMES: usize = 9;
const IN_A_ROW: usize = 3;
const TITLE: i32 = 50;
/// Room in a frame above, below and beside the nodes.
const HEAD: i32 = 62;
const FOOT: i32 = 34;
const SIDE: i32 = 30;

/// The widest arrow.
const WIDEST: f64 = 9.0;
/// Less than this share of the widest is no arrow: gossip, and questions.
const TRICKLE: f64 = 0.03;

const INK: RGBColor = RGBColor(40, 44, 52);
const FAINT: RGBColor = RGBColor(222, 225, 230);
const FLOW: RGBColor = RGBColor(31, 119, 180);
const FULL: RGBColor = RGBColor(120, 190, 150);
const DEATH: RGBColor = RGBColor(190, 30, 45);
/// Behind the nodes of a zone.
const ZONES: [RGBColor; 4] =
    [RGBColor(255, 236, 200), RGBColor(226, 218, 245), RGBColor(210, 238, 245), RGBColor(250, 220, 226)];

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// The film strip, as SVG.
pub fn film(record: &Record) -> String {
    let cuts = cuts(record);
    let (columns, rows) = (cuts.len().clamp(1, IN_A_ROW) as i32, cuts.len().div_ceil(IN_A_ROW).max(1) as i32);
    let size = ((columns * FRAME.0).max(2 * FRAME.0) as u32, (TITLE + rows * FRAME.1) as u32);
    let mut svg = String::new();
    let drawn = draw(record, &cuts, &SVGBackend::with_string(&mut svg, size).into_drawing_area());
    // Text is drawn into memory, and no number here is out of range.
    drawn.expect("a drawing into memory does not fail");
    svg
}

/// When each frame begins and ends.
fn cuts(record: &Record) -> Vec<(f64, f64)> {
    let Some(last) = record.samples.last() else { return Vec::new() };
    let frames = FRAMES.min(record.samples.len());
    let at = |frame: usize| last.at * frame as f64 / frames as f64;
    (0..frames).map(|frame| (at(frame), at(frame + 1))).collect()
}

fn draw(record: &Record, cuts: &[(f64, f64)], area: &Area<'_>) -> Drawn {
    area.fill(&WHITE)?;
    let title = ("sans-serif", 20).into_font().color(&INK);
    area.draw(&Text::new(format!("{}: {}", record.scenario, record.about), (20, 16), title))?;
    let places = places(record);
    let flows: Vec<_> = cuts.iter().map(|cut| flows(record, *cut)).collect();
    let most = flows.iter().flat_map(BTreeMap::values).fold(0.0, |most: f64, rate| most.max(*rate));
    for (index, (cut, flows)) in cuts.iter().zip(&flows).enumerate() {
        let (column, row) = ((index % IN_A_ROW) as i32, (index / IN_A_ROW) as i32);
        let corner = (column * FRAME.0, TITLE + row * FRAME.1);
        let frame = Frame { record, area, corner, places: &places };
        frame.draw(*cut, flows, most)?;
    }
    if cuts.is_empty() {
        let names: Vec<&str> = record.nodes.iter().map(|node| node.node.as_str()).collect();
        let style = ("sans-serif", 14).into_font().color(&INK);
        area.draw(&Text::new(format!("nothing was seen of {}", names.join(" ")), (20, TITLE), style))?;
    }
    Ok(())
}

/// Bytes per second between each two, between two moments.
fn flows(record: &Record, (from, to): (f64, f64)) -> BTreeMap<(&str, &str), f64> {
    let mut flows = BTreeMap::new();
    for sample in record.samples.iter().filter(|sample| sample.at > from && sample.at <= to) {
        for flow in &sample.flows {
            *flows.entry((flow.from.as_str(), flow.to.as_str())).or_default() +=
                flow.bytes as f64 / (to - from);
        }
    }
    flows
}

/// Where each node and the registry stand, as shares of the width and the height.
fn places(record: &Record) -> BTreeMap<&str, (f64, f64)> {
    let heaviest = |node: &crate::lab::record::NodeRecord| {
        node.received.iter().max_by_key(|(_, bytes)| **bytes).map(|(from, _)| from.clone())
    };
    let sources: BTreeMap<&str, String> = record
        .nodes
        .iter()
        .map(|node| (node.node.as_str(), heaviest(node).unwrap_or_else(|| ORIGIN.to_owned())))
        .collect();
    let depth = |node: &str| {
        let mut depth = 1;
        let mut above = sources.get(node);
        // Two that have had most from each other, one after the other, stand in a circle.
        while let Some(next) = above.filter(|next| *next != ORIGIN && depth <= sources.len()) {
            (depth, above) = (depth + 1, sources.get(next.as_str()));
        }
        if depth > sources.len() { 1 } else { depth }
    };
    let depths: BTreeMap<&str, usize> = sources.keys().map(|node| (*node, depth(node))).collect();
    let deepest = depths.values().copied().max().unwrap_or(1);
    let mut columns = BTreeMap::new();
    let mut leaves = 0.0;
    for node in depths.iter().filter(|(_, depth)| **depth == 1).map(|(node, _)| *node) {
        spread(node, &sources, &depths, &mut leaves, &mut columns);
    }
    let place = |node: &str, column: f64| {
        ((column + 0.5) / f64::max(leaves, 1.0), depths[node] as f64 / deepest as f64)
    };
    let mut places: BTreeMap<&str, (f64, f64)> =
        columns.iter().map(|(node, column)| (*node, place(node, *column))).collect();
    let roots: Vec<f64> =
        places.iter().filter(|(node, _)| depths[*node] == 1).map(|(_, place)| place.0).collect();
    let middle = roots.iter().sum::<f64>() / roots.len().max(1) as f64;
    places.insert(ORIGIN, (middle, 0.0));
    places
}

/// Gives a node the middle of its children's columns, and a column of its own if it has none.
fn spread<'a>(
    node: &'a str,
    sources: &BTreeMap<&'a str, String>,
    depths: &BTreeMap<&'a str, usize>,
    leaves: &mut f64,
    columns: &mut BTreeMap<&'a str, f64>,
) -> f64 {
    let below = |child: &&&'a str| sources[**child] == node && depths[**child] == depths[node] + 1;
    let children: Vec<&'a str> = sources.keys().filter(below).copied().collect();
    let column = if children.is_empty() {
        *leaves += 1.0;
        *leaves - 1.0
    } else {
        let placed: Vec<f64> =
            children.iter().map(|child| spread(child, sources, depths, leaves, columns)).collect();
        (placed[0] + placed[placed.len() - 1]) / 2.0
    };
    columns.insert(node, column);
    column
}

/// One frame being drawn.
struct Frame<'a, 'svg> {
    record: &'a Record,
    area: &'a Area<'svg>,
    corner: (i32, i32),
    places: &'a BTreeMap<&'a str, (f64, f64)>,
}

impl Frame<'_, '_> {
    fn draw(&self, (from, to): (f64, f64), flows: &BTreeMap<(&str, &str), f64>, most: f64) -> Drawn {
        let (left, top) = self.corner;
        let edge = [(left + 6, top + 4), (left + FRAME.0 - 6, top + FRAME.1 - 6)];
        self.area.draw(&Rectangle::new(edge, FAINT.stroke_width(1)))?;
        let time = ("sans-serif", 15).into_font().color(&INK);
        self.area.draw(&Text::new(format!("{from:.1} to {to:.1} s"), (left + 16, top + 12), time))?;
        let is_here = |at: f64| at > from && at <= to || (from == 0.0 && at <= 0.0);
        let events: Vec<String> =
            self.record.events.iter().filter(|event| is_here(event.at)).map(caption).collect();
        let small = ("sans-serif", 12).into_font().color(&INK);
        let events: String = events.join(", ").chars().take(58).collect();
        self.area.draw(&Text::new(events, (left + 16, top + 32), small))?;
        for ((source, sink), rate) in flows.iter().filter(|(_, rate)| **rate > TRICKLE * most) {
            self.arrow(source, sink, (WIDEST * rate / most).max(1.0))?;
        }
        self.registry()?;
        for node in &self.record.nodes {
            self.node(&node.node, node.zone.as_deref(), to)?;
        }
        Ok(())
    }

    /// The middle of a node, in pixels.
    fn middle(&self, name: &str) -> Option<(i32, i32)> {
        let (x, y) = self.places.get(name)?;
        let (width, height) = (f64::from(FRAME.0 - 2 * SIDE), f64::from(FRAME.1 - HEAD - FOOT));
        Some((self.corner.0 + SIDE + (x * width) as i32, self.corner.1 + HEAD + (y * height) as i32))
    }

    fn radius(&self) -> i32 {
        match self.places.len() {
            0..=12 => 14,
            13..=24 => 11,
            _ => 7,
        }
    }

    fn arrow(&self, from: &str, to: &str, width: f64) -> Drawn {
        let (Some(from), Some(to)) = (self.middle(from), self.middle(to)) else { return Ok(()) };
        let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
        let length = dx.hypot(dy).max(1.0);
        let (ux, uy) = (dx / length, dy / length);
        let radius = f64::from(self.radius()) + 2.0;
        let point = |along: f64, aside: f64| {
            let x = f64::from(from.0) + ux * along - uy * aside;
            let y = f64::from(from.1) + uy * along + ux * aside;
            (x.round() as i32, y.round() as i32)
        };
        let (start, end, half, head) = (radius, length - radius, width / 2.0, width / 2.0 + 4.0);
        let neck = end - 1.6 * head;
        let outline = vec![
            point(start, half),
            point(neck, half),
            point(neck, head),
            point(end, 0.0),
            point(neck, -head),
            point(neck, -half),
            point(start, -half),
        ];
        self.area.draw(&Polygon::new(outline, FLOW.mix(0.65).filled()))
    }

    fn registry(&self) -> Drawn {
        let Some((x, y)) = self.middle(ORIGIN) else { return Ok(()) };
        let half = self.radius();
        self.area.draw(&Rectangle::new(
            [(x - half - 10, y - half + 3), (x + half + 10, y + half - 3)],
            INK.filled(),
        ))?;
        let style = ("sans-serif", 11).into_font().color(&WHITE).pos(Pos::new(HPos::Center, VPos::Center));
        self.area.draw(&Text::new("registry", (x, y), style))
    }

    /// A glass that fills up; crossed out when the node is gone, hatched while it is frozen.
    fn node(&self, name: &str, zone: Option<&str>, at: f64) -> Drawn {
        let Some((x, y)) = self.middle(name) else { return Ok(()) };
        let radius = self.radius();
        let zone = zone.and_then(|zone| self.record.zones.iter().position(|known| known.zone == zone));
        if let Some(zone) = zone {
            self.area.draw(&Circle::new((x, y), radius + 6, ZONES[zone % ZONES.len()].filled()))?;
        }
        self.area.draw(&Circle::new((x, y), radius, WHITE.filled()))?;
        let share = self.share(name, at);
        if share > 0.0 {
            self.area.draw(&Polygon::new(filling((x, y), radius, share), FULL.filled()))?;
        }
        let fate = fate(self.record, name, at);
        let edge = if fate == Fate::Gone { DEATH } else { INK };
        self.area.draw(&Circle::new((x, y), radius, edge.stroke_width(1)))?;
        let style = ("sans-serif", if radius > 8 { 11 } else { 8 }).into_font();
        let style = style.color(&INK).pos(Pos::new(HPos::Center, VPos::Center));
        // Beside the cross, or else it could not be read.
        let below = if fate == Fate::Gone { radius + 9 } else { 0 };
        self.area.draw(&Text::new(name.to_owned(), (x, y + below), style))?;
        match fate {
            Fate::Runs => Ok(()),
            Fate::Gone => self.area.draw(&Cross::new((x, y), radius - 3, DEATH.stroke_width(3))),
            Fate::Frozen => (-1..=1).try_for_each(|line| {
                let aside = line * radius * 2 / 3;
                let stroke = [(x - radius + aside, y + radius), (x + radius + aside, y - radius)];
                self.area.draw(&PathElement::new(stroke, FLOW.stroke_width(1)))
            }),
        }
    }

    /// What a node held when it was last seen before a moment.
    fn share(&self, name: &str, at: f64) -> f64 {
        let node = self.record.nodes.iter().find(|node| node.node == name);
        if node.and_then(|node| node.finished).is_some_and(|finished| finished <= at) {
            return 1.0;
        }
        let seen =
            self.record.samples.iter().rfind(|sample| sample.at <= at && sample.held.contains_key(name));
        seen.map_or(0.0, |sample| sample.held[name] as f64 / self.record.image_bytes as f64).min(1.0)
    }
}

/// The part of a disc below a level.
fn filling((x, y): (i32, i32), radius: i32, share: f64) -> Vec<(i32, i32)> {
    const STEPS: i32 = 24;
    let radius = f64::from(radius);
    // The height of the level over the middle, and the angle at which it meets the rim.
    let half = (1.0 - 2.0 * share).clamp(-1.0, 1.0).asin();
    let (from, to) = (half, std::f64::consts::PI - half);
    let point = |step: i32| {
        let angle = from + (to - from) * f64::from(step) / f64::from(STEPS);
        (
            (f64::from(x) + radius * angle.cos()).round() as i32,
            (f64::from(y) + radius * angle.sin()).round() as i32,
        )
    };
    (0..=STEPS).map(point).collect()
}
