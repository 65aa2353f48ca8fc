//! nginx on a host: what the field puts before a registry, or serves files with.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result};

use super::netns::{Host, at};
use super::process::wait_until;

/// How long it may take to come up.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A running nginx. It ends with its owner.
#[derive(Debug)]
pub struct Nginx {
    process: Child,
    server: SocketAddr,
}

impl Nginx {
    /// Starts it, and waits until it answers. `http` and `server` go into the blocks of its configuration with these names; its files
    /// are below `directory`.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start(host: &Host, port: u16, directory: &Path, http: &str, server: &str) -> Result<Self> {
        let (place, address) = (directory.display(), at(host, port));
        let configuration = format!(
            "user root; daemon off; pid {place}/pid; error_log {place}/error.log; worker_processes 2;
             events {{ worker_connections 1024; }}
             http {{
                access_log off; sendfile on; tcp_nopush on;
                client_body_temp_path {place}/body; fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u;
                scgi_temp_path {place}/s; proxy_temp_path {place}/temporary;
                {http}
                server {{ listen {address}; {server} }}
             }}"
        );
        let file = directory.join("nginx.conf");
        fs::write(&file, configuration).with_context(|| format!("cannot write {}", file.display()))?;
        let mut nginx = host.command("nginx");
        nginx.arg("-e").arg(directory.join("error.log")).arg("-c").arg(&file);
        nginx.stderr(File::create(directory.join("log"))?);
        let process = nginx.spawn().context("cannot start nginx; install Debian's `nginx-light`")?;
        let nginx = Self { process, server: address };
        wait_until("nginx to answer", READY_LIMIT, || Ok(host.http_get(address, "/v2/").ok().map(drop)))?;
        Ok(nginx)
    }

    /// Where it listens.
    pub fn server(&self) -> SocketAddr {
        self.server
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The guard of the network is there for what fails here.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
