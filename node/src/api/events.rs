//! Tells how a provisioning goes on, as server-sent events.

use std::future::Future;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};

use super::{Function, FunctionState};
use crate::node::Node;

/// How often progress is reported at most: five times a second look smooth to people, and a thousand watchers cost
/// little.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
/// How long an event stream stays silent at most. Well below the patience of [`crate::client`] and of proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Whether a client asks for events.
pub(super) fn are_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let essence = range.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("text/event-stream")
    })
}

/// The events about a function that `node` provisions, of which `first` is known.
pub(super) fn follow(node: Node, first: Function) -> Response {
    let id = first.function;
    let watched = node.clone();
    let finished = async move { watched.finished(id).await };
    let events = reports(first, move || node.function(id), finished)
        .map(|(name, function)| Event::default().event(name).json_data(function));
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// The events about one provisioning: `progress` at once and whenever `look` shows a change, at most once in
/// [`PROGRESS_PERIOD`]; then `done` or `failed`, and nothing more.
fn reports(
    first: Function,
    look: impl Fn() -> Option<Function>,
    finished: impl Future<Output = Option<Function>>,
) -> impl Stream<Item = (&'static str, Function)> {
    let opening = stream::iter([("progress", first.clone())]);
    let state = Some((first, look, Box::pin(finished)));
    opening.chain(stream::unfold(state, |state| async move {
        let (mut shown, look, mut finished) = state?;
        loop {
            tokio::select! {
                biased;
                last = &mut finished => {
                    let last = last.unwrap_or_else(|| dropped(shown));
                    let name = if last.state == FunctionState::Failed { "failed" } else { "done" };
                    return Some(((name, last), None));
                }
                () = tokio::time::sleep(PROGRESS_PERIOD) => {}
            }
            if let Some(now) = look().filter(|now| has_changed(&shown, now)) {
                shown.clone_from(&now);
                return Some((("progress", now), Some((shown, look, finished))));
            }
        }
    }))
}

/// Time alone always goes on.
fn has_changed(shown: &Function, now: &Function) -> bool {
    Function { elapsed_ms: shown.elapsed_ms, ..now.clone() } != *shown
}

/// What to say of a function that its node no longer knows.
fn dropped(shown: Function) -> Function {
    let error = Some("it was dropped while it was provisioned".into());
    Function { state: FunctionState::Failed, error, ..shown }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use axum::http::HeaderValue;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[test]
    fn events_are_sent_to_those_who_ask() {
        let rows = [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("application/json", false),
            ("*/*", false),
            ("", false),
        ];
        for (accept, expected) in rows {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(are_wanted(&headers), expected, "{accept}");
        }
        assert!(!are_wanted(&HeaderMap::new()));
    }

    fn function(state: FunctionState, held_bytes: u64) -> Function {
        Function {
            function: membership::FunctionId::from_bytes([1; 32]),
            reference: "alpine".parse().unwrap(),
            state,
            bytes: 100,
            held_bytes,
            origin_bytes: 0,
            peer_bytes: held_bytes,
            elapsed_ms: 0,
            parent: None,
            depth: None,
            participants: 1,
            sources: Default::default(),
            error: None,
        }
    }

    /// The times in milliseconds, names and held bytes of the reports about a function that changes at these times
    /// and is finished at `end`.
    async fn watch(
        changes: &[(u64, u64)],
        end: u64,
        last: Option<Function>,
    ) -> Vec<(u64, &'static str, u64)> {
        let start = Instant::now();
        let passed = || start.elapsed().as_millis() as u64;
        let shown = RefCell::new(Vec::new());
        let look = || {
            let held = changes.iter().rfind(|(at, _)| *at <= passed()).map_or(0, |(_, held)| *held);
            let elapsed_ms = passed();
            Some(Function { elapsed_ms, ..function(FunctionState::Provisioning, held) })
        };
        let finished = async {
            sleep(Duration::from_millis(end)).await;
            last
        };
        let first = function(FunctionState::Provisioning, 0);
        reports(first, look, finished)
            .for_each(|(name, function)| {
                shown.borrow_mut().push((passed(), name, function.held_bytes));
                std::future::ready(())
            })
            .await;
        shown.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_reported_when_it_changes_and_not_too_often() {
        let changes = [(10, 1), (20, 2), (30, 3), (900, 50)];
        let done = Some(function(FunctionState::Ready, 100));
        let expected =
            [(0, "progress", 0), (200, "progress", 3), (1000, "progress", 50), (1100, "done", 100)];
        assert_eq!(watch(&changes, 1100, done).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_report_says_how_it_ended() {
        let failed = Some(function(FunctionState::Failed, 7));
        assert_eq!(watch(&[], 50, failed).await, [(0, "progress", 0), (50, "failed", 7)]);
        assert_eq!(
            watch(&[(1, 5)], 300, None).await,
            [(0, "progress", 0), (200, "progress", 5), (300, "failed", 5)]
        );
    }
}
