use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use regard_tasks::Task;
use regard_tasks::sequence_to_sequence::{
    self, Alignment, AttentionPart, Kind, Writer, alignment_error_rate, parse_pharaoh,
};

use super::warn_of_unseen_letters;
use crate::failure::Usage;
use crate::terminal::{
    Table, heading, note, one_line, print, shorten, tell, thousands, visible, width,
};

/// Which position speaks for a written word.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Reading {
    /// The attention that chose the word
    Output,
    /// The attention after the word was chosen
    Input,
}

/// What `regard explain` is asked for.
pub(crate) struct ExplainRequest {
    pub(crate) text: String,
    pub(crate) target: Option<String>,
    pub(crate) reading: Option<Reading>,
    pub(crate) layer: Option<usize>,
    pub(crate) head: Option<usize>,
    pub(crate) gold: Option<String>,
    pub(crate) html: Option<PathBuf>,
    pub(crate) json: bool,
}

/// Shows which source words were looked at for each written word.
pub(crate) fn explain(folder: &Path, asked: &ExplainRequest) -> anyhow::Result<()> {
    let gold = asked.gold.as_deref().map(parse_pharaoh).transpose();
    let gold = gold.map_err(|part| {
        Usage::new(format!("--gold: `{part}` is no link")).help(
            "links are written `0-0 1-2`: number of the source word, number of the target word",
        )
    })?;
    let model = Writer::open(folder)?;
    warn_of_unseen_letters(&model, &asked.text);
    let reading = match asked.reading {
        None | Some(Reading::Output) => sequence_to_sequence::Reading::Output,
        Some(Reading::Input) => sequence_to_sequence::Reading::Input,
    };
    let part = AttentionPart {
        reading,
        layer: asked.layer,
        head: asked.head,
    };
    let alignment = model.explain(&asked.text, asked.target.as_deref(), &part)?;
    let error_rate = gold.map(|gold| alignment_error_rate(&alignment.links, &gold));
    if alignment.cut_source_pieces > 0 {
        let cut = thousands(alignment.cut_source_pieces);
        note(&format!(
            "the text is longer than the model reads: its last {cut} pieces were not looked at"
        ));
    }
    if let Some(path) = &asked.html {
        let page = match model.kind() {
            Kind::Translation => alignment.html(),
            Kind::Summarization => alignment.tracing_html(),
        };
        fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
        tell(&format!("{} {}", heading("wrote"), path.display()));
    }
    if asked.json {
        let mut answer = serde_json::to_value(&alignment)?;
        answer["pharaoh"] = alignment.pharaoh().into();
        if let Some(rate) = error_rate {
            answer["alignment_error_rate"] = rate.into();
        }
        return Ok(print(&(answer.to_string() + "\n"))?);
    }
    let mut text = match model.kind() {
        Kind::Translation => shown(&alignment),
        Kind::Summarization => traced(&alignment),
    };
    let likely = alignment.log_probability;
    text += &format!("  log probability {likely:.3}\n");
    if let Some(rate) = error_rate {
        text += &format!("  alignment error rate {rate:.3}\n");
    }
    print(&text)?;
    tell(&alignment.method);
    Ok(())
}

/// What was written, the matrix, and its links.
pub(crate) fn shown(alignment: &Alignment) -> String {
    format!(
        "{}\n\n{}\n  {}\n",
        heading(&one_line(&alignment.target)),
        matrix(alignment),
        alignment.pharaoh()
    )
}

/// What was written, and which words of the text each of its words came from.
pub(crate) fn traced(alignment: &Alignment) -> String {
    let mut names = vec!["word", "came from", ">share"];
    names.extend(alignment.copied.as_ref().map(|_| ">copied"));
    names.push("");
    let mut table = Table::new(names);
    for (at, (word, trace)) in alignment
        .target_words
        .iter()
        .zip(&alignment.traces)
        .enumerate()
    {
        let word = shorten(&one_line(&word.text), WORD).into_owned();
        let (span, share, said) = match trace {
            None => (String::new(), String::new(), "looked at no word"),
            Some(trace) => {
                let span = one_line(&alignment.source[trace.start..trace.end]);
                let span = shorten(&span, SPAN).into_owned();
                (span, format!("{:.2}", trace.weight), trace.origin.said())
            }
        };
        let mut row = vec![word, span, share];
        row.extend(
            alignment
                .copied
                .as_ref()
                .map(|copied| format!("{:.2}", copied[at])),
        );
        row.push(said.to_owned());
        table.row(row);
    }
    format!(
        "{}\n\n{}",
        heading(&one_line(&alignment.target)),
        table.render()
    )
}

/// Columns of a word at most.
const WORD: usize = 18;
/// Columns of a span of the source at most.
const SPAN: usize = 40;
/// Source words of a matrix at most: more would not fit a terminal.
const COLUMNS: usize = 24;

/// A row for each written word: its strongest source words, and a cell for each source word, the fuller the more weight.
fn matrix(alignment: &Alignment) -> String {
    const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];
    let plain = |text: &str| -> String { text.chars().map(visible).collect() };
    let words: Vec<String> = alignment
        .target_words
        .iter()
        .map(|word| shorten(&plain(&word.text), WORD).into_owned())
        .collect();
    let widest = words.iter().map(|word| width(word)).max().unwrap_or(0);
    let shown = alignment.source_words.len().min(COLUMNS);
    let mut text = String::new();
    for (word, row) in words.iter().zip(&alignment.weights) {
        let cells: String = row[..shown]
            .iter()
            .map(|weight| SHADES[((weight * 5.0) as usize).min(4)])
            .collect();
        let mut ranked: Vec<usize> = (0..row.len()).collect();
        ranked.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        let strongest: Vec<String> = ranked
            .iter()
            .take(3)
            .filter(|at| row[**at] >= 0.05)
            .map(|at| {
                let source = plain(&alignment.source_words[*at].text);
                format!("{} {:.2}", shorten(&source, WORD), row[*at])
            })
            .collect();
        let blanks = " ".repeat(widest - width(word));
        text += &format!("  {word}{blanks}  {cells}  {}\n", strongest.join("  "));
    }
    if shown < alignment.source_words.len() {
        let left = alignment.source_words.len() - shown;
        text += &format!("  ({left} more source words; --html shows all)\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use regard_tasks::sequence_to_sequence::Word;

    #[test]
    fn the_matrix_lines_up_in_every_script() {
        let word = |text: &str| Word {
            text: text.to_owned(),
            start: 0,
            end: text.len(),
        };
        let alignment = Alignment {
            source: "web browser".to_owned(),
            target: "网页浏览器".to_owned(),
            source_words: vec![word("web"), word("browser")],
            target_words: vec![word("网"), word("مرحبا"), word("😀x")],
            weights: vec![vec![0.9, 0.1], vec![0.02, 0.5], vec![0.3, 0.7]],
            links: vec![(0, 0), (1, 1), (1, 2)],
            traces: vec![None; 3],
            copied: None,
            cut_source_pieces: 0,
            log_probability: -1.0,
            reading: sequence_to_sequence::Reading::Output,
            method: String::new(),
        };
        let rows: Vec<String> = matrix(&alignment).lines().map(str::to_owned).collect();
        assert_eq!(rows[0], "  网     █·  web 0.90  browser 0.10");
        assert_eq!(rows[2], "  😀x    ░▓  browser 0.70  web 0.30");
        assert_eq!(rows[1], "  مرحبا  ·▒  browser 0.50");
    }
}
