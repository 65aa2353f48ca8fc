//! OCI layouts and archives on disk.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;
use transfer::digest::Digest;
use transfer::manifest::{DOCKER_MANIFEST, Manifest, OCI_MANIFEST};
use transfer::origin::{LayoutOrigin, Origin, OriginError, open_local};
use transfer::reference::Selector;

use crate::fixture::*;

const CONFIG_BYTES: &[u8] = b"{}";
const LAYER: &[u8] = b"a layer of some bytes";

fn entry(manifest: &str, annotations: &str) -> String {
    let digest = Digest::of(manifest.as_bytes());
    format!(
        r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{},"annotations":{{{annotations}}}}}"#,
        manifest.len()
    )
}

fn index(entries: &[String]) -> String {
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
}

fn named(name: &str) -> String {
    format!(r#""org.opencontainers.image.ref.name":"{name}""#)
}

fn tag(name: &str) -> Selector {
    Selector::Tag(name.into())
}

async fn refused(path: &Path) -> String {
    open_local(path).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_tag_is_the_reference_else_the_bare_tag_else_the_only_image() {
    let (a, b) = (manifest(b"a", &[]), manifest(b"b", &[]));
    let whole = r#""io.containerd.image.name":"docker.io/library/x:v1","#.to_owned() + &named("v1");
    let rows = [
        (index(&[entry(&a, &named("v1")), entry(&b, &named("v2"))]), "x", "v2", Some(&b)),
        (index(&[entry(&a, &named("v1")), entry(&b, &named("v2"))]), "x", "v3", None),
        (index(&[entry(&a, &named("v1")), entry(&b, &named("v1"))]), "x", "v1", None),
        (index(&[entry(&a, &named("v1")), entry(&b, &whole)]), "library/x", "v1", Some(&b)),
        (index(&[entry(&a, &named("v1")), entry(&b, &named("quay.io/x:v1"))]), "x", "v1", Some(&b)),
        (index(&[entry(&a, &named("quay.io/x:v1")), entry(&b, &named("quay.io/y:v1"))]), "y", "v1", Some(&b)),
        (index(&[entry(&a, &named("v1"))]), "x", "other", Some(&a)),
        (index(&[entry(&a, "")]), "x", "v1", Some(&a)),
        (index(&[entry(&a, &named("v1")), entry(&a, &named("v2"))]), "x", "v3", Some(&a)),
        (index(&[]), "x", "v1", None),
    ];
    for (at, (index, repository, name, expected)) in rows.into_iter().enumerate() {
        let directory = TempDir::new().unwrap();
        write_layout(directory.path(), &[a.as_bytes(), b.as_bytes()], &index);
        let origin = open_local(directory.path()).await.unwrap();
        let found = origin.head(repository, &tag(name)).await;
        let expected = expected.map(|text| Digest::of(text.as_bytes()));
        assert_eq!(found.clone().ok(), expected, "row {at}: {found:?}");
        let document = origin.manifest(repository, &tag(name)).await;
        assert_eq!(document.ok().map(|document| document.digest), expected, "row {at}");
    }
}

async fn check_image(origin: &LayoutOrigin, media_type: &str) -> Digest {
    let document = origin.manifest("x", &tag("v1")).await.unwrap();
    assert_eq!(document.media_type, media_type);
    let manifest = Manifest::parse(&document).unwrap();
    let blobs: Vec<_> = manifest.blobs().collect();
    assert_eq!(blobs.iter().map(|blob| blob.size).collect::<Vec<_>>(), [2, LAYER.len() as u64]);
    let layer = &blobs[1].digest;
    assert_eq!(origin.blob_size("x", layer).await.unwrap(), LAYER.len() as u64);
    assert_eq!(collect(origin.blob("x", layer, 0..21).await).await.unwrap(), LAYER);
    assert_eq!(collect(origin.blob("x", layer, 2..7).await).await.unwrap(), b"layer");
    assert_eq!(collect(origin.blob("x", layer, 3..3).await).await.unwrap(), b"");
    let by_digest = origin.manifest("x", &Selector::Digest(document.digest)).await.unwrap();
    assert_eq!(by_digest, document);
    document.digest
}

#[tokio::test]
async fn a_layout_serves_its_image() {
    let text = manifest(CONFIG_BYTES, &[LAYER]);
    let directory = TempDir::new().unwrap();
    let blobs = [text.as_bytes(), CONFIG_BYTES, LAYER];
    write_layout(directory.path(), &blobs, &index(&[entry(&text, "")]));
    let origin = open_local(directory.path()).await.unwrap();
    check_image(&origin, OCI_MANIFEST).await;

    let absent = Digest::of(b"absent");
    let error = origin.blob("x", &absent, 0..1).await.err().unwrap();
    assert!(matches!(error, OriginError::NotFound { .. }), "{error}");
    let error = origin.manifest("x", &Selector::Digest(absent)).await.unwrap_err();
    assert!(matches!(error, OriginError::NotFound { .. }), "{error}");
    let error = origin.blob("x", &Digest::of(LAYER), 0..22).await.err().unwrap().to_string();
    assert!(error.contains("the blob has 21 bytes"), "{error}");

    let damaged = directory.path().join("blobs/sha256").join(Digest::of(text.as_bytes()).hex());
    std::fs::write(damaged, text.replace("schema", "Schema")).unwrap();
    let error = origin.manifest("x", &tag("v1")).await.unwrap_err();
    assert!(matches!(error, OriginError::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn a_blob_larger_than_a_chunk_comes_whole() {
    let (blob, text) = (pattern(3_000_000), manifest(CONFIG_BYTES, &[]));
    let directory = TempDir::new().unwrap();
    write_layout(directory.path(), &[&blob], &index(&[entry(&text, "")]));
    let origin = open_local(directory.path()).await.unwrap();
    let digest = Digest::of(&blob);
    assert_eq!(collect(origin.blob("x", &digest, 0..3_000_000).await).await.unwrap(), blob);
    assert_eq!(collect(origin.blob("x", &digest, 999..2_000_000).await).await.unwrap(), blob[999..2_000_000]);
}

#[tokio::test]
async fn what_is_no_layout_is_refused() {
    let directory = TempDir::new().unwrap();
    assert!(refused(directory.path()).await.contains("skopeo copy"));
    assert!(refused(&directory.path().join("absent")).await.contains("not found"));
    for (index, expected) in [("", "index.json"), (r#"{"manifests":[{"digest":"x"}]}"#, "no digest")] {
        write_layout(directory.path(), &[], index);
        let origin = open_local(directory.path()).await.unwrap();
        let error = origin.head("x", &tag("v1")).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// One entry of an archive.
enum Item<'a> {
    File(&'a str, &'a [u8]),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
}

fn archive(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for item in items {
        let (name, kind, link, bytes): (_, _, _, &[u8]) = match item {
            Item::File(name, bytes) => (name, tar::EntryType::Regular, None, bytes),
            Item::Symlink(name, to) => (name, tar::EntryType::Symlink, Some(to), b""),
            Item::HardLink(name, to) => (name, tar::EntryType::Link, Some(to), b""),
        };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Written past the builder's own checks: hostile archives do not make them.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(link) = link {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn open(bytes: &[u8]) -> Result<LayoutOrigin, OriginError> {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("image.tar");
    std::fs::write(&path, bytes).unwrap();
    open_local(&path).await
}

fn blob_name(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

#[tokio::test]
async fn an_oci_archive_serves_its_image() {
    let text = manifest(CONFIG_BYTES, &[LAYER]);
    let index = index(&[entry(&text, "")]);
    let names = [text.as_bytes(), CONFIG_BYTES, LAYER].map(blob_name);
    let plain = archive(&[
        Item::File(&names[0], text.as_bytes()),
        Item::File(&format!("./{}", names[1]), CONFIG_BYTES),
        Item::File(&names[2], LAYER),
        Item::File("manifest.json", b"docker's, which is not looked at"),
        Item::File("index.json", index.as_bytes()),
    ]);
    for bytes in [gzip(&plain), plain] {
        check_image(&open(&bytes).await.unwrap(), OCI_MANIFEST).await;
    }
}

#[tokio::test]
async fn an_archive_of_dockers_old_form_gets_the_manifest_it_lacks() {
    let listing = br#"[{"Config":"c.json","RepoTags":["x:v1","x:v2"],"Layers":["l2/layer.tar"]}]"#;
    let bytes = archive(&[
        Item::File("l1/layer.tar", LAYER),
        Item::File("l1/VERSION", b"1.0"),
        Item::Symlink("l2/layer.tar", "../l1/layer.tar"),
        Item::File("c.json", CONFIG_BYTES),
        Item::File("manifest.json", listing),
    ]);
    let origin = open(&bytes).await.unwrap();
    let digest = check_image(&origin, DOCKER_MANIFEST).await;
    assert_eq!(
        check_image(&open(&gzip(&bytes)).await.unwrap(), DOCKER_MANIFEST).await,
        digest,
        "made the same way"
    );
    assert_eq!(origin.head("library/x", &tag("v2")).await.unwrap(), digest);

    let layer = gzip(LAYER);
    let hard = br#"[{"Config":"c.json","RepoTags":null,"Layers":["linked"]}]"#;
    let bytes = archive(&[
        Item::File("l.tar", &layer),
        Item::HardLink("linked", "l.tar"),
        Item::File("c.json", CONFIG_BYTES),
        Item::File("manifest.json", hard),
    ]);
    let origin = open(&bytes).await.unwrap();
    let Manifest::Image { layers, .. } =
        Manifest::parse(&origin.manifest("x", &tag("v")).await.unwrap()).unwrap()
    else {
        panic!("an image")
    };
    assert_eq!(layers[0].media_type, "application/vnd.docker.image.rootfs.diff.tar.gzip");
}

#[tokio::test]
async fn hostile_and_damaged_archives_are_refused() {
    let text = manifest(CONFIG_BYTES, &[LAYER]);
    let listing = |layer: &str| format!(r#"[{{"Config":"c.json","RepoTags":null,"Layers":["{layer}"]}}]"#);
    let old = |layer: &str, item: Item<'_>| {
        let listing = listing(layer);
        archive(&[item, Item::File("c.json", b"{}"), Item::File("manifest.json", listing.as_bytes())])
    };
    let whole = archive(&[Item::File("index.json", index(&[entry(&text, "")]).as_bytes())]);
    let rows = [
        (archive(&[Item::File("../escaped", b"x")]), "leads outside"),
        (archive(&[Item::File("/etc/escaped", b"x")]), "leads outside"),
        (archive(&[Item::File("a/../../escaped", b"x")]), "leads outside"),
        (archive(&[Item::Symlink("a", "../escaped")]), "leads outside"),
        (archive(&[Item::Symlink("a", "/etc/passwd")]), "leads outside"),
        (archive(&[Item::HardLink("a", "/etc/passwd")]), "leads outside"),
        (old("../../etc/passwd", Item::File("x", b"")), "leads outside"),
        (old("/etc/passwd", Item::File("x", b"")), "leads outside"),
        (old("a", Item::Symlink("a", "a")), "never end"),
        (old("a", Item::Symlink("a", "b")), "not there"),
        (old("a", Item::File("b", b"")), "not there"),
        (archive(&[Item::File("blobs/sha256/00", b"x"), Item::File("index.json", b"{}")]), "damaged"),
        (archive(&[Item::File("readme", b"x")]), "no image archive"),
        (archive(&[Item::File("manifest.json", b"{}")]), "manifest.json in it"),
        (archive(&[Item::File("manifest.json", &vec![b' '; 5 << 20])]), "more than"),
        (Vec::new(), "no image archive"),
        (b"no archive, but text of some length".repeat(40), "no tar archive"),
        (gzip(b"no archive, but text of some length".repeat(40).as_slice()), "no tar archive"),
        (whole[..700].to_vec(), "no tar archive"),
        (gzip(&whole)[..100].to_vec(), "no tar archive"),
        (b"\x28\xb5\x2f\xfd\0\0\0\0".to_vec(), "zstd"),
        (b"\xfd7zXZ\0\0\0".to_vec(), "xz"),
    ];
    for (at, (bytes, expected)) in rows.into_iter().enumerate() {
        let error = open(&bytes).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, OriginError::Invalid { .. }), "row {at}: {error}");
        assert!(error.to_string().contains(expected), "row {at}: {error} should say {expected}");
    }
}
