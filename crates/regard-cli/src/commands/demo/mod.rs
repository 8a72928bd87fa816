//! The whole story on data inside the program, one file a task.

mod classification;
mod reports;
mod summarization;
mod translation;
mod vision;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// The whole story in a minute or a few, on data inside the program: train, score, use, look into.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Which story.
    #[arg(value_enum, default_value = "classification")]
    task: Task,
    /// Folder for the data, the model and the report [default: demo, or demo-TASK].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Seed of data order, dropout and initial weights.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Task {
    /// A spam filter, from real e-mails
    Classification,
    /// Verses of the Bible, English into Spanish
    Translation,
    /// Reports and their headlines, made up by the program
    Summarization,
    /// Handwritten digits, 8 × 8 pixels each
    Vision,
}

impl Demo {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let out = |name: &str| self.out.clone().unwrap_or_else(|| PathBuf::from(name));
        match self.task {
            Task::Classification => classification::run(&out("demo"), self.seed),
            Task::Translation => translation::run(&out("demo-translation"), self.seed),
            Task::Summarization => summarization::run(&out("demo-summarization"), self.seed),
            Task::Vision => vision::run(&out("demo-vision"), self.seed),
        }
    }
}
