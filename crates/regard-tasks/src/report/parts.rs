//! What the reports of all tasks are made of.

use std::fmt::{Result, Write};

use super::curve::curves;
use super::page::{escape, thousands};
use super::{FileFacts, ModelFacts, TrainingFacts};

/// Numbers that are worth a look before anything else, each with what it is.
pub(crate) fn facts(html: &mut String, facts: &[(String, String)]) -> Result {
    html.push_str("<div class=\"facts\">\n");
    for (value, name) in facts {
        writeln!(
            html,
            "<div class=\"fact\"><b>{value}</b><span>{}</span></div>",
            escape(name)
        )?;
    }
    html.push_str("</div>\n");
    Ok(())
}

/// What the comparison says.
pub(crate) fn verdicts(html: &mut String, verdicts: &[String]) -> Result {
    html.push_str("<ul class=\"verdicts\">\n");
    for verdict in verdicts {
        writeln!(html, "<li>{}</li>", escape(verdict))?;
    }
    html.push_str("</ul>\n");
    Ok(())
}

/// The curves of the losses and of the score of that name on the validation part, which is `most` at best.
pub(crate) fn learned(
    html: &mut String,
    training: &TrainingFacts,
    score: &str,
    most: f64,
) -> Result {
    html.push_str("<h2>How it learned</h2>\n");
    let Some(drawings) = curves(&training.curve, training.best_epoch, most) else {
        html.push_str("<p class=\"quiet\">One epoch or less: there is no curve to draw.</p>\n");
        return Ok(());
    };
    let captions = [
        "<span class=\"key other\"></span>training loss &ensp; <span class=\"key\"></span>validation loss".to_owned(),
        format!("<span class=\"key\"></span>{}", escape(score)),
    ];
    html.push_str("<div class=\"curves\">\n");
    for (caption, drawing) in captions.iter().zip(drawings) {
        writeln!(
            html,
            "<figure><figcaption>{caption}</figcaption>\n{drawing}</figure>"
        )?;
    }
    html.push_str("</div>\n");
    let best = training.best_epoch;
    writeln!(
        html,
        "<p><small>Over the epochs; the line stands where the weights were kept, at epoch {best}.</small></p>"
    )
}

/// A line, or some, of the details, which are HTML already; nothing where there are none.
pub(crate) fn entry(html: &mut String, name: &str, values: &[String]) -> Result {
    if values.is_empty() {
        return Ok(());
    }
    let items: String = values
        .iter()
        .map(|value| format!("<li>{value}</li>"))
        .collect();
    writeln!(html, "<dt>{name}</dt><dd><ul>{items}</ul></dd>")
}

/// A file that was read.
pub(crate) fn file(file: &FileFacts) -> String {
    let (name, sha256) = (escape(&file.name), escape(&file.sha256));
    format!(
        "{name}, {} rows <small>SHA-256 <code>{sha256}</code></small>",
        thousands(file.rows)
    )
}

/// What learned, and how: the end of the details.
pub(crate) fn model_and_training(
    html: &mut String,
    model: &ModelFacts,
    training: &TrainingFacts,
) -> Result {
    let vocabulary = match model.vocabulary {
        0 => String::new(),
        pieces => format!(", vocabulary {}", thousands(pieces)),
    };
    let facts = format!(
        "{}, {} parameters, {:.1} MB{vocabulary}",
        escape(&model.kind),
        thousands(model.parameters),
        model.bytes as f64 / 1e6,
    );
    let parts = model
        .parts
        .iter()
        .map(|(name, count)| format!("<code>{}</code> {}", escape(name), thousands(*count)));
    let steps = format!(
        "{} steps, {} epochs, seed {}; {}",
        thousands(training.steps as usize),
        training.epochs,
        training.seed,
        escape(&training.stopped)
    );
    let notes: Vec<String> = training.notes.iter().map(|note| escape(note)).collect();
    entry(html, "model", &[facts])?;
    entry(html, "its parts", &[parts.collect::<Vec<_>>().join(" · ")])?;
    entry(html, "training", &[steps])?;
    entry(html, "decided", &notes)
}

/// 1234567 as `1.2 M`.
pub(crate) fn short(number: usize) -> String {
    match number {
        0..10_000 => thousands(number),
        10_000..1_000_000 => format!("{:.0} k", number as f64 / 1e3),
        _ => format!("{:.1} M", number as f64 / 1e6),
    }
}

/// 75 as `1 min 15 s`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
