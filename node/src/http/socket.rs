//! The Unix socket that stands beside the HTTP port: a file that only this user may open, which is what guards it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};

use axum::serve::Listener;
use socket2::{Domain, SockAddr, Type};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

/// Whoever may open the file may do anything: its owner alone.
const MODE: u32 = 0o600;

/// Connections that wait to be accepted. The system's own bound is lower.
const BACKLOG: i32 = 1_024;

/// Why there is no socket. What was there before is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Another process answers there.
    #[error("the socket {} is in use by another process; give each node its own", .0.display())]
    InUse(PathBuf),
    /// It would take the place of something else.
    #[error("{} is there and is no socket; choose another path", .0.display())]
    NoSocket(PathBuf),
    /// The system does not let us have it.
    #[error(
        "cannot listen on the socket {}: {source}; its directory must exist and be writable, and its path be short", path.display()
    )]
    Unusable {
        /// Where it was to be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A socket that is listened on. Its file goes with it.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    _file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Who has removed it already wanted the same.
        let _ = fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Listens on `path`, in place of a socket that a process left behind which has died.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let unusable = |source| SocketError::Unusable { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(SocketError::NoSocket(path.to_owned()));
            }
            Ok(_) => match BlockingStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(unusable)?;
                }
                Err(error) => return Err(unusable(error)),
                Ok(_) => return Err(SocketError::InUse(path.to_owned())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unusable(error)),
        }
        Self::listen(path).map_err(unusable)
    }

    fn listen(path: &Path) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = SocketFile(path.to_owned());
        // Before anybody can be let in.
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
        socket.listen(BACKLOG)?;
        Ok(Self { listener: UnixListener::from_std(socket.into())?, _file: file })
    }
}

impl Listener for Socket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        Listener::accept(&mut self.listener).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_for_its_owner_alone_and_goes_with_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        BlockingStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_what_is_dead_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let bind = || Socket::bind(&path).map_err(|error| error.to_string());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a process that was killed leaves its file");
        let alive = bind().unwrap();
        let refused = bind().unwrap_err();
        assert!(refused.contains("in use by another process"), "{refused}");
        BlockingStream::connect(&path).unwrap();
        drop(alive);

        fs::write(&path, "precious").unwrap();
        let refused = bind().unwrap_err();
        assert!(refused.contains("is no socket"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn what_cannot_be_is_said_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().join("absent/s"), dir.path().join("long".repeat(40))] {
            let error = Socket::bind(&path).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
