//! What a scenario looks like as a file, and what is checked before it is played. Pure.
//!
//! ```toml
//! about = "Eight nodes pull one image at the same moment; then the root dies."
//! image = ["48 MiB", "12 MiB", "4 MiB"]       # layers of noise; or "debian"
//! origin = { rate = "100 Mbit/s" }            # also up, down, delay, jitter, loss
//!
//! [[zone]]                                    # as many as one likes; the registry stands outside
//! name = "east"
//! link = { rate = "20 Mbit/s", delay = "20 ms" }
//!
//! [[nodes]]                                   # n1 to n6
//! count = 6
//! link = { rate = "100 Mbit/s" }
//!
//! [[nodes]]                                   # n7 and n8
//! count = 2
//! zone = "east"
//! link = { up = "100 Mbit/s", down = "100 Mbit/s", loss = "0.1%" }
//! disk = "300 MiB"                            # needed by `fill`
//!
//! [[event]]
//! pull = ["all"]                              # at = "0 s" when nothing else is said
//!
//! [[event]]
//! at = "50%"                                  # or "3 s", "50% + 3 s"
//! kill = ["root"]
//!
//! [[event]]
//! at = "1 s"
//! every = "500 ms"                            # and again
//! times = 4                                   # so often in all
//! pull = ["next"]
//!
//! [bounds]
//! limit = "2 min"
//! origin-egress = 1.05                        # images
//! time-to-all = 2.3                           # over image size / rate of the first nodes
//! ```

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::words::{Moment, Share, Size, Span, Speed, Who};
use super::{Action, Bounds, Event, Group, ImagePlan, Scenario, ZonePlan};
use crate::lab::netns::Link;

/// The most nodes that a scenario may have: each is a process with its own network.
const MAX_NODES: usize = 200;

/// Reads a scenario.
///
/// # Errors
/// When the text is no TOML, has a key or a word that there is not, or makes no sense as a whole.
pub fn read(name: &str, text: &str) -> Result<Scenario> {
    let file: File = toml::from_str(text)?;
    let scenario = Scenario {
        name: name.to_owned(),
        about: file.about,
        image: file.image.checked()?,
        origin: file.origin.checked().context("origin")?,
        zones: file.zone.into_iter().map(ZoneEntry::checked).collect::<Result<_>>()?,
        groups: file.nodes.into_iter().map(GroupEntry::checked).collect::<Result<_>>()?,
        events: (1..)
            .zip(file.event)
            .map(|(number, event)| event.checked().with_context(|| format!("event {number}")))
            .collect::<Result<_>>()?,
        bounds: file.bounds.checked(),
    };
    check(&scenario)?;
    Ok(scenario)
}

/// What can only be told of the whole.
fn check(scenario: &Scenario) -> Result<()> {
    let nodes = scenario.node_count();
    ensure!(nodes > 0, "there are no nodes; add `[[nodes]]` with a count");
    ensure!(nodes <= MAX_NODES, "there are {nodes} nodes; at most {MAX_NODES} can be played");
    ensure!(!scenario.events.is_empty(), "nothing happens; add `[[event]]` with `pull = [\"all\"]`");
    let knows = |zone: &str| scenario.zones.iter().any(|known| known.name == zone);
    for zone in scenario.groups.iter().filter_map(|group| group.zone.as_ref()) {
        ensure!(knows(zone), "nodes stand in zone {zone:?}, and there is no such `[[zone]]`");
    }
    let joining: usize = scenario
        .events
        .iter()
        .map(|event| if let Action::Join(count) = event.action { count * event.times as usize } else { 0 })
        .sum();
    for (number, event) in (1..).zip(&scenario.events) {
        for who in event.action.who() {
            let complaint = match who {
                Who::Zone(zone) if !knows(zone) => Some(format!("there is no zone {zone:?}")),
                Who::Numbers(_, last) if *last > nodes + joining => Some(format!("there is no n{last}")),
                Who::Origin if !matches!(event.action, Action::Cut(..) | Action::Shape(..)) => {
                    Some("the origin is no node; use `origin = \"down\"` or `\"up\"`".to_owned())
                }
                _ => None,
            };
            if let Some(complaint) = complaint {
                bail!("event {number}: {complaint}");
            }
        }
        if matches!(event.action, Action::Fill(_) | Action::Free(_)) {
            ensure!(
                scenario.groups.iter().any(|group| group.disk.is_some()),
                "event {number}: no node has a disk of its own to be filled; give `[[nodes]]` a `disk = \"300 MiB\"`"
            );
        }
    }
    Ok(())
}

impl Action {
    /// All who are meant.
    fn who(&self) -> Vec<&Who> {
        match self {
            Self::Pull(who)
            | Self::Kill(who)
            | Self::Freeze(who)
            | Self::Thaw(who)
            | Self::Restart(who)
            | Self::Leave(who)
            | Self::Shape(who, _)
            | Self::Fill(who)
            | Self::Free(who) => who.iter().collect(),
            Self::Cut(some, others) => some.iter().chain(others).collect(),
            Self::Join(_) | Self::Heal | Self::OriginDown | Self::OriginUp | Self::ShapeZone(..) => {
                Vec::new()
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    about: String,
    image: ImageEntry,
    #[serde(default)]
    origin: LinkEntry,
    #[serde(default)]
    zone: Vec<ZoneEntry>,
    #[serde(default)]
    nodes: Vec<GroupEntry>,
    #[serde(default)]
    event: Vec<EventEntry>,
    #[serde(default)]
    bounds: BoundsEntry,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "the image must be \"debian\", or a list of layers like [\"48 MiB\", \"16 MiB\"]"
)]
enum ImageEntry {
    Layers(Vec<Size>),
    Name(String),
}

impl ImageEntry {
    fn checked(self) -> Result<ImagePlan> {
        match self {
            Self::Layers(layers) if !layers.is_empty() => {
                Ok(ImagePlan::Noise(layers.into_iter().map(|Size(bytes)| bytes).collect()))
            }
            Self::Layers(_) => bail!("the image has no layers"),
            Self::Name(name) if name == "debian" => Ok(ImagePlan::Debian),
            Self::Name(name) => {
                bail!("there is no image {name:?}; there is \"debian\", or give a list of layers")
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkEntry {
    /// Both ways.
    rate: Option<Speed>,
    up: Option<Speed>,
    down: Option<Speed>,
    #[serde(default)]
    delay: Span,
    #[serde(default)]
    jitter: Span,
    #[serde(default)]
    loss: Share,
}

impl LinkEntry {
    fn checked(self) -> Result<Link> {
        let either = self.up.or(self.down).is_some();
        ensure!(!(self.rate.is_some() && either), "a link has either a rate, or one up and one down");
        ensure!(self.jitter.0 <= self.delay.0, "jitter cannot be more than the delay that it changes");
        let [up, down] = [self.up, self.down].map(|way| way.or(self.rate).map(|Speed(rate)| rate));
        Ok(Link { up, down, delay: self.delay.0, jitter: self.jitter.0, loss: self.loss.0 })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneEntry {
    name: String,
    #[serde(default)]
    link: LinkEntry,
}

impl ZoneEntry {
    fn checked(self) -> Result<ZonePlan> {
        let link = self.link.checked().with_context(|| format!("zone {:?}", self.name))?;
        Ok(ZonePlan { name: self.name, link })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupEntry {
    count: usize,
    zone: Option<String>,
    #[serde(default)]
    link: LinkEntry,
    disk: Option<Size>,
}

impl GroupEntry {
    fn checked(self) -> Result<Group> {
        let link = self.link.checked().context("nodes")?;
        Ok(Group { count: self.count, zone: self.zone, link, disk: self.disk.map(|Size(bytes)| bytes) })
    }
}

/// When, and one thing that happens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventEntry {
    #[serde(default)]
    at: Moment,
    every: Option<Span>,
    times: Option<u32>,
    pull: Option<Vec<Who>>,
    join: Option<usize>,
    kill: Option<Vec<Who>>,
    freeze: Option<Vec<Who>>,
    thaw: Option<Vec<Who>>,
    restart: Option<Vec<Who>>,
    leave: Option<Vec<Who>>,
    cut: Option<[Vec<Who>; 2]>,
    heal: Option<Everything>,
    origin: Option<UpOrDown>,
    shape: Option<Vec<Who>>,
    shape_zone: Option<String>,
    link: Option<LinkEntry>,
    fill: Option<Vec<Who>>,
    free: Option<Vec<Who>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Everything {
    All,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum UpOrDown {
    Up,
    Down,
}

impl EventEntry {
    fn checked(self) -> Result<Event> {
        let link = self.link.map(LinkEntry::checked).transpose()?;
        let has_link = link.is_some();
        let link = || link.context("say how the link is to be, with `link = { … }`");
        let shape = self.shape.map(|who| anyhow::Ok(Action::Shape(who, link()?))).transpose()?;
        let shape_zone =
            self.shape_zone.map(|zone| anyhow::Ok(Action::ShapeZone(zone, link()?))).transpose()?;
        ensure!(
            !has_link || shape.is_some() || shape_zone.is_some(),
            "`link` goes with `shape` or `shape_zone`"
        );
        let actions = [
            self.pull.map(Action::Pull),
            self.join.map(Action::Join),
            self.kill.map(Action::Kill),
            self.freeze.map(Action::Freeze),
            self.thaw.map(Action::Thaw),
            self.restart.map(Action::Restart),
            self.leave.map(Action::Leave),
            self.cut.map(|[some, others]| Action::Cut(some, others)),
            self.heal.map(|Everything::All| Action::Heal),
            self.origin.map(|origin| match origin {
                UpOrDown::Up => Action::OriginUp,
                UpOrDown::Down => Action::OriginDown,
            }),
            shape,
            shape_zone,
            self.fill.map(Action::Fill),
            self.free.map(Action::Free),
        ];
        let mut actions = actions.into_iter().flatten();
        let action = actions.next().context("nothing happens; say what, like `pull = [\"all\"]`")?;
        ensure!(actions.next().is_none(), "two things happen; make it two events");
        let times = self.times.unwrap_or(1);
        ensure!(times == 1 || self.every.is_some(), "`times` needs to know `every` when");
        ensure!(times > 0 && (self.every.is_none() || self.times.is_some()), "say how many `times`");
        Ok(Event { at: self.at, action, every: self.every.unwrap_or_default().0, times })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct BoundsEntry {
    limit: Option<Span>,
    origin_egress: Option<f64>,
    zone_crossing: Option<f64>,
    time_to_all: Option<f64>,
    spread: Option<f64>,
    memory: Option<Size>,
    #[serde(default)]
    expected_errors: Vec<String>,
}

impl BoundsEntry {
    fn checked(self) -> Bounds {
        let Span(limit) = self.limit.unwrap_or(Span(std::time::Duration::from_secs(120)));
        Bounds {
            limit,
            origin_egress: self.origin_egress.unwrap_or(1.05),
            zone_crossing: self.zone_crossing,
            time_to_all: self.time_to_all,
            spread: self.spread,
            memory: self.memory.map_or(128 << 20, |Size(bytes)| bytes),
            expected_errors: self.expected_errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::library;
    use super::*;
    use crate::lab::netns::Rate;

    /// The example on top of this file, as users read it.
    fn example() -> String {
        let lines = include_str!("file.rs").lines().map_while(|line| line.strip_prefix("//!"));
        let fence = |line: &&str| !line.trim().starts_with("```");
        let example = lines.skip_while(fence).skip(1).take_while(fence);
        example.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_is_read_as_it_is_meant() {
        let scenario = read("example", &example()).unwrap();
        assert_eq!(scenario.node_count(), 8);
        assert_eq!(scenario.image, ImagePlan::Noise(vec![48 << 20, 12 << 20, 4 << 20]));
        assert_eq!(scenario.ordinary_rate(), Some(12_500_000));
        assert!(scenario.has_delays());
        let last = scenario.group_of(7);
        assert_eq!((last.zone.as_deref(), last.disk, last.link.loss), (Some("east"), Some(300 << 20), 0.001));
        assert_eq!(
            (scenario.group_of(0).link.up, scenario.group_of(99).zone.as_ref()),
            (Some(Rate::mbit(100)), None)
        );
        assert_eq!(scenario.events[1].action, Action::Kill(vec![Who::Root]));
        assert_eq!(scenario.events[1].at.progress, Some(0.5));
        assert_eq!((scenario.events[2].every, scenario.events[2].times), (Duration::from_millis(500), 4));
        assert_eq!(scenario.bounds.time_to_all, Some(2.3));
    }

    #[test]
    fn what_comes_with_the_lab_is_right() {
        for (name, text) in library() {
            let scenario = read(name, text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert!(scenario.about.ends_with('.'), "{name}");
        }
    }

    #[test]
    fn mistakes_are_told_with_the_way_out() {
        let good = "about = \"x.\"\nimage = [\"1 MiB\"]\n[[nodes]]\ncount = 2\n[[event]]\npull = [\"all\"]\n";
        read("good", good).unwrap();
        let rows = [
            ("count = 2", "count = 0", "no nodes"),
            ("count = 2", "count = 2000", "at most 200"),
            ("count = 2", "count = 2\nzone = \"west\"", "no such `[[zone]]`"),
            ("count = 2", "cuont = 2", "unknown field `cuont`"),
            ("count = 2", "count = 2\nlink = { rate = \"fast\" }", "100 Mbit/s"),
            ("count = 2", "count = 2\nlink = { rate = \"1 Mbit/s\", up = \"1 Mbit/s\" }", "either a rate"),
            ("count = 2", "count = 2\nlink = { jitter = \"1 ms\" }", "jitter"),
            ("[\"1 MiB\"]", "[]", "no layers"),
            ("[\"1 MiB\"]", "\"alpine\"", "\"debian\""),
            ("pull = [\"all\"]", "", "say what"),
            ("pull = [\"all\"]", "pull = [\"all\"]\nkill = [\"n1\"]", "two events"),
            ("pull = [\"all\"]", "pull = [\"n3\"]", "event 1: there is no n3"),
            ("pull = [\"all\"]", "kill = [\"zone east\"]", "no zone \"east\""),
            ("pull = [\"all\"]", "kill = [\"origin\"]", "origin = \"down\""),
            ("pull = [\"all\"]", "fill = [\"n1\"]", "disk = \"300 MiB\""),
            ("pull = [\"all\"]", "shape = [\"n1\"]", "link = {"),
            ("pull = [\"all\"]", "pull = [\"all\"]\ntimes = 3", "every"),
            ("pull = [\"all\"]", "pull = [\"all\"]\nevery = \"1 s\"", "times"),
            ("pull = [\"all\"]", "pull = [\"all\"]\nat = \"soon\"", "50% + 3 s"),
            ("[[event]]\npull = [\"all\"]\n", "", "nothing happens"),
        ];
        for (right, wrong, complaint) in rows {
            let error = format!("{:#}", read("bad", &good.replace(right, wrong)).unwrap_err());
            assert!(error.contains(complaint), "{wrong:?}: {error}");
        }
    }
}
