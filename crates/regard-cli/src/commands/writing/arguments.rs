use std::path::PathBuf;

use clap::Args;
use regard_tasks::sequence_to_sequence::{PairColumns, PairFiles, WritingOptions};

/// How a model writes; what is not said stays as the model folder has it.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Translation and summarization")]
pub(crate) struct WritingArguments {
    /// Hypotheses to follow; 1 = greedy [default: 5].
    #[arg(long, value_name = "N")]
    beam: Option<usize>,
    /// Texts to give back, the best first [default: 1].
    #[arg(long, value_name = "N")]
    n_best: Option<usize>,
    /// Exponent of the length that scores are divided by: larger prefers longer texts [default: 1].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    length_penalty: Option<f32>,
    /// Prefer texts that leave nothing of the source out, the more the larger: 0.2 is usual [default: 0].
    #[arg(long, value_name = "X")]
    coverage_penalty: Option<f32>,
    /// No run of N pieces occurs twice; 0 allows all [default: 3 for summaries, else 0].
    #[arg(long, value_name = "N")]
    no_repeat: Option<usize>,
    /// Makes pieces that were written less likely; 1 = off.
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// Pieces before a text may end.
    #[arg(long, value_name = "N")]
    min_length: Option<usize>,
    /// Pieces of a text at most.
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Words that every text begins with.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Draw lots at this temperature instead of searching.
    #[arg(long, value_name = "X")]
    temperature: Option<f32>,
    /// Draw among the N likeliest pieces; 0 = all.
    #[arg(long, value_name = "N", requires = "temperature")]
    top_k: Option<usize>,
    /// Draw among the likeliest pieces that together have this probability.
    #[arg(long, value_name = "P", requires = "temperature")]
    top_p: Option<f32>,
    /// Seed of the lots.
    #[arg(long, value_name = "N", requires = "temperature")]
    seed: Option<u64>,
}

impl WritingArguments {
    /// The model's own options with what was said over them.
    pub(super) fn over(&self, own: &WritingOptions) -> WritingOptions {
        let n_best = self.n_best.unwrap_or(own.n_best);
        WritingOptions {
            // As many hypotheses are followed as texts are asked for, unless a beam is.
            beam: self.beam.unwrap_or(own.beam.max(n_best)),
            n_best,
            length_penalty: self.length_penalty.unwrap_or(own.length_penalty),
            coverage_penalty: self.coverage_penalty.unwrap_or(own.coverage_penalty),
            no_repeat: self.no_repeat.unwrap_or(own.no_repeat),
            repetition_penalty: self.repetition_penalty.unwrap_or(own.repetition_penalty),
            min_length: self.min_length.unwrap_or(own.min_length),
            max_length: self.max_length.unwrap_or(own.max_length),
            prefix: self.prefix.clone().unwrap_or_else(|| own.prefix.clone()),
            temperature: self.temperature.or(own.temperature),
            top_k: self.top_k.unwrap_or(own.top_k),
            top_p: self.top_p.unwrap_or(own.top_p),
            seed: self.seed.unwrap_or(own.seed),
        }
    }

    /// Which of these were said: a model that does not write has no use for them.
    pub(crate) fn said(&self) -> [(&'static str, bool); 10] {
        [
            ("--beam", self.beam.is_some()),
            ("--n-best", self.n_best.is_some()),
            ("--length-penalty", self.length_penalty.is_some()),
            ("--coverage-penalty", self.coverage_penalty.is_some()),
            ("--no-repeat", self.no_repeat.is_some()),
            ("--repetition-penalty", self.repetition_penalty.is_some()),
            ("--min-length", self.min_length.is_some()),
            ("--max-length", self.max_length.is_some()),
            ("--prefix", self.prefix.is_some()),
            ("--temperature", self.temperature.is_some()),
        ]
    }
}

/// Where pairs are when they are not in one table with the columns of training.
#[derive(Debug, Args)]
#[command(next_help_heading = "Translation and summarization")]
pub(crate) struct PairArguments {
    /// Text file to read, a text a line, instead of a table.
    #[arg(
        long,
        value_name = "FILE",
        requires = "target",
        conflicts_with = "data"
    )]
    source: Option<PathBuf>,
    /// Text file with what should be written for the same lines.
    #[arg(long, value_name = "FILE", requires = "source")]
    target: Option<PathBuf>,
    /// Column that is read [default: inferred].
    #[arg(long, value_name = "NAME", conflicts_with = "source")]
    source_column: Option<String>,
    /// Column that should be written [default: inferred].
    #[arg(long, value_name = "NAME", conflicts_with = "source")]
    target_column: Option<String>,
}

impl PairArguments {
    /// The two text files, or else these tables.
    pub(crate) fn files(&self, tables: Vec<PathBuf>) -> PairFiles {
        match (&self.source, &self.target) {
            (Some(source), Some(target)) => PairFiles::Lines {
                source: source.clone(),
                target: target.clone(),
            },
            _ => PairFiles::Tables(tables),
        }
    }

    /// The columns that were named.
    pub(crate) fn columns(&self) -> PairColumns {
        PairColumns {
            source: self.source_column.clone(),
            target: self.target_column.clone(),
            group: None,
        }
    }

    /// Which of these were said.
    pub(crate) fn said(&self) -> [(&'static str, bool); 3] {
        [
            ("--source", self.source.is_some()),
            ("--source-column", self.source_column.is_some()),
            ("--target-column", self.target_column.is_some()),
        ]
    }
}
