//! How far a verb has read its files.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on stderr, if that is a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    bytes_read: Arc<AtomicU64>,
}

impl Progress {
    pub(super) fn new(bytes: u64, bytes_read: Arc<AtomicU64>) -> Self {
        let bar = match (io::stderr().is_terminal(), bytes) {
            (false, _) => ProgressBar::hidden(),
            (true, 0) => ProgressBar::new_spinner(),
            (true, bytes) => ProgressBar::new(bytes),
        };
        let template = if bytes == 0 { "{spinner} {msg}" } else { "{bar:30} {bytes}/{total_bytes} {eta} {msg}" };
        // The template is right, and without it a bar has a style, too.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: bar.with_style(style), bytes_read }
    }

    pub(super) fn show(&self, lines: u64) {
        if self.bar.is_hidden() {
            return;
        }
        let rate = lines as f64 / self.bar.elapsed().as_secs_f64().max(0.001);
        self.bar.set_message(format!("{lines} lines, {rate:.0} lines/s"));
        self.bar.set_position(self.bytes_read.load(Ordering::Relaxed));
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
