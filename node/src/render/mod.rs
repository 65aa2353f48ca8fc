//! Answers as text: the node's own state, members, functions, trees. Data in, text out; pure.
//!
//! Owns the words and columns; [`table`] lays columns out, [`tree`] draws trees. Whether a terminal understands colours
//! is for the caller to say.

pub mod table;
pub mod tree;

use std::time::Duration;

use membership::FunctionId;
use membership::view::{MemberState, ParticipationState};

use crate::api::{Function, FunctionState, Member, Refreshed, Status};
use crate::units;
use table::{Cell, Table};

/// What a piece of text stands for, where colours can tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// A heading.
    Strong,
    /// As it should be.
    Good,
    /// Under way, or in doubt.
    Busy,
    /// Broken.
    Bad,
    /// Of less interest.
    Faint,
}

/// Whether to write colours. Text is the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Text alone.
    Plain,
    /// With ANSI escape sequences.
    Coloured,
}

impl Paint {
    /// `text` in its tone.
    pub fn apply(self, text: &str, tone: Tone) -> String {
        let code = match (self, tone) {
            (Self::Plain, _) | (_, Tone::Plain) => return text.to_owned(),
            (_, Tone::Strong) => "1",
            (_, Tone::Good) => "32",
            (_, Tone::Busy) => "33",
            (_, Tone::Bad) => "31",
            (_, Tone::Faint) => "2",
        };
        if text.is_empty() { String::new() } else { format!("\x1b[{code}m{text}\x1b[0m") }
    }
}

/// The node as a whole: a line for each of its sides.
pub fn status(status: &Status, paint: Paint) -> String {
    let ready =
        if status.ready { Cell::new("ready", Tone::Good) } else { Cell::new("not ready", Tone::Busy) };
    let moved = &status.transfer;
    let refused = if moved.refused_blocks > 0 { Tone::Bad } else { Tone::Plain };
    let stale = if status.stale_served > 0 { Tone::Busy } else { Tone::Plain };
    let lines: [(&str, Cell); 15] = [
        ("node", status.node.as_str().into()),
        ("state", ready),
        ("zone", status.zone.as_str().into()),
        ("version", format!("{} (incarnation {})", status.version, status.incarnation).into()),
        ("peers reach it at", status.address.to_string().into()),
        ("mirror and API", format!("http://{}", status.http).into()),
        ("members", status.members.to_string().into()),
        ("functions", status.functions.to_string().into()),
        ("store", units::bytes(status.store_bytes).into()),
        ("from origins", units::bytes(moved.origin_bytes).into()),
        ("from peers", units::bytes(moved.peer_bytes).into()),
        ("to peers", units::bytes(moved.served_bytes).into()),
        ("received twice", units::bytes(moved.wasted_bytes).into()),
        ("refused blocks", Cell::new(moved.refused_blocks.to_string(), refused)),
        ("stale answers", Cell::new(status.stale_served.to_string(), stale)),
    ];
    let mut table = Table::bare(2);
    for (name, cell) in lines {
        table.row([Cell::new(name, Tone::Strong), cell]);
    }
    for (origin, left) in &status.paused_ms {
        let left = units::duration(Duration::from_millis(*left));
        let paused = Cell::new(format!("{origin}, for another {left}"), Tone::Busy);
        table.row([Cell::new("paused origin", Tone::Strong), paused]);
    }
    table.render(paint)
}

/// A table of members.
pub fn members(members: &[Member], paint: Paint) -> String {
    let mut table = Table::new(["NODE", "ZONE", "STATE", "ADDRESS", ">FUNCTIONS", "VERSION"]);
    for member in members {
        let (state, tone) = match member.state {
            MemberState::Alive => ("alive", Tone::Good),
            MemberState::Suspect => ("suspect", Tone::Busy),
            MemberState::Leaving => ("leaving", Tone::Faint),
        };
        table.row([
            member.node.as_str().into(),
            member.zone.as_str().into(),
            Cell::new(state, tone),
            member.address.to_string().into(),
            member.functions.to_string().into(),
            member.version.as_str().into(),
        ]);
    }
    table.render(paint)
}

/// A table of functions, and below it why any of them failed.
pub fn functions(functions: &[Function], paint: Paint) -> String {
    if functions.is_empty() {
        return "No functions yet. `faasnet pull REF` provisions one.\n".into();
    }
    let columns =
        ["REFERENCE", "FUNCTION", "STATE", ">SIZE", ">HELD", ">ORIGIN", ">PEERS", "PARENT", ">TIME"];
    let mut table = Table::new(columns);
    for function in functions {
        let (state, tone) = match function.state {
            FunctionState::Provisioning => ("provisioning", Tone::Busy),
            FunctionState::Ready => ("ready", Tone::Good),
            FunctionState::Failed => ("failed", Tone::Bad),
        };
        table.row([
            function.reference.to_string().into(),
            Cell::new(short(&function.function), Tone::Faint),
            Cell::new(state, tone),
            units::bytes(function.bytes).into(),
            percent(function.held_bytes, function.bytes).into(),
            units::bytes(function.origin_bytes).into(),
            units::bytes(function.peer_bytes).into(),
            function.parent.as_ref().map_or("-", |parent| parent.as_str()).into(),
            elapsed(function).into(),
        ]);
    }
    let mut text = table.render(paint);
    for function in functions {
        if let Some(error) = &function.error {
            let error = table::printable(error);
            text.push_str(&paint.apply(&format!("{}: {error}", function.reference), Tone::Bad));
            text.push('\n');
        }
    }
    text
}

/// What a refresh has brought, in one line.
pub fn refreshed(refreshed: &Refreshed) -> String {
    let Refreshed { reference, was, now } = refreshed;
    match was {
        Some(was) if was == now => format!("{reference} is unchanged: {now}"),
        Some(was) => format!("{reference} was {was}, is now {now}"),
        None => format!("{reference} is {now}; this node had not asked for it before"),
    }
}

/// How a provisioning ended, in one line.
pub fn outcome(function: &Function) -> String {
    let reference = &function.reference;
    let size = units::bytes(function.bytes);
    let time = elapsed(function);
    match function.state {
        FunctionState::Ready => {
            let moved = function.origin_bytes.saturating_add(function.peer_bytes);
            if moved == 0 {
                return format!("{reference} is ready: all {size} were here already");
            }
            let here = function.bytes.saturating_sub(moved);
            let mut parts = came_from(function);
            if here > 0 {
                parts.push(format!("{} were here already", units::bytes(here)));
            }
            format!("{reference} is ready after {time}: {size}, {}", parts.join(", "))
        }
        FunctionState::Failed => {
            let reason = table::printable(function.error.as_deref().unwrap_or("no reason is known"));
            let held = units::bytes(function.held_bytes);
            format!("{reference} failed after {time}, with {held} of {size} held: {reason}")
        }
        FunctionState::Provisioning => format!("{reference} is being provisioned"),
    }
}

/// Where a function's bytes came from, in words: `1.0 MiB from the origin`, `3.0 MiB from vm-2`.
pub fn came_from(function: &Function) -> Vec<String> {
    let mut parts = Vec::new();
    if function.origin_bytes > 0 {
        parts.push(format!("{} from the origin", units::bytes(function.origin_bytes)));
    }
    if function.peer_bytes > 0 {
        let peers: Vec<&String> = function.sources.keys().filter(|source| *source != "origin").collect();
        let from = match peers[..] {
            [] => "peers".to_owned(),
            [one] => table::printable(one),
            _ => format!("{} members", peers.len()),
        };
        parts.push(format!("{} from {from}", units::bytes(function.peer_bytes)));
    }
    parts
}

/// A function's digest as far as people need it, as docker shortens image ids: 12 digits.
fn short(function: &FunctionId) -> String {
    function.to_string().trim_start_matches("sha256:").chars().take(12).collect()
}

fn elapsed(function: &Function) -> String {
    units::duration(Duration::from_millis(function.elapsed_ms))
}

/// Rounded down, so that 100% means all.
fn percent(part: u64, whole: u64) -> String {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    format!("{}%", if whole == 0 { 100 } else { percent })
}

fn participation(state: ParticipationState) -> (&'static str, Tone) {
    match state {
        ParticipationState::Provisioning => ("provisioning", Tone::Busy),
        ParticipationState::Ready => ("ready", Tone::Good),
    }
}

#[cfg(test)]
mod tests {
    use transfer::counters::Counts;

    use super::*;

    fn function(state: FunctionState) -> Function {
        Function {
            function: FunctionId::from_bytes([0xab; 32]),
            reference: "alpine:3.20".parse().unwrap(),
            state,
            bytes: 100 << 20,
            held_bytes: 40 << 20,
            origin_bytes: 10 << 20,
            peer_bytes: 30 << 20,
            elapsed_ms: 1240,
            parent: "vm-2".parse().ok(),
            depth: Some(1),
            participants: 3,
            sources: [("origin".into(), 10 << 20), ("vm-2".into(), 20 << 20), ("vm-3".into(), 10 << 20)]
                .into(),
            error: None,
        }
    }

    #[test]
    fn a_status_has_a_line_for_each_side() {
        let sample = Status {
            node: "vm-1".parse().unwrap(),
            incarnation: 3,
            zone: "a".parse().unwrap(),
            version: "0.1.0".into(),
            address: "10.0.0.1:7400".parse().unwrap(),
            http: "127.0.0.1:7401".parse().unwrap(),
            ready: true,
            members: 12,
            functions: 2,
            store_bytes: 5 << 30,
            transfer: Counts { origin_bytes: 1, peer_bytes: 2048, refused_blocks: 1, ..Counts::default() },
            paused_ms: [("quay.io".to_owned(), 12_300), ("r:5000".to_owned(), 90_000)].into(),
            stale_served: 4,
        };
        let expected = "\
node               vm-1
state              ready
zone               a
version            0.1.0 (incarnation 3)
peers reach it at  10.0.0.1:7400
mirror and API     http://127.0.0.1:7401
members            12
functions          2
store              5.0 GiB
from origins       1 B
from peers         2.0 KiB
to peers           0 B
received twice     0 B
refused blocks     1
stale answers      4
paused origin      quay.io, for another 12.3 s
paused origin      r:5000, for another 1 min 30 s
";
        assert_eq!(status(&sample, Paint::Plain), expected);
    }

    #[test]
    fn a_refresh_says_what_it_changed() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64)).parse().unwrap();
        let [a, b] = ["a", "b"].map(|digit| format!("sha256:{}", digit.repeat(64)));
        for (was, expected) in [
            (Some(digest("a")), format!("docker.io/library/x:v1 was {a}, is now {b}")),
            (Some(digest("b")), format!("docker.io/library/x:v1 is unchanged: {b}")),
            (None, format!("docker.io/library/x:v1 is {b}; this node had not asked for it before")),
        ] {
            let sample = Refreshed { reference: "x:v1".parse().unwrap(), was, now: digest("b") };
            assert_eq!(refreshed(&sample), expected);
        }
    }

    #[test]
    fn members_stand_in_a_table() {
        let member = |node: &str, state, address: &str, version: &str| Member {
            node: node.parse().unwrap(),
            zone: "default".parse().unwrap(),
            state,
            address: address.parse().unwrap(),
            incarnation: 1,
            version: version.into(),
            functions: node.len(),
        };
        let sample = [
            member("vm-1", MemberState::Alive, "10.0.0.1:7400", "0.1.0"),
            member("a-long-name", MemberState::Suspect, "[fd00::1]:7400", "0.1.0\x1b[2J"),
            member("vm-3", MemberState::Leaving, "10.0.0.3:7400", "0.1.0"),
        ];
        let expected = "\
NODE         ZONE     STATE    ADDRESS         FUNCTIONS  VERSION
vm-1         default  alive    10.0.0.1:7400           4  0.1.0
a-long-name  default  suspect  [fd00::1]:7400         11  0.1.0\u{fffd}[2J
vm-3         default  leaving  10.0.0.3:7400           4  0.1.0
";
        assert_eq!(members(&sample, Paint::Plain), expected);
    }

    #[test]
    fn functions_stand_in_a_table_with_their_failures_below() {
        let failed = Function {
            parent: None,
            reference: "quay.io/team/app:v1".parse().unwrap(),
            error: Some("no source has layer sha256:12".into()),
            ..function(FunctionState::Failed)
        };
        let expected = "\
REFERENCE                      FUNCTION      STATE            SIZE  HELD    ORIGIN     PEERS  PARENT    TIME
docker.io/library/alpine:3.20  abababababab  provisioning  100 MiB   40%  10.0 MiB  30.0 MiB  vm-2    1.24 s
quay.io/team/app:v1            abababababab  failed        100 MiB   40%  10.0 MiB  30.0 MiB  -       1.24 s
quay.io/team/app:v1: no source has layer sha256:12
";
        let found = functions(&[function(FunctionState::Provisioning), failed], Paint::Plain);
        assert_eq!(found, expected);
        assert_eq!(functions(&[], Paint::Plain), "No functions yet. `faasnet pull REF` provisions one.\n");
    }

    #[test]
    fn an_outcome_says_what_came_from_where() {
        let check = |function: Function, expected: &str| assert_eq!(outcome(&function), expected);
        let ready = function(FunctionState::Ready);
        check(
            ready.clone(),
            "docker.io/library/alpine:3.20 is ready after 1.24 s: 100 MiB, 10.0 MiB from the origin, \
             30.0 MiB from 2 members, 60.0 MiB were here already",
        );
        check(
            Function {
                bytes: 30 << 20,
                origin_bytes: 0,
                sources: [("vm-2".into(), 1)].into(),
                ..ready.clone()
            },
            "docker.io/library/alpine:3.20 is ready after 1.24 s: 30.0 MiB, 30.0 MiB from vm-2",
        );
        check(
            Function { origin_bytes: 0, peer_bytes: 0, ..ready },
            "docker.io/library/alpine:3.20 is ready: all 100 MiB were here already",
        );
        check(
            Function { error: Some("no space left".into()), ..function(FunctionState::Failed) },
            "docker.io/library/alpine:3.20 failed after 1.24 s, with 40.0 MiB of 100 MiB held: no space left",
        );
    }

    #[test]
    fn percents_reach_100_only_when_all_is_there() {
        for (part, whole, expected) in [(0, 9, "0%"), (999, 1000, "99%"), (9, 9, "100%"), (0, 0, "100%")] {
            assert_eq!(percent(part, whole), expected);
        }
    }
}
