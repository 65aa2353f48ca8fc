//! The image of real Debian packages: over 200 MB of real files in layers of both compressions that are in use, built
//! once and cached.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result};

use super::draft::{Compression, Draft, pack};
use super::image::{Image, hex_digest};
use super::process::run;

/// What the Debian image is made of: a root filesystem, and two layers of what functions bring along. Changing any of it
/// gives the image another place in the cache.
const RECIPE: Recipe = Recipe {
    suite: "bookworm",
    layers: &[
        // The root filesystem comes first: everything that is essential.
        Layer { packages: &[], compression: Compression::Gzip },
        Layer { packages: &["openjdk-17-jre-headless"], compression: Compression::Gzip },
        Layer {
            packages: &[
                "python3-numpy",
                "python3-scipy",
                "libopenblas0-pthread",
                "libtorch1.13",
                "python3-torch",
            ],
            compression: Compression::Zstd,
        },
    ],
};

#[derive(Debug)]
struct Recipe {
    suite: &'static str,
    layers: &'static [Layer],
}

#[derive(Debug)]
struct Layer {
    packages: &'static [&'static str],
    compression: Compression,
}

impl Image {
    /// The image of real Debian packages. It is built when the cache does not have it: some 40 seconds and 800 MB of disk
    /// for a moment.
    ///
    /// The cache is the directory named by `FAASNET_TEST_CACHE`, or else `lab-images` in cargo's target directory.
    ///
    /// # Errors
    /// Without `mmdebstrap`, `dpkg-deb`, `zstd` or a Debian mirror, when it has to be built.
    pub fn debian() -> Result<Self> {
        // Two tests that need the image at once must not build it twice.
        static BUILDING: Mutex<()> = Mutex::new(());
        let _building = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let cache = cache_directory()?;
        let recipe = hex_digest(format!("{RECIPE:?}").as_bytes())?;
        let place = cache.join(format!("debian-{}", &recipe[..12]));
        if let Ok(image) = Self::open(&place) {
            return Ok(image);
        }
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let scratch = tempfile::tempdir_in(&cache).context("no place to build the image in")?;
        let layout = scratch.path().join("layout");
        build_debian(scratch.path(), &layout).context("cannot build the Debian image")?;
        if place.exists() {
            // What `open` did not accept.
            fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
        }
        fs::rename(&layout, &place)
            .with_context(|| format!("cannot put the image at {}", place.display()))?;
        Self::open(&place)
    }
}

fn cache_directory() -> Result<PathBuf> {
    match std::env::var_os("FAASNET_TEST_CACHE") {
        Some(directory) => Ok(directory.into()),
        None => Ok(super::target_dir()?.join("lab-images")),
    }
}

/// Builds the image of [`RECIPE`] with `scratch` as a place for what is thrown away after.
fn build_debian(scratch: &Path, layout: &Path) -> Result<()> {
    let packages = scratch.join("packages");
    fs::create_dir(&packages)?;
    let root = scratch.join("root.tar");
    let wanted: Vec<&str> = RECIPE.layers.iter().flat_map(|layer| layer.packages).copied().collect();
    // The packages of the other layers are fetched by the same apt, so the machine's own package lists do not matter.
    let fetch = format!(
        r#"cd '{}' && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download --quiet {}"#,
        packages.display(),
        wanted.join(" ")
    );
    let mut debootstrap = Command::new("mmdebstrap");
    debootstrap.env("SOURCE_DATE_EPOCH", "0").args(["--quiet", "--variant=essential"]);
    debootstrap.arg(format!("--customize-hook={fetch}")).arg(RECIPE.suite).arg(&root);
    run(&mut debootstrap)?;

    let mut draft = Draft::new(layout)?;
    for (number, layer) in RECIPE.layers.iter().enumerate() {
        let tar = if layer.packages.is_empty() {
            root.clone()
        } else {
            unpack(layer, &packages, &scratch.join(format!("layer-{number}")))?
        };
        draft = draft.archive(&tar, layer.compression)?;
    }
    draft.finish().map(drop)
}

/// Unpacks the packages of a layer into one directory, and makes that an archive beside it.
fn unpack(layer: &Layer, packages: &Path, directory: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(packages)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if layer.packages.iter().any(|package| name.starts_with(&format!("{package}_"))) {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(directory))?;
        }
    }
    let tar = directory.with_extension("tar");
    pack(directory, &tar)?;
    fs::remove_dir_all(directory)?;
    Ok(tar)
}
