use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand, ValueEnum};
use regard_tasks::Precision;
use regard_tasks::columns::ColumnChoice;
use regard_tasks::report::{Report, TrainingFacts};
use regard_tasks::sequence_to_sequence::Kind;
use regard_tasks::text_classification::{self, ModelKind, Settings, TrainRequest};

use super::vision::Vision;
use super::writing::Pairs;
use crate::failure::{Interrupted, Usage};
use crate::settings;
use crate::terminal::{TrainingProgress, duration, heading, print, standings, tell};

/// Train a model on your own data.
#[derive(Debug, Args)]
pub(crate) struct Train {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Classification(Box<Classification>),
    Translation(Box<Translation>),
    Summarization(Box<Summarization>),
    Vision(Box<Vision>),
}

/// Learn to translate from pairs of texts: a table with two columns, or two text files line by line.
///
/// Nothing but the pairs and --out is needed: columns, vocabulary and sizes are inferred, said aloud, and can be set
/// otherwise. After every epoch some held-out texts are translated and shown.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  regard train translation --data pairs.tsv --out en-it\n  \
                        regard train translation --source train.en --target train.it --out en-it --minutes 30"
)]
struct Translation {
    #[command(flatten)]
    pairs: Pairs,
}

/// Learn to summarize from texts with their summaries (titles, headlines): a table, or two text files line by line.
///
/// Nothing but the pairs and --out is needed. Scores stand beside the first sentence and the first words of each text.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  regard train summarization --data articles.jsonl --out headlines"
)]
struct Summarization {
    #[command(flatten)]
    pairs: Pairs,
}

impl Train {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.task {
            Task::Classification(command) => command.run(),
            Task::Translation(command) => command.pairs.run(Kind::Translation),
            Task::Summarization(command) => command.pairs.run(Kind::Summarization),
            Task::Vision(command) => command.run(),
        }
    }
}

/// Learn to label texts from a table of texts and labels: CSV, TSV, JSON lines or Parquet.
///
/// Nothing but --data and --out is needed: columns, validation part, vocabulary and sizes are inferred, said aloud, and
/// can be set otherwise.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  regard train classification --data mails.csv --out model\n  \
                        regard train classification --data train.tsv --test test.tsv --out model --minutes 5\n  \
                        regard train classification --data a.jsonl b.jsonl --out model --set width=128 --set epochs=8"
)]
struct Classification {
    /// Files to learn from; more than one are read as one table.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Folder to write the model to.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// File to stop early on [default: a part of --data is held out].
    #[arg(long, value_name = "FILE")]
    validation: Option<PathBuf>,
    /// File to score the finished model on [default: the validation part].
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// Column of the texts [default: inferred].
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// Column of the labels [default: inferred].
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
    /// Column whose equal values stay on one side of the validation split (authors, sources).
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// TOML file of settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over the file's; `--set help=` lists all.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How much of attention the model has.
    #[arg(long, value_enum, value_name = "KIND")]
    model: Option<ModelChoice>,
    /// Fit model, text length and epochs to this many minutes on this machine.
    #[arg(long, value_name = "N")]
    minutes: Option<f64>,
    /// Continue the run that was interrupted in --out; it ends as if it had never been.
    #[arg(long)]
    resume: bool,
    /// Seed of data order, dropout and initial weights.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Where to compute.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: String,
    /// What matrix products are computed with; `regard bench` measures both.
    #[arg(long, value_enum, default_value = "auto", value_name = "PRECISION")]
    precision: PrecisionChoice,
    /// Do not train the rivals that the score stands beside (mean pooling, linear model).
    #[arg(long)]
    no_rivals: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModelChoice {
    /// Chosen from the data and the time there is
    Auto,
    /// Mean of the words, no attention
    Mean,
    /// Attention pooling over the words
    Pooling,
    /// A Transformer encoder under the attention pooling
    Transformer,
}

/// What matrix products of training are computed with.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PrecisionChoice {
    /// bf16 where the processor multiplies it faster (AMX), f32 elsewhere
    Auto,
    /// Single precision
    F32,
    /// Rounded to bf16, summed in f32
    Bf16,
}

impl From<PrecisionChoice> for Precision {
    fn from(choice: PrecisionChoice) -> Self {
        match choice {
            PrecisionChoice::Auto => Self::Auto,
            PrecisionChoice::F32 => Self::F32,
            PrecisionChoice::Bf16 => Self::Bf16,
        }
    }
}

impl Classification {
    fn run(self) -> anyhow::Result<()> {
        check_minutes(self.minutes)?;
        let mut settings: Settings = settings::read(self.config.as_deref(), &self.set)?;
        if let Some(kind) = self.model {
            settings.model = match kind {
                ModelChoice::Auto => ModelKind::Auto,
                ModelChoice::Mean => ModelKind::Mean,
                ModelChoice::Pooling => ModelKind::Pooling,
                ModelChoice::Transformer => ModelKind::Transformer,
            };
        }
        let request = TrainRequest {
            data: self.data,
            validation: self.validation,
            test: self.test,
            out: self.out,
            columns: ColumnChoice {
                text: self.text_column,
                label: self.label_column,
                group: self.group,
            },
            settings,
            minutes: self.minutes,
            seed: self.seed,
            resume: self.resume,
            device: self.device,
            precision: self.precision.into(),
            rivals: !self.no_rivals,
        };
        let report = train(&request, &resume_command())?;
        print(&summary(&report))?;
        tell(&next_steps(&request.out));
        Ok(())
    }
}

/// Refuses a budget that is none.
pub(super) fn check_minutes(minutes: Option<f64>) -> Result<(), Usage> {
    match minutes {
        Some(minutes) if !(minutes > 0.0 && minutes.is_finite()) => Err(Usage::new(format!(
            "--minutes: found {minutes}, expected a number larger than 0"
        ))),
        _ => Ok(()),
    }
}

/// Trains a classifier and shows how it goes.
pub(super) fn train(request: &TrainRequest, resume: &str) -> anyhow::Result<Report> {
    watched(resume, |progress| {
        text_classification::train(request, progress)
    })
}

/// Trains and shows how it goes; Ctrl-C leaves a checkpoint, and `resume` is the command that continues from it.
pub(super) fn watched<R>(
    resume: &str,
    train: impl FnOnce(&mut TrainingProgress) -> regard_tasks::Result<R>,
) -> anyhow::Result<R> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            // Asked twice: no more waiting for the step to end. Checkpoints are written whole or not at all.
            std::process::exit(130);
        }
        tell("\nstopping after this step; once more to stop at once");
    })?;
    let mut progress = TrainingProgress::new(stop);
    let trained = train(&mut progress);
    drop(progress);
    trained.map_err(|error| match error {
        regard_tasks::Error::Interrupted { step } => {
            let message =
                format!("training stopped after step {step}, and everything up to there is kept");
            Interrupted {
                message,
                help: format!("continue with\n{resume}"),
            }
            .into()
        }
        error => error.into(),
    })
}

/// The command line of this process, with `--resume`.
pub(super) fn resume_command() -> String {
    let mut words: Vec<String> = std::env::args().map(|word| quoted(&word)).collect();
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".to_owned());
    }
    words.join(" ")
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match word.is_empty() || !word.chars().all(plain) {
        true => format!("'{}'", word.replace('\'', r"'\''")),
        false => word.to_owned(),
    }
}

/// The scores and what they say.
pub(super) fn summary(report: &Report) -> String {
    let (model, training) = (&report.model, &report.training);
    let mut text = format!("{}\n", heading(&format!("scores on {}", report.scored_on)));
    text += &standings(
        &format!("this model ({})", model.kind),
        &report.scores,
        &report.rivals,
    );
    for verdict in &report.verdicts {
        text += &format!("  {verdict}\n");
    }
    text += &how_it_went(training);
    text
}

/// A line on how a run ended.
pub(super) fn how_it_went(training: &TrainingFacts) -> String {
    format!(
        "  {} epochs, {} steps in {}; epoch {} was kept; {}\n",
        training.epochs,
        training.steps,
        duration(training.seconds),
        training.best_epoch,
        training.stopped
    )
}

fn next_steps(folder: &Path) -> String {
    let folder = quoted(&folder.display().to_string());
    format!(
        "\nnow try\n  regard predict {folder} \"a text\"\n  regard explain {folder} \"a text\"\n  regard inspect {folder}\n\
         and open {folder}/report.html"
    )
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_word_is_quoted_as_a_shell_takes_it() {
        assert_eq!(
            ["a-b/c.csv", "two words", "it's", ""].map(quoted),
            ["a-b/c.csv", "'two words'", r"'it'\''s'", "''"]
        );
    }
}
