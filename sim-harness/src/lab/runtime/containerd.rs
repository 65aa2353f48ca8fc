//! containerd with `ctr`: one content store with every blob as it was transferred, and a directory that names mirrors.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::super::process::run;
use super::{Daemon, Driver, Home, REGISTRY, Wanted};

#[derive(Debug)]
pub(super) struct Containerd {
    home: Home,
}

impl Containerd {
    pub(super) fn new(home: &Home) -> Result<Self> {
        let containerd = Self { home: home.clone() };
        let (root, state) = (home.path("root"), home.path("state"));
        let configuration = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            containerd.socket()
        );
        home.write("config.toml", &configuration)?;
        let mirror = format!(
            "server = \"https://{REGISTRY}\"\n[host.\"http://127.0.0.1:{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            home.world.mirror_port
        );
        home.write(&format!("hosts.d/{REGISTRY}/hosts.toml"), &mirror)?;
        Ok(containerd)
    }

    fn socket(&self) -> PathBuf {
        self.home.path("socket")
    }

    fn ctr(&self) -> Command {
        let mut ctr = self.home.command("ctr");
        ctr.arg("--address").arg(self.socket());
        ctr
    }
}

impl Driver for Containerd {
    fn daemon(&self) -> Option<Daemon> {
        let mut command = self.home.command("containerd");
        command.arg("--config").arg(self.home.path("config.toml"));
        let mut ping = self.ctr();
        ping.arg("version");
        Some(Daemon { command, ping })
    }

    fn pull(&self, wanted: &Wanted) -> Command {
        let mut ctr = self.ctr();
        ctr.args(["images", "pull", "--hosts-dir"]).arg(self.home.path("hosts.d"));
        if let Some(platform) = wanted.platform {
            ctr.args(["--platform", platform]);
        }
        ctr.arg(&wanted.reference);
        ctr
    }

    fn export(&self, wanted: &Wanted, _: &Path) -> Result<(String, PathBuf)> {
        let mut list = self.ctr();
        let list = run(list.args(["images", "list", &format!("name=={}", wanted.reference)]))?;
        // Reference, type, digest, and more, below a heading.
        let digest = list.lines().nth(1).and_then(|line| line.split_whitespace().nth(2));
        let digest = digest.with_context(|| format!("no image in the list:\n{list}"))?;
        Ok((digest.to_owned(), self.home.path("root/io.containerd.content.v1.content/blobs")))
    }

    fn run(&self, wanted: &Wanted, shell: &str) -> Option<Command> {
        let mut ctr = self.ctr();
        ctr.args(["run", "--rm", &wanted.reference, "container", "/bin/sh", "-c", shell]);
        Some(ctr)
    }
}
