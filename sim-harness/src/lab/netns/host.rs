//! One host of a network: a namespace, an address, and what runs there.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::lab::http::{HttpReply, HttpRequest};

/// Where `ip netns` keeps the namespaces that have a name.
pub(super) const NAMESPACES: &str = "/run/netns";

/// The one device of a host.
pub(super) const DEVICE: &str = "eth0";

/// How long an HTTP answer may take in [`Host::http`].
const HTTP_LIMIT: Duration = Duration::from_secs(10);

/// One host of a [`Network`](super::Network): a handle, which may be cloned, and is of no use after the network is gone.
#[derive(Debug, Clone)]
pub struct Host {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) address: Ipv4Addr,
    /// The switch's end of its link.
    pub(super) port: String,
}

impl Host {
    /// The name that it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the switch.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A program to be run on this host. The child that comes of it *is* the program, so signals reach it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// The file by which the kernel knows its namespace.
    pub(in crate::lab) fn namespace(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.namespace)
    }

    /// Runs a closure on this host: sockets opened in it belong to the host for as long as they live.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        inside(&self.namespace, act)
    }

    /// Asks an HTTP server from this host.
    ///
    /// # Errors
    /// When nobody answers, or what comes back is no HTTP.
    pub fn http(&self, server: SocketAddr, request: &HttpRequest) -> Result<HttpReply> {
        let ask = || -> Result<HttpReply> {
            let mut stream = TcpStream::connect_timeout(&server, HTTP_LIMIT)?;
            stream.set_read_timeout(Some(HTTP_LIMIT))?;
            request.exchange(server, &mut stream)
        };
        self.inside(ask)?.with_context(|| format!("no answer from http://{server} to {}", self.name))
    }

    /// GETs a path of an HTTP server from this host.
    ///
    /// # Errors
    /// See [`Host::http`].
    pub fn http_get(&self, server: SocketAddr, path: &str) -> Result<HttpReply> {
        self.http(server, &HttpRequest::new("GET", path)).with_context(|| format!("cannot GET {path}"))
    }

    /// Bytes that the host has put on the wire since it was made, headers included.
    ///
    /// # Errors
    /// When the kernel's table of devices cannot be read.
    pub fn bytes_sent(&self) -> Result<u64> {
        Ok(device_bytes(&self.namespace, DEVICE)?.1)
    }
}

/// Runs a closure in a namespace.
pub(super) fn inside<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> Result<T> {
    let path = Path::new(NAMESPACES).join(namespace);
    let namespace = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    // The namespace is a property of the thread; one of our own keeps the caller where it is.
    let enter_and_act = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {}", path.display()))?;
        Ok(act())
    };
    std::thread::scope(|scope| {
        scope.spawn(enter_and_act).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Bytes that a device in a namespace has received and sent since it was made, headers included.
pub(super) fn device_bytes(namespace: &str, device: &str) -> Result<(u64, u64)> {
    // Per namespace of the thread that reads it.
    let table = inside(namespace, || fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
    let column = |number| line.and_then(|line| line.split_whitespace().nth(number)?.parse().ok());
    // Eight columns of what was received come first.
    let bytes = column(0).zip(column(8));
    bytes.with_context(|| format!("no {device} in the table of devices of {namespace}:\n{table}"))
}
