//! dockerd with `docker`: a mirror for Docker Hub and no other registry, and layers that are kept unpacked.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::super::process::run;
use super::{Daemon, Driver, Home, Wanted};

#[derive(Debug)]
pub(super) struct Docker {
    home: Home,
}

impl Docker {
    pub(super) fn new(home: &Home) -> Result<Self> {
        // An empty one, or else it would read the machine's.
        home.write("daemon.json", "{}")?;
        Ok(Self { home: home.clone() })
    }

    fn address(&self) -> String {
        format!("unix://{}", self.home.path("socket").display())
    }

    fn docker(&self) -> Command {
        let mut docker = self.home.command("docker");
        docker.args(["--host", &self.address()]);
        docker
    }
}

impl Driver for Docker {
    fn daemon(&self) -> Option<Daemon> {
        let mut command = self.home.command("dockerd");
        for (flag, name) in [
            ("--config-file", "daemon.json"),
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            command.arg(flag).arg(self.home.path(name));
        }
        command.args(["--host", &self.address()]);
        command.args(["--registry-mirror", &format!("http://127.0.0.1:{}", self.home.world.mirror_port)]);
        // Containers get no network here, so the machine's need not be touched.
        command.args(["--iptables=false", "--ip6tables=false", "--ip-masq=false", "--bridge=none"]);
        let mut ping = self.docker();
        ping.arg("version");
        Some(Daemon { command, ping })
    }

    fn helper(&self) -> Option<PathBuf> {
        Some(self.home.path("exec/containerd/containerd.pid"))
    }

    fn pull(&self, wanted: &Wanted) -> Command {
        let mut docker = self.docker();
        docker.arg("pull");
        if let Some(platform) = wanted.platform {
            docker.args(["--platform", platform]);
        }
        docker.arg(&wanted.reference);
        docker
    }

    fn export(&self, wanted: &Wanted, scratch: &Path) -> Result<(String, PathBuf)> {
        let mut inspect = self.docker();
        inspect.args(["image", "inspect", "--format", "{{index .RepoDigests 0}}", &wanted.reference]);
        let known = run(&mut inspect)?;
        let (_, digest) = known.trim().split_once('@').with_context(|| format!("no digest in {known:?}"))?;
        let archive = scratch.join("archive.tar");
        run(self.docker().args(["save", "--output"]).arg(&archive).arg(&wanted.reference))?;
        let files = scratch.join("files");
        std::fs::create_dir(&files)?;
        run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&files))?;
        Ok((digest.to_owned(), files))
    }

    fn run(&self, wanted: &Wanted, shell: &str) -> Option<Command> {
        let mut docker = self.docker();
        docker.args(["run", "--rm", "--network", "none", &wanted.reference, "/bin/sh", "-c", shell]);
        Some(docker)
    }
}
