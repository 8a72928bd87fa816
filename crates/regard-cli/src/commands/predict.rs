use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::Context;
use clap::Args;
use regard_tasks::Task;
use regard_tasks::tables::Table;
use regard_tasks::text_classification::{Prediction, TextClassifier};
use tempfile::NamedTempFile;

use super::writing::{self, WritingArguments};
use super::{Does, WRITING, refuse, vision};
use crate::failure::Usage;
use crate::input::{Line, next_line};
use crate::terminal::{Counter, heading, note, one_line, tell, thousands, warn};

/// Texts that are answered together when many are waiting.
const TOGETHER: usize = 256;

/// Label, translate or summarize texts, or name what is on pictures: from the command line, from standard input line by
/// line, or from a file to a file.
///
/// For pictures the texts are names of files, and a line is the name, the label and its probability.
///
/// Every text gets exactly one line: the label, a tab and its probability; or what the model writes, with --n-best the
/// alternatives behind it, parted by tabs. A line of nothing but white space is not
/// shown to the model and gets an empty line (`null` in JSON). Bytes that are not UTF-8 are read as U+FFFD. Both are
/// counted on standard error.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  regard predict model \"You have won a prize\"\n  \
                        tail -f mails.txt | regard predict model\n  \
                        regard predict model --input mails.csv --column body --output labelled.csv\n  \
                        regard predict model cat.jpg *.png"
)]
pub(crate) struct Predict {
    /// The model folder.
    model: PathBuf,
    /// Texts, or files of pictures; none or `-` reads standard input, one a line.
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// Read the texts of a file: a table (CSV, TSV, JSON lines, Parquet), or a text a line.
    #[arg(long, value_name = "FILE", conflicts_with = "texts")]
    input: Option<PathBuf>,
    /// Column of the texts in a table [default: the one the model was trained on].
    #[arg(long, value_name = "NAME", requires = "input")]
    column: Option<String>,
    /// Write to a file, whole or not at all: `.csv` with a header and the texts, `.jsonl` as --json, or lines.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    writing: WritingArguments,
    /// Print a JSON object a line, with every label's probability, or every alternative.
    #[arg(long)]
    json: bool,
    /// The N most probable labels of each text [default: 1, with --json all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    top: Option<u16>,
}

impl Predict {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match Does::of(&self.model)? {
            Does::Write => {
                refuse(&[("--top", self.top.is_some())], "classification")?;
                self.write_texts()
            }
            Does::Classify => {
                refuse(&self.writing.said(), WRITING)?;
                self.classify()
            }
            Does::See => {
                refuse(&self.writing.said(), WRITING)?;
                let tables = [
                    ("--input", self.input.is_some()),
                    ("--output", self.output.is_some()),
                ];
                refuse(&tables, "texts")?;
                let top = self.top.map(usize::from);
                vision::predict(&self.model, self.texts, self.json, top)
            }
        }
    }

    fn classify(&self) -> anyhow::Result<()> {
        let model = TextClassifier::open(&self.model)?;
        let format = Format::of(self.json, self.output.as_deref());
        let top = self.top.map(usize::from);
        match &self.output {
            None => self.answer(&model, &mut Answers::new(io::stdout().lock(), format, top)?),
            Some(path) => {
                let failed = || format!("cannot write {}", path.display());
                let folder = path
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty())
                    .unwrap_or(Path::new("."));
                let file = NamedTempFile::new_in(folder).with_context(failed)?;
                let mut answers = Answers::new(io::BufWriter::new(file), format, top)?;
                self.answer(&model, &mut answers)?;
                let file = answers
                    .out
                    .into_inner()
                    .map_err(io::IntoInnerError::into_error)
                    .with_context(failed)?;
                file.persist(path)
                    .map_err(|error| error.error)
                    .with_context(failed)?;
                tell(&format!("{} {}", heading("wrote"), path.display()));
                Ok(())
            }
        }
    }

    /// As [`answer`](Self::answer) for a model that writes.
    fn write_texts(&self) -> anyhow::Result<()> {
        let model = writing::open(&self.model, &self.writing)?;
        let mut out = writing::Output::new(self.output.as_deref(), self.json)?;
        if let Some(path) = &self.input {
            let lines = self.lines_or_column(path, model.source_column())?;
            let mut counter = Counter::new(lines.len());
            for texts in lines.chunks(TOGETHER) {
                let texts: Vec<String> = texts.iter().map(|line| line.text.clone()).collect();
                out.write(&model, &texts)?;
                counter.add(texts.len());
            }
            counter.finish();
        } else if self.texts.is_empty() || self.texts == ["-"] {
            if io::stdin().is_terminal() {
                tell("a text a line; Ctrl-D ends");
            }
            let lines = lines_of_standard_input();
            while let Ok(first) = lines.recv() {
                let mut texts = vec![out.take(first?)];
                while texts.len() < TOGETHER {
                    let Ok(line) = lines.try_recv() else { break };
                    texts.push(out.take(line?));
                }
                out.write(&model, &texts)?;
                out.flush()?;
            }
        } else {
            out.write(&model, &self.texts)?;
        }
        out.conclude()
    }

    fn answer<W: Write>(
        &self,
        model: &TextClassifier,
        answers: &mut Answers<W>,
    ) -> anyhow::Result<()> {
        if let Some(path) = &self.input {
            let texts = self.texts_of(path, model, answers)?;
            let mut counter = Counter::new(texts.len());
            for texts in texts.chunks(TOGETHER) {
                answers.write(model, texts)?;
                counter.add(texts.len());
            }
            answers.out.flush()?;
            counter.finish();
        } else if self.texts.is_empty() || self.texts == ["-"] {
            if io::stdin().is_terminal() {
                tell("a text a line; Ctrl-D ends");
            }
            let lines = lines_of_standard_input();
            while let Some(texts) = waiting(&lines, answers)? {
                answers.write(model, &texts)?;
                // Whoever types, or follows a log, sees each answer at once.
                answers.out.flush()?;
            }
        } else {
            answers.write(model, &self.texts)?;
            answers.out.flush()?;
        }
        answers.conclude();
        Ok(())
    }

    fn texts_of<W>(
        &self,
        path: &Path,
        model: &TextClassifier,
        answers: &mut Answers<W>,
    ) -> anyhow::Result<Vec<String>> {
        let trained_on = &model.report().data.text_column;
        let lines = self.lines_or_column(path, trained_on)?;
        Ok(lines.into_iter().map(|line| answers.take(line)).collect())
    }

    /// The lines of a text file, or a column of a table: the one that was asked for, or that of training.
    fn lines_or_column(&self, path: &Path, trained_on: &str) -> anyhow::Result<Vec<Line>> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let is_table = [".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet"]
            .iter()
            .any(|end| name.ends_with(end));
        if !is_table {
            if let Some(column) = &self.column {
                let path = path.display();
                return Err(Usage::new(format!(
                    "--column {column}: {path} is read line by line, it has no columns"
                ))
                .help("tables end in .csv, .tsv, .jsonl or .parquet")
                .into());
            }
            let mut file = BufReader::new(
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?,
            );
            let mut texts = Vec::new();
            while let Some(line) = next_line(&mut file, texts.is_empty())? {
                texts.push(line);
            }
            return Ok(texts);
        }
        let table = Table::read(path)?;
        let column = match &self.column {
            Some(column) => column,
            None => {
                if !table.names().contains(&trained_on) {
                    note(
                        "the model was trained on another column; --column NAME says which one holds the texts here",
                    );
                }
                trained_on
            }
        };
        Ok(table
            .column(column)?
            .into_iter()
            .map(|text| Line {
                text: text.unwrap_or_default(),
                repaired: false,
            })
            .collect())
    }
}

/// Reads standard input on a thread of its own, so that what is waiting can be answered together.
fn lines_of_standard_input() -> Receiver<io::Result<Line>> {
    let (send, receive) = mpsc::sync_channel(4 * TOGETHER);
    thread::spawn(move || {
        let mut input = BufReader::new(io::stdin());
        let mut first = true;
        while let Some(line) = next_line(&mut input, first).transpose() {
            first = false;
            let failed = line.is_err();
            if send.send(line).is_err() || failed {
                break;
            }
        }
    });
    receive
}

/// The next line and those that wait behind it; `None` at the end.
fn waiting<W>(
    lines: &Receiver<io::Result<Line>>,
    answers: &mut Answers<W>,
) -> anyhow::Result<Option<Vec<String>>> {
    let Ok(first) = lines.recv() else {
        return Ok(None);
    };
    let mut texts = vec![answers.take(first?)];
    while texts.len() < TOGETHER {
        let Ok(line) = lines.try_recv() else {
            break;
        };
        texts.push(answers.take(line?));
    }
    Ok(Some(texts))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Lines,
    Json,
    Csv,
}

impl Format {
    fn of(json: bool, output: Option<&Path>) -> Self {
        let extension = output
            .and_then(Path::extension)
            .map(|extension| extension.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            _ if json => Self::Json,
            Some("jsonl" | "ndjson" | "json") => Self::Json,
            Some("csv") => Self::Csv,
            _ => Self::Lines,
        }
    }
}

/// Writes the answers, and counts what was odd about the texts.
struct Answers<W> {
    out: W,
    format: Format,
    top: Option<usize>,
    read: usize,
    blank: usize,
    repaired: usize,
    cut: usize,
}

impl<W> Answers<W> {
    /// The text of a line that was read.
    fn take(&mut self, line: Line) -> String {
        self.read += 1;
        if line.repaired {
            self.repaired += 1;
            if self.repaired == 1 {
                warn(&format!(
                    "line {} is not UTF-8: its wrong bytes are read as U+FFFD",
                    thousands(self.read)
                ));
            }
        }
        line.text
    }

    fn conclude(&self) {
        if self.repaired > 1 {
            warn(&format!(
                "{} lines were not UTF-8",
                thousands(self.repaired)
            ));
        }
        if self.blank > 0 {
            note(&format!(
                "{} empty texts were not shown to the model",
                thousands(self.blank)
            ));
        }
        if self.cut > 0 {
            note(&format!(
                "{} texts are longer than the model reads and were cut",
                thousands(self.cut)
            ));
        }
    }
}

impl<W: Write> Answers<W> {
    fn new(mut out: W, format: Format, top: Option<usize>) -> io::Result<Self> {
        if format == Format::Csv {
            let more =
                (2..=top.unwrap_or(1)).map(|rank| format!(",label_{rank},probability_{rank}"));
            writeln!(out, "text,label,probability{}", more.collect::<String>())?;
        }
        Ok(Self {
            out,
            format,
            top,
            read: 0,
            blank: 0,
            repaired: 0,
            cut: 0,
        })
    }

    /// One line for each text, in order.
    fn write(&mut self, model: &TextClassifier, texts: &[String]) -> anyhow::Result<()> {
        let asked: Vec<String> = texts
            .iter()
            .filter(|text| !text.trim().is_empty())
            .cloned()
            .collect();
        let mut predictions = model.run(&asked)?.into_iter();
        for text in texts {
            let prediction = if text.trim().is_empty() {
                None
            } else {
                predictions.next()
            };
            match &prediction {
                Some(prediction) => self.cut += usize::from(prediction.truncated_tokens > 0),
                None => self.blank += 1,
            }
            let line = self.line(text, prediction)?;
            writeln!(self.out, "{line}")?;
        }
        Ok(())
    }

    fn line(&self, text: &str, prediction: Option<Prediction>) -> anyhow::Result<String> {
        if self.format == Format::Json {
            let shortened = prediction.map(|mut prediction| {
                prediction
                    .probabilities
                    .truncate(self.top.unwrap_or(usize::MAX));
                prediction
            });
            return Ok(serde_json::to_string(&shortened)?);
        }
        let probabilities = prediction
            .map(|prediction| prediction.probabilities)
            .unwrap_or_default();
        let best = probabilities.iter().take(self.top.unwrap_or(1));
        Ok(match self.format {
            Format::Csv => {
                let cells =
                    best.flat_map(|one| [cell(&one.label), format!("{:.6}", one.probability)]);
                let mut cells: Vec<String> = [cell(text)].into_iter().chain(cells).collect();
                cells.resize(1 + 2 * self.top.unwrap_or(1), String::new());
                cells.join(",")
            }
            _ => {
                let cells =
                    best.flat_map(|one| [one_line(&one.label), format!("{:.6}", one.probability)]);
                cells.collect::<Vec<_>>().join("\t")
            }
        })
    }
}

/// A cell of a CSV file (RFC 4180).
fn cell(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}
