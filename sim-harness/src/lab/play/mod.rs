//! Playing a scenario: its world is built, its events happen when they are due, everybody is watched, and all is judged in the end.
//!
//! | module | owns |
//! |---|---|
//! | `cast` | the nodes: their processes, their pulls, who is meant by a word |
//! | `timeline` | which event is due |
//! | `watch` | looks at what each node holds |
//! | `account` | the record that comes of all that |
//! | `judge` | what had to hold |

mod account;
mod cast;
mod judge;
mod timeline;
mod watch;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::account::Account;
use self::cast::{Cast, State};
use self::judge::Findings;
use self::timeline::Timeline;
use self::watch::Watch;
use super::draft::{Compression, Draft};
use super::image::Image;
use super::netns::{Host, Network};
use super::process::BusyTime;
use super::record::{Happening, Record};
use super::scenario::words::Who;
use super::scenario::{Action, ImagePlan, Scenario};
use super::stage::Stage;

/// The pause between two turns of the run: how late an event may be.
const TURN: Duration = Duration::from_millis(20);

/// How often it is noted what flowed between whom.
const FLOW_PAUSE: Duration = Duration::from_millis(200);

/// What `fill` writes, and `free` removes, in the directory of a node.
const FILLER: &str = "filler";

/// Plays a scenario on this machine, which needs root. What is random in it comes from the seed. It is broken off, and everything
/// cleared away, soon after `interrupted` turns true.
///
/// # Errors
/// When the world cannot be built, an event cannot happen, or it was interrupted. That checks fail is no error, but in the record.
pub fn play(scenario: &Scenario, seed: u64, interrupted: &Arc<AtomicBool>) -> Result<Record> {
    let stage = Stage::on(Network::new()?, &scenario.name, scenario.node_count())?;
    let image = image(&scenario.image, &stage)?;
    let reference = stage.publish(&image)?;
    stage.say(&format!("starting {} nodes", scenario.node_count()));
    let mut cast = Cast::new(stage, scenario)?;
    cast.stage.network.shape(cast.stage.registry.host(), &scenario.origin)?;
    ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
    cast.begin(reference);
    let mut run = Run {
        watch: Watch::new(cast.start(), &image.manifest.digest),
        random: StdRng::seed_from_u64(seed),
        happenings: Vec::new(),
        flows: Vec::new(),
        cuts: Vec::new(),
        log_is_whole: true,
        scenario,
        image,
        cast,
    };
    let account = Account::begin(&run.cast)?;
    let busy = BusyTime::now()?;
    let unfinished = run.play(interrupted)?;
    let busy = BusyTime::now()?.since(&busy);
    run.finish(&account, busy, seed, unfinished)
}

fn image(plan: &ImagePlan, stage: &Stage) -> Result<Image> {
    match plan {
        ImagePlan::Debian => Image::debian(),
        ImagePlan::Noise(layers) => {
            let draft = Draft::new(&stage.network.directory().join("image"))?;
            layers.iter().try_fold(draft, |draft, bytes| draft.noise(*bytes, Compression::None))?.finish()
        }
    }
}

/// Bytes delivered so far, by sender and receiver, at one moment.
type Flows = (f64, BTreeMap<(Ipv4Addr, Ipv4Addr), u64>);

/// A scenario being played.
struct Run<'a> {
    scenario: &'a Scenario,
    image: Image,
    cast: Cast,
    watch: Watch,
    random: StdRng,
    happenings: Vec<Happening>,
    flows: Vec<Flows>,
    cuts: Vec<(Host, Host)>,
    log_is_whole: bool,
}

impl Run<'_> {
    /// Until everything has happened and every pull has ended; gives what had not when the time was up.
    fn play(&mut self, interrupted: &AtomicBool) -> Result<Vec<String>> {
        for node in &self.cast.stage.nodes {
            self.watch.add(node.id(), node.host());
        }
        let mut timeline = Timeline::new(&self.scenario.events);
        let mut next_flows = Instant::now();
        loop {
            ensure!(!interrupted.load(Ordering::Relaxed), "interrupted; everything was cleared away");
            self.cast.collect();
            if Instant::now() >= next_flows {
                self.note_flows()?;
                next_flows += FLOW_PAUSE;
            }
            for index in timeline.due(self.cast.now(), self.progress()) {
                let action = &self.scenario.events[index].action;
                self.act(action).with_context(|| format!("event {} cannot happen", index + 1))?;
            }
            if timeline.is_over() && self.cast.busy().is_empty() {
                self.note_flows()?;
                return Ok(Vec::new());
            }
            if self.cast.now() > self.scenario.bounds.limit.as_secs_f64() {
                let busy = self.cast.busy().into_iter().map(|node| format!("{node} is not done"));
                let never = timeline.pending().map(|index| format!("event {} never came", index + 1));
                return Ok(busy.chain(never).collect());
            }
            thread::sleep(TURN);
        }
    }

    fn note_flows(&mut self) -> Result<()> {
        self.flows.push((self.cast.now(), self.cast.stage.network.flows()?));
        Ok(())
    }

    /// The share of what all live nodes that were asked are to hold that they do.
    fn progress(&self) -> f64 {
        let nodes = self.cast.stage.nodes.iter().zip(&self.cast.parts);
        let asked = nodes.filter(|(_, part)| part.asked.is_some() && part.state == State::Running);
        let (mut held, mut wanted) = (0, 0);
        for (node, part) in asked {
            held += if part.finished.is_some() { self.image.bytes() } else { self.watch.held(node.id()) };
            wanted += self.image.bytes();
        }
        if wanted == 0 { 0.0 } else { held as f64 / wanted as f64 }
    }

    /// Lets something happen, and takes note of it.
    fn act(&mut self, action: &Action) -> Result<()> {
        let at = self.cast.now();
        let (verb, nodes) = match action {
            Action::Pull(who) => (
                "pull",
                self.each(who, |run, index| {
                    run.cast.pull(index);
                    Ok(())
                })?,
            ),
            Action::Kill(who) => ("kill", self.each(who, |run, index| run.cast.kill(index))?),
            Action::Leave(who) => ("leave", self.each(who, |run, index| run.cast.leave(index))?),
            Action::Restart(who) => ("restart", self.each(who, |run, index| run.cast.restart(index))?),
            Action::Freeze(who) => (
                "freeze",
                self.each(who, |run, index| {
                    run.cast.parts[index].state = State::Frozen;
                    run.cast.stage.nodes[index].freeze()
                })?,
            ),
            Action::Thaw(who) => (
                "thaw",
                self.each(who, |run, index| {
                    run.cast.parts[index].state = State::Running;
                    run.cast.stage.nodes[index].thaw()
                })?,
            ),
            Action::Fill(who) => ("fill the disk of", self.each(who, Run::fill)?),
            Action::Free(who) => ("free the disk of", self.each(who, Run::free)?),
            Action::Join(count) => ("join", self.join(*count)?),
            Action::Cut(some, others) => ("cut", self.cut(some, others)?),
            Action::Heal => ("heal", self.heal()?),
            Action::OriginDown => {
                self.log_is_whole = false;
                self.cast.stage.registry.stop()?;
                ("origin down", Vec::new())
            }
            Action::OriginUp => {
                self.cast.stage.registry.restart()?;
                ("origin up", Vec::new())
            }
            Action::Shape(who, link) => {
                let hosts = self.cast.hosts(who, &mut self.random)?;
                hosts.iter().try_for_each(|host| self.cast.stage.network.shape(host, link))?;
                ("change the link of", hosts.iter().map(|host| host.name().to_owned()).collect())
            }
            Action::ShapeZone(name, link) => {
                self.cast.stage.network.shape_zone(&self.cast.zone(name)?, link)?;
                ("change the link of zone", vec![name.clone()])
            }
        };
        let what = if nodes.is_empty() { verb.to_owned() } else { format!("{verb} {}", nodes.join(" ")) };
        self.cast.stage.say(&what);
        self.happenings.push(Happening { at, what, nodes });
        Ok(())
    }

    /// Does something to each of those who are meant, and names them.
    fn each(
        &mut self,
        who: &[Who],
        mut act: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<Vec<String>> {
        let meant = self.cast.who(who, &mut self.random)?;
        for index in &meant {
            act(self, *index)?;
        }
        Ok(self.cast.names(&meant))
    }

    fn join(&mut self, count: usize) -> Result<Vec<String>> {
        let mut joined = Vec::new();
        for _ in 0..count {
            let index = self.cast.add(&self.scenario.groups[0])?;
            let node = &self.cast.stage.nodes[index];
            self.watch.add(node.id(), node.host());
            self.cast.pull(index);
            joined.push(index);
        }
        Ok(self.cast.names(&joined))
    }

    fn cut(&mut self, some: &[Who], others: &[Who]) -> Result<Vec<String>> {
        let some = self.cast.hosts(some, &mut self.random)?;
        let others = self.cast.hosts(others, &mut self.random)?;
        for (one, other) in some.iter().flat_map(|one| others.iter().map(move |other| (one, other))) {
            self.cast.stage.network.cut(one, other)?;
            self.cuts.push((one.clone(), other.clone()));
        }
        let names = |hosts: &[Host]| hosts.iter().map(|host| host.name().to_owned()).collect::<Vec<_>>();
        Ok(names(&some).into_iter().chain(["from".to_owned()]).chain(names(&others)).collect())
    }

    fn heal(&mut self) -> Result<Vec<String>> {
        for (one, other) in std::mem::take(&mut self.cuts) {
            self.cast.stage.network.heal(&one, &other)?;
        }
        Ok(Vec::new())
    }

    fn fill(&mut self, index: usize) -> Result<()> {
        let node = &self.cast.stage.nodes[index];
        ensure!(self.scenario.group_of(index).disk.is_some(), "{} has no disk of its own", node.id());
        let filler = node.directory().join(FILLER);
        let mut file =
            std::fs::File::create(&filler).with_context(|| format!("cannot create {}", filler.display()))?;
        match std::io::copy(&mut std::io::repeat(0), &mut file) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
            outcome => outcome.map(drop).with_context(|| format!("cannot fill {}", filler.display())),
        }
    }

    fn free(&mut self, index: usize) -> Result<()> {
        let filler = self.cast.stage.nodes[index].directory().join(FILLER);
        std::fs::remove_file(&filler).with_context(|| format!("cannot remove {}", filler.display()))
    }

    /// Reads the disks, adds everything up, and judges it.
    fn finish(
        mut self,
        account: &Account,
        busy: BusyTime,
        seed: u64,
        unfinished: Vec<String>,
    ) -> Result<Record> {
        self.cast.stage.say("reading what every node holds");
        let mut findings = Findings { unfinished, log_is_whole: self.log_is_whole, ..Findings::default() };
        for index in 0..self.cast.parts.len() {
            if self.cast.parts[index].state == State::Running {
                self.cast.take_usage(index);
            }
            let part = &self.cast.parts[index];
            if part.asked.is_none() || part.state != State::Running {
                continue;
            }
            let node = &self.cast.stage.nodes[index];
            let wrong = match (&part.failed, node.verify_store(&self.image)) {
                (Some(failed), _) => Some(failed.clone()),
                (None, Err(error)) => Some(format!("{error:#}")),
                (None, Ok(())) => None,
            };
            findings.wrong.push((node.id().to_owned(), wrong));
        }
        let looks = self.watch.finish();
        let mut record = account.record(&self.cast, self.scenario, &self.image, looks, &self.flows)?;
        (record.seed, record.events, record.machine.busy) = (seed, self.happenings, busy.share());
        record.checks = judge::judge(&record, &self.scenario.bounds, &findings);
        Ok(record)
    }
}
