//! One page of metrics in the making: values that are known already, under names, help and labels.
//!
//! A page is made for one scrape and thrown away, so that nothing is shown that is no longer so.

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, Opts, Registry, TextEncoder};

/// What a page asks of those who write on it, and a test holds.
const SOUND: &str = "metrics have sound names, and no series twice";

/// The page.
#[derive(Default)]
pub(super) struct Page(Registry);

impl Page {
    /// Values that only ever rise while the node runs.
    pub(super) fn counters<'a, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        rows: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) {
        let counters = CounterVec::new(Opts::new(name, help), &labels).expect(SOUND);
        for (values, value) in rows {
            counters.with_label_values(&values).inc_by(value);
        }
        self.add(counters);
    }

    /// Values that rise and fall.
    pub(super) fn gauges<'a, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        rows: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) {
        let gauges = GaugeVec::new(Opts::new(name, help), &labels).expect(SOUND);
        for (values, value) in rows {
            gauges.with_label_values(&values).add(value);
        }
        self.add(gauges);
    }

    /// What counts by itself.
    pub(super) fn add(&self, collector: impl Collector + 'static) {
        self.0.register(Box::new(collector)).expect(SOUND);
    }

    /// The page as text.
    pub(super) fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.0.gather()).expect(SOUND)
    }
}
