//! podman, buildah and skopeo. All three read `registries.conf`; the first two unpack layers into the same kind of store, the
//! third keeps what it copies as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::super::image::Image;
use super::super::process::run;
use super::{Driver, Home, REGISTRY, Wanted};

/// Names the node as the mirror of [`REGISTRY`], which stands first in the paths that it is asked for.
fn write_registries(home: &Home) -> Result<()> {
    let mirror = format!("127.0.0.1:{}/{REGISTRY}", home.world.mirror_port);
    let registries = format!(
        "[[registry]]\nprefix = \"{REGISTRY}\"\nlocation = \"{REGISTRY}\"\n\
         [[registry.mirror]]\nlocation = \"{mirror}\"\ninsecure = true\n"
    );
    home.write("registries.conf", &registries)
}

/// A program that unpacks into a store of its own.
fn with_store(home: &Home, program: &str) -> Command {
    let mut command = home.command(program);
    command.env("CONTAINERS_REGISTRIES_CONF", home.path("registries.conf"));
    command.arg("--root").arg(home.path("root")).arg("--runroot").arg(home.path("run"));
    command.args(["--storage-driver", "overlay"]);
    command
}

fn pull(mut command: Command, wanted: &Wanted) -> Command {
    command.arg("pull");
    if let Some(platform) = wanted.platform {
        command.args(["--platform", platform]);
    }
    command.arg(&wanted.reference);
    command
}

/// Writes the layers of a stored image, packed again from the unpacked files, with its configuration.
fn export(home: &Home, wanted: &Wanted, scratch: &Path) -> Result<()> {
    let store = format!("overlay@{}+{}", home.path("root").display(), home.path("run").display());
    let mut skopeo = home.command("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet"]);
    skopeo.arg(format!("containers-storage:[{store}]{}", wanted.reference));
    run(skopeo.arg(format!("dir:{}", scratch.display()))).map(drop)
}

#[derive(Debug)]
pub(super) struct Podman {
    home: Home,
}

impl Podman {
    pub(super) fn new(home: &Home) -> Result<Self> {
        write_registries(home)?;
        Ok(Self { home: home.clone() })
    }

    fn podman(&self) -> Command {
        let mut podman = with_store(&self.home, "podman");
        podman.arg("--tmpdir").arg(self.home.path("tmp")).args(["--events-backend", "none"]);
        podman
    }
}

impl Driver for Podman {
    fn pull(&self, wanted: &Wanted) -> Command {
        pull(self.podman(), wanted)
    }

    fn export(&self, wanted: &Wanted, scratch: &Path) -> Result<(String, PathBuf)> {
        let mut podman = self.podman();
        let digest = run(podman.args(["image", "inspect", "--format", "{{.Digest}}", &wanted.reference]))?;
        export(&self.home, wanted, scratch)?;
        Ok((digest.trim().to_owned(), scratch.to_owned()))
    }
}

#[derive(Debug)]
pub(super) struct Buildah {
    home: Home,
}

impl Buildah {
    pub(super) fn new(home: &Home) -> Result<Self> {
        write_registries(home)?;
        Ok(Self { home: home.clone() })
    }
}

impl Driver for Buildah {
    fn pull(&self, wanted: &Wanted) -> Command {
        pull(with_store(&self.home, "buildah"), wanted)
    }

    fn export(&self, wanted: &Wanted, scratch: &Path) -> Result<(String, PathBuf)> {
        let mut buildah = with_store(&self.home, "buildah");
        let inspect = ["inspect", "--type", "image", "--format", "{{.FromImageDigest}}"];
        let digest = run(buildah.args(inspect).arg(&wanted.reference))?;
        export(&self.home, wanted, scratch)?;
        Ok((digest.trim().to_owned(), scratch.to_owned()))
    }
}

#[derive(Debug)]
pub(super) struct Skopeo {
    home: Home,
}

impl Skopeo {
    pub(super) fn new(home: &Home) -> Result<Self> {
        write_registries(home)?;
        std::fs::create_dir(home.path("layouts"))?;
        Ok(Self { home: home.clone() })
    }

    /// The layout that an image is copied to: one for each.
    fn layout(&self, wanted: &Wanted) -> PathBuf {
        self.home.path("layouts").join(wanted.reference.replace(['/', ':', '@'], "-"))
    }
}

impl Driver for Skopeo {
    fn pull(&self, wanted: &Wanted) -> Command {
        let mut skopeo = self.home.command("skopeo");
        // It does not look at CONTAINERS_REGISTRIES_CONF.
        skopeo.arg("--insecure-policy").arg("--registries-conf").arg(self.home.path("registries.conf"));
        if let Some((os, architecture)) = wanted.platform.and_then(|platform| platform.split_once('/')) {
            skopeo.args(["--override-os", os, "--override-arch", architecture]);
        }
        skopeo.args(["copy", "--preserve-digests", &format!("docker://{}", wanted.reference)]);
        skopeo.arg(format!("oci:{}:v1", self.layout(wanted).display()));
        skopeo
    }

    fn export(&self, wanted: &Wanted, _: &Path) -> Result<(String, PathBuf)> {
        let layout = self.layout(wanted);
        Ok((Image::open(&layout)?.manifest.digest, layout.join("blobs")))
    }
}
