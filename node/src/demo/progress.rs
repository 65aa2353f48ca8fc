//! A bar per node or client while a pull runs, on a terminal only.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

/// The bars of one pull. They go when it is dropped.
pub struct Bars {
    all: MultiProgress,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Bars {
    /// How often a bar is brought up to date.
    pub const INTERVAL: Duration = Duration::from_millis(50);

    /// Bars on standard error, or nowhere if that is no terminal or `quiet`.
    pub fn new(quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Self { all: MultiProgress::with_draw_target(target), bars: Mutex::default() }
    }

    /// Makes a bar for each name, in this order.
    pub fn announce(&self, names: impl IntoIterator<Item = String>) {
        for name in names {
            let bar = self.all.add(ProgressBar::no_length().with_style(style()).with_prefix(name.clone()));
            bar.tick();
            self.bars.lock().insert(name, bar);
        }
    }

    /// Shows how far `name` is, in bytes.
    pub fn show(&self, name: &str, done: u64, total: u64) {
        if let Some(bar) = self.bars.lock().get(name) {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        // Fails only if the terminal is gone, and then so are the bars.
        let _ = self.all.clear();
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:>9} {wide_bar:.cyan/dim} {bytes:>10} of {total_bytes:<10}")
        .map(|style| style.progress_chars("━━─"))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
