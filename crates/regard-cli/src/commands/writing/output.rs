use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use regard_tasks::Task;
use regard_tasks::sequence_to_sequence::Writer;
use tempfile::NamedTempFile;

use crate::input::Line;
use crate::terminal::{heading, note, tell, thousands, warn};

/// Where texts are written, one line for each, and what was odd about them.
pub(crate) struct Output {
    to: To,
    json: bool,
    read: usize,
    blank: usize,
    repaired: usize,
    cut: usize,
    unfinished: usize,
    /// Texts in letters that training never saw, and what was said of the first.
    foreign: (usize, Option<String>),
}

enum To {
    Terminal(io::Stdout),
    /// Renamed to the path when all is written.
    File(io::BufWriter<NamedTempFile>, PathBuf),
}

impl Output {
    /// Standard output, or a file that is written whole or not at all.
    pub(crate) fn new(path: Option<&Path>, json: bool) -> anyhow::Result<Self> {
        let is_json = |path: &Path| {
            path.extension()
                .is_some_and(|end| end == "jsonl" || end == "ndjson" || end == "json")
        };
        let to = match path {
            None => To::Terminal(io::stdout()),
            Some(path) => {
                let folder = path
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty())
                    .unwrap_or(Path::new("."));
                let file = NamedTempFile::new_in(folder)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                To::File(io::BufWriter::new(file), path.to_owned())
            }
        };
        Ok(Self {
            json: json || path.is_some_and(is_json),
            to,
            read: 0,
            blank: 0,
            repaired: 0,
            cut: 0,
            unfinished: 0,
            foreign: (0, None),
        })
    }

    /// The text of a line that was read.
    pub(crate) fn take(&mut self, line: Line) -> String {
        self.read += 1;
        self.repaired += usize::from(line.repaired);
        line.text
    }

    /// One line for each text, in order; an empty one (`null` in JSON) for a text of nothing.
    pub(crate) fn write(&mut self, model: &Writer, texts: &[String]) -> anyhow::Result<()> {
        let asked: Vec<String> = texts
            .iter()
            .filter(|text| !text.trim().is_empty())
            .cloned()
            .collect();
        for text in &asked {
            if let Some(what) = model.unseen_letters(text) {
                self.foreign.0 += 1;
                self.foreign.1.get_or_insert(what);
            }
        }
        let mut answers = model.run(&asked)?.into_iter();
        for text in texts {
            let answer = match text.trim().is_empty() {
                true => None,
                false => answers.next(),
            };
            match &answer {
                None => self.blank += 1,
                Some(answer) => {
                    self.cut += usize::from(answer.cut_source_pieces > 0);
                    self.unfinished += usize::from(answer.cut);
                }
            }
            let line = match (self.json, &answer) {
                (true, answer) => serde_json::to_string(answer)?,
                (false, None) => String::new(),
                (false, Some(answer)) => {
                    let texts: Vec<&str> = answer
                        .alternatives
                        .iter()
                        .map(|one| one.text.as_str())
                        .collect();
                    texts.join("\t")
                }
            };
            match &mut self.to {
                To::Terminal(out) => writeln!(out, "{line}")?,
                To::File(out, _) => writeln!(out, "{line}")?,
            }
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Terminal(out) => out.flush(),
            To::File(out, _) => out.flush(),
        }
    }

    /// Puts the file in its place and says what was odd.
    pub(crate) fn conclude(mut self) -> anyhow::Result<()> {
        self.flush()?;
        if let To::File(out, path) = self.to {
            let failed = || format!("cannot write {}", path.display());
            let file = out
                .into_inner()
                .map_err(io::IntoInnerError::into_error)
                .with_context(failed)?;
            let _: File = file
                .persist(&path)
                .map_err(|error| error.error)
                .with_context(failed)?;
            tell(&format!("{} {}", heading("wrote"), path.display()));
        }
        let count = |count: usize, one: &str| {
            (count > 0).then(|| format!("{} texts {one}", thousands(count)))
        };
        if let Some(text) = count(
            self.repaired,
            "were not UTF-8: their wrong bytes are read as U+FFFD",
        ) {
            warn(&text);
        }
        match self.foreign {
            (1, Some(what)) => warn(&what),
            (count, Some(what)) => warn(&format!(
                "{} texts are of letters that training never saw; of the first, {what}",
                thousands(count)
            )),
            _ => {}
        }
        let notes = [
            count(self.blank, "were empty and not shown to the model"),
            count(self.cut, "are longer than the model reads and were cut"),
            count(
                self.unfinished,
                "were ended by the bound on their length (--max-length)",
            ),
        ];
        notes.into_iter().flatten().for_each(|text| note(&text));
        Ok(())
    }
}
