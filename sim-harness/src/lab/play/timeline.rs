//! Which event is due, by the time and by how far the nodes are. Pure.

use crate::lab::scenario::Event;

/// What is still to happen.
pub(super) struct Timeline<'a> {
    events: &'a [Event],
    pending: Vec<Pending>,
}

/// One event that has not happened as often as it is to.
#[derive(Debug, Clone)]
struct Pending {
    index: usize,
    left: u32,
    /// In seconds; unknown as long as it waits for progress.
    due: Option<f64>,
}

impl<'a> Timeline<'a> {
    pub(super) fn new(events: &'a [Event]) -> Self {
        let pending = events.iter().enumerate().map(|(index, event)| {
            let due = event.at.progress.is_none().then_some(event.at.delay.as_secs_f64());
            Pending { index, left: event.times, due }
        });
        Self { events, pending: pending.collect() }
    }

    /// The events that are due, in the order of the file. Each is given as often as it was to happen by now.
    pub(super) fn due(&mut self, now: f64, progress: f64) -> Vec<usize> {
        let mut due = Vec::new();
        for pending in &mut self.pending {
            let event = &self.events[pending.index];
            if pending.due.is_none() && event.at.progress.is_some_and(|wanted| progress >= wanted) {
                pending.due = Some(now + event.at.delay.as_secs_f64());
            }
            while let Some(at) = pending.due.filter(|at| *at <= now && pending.left > 0) {
                due.push(pending.index);
                pending.left -= 1;
                pending.due = Some(at + event.every.as_secs_f64());
            }
        }
        self.pending.retain(|pending| pending.left > 0);
        due
    }

    /// Whether everything has happened.
    pub(super) fn is_over(&self) -> bool {
        self.pending.is_empty()
    }

    /// The events that have not happened, or not as often as they were to.
    pub(super) fn pending(&self) -> impl Iterator<Item = usize> {
        self.pending.iter().map(|pending| pending.index)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lab::scenario::Action;
    use crate::lab::scenario::words::Moment;

    fn event(at: &str, every_ms: u64, times: u32) -> Event {
        let at: Moment = at.parse().unwrap();
        Event { at, action: Action::Heal, every: Duration::from_millis(every_ms), times }
    }

    #[test]
    fn events_come_when_they_are_due() {
        let events = [event("0 s", 0, 1), event("50%", 0, 1), event("50% + 2 s", 0, 1), event("1 s", 500, 3)];
        let mut timeline = Timeline::new(&events);
        assert_eq!(timeline.due(0.0, 0.0), [0]);
        assert!(timeline.due(0.9, 0.4).is_empty());
        assert_eq!(timeline.due(1.0, 0.5), [1, 3]);
        assert!(timeline.due(1.1, 0.6).is_empty());
        // Late, and twice at once; and progress that was reached stays reached.
        assert_eq!(timeline.due(2.0, 0.1), [3, 3]);
        assert!(!timeline.is_over());
        assert_eq!(timeline.pending().collect::<Vec<_>>(), [2]);
        assert_eq!(timeline.due(3.0, 0.1), [2]);
        assert!(timeline.is_over());
    }
}
