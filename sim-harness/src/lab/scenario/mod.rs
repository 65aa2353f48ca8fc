//! Scenarios: who exists, which image, what happens when, and what has to hold in the end.
//!
//! A scenario is a small TOML file, see [`mod@file`]; the main ones are built in. Pure: playing one is [`super::play`]'s business.

pub mod file;
pub mod words;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::words::{Moment, Who};
use super::netns::Link;

/// The scenarios that come with the lab, by name.
const LIBRARY: &[(&str, &str)] = &[
    ("burst", include_str!("../../../scenarios/burst.toml")),
    ("burst-16", include_str!("../../../scenarios/burst-16.toml")),
    ("cold-join", include_str!("../../../scenarios/cold-join.toml")),
    ("rolling-churn", include_str!("../../../scenarios/rolling-churn.toml")),
    ("root-dies", include_str!("../../../scenarios/root-dies.toml")),
    ("root-restarts", include_str!("../../../scenarios/root-restarts.toml")),
    ("partition-heal", include_str!("../../../scenarios/partition-heal.toml")),
    ("slow-node", include_str!("../../../scenarios/slow-node.toml")),
    ("origin-outage", include_str!("../../../scenarios/origin-outage.toml")),
    ("two-zones", include_str!("../../../scenarios/two-zones.toml")),
    ("disk-full", include_str!("../../../scenarios/disk-full.toml")),
    ("pipeline", include_str!("../../../scenarios/pipeline.toml")),
];

/// The names and texts of the scenarios that come with the lab.
pub fn library() -> impl Iterator<Item = (&'static str, &'static str)> {
    LIBRARY.iter().copied()
}

/// The scenario of that name, or in the file at that path.
///
/// # Errors
/// When there is neither, or the file is wrong; the error says where and why.
pub fn find(name: &str) -> Result<Scenario> {
    if let Some((name, text)) = library().find(|(known, _)| *known == name) {
        return file::read(name, text);
    }
    let path = std::path::Path::new(name);
    if path.extension().is_none_or(|extension| extension != "toml") {
        let known: Vec<&str> = library().map(|(name, _)| name).collect();
        bail!("no scenario is called {name:?}; there are {}, and files that end in .toml", known.join(", "));
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let stem = path.file_stem().map_or_else(|| name.into(), |stem| stem.to_string_lossy());
    file::read(&stem, &text).with_context(|| format!("{name} is no scenario"))
}

/// A scenario, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// What it is about, in a sentence.
    pub about: String,
    /// The image that everybody pulls.
    pub image: ImagePlan,
    /// The registry's link.
    pub origin: Link,
    /// Zones besides the backbone, where the registry stands.
    pub zones: Vec<ZonePlan>,
    /// Nodes alike, group by group, at least one; they are called `n1`, `n2`, … through all groups.
    pub groups: Vec<Group>,
    /// What happens, in the order in which it is written.
    pub events: Vec<Event>,
    /// What has to hold.
    pub bounds: Bounds,
}

impl Scenario {
    /// How many nodes there are at the start.
    pub fn node_count(&self) -> usize {
        self.groups.iter().map(|group| group.count).sum()
    }

    /// The group that a node belongs to, by its index; nodes that join later are like those of the first group.
    pub fn group_of(&self, node: usize) -> &Group {
        let mut before = 0;
        let group = self.groups.iter().find(|group| {
            before += group.count;
            node < before
        });
        group.unwrap_or(&self.groups[0])
    }

    /// The rate at which an ordinary node, one of the first group, can receive what comes from the registry, in bytes per second.
    pub fn ordinary_rate(&self) -> Option<u64> {
        let zone =
            self.groups[0].zone.as_ref().and_then(|name| self.zones.iter().find(|zone| zone.name == *name));
        let links = [self.origin.up, self.groups[0].link.down, zone.and_then(|zone| zone.link.down)];
        links.into_iter().flatten().map(|rate| rate.bytes_per_second()).min()
    }

    /// Whether any link is to delay what passes it, now or later.
    pub fn has_delays(&self) -> bool {
        let shaped = self.events.iter().filter_map(|event| match &event.action {
            Action::Shape(_, link) | Action::ShapeZone(_, link) => Some(link),
            _ => None,
        });
        let links =
            self.groups.iter().map(|group| &group.link).chain(self.zones.iter().map(|zone| &zone.link));
        links.chain([&self.origin]).chain(shaped).any(Link::has_delay)
    }
}

/// Which image is pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImagePlan {
    /// Layers of noise, of so many bytes each.
    Noise(Vec<u64>),
    /// A real one, of Debian packages in gzip and zstd layers: some 220 MB.
    Debian,
}

/// A zone and the link that joins it to the backbone.
#[derive(Debug, Clone, PartialEq)]
pub struct ZonePlan {
    /// Its name.
    pub name: String,
    /// Up is towards the backbone.
    pub link: Link,
}

/// Nodes alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// How many.
    pub count: usize,
    /// Where they stand, if not on the backbone.
    pub zone: Option<String>,
    /// The link of each.
    pub link: Link,
    /// The size of the disk of each, if it is small.
    pub disk: Option<u64>,
}

/// Something that happens, once or again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When it happens first.
    pub at: Moment,
    /// What.
    pub action: Action,
    /// How long after that it happens again.
    pub every: Duration,
    /// How often it happens in all.
    pub times: u32,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// These nodes are asked for the image.
    Pull(Vec<Who>),
    /// So many new nodes start, and are asked for the image as soon as they are ready.
    Join(usize),
    /// SIGKILL.
    Kill(Vec<Who>),
    /// SIGSTOP.
    Freeze(Vec<Who>),
    /// SIGCONT.
    Thaw(Vec<Who>),
    /// Started again with the data that they had, and asked again for what they were asked for.
    Restart(Vec<Who>),
    /// SIGTERM: they say goodbye.
    Leave(Vec<Who>),
    /// Nothing passes any more between the ones and the others.
    Cut(Vec<Who>, Vec<Who>),
    /// All cuts are mended.
    Heal,
    /// The registry stops, and what it was sending breaks off.
    OriginDown,
    /// The registry starts again.
    OriginUp,
    /// These have another link from now on.
    Shape(Vec<Who>, Link),
    /// The zone has another link from now on.
    ShapeZone(String, Link),
    /// Their disks are filled by somebody else.
    Fill(Vec<Who>),
    /// What filled their disks is removed.
    Free(Vec<Who>),
}

/// What has to hold in the end, besides that every live node holds every blob that it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// How long the whole may take.
    pub limit: Duration,
    /// The most that may leave the registry, in images.
    pub origin_egress: f64,
    /// The most that may pass the link of any zone, each way, in images.
    pub zone_crossing: Option<f64>,
    /// The longest until all have the image, over the physical limit.
    pub time_to_all: Option<f64>,
    /// The most that the last one may take, over what the first one took.
    pub spread: Option<f64>,
    /// The most memory that a node may have, in bytes.
    pub memory: u64,
    /// What lines of level error may contain.
    pub expected_errors: Vec<String>,
}
