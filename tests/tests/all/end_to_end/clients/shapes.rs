//! Images of all shapes, and what is no image at all.

use std::fs;

use anyhow::{Context, Result};
use faasnet_sim::lab::draft::{Compression, Draft, Format};
use faasnet_sim::lab::fleet::Fleet;
use faasnet_sim::lab::http::HttpRequest;
use faasnet_sim::lab::image::Image;
use faasnet_sim::lab::runtime::{Kind, REGISTRY};
use faasnet_sim::lab::stage::IMAGE_NAME;
use serde_json::{Value, json};

use super::{PULL_LIMIT, Watch, each, name, place, publish, pull};

/// All that know zstd: docker does since version 23, and Debian 12 has 20.
const KNOW_ZSTD: [Kind; 4] = [Kind::Containerd, Kind::Podman, Kind::Buildah, Kind::Skopeo];

/// An image's title, its layers, and who can use it.
type Shape = (&'static str, fn(Draft) -> Result<Draft>, &'static [Kind]);

const SHAPES: [Shape; 5] = [
    ("sixty", |draft| (0..60).try_fold(draft, |draft, _| draft.noise(1000, Compression::Gzip)), &Kind::ALL),
    (
        "empty",
        |draft| draft.noise(100_000, Compression::Gzip)?.empty()?.noise(1000, Compression::Gzip),
        &Kind::ALL,
    ),
    ("plain", |draft| draft.noise(700_000, Compression::None)?.noise(1000, Compression::Gzip), &Kind::ALL),
    ("schema2", |draft| draft.format(Format::Docker).noise(700_000, Compression::Gzip)?.empty(), &Kind::ALL),
    (
        "mixed",
        |draft| {
            let draft = draft.noise(700_000, Compression::Zstd)?.noise(300_000, Compression::Gzip)?;
            draft.noise(100_000, Compression::None)
        },
        &KNOW_ZSTD,
    ),
];

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn images_of_all_shapes_arrive() {
    let fleet = Fleet::new("shapes", 1).unwrap();
    each(&Kind::ALL, |kind| {
        let runtime = fleet.runtime(0, kind, "")?;
        for (title, layers, kinds) in SHAPES {
            if !kinds.contains(&kind) {
                continue;
            }
            let title = format!("{title}-{kind}");
            let image = layers(Draft::new(&place(&fleet, &title))?)?.finish()?;
            fleet.stage.registry.put(&image, &name(&title))?;
            let watch = Watch::start(&fleet)?;
            pull(&runtime, &runtime.wanted(&name(&title)), &image)
                .and_then(|()| watch.nobody_went_past())
                .context(title)?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry, real clients and 9 GB of disk; .ci/run runs it"]
fn an_image_may_have_more_than_two_gibibytes() {
    const LARGE: u64 = (2 << 30) + (100 << 20);
    let fleet = Fleet::new("large", 1).unwrap();
    let image = Image::synthetic(&place(&fleet, "large"), LARGE).unwrap();
    fleet.stage.publish(&image).unwrap();
    // The registry has it now, and it is there often enough.
    fs::remove_file(image.blob_path(&image.blobs[1].digest)).unwrap();
    each(&[Kind::Skopeo], |kind| {
        let runtime = fleet.runtime(0, kind, "")?;
        let watch = Watch::start(&fleet)?;
        fleet.stage.say("pulling it");
        runtime.pull(&runtime.wanted(IMAGE_NAME))?.wait(PULL_LIMIT)?.success()?;
        fleet.stage.say("hashing it");
        runtime.stored(&runtime.wanted(IMAGE_NAME))?.is(&image)?;
        watch.took_once(&image)
    });
    let peak = fleet.stage.nodes[0].peak_memory().unwrap();
    fleet.stage.say(&format!("the node had {} MiB of memory at most", peak >> 20));
    assert!(peak < 150 << 20, "{peak} bytes");
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn artifacts_arrive() {
    let fleet = Fleet::new("artifacts", 1).unwrap();
    let text = "application/vnd.example.text.v1";
    let notes = Draft::new(&place(&fleet, "notes")).unwrap().piece(b"some notes", text).unwrap();
    let notes = notes.finish_as(&json!({}), "application/vnd.oci.empty.v1+json", Some(text)).unwrap();
    let archive = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
    let chart = Draft::new(&place(&fleet, "chart")).unwrap().piece(&[7; 700_000], archive).unwrap();
    let about = json!({"name": "chart", "version": "1.2.3", "apiVersion": "v2"});
    let chart = chart.finish_as(&about, "application/vnd.cncf.helm.config.v1+json", None).unwrap();
    each(&[Kind::Skopeo], |kind| {
        let runtime = fleet.runtime(0, kind, "")?;
        for (title, artifact) in [("notes", &notes), ("chart", &chart)] {
            fleet.stage.registry.put(artifact, &name(title))?;
            let watch = Watch::start(&fleet)?;
            pull(&runtime, &runtime.wanted(&name(title)), artifact)
                .and_then(|()| watch.took_once(artifact))
                .context(title)?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root, network namespaces and docker-registry; .ci/run runs it"]
fn referrers_are_what_the_registry_says() {
    let fleet = Fleet::new("referrers", 1).unwrap();
    let image = publish(&fleet, "signed", 1_000_000).unwrap();
    let (digest, registry) = (&image.manifest.digest, &fleet.stage.registry);
    let get = |path: String| HttpRequest::new("GET", path);
    let through = |path: &str| fleet.stage.nodes[0].ask().mirror(&get(format!("/v2/{REGISTRY}/{path}")));

    let path = format!("signed/image/referrers/{digest}");
    let straight = registry.host().http(registry.server(), &get(format!("/v2/{path}"))).unwrap();
    let mirrored = through(&path).unwrap();
    assert_eq!((straight.status, mirrored.status), (404, 404), "{}", mirrored.text());
    let error: Value = serde_json::from_slice(&mirrored.body).unwrap();
    assert!(error["errors"][0]["code"].is_string(), "{error}");

    // Where there is no such API, clients look under a tag instead.
    let tag = digest.replace(':', "-");
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": []}).to_string();
    registry.put_manifest("signed/image", &tag, index_type, index.clone().into_bytes()).unwrap();
    let mirrored = through(&format!("signed/image/manifests/{tag}")).unwrap();
    assert_eq!((mirrored.status, mirrored.text()), (200, index));
    assert_eq!(mirrored.header("content-type"), Some(index_type));
}
