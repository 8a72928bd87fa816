use std::path::PathBuf;

use clap::{Args, ValueEnum};
use regard_tasks::tables::Table as Lines;
use regard_tasks::text_metrics::{Bleu, BleuTokenizer, Chrf, CorpusScore, Rouge, Statistics};

use crate::failure::Usage;
use crate::terminal::{Table, heading, print};

/// Score two outputs for the same texts against a reference, and say whether they can be told apart.
///
/// All are text files, a text a line. The difference is resampled with the same lines for both (a paired bootstrap), so
/// that what is hard for both cancels out.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  regard predict model-a --input test.en > a.it\n  regard predict model-b --input test.en > b.it\n  \
                        regard compare a.it b.it --reference test.it"
)]
pub(crate) struct Compare {
    /// One output.
    a: PathBuf,
    /// The other.
    b: PathBuf,
    /// What both should have been.
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// How BLEU cuts texts into words.
    #[arg(long, value_enum, value_name = "TOKENIZER", default_value = "13a")]
    tokenizer: Tokenizer,
    /// Seed of the resamples.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tokenizer {
    /// For languages with blanks between words
    #[value(name = "13a")]
    V13a,
    /// Marks and symbols of all scripts stand alone
    Intl,
    /// Every Chinese character stands alone
    Zh,
    /// Every character stands alone
    Char,
}

impl Compare {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (reference, _) = Lines::lines_of(&self.reference)?;
        let (a, _) = Lines::lines_of(&self.a)?;
        let (b, _) = Lines::lines_of(&self.b)?;
        for (path, lines) in [(&self.a, &a), (&self.b, &b)] {
            if lines.len() != reference.len() {
                return Err(Usage::new(format!(
                    "{}: {} lines, {} has {}",
                    path.display(),
                    lines.len(),
                    self.reference.display(),
                    reference.len()
                ))
                .into());
            }
        }
        let tokenizer = match self.tokenizer {
            Tokenizer::V13a => BleuTokenizer::V13a,
            Tokenizer::Intl => BleuTokenizer::Intl,
            Tokenizer::Zh => BleuTokenizer::Zh,
            Tokenizer::Char => BleuTokenizer::Char,
        };
        let metrics: [(&str, &dyn CorpusScore); 6] = [
            ("BLEU", &Bleu { tokenizer }),
            ("chrF", &Chrf { words: 0 }),
            ("chrF++", &Chrf { words: 2 }),
            ("ROUGE-1", &Rouge::runs(1, true)),
            ("ROUGE-2", &Rouge::runs(2, true)),
            ("ROUGE-L", &Rouge::longest(true)),
        ];
        let mut table = Table::new(["", ">first", ">second", ">difference", "95 % interval", ""]);
        let mut answers = Vec::new();
        for (name, metric) in metrics {
            let [a, b] = [&a, &b].map(|texts| Statistics::new(metric, texts, &reference));
            let difference = a.difference(&b, metric, self.seed);
            let verdict = match (difference.low > 0.0, difference.high < 0.0) {
                (true, _) => "the first is better",
                (_, true) => "the second is better",
                _ => "cannot be told apart",
            };
            let [first, second] = [&a, &b].map(|counts| counts.score(metric));
            table.row([
                name.to_owned(),
                format!("{first:.2}"),
                format!("{second:.2}"),
                format!("{:+.2}", difference.value),
                format!("{:+.2} to {:+.2}", difference.low, difference.high),
                verdict.to_owned(),
            ]);
            answers.push(serde_json::json!({
                "name": name, "first": first, "second": second, "difference": difference,
                "verdict": verdict, "signature": metric.signature(),
            }));
        }
        if self.json {
            return Ok(print(&(serde_json::to_string(&answers)? + "\n"))?);
        }
        let mut text = format!("{}\n", heading(&format!("{} lines", reference.len())));
        text += &table.render();
        Ok(print(&text)?)
    }
}
