//! One node as a process of this machine, without the lab's network: on loopback, with its data and its log in a directory.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use faasnet_sim::lab::client::Pulled;
use faasnet_sim::lab::node::binary;
use faasnet_sim::lab::process::{output_within, run, wait_until};
use serde_json::Value;

/// How long anything may take. Generous: this only bounds a failure.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// Ends its process, and what that has started, with it.
pub(super) struct Running(pub(super) Child);

impl Running {
    pub(super) fn start(command: &mut Command) -> Self {
        Self(command.process_group(0).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = run(Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]));
        let _ = self.0.wait();
    }
}

/// A node that runs.
pub(super) struct Solo {
    process: Running,
    http: SocketAddr,
    log: PathBuf,
}

impl Solo {
    /// Starts a node whose data and log are `name` in `scratch`, behind the command `wrapper` if there is one. Comes back when
    /// the node can be asked.
    pub(super) fn start(scratch: &Path, name: &str, wrapper: &[&str], args: &[&str]) -> Self {
        let log = scratch.join(format!("{name}.log"));
        let to = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = command(&scratch.join(name), wrapper, args);
        command.args(["--id", name, "--log", "info"]).stdout(Stdio::piped()).stderr(to);
        let mut process = Running::start(&mut command);
        let mut told = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut told).unwrap();
        let http = told.trim().rsplit("http://").next().and_then(|addr| addr.parse().ok());
        let http =
            http.unwrap_or_else(|| panic!("{name} does not start: {}", fs::read_to_string(&log).unwrap()));
        Self { process, http, log }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    pub(super) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where other nodes reach it.
    pub(super) fn addr(&self) -> String {
        self.json(&["status"])["address"].as_str().unwrap().to_owned()
    }

    /// All that it has logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// What it answers to a question of the command line.
    pub(super) fn json(&self, question: &[&str]) -> Value {
        let output = self.ask(question);
        assert!(output.status.success(), "{question:?}: {}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Provisions an image, or tells what the command says of its failure.
    pub(super) fn pull(&self, reference: &str) -> Result<Pulled, String> {
        let output = self.ask(&["pull", reference]);
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(text(&output))
        }
    }

    fn ask(&self, question: &[&str]) -> Output {
        let mut command = Command::new(binary().unwrap());
        output_within(command.args(question).args(["--json", "--node", &self.http.to_string()]), LIMIT)
            .unwrap()
    }

    /// Whom it knows, itself included.
    pub(super) fn members(&self) -> Vec<String> {
        let members = self.json(&["members"]);
        members.as_array().unwrap().iter().map(|member| member["node"].as_str().unwrap().to_owned()).collect()
    }

    /// A field of the kernel's account of its process that is in kB, in bytes.
    pub(super) fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

/// Starts a node that is to refuse that, and gives what it says.
pub(super) fn refused(data: &Path, wrapper: &[&str], args: &[&str]) -> String {
    let output = output_within(&mut command(data, wrapper, args), LIMIT).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(output.stdout.is_empty(), "{}", text(&output));
    text(&output)
}

/// Waits for something that a process does in its own time.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_until(what, LIMIT, || Ok(holds().then_some(()))).unwrap();
}

fn command(data: &Path, wrapper: &[&str], args: &[&str]) -> Command {
    let binary = binary().unwrap();
    let mut words = wrapper.iter().map(OsStr::new).chain([binary.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg("node").arg("--data").arg(data);
    // A flag that is given comes twice otherwise.
    for flag in ["--listen", "--http"] {
        if !args.contains(&flag) {
            command.args([flag, "127.0.0.1:0"]);
        }
    }
    command.args(args);
    command
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}
