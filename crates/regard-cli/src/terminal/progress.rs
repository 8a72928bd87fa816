//! Progress of long work: a bar with rate and time left on a terminal, a line every few seconds elsewhere.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::OwoColorize;
use regard_tasks::trainer::{Event, Listener};

use super::{duration, heading, one_line, tell, thousands, warn};

/// Lines in a log come no faster than this.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Tells what a training run tells, and asks it to stop when the user has pressed Ctrl-C.
#[derive(Debug)]
pub(crate) struct TrainingProgress {
    bar: Option<ProgressBar>,
    last_line: Instant,
    stop: Arc<AtomicBool>,
    started: Instant,
}

impl TrainingProgress {
    /// Begins to listen; `stop` is set by the signal handler.
    pub(crate) fn new(stop: Arc<AtomicBool>) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("  {bar:28.cyan/dim} {percent:>3} %  {msg}");
            bar.with_style(
                style
                    .expect("the template is a constant")
                    .progress_chars("━╸─"),
            )
        });
        Self {
            bar,
            last_line: Instant::now(),
            stop,
            started: Instant::now(),
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell(text)),
            None => tell(text),
        }
    }

    /// Shows how far a work of known length is; `line` is for a log.
    fn advance(&mut self, done: u64, total: u64, facts: &str, line: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(facts.to_owned());
            }
            None if self.last_line.elapsed() >= BETWEEN_LINES => {
                self.last_line = Instant::now();
                tell(&format!("  {line}"));
            }
            None => {}
        }
    }
}

impl Listener for TrainingProgress {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Said(text) => self.say(&format!("  {text}")),
            Event::Warned(text) => match &self.bar {
                Some(bar) => bar.suspend(|| warn(text)),
                None => warn(text),
            },
            Event::Phase(name) => {
                if let Some(bar) = &self.bar {
                    bar.reset();
                    bar.set_draw_target(ProgressDrawTarget::hidden());
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                }
                self.last_line = Instant::now();
                self.say(&heading(&format!(
                    "{name}  {}",
                    format!("+{}", duration(self.started.elapsed().as_secs_f64())).dimmed()
                )));
            }
            Event::Counted { done, total, what } => {
                let [of, all] = [*done, *total].map(thousands);
                let line = format!("{of} of {all} {what}");
                self.advance(*done as u64, *total as u64, &line, &line);
            }
            Event::Stepped {
                step,
                steps,
                epoch,
                loss,
                per_second,
                unit,
                in_products,
                seconds_left,
                ..
            } => {
                let rate = thousands(*per_second as usize);
                let left = duration(*seconds_left);
                let products = in_products.map_or_else(String::new, |share| {
                    format!("{:.0} % in products  ", 100.0 * share)
                });
                let facts = format!(
                    "epoch {epoch:.1}  loss {loss:.3}  {rate} {unit}/s  {products}{left} left"
                );
                let [at, all] = [*step, *steps].map(|count| thousands(count as usize));
                let line = format!("step {at} of {all}  {facts}");
                self.advance(*step, *steps, &facts, &line);
            }
            Event::Validated {
                epoch,
                train_loss,
                loss,
                said,
                samples,
                best,
            } => {
                let mark = if *best {
                    "  best so far".green().to_string()
                } else {
                    String::new()
                };
                self.say(&format!(
                    "  epoch {epoch:>2}  training loss {train_loss:.3}  validation loss {loss:.3}  \
                     {said}{mark}"
                ));
                for sample in samples {
                    self.say(&format!("      {}", one_line(sample)));
                }
            }
            Event::Saved(folder) => {
                if let Some(bar) = &self.bar {
                    bar.finish_and_clear();
                }
                self.say(&format!("{} {}", heading("saved"), folder.display()));
            }
        }
    }

    fn stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for TrainingProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Counts rows of work whose amount is known.
#[derive(Debug)]
pub(crate) struct Counter {
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Instant,
    done: usize,
    total: usize,
}

impl Counter {
    pub(crate) fn new(total: usize) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            let template =
                "  {bar:28.cyan/dim} {human_pos} of {human_len} texts  {per_sec:.0}  {eta} left";
            let style = ProgressStyle::with_template(template).expect("the template is a constant");
            bar.with_style(style.progress_chars("━╸─"))
        });
        Self {
            bar,
            started: Instant::now(),
            last_line: Instant::now(),
            done: 0,
            total,
        }
    }

    pub(crate) fn add(&mut self, rows: usize) {
        self.done += rows;
        match &self.bar {
            Some(bar) => bar.inc(rows as u64),
            None if self.last_line.elapsed() >= BETWEEN_LINES => {
                self.last_line = Instant::now();
                let rate = self.done as f64 / self.started.elapsed().as_secs_f64();
                let left = duration((self.total - self.done.min(self.total)) as f64 / rate);
                let [done, total] = [self.done, self.total].map(thousands);
                tell(&format!(
                    "  {done} of {total} texts  {rate:.0} texts/s  {left} left"
                ));
            }
            None => {}
        }
    }

    /// Takes the bar away and says how fast it went.
    pub(crate) fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = self.done as f64 / seconds.max(1e-9);
        tell(&format!(
            "{} texts in {}, {rate:.0} texts/s",
            thousands(self.done),
            duration(seconds)
        ));
    }
}
