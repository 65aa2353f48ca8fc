//! Commands and waiting, both with an end, since nothing in the lab may hang a test run; and what processes use.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long a command that only sets something up may take. The slowest ones (`skopeo` with a gigabyte) need seconds; on
/// a machine that compiles at the same time, ten times as long.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(180);

/// The pause between two looks in [`wait_until`]. Shorter than anything a test measures, longer than what a look costs.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// Runs a command to its end and gives its standard output.
///
/// # Errors
/// When it cannot be started, outlives [`COMMAND_LIMIT`], or fails; the error has the command line and its stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output_within(command, COMMAND_LIMIT)?;
    ensure!(
        output.status.success(),
        "`{}` failed with {}: {}{}",
        line(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end(),
        String::from_utf8_lossy(&output.stdout).trim_end(),
    );
    String::from_utf8(output.stdout).with_context(|| format!("`{}` does not print text", line(command)))
}

/// Runs a command to its end, whatever its exit code, and gives what it printed. It is killed after `limit`.
///
/// # Errors
/// When it cannot be started, or outlives the limit.
pub fn output_within(command: &mut Command, limit: Duration) -> Result<Output> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`; is it installed?", line(command)))?;
    let pid = child.id();
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    match outcome.recv_timeout(limit) {
        Ok(output) => output.with_context(|| format!("lost `{}`", line(command))),
        Err(_) => {
            signal(pid, Signal::KILL)?;
            bail!("`{}` had not ended after {limit:?} and was killed", line(command))
        }
    }
}

/// Looks again and again until there is something to see, and gives that.
///
/// # Errors
/// When `look` fails, or has seen nothing within `limit`; `what` says then what did not come.
pub fn wait_until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(seen) = look().with_context(|| format!("while waiting for {what}"))? {
            return Ok(seen);
        }
        ensure!(start.elapsed() < limit, "waited {limit:?} in vain for {what}");
        thread::sleep(POLL_PAUSE);
    }
}

/// Sends a signal to a process. One that is gone already is no error.
///
/// # Errors
/// When the system refuses.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid =
        i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process id"))?;
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot send {signal:?} to process {pid}")),
    }
}

/// The kernel's clock tick for times of processes (`USER_HZ`), which is the same on every Linux.
const TICKS_PER_SECOND: u64 = 100;

/// The processor time that a process has used, in all its threads.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The second column, in parentheses, is the program's name and may hold anything; user and system time are the 14th and 15th.
    let columns = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    let ticks = columns.and_then(|times| times.map(|time| time.parse::<u64>().ok()).sum::<Option<u64>>());
    Ok(Duration::from_millis(ticks.with_context(|| format!("no times in {path}"))? * 1000 / TICKS_PER_SECOND))
}

/// How long all processors together were busy, and how long they were there, since the machine was started or between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusyTime {
    /// With anything: programs, the kernel, packets.
    pub busy: Duration,
    /// With that or with nothing.
    pub total: Duration,
}

impl BusyTime {
    /// Since the machine was started.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let first = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        let times: Vec<u64> = first.split_whitespace().filter_map(|time| time.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are counted as users already.
        ensure!(times.len() >= 8, "/proc/stat begins with {first:?}");
        let span = |ticks: u64| Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
        let total: u64 = times[..8].iter().sum();
        Ok(Self { busy: span(total - times[3] - times[4]), total: span(total) })
    }

    /// From an earlier look to this one.
    #[must_use]
    pub fn since(self, earlier: &Self) -> Self {
        let total = self.total.saturating_sub(earlier.total);
        Self { busy: self.busy.saturating_sub(earlier.busy), total }
    }

    /// The share of all processors that was busy, from 0 to 1.
    pub fn share(self) -> f64 {
        if self.total.is_zero() { 0.0 } else { self.busy.as_secs_f64() / self.total.as_secs_f64() }
    }
}

/// The last lines of a file; for messages, so a file that cannot be read is told in place of them.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("({error})"),
    };
    let mut last: Vec<&str> = text.lines().rev().take(lines).collect();
    last.reverse();
    last.join("\n")
}

/// A command as one would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_given_and_failures_say_why() {
        assert_eq!(run(Command::new("echo").arg("hello")).unwrap(), "hello\n");
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("why") && error.contains("exit 3") && error.contains("status: 3"), "{error}");
        let error = run(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert!(error.contains("no-such-program"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let start = Instant::now();
        let error = output_within(Command::new("sleep").arg("100"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("sleep 100"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn work_is_seen() {
        let (own, machine) = (cpu_time(std::process::id()).unwrap(), BusyTime::now().unwrap());
        wait_until("some work to be done", Duration::from_secs(60), || {
            let done = cpu_time(std::process::id())? >= own + Duration::from_millis(50);
            Ok((done || (0..1_000_000_u64).map(std::hint::black_box).sum::<u64>() == 0).then_some(()))
        })
        .unwrap();
        let worked = BusyTime::now().unwrap().since(&machine);
        assert!(worked.busy >= Duration::from_millis(30), "{worked:?}");
        assert!((0.0..=1.0).contains(&worked.share()), "{worked:?}");
    }

    #[test]
    fn waiting_ends() {
        let mut looks = 0;
        let third = wait_until("the third look", Duration::from_secs(60), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(third.unwrap(), 3);
        let never = wait_until("godot", Duration::ZERO, || Ok(None::<()>)).unwrap_err();
        assert!(never.to_string().contains("godot"), "{never}");
    }
}
