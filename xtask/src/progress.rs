//! One line on standard error that says what is being done, and the notes that stay.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A spinner on a terminal; plain lines elsewhere (a CI log).
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    began: Instant,
}

impl Progress {
    /// Starts the clock.
    pub fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        let plain = bar.is_hidden();
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {wide_msg}") {
            bar.set_style(style);
        }
        if !plain {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Self {
            bar,
            plain,
            began: Instant::now(),
        }
    }

    /// What is being done now.
    pub fn step(&self, text: &str) {
        if self.plain {
            self.line(text);
        } else {
            self.bar.set_message(text.to_owned());
        }
    }

    /// Something the reader should still see when all is over.
    pub fn note(&self, text: &str) {
        if self.plain {
            self.line(text);
        } else {
            self.bar.println(text);
        }
    }

    /// A line of the result itself, on standard output.
    pub fn print(&self, text: &str) {
        self.bar.suspend(|| println!("{text}"));
    }

    fn line(&self, text: &str) {
        eprintln!("[{:6.1} s] {text}", self.began.elapsed().as_secs_f64());
    }

    /// Takes the spinner away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
