use std::path::PathBuf;

use clap::Args;
use regard_tasks::sequence_to_sequence::{
    self, Kind, PairColumns, PairFiles, PairReport, TrainRequest,
};

use super::scores_table;
use crate::commands::train::{
    PrecisionChoice, check_minutes, how_it_went, quoted, resume_command, watched,
};
use crate::settings;
use crate::terminal::{heading, print, tell};

/// What training from pairs is asked for; the same for translation and summarization.
#[derive(Debug, Args)]
pub(crate) struct Pairs {
    /// Tables of pairs to learn from: CSV, TSV, JSON lines or Parquet; more than one are read as one.
    #[arg(long, required_unless_present = "source", num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Text file to read, a text a line, instead of a table; may be gzipped.
    #[arg(
        long,
        value_name = "FILE",
        requires = "target",
        conflicts_with = "data"
    )]
    source: Option<PathBuf>,
    /// Text file with what is to be written for the same lines.
    #[arg(long, value_name = "FILE", requires = "source")]
    target: Option<PathBuf>,
    /// Folder to write the model to.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Table of pairs to stop early on [default: a part of the data is held out].
    #[arg(long, value_name = "FILE")]
    validation: Option<PathBuf>,
    /// Table of pairs to score the finished model on [default: the validation part].
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// Column that is read [default: inferred].
    #[arg(long, value_name = "NAME", conflicts_with = "source")]
    source_column: Option<String>,
    /// Column that is to be written [default: inferred].
    #[arg(long, value_name = "NAME", conflicts_with = "source")]
    target_column: Option<String>,
    /// Column whose equal values stay on one side of the validation split.
    #[arg(long, value_name = "NAME", conflicts_with = "source")]
    group: Option<String>,
    /// TOML file of settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over the file's; `--set help=` lists all.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Fit the number of epochs to this many minutes on this machine.
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
}

impl Pairs {
    pub(crate) fn run(self, kind: Kind) -> anyhow::Result<()> {
        check_minutes(self.minutes)?;
        let tables = |path: PathBuf| PairFiles::Tables(vec![path]);
        let request = TrainRequest {
            kind,
            data: match (self.source, self.target) {
                (Some(source), Some(target)) => PairFiles::Lines { source, target },
                _ => PairFiles::Tables(self.data),
            },
            validation: self.validation.map(tables),
            test: self.test.map(tables),
            out: self.out,
            columns: PairColumns {
                source: self.source_column,
                target: self.target_column,
                group: self.group,
            },
            settings: settings::read(self.config.as_deref(), &self.set)?,
            minutes: self.minutes,
            seed: self.seed,
            resume: self.resume,
            device: self.device,
            precision: self.precision.into(),
        };
        let report = watched(&resume_command(), |progress| {
            sequence_to_sequence::train(&request, progress)
        })?;
        print(&summary(&report))?;
        let folder = quoted(&request.out.display().to_string());
        tell(&format!(
            "\nnow try\n  regard predict {folder} \"a text\"\n  regard explain {folder} \"a text\"\n\
             and open {folder}/report.html"
        ));
        Ok(())
    }
}

/// The scores of a finished run and how it came about.
pub(crate) fn summary(report: &PairReport) -> String {
    let mut text = format!("{}\n", heading(&format!("scores on {}", report.scored_on)));
    text += &scores_table(&report.scores, &report.rivals);
    for verdict in &report.verdicts {
        text += &format!("  {verdict}\n");
    }
    text += &how_it_went(&report.training);
    text
}
