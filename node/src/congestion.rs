//! Congestion control that shares this node's uplink evenly among the peers that it sends to.
//!
//! Each connection runs CUBIC. Left alone, two of them that share a link take many seconds to come to equal shares, longer than an image
//! takes, and never do where their round trips differ: a child that passes on what it gets has its acknowledgements wait behind that. In
//! a tree everybody waits for the one that has less. All of a node's connections meet here, so each sees whether it gets more or less
//! than its like, and scales the window of its own controller down or up until they are even.
//!
//! Loss goes on to rule what they get in sum. A connection that lacks data, or is slow for a reason of its own, like gossip or a peer on
//! a slow link, is no competitor, and takes nothing from the others.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

/// How often a connection looks at the others: after several round trips.
const PERIOD: Duration = Duration::from_millis(100);

/// What the newest period counts in the smoothed rate: its noise is gone in half a second, which is much less than an image takes.
const NEWEST: f64 = 0.25;

/// A connection below this share of the busiest one's rate is no competitor.
const COMPETES: f64 = 0.3;

/// How much of the ratio to the others is made up for in one period. More would swing.
const GAIN: f64 = 0.4;

/// How far a window is scaled at most, up or down: more than twice the difference in round trips that a full queue on one way makes.
const MOST: f64 = 2.5;

/// The connections of one node.
#[derive(Default)]
pub(crate) struct FairShares {
    flows: Mutex<Vec<Weak<Flow>>>,
}

/// One connection, as the others see it: the bytes that it delivers in a second, or 0 when it lacks data to send.
#[derive(Default)]
struct Flow(AtomicU64);

impl Flow {
    fn rate(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl FairShares {
    /// What a connection with this rate has to be scaled by, to get as much as those that compete with it, if any does.
    fn correction(&self, own: u64) -> Option<f64> {
        let mut rates = Vec::new();
        self.flows.lock().retain(|flow| {
            let flow = flow.upgrade();
            rates.extend(flow.as_ref().map(|flow| flow.rate()));
            flow.is_some()
        });
        correction(own, &rates)
    }
}

fn correction(own: u64, rates: &[u64]) -> Option<f64> {
    let busiest = rates.iter().copied().max().unwrap_or(0) as f64;
    let competes = |rate: u64| rate > 0 && rate as f64 >= COMPETES * busiest;
    let (count, sum) = rates
        .iter()
        .filter(|rate| competes(**rate))
        .fold((0, 0), |(count, sum), rate| (count + 1, sum + rate));
    (competes(own) && count > 1).then(|| sum as f64 / f64::from(count) / own as f64)
}

impl ControllerFactory for FairShares {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Arc::new(CubicConfig::default()).build(now, current_mtu);
        Box::new(Fair::new(self, cubic, now))
    }
}

/// The controller of one connection.
struct Fair {
    shares: Arc<FairShares>,
    cubic: Box<dyn Controller>,
    flow: Arc<Flow>,
    period: Period,
    /// The smoothed rate, in bytes per second.
    rate: f64,
    /// What the own controller's window is scaled by.
    scale: f64,
}

/// What was delivered since it began, in bytes.
struct Period {
    begun: Instant,
    delivered: u64,
    /// The part of it after which there was nothing more to send.
    without_data: u64,
}

impl Period {
    fn new(begun: Instant) -> Self {
        Self { begun, delivered: 0, without_data: 0 }
    }
}

impl Fair {
    fn new(shares: Arc<FairShares>, cubic: Box<dyn Controller>, now: Instant) -> Self {
        let flow = Arc::new(Flow::default());
        shares.flows.lock().push(Arc::downgrade(&flow));
        Self { shares, cubic, flow, period: Period::new(now), rate: 0.0, scale: 1.0 }
    }

    fn end_period(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.period.begun).as_secs_f64();
        let period = std::mem::replace(&mut self.period, Period::new(now));
        self.rate += NEWEST * (period.delivered as f64 / passed - self.rate);
        let lacks_data = 2 * period.without_data > period.delivered;
        self.flow.0.store(if lacks_data { 0 } else { self.rate as u64 }, Ordering::Relaxed);
        // Alone, it goes back to what its own controller says.
        let wanted = self.shares.correction(self.flow.rate()).unwrap_or(1.0 / self.scale);
        self.scale = (self.scale * wanted.powf(GAIN)).clamp(1.0 / MOST, MOST);
    }
}

impl Controller for Fair {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.period.delivered += bytes;
        if app_limited {
            self.period.without_data += bytes;
        }
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
        if now.saturating_duration_since(self.period.begun) >= PERIOD {
            self.end_period(now);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.cubic.on_congestion_event(now, sent, is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let own = self.cubic.window();
        // Never scaled down below what a connection begins with.
        ((own as f64 * self.scale) as u64).max(own.min(self.initial_window()))
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self::new(self.shares.clone(), self.cubic.clone_box(), self.period.begun))
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair of connections that each delivered so much in each of so many periods; and what their windows are scaled by.
    fn pair(rates: [u64; 2], app_limited: bool, periods: u32) -> [f64; 2] {
        let (shares, mut now) = (Arc::new(FairShares::default()), Instant::now());
        let mut pair = [(); 2].map(|()| -> Fair {
            *shares.clone().build(now, 1_200).into_any().downcast().expect("it is what was built")
        });
        for _ in 0..periods {
            now += PERIOD;
            for (fair, rate) in pair.iter_mut().zip(rates) {
                fair.period.delivered = rate / 10;
                fair.period.without_data = if app_limited { fair.period.delivered } else { 0 };
                fair.on_end_acks(now, 0, app_limited, None);
            }
        }
        pair.map(|fair| fair.scale)
    }

    #[test]
    fn who_has_more_gives_way_and_who_has_less_is_helped() {
        let [more, less] = pair([6_000_000, 4_000_000], false, 10);
        assert!(more < 0.9 && less > 1.1, "{more} {less}");
        assert_eq!(pair([6_000_000, 4_000_000], false, 1_000), [1.0 / MOST, MOST], "within bounds");
        assert_eq!(correction(5, &[5, 5]), Some(1.0), "who is even stays as it is");
    }

    #[test]
    fn who_does_not_compete_changes_nothing() {
        assert_eq!(pair([6_000_000, 1_000_000], false, 10), [1.0, 1.0], "a peer on a slow link");
        assert_eq!(pair([6_000_000, 4_000_000], true, 10), [1.0, 1.0], "peers that wait for data");
        assert_eq!(correction(7, &[7]), None);
        assert_eq!(correction(0, &[0, 0]), None);
    }

    #[test]
    fn alone_again_a_connection_is_as_its_controller_says() {
        let (shares, mut now) = (Arc::new(FairShares::default()), Instant::now());
        let mut fair = Fair::new(shares.clone(), Arc::new(CubicConfig::default()).build(now, 1_200), now);
        fair.scale = MOST;
        assert_eq!(fair.window(), (fair.cubic.window() as f64 * MOST) as u64);
        for _ in 0..100 {
            now += PERIOD;
            fair.period.delivered = 500_000;
            fair.on_end_acks(now, 0, false, None);
        }
        assert_eq!(fair.window(), fair.cubic.window());
        fair.scale = 1.0 / MOST;
        assert_eq!(fair.window(), fair.initial_window(), "no less than it began with");
        assert_eq!(shares.flows.lock().len(), 1);
    }
}
