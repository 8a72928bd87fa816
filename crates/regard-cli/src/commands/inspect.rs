use std::path::PathBuf;

use clap::Args;
use regard_tasks::Task;
use regard_tasks::answers::{Inspection, Part};
use regard_tasks::image_recognition::ImageClassifier;
use regard_tasks::sequence_to_sequence::{self, Writer};
use regard_tasks::text_classification::TextClassifier;

use super::Does;
use crate::terminal::{Table, bar, heading, print, size, thousands};

/// What a model is made of: parameters, memory and operations, part by part.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The model folder.
    model: PathBuf,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (inspection, of) = match Does::of(&self.model)? {
            Does::Write => {
                let inspection = Writer::open(&self.model)?.inspect();
                if self.json {
                    return Ok(print(&(serde_json::to_string(&inspection)? + "\n"))?);
                }
                return Ok(print(&writer_shown(&inspection))?);
            }
            Does::Classify => (TextClassifier::open(&self.model)?.inspect(), A_TEXT),
            Does::See => (ImageClassifier::open(&self.model)?.inspect(), "a picture"),
        };
        if self.json {
            return Ok(print(&(serde_json::to_string(&inspection)? + "\n"))?);
        }
        Ok(print(&shown(&inspection, of))?)
    }
}

/// What a classifier's operations are counted for.
const A_TEXT: &str = "a text of the median length";

/// The same for a model that writes.
fn writer_shown(inspection: &sequence_to_sequence::Inspection) -> String {
    let part = |(name, parameters): &(String, usize)| Part {
        name: name.clone(),
        parameters: *parameters,
        bytes: 4 * parameters,
    };
    let inspection = Inspection {
        lines: inspection.lines.clone(),
        parts: inspection.parts.iter().map(part).collect(),
        parameters: inspection.parameters,
        bytes: 4 * inspection.parameters,
        operations: inspection.operations,
    };
    shown(&inspection, "20 pieces read and 20 written")
}

fn shown(inspection: &Inspection, of: &str) -> String {
    let mut facts = Table::new(["", ""]);
    for (name, value) in &inspection.lines {
        facts.row([name, value]);
    }
    let operations = inspection.operations;
    facts.row([
        "operations".to_owned(),
        format!("{} for {of}", amount(operations)),
    ]);
    let mut parts = Table::new(["part", ">parameters", ">memory", ""]);
    for part in &inspection.parts {
        let share = part.parameters as f64 / inspection.parameters.max(1) as f64;
        parts.row([
            part.name.clone(),
            thousands(part.parameters),
            size(part.bytes),
            bar(share, 24),
        ]);
    }
    parts.row([
        "together".to_owned(),
        thousands(inspection.parameters),
        size(inspection.bytes),
        String::new(),
    ]);
    format!(
        "{}\n{}\n{}\n{}",
        heading("the model"),
        facts.render(),
        heading("its parts"),
        parts.render()
    )
}

/// A large number of operations as people read it.
fn amount(operations: u64) -> String {
    match operations {
        0..10_000 => thousands(operations as usize),
        10_000..1_000_000 => format!("{:.0} thousand", operations as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} million", operations as f64 / 1e6),
        _ => format!("{:.1} billion", operations as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_memory_stand_part_by_part() {
        let part = |name: &str, parameters| Part {
            name: name.to_owned(),
            parameters,
            bytes: 4 * parameters,
        };
        let inspection = Inspection {
            lines: vec![
                ("kind".to_owned(), "pooling".to_owned()),
                ("width".to_owned(), "64".to_owned()),
            ],
            parts: vec![
                part("embedding.tokens", 1_280_000),
                part("pooling", 8_320),
                part("classes", 130),
            ],
            parameters: 1_288_450,
            bytes: 5_153_800,
            operations: 1_234_567,
        };
        let plain = anstream::adapter::strip_str(&shown(&inspection, A_TEXT)).to_string();
        insta::assert_snapshot!(plain, @r"
        the model
          kind        pooling
          width       64
          operations  1.2 million for a text of the median length

        its parts
          part              parameters     memory
          embedding.tokens   1,280,000     5.1 MB  ███████████████████████▉
          pooling                8,320    33.3 kB  ▏
          classes                  130  520 bytes  ▏
          together           1,288,450     5.2 MB
        ");
    }
}
