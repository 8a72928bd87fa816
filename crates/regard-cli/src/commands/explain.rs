use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use regard_tasks::Task;
use regard_tasks::report::explanation_html;
use regard_tasks::text_classification::{Explanation, TextClassifier};

use super::{Does, VISION, WRITING, refuse, vision, writing};
use crate::terminal::{attended_line, attended_list, colour, heading, note, one_line, print, tell};

/// Show what a model looked at: the words of a text, or the places of a picture.
///
/// For translation and summarization: a matrix of the words that were written and the words they looked at. For pictures:
/// a map, in the terminal and with --out over the picture.
///
/// On a terminal with colour: the text, each word on a background as strong as its attention, and the words with the
/// most. Without colour: the list only.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The model folder.
    model: PathBuf,
    /// The text, `-` reads it from standard input; or the picture's file.
    text: String,
    /// Look at how this text would be written, instead of what the model writes (translation, summarization).
    #[arg(long, value_name = "TEXT")]
    target: Option<String>,
    /// Which position speaks for a written word (translation, summarization).
    #[arg(long, value_enum, value_name = "READING")]
    reading: Option<writing::Reading>,
    /// Layer to look at, from 0 [default: the mean of all] (translation, summarization, pictures with --method attention).
    #[arg(long, value_name = "N")]
    layer: Option<usize>,
    /// Head to look at, from 0 [default: the mean of all] (as --layer).
    #[arg(long, value_name = "N")]
    head: Option<usize>,
    /// Links to compare with, as `0-0 1-2`: source word, target word; prints the alignment error rate.
    #[arg(long, value_name = "LINKS")]
    gold: Option<String>,
    #[command(flatten)]
    vision: vision::MapArguments,
    /// Write a page of its own, too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON instead: the answer, and every word (or place) with its weight.
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match Does::of(&self.model)? {
            Does::Classify => {
                refuse(&self.for_writing(), WRITING)?;
                refuse(&self.for_both(), "other tasks than classification")?;
                refuse(&self.vision.said(), VISION)?;
                self.classified()
            }
            Does::Write => {
                refuse(&self.vision.said(), VISION)?;
                let asked = writing::ExplainRequest {
                    text: self.text()?,
                    target: self.target,
                    reading: self.reading,
                    layer: self.layer,
                    head: self.head,
                    gold: self.gold,
                    html: self.html,
                    json: self.json,
                };
                writing::explain(&self.model, &asked)
            }
            Does::See => {
                refuse(&self.for_writing(), WRITING)?;
                let asked = vision::ExplainRequest {
                    picture: PathBuf::from(self.text),
                    map: self.vision.request(self.layer, self.head),
                    out: self.vision.out,
                    html: self.html,
                    json: self.json,
                };
                vision::explain(&self.model, &asked)
            }
        }
    }

    fn for_writing(&self) -> [(&'static str, bool); 3] {
        [
            ("--target", self.target.is_some()),
            ("--reading", self.reading.is_some()),
            ("--gold", self.gold.is_some()),
        ]
    }

    fn for_both(&self) -> [(&'static str, bool); 2] {
        [
            ("--layer", self.layer.is_some()),
            ("--head", self.head.is_some()),
        ]
    }

    fn text(&self) -> anyhow::Result<String> {
        if self.text != "-" {
            return Ok(self.text.clone());
        }
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn classified(self) -> anyhow::Result<()> {
        let text = self.text()?;
        let model = TextClassifier::open(&self.model)?;
        let explanation = model.explain(&text)?;
        if let Some(path) = &self.html {
            fs::write(path, explanation_html(&explanation))
                .with_context(|| format!("cannot write {}", path.display()))?;
            tell(&format!("{} {}", heading("wrote"), path.display()));
        }
        if self.json {
            return Ok(print(&(serde_json::to_string(&explanation)? + "\n"))?);
        }
        print(&shown(&explanation, colour(), 400, 10))?;
        if !explanation.method.is_empty() {
            tell(&explanation.method);
        }
        Ok(())
    }
}

/// The answer, the text with its attention, and the `most` attended words.
pub(super) fn shown(explanation: &Explanation, colour: bool, words: usize, most: usize) -> String {
    let prediction = &explanation.prediction;
    let answer = format!(
        "{}  {:.3}",
        one_line(&prediction.label),
        prediction.probability
    );
    let mut text = format!("{}\n", heading(&answer));
    if explanation.words.is_empty() {
        return text + "  the text has no word to look at\n";
    }
    if colour {
        text += &format!("\n  {}\n\n", attended_line(explanation, words));
    }
    text += &attended_list(explanation, most);
    if prediction.truncated_tokens > 0 {
        note(&format!(
            "the last {} tokens were not read: the text is too long",
            prediction.truncated_tokens
        ));
    }
    text
}
