//! The report as prose: the `README.md` of a model folder.

use std::fmt::Write;

use super::Report;
use super::page::inputs;
use crate::metrics::Interval;

/// What a person who finds the folder should know about the model, in Markdown.
pub fn readme(report: &Report) -> String {
    // Writing to a string cannot fail.
    let mut text = String::new();
    let _ = write(&mut text, report);
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    let (data, model, training) = (&report.data, &report.model, &report.training);
    writeln!(text, "# A model for {}\n", report.task.replace('-', " "))?;
    writeln!(text, "Trained with Regard. Ask it:\n")?;
    let example = match inputs(report) {
        "pictures" => "picture.jpg",
        _ => "\"a text\"",
    };
    writeln!(
        text,
        "```\nregard predict . {example}\nregard explain . {example}\n```\n"
    )?;
    writeln!(text, "## How good it is\n")?;
    writeln!(
        text,
        "Scored on {}. In brackets: bootstrap 95 % intervals.\n",
        cell(&report.scored_on)
    )?;
    writeln!(
        text,
        "| | accuracy | macro-F1 | the model minus it |\n|---|---|---|---|"
    )?;
    let scores = &report.scores;
    writeln!(
        text,
        "| **this model ({})** | **{}** | {} | |",
        cell(&model.kind),
        interval(&scores.accuracy),
        interval(&scores.macro_f1)
    )?;
    for rival in &report.rivals {
        let by = &rival.difference;
        writeln!(
            text,
            "| {} | {} | {} | {:+.3} [{:+.3}, {:+.3}] |",
            cell(&rival.name),
            interval(&rival.accuracy),
            interval(&rival.macro_f1),
            by.value,
            by.low,
            by.high
        )?;
    }
    writeln!(text)?;
    for verdict in &report.verdicts {
        writeln!(text, "- {}", cell(verdict))?;
    }
    writeln!(
        text,
        "\n| class | precision | recall | F1 | rows |\n|---|---|---|---|---|"
    )?;
    for class in &scores.classes {
        writeln!(
            text,
            "| {} | {:.3} | {:.3} | {:.3} | {} |",
            cell(&class.label),
            class.precision,
            class.recall,
            class.f1,
            class.support
        )?;
    }
    writeln!(text, "\n## What it learned from\n")?;
    for file in &data.files {
        writeln!(
            text,
            "- `{}`: {} rows, SHA-256 `{}`",
            code(&file.name),
            file.rows,
            code(&file.sha256)
        )?;
    }
    writeln!(
        text,
        "- {} in the column `{}`, labels in `{}`{}",
        inputs(report),
        code(&data.text_column),
        code(&data.label_column),
        data.group_column
            .as_ref()
            .map(|group| format!(", groups in `{}` kept together", code(group)))
            .unwrap_or_default()
    )?;
    let scored = if data.test_rows == 0 {
        "scored on the validation rows".to_owned()
    } else {
        format!("{} rows to score on", data.test_rows)
    };
    writeln!(
        text,
        "- {} rows to learn from, {} to stop early on, {scored}",
        data.train_rows, data.validation_rows
    )?;
    for skipped in &data.skipped {
        writeln!(text, "- left out: {}", cell(skipped))?;
    }
    if data.truncated_texts > 0 {
        writeln!(
            text,
            "- {} texts are longer than the model reads and were cut",
            data.truncated_texts
        )?;
    }
    writeln!(text, "\n## How it was trained\n")?;
    writeln!(
        text,
        "- a {} model of {} parameters ({} bytes){}",
        cell(&model.kind),
        model.parameters,
        model.bytes,
        match model.vocabulary {
            0 => String::new(),
            pieces => format!(", vocabulary {pieces}"),
        }
    )?;
    writeln!(
        text,
        "- {} steps, {:.1} epochs, {:.0} s, seed {}; the weights of epoch {} were kept; {}",
        training.steps,
        training.epochs,
        training.seconds,
        training.seed,
        training.best_epoch,
        cell(&training.stopped)
    )?;
    for note in &training.notes {
        writeln!(text, "- {}", cell(note))?;
    }
    Ok(())
}

fn interval(score: &Interval) -> String {
    format!("{:.3} [{:.3}, {:.3}]", score.value, score.low, score.high)
}

/// Text of the user as Markdown that says just that: on one line, with nothing that formats or links.
fn cell(text: &str) -> String {
    let mut cell = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '<' | '>' | '#' | '|' | '&' => {
                cell.extend(['\\', character])
            }
            _ if character.is_control() || character.is_whitespace() => cell.push(' '),
            _ => cell.push(character),
        }
    }
    cell
}

/// Text of the user inside backticks.
fn code(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character == '`' || character == '|' || character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect()
}
