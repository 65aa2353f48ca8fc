//! Programs of the lab's own in a host: each says `ready`, waits to be told to go, and says `done`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::process::tail;

/// How long programs may take to start. All of them start at once, on few cores.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// What such a program says about itself: `ready`, `done`.
///
/// # Errors
/// When nobody listens.
pub fn say(what: &str) -> Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{what}")?;
    Ok(output.flush()?)
}

/// A program that says `ready`, waits for a line, and says `done`. It is killed when this is dropped.
pub(super) struct Runner {
    process: Child,
    input: ChildStdin,
    said: Receiver<String>,
}

impl Runner {
    /// Starts it; its complaints go to a file.
    pub(super) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log_file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file);
        let mut process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let input = process.stdin.take().context("no input")?;
        let output = process.stdout.take().context("no output")?;
        let (say, said) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody listens after the end.
                let _ = say.send(line);
            }
        });
        Ok(Self { process, input, said })
    }

    /// Waits until it says that it is ready.
    pub(super) fn wait_ready(&self, log: &Path) -> Result<()> {
        let said = self.said.recv_timeout(READY_LIMIT);
        let complaint = || tail(log, 5);
        let said = said.with_context(|| format!("it does not come up: {}", complaint()))?;
        ensure!(said == "ready", "it says {said:?}: {}", complaint());
        Ok(())
    }

    /// Lets it go.
    pub(super) fn go(&mut self) -> Result<()> {
        self.input.write_all(b"go\n").context("it has ended")
    }

    /// Tells, from another thread, when it says that it is done.
    pub(super) fn tell_when_done(&mut self, receiver: usize, done: Sender<usize>) {
        let said = std::mem::replace(&mut self.said, mpsc::channel().1);
        thread::spawn(move || {
            if said.iter().any(|line| line == "done") {
                let _ = done.send(receiver);
            }
        });
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // The guard of the network is there for what fails here.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
