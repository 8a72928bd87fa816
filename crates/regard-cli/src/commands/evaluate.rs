use std::path::PathBuf;

use clap::Args;
use regard_tasks::Task;
use regard_tasks::columns::ColumnChoice;
use regard_tasks::tables::Table;
use regard_tasks::text_classification::TextClassifier;

use super::vision::{self, ScoreArguments};
use super::writing::{self, PairArguments, WritingArguments};
use super::{Does, VISION, WRITING, refuse};
use crate::failure::Usage;
use crate::terminal::{confusions, heading, note, per_class, print, standings};

/// Score a model on a table of texts and labels, on pairs, or on pictures, beside simpler rivals.
#[derive(Debug, Args)]
pub(crate) struct Evaluate {
    /// The model folder.
    model: PathBuf,
    /// The table: CSV, TSV, JSON lines or Parquet; for pictures also a folder.
    #[arg(long, value_name = "FILE", required_unless_present = "source")]
    data: Option<PathBuf>,
    /// Column of the texts [default: the one the model was trained on].
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// Column of the labels [default: the one the model was trained on].
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
    #[command(flatten)]
    pairs: PairArguments,
    #[command(flatten)]
    writing: WritingArguments,
    #[command(flatten)]
    vision: ScoreArguments,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

impl Evaluate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let texts = [("--text-column", self.text_column.is_some())];
        let labels = [("--label-column", self.label_column.is_some())];
        match Does::of(&self.model)? {
            Does::Classify => {
                refuse(&self.pairs.said(), WRITING)?;
                refuse(&self.writing.said(), WRITING)?;
                refuse(&self.vision.said(), VISION)?;
                self.classified()
            }
            Does::Write => {
                refuse(&texts, "classification")?;
                refuse(&labels, "classification and image recognition")?;
                refuse(&self.vision.said(), VISION)?;
                let files = self.pairs.files(self.data.into_iter().collect());
                let columns = self.pairs.columns();
                writing::evaluate(&self.model, &files, &columns, &self.writing, self.json)
            }
            Does::See => {
                refuse(&texts, "classification")?;
                refuse(&self.pairs.said(), WRITING)?;
                refuse(&self.writing.said(), WRITING)?;
                let data = self
                    .data
                    .ok_or_else(|| Usage::new("--data is needed: the pictures to score on"))?;
                vision::evaluate(
                    &self.model,
                    &data,
                    self.label_column,
                    self.vision,
                    self.json,
                )
            }
        }
    }

    fn classified(self) -> anyhow::Result<()> {
        let model = TextClassifier::open(&self.model)?;
        let data = self
            .data
            .ok_or_else(|| Usage::new("--data is needed: the table to score on"))?;
        let table = Table::read(&data)?;
        let columns = ColumnChoice {
            text: self.text_column,
            label: self.label_column,
            group: None,
        };
        let (scores, rivals, notes) = model.evaluate(&table, &columns)?;
        for line in &notes {
            note(line);
        }
        if self.json {
            let answer = serde_json::json!({ "scores": scores, "rivals": rivals, "notes": notes });
            return Ok(print(&(answer.to_string() + "\n"))?);
        }
        let mut text = format!("{}\n", heading("scores"));
        text += &standings(
            &format!("this model ({})", model.report().model.kind),
            &scores,
            &rivals,
        );
        text += &format!("\n{}\n", heading("by class"));
        text += &per_class(&scores);
        text += &format!("\n{}\n", heading("what was taken for what"));
        text += &confusions(&scores);
        Ok(print(&text)?)
    }
}
