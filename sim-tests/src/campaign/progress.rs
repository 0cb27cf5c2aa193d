//! How far a command has come.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Says on standard error how far it has come: a bar on a terminal, else a line each tenth of the
/// way.
pub(super) struct Progress {
    name: &'static str,
    seeds: u64,
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn new(name: &'static str, seeds: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(seeds), ProgressDrawTarget::stderr());
        let style = "{prefix} [{bar:40}] {pos}/{len} seeds, {msg} failures, {eta} left";
        // A style that does not parse would be seen at once in every run; the default one does as
        // well.
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(name);
        bar.set_message("0");
        Self { name, seeds, bar }
    }

    pub(super) fn step(&self, seeds: u64, failures: u64) {
        if !self.bar.is_hidden() {
            self.bar.set_message(failures.to_string());
            self.bar.set_position(seeds);
        } else if (seeds * 10) / self.seeds > ((seeds - 1) * 10) / self.seeds {
            eprintln!(
                "{}: {seeds} of {} seeds, {failures} failures",
                self.name, self.seeds
            );
        }
    }

    /// Prints something else in between.
    pub(super) fn pause<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
