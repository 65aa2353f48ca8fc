//! Real container clients before real nodes: containerd, podman, buildah, skopeo and dockerd, as Debian has them.
//!
//! | | containerd | podman | buildah | skopeo | docker |
//! |---|---|---|---|---|---|
//! | how it names the origin | `?ns=` | path | path | path | default |
//! | what it keeps, and what is compared | blobs | layers unpacked | layers unpacked | blobs | layers unpacked |
//!
//! One test per behaviour, which every client goes through that has it; a failure names the client. The witnesses are
//! the registry's access log, what the node says of itself, and the bytes in the client's own storage, hashed. Programs
//! that go past their node are seen too: under the registry's name they find another process than the nodes do.

mod faults;
mod private;
mod pulls;
mod shapes;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faasnet_sim::lab::client::Function;
use faasnet_sim::lab::draft::{Compression, Draft};
use faasnet_sim::lab::fleet::Fleet;
use faasnet_sim::lab::image::Image;
use faasnet_sim::lab::netns::{Link, Rate};
use faasnet_sim::lab::process::wait_until;
use faasnet_sim::lab::registry::AccessLog;
use faasnet_sim::lab::runtime::{Kind, Runtime, Wanted};

/// A pull may take this long before it counts as stuck. Those that nothing disturbs take a second.
const PULL_LIMIT: Duration = Duration::from_secs(120);

/// How long the registry is made to need for an image when something is to happen half-way.
const SHAPED_TIME: Duration = Duration::from_secs(4);

/// Lets one client after the other do the same, and fails with all that went wrong.
fn each(kinds: &[Kind], mut act: impl FnMut(Kind) -> Result<()>) {
    let failed = |&kind: &Kind| act(kind).err().map(|error| format!("{kind}: {error:#}"));
    let failures: Vec<String> = kinds.iter().filter_map(failed).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// A place for an image that goes with the fleet.
fn place(fleet: &Fleet, title: &str) -> PathBuf {
    fleet.stage.network.directory().join("images").join(title)
}

/// A new image of about so many bytes in two layers, which is in the registry as `<title>/image:v1`.
fn publish(fleet: &Fleet, title: &str, bytes: u64) -> Result<Image> {
    let draft = Draft::new(&place(fleet, title))?.noise(bytes / 4, Compression::Gzip)?;
    let image = draft.noise(bytes - bytes / 4, Compression::None)?.finish()?;
    fleet.stage.registry.put(&image, &name(title))?;
    Ok(image)
}

/// What [`publish`] calls an image.
fn name(title: impl std::fmt::Display) -> String {
    format!("{title}/image:v1")
}

/// Pulls an image to the end and compares what is stored.
fn pull(runtime: &Runtime, wanted: &Wanted, image: &Image) -> Result<()> {
    runtime.pull(wanted)?.wait(PULL_LIMIT)?.success()?;
    runtime.stored(wanted)?.is(image)
}

/// What the registry is asked from a moment on.
struct Watch<'a> {
    fleet: &'a Fleet,
    origin: AccessLog,
    upstream: AccessLog,
}

impl<'a> Watch<'a> {
    fn start(fleet: &'a Fleet) -> Result<Self> {
        let (origin, upstream) = (fleet.stage.registry.access_log()?, fleet.upstream.access_log()?);
        Ok(Self { fleet, origin, upstream })
    }

    /// What nodes asked.
    fn by_nodes(&self) -> Result<AccessLog> {
        Ok(self.fleet.stage.registry.access_log()?.since(&self.origin))
    }

    /// What clients asked that went past their node.
    fn by_clients(&self) -> Result<AccessLog> {
        Ok(self.fleet.upstream.access_log()?.since(&self.upstream))
    }

    /// Insists that each blob of an image left the registry exactly once, to a node.
    fn took_once(&self, image: &Image) -> Result<()> {
        let log = self.by_nodes()?;
        let sent = log.bytes_by_blob();
        for blob in &image.blobs {
            let sent = sent.get(&blob.digest).copied().unwrap_or(0);
            let asked = || log.accesses.iter().filter(|access| access.path.contains(&blob.digest));
            ensure!(sent == blob.size, "{sent} B of {blob:?} were sent: {:?}", asked().collect::<Vec<_>>());
        }
        self.nobody_went_past()
    }

    /// Insists that clients asked for nothing but through their node.
    fn nobody_went_past(&self) -> Result<()> {
        let asked = self.by_clients()?.accesses;
        let asked: Vec<_> =
            asked.into_iter().filter(|access| !access.path.starts_with("/v2/?mark=")).collect();
        ensure!(asked.is_empty(), "a client went past its node: {asked:?}");
        Ok(())
    }

    /// Insists that nobody asked for any blob.
    fn no_blobs(&self) -> Result<()> {
        let asked = self.by_nodes()?.blob_requests();
        ensure!(asked == 0, "{asked} blobs were asked for");
        self.nobody_went_past()
    }
}

/// Lets the registry need [`SHAPED_TIME`] for an image.
fn slow_down(fleet: &Fleet, image: &Image) -> Result<()> {
    let stage = &fleet.stage;
    stage.network.shape(
        stage.registry.host(),
        &Link { up: Some(Rate::of(image.bytes(), SHAPED_TIME)), ..Link::default() },
    )
}

/// Undoes [`slow_down`].
fn speed_up(fleet: &Fleet) -> Result<()> {
    fleet.stage.network.shape(fleet.stage.registry.host(), &Link::default())
}

/// Waits until the first node holds a third of an image, and insists that it does not hold all of it yet.
fn wait_half_way(fleet: &Fleet, image: &Image) -> Result<()> {
    let held = wait_until("the node to hold a third", PULL_LIMIT, || {
        let held = function(fleet, 0, image)?.map_or(0, |function| function.held_bytes);
        Ok((3 * held >= image.bytes()).then_some(held))
    })?;
    ensure!(held < image.bytes(), "the node was done before it was seen half-way");
    Ok(())
}

/// Waits until a node holds an image and says so.
fn wait_ready(fleet: &Fleet, node: usize, image: &Image) -> Result<Function> {
    wait_until("the node to hold the image", PULL_LIMIT, || {
        Ok(function(fleet, node, image)?.filter(|function| function.state == "ready"))
    })
    .with_context(|| format!("on {}", fleet.stage.nodes[node].id()))
}

fn function(fleet: &Fleet, node: usize, image: &Image) -> Result<Option<Function>> {
    fleet.stage.nodes[node].ask().function_of(image)
}
