//! A directory with a configuration file, and the program run in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that has to happen. What takes longer than this on the busiest of machines hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// An empty home, and the file `faasnet.toml` in it.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
}

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) exit: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Stage {
    pub(crate) fn new(file: &str) -> Self {
        let stage = Self { dir: tempfile::tempdir().unwrap() };
        stage.write("faasnet.toml", file);
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faasnet"));
        command.args(arguments).current_dir(self.dir.path()).env_clear();
        command.env("HOME", self.dir.path()).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let output = self.command(arguments, environment).output().unwrap();
        Ended {
            exit: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts a node with its file, on free ports, and waits until it listens.
    pub(crate) fn start(&self) -> Running {
        let flags = "node --config faasnet.toml --data data --listen 127.0.0.1:0 --http 127.0.0.1:0";
        let mut child = self.command(&flags.split(' ').collect::<Vec<_>>(), &[]).spawn().unwrap();
        let (stderr, (lines, log)) = (child.stderr.take().unwrap(), channel());
        thread::spawn(move || {
            // Until it ends, or nobody listens any more.
            let mut read = BufReader::new(stderr).lines().map_while(Result::ok);
            read.all(|line| lines.send(line + "\n").is_ok())
        });
        let mut greeting = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
        let address = greeting.trim().rsplit_once("http://").map(|(_, address)| address.parse());
        let Some(Ok(http)) = address else { panic!("{greeting}{}", log.iter().collect::<String>()) };
        Running { child, http, log, unread: String::new() }
    }
}

/// A running node.
pub(crate) struct Running {
    child: Child,
    http: SocketAddr,
    log: Receiver<String>,
    /// What it has logged that no test has asked for yet.
    unread: String,
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it logs from here on, up to this text.
    pub(crate) fn log_until(&mut self, text: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.unread.find(text) {
                let rest = self.unread.split_off(at + text.len());
                return std::mem::replace(&mut self.unread, rest);
            }
            match self.log.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.unread += &line,
                Err(error) => panic!("{text:?} was not logged ({error}), but\n{}", self.unread),
            }
        }
    }

    /// The answer to a GET, with its head.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.http).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Has it leave, and says how it ended.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let end = Instant::now() + LIMIT;
        // Its log ends when it does.
        loop {
            match self.log.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap().code(),
                Err(RecvTimeoutError::Timeout) => panic!("the node did not end"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
