//! Pulls that nothing disturbs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use faasnet_sim::lab::draft::{Compression, Draft};
use faasnet_sim::lab::fleet::Fleet;
use faasnet_sim::lab::image::Image;
use faasnet_sim::lab::runtime::{Kind, Wanted};
use serde_json::json;

use super::{PULL_LIMIT, Watch, each, name, place, publish, pull, wait_ready};

/// A few blocks, so that a blob is streamed, and next to no time.
const SMALL: u64 = 3_000_000;

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn a_first_pull_takes_each_blob_from_the_origin_once() {
    let fleet = Fleet::new("first pull", 1).unwrap();
    each(&Kind::ALL, |kind| {
        // More layers than a node fetches at once, since clients read them all at once.
        let draft = Draft::new(&place(&fleet, kind.name()))?;
        let draft = (0..8).try_fold(draft, |draft, _| draft.noise(SMALL, Compression::Gzip))?;
        let image = draft.finish()?;
        fleet.stage.registry.put(&image, &name(kind))?;
        let runtime = fleet.runtime(0, kind, "")?;
        let watch = Watch::start(&fleet)?;
        pull(&runtime, &runtime.wanted(&name(kind)), &image)?;
        let share = watch.by_nodes()?.blob_bytes() as f64 / image.bytes() as f64;
        fleet.stage.say(&format!("{kind}: the registry sent {share:.3} images"));
        watch.took_once(&image)?;
        let function = wait_ready(&fleet, 0, &image)?;
        ensure!(function.held_bytes == image.bytes(), "the node says {function:?}");
        fleet.stage.nodes[0].verify_store(&image)
    });
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn an_image_is_pulled_by_its_digest() {
    let fleet = Fleet::new("by digest", 1).unwrap();
    each(&Kind::ALL, |kind| {
        let image = publish(&fleet, kind.name(), SMALL)?;
        let runtime = fleet.runtime(0, kind, "")?;
        let watch = Watch::start(&fleet)?;
        pull(&runtime, &runtime.wanted(&format!("{kind}/image@{}", image.manifest.digest)), &image)?;
        watch.took_once(&image)
    });
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn of_an_index_only_the_image_for_the_platform_is_pulled() {
    let fleet = Fleet::new("index", 1).unwrap();
    each(&Kind::ALL, |kind| {
        let native = publish_for(&fleet, kind, "amd64")?;
        let foreign = publish_for(&fleet, kind, "arm64")?;
        let entry = |image: &Image, architecture: &str| {
            let manifest = &image.manifest;
            json!({
                "mediaType": manifest.media_type,
                "digest": manifest.digest,
                "size": manifest.size,
                "platform": {"os": "linux", "architecture": architecture},
            })
        };
        let manifests = [entry(&foreign, "arm64"), entry(&native, "amd64")];
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests});
        let index = index.to_string().into_bytes();
        fleet.stage.registry.put_manifest(&format!("{kind}/image"), "v1", INDEX_TYPE, index)?;

        for (platform, wanted, other) in [(None, &native, &foreign), (Some("linux/arm64"), &foreign, &native)]
        {
            let runtime = fleet.runtime(0, kind, platform.map_or("", |_| "-arm64"))?;
            let name = Wanted { platform, ..runtime.wanted(&name(kind)) };
            let watch = Watch::start(&fleet)?;
            runtime.pull(&name)?.wait(PULL_LIMIT)?.success()?;
            runtime.stored(&name)?.contains(wanted)?;
            watch.took_once(wanted)?;
            let sent = watch.by_nodes()?.bytes_by_blob();
            let uncalled = other.blobs.iter().find(|blob| sent.contains_key(&blob.digest));
            ensure!(uncalled.is_none(), "{uncalled:?} is of another platform than {platform:?}");
        }
        Ok(())
    });
}

fn publish_for(fleet: &Fleet, kind: Kind, architecture: &'static str) -> Result<Image> {
    let draft = Draft::new(&place(fleet, &format!("{kind}-{architecture}")))?.architecture(architecture);
    let image = draft.noise(SMALL, Compression::Gzip)?.finish()?;
    fleet.stage.registry.put(&image, &format!("{kind}/image:{architecture}"))?;
    Ok(image)
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn nothing_is_fetched_twice() {
    let fleet = Fleet::new("again", 1).unwrap();
    each(&Kind::ALL, |kind| {
        let image = publish(&fleet, kind.name(), SMALL)?;
        let runtime = fleet.runtime(0, kind, "")?;
        let wanted = runtime.wanted(&name(kind));
        pull(&runtime, &wanted, &image)?;

        let watch = Watch::start(&fleet)?;
        pull(&runtime, &wanted, &image).context("again")?;
        let another = fleet.runtime(0, kind, "-another")?;
        pull(&another, &wanted, &image).context("another one on the same machine")?;
        watch.no_blobs()
    });
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn pulls_of_one_image_at_once_share_it() {
    const AT_ONCE: usize = 5;
    let fleet = Fleet::new("at once", 1).unwrap();
    each(&Kind::ALL, |kind| {
        let image = publish(&fleet, kind.name(), 4 * SMALL)?;
        // Five copies by skopeo into one layout would write over each other.
        let stores = if kind == Kind::Skopeo { AT_ONCE } else { 1 };
        let runtimes = (0..stores).map(|store| fleet.runtime(0, kind, &format!("-{store}")));
        let runtimes = runtimes.collect::<Result<Vec<_>>>()?;
        let wanted = runtimes[0].wanted(&name(kind));
        let watch = Watch::start(&fleet)?;
        let pulls = runtimes.iter().cycle().take(AT_ONCE).map(|runtime| runtime.pull(&wanted));
        for mut pull in pulls.collect::<Result<Vec<_>>>()? {
            pull.wait(PULL_LIMIT)?.success()?;
        }
        for runtime in &runtimes {
            runtime.stored(&wanted)?.is(&image)?;
        }
        watch.took_once(&image)
    });
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn images_pulled_at_once_share_their_layers() {
    let fleet = Fleet::new("shared layers", 1).unwrap();
    each(&Kind::ALL, |kind| {
        let base = publish(&fleet, kind.name(), 4 * SMALL)?;
        let build = |number: usize| {
            let draft = Draft::new(&place(&fleet, &format!("{kind}-{number}")))?.layers_of(&base)?;
            let image = draft.noise(SMALL, Compression::Gzip)?.finish()?;
            fleet.stage.registry.put(&image, &format!("{kind}/image:{number}"))?;
            Ok(image)
        };
        let images = (0..3).map(build).collect::<Result<Vec<_>>>()?;
        let runtime = fleet.runtime(0, kind, "")?;
        let wanted: Vec<_> = (0..3).map(|number| runtime.wanted(&format!("{kind}/image:{number}"))).collect();
        let watch = Watch::start(&fleet)?;
        let pulls = wanted.iter().map(|wanted| runtime.pull(wanted)).collect::<Result<Vec<_>>>()?;
        for mut pull in pulls {
            pull.wait(PULL_LIMIT)?.success()?;
        }
        for (wanted, image) in wanted.iter().zip(&images) {
            runtime.stored(wanted)?.is(image)?;
        }
        images.iter().try_for_each(|image| watch.took_once(image))
    });
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry, real clients and busybox; .ci/run runs it"]
fn a_container_starts_from_what_was_pulled() {
    let fleet = Fleet::new("run", 1).unwrap();
    let files = place(&fleet, "files");
    fs::create_dir_all(files.join("bin")).unwrap();
    fs::copy("/bin/busybox", files.join("bin/busybox")).unwrap();
    symlink("busybox", files.join("bin/sh")).unwrap();
    fs::write(files.join("greeting"), "hello from a layer\n").unwrap();
    let build = |place: &Path| Draft::new(place)?.files(&files, Compression::Gzip)?.finish();
    let image = build(&place(&fleet, "busybox")).unwrap();
    fleet.stage.registry.put(&image, "busybox:v1").unwrap();
    each(&[Kind::Containerd, Kind::Docker], |kind| {
        let runtime = fleet.runtime(0, kind, "")?;
        let wanted = runtime.wanted("test/busybox:v1");
        fleet.stage.registry.put(&image, "test/busybox:v1")?;
        pull(&runtime, &wanted, &image)?;
        let said = runtime.run(&wanted, "read -r line < /greeting; echo $line")?;
        ensure!(said.as_deref() == Some("hello from a layer\n"), "it says {said:?}");
        Ok(())
    });
}
