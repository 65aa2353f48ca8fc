//! The guard of a network, which clears it away when its owner is gone, and the names by which leftovers are known.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use super::host::NAMESPACES;

/// What the guard runs, with the network's name and its directory. It waits for the end of its standard input. A namespace
/// is deleted only when nothing runs in it any more, or else it would live on without a name; 200 tries are ten seconds.
const GUARD: &str = r#"
trap '' INT TERM HUP
read -r _
failed=0
for path in /run/netns/"$1"-*; do
    [ -e "$path" ] || continue
    namespace=${path##*/}
    tries=0
    while pids=$(ip netns pids "$namespace" 2>/dev/null) && [ -n "$pids" ]; do
        [ "$tries" -lt 200 ] || { failed=1; break; }
        tries=$((tries + 1))
        kill -KILL $pids 2>/dev/null
        sleep 0.05
    done
    ip netns delete "$namespace" 2>/dev/null || [ ! -e "$path" ] || failed=1
done
while read -r _ place _; do
    case "$place" in "$2"/*) umount -l "$place" || failed=1 ;; esac
done </proc/mounts
[ -z "${FAASNET_LAB_KEEP:-}" ] || exit "$failed"
rm -rf -- "$2" || failed=1
exit "$failed"
"#;

/// The name of a network says who made it: `faasnet-<process>-<its start time>-<serial>`. Process ids come again, start
/// times (in clock ticks since boot) do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetworkName {
    pid: u32,
    started: u64,
    serial: u32,
}

impl std::fmt::Display for NetworkName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "faasnet-{}-{:x}-{}", self.pid, self.started, self.serial)
    }
}

impl NetworkName {
    pub(super) fn of_this_process() -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let started = start_time(pid).context("cannot read this process' own start time")?;
        Ok(Self { pid, started, serial: SERIAL.fetch_add(1, Ordering::Relaxed) })
    }

    /// Reads the name of a network, or of one of its namespaces (`<network>-<host>`).
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("faasnet-")?.splitn(4, '-');
        let name = Self {
            pid: parts.next()?.parse().ok()?,
            started: u64::from_str_radix(parts.next()?, 16).ok()?,
            serial: parts.next()?.parse().ok()?,
        };
        Some(name)
    }

    fn owner_is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// When a process started, in clock ticks since boot; `None` when there is no such process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second column, in parentheses, is the program's name and may hold anything; the start is the 22nd of all.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Clears away the namespaces and directories of networks whose owner is gone.
pub(super) fn sweep_leftovers() -> Result<()> {
    let mut leftovers: Vec<NetworkName> = Vec::new();
    for place in [Path::new(NAMESPACES), &std::env::temp_dir()] {
        // Before the first namespace there is no such place.
        let Ok(entries) = fs::read_dir(place) else { continue };
        for entry in entries {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().and_then(NetworkName::parse)
                && !name.owner_is_alive()
                && !leftovers.contains(&name)
            {
                leftovers.push(name);
            }
        }
    }
    for name in leftovers {
        let mut guard = spawn_guard(&name, &std::env::temp_dir().join(name.to_string()))?;
        drop(guard.stdin.take());
        let status = guard.wait()?;
        ensure!(status.success(), "{name} stays: {status}");
    }
    Ok(())
}

pub(super) fn spawn_guard(name: &NetworkName, directory: &Path) -> Result<Child> {
    let mut guard = Command::new("sh");
    guard.args(["-c", GUARD, "faasnet-lab-guard", &name.to_string()]).arg(directory);
    // A group of its own: Ctrl-C at the terminal is for the tests, and the guard still has work to do then.
    guard.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
    guard.spawn().context("cannot start sh")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        let name = NetworkName { pid: 12, started: 0xabc, serial: 3 };
        assert_eq!(name.to_string(), "faasnet-12-abc-3");
        for text in ["faasnet-12-abc-3", "faasnet-12-abc-3-switch", "faasnet-12-abc-3-a-b"] {
            assert_eq!(NetworkName::parse(text), Some(name.clone()), "{text}");
        }
        for foreign in ["", "faasnet", "faasnet-12", "faasnet-12-abc", "faasnet-x-1-1", "other-12-abc-3"] {
            assert_eq!(NetworkName::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn owners_are_told_apart_by_their_start() {
        let own = NetworkName::of_this_process().unwrap();
        assert!(own.owner_is_alive());
        assert!(!NetworkName { started: own.started + 1, ..own }.owner_is_alive());
    }
}
